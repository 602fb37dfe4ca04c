from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Optional

import psutil
import pytest
import torch

from attention_studio.core import model_manager as module
from attention_studio.core.loaded_model import find_start_token, hash_tensors
from attention_studio.core.model_families import UnsupportedModelError
from attention_studio.core.model_manager import (
    DeviceError,
    EmptyPromptError,
    LayerInfo,
    ModelConfig,
    ModelFileError,
    ModelManager,
    ModelMemoryError,
    ModelReleasedError,
    PromptTooLongError,
    RemoteCodeError,
)
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.progress import WorkContext
from tests.hub_server import serve_hub
from tests.tiny import FAMILIES, PROMPT, tiny_folder, tiny_loaded, tiny_model, tiny_tokenizer


def settings_for(folder: Path, **values: Any) -> Settings:
    options = {"cache_dir": folder / "cache", "offline": True, "threads": 1, **values}
    return Settings(_env_file=None, hf_token=None, **options)  # type: ignore[call-arg]


def manager_for(folder: Path, **values: Any) -> ModelManager:
    return ModelManager(settings=settings_for(folder, **values))


@pytest.fixture
def manager(tmp_path: Path) -> ModelManager:
    return manager_for(tmp_path, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "model", "llama")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_agrees_with_the_original(
    family: str, manager: ModelManager, tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / family, family)
    loaded = manager.load_model_sync(folder)
    assert manager.current is loaded
    assert loaded.info.family == family
    assert loaded.info.name == family
    assert loaded.info.source == str(folder)
    ids = torch.tensor([loaded.encode(PROMPT)])
    original = tiny_model(family)
    # Some versions of transformers drop Gemma 2's cap in their other attention.
    original.set_attn_implementation("eager")
    expected = original(input_ids=ids).logits
    torch.testing.assert_close(loaded.adapter.logits(ids), expected, rtol=1e-4, atol=1e-5)
    infos = manager.get_layer_info()
    assert isinstance(infos, list)
    assert len(infos) == loaded.info.n_layers
    inside = sum(info.n_parameters for info in infos)
    assert 0 < inside < loaded.info.n_parameters
    for info in infos:
        assert info.attention_parameters + info.mlp_parameters <= info.n_parameters
        assert info.attention.startswith("4 heads")
    assert loaded.info.memory_bytes >= 4 * loaded.info.n_parameters


def test_facts_and_hash(manager: ModelManager, folder: Path) -> None:
    info = manager.load_model_sync(str(folder)).info
    weights = (folder / "model.safetensors").read_bytes()
    assert info.weights_hash == hashlib.sha256(weights).hexdigest()
    assert (info.n_layers, info.d_model, info.n_heads, info.n_kv_heads) == (3, 32, 4, 2)
    assert (info.d_mlp, info.d_head, info.context_length) == (48, 8, 64)
    assert (info.dtype, info.device, info.start_token) == ("float32", "cpu", "<|endoftext|>")
    layer = manager.get_layer_info(1)
    assert isinstance(layer, LayerInfo)
    assert layer.attention == "4 heads, 2 key/value, rotary"
    assert layer.mlp == "gated silu, 48"
    with pytest.raises(StudioError, match="no layer 3"):
        manager.get_layer_info(3)


def test_hash_is_remembered_and_notices_changes(manager: ModelManager, folder: Path) -> None:
    first = manager.load_model_sync(folder).info.weights_hash
    remembered = manager.cache_dir / "weight-hashes.json"
    assert first in remembered.read_text()
    remembered.write_text(remembered.read_text().replace(first, "f" * 64))
    assert manager.load_model_sync(folder).info.weights_hash == "f" * 64
    tiny_model("llama", seed=1).save_pretrained(folder)
    second = manager.load_model_sync(folder).info.weights_hash
    assert second not in (first, "f" * 64)
    remembered.write_text("{broken")
    assert manager.load_model_sync(folder).info.weights_hash == second


@pytest.mark.asyncio
async def test_load_in_a_coroutine(manager: ModelManager, folder: Path) -> None:
    loaded = await manager.load_model(folder)
    assert loaded.next_tokens(PROMPT).tokens[1] == "the"


