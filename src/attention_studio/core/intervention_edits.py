"""Edits worked out for one prompt: which latent, at which position, in which case, becomes what.

Every action is ``factor * now + added``, so that several experiments (cases) run as one batch:
set and swap (0, value), scale (value, 0), add (1, value), ablate (0, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.active_features import N_LEFT_OUT
from attention_studio.core.intervention_specs import (
    Edit,
    FeatureAt,
    Intervention,
    InterventionError,
)
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site

_LATER = -1
"""Stands for the positions of generated tokens."""

OtherPrompts = Callable[[str], LocalModel]
"""Where swapped activations are looked up."""


class _Rule(NamedTuple):
    """What becomes of an activation; ``row`` [s] in the place of ``added`` for all latents."""

    factor: float
    added: float
    row: Optional[Tensor] = None


@dataclass(frozen=True)
class SiteEdits:
    """The edits of one module's latents in one pass; positions are counted from its first token.

    Attributes:
        case, position: [u] int64, the places where anything is edited, each once.
        place: [m] int64, of each edited latent: which of the places.
        latent: [m] int64.
        factor, added: [m].
        whole: [w] int64, the places where all latents are edited; ``place`` and ``latent`` take
            precedence there. ``whole_factor`` [w], ``whole_added`` [w, s].
    """

    case: Tensor
    position: Tensor
    place: Tensor
    latent: Tensor
    factor: Tensor
    added: Tensor
    whole: Tensor
    whole_factor: Tensor
    whole_added: Tensor


class MovedLatents(NamedTuple):
    """Latents whose activation was changed: ``case, position, latent`` [m] int64, and what it is
    ``now`` and ``after`` [m]."""

    case: Tensor
    position: Tensor
    latent: Tensor
    now: Tensor
    after: Tensor


class EditTable:
    """The edits of n cases on one prompt.

    Raises:
        InterventionError: an edit names a module without dictionary, a latent or position that
            there is not, or one where dictionaries are off.
    """

    def __init__(
        self, local: LocalModel, cases: Sequence[Intervention], others: OtherPrompts
    ) -> None:
        self.n = len(cases)
        self._local = local
        self._others = others
        self.latents: dict[Site, SiteLatents] = {}
        self._rules: dict[Site, dict[tuple[int, int, Optional[int]], _Rule]] = {}
        for case, intervention in enumerate(cases):
            for edit in intervention.edits:
                for at in edit.features:
                    self._enter(case, edit, at)

    @classmethod
    def empty(cls, local: LocalModel, n: int) -> EditTable:
        """The table of n cases in which nothing is edited."""
        return cls(local, [Intervention(())] * n, lambda _prompt: local)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules whose latents are edited, in order of the forward pass."""
        return tuple(sorted(self._rules))

    @property
    def written(self) -> tuple[Site, ...]:
        """The modules whose outputs change by that."""
        return tuple(
            sorted({place for site in self._rules for place in self.latents[site].decoders})
        )

    def part(self, start: int, stop: int) -> EditTable:
        """The table of some of the cases, counted from the first of them."""
        part = EditTable(self._local, (), self._others)
        part.n = stop - start
        part.latents = self.latents
        for site, rules in self._rules.items():
            mine = {
                (case - start, position, index): rule
                for (case, position, index), rule in rules.items()
                if start <= case < stop
            }
            if mine:
                part._rules[site] = mine
        return part

    def at(self, site: Site, start: int, stop: int) -> Optional[SiteEdits]:
        """The edits of a module in a pass over positions from ``start`` up to ``stop``, or None."""
        length = len(self._local.ids)
        rules: dict[tuple[int, int, Optional[int]], _Rule] = {}
        for (case, position, index), rule in self._rules.get(site, {}).items():
            if position == _LATER:
                for later in range(max(start, length), stop):
                    rules[case, later - start, index] = rule
            elif start <= position < stop:
                rules[case, position - start, index] = rule
        if not rules:
            return None
        like = self._local.on
        places: dict[tuple[int, int], int] = {}
        for case, position, _ in rules:
            places.setdefault((case, position), len(places))
        single = [(places[c, p], i, r) for (c, p, i), r in rules.items() if i is not None]
        whole = [(places[c, p], r) for (c, p, i), r in rules.items() if i is None]
        silent = like.new_zeros(self.latents[site].n)
        rows = [silent if rule.row is None else rule.row for _, rule in whole]

        def whole_numbers(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=like.device)

        return SiteEdits(
            case=whole_numbers([case for case, _ in places]),
            position=whole_numbers([position for _, position in places]),
            place=whole_numbers([place for place, _, _ in single]),
            latent=whole_numbers([index for _, index, _ in single]),
            factor=like.new_tensor([rule.factor for _, _, rule in single]),
            added=like.new_tensor([rule.added for _, _, rule in single]),
            whole=whole_numbers([place for place, _ in whole]),
            whole_factor=like.new_tensor([rule.factor for _, rule in whole]),
            whole_added=torch.stack(rows) if rows else like.new_zeros(0, len(silent)),
        )

    # ---- working out ---------------------------------------------------------------------------

    def _enter(self, case: int, edit: Edit, at: FeatureAt) -> None:
        self._check(at)
        rules = self._rules.setdefault(at.site, {})
        length = len(self._local.ids)
        positions = [at.position]
        if at.position is None:
            positions = [*range(N_LEFT_OUT, length)]
            if edit.action != "swap":
                positions.append(_LATER)
        for position in positions:
            assert position is not None  # None was spelled out above
            if at.latent is None:
                # It takes precedence over what was said before of single latents.
                for key in [k for k in rules if k[:2] == (case, position)]:
                    del rules[key]
            rules[case, position, at.latent] = self._rule(edit, at, position)

    def _rule(self, edit: Edit, at: FeatureAt, position: int) -> _Rule:
        if edit.action == "scale":
            return _Rule(edit.value, 0.0)
        if edit.action == "add":
            return _Rule(1.0, edit.value)
        if edit.action != "swap":
            return _Rule(0.0, edit.value if edit.action == "set" else 0.0)
        assert edit.from_prompt is not None  # Edit checks it
        other = self._others(edit.from_prompt)
        source = position if edit.from_position is None else edit.from_position
        _check_source(other, edit, at, len(self._local.ids), source)
        features = other.features
        here = features.of(at.site)
        mine = features.position[here] == source
        row = self._local.on.new_zeros(self.latents[at.site].n)
        row[features.index[here][mine]] = features.activation[here][mine]
        if at.latent is None:
            return _Rule(0.0, 0.0, row)
        return _Rule(0.0, float(row[at.latent]))

    def _check(self, at: FeatureAt) -> None:
        local = self._local
        adapter, site = local.adapter, at.site
        if site.layer >= adapter.n_layers:
            raise InterventionError(
                f"There is no layer {site.layer}",
                f"layers run from 0 to {adapter.n_layers - 1}",
                "choose one of them",
            )
        if site not in self.latents:
            if site not in local.dictionaries.sites:
                known = ", ".join(found.label for found in local.dictionaries.sites)
                raise InterventionError(
                    f"{site.label} has no dictionary",
                    f"this CRM replaces {known or 'nothing'}",
                    "choose a feature of one of these",
                )
            self.latents[site] = SiteLatents(local.dictionaries, site)
        n = self.latents[site].n
        if at.latent is not None and not 0 <= at.latent < n:
            raise InterventionError(
                f"{site.label} has no feature {at.latent}",
                f"its features run from 0 to {n - 1}",
                "choose one of them",
            )
        length = len(local.ids)
        if at.position is not None and not N_LEFT_OUT <= at.position < length:
            raise InterventionError(
                f"No feature can be changed at position {at.position}",
                f"the prompt has positions 0 to {length - 1}, and at the first dictionaries are "
                "off",
                f"choose one from {N_LEFT_OUT} to {length - 1}, or * for all",
            )


