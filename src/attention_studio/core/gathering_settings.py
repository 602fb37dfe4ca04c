"""What is gathered of features, and how."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Optional, Union

from attention_studio.core.feature_assembly import N_INTERVALS
from attention_studio.core.feature_firing import SINK_FACTOR
from attention_studio.core.gathering_checkpoint import GatheringError


@dataclass(frozen=True)
class GatheringSettings:
    """What is gathered.

    Attributes:
        strongest: examples of the largest activations.
        per_interval: examples of each fifth of the range of activations.
        before, after: tokens shown on either side of an example's peak.
        neighbours: whether features are compared with each other, which takes time by the square of
            their number.
        firing_tokens: at about how many tokens it is compared which features fire together.
        sink_factor: tokens whose stream is so many times as long as the median are left out; 0:
            none are.
        seed: which examples of an interval are drawn.
        max_tokens: of the positions that dictionaries see, look at no more; None: at all.
        memory_mib: for examples that are not on the disk yet; changes no page.
        checkpoint_seconds: how often what was gathered is written to the disk, at least a twentieth
            of the time being left to gathering; changes no page.
    """

    strongest: int = 16
    per_interval: int = 5
    before: int = 24
    after: int = 8
    neighbours: bool = True
    firing_tokens: int = 16_384
    sink_factor: float = SINK_FACTOR
    seed: int = 0
    max_tokens: Optional[int] = None
    memory_mib: float = 256.0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, usable in (
            ("strongest", 0 < self.strongest <= 1000),
            ("per_interval", 0 <= self.per_interval <= 1000),
            ("before", 0 <= self.before <= 1000),
            ("after", 0 <= self.after <= 1000),
            ("firing_tokens", self.firing_tokens >= 0),
            ("sink_factor", self.sink_factor == 0 or 1 < self.sink_factor < math.inf),
            ("max_tokens", self.max_tokens is None or self.max_tokens > 0),
            ("memory_mib", self.memory_mib > 0),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0),
        ):
            if not usable:
                raise GatheringError(f"{name} = {getattr(self, name)} cannot be used")

    def of_pages(self) -> dict[str, Union[int, float, str]]:
        """Those that change pages."""
        left_out = ("memory_mib", "checkpoint_seconds", "max_tokens")
        return {name: value for name, value in asdict(self).items() if name not in left_out} | {
            "max_tokens": self.max_tokens or 0,
            "intervals": N_INTERVALS,
        }
