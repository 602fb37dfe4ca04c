"""What is traced of a prompt, and how much of it. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Optional, Union

from attention_studio.utils.errors import StudioError


class GraphError(StudioError):
    """A question was asked of a graph that it cannot answer, or a stored graph cannot be read."""


class GraphBudgetError(GraphError):
    """A graph would take more memory than it may.

    Attributes:
        smaller: settings with which it fits; None: no setting would make it fit.
    """

    def __init__(self, what: str, why: str, todo: str, smaller: Optional[GraphSettings]) -> None:
        super().__init__(what, why, todo)
        self.smaller = smaller


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is traced.

    What it explains are its outputs: by default the most probable next tokens. ``tokens``,
    ``contrast`` and ``features`` name others, alone or together.

    Attributes:
        max_logits: at most so many output tokens.
        logit_mass: the fewest most probable tokens that reach this probability together.
        tokens: these next tokens, as text or as ids. They weigh alike.
        contrast: why the first of two next tokens and not the second: the difference of their
            logits.
        features: these features' pre-activations, by name (``L12/P5/F1043``).
        positions: of the tokens whose next token is explained, counted from the start token, or
            from the end where negative.
        max_features: trace the inputs of at most so many features, those with the largest total
            effect on the outputs; None: of all.
        influence: trace features in order of their influence until those that have been traced
            hold this share of the influence of all features; None: all.
        precision: of the products (see ``attribution.trace``).
        max_gigabytes: bound on the edges. With ``influence`` they are there twice for a moment,
            when its rounds are joined.
        batch: about so many targets at once; None: as many as are fast. Bounds the working memory,
            changes no number.

    Raises:
        GraphError: a setting has a value with which nothing could be traced.
    """

    max_logits: int = 10
    logit_mass: float = 0.95
    max_features: Optional[int] = None
    max_gigabytes: float = 2.0
    batch: Optional[int] = None
    tokens: tuple[Union[str, int], ...] = ()
    contrast: tuple[Union[str, int], ...] = ()
    features: tuple[str, ...] = ()
    positions: tuple[int, ...] = (-1,)
    influence: Optional[float] = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for field in fields(self):  # a stored graph has lists
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        # A file may say anything, so types are looked at too.
        fits = {
            "max_logits": _whole(self.max_logits) and self.max_logits >= 1,
            "logit_mass": _number(self.logit_mass) and 0.0 < self.logit_mass <= 1.0,
            "max_features": self.max_features is None
            or (_whole(self.max_features) and self.max_features >= 0),
            "max_gigabytes": _number(self.max_gigabytes) and self.max_gigabytes > 0.0,
            "batch": self.batch is None or (_whole(self.batch) and self.batch >= 1),
            "tokens": _all(self.tokens, str, int),
            "contrast": _all(self.contrast, str, int)
            and (not self.contrast or len(set(self.contrast)) == 2 == len(self.contrast)),
            "features": _all(self.features, str),
            "positions": _all(self.positions, int) and len(self.positions) > 0,
            "influence": self.influence is None
            or (_number(self.influence) and 0.0 < self.influence <= 1.0),
            "precision": self.precision in ("float32", "bfloat16"),
        }
        for name, usable in fits.items():
            if not usable:
                raise GraphError(
                    f"{name} = {getattr(self, name)} cannot be used for a graph",
                    "it needs at least one output, shares above 0 and at most 1, two different "
                    "tokens or none to contrast, and no negative number of features",
                    "correct it or leave it out",
                )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _all(values: Any, *types: type) -> bool:
    """Whether these are a tuple of such values; True is no number here."""
    return isinstance(values, tuple) and all(
        isinstance(value, types) and not isinstance(value, bool) for value in values
    )
