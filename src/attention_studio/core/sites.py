"""Which module of a model is meant. No torch here, so that the window can use it freely."""

from __future__ import annotations

from typing import Literal, NamedTuple

SiteKind = Literal["attention", "mlp"]
SITE_KINDS: tuple[SiteKind, ...] = ("attention", "mlp")
"""The kinds in order of the forward pass; arrays hold a kind as its place in here."""


class Site(NamedTuple):
    """One module that a dictionary can stand in for. Sites sort in the order of the forward pass
    (in a model with parallel residual both read the same stream, and the order is a convention)."""

    layer: int
    kind: SiteKind

    @classmethod
    def of_number(cls, number: int) -> Site:
        """The site that has a ``number``."""
        return cls(number // 2, SITE_KINDS[number % 2])

    @property
    def number(self) -> int:
        """Its place among all modules, in order of the forward pass: twice the layer, and one more
        for an MLP."""
        return 2 * self.layer + SITE_KINDS.index(self.kind)

    @property
    def label(self) -> str:
        """For people: ``A3`` is the attention of layer 3, ``L3`` its MLP."""
        return f"{'A' if self.kind == 'attention' else 'L'}{self.layer}"

    @property
    def name(self) -> str:
        """For files and keys: ``attention_03``, ``mlp_03``."""
        return f"{self.kind}_{self.layer:02d}"

    def __str__(self) -> str:
        return f"{self.kind} {self.layer}"


def mlp_sites(layers: tuple[int, ...]) -> tuple[Site, ...]:
    """The MLPs of some layers."""
    return tuple(Site(layer, "mlp") for layer in layers)


def all_sites(n_layers: int) -> tuple[Site, ...]:
    """Every module of a model, in order of the forward pass; each stands at its ``number``."""
    return tuple(Site.of_number(number) for number in range(2 * n_layers))
