"""What tracing of attention found, as plain records: numpy only, so that a window can show them.

Sources are numbered like the nodes of a graph of the same prompt: active features, errors, token
embeddings. One more stands last, ``BIAS``: all that the model and its dictionaries add whatever
they read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.utils.errors import StudioError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BIAS = "bias"
"""The name of the last source."""


class AttentionTraceError(StudioError):
    """Attention was asked for in a way that makes no sense on this prompt."""


@dataclass(frozen=True)
class HeadName:
    """A head that decides where to look: one of the model's own, or a QK head of a Lorsa.

    ``3.1`` is the model's head 1 of layer 3 (the model has it also where a Lorsa stands in), and
    ``A3.1`` QK head 1 of that layer's Lorsa, as ``A3`` begins the names of the Lorsa's features.
    """

    kind: Literal["model", "lorsa"]
    layer: int
    head: int

    @classmethod
    def parse(cls, text: str) -> HeadName:
        """The head that a text names.

        Raises:
            AttentionTraceError: it is neither ``3.1`` nor ``A3.1``.
        """
        found = re.fullmatch(r"(A?)(\d{1,6})\.(\d{1,6})", text.strip())
        if found is None:
            raise AttentionTraceError(
                f"{text!r} names no head",
                "3.1 is the model's head 1 of layer 3, A3.1 the same of its Lorsa's QK heads",
                "give a layer and a head, both counted from 0",
            )
        return cls("lorsa" if found[1] else "model", int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{'A' if self.kind == 'lorsa' else ''}{self.layer}.{self.head}"


@dataclass(frozen=True)
class KeyTrace:
    """Why a head looks at one position: what makes the score of a query and a key.

    The score is a sum over pairs of a source on the query's side and one on the key's side. All
    values are signed: a negative one keeps the head from looking there.

    Attributes:
        key: the position that is looked at.
        probability: what the head's pattern gives it.
        score: before the softmax, and before a cap on scores.
        baseline: what was subtracted from the score (and from every pair).
        explained: the sum of all pairs, ``score - baseline`` but for rounding.
        scale: the sum of |by_query|, against which rounding is to be seen.
        pair_query, pair_key: [k] sources of the strongest pairs, by absolute value.
        pair_value: [k] float32.
        by_query: [n] float32, all pairs of each source on the query's side.
        by_key: [n] float32, all pairs of each source on the key's side.
    """

    key: int
    probability: float
    score: float
    baseline: float
    explained: float
    scale: float
    pair_query: Ints
    pair_key: Ints
    pair_value: Floats
    by_query: Floats
    by_key: Floats

    @property
    def identity_error(self) -> float:
        """|explained - (score - baseline)|, relative to the larger of |score| and ``scale``."""
        gap = abs(self.explained - (self.score - self.baseline))
        return gap / max(abs(self.score), self.scale, 1e-30)


@dataclass(frozen=True)
class QKTrace:
    """Why one head looks from one position where it looks.

    Attributes:
        head: which.
        query: the position it looks from.
        names: [n] of the sources, as ``AttributionGraph.node_name`` gives them; ``BIAS`` last.
        visible: [m] positions that it sees, in order; ``scores`` [m] of them (before the softmax
            and before a cap) and ``probabilities`` [m].
        baseline: what was subtracted: ``mean`` of the scores of all visible keys, ``none``, or the
            score of another key, ``P3``.
        score_cap: the cap c of the family's scores, which enter the softmax as ``c·tanh(score/c)``;
            what is traced is the score before it. None: no cap.
        keys: the traced keys.
    """

    head: HeadName
    query: int
    names: tuple[str, ...]
    visible: Ints
    scores: Floats
    probabilities: Floats
    baseline: str
    score_cap: Optional[float]
    keys: tuple[KeyTrace, ...]

    @property
    def identity_error(self) -> float:
        """The largest of the keys'."""
        return max((key.identity_error for key in self.keys), default=0.0)


def strongest(values: Floats, k: int) -> Ints:
    """The places of the ``k`` largest |values| other than 0, the largest first."""
    order: Ints = np.argsort(-np.abs(values), kind="stable")[:k].astype(np.int64)
    kept: Ints = order[values[order] != 0]
    return kept


@dataclass(frozen=True)
class FeatureLook:
    """Where a Lorsa's feature took its activation from.

    Attributes:
        name: of its node.
        head: the QK head that it looks with.
        position: where it is active.
        activation: how much.
        pattern: [T] share of each position in what the head sees.
        z_pattern: [T] what each position adds to the pre-activation, ``A[t, j]·(x_j·w_V + b_V)``
            (He et al. 2025); the sum is the pre-activation.
    """

    name: str
    head: HeadName
    position: int
    activation: float
    pattern: Floats
    z_pattern: Floats


@dataclass(frozen=True)
class FeatureTrace:
    """Where a Lorsa's feature took its activation from, and why its head looked there."""

    look: FeatureLook
    trace: QKTrace


@dataclass(frozen=True)
class Crossing:
    """One way from an earlier position: head ``head`` looks from ``query`` at ``key``."""

    head: HeadName
    query: int
    key: int
    value: float


@dataclass(frozen=True)
class HeadPaths:
    """What reaches a target through which head, see ``core.head_paths``.

    Attributes:
        source: name of the source whose edge is split; None: all that the target reads is.
        target: name of the target.
        value: the edge; without a source what the target reads, its bias included.
        stayed: the part that crosses no kept attention.
        layers: [m] the kept attentions below the target; ``heads`` [m, H] float32 what comes
            through each of their heads last; ``biases`` [m] what their output biases add (zero
            where the edge of a source is split).
        scale: the sum of the absolute values of all that was added up.
        crossings: the strongest ways, by |value|.
    """

    source: Optional[str]
    target: str
    value: float
    stayed: float
    layers: Ints
    heads: Floats
    biases: Floats
    scale: float
    crossings: tuple[Crossing, ...]

    @property
    def identity_error(self) -> float:
        """|stayed + heads + biases - value| relative to ``scale``."""
        parts: list[float] = [self.stayed, *self.heads.ravel().tolist(), *self.biases.tolist()]
        return abs(sum(parts) - self.value) / max(self.scale, 1e-30)
