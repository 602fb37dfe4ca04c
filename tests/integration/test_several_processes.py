"""Two real processes share training runs: what one process would have made comes out, and what
becomes of a run when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from attention_studio.cli import main
from attention_studio.core.crm_trainer import CRMTrainer
from attention_studio.core.dictionaries.crm_folder import load_crm
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.training_checkpoint import ResumeMismatchError, latest_checkpoint
from tests.tiny import WORDS, tiny_folder, tiny_loaded
from tests.training import make_trainer, run_to_end

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="PyTorch has no gloo"
    ),
]

ROOT = Path(__file__).parents[2]
STEPS = 10
ATTENTION = {"attention_layers": (0, 1, 2), "attention_latents": 64, "attention_k": 4}
CLT = {"layers": (0, 1, 2), "mlp": "clt", "skip": False}
# Float32 throughout: in bfloat16 a difference in the last bit of a weight may now and then decide
# which of two latents is taken, and no tolerance would hold.
DATA = {"parallel": "data", "selection_dtype": "float32", "harvest_dtype": "float32"}
RUNS: dict[str, dict[str, Any]] = {
    "layers": {**ATTENTION},
    "layers-clt": {**CLT, **ATTENTION, "activation": "topk", "norm_aware": True},
    "data-topk": {**ATTENTION, **DATA, "activation": "topk", "qk_rate": 0.1},
    "data-batchtopk": {**ATTENTION, **DATA, "token_chunk": 16},
    "data-relu": {**ATTENTION, **DATA, "activation": "relu", "skip": False},
    "data-clt-topk": {**CLT, **DATA, "activation": "topk"},
    "data-clt-batchtopk": {**CLT, **DATA, "norm_aware": True},
    "data-clt-jumprelu": {**CLT, **DATA, "activation": "jumprelu"},
}


def settings(name: str) -> dict[str, Any]:
    return {**RUNS[name], "tokens": STEPS * 64}


def environment(**more: str) -> dict[str, str]:
    # A launcher's own variables would make the commands of this process believe that they are
    # part of a run.
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun(*words: str) -> str:
    """Run a module in two processes and give what they wrote to stdout."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    # Names of machines may not be known here; addresses are.
    launcher += ["--master-addr", "127.0.0.1", "--master-port", free_port(), "-m"]
    done = subprocess.run(
        [*launcher, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def two_processes(order: Mapping[str, Any]) -> list[subprocess.Popen[str]]:
    """Two processes that nobody watches over: none is told when the other dies. They are named as
    mpirun does, which is how accelerate launch starts processes on CPUs."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMPI_COMM_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.parallel", json.dumps([order])],
            cwd=ROOT,
            env=environment(OMPI_COMM_WORLD_RANK=str(rank), **where),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(path).items()
    }


def assert_same(found: Path, expected: Path, exactly: bool) -> None:
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, tensor in theirs.items():
        if exactly:
            assert torch.equal(ours[name], tensor), name
        else:
            largest = float(tensor.abs().max())
            torch.testing.assert_close(
                ours[name], tensor, rtol=0, atol=1e-4 * largest + 1e-7, msg=name
            )


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del found["created"]
    return found


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As many as the others have: the same number gives the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, each made by two processes."""
    folder = tmp_path_factory.mktemp("shared")
    orders = [{"out": str(folder / name), "changes": settings(name)} for name in RUNS]
    torchrun("tests.parallel", json.dumps(orders))
    return folder


class Alone:
    """The same runs made by one process, each when it is first asked for."""

    def __init__(self, folder: Path, loaded: LoadedModel) -> None:
        self._folder = folder
        self._loaded = loaded

    def __call__(self, name: str) -> Path:
        out = self._folder / name
        if not out.exists():
            run_to_end(self.trainer(name, out))
        return out

    def trainer(self, name: str, out: Path, resume: bool = False) -> CRMTrainer:
        return make_trainer(self._loaded, out, resume=resume, **settings(name))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), loaded)


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("layers")])
def test_divided_modules_give_the_same_bits(shared: Path, alone: Alone, name: str) -> None:
    assert_same(shared / name, alone(name), exactly=True)
    # Metrics, their order and the hashes of the files too.
    assert manifest(shared / name) == manifest(alone(name))
    assert {p.name for p in (shared / name).iterdir()} == {p.name for p in alone(name).iterdir()}


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("data")])
def test_divided_batches_give_the_same_weights(
    shared: Path, alone: Alone, name: str, loaded: LoadedModel
) -> None:
    assert_same(shared / name, alone(name), exactly=False)
    ours, theirs = manifest(shared / name), manifest(alone(name))
    assert list(ours["dictionaries"]) == list(theirs["dictionaries"])
    for module, entry in theirs["dictionaries"].items():
        for metric in ("fvu", "affine_fvu", "l0", "dead_fraction"):
            found = ours["dictionaries"][module]["metrics"][metric]
            assert found == pytest.approx(entry["metrics"][metric], rel=1e-3, abs=1e-5)
    for metric in ("ce_original", "ce_spliced", "ce_zero", "kl"):
        found, expected = (m["training"]["metrics"][metric] for m in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-3)
    assert ours["training"]["sources"]["processes_per_batch"] == "2"
    load_crm(shared / name, loaded.info)


