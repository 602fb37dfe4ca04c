"""A small training run on a tiny model, shared by the tests of the trainer.

Run as a program it is a nursery of training processes that tests kill: for every line of JSON on
its standard input it forks, trains in the child, and tells on standard output how far that is. The
imports, which take seconds, are done once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch

from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.crm_trainer import CRMTrainer, TrainConfig, run_to_end
from attention_studio.core.training_checkpoint import CHECKPOINT_FOLDER

if TYPE_CHECKING:
    from attention_studio.core.distributed import Peers
    from attention_studio.core.loaded_model import LoadedModel

SEQ_LEN = 16

# AuxK, annealing, several passes over the text, a skip, and blocks that end within a checkpoint
# interval: everything that a resumed run has to pick up.
CONFIG = TrainConfig(
    layers=(0, 2),
    d_latent=96,
    activation="batchtopk",
    k=2,
    skip=True,
    k_start=6,
    k_anneal_fraction=0.5,
    tokens=24 * 64,
    batch_tokens=64,
    block_tokens=320,
    seq_len=SEQ_LEN,
    token_chunk=32,
    row_chunk=16,
    dead_after_tokens=100,
    heldout_tokens=100,
    downstream_tokens=50,
    eval_every=9,
    checkpoint_every=4,
    learning_rate=5e-3,
    warmup_steps=3,
)


def corpus(rows: int, seed: int, vocabulary: int = 100) -> TokenCorpus:
    """Random tokens, with a start token within some of the rows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, vocabulary, (rows, SEQ_LEN)).astype(np.int32)
    tokens[:, 0] = 0
    tokens[::5, 7] = 0
    return TokenCorpus.of(tokens, np.full(rows, SEQ_LEN, dtype=np.int32), 0)


def make_trainer(
    loaded: LoadedModel,
    out_dir: Path,
    resume: bool = False,
    peers: Optional[Peers] = None,
    **changes: Any,
) -> CRMTrainer:
    """A run with ``CONFIG``."""
    config = TrainConfig(**{**CONFIG.model_dump(), **changes})
    texts = corpus(40, 0), corpus(12, 1)
    return CRMTrainer(loaded, *texts, config, out_dir, resume=resume, peers=peers)


def _say(*words: object) -> None:
    # One write call, so that lines of a killed process are whole.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _stall_in(stage: str) -> None:
    """Stop for good at a delicate moment, for the test to kill the process there."""
    import shutil

    import safetensors.torch

    def then_wait(function: Callable[..., Any], half: bool) -> Callable[..., Any]:
        calls = 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if not half:
                if Path(args[0]).name.startswith("step_"):
                    _say("stalled")
                    time.sleep(600)
                return function(*args, **kwargs)
            function(*args, **kwargs)
            # Two layers: the fourth file is the last one of the second checkpoint or, where there
            # is only the checkpoint of the last step, of the replacement model.
            if calls == 4:
                path = Path(args[1])
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                _say("stalled")
                time.sleep(600)
            return None

        return wrapped

    if stage in ("checkpoint", "save"):
        safetensors.torch.save_file = then_wait(safetensors.torch.save_file, half=True)
    elif stage == "removal":
        shutil.rmtree = then_wait(shutil.rmtree, half=False)  # type: ignore[assignment]
    elif stage == "cleanup":
        remove = shutil.rmtree

        def half_removed(path: Path, **kwargs: Any) -> None:
            if path.name != CHECKPOINT_FOLDER:
                remove(path, **kwargs)
                return
            for description in path.glob("step_*/state.json"):
                description.unlink()
            _say("stalled")
            time.sleep(600)

        shutil.rmtree = half_removed  # type: ignore[assignment]


def _train(loaded: LoadedModel, order: dict[str, Any]) -> None:
    changes = {"checkpoint_every": 10_000} if order.get("stall") == "save" else {}
    trainer = make_trainer(loaded, Path(order["out"]), resume=True, **changes)
    _stall_in(order.get("stall", ""))
    for event in trainer:
        _say(type(event).__name__)
        if hasattr(event, "run"):
            event.run(None)
    _say("done")


def _nursery() -> None:
    from tests.tiny import tiny_loaded

    torch.set_num_threads(1)
    loaded = tiny_loaded("llama")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                _train(loaded, order)
            except BaseException as error:
                _say("failed", repr(error))
                os._exit(1)
            os._exit(0)
        _say("pid", child)
        _, status = os.waitpid(child, 0)
        _say("exit", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _nursery()


__all__ = ["CONFIG", "corpus", "make_trainer", "run_to_end"]