def _check_source(other: LocalModel, edit: Edit, at: FeatureAt, length: int, source: int) -> None:
    there = len(other.ids)
    if edit.from_position is None and there != length:
        raise InterventionError(
            f"{at} cannot be swapped by position",
            f"this prompt has {length} tokens and {edit.from_prompt!r} has {there}",
            "name one position, and the one in the other prompt: L3/P5/F7=4",
        )
    if not N_LEFT_OUT <= source < there:
        raise InterventionError(
            f"Nothing can be taken from position {source} of {edit.from_prompt!r}",
            f"it has positions 0 to {there - 1}, and at the first dictionaries are off",
            f"choose one from {N_LEFT_OUT} to {there - 1}",
        )


def move(edits: SiteEdits, now: Tensor) -> MovedLatents:
    """Apply edits to the activations [u, s] at their places."""
    case, position = edits.case[edits.place], edits.position[edits.place]
    own = now[edits.place, edits.latent]
    single = MovedLatents(case, position, edits.latent, own, edits.factor * own + edits.added)
    if not len(edits.whole):
        return single
    rows = now[edits.whole]
    after = edits.whole_factor.unsqueeze(1) * rows + edits.whole_added
    # What is said of single latents takes precedence.
    where = torch.full_like(edits.case, -1)
    where[edits.whole] = torch.arange(len(edits.whole), device=now.device)
    row = where[edits.place]
    after[row[row >= 0], edits.latent[row >= 0]] = rows[row[row >= 0], edits.latent[row >= 0]]
    w, latent = (after != rows).nonzero(as_tuple=True)
    place = edits.whole[w]
    whole = MovedLatents(
        edits.case[place], edits.position[place], latent, rows[w, latent], after[w, latent]
    )
    return MovedLatents(*(torch.cat(pair) for pair in zip(single, whole, strict=True)))


def written_rows(
    latents: Mapping[Site, SiteLatents], moved: Mapping[Site, MovedLatents], place: Site
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the moved latents add to the output of one module: cases, positions [m], rows [m, d]."""
    found = []
    for site, part in moved.items():
        decoder = latents[site].decoders.get(place)
        if decoder is not None and len(part.latent):
            delta = (part.after - part.now).unsqueeze(1)
            found.append((part.case, part.position, decoder[part.latent] * delta))
    return found
