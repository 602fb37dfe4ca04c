"""What is known of features over a text: records that stores, files, windows and agents share.

numpy only. ``core.feature_store`` keeps them, ``core.feature_gathering`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

SHARES = 1_000_000_000
"""Of how many tokens shares are written down where nobody knows of how many they are."""


def share_of(n_fired: int, n_tokens: int) -> float:
    """At what share of tokens a feature is active; NaN: not known."""
    if n_fired < 0:
        return float("nan")
    return n_fired / n_tokens if n_tokens else 0.0


class FeaturePageError(StudioError):
    """What is said of a feature contradicts itself."""


@dataclass(frozen=True, eq=False)
class Example:
    """A stretch of text on which a feature is active.

    Attributes:
        tokens: the text's tokens [n].
        values: float32 [n], the feature's activation at each; 0 where it is not active.
        peak: the token that the example is about, a place among ``tokens``: of a strongest example
            the one with the largest activation, of an interval's the one that was drawn.
        sequence: which row of the text it is from; −1: not known.
        start: the position in that row of the first token.
        looks_at: of attention features, float32 [n]: how much of the activation at the peak came
            from each token (the z-pattern); 0 after the peak. None: of an MLP, or not known.
        looks_before: the same, summed over the tokens of the row before the first that is shown;
            NaN: not known.
        repeated: whether the same row is shown further up on the page; viewers show it paler.
    """

    tokens: tuple[str, ...]
    values: NDArray[np.float32]
    peak: int
    sequence: int = -1
    start: int = 0
    looks_at: Optional[NDArray[np.float32]] = None
    looks_before: float = 0.0
    repeated: bool = False

    def __post_init__(self) -> None:
        n = len(self.tokens)
        seen = n if self.looks_at is None else len(self.looks_at)
        if len(self.values) != n or seen != n or not 0 <= self.peak < n:
            raise FeaturePageError(
                "An example of a feature cannot be shown",
                f"it has {n} tokens, {len(self.values)} activations and is about token {self.peak}",
            )

    @property
    def value(self) -> float:
        """The activation at the peak."""
        return float(self.values[self.peak])


@dataclass(frozen=True)
class ExampleGroup:
    """Examples under one heading: the strongest, or some from an interval of activations.

    Attributes:
        name: the heading.
        low, high: the activations that it covers, ``low < activation <= high``; None: not known.
        examples: the strongest first.
    """

    name: str
    low: Optional[float]
    high: Optional[float]
    examples: tuple[Example, ...]


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many tokens have which activation, of those where the feature is active.

    Attributes:
        edges: float64 [b + 1], ascending; bin i is ``edges[i] <= activation < edges[i + 1]``, the
            last with its upper edge.
        counts: int64 [b]. No bins at all: it is not known.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise FeaturePageError(
                "A histogram cannot be shown",
                f"it has {len(self.counts)} bins and {len(self.edges)} edges",
            )


@dataclass(frozen=True)
class Neighbour:
    """A feature that resembles another.

    Attributes:
        site, index: which.
        score: how much, at most 1: the cosine of both decoders, or of both firing patterns.
        promotes: the tokens that it promotes most.
        label: what somebody called it, or "".
    """

    site: Site
    index: int
    score: float
    promotes: tuple[str, ...] = ()
    label: str = ""


PERSON = "a person"
"""Who says what was typed in the studio."""


@dataclass(frozen=True)
class FeatureLabel:
    """What a feature is called.

    Attributes:
        text: the label; plain text, never markup.
        by: who says so: ``PERSON``, or an agent's name.
        when: ISO 8601, UTC.
    """

    text: str
    by: str
    when: str


@dataclass(frozen=True)
class FeaturePage:
    """Everything that is kept of one feature.

    Attributes:
        site, index: the dictionary's module, and the latent.
        n_fired: at how many tokens it is active; −1: not known.
        n_tokens: of how many (norm sinks are not among them).
        counted: whether it is known of how many tokens. If not, only the share is, and both numbers
            are a way to write it down (see ``SHARES``).
        max_activation: the largest activation; 0 where it is dead, NaN where it is not known.
        histogram: of the activations.
        groups: examples: first the strongest, then those of intervals from the top down.
        promoted, suppressed: (token, effect on its logit per unit of activation), the strongest
            first; see ``FeatureRecord``. NaN: how strong the effect is is not known.
        near_by_decoder: features that write in nearly the same direction, the nearest first.
        near_by_firing: features that are active at the same tokens.
        label: what it is called; None: nothing yet.
    """

    site: Site
    index: int
    n_fired: int
    n_tokens: int
    max_activation: float
    histogram: Histogram
    groups: tuple[ExampleGroup, ...] = ()
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    near_by_decoder: tuple[Neighbour, ...] = ()
    near_by_firing: tuple[Neighbour, ...] = ()
    label: Optional[FeatureLabel] = None
    counted: bool = True

    @property
    def density(self) -> float:
        """The share of tokens at which it is active; NaN: not known."""
        return share_of(self.n_fired, self.n_tokens)

    @property
    def dead(self) -> bool:
        """Whether it was never active in this text."""
        return self.n_fired == 0