@pytest.mark.asyncio
async def test_cancelled_coroutine_stops_the_work(manager: ModelManager, folder: Path) -> None:
    ctx = WorkContext()
    reached, go_on = threading.Event(), threading.Event()

    def wait_here(done: float, total: Optional[float], text: str = "") -> None:
        reached.set()
        go_on.wait(10)

    ctx.progress = wait_here  # type: ignore[method-assign]
    task = asyncio.create_task(manager.load_model(folder, ctx))
    await asyncio.to_thread(reached.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ctx.cancelled
    go_on.set()


def test_sharded_folder(manager: ModelManager, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "one", "llama")
    model = tiny_model("llama")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    info = manager.load_model_sync(folder).info
    content = b"".join(path.read_bytes() for path in shards)
    assert info.weights_hash == hashlib.sha256(content).hexdigest()
    assert info.n_parameters == sum(p.numel() for p in model.parameters())
    shards[0].unlink()
    with pytest.raises(ModelFileError, match=shards[0].name):
        manager.load_model_sync(folder)


def test_dtype_and_settings(folder: Path, tmp_path: Path) -> None:
    manager = manager_for(tmp_path, dtype="bfloat16", device="cpu")
    assert manager.load_model_sync(folder).info.dtype == "bfloat16"
    wanted = ModelConfig("m", path=folder, dtype="float32")
    assert manager.load_model_sync(wanted).info.dtype == "float32"
    assert torch.get_default_dtype() is torch.float32
    with pytest.raises(DeviceError):
        manager.load_model_sync(ModelConfig("m", path=folder, device="cuda:77"))
    with pytest.raises(DeviceError, match="int3"):
        manager.load_model_sync(ModelConfig("m", path=folder, dtype="int3"))


# ---- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"model_type": 3}'])
def test_corrupt_config(content: bytes, manager: ModelManager, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        manager.load_model_sync(folder)
    assert manager.current is None


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 48},
        {"num_hidden_layers": 5},
        {"num_attention_heads": 0},
        {"vocab_size": 7},
        {"hidden_act": "nonsense"},
    ],
)
def test_config_that_contradicts_the_weights(
    changes: dict[str, Any], manager: ModelManager, folder: Path
) -> None:
    change_config(folder, **changes)
    with pytest.raises(ModelFileError):
        manager.load_model_sync(folder)
    assert manager.current is None