@pytest.mark.skipif(os.name == "nt", reason="processes kill themselves by signals")
@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(
    alone: Alone, tmp_path: Path, killed: int
) -> None:
    out = tmp_path / "crm"
    order = {"out": str(out), "changes": settings("layers")}
    lost = {"signal": "SIGKILL", "rank": killed, "step": 7}
    processes = two_processes({**order, **lost})
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert processes[killed].returncode == -signal.SIGKILL
    assert processes[1 - killed].returncode == 1
    assert "LostProcessError: Another process of this run has ended" in said[1 - killed]
    checkpoint = latest_checkpoint(out)
    assert checkpoint is not None
    assert checkpoint.name == "step_00000004"
    # Any number of processes may go on, for the weights do not depend on it.
    assert run_to_end(alone.trainer("layers", out, resume=True)) == out
    assert_same(out, alone("layers"), exactly=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes kill themselves by signals")
def test_a_run_of_divided_batches_goes_on_with_as_many(
    alone: Alone, shared: Path, tmp_path: Path
) -> None:
    name, out = "data-clt-batchtopk", tmp_path / "crm"
    order = {"out": str(out), "changes": settings(name)}
    processes = two_processes({**order, "signal": "SIGKILL", "rank": 1, "step": 7})
    for process in processes:
        process.communicate(timeout=200)
    with pytest.raises(ResumeMismatchError, match="processes per batch"):
        alone.trainer(name, out, resume=True)
    torchrun("tests.parallel", json.dumps([{**order, "resume": True}]))
    assert_same(out, shared / name, exactly=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes stop themselves by signals")
def test_a_silent_process_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    order = {"out": str(tmp_path / "crm"), "changes": settings("layers"), "timeout": 8}
    waiting, silent = two_processes({**order, "signal": "SIGSTOP", "rank": 1, "step": 2})
    try:
        said = waiting.communicate(timeout=200)[1]
    finally:
        silent.kill()
        silent.communicate()
    assert waiting.returncode == 1
    assert "LostProcessError" in said


def test_the_command_under_torchrun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_folder(tmp_path / "model")
    rng = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text(" ".join(rng.choice(WORDS, 3000)), encoding="utf-8")
    words = ["train", "--json", "--model", str(tmp_path / "model"), "--device", "cpu"]
    words += ["--text", str(tmp_path / "text.txt"), "--attention-layers", "all"]
    words += ["--tokens", "1024", "--latents", "64", "--k", "8"]
    for setting in ("batch_tokens=128", "block_tokens=512", "seq_len=32", "heldout_tokens=256"):
        words += ["--set", setting]
    together, alone = tmp_path / "together", tmp_path / "alone"
    printed = torchrun("attention_studio", *words, "--out", str(together))
    # The first process speaks for both.
    report = json.loads(printed)
    assert report["crm"] == str(together)
    kinds = ("attention", "mlp")
    assert set(report["metrics"]) == {f"{kind}_0{layer}" for kind in kinds for layer in range(3)}
    monkeypatch.setenv("ATTENTION_STUDIO_THREADS", "1")
    assert main([*words, "--out", str(alone)]) == 0
    capfd.readouterr()
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=0, atol=1e-5)
