"""Training runs that several processes share, on the tiny model of ``tests.training``.

Each process is told by its environment which one it is, as ``torchrun`` does, and by a JSON list of
orders what to train; all runs are made one after the other, because the imports take seconds. An
order may end a process, or make it fall silent, in the middle of a run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from attention_studio.core.crm_trainer import StepDone, TrainEvent
from attention_studio.core.distributed import TIMEOUT, Peers
from attention_studio.utils.launch import launched
from tests.tiny import tiny_loaded
from tests.training import make_trainer, run_to_end


def train(orders: list[dict[str, Any]]) -> None:
    """Make all runs.

    Each order has the folder ``out`` and ``changes`` to the settings; ``signal``, ``rank`` and
    ``step`` say which signal a process sends itself, and when; ``timeout`` is in seconds.
    """
    torch.set_num_threads(1)
    launch = launched()
    assert launch is not None
    seconds = orders[0].get("timeout")
    peers = Peers.join(launch, timedelta(seconds=seconds) if seconds else TIMEOUT)
    loaded = tiny_loaded("llama")
    for order in orders:

        def watch(event: TrainEvent, order: dict[str, Any] = order) -> None:
            here = order.get("rank") == peers.rank
            if here and isinstance(event, StepDone) and event.step == order["step"]:
                os.kill(os.getpid(), getattr(signal, order["signal"]))

        trainer = make_trainer(
            loaded,
            Path(order["out"]),
            resume=order.get("resume", False),
            peers=peers,
            **order["changes"],
        )
        run_to_end(trainer, on_event=watch)
    peers.leave()


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
