"""What the cells of a lens table can be coloured by. Knows no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.lens_records import Cell, LensTable, PatchOutcome, depth_name
from attention_studio.ui.text import percent, visible_token

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Measure:
    """A number for every cell.

    Attributes:
        title, help: for people.
        values: from a table, and what came of patches (None: nothing is patched), to [R, T].
        share: whether the number is a share of one; else it is nats, and the largest is full.
        patched: whether it only makes sense where something is patched.
    """

    title: str
    help: str
    values: Callable[[LensTable, Optional[PatchOutcome]], Floats]
    share: bool = True
    patched: bool = False

    def shares(self, table: LensTable, outcome: Optional[PatchOutcome]) -> Floats:
        """[R, T] in [0, 1], how strong a cell's colour is."""
        values = self.values(table, outcome)
        largest = 1.0 if self.share else float(values.max(initial=0.0))
        scaled: Floats = np.clip(values / np.float32(largest if largest > 0 else 1.0), 0, 1)
        return scaled

    def text(self, value: float) -> str:
        """A number for people."""
        return percent(value) if self.share else f"{value:.2f} nats"


def _top(table: LensTable, _outcome: Optional[PatchOutcome]) -> Floats:
    top: Floats = table.top_probabilities[..., 0]
    return top


def _change(table: LensTable, outcome: Optional[PatchOutcome]) -> Floats:
    return np.zeros_like(table.entropy) if outcome is None else outcome.change


MEASURES: MappingProxyType[str, Measure] = MappingProxyType(
    {
        "top": Measure("Probability", "What a cell gives to the word that it shows", _top),
        "end": Measure(
            "Probability of the end's word",
            "What a cell gives to the word that the model itself finds likeliest there",
            lambda table, _outcome: table.end_probability,
        ),
        "entropy": Measure(
            "Entropy", "How undecided a cell is", lambda table, _outcome: table.entropy, False
        ),
        "divergence": Measure(
            "KL to the end",
            "How far a cell's distribution is from the model's own at that token",
            lambda table, _outcome: table.divergence,
            False,
        ),
        "change": Measure(
            "Change by the patches",
            "How far the patches move a cell's distribution (KL(patched ‖ unpatched))",
            _change,
            False,
            True,
        ),
    }
)
"""By name, in the order of lists."""


def cell_title(table: LensTable, cell: Cell) -> str:
    """A cell in words: ``after 2 at 5 “is”``."""
    word = visible_token(table.tokens[cell.position], spaces=False)
    return f"{depth_name(cell.depth)} at {cell.position} “{word}”"


def cell_facts(table: LensTable, cell: Cell) -> str:
    """What there is to say about a cell, in one line."""
    rank = int(table.end_rank[cell])
    end = visible_token(table.word(int(table.end_ids[cell.position])), spaces=False)
    place = f"“{end}” of the end is " + ("first" if rank == 0 else f"number {rank + 1}")
    return (
        f"entropy {table.entropy[cell]:.2f} nats · KL to the end {table.divergence[cell]:.2f} nats"
        f" · {place}, {percent(float(table.end_probability[cell]))}"
    )


def cell_sentence(table: LensTable, cell: Cell) -> str:
    """A cell, what it would predict and how surely."""
    words = ", ".join(
        f"{visible_token(token, spaces=False)} {percent(share)}"
        for token, _, share in candidates(table, cell)
    )
    return f"{cell_title(table, cell)}: {words}; {cell_facts(table, cell)}"


def candidates(table: LensTable, cell: Cell) -> tuple[tuple[str, int, float], ...]:
    """The likeliest next tokens of a cell: token, number, probability."""
    ids = table.top_ids[cell].tolist()
    shares = table.top_probabilities[cell].tolist()
    return tuple(
        (table.word(token), token, share) for token, share in zip(ids, shares, strict=True)
    )
