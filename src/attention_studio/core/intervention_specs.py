"""What is to be changed in a model, in words: no torch here, so that the window can use it freely.

An ``Intervention`` is a list of ``Edit``; an edit changes the activation of some features (one, or
a supernode of several) to what an action makes of it. ``core.interventions`` carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Optional

from attention_studio.core.feature_names import FeatureName, Number
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

Action = Literal["set", "scale", "add", "ablate", "swap"]
"""What becomes of an activation ``a``, the one that the dictionary reads at that moment, so after
everything that was changed below it:

- ``set``: the value, in units of activation;
- ``scale``: value * a;
- ``add``: a + value;
- ``ablate``: 0;
- ``swap``: what the same latent has on another prompt.
"""
WITH_VALUE: tuple[Action, ...] = ("set", "scale", "add")

_LARGEST = 1e15
"""Norms square what they read, and float32 has no squares of much more."""


class InterventionError(StudioError):
    """An intervention that cannot be carried out."""


class FeatureAt(NamedTuple):
    """A feature, or several at once.

    Attributes:
        site: the module whose dictionary it belongs to.
        position: of the token; None: every position where dictionaries are on, and of every token
            that is generated.
        latent: its number in the dictionary; None: all latents.
    """

    site: Site
    position: Optional[int]
    latent: Optional[int]

    @classmethod
    def parse(cls, text: str) -> FeatureAt:
        """Read ``LAYER/POSITION/FEATURE``: ``L12/P5/F1043`` or ``12/5/1043`` is latent 1043 of the
        MLP of layer 12 at position 5, ``A12/*/F7`` latent 7 of its attention at every position,
        ``L12/5/*`` all latents.

        Raises:
            InterventionError: it is something else.
        """
        name = FeatureName.read(text)
        if name is None or name.position is None:
            raise InterventionError(
                f"“{text}” names no feature",
                "a feature is LAYER/POSITION/FEATURE",
                "write for example L12/P5/F1043 (MLP), A12/P5/F7 (attention), or * for all "
                "positions",
            )
        return cls(
            name.site,
            None if name.position == "*" else name.position,
            None if name.latent == "*" else name.latent,
        )

    def __str__(self) -> str:
        position: Number = "*" if self.position is None else self.position
        return str(FeatureName(self.site, position, "*" if self.latent is None else self.latent))


@dataclass(frozen=True)
class Edit:
    """One action on one or several features.

    Attributes:
        features: which; several are a supernode.
        action: see ``Action``.
        value: for ``set`` and ``add`` in units of activation, for ``scale`` a multiple.
        from_prompt: for ``swap``, where the activations come from.
        from_position: for ``swap``, at which position there; None: at the same. Only for features
            at one position. A swap at every position leaves generated tokens alone: the other
            prompt has no counterpart of theirs.

    Raises:
        InterventionError: the parts do not fit together.
    """

    features: tuple[FeatureAt, ...]
    action: Action
    value: float = 0.0
    from_prompt: Optional[str] = None
    from_position: Optional[int] = None

    def __post_init__(self) -> None:
        if not self.features:
            raise InterventionError("An edit names no feature", "", "name at least one")
        if not math.isfinite(self.value) or abs(self.value) > _LARGEST:
            raise InterventionError(
                f"{self.value} is no value for {self.features[0]}",
                "activations are finite numbers",
                f"give one between -{_LARGEST:g} and {_LARGEST:g}",
            )
        if self.action in ("set", "add") and any(at.latent is None for at in self.features):
            raise InterventionError(
                f"All latents of a dictionary cannot be {self.action} to one value",
                "they are ablated, scaled or swapped together",
                "name one latent",
            )
        if (self.action == "swap") != (self.from_prompt is not None):
            raise InterventionError(
                "Swapped activations come from another prompt, and only they do",
                "",
                "give that prompt with the features to swap",
            )
        if self.from_position is not None and (
            self.action != "swap" or any(at.position is None for at in self.features)
        ):
            raise InterventionError(
                "Only a swap at one position takes from a position",
                "",
                "name the position that is changed, or leave the other one out",
            )

    def __str__(self) -> str:
        names = ", ".join(map(str, self.features))
        if self.action in WITH_VALUE:
            return f"{self.action} {names} = {self.value:g}"
        if self.action == "ablate":
            return f"ablate {names}"
        there = "" if self.from_position is None else f" at P{self.from_position}"
        return f"swap {names} from {self.from_prompt!r}{there}"


@dataclass(frozen=True)
class Intervention:
    """Edits that are made at once. Where two change the same feature at the same position, the
    later one counts."""

    edits: tuple[Edit, ...]
    name: str = ""

    def __str__(self) -> str:
        return self.name or "; ".join(map(str, self.edits))


FreezeMode = Literal["none", "attention", "all"]


@dataclass(frozen=True)
class Freeze:
    """What stays as it was on the untouched prompt while the change passes through.

    Attributes:
        mode: one of

            - ``none``: nothing. What the model really does: its modules run on what they read now,
              and ``change of activation * decoder row`` is added to the real output of the module
              (of every MLP that it writes to, in a cross-layer transcoder). So what dictionaries
              miss stays in, and the model's own nonlinearity decides what happens downstream.
            - ``attention``: of the layers from ``first_layer`` to ``last_layer``, the attention
              patterns (the model's, and the Lorsas' through which latents are read) and the
              denominators of the norms before attention and MLP and after attention; the
              denominator of the final norm too, where ``last_layer`` is the last. The MLPs run for
              real, with a norm that stands after them (Gemma). Everything at and before the
              prompt's last token is frozen so; generated tokens have no untouched counterpart and
              freeze nothing.
            - ``all``: attention patterns and norm denominators of all layers, what dictionaries
              miss, and which latents are active. What is left is the local linear model, so this
              is the graph's own prediction. A module without dictionary adds what it added before,
              except a kept attention, which is linear under its frozen pattern. A latent that was
              silent can be set, but does not respond.
        first_layer, last_layer: for ``attention``; None: to the last layer.
        features_respond: for ``all``: whether active features downstream pass the change on
            (total effect) or keep their activation (direct effect: then scaling a feature by 2
            moves every target by exactly its edge).

    Raises:
        InterventionError: the layers are none.
    """

    mode: FreezeMode = "none"
    first_layer: int = 0
    last_layer: Optional[int] = None
    features_respond: bool = True

    def __post_init__(self) -> None:
        last = self.last_layer
        if self.first_layer < 0 or (last is not None and last < self.first_layer):
            raise InterventionError(
                f"From layer {self.first_layer} to {last} there is nothing to freeze",
                "",
                "give the lower layer first",
            )

    def layers(self, n_layers: int) -> range:
        """The layers of a model of ``n_layers`` whose attention is frozen.

        Raises:
            InterventionError: the model has no such layer.
        """
        last = n_layers - 1 if self.last_layer is None else self.last_layer
        if max(self.first_layer, last) >= n_layers:
            raise InterventionError(
                f"There is no layer {max(self.first_layer, last)} to freeze",
                f"layers run from 0 to {n_layers - 1}",
                "choose among them",
            )
        return range(self.first_layer, last + 1)


def parse_edit(action: Action, text: str, from_prompt: Optional[str] = None) -> Edit:
    """Read ``FEATURE[,FEATURE…]=VALUE`` (set, scale, add), ``FEATURE[,FEATURE…]`` (ablate), or
    ``FEATURE[,FEATURE…][=POSITION]`` (swap, with the position in ``from_prompt``).

    Raises:
        InterventionError: it cannot be understood.
    """
    names, equals, value = text.partition("=")
    features = tuple(FeatureAt.parse(name) for name in names.split(","))
    if action in WITH_VALUE:
        try:
            number = float(value)
        except ValueError:
            raise InterventionError(
                f"“{text}” says no value", "", f"write {names}=2.5 to {action}"
            ) from None
        return Edit(features, action, number)
    if action == "ablate":
        if equals:
            raise InterventionError(f"“{text}” says a value", "ablated is 0", "leave it out")
        return Edit(features, action)
    position = value.strip().removeprefix("P").removeprefix("p")
    if equals and not (position.isascii() and position.isdigit()):
        raise InterventionError(
            f"“{value}” is no position in the other prompt", "", f"write {names}=4"
        )
    return Edit(
        features,
        action,
        from_prompt=from_prompt,
        from_position=int(position) if equals else None,
    )


def features_named(names: Iterable[str]) -> tuple[FeatureAt, ...]:
    """Those of a graph's nodes, by name, that are features at a position."""
    found = (FeatureName.read(name) for name in names)
    return tuple(
        FeatureAt(name.site, name.position, name.latent)
        for name in found
        if name is not None and isinstance(name.position, int) and isinstance(name.latent, int)
    )


def supernode(features: Iterable[FeatureAt], action: Action, value: float = 0.0) -> Intervention:
    """The intervention that does the same to every feature of a group."""
    return Intervention((Edit(tuple(features), action, value),))
