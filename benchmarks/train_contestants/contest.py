"""What every contestant's process shares: the data, the clock, and the words it understands.

A contestant is started as ``python FILE JOB``, JOB being a JSON object. It needs only numpy and
torch besides what it stands for, for each lives in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from answers import Job, answer, peak_memory
from torch import Tensor

CALIBRATION_TOKENS = 8192


class Contestant(Protocol):
    """A dictionary in training."""

    def step(self, x: Tensor, y: Tensor) -> None:
        """One optimizer step on raw activations, in the shape that ``Rows`` reads."""

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction ``[…, d]`` of raw outputs, and which latents are active, bool ``[…, s]``."""


class Rows:
    """Activations on disk, inputs and outputs of a token side by side, already shuffled.

    They are read, not mapped, so that the data does not count as anyone's memory.

    Args:
        job: says of what they are: ``[n, d]`` of one layer's MLP, ``[n, layers, d]`` of several, or
            ``[sequences, T, d]`` of a layer's attention. Of sequences all positions count but the
            first.
        which: ``train`` or ``heldout``.
    """

    def __init__(self, job: Job, which: str) -> None:
        self._path = Path(job[which])
        self._shape = [-1, job["d_model"]]
        if job["kind"] == "lorsa":
            self._shape = [-1, job["seq_len"], job["d_model"]]
        elif len(job["layers"]) > 1:
            self._shape = [-1, len(job["layers"]), job["d_model"]]
        self._half = job["d_model"] * len(job["layers"])
        self.tokens = self._path.stat().st_size // (8 * self._half)

    def read(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """``count`` tokens from ``start``, float32, inputs and outputs."""
        with self._path.open("rb") as file:
            file.seek(8 * self._half * start)
            flat = np.fromfile(file, dtype=np.float32, count=count * 2 * self._half)
        rows = torch.from_numpy(flat).view(-1, 2 * self._half)
        x, y = (part.contiguous().view(self._shape) for part in rows.split(self._half, 1))
        return x, y


def learning_rate(step: int, total: int, peak: float) -> float:
    """Twenty steps up, a constant, the last fifth down to zero; the same for everyone."""
    return peak * min(1.0, (step + 1) / 20, (total - step) / max(1, round(0.2 * total)))


def unit_scales(job: Job) -> tuple[float, float]:
    """Factors that give inputs and centred outputs unit variance per coordinate, for contestants
    that do not find their own."""
    x, y = Rows(job, "train").read(0, CALIBRATION_TOKENS)
    return float(1 / x.square().mean().sqrt()), float(1 / (y - y.mean(0)).square().mean().sqrt())


def serve(make: Callable[[Job], Contestant]) -> None:
    """Train in slices, as told line by line on standard input, so that contestants take turns.

    ``steps N`` answers with the wall and CPU seconds of each of N more steps; ``evaluate`` with
    held-out quality and peak memory.
    """
    job: Job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    begin = peak_memory()
    contestant = make(job)
    rows = Rows(job, "train")
    batches = rows.tokens // job["batch"]
    done = 0
    answer({"ready": True})
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word == "steps":
            wall, cpu = [], []
            for _ in range(int(count)):
                x, y = rows.read(done % batches * job["batch"], job["batch"])
                began = time.perf_counter(), time.process_time()
                contestant.step(x, y)
                wall.append(time.perf_counter() - began[0])
                cpu.append(time.process_time() - began[1])
                done += 1
            answer({"wall": wall, "cpu": cpu})
        elif word == "evaluate":
            found: Job = {"steps": done, "memory": peak_memory() - begin, "imports": begin}
            answer({**found, **evaluate(contestant, job)})


@torch.no_grad()
def evaluate(contestant: Contestant, job: Job) -> Job:
    """Held-out FVU, mean L0, and the share of latents that no held-out token activates; of several
    layers their means."""
    rows, layers = Rows(job, "heldout"), len(job["layers"])

    def counted(tensor: Tensor) -> Tensor:
        """``[n, layers, …]`` at the positions that count."""
        counting = tensor[:, 1:] if job["kind"] == "lorsa" else tensor
        return counting.reshape(-1, layers, tensor.shape[-1])

    error = spread = torch.zeros(layers, dtype=torch.float64)
    total, active, tokens = torch.zeros(()), 0.0, 0
    fired = None
    for start in range(0, rows.tokens, 1024):
        y = counted(rows.read(start, 1024)[1])
        total = total + y.double().sum(0)
        tokens += len(y)
    mean = (total / tokens).float()
    for start in range(0, rows.tokens, 1024):
        x, y = rows.read(start, 1024)
        guess, mask = map(counted, contestant.predict(x))
        error = error + (guess - counted(y)).double().square().sum((0, 2))
        spread = spread + (counted(y) - mean).double().square().sum((0, 2))
        active += float(mask.sum())
        fired = mask.any(0) if fired is None else fired | mask.any(0)
    assert fired is not None  # there is held-out text
    return {
        "fvu": float((error / spread).mean()),
        "l0": active / tokens / layers,
        "dead": 1.0 - float(fired.float().mean()),
    }


def run_once(work: Callable[[Job], int]) -> None:
    """Do a whole job from text once, and answer with tokens, seconds and memory.

    ``work`` prepares what is not measured (the model is loaded), then calls ``job["start"]()``. It
    may write into ``job["parts"]`` how many CPU seconds parts of it took.
    """
    job: Job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    began: dict[str, float] = {}

    def start() -> None:
        began.update(wall=time.perf_counter(), cpu=time.process_time(), memory=peak_memory())

    parts: dict[str, float] = {}
    tokens = work({**job, "start": start, "parts": parts})
    answer(
        {
            "tokens": tokens,
            "wall": time.perf_counter() - began["wall"],
            "cpu": time.process_time() - began["cpu"],
            "memory": peak_memory() - began["memory"],
            "parts": parts,
        }
    )
