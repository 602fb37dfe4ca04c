"""How well a model knows the world: its answers against those that are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attention_studio.demo.samples import Sample

_BATCH = 64


@dataclass(frozen=True)
class Score:
    """How many answers there were, the share whose likeliest token is right, and the mean
    probability that all right tokens have together."""

    answers: int
    accuracy: float
    probability: float


@torch.no_grad()
def score(model: Any, ids: Mapping[str, int], start: int, samples: Sequence[Sample]) -> Score:
    """The score over all answers in ``samples``.

    Args:
        model: a causal language model; position 0 gets ``start``.
        ids: the id of each piece.
        start: the start token's id.
        samples: at least one.
    """
    right: list[bool] = []
    mass: list[float] = []
    ordered = sorted(samples, key=lambda sample: len(sample.pieces))
    device = next(model.parameters()).device
    for begin in range(0, len(ordered), _BATCH):
        batch = ordered[begin : begin + _BATCH]
        rows = torch.full((len(batch), 1 + len(batch[-1].pieces)), start)
        for row, sample in enumerate(batch):
            rows[row, 1 : 1 + len(sample.pieces)] = torch.tensor([ids[p] for p in sample.pieces])
        logits = model(input_ids=rows.to(device)).logits.float().cpu()
        for row, sample in enumerate(batch):
            for answer in sample.answers:
                here = logits[row, answer.position - 1].softmax(-1)
                allowed = [ids[piece] for piece in answer.allowed]
                right.append(int(here.argmax()) in allowed)
                mass.append(float(here[allowed].sum()))
    return Score(len(right), sum(right) / len(right), sum(mass) / len(mass))