@pytest.mark.parametrize("damage", ["truncated", "no header", "empty", "missing"])
def test_corrupt_weights(damage: str, manager: ModelManager, folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        broken = {"truncated": content[:-100], "no header": b"\xff" * 64, "empty": b""}
        path.write_bytes(broken[damage])
    with pytest.raises(ModelFileError):
        manager.load_model_sync(folder)


def test_pickled_weights_are_refused(manager: ModelManager, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="pickle"):
        manager.load_model_sync(folder)


def test_index_that_points_outside(manager: ModelManager, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"x": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="outside"):
        manager.load_model_sync(folder)


def test_missing_tokenizer(manager: ModelManager, folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelFileError):
        manager.load_model_sync(folder)


def test_damaged_model_leaves_the_present_one_alone(manager: ModelManager, tmp_path: Path) -> None:
    good = manager.load_model_sync(tiny_folder(tmp_path / "good", "llama"))
    bad = tiny_folder(tmp_path / "bad", "llama")
    (bad / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFileError):
        manager.load_model_sync(bad)
    assert manager.current is good
    assert good.next_tokens(PROMPT).candidates


def test_unknown_family_names_the_known(manager: ModelManager, folder: Path) -> None:
    change_config(folder, model_type="bert")
    with pytest.raises(UnsupportedModelError, match="gemma2"):
        manager.load_model_sync(folder)


def test_remote_code_does_not_run_unasked(manager: ModelManager, folder: Path) -> None:
    proof = folder / "it_ran"
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(proof)!r}).write_text('x')\n"
    )
    change_config(folder, model_type="homemade", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(RemoteCodeError, match="allow_remote_code"):
        manager.load_model_sync(folder)
    assert not proof.exists()
    # A family that transformers knows by now needs none of the code that it still points to.
    change_config(folder, model_type="llama")
    manager.load_model_sync(folder)
    assert not proof.exists()


# ---- memory --------------------------------------------------------------------------------------


def test_refused_for_memory_before_loading(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_for(tmp_path)
    n = 10**9
    facts = module.weight_facts
    monkeypatch.setattr(module, "weight_facts", lambda files: facts(files).__class__(n, n))
    monkeypatch.setattr(module, "device_budgets", lambda settings: {"cpu": 3 * 2**30})

    def must_not_load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were touched")

    monkeypatch.setattr(module.AutoModelForCausalLM, "from_pretrained", must_not_load)
    wanted = ModelConfig("big", path=folder, dtype="float32")
    with pytest.raises(ModelMemoryError, match="device=cpu dtype=bfloat16") as caught:
        manager.load_model_sync(wanted)
    assert caught.value.estimate is not None
    assert [c.dtype for c in caught.value.estimate.cheaper] == ["bfloat16"]
    assert manager.estimate_memory(ModelConfig("big", path=folder)).dtype == "bfloat16"


def test_limit_of_settings_is_kept(folder: Path, tmp_path: Path) -> None:
    manager = manager_for(tmp_path, max_ram_gb=0.001, device="cpu")
    with pytest.raises(ModelMemoryError, match="does not fit"):
        manager.load_model_sync(folder)


def test_present_model_counts_as_free(
    manager: ModelManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = manager.load_model_sync(folder)
    monkeypatch.setattr(module, "device_budgets", lambda settings: {"cpu": 1000})
    estimate = manager.estimate_memory(folder)
    assert estimate.available == 1000 + 4 * loaded.info.n_parameters


def test_release_gives_memory_back(manager: ModelManager, tmp_path: Path) -> None:
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4}
    folder = tiny_folder(tmp_path / "wide", "qwen2", **wide)
    gc.collect()
    loaded = manager.load_model_sync(folder)
    size = loaded.info.memory_bytes
    assert size > 150e6
    watched = weakref.ref(loaded.model)
    embedding = loaded.model.get_input_embeddings().weight.sum()  # pages are really in memory
    loaded.next_tokens(PROMPT)
    before = psutil.Process().memory_info().rss
    assert manager.release() == size
    assert watched() is None
    assert before - psutil.Process().memory_info().rss > 0.7 * size
    assert embedding.isfinite()
    assert manager.current is None
    assert loaded.released
    assert manager.release() == 0
    with pytest.raises(ModelReleasedError, match="Load it again"):
        loaded.next_tokens(PROMPT)
    with pytest.raises(ModelReleasedError):
        manager.get_layer_info()


def test_release_tells_what_others_hold(manager: ModelManager, folder: Path) -> None:
    loaded = manager.load_model_sync(folder)
    held = loaded.adapter
    assert manager.release() == 0
    assert held.n_layers == 3


def test_loading_releases_the_model_before(manager: ModelManager, tmp_path: Path) -> None:
    first = manager.load_model_sync(tiny_folder(tmp_path / "a", "llama"))
    watched = weakref.ref(first.model)
    second = manager.load_model_sync(tiny_folder(tmp_path / "b", "gpt2"))
    assert first.released
    assert watched() is None
    assert manager.current is second


# ---- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "after"), [("Opening", 0), ("Loading", 0), ("Loading", 9)])
def test_cancel_while_loading(stage: str, after: int, manager: ModelManager, folder: Path) -> None:
    class Stop(WorkContext):
        def progress(self, done: float, total: Optional[float], text: str = "") -> None:
            if text.startswith(stage) and done >= after:
                self.cancel()

    with pytest.raises(Cancelled):
        manager.load_model_sync(folder, Stop())
    assert manager.current is None
    assert manager.load_model_sync(folder).next_tokens(PROMPT).candidates


def test_cancelled_before_the_start(manager: ModelManager, folder: Path) -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        manager.load_model_sync(folder, ctx)


# ---- describing ----------------------------------------------------------------------------------


def test_describe_without_weights(folder: Path, tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.add_folder("owner/tiny", folder)
        manager = manager_for(tmp_path, offline=False, hf_endpoint=hub.url)
        remote = manager.describe("owner/tiny")
        assert remote.folder is None
        assert not any(path.endswith(".safetensors") for path in hub.paths())
        here = manager.describe(folder)
        assert (remote.n_parameters, remote.n_layers) == (here.n_parameters, here.n_layers)
        assert manager.estimate_memory("owner/tiny").fits
        loaded = manager.load_model_sync("owner/tiny")
        assert loaded.info.source == "owner/tiny"
        assert loaded.info.n_parameters == remote.n_parameters
        assert manager.describe("owner/tiny").folder == manager.fetch("owner/tiny")


def test_libraries_are_quiet(
    manager: ModelManager, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(manager.cache_dir, ignore_errors=True)
    capfd.readouterr()
    manager.load_model_sync(folder)
    out, err = capfd.readouterr()
    assert out == ""
    assert "%|" not in err  # no progress bar
    assert logging.getLogger("transformers").handlers == []


# ---- prompts -------------------------------------------------------------------------------------


def test_encode_puts_the_start_token_first_once() -> None:
    loaded = tiny_loaded("llama")
    ids = loaded.encode("the cat sat")
    assert ids[0] == loaded.start_token_id == 0
    assert loaded.token_strings(ids) == ["<|endoftext|>", "the", " cat", " sat"]
    assert loaded.encode("<|endoftext|>the cat sat").count(0) == 1


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_prompt(text: str) -> None:
    with pytest.raises(EmptyPromptError):
        tiny_loaded("llama").encode(text)


def test_a_prompt_of_bytes_that_are_no_utf8_is_refused() -> None:
    with pytest.raises(StudioError, match="no UTF-8"):
        tiny_loaded("llama").encode(b"a\xff".decode("utf-8", "surrogateescape"))


def test_prompt_longer_than_the_context() -> None:
    loaded = tiny_loaded("llama")
    assert len(loaded.encode("the" + " cat" * 62)) == 64
    with pytest.raises(PromptTooLongError, match="65 tokens"):
        loaded.encode("the" + " cat" * 63)


def test_prompt_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_studio.core import loaded_model

    loaded = tiny_loaded("llama")
    monkeypatch.setattr(loaded_model, "available_ram", lambda: 1000)
    with pytest.raises(PromptTooLongError, match="free"):
        loaded.encode("the cat sat")


def test_next_tokens_are_the_models_own() -> None:
    loaded = tiny_loaded("gpt2")
    view = loaded.next_tokens(PROMPT, top_k=5)
    logits = loaded.adapter.logits(list(view.token_ids))[0, -1]
    expected = logits.softmax(-1).sort(descending=True)
    assert [c.token_id for c in view.candidates] == expected.indices[:5].tolist()
    assert view.candidates[0].probability == pytest.approx(float(expected.values[0]))
    assert "".join(view.tokens[1:]) == PROMPT
    everything = loaded.next_tokens(PROMPT, top_k=10**6).candidates
    assert sum(c.probability for c in everything) == pytest.approx(1, abs=1e-5)


def test_start_token_choices() -> None:
    class FakeTokenizer:
        def __init__(self, bos: Optional[int], adds: bool, vocabulary: dict[str, int]) -> None:
            self.bos_token_id, self.bos_token = bos, None if bos is None else "<bos>"
            self._adds, self._vocabulary = adds, vocabulary

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [self.bos_token_id, 7] if self._adds else [7]}  # type: ignore[list-item]

        unk_token = unk_token_id = None

        def convert_tokens_to_ids(self, token: str) -> Optional[int]:
            return self._vocabulary.get(token)

    separator = {"<|endoftext|>": 3}
    for bos, adds, vocabulary, expected in (
        (1, True, separator, "<bos>"),
        (1, False, separator, "<|endoftext|>"),
        (1, False, {}, "<bos>"),
        (None, False, {}, None),
    ):
        start = find_start_token(FakeTokenizer(bos, adds, vocabulary))
        assert (None if start is None else start.text) == expected


def test_token_beyond_the_vocabulary_has_a_name() -> None:
    loaded = tiny_loaded("llama")
    assert loaded.token_strings([10**6]) == ["<1000000>"]


# ---- models made in memory, and copies -----------------------------------------------------------


def test_hash_of_tensors_sees_every_change() -> None:
    model = tiny_model("llama")
    first = hash_tensors(model)
    assert first == hash_tensors(tiny_model("llama"))
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-3
    assert hash_tensors(model) != first
    loaded = module.LoadedModel.from_parts(tiny_model("llama"), tiny_tokenizer(), "mine")
    assert (loaded.info.name, loaded.info.weights_hash) == ("mine", first)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3"])
def test_copy_in_another_type(family: str) -> None:
    loaded = tiny_loaded(family)
    ids = torch.tensor([loaded.encode(PROMPT)])
    before = loaded.adapter.logits(ids)
    twin = loaded.copy_in(torch.bfloat16)
    assert twin.dtype is torch.bfloat16
    assert loaded.adapter.dtype is torch.float32
    torch.testing.assert_close(twin.logits(ids).float(), before, rtol=0.1, atol=0.3)
    exact = loaded.copy_in(torch.float32)
    torch.testing.assert_close(exact.logits(ids), before, rtol=0, atol=0)
    with torch.no_grad():
        next(iter(exact.model.parameters())).zero_()
    torch.testing.assert_close(loaded.adapter.logits(ids), before, rtol=0, atol=0)
    tied = twin.model.get_output_embeddings().weight is twin.model.get_input_embeddings().weight
    assert tied == (
        loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    )


def test_loads_from_two_threads_wait_for_each_other(manager: ModelManager, tmp_path: Path) -> None:
    folders = [tiny_folder(tmp_path / name, "llama") for name in ("a", "b")]
    failures: list[BaseException] = []

    def load(folder: Path) -> None:
        try:
            for _ in range(3):
                manager.load_model_sync(folder)
                time.sleep(0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert manager.current is not None
    assert not manager.current.released


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_spread_over_devices(folder: Path, tmp_path: Path) -> None:
    manager = manager_for(tmp_path)
    on_gpu = manager.load_model_sync(folder)
    assert on_gpu.info.device == "cuda:0"
    expected = on_gpu.next_tokens(PROMPT).candidates[0].token
    spread = manager.load_model_sync(ModelConfig("m", path=folder, device="spread"))
    assert spread.next_tokens(PROMPT).candidates[0].token == expected
