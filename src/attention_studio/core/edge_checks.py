"""What testing the edges of a graph found: no torch here, so that the window can use it freely.
``core.edge_choice`` says which edges, ``core.edge_verification`` tests them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attention_studio.core.stored_record import (
    Count,
    Name,
    Number,
    StoredKind,
    StrictRecord,
    Text,
)
from attention_studio.core.trace_circumstances import DictionariesId, is_about
from attention_studio.core.validation_report import Agreement, ValidationFormatError

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

Floats = NDArray[np.float32]

Scope = Literal["shown", "pinned", "selected"]
"""Which edges are meant: all that are shown, those between pinned nodes, or those at one node."""
Reach = Literal["total", "direct"]
"""What is measured: everything that follows from taking a source out (``total``), or what comes by
the edge itself, with all other modules held at what they gave before (``direct``)."""

MAX_EDGES = 100_000
"""Edges of one report."""
TOLERANCE = 0.5
"""By how much of the prediction a measurement may miss it and still confirm it."""
FORMAT = "attention-studio-edges"
FORMAT_VERSION = 1


class Verdict(Enum):
    """What a measurement says of an edge."""

    CONFIRMED = "confirmed"
    """It comes as predicted."""
    REFUTED = "refuted"
    """It does not."""
    UNCLEAR = "unclear"
    """No more is predicted than what random directions do: too little to tell."""


@dataclass(frozen=True)
class EdgeReport:
    """What verifying edges found, as columns of length n.

    Attributes:
        prompt, model_hash, crm_name: of what graph; ``crm_fingerprint`` identifies the weights of
            its dictionaries, "": not known.
        reach: what was measured.
        seed: of the random directions; ``controls``: how many there were of each feature.
        source, target: names of the nodes.
        weight: the graph's edge: what the source adds to what the target reads. Taking the source
            out should take it away.
        predicted: by how much the linear model says that what the target reads changes when the
            source is taken out (with ``direct`` the edge itself, with the other sign).
        measured: by how much it does change in the model.
        control: root mean square of what random directions of the same norm, written in the
            feature's place beside it, change.
        n_tokens, n_weaker: edges that were left out, see ``EdgeChoice``.
        seconds: how long it took.
    """

    prompt: str
    model_hash: str
    crm_name: str
    reach: Reach
    seed: int
    controls: int
    source: tuple[str, ...]
    target: tuple[str, ...]
    weight: Floats
    predicted: Floats
    measured: Floats
    control: Floats
    n_tokens: int = 0
    n_weaker: int = 0
    seconds: float = 0.0
    crm_fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def agreement(self) -> Agreement:
        """How predictions and measurements compare, over all edges."""
        return Agreement.of(self.predicted, self.measured)

    def verdicts(self, tolerance: float = TOLERANCE) -> tuple[Verdict, ...]:
        """What is to be thought of each edge.

        ``unclear``: |predicted| is no more than ``control``. Else ``confirmed`` where
        |measured - predicted| is at most ``tolerance`` of |predicted|, and ``refuted`` elsewhere.
        """
        size = np.abs(self.predicted)
        unclear = size <= self.control
        near = np.abs(self.measured - self.predicted) <= tolerance * size
        kinds = (Verdict.REFUTED, Verdict.CONFIRMED, Verdict.UNCLEAR)
        number = np.where(unclear, 2, near.astype(np.int64))
        return tuple(kinds[i] for i in number.tolist())

    def belongs_to(self, graph: Optional[AttributionGraph]) -> bool:
        """Whether a graph is of the prompt, model and dictionaries that were tested."""
        tested = DictionariesId(self.crm_name, self.crm_fingerprint)
        return is_about(graph, self.prompt, self.model_hash, tested)

    # -- files ---------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """As plain values for a JSON file; ``from_json`` gives an equal report."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "prompt": self.prompt,
            "model_hash": self.model_hash,
            "crm_name": self.crm_name,
            "crm_fingerprint": self.crm_fingerprint,
            "reach": self.reach,
            "seed": self.seed,
            "controls": self.controls,
            "source": list(self.source),
            "target": list(self.target),
            # Nine digits bring every float32 back.
            **{
                name: [float(f"{value:.9g}") for value in getattr(self, name)]
                for name in ("weight", "predicted", "measured", "control")
            },
            "n_tokens": self.n_tokens,
            "n_weaker": self.n_weaker,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Any) -> EdgeReport:
        """Read what ``to_json`` made.

        Raises:
            ValidationFormatError: it is something else, of a newer version, or too large.
        """
        return _KIND.read(data).report()


# ---- reading with limits -----------------------------------------------------------------------

_Names = Annotated[list[Name], Field(max_length=MAX_EDGES)]
_Numbers = Annotated[list[Number], Field(max_length=MAX_EDGES)]


class _ReportFile(StrictRecord):
    prompt: Text
    model_hash: Text
    crm_name: Text
    reach: Reach
    seed: Count
    controls: Count
    source: _Names
    target: _Names
    weight: _Numbers
    predicted: _Numbers
    measured: _Numbers
    control: _Numbers
    n_tokens: Count
    n_weaker: Count
    seconds: Number
    crm_fingerprint: Name = ""

    def report(self) -> EdgeReport:
        values = (self.weight, self.predicted, self.measured, self.control)
        if len({len(self.source), len(self.target), *map(len, values)}) != 1:
            raise _KIND.damaged("columns have different lengths")
        return EdgeReport(
            self.prompt,
            self.model_hash,
            self.crm_name,
            self.reach,
            self.seed,
            self.controls,
            tuple(self.source),
            tuple(self.target),
            weight=np.asarray(self.weight, dtype=np.float32),
            predicted=np.asarray(self.predicted, dtype=np.float32),
            measured=np.asarray(self.measured, dtype=np.float32),
            control=np.asarray(self.control, dtype=np.float32),
            n_tokens=self.n_tokens,
            n_weaker=self.n_weaker,
            seconds=self.seconds,
            crm_fingerprint=self.crm_fingerprint,
        )


_KIND = StoredKind(
    FORMAT,
    FORMAT_VERSION,
    _ReportFile,
    ValidationFormatError,
    none="These are no verified edges",
    called="The verified edges are",
    again="verify them again",
)
