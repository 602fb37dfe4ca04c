"""How features are named, in words that people type and files carry: one grammar for the studio.

``L12/P5/F1043`` is latent 1043 of the dictionary of layer 12's MLP at position 5, ``A12/P5/F7``
latent 7 of that layer's attention there; ``*`` stands for all positions or all latents. A name
without a position, ``L12/F1043``, means the latent wherever it is. When typed, the letters may be
small or left out (no letter: an MLP).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Optional, Union

from attention_studio.core.sites import Site

Number = Union[int, Literal["*"]]

_NAME = re.compile(
    r"([LA]?)([0-9]{1,4})/(?:(?:P?([0-9]{1,9})|(\*))/)?(?:F?([0-9]{1,9})|(\*))", re.IGNORECASE
)
"""Numbers are bounded, so that nobody has to read one of a million digits."""


class FeatureName(NamedTuple):
    """What a name says: ``position`` None where it says none, ``*`` for all."""

    site: Site
    position: Optional[Number]
    latent: Number

    @classmethod
    def read(cls, text: str) -> Optional[FeatureName]:
        """What a text names, or None: it is no feature's name."""
        match = _NAME.fullmatch(text.strip())
        if match is None:
            return None
        kind, layer, position, everywhere, latent, _ = match.groups()
        found: Optional[Number] = None
        if position is not None:
            found = int(position)
        elif everywhere is not None:
            found = "*"
        site = Site(int(layer), "attention" if kind.upper() == "A" else "mlp")
        return cls(site, found, "*" if latent is None else int(latent))

    def __str__(self) -> str:
        parts = [self.site.label]
        if self.position is not None:
            parts.append("*" if self.position == "*" else f"P{self.position}")
        parts.append("*" if self.latent == "*" else f"F{self.latent}")
        return "/".join(parts)
