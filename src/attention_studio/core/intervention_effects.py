"""What a batch of edits does: measured in the model, or predicted by the local linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.changed_pass import ChangedPass, seen_positions
from attention_studio.core.intervention_edits import EditTable, MovedLatents, SiteEdits
from attention_studio.core.intervention_specs import Freeze
from attention_studio.core.replacement_model import ActivationEdit, LocalModel, StreamChange
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site

VALUES_PER_PASS = 1 << 26
"""Bounds the batch of a pass: the widest layer of all its tokens is in memory at once."""


class LatentRows(NamedTuple):
    """Latents of one case, columns [m] (see ``FeatureEffects``)."""

    site: Tensor
    position: Tensor
    latent: Tensor
    pre_before: Tensor
    pre_after: Tensor
    activation_before: Tensor
    activation_after: Tensor


@dataclass
class Effects:
    """What n cases and the untouched prompt (the last row) show.

    Attributes:
        logits: [n + 1, V] at the last position, under the model's cap.
        pre, activation: [n + 1, n_features] of the features that are active on the untouched
            prompt.
        newly_active, edited: of each case, module by module.
    """

    logits: Tensor
    pre: Tensor
    activation: Tensor
    newly_active: list[list[LatentRows]]
    edited: list[list[LatentRows]]

    @classmethod
    def untouched(cls, local: LocalModel, n: int) -> Effects:
        """Of n cases that do nothing."""
        own = local.features.activation.repeat(n + 1, 1)
        logits = local.on.new_zeros(n + 1, 0)
        return cls(logits, own.clone(), own, [[] for _ in range(n)], [[] for _ in range(n)])


def batch_size(local: LocalModel, n_latents: int) -> int:
    """How many cases go into one batch, beside the untouched prompt, where ``n_latents`` of each
    token are looked at."""
    per_case = len(local.ids) * max(local.adapter.d_mlp, n_latents)
    return max(1, VALUES_PER_PASS // per_case - 1)


@torch.no_grad()
def measured(local: LocalModel, table: EditTable, freeze: Freeze, newly_active: int) -> Effects:
    """Run the model with the edits of a table, in one batch with the untouched prompt.

    ``newly_active`` latents that fire only now are kept of each module. ``freeze`` is ``none`` or
    ``attention``.
    """
    n, features = table.n, local.features
    effects = Effects.untouched(local, n)

    def watch(
        site: Site, inputs: Tensor, pattern: Optional[Tensor], moved: Optional[MovedLatents]
    ) -> None:
        latents = table.latents.get(site) or SiteLatents(local.dictionaries, site)
        pre = latents.pre_activations(inputs, pattern)
        active = seen_positions(latents.activate(pre))
        fresh = active[:n].masked_fill(active[n] > 0, 0.0)
        if moved is not None:
            where = (moved.case, moved.position, moved.latent)
            before = (pre[n][where[1:]], active[n][where[1:]])
            active[where], fresh[where] = moved.after, 0.0
            columns = (*where[1:], before[0], pre[where], before[1], moved.after)
            _share_out(effects.edited, site, moved.case, columns)
        here = features.of(site)
        place = (features.position[here], features.index[here])
        effects.pre[:, here] = pre[:, place[0], place[1]]
        effects.activation[:, here] = active[:, place[0], place[1]]
        if newly_active:
            flat = fresh.flatten(1)
            value, number = flat.topk(min(newly_active, flat.shape[1]))
            case, column = value.nonzero(as_tuple=True)
            number = number[case, column]
            at = (number // latents.n, number % latents.n)
            columns = (*at, pre[n][at], pre[case, at[0], at[1]], active[n][at], value[case, column])
            _share_out(effects.newly_active, site, case, columns)

    # Below the lowest edit nothing moves.
    watched = [site for site in local.dictionaries.sites if site >= min(table.sites, default=site)]
    changed = ChangedPass(local, table, freeze, watch=watch, watched=watched)
    batch = torch.tensor([local.ids] * (n + 1), device=local.adapter.device)
    with changed.active():
        changed.begin(0)
        normed = local.adapter.final_normed(batch)
    effects.logits = local.adapter.unembed(normed[:, -1])
    return effects


@torch.no_grad()
def predicted(local: LocalModel, table: EditTable, features_respond: bool) -> Effects:
    """What the local linear model says that the edits of a table do, with everything frozen."""
    n, adapter, record = table.n, local.adapter, local.record
    effects = Effects.untouched(local, n)
    held, silent = _linear_edits(local, table, effects)
    response = local.push(n, silent, features_respond, held)
    effects.pre[:n] += response.features
    effects.activation[:n] += response.activations
    for case, feature in zip(held.case.tolist(), held.feature.tolist(), strict=True):
        number = torch.tensor([feature], device=local.on.device)
        row = (
            local.features.site[number],
            local.features.position[number],
            local.features.index[number],
            effects.pre[n, number],
            effects.pre[case, number],
            effects.activation[n, number],
            effects.activation[case, number],
        )
        effects.edited[case].append(LatentRows(*row))
    norm = adapter.final_norm()
    own = norm.apply(record.resid_final[-1], record.final_scale[-1])
    moved = norm.push(response.resid_final[:, -1], record.final_scale[-1])
    effects.logits = adapter.unembed(torch.cat([own + moved, own.unsqueeze(0)]))
    return effects


def linear_edits(local: LocalModel, table: EditTable) -> tuple[ActivationEdit, list[StreamChange]]:
    """The edits of a table as the local linear model takes them: active features that are held, and
    what silent latents add."""
    return _linear_edits(local, table, None)


def _linear_edits(
    local: LocalModel, table: EditTable, effects: Optional[Effects]
) -> tuple[ActivationEdit, list[StreamChange]]:
    held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    silent: list[StreamChange] = []
    for site in table.sites:
        edits = table.at(site, 0, len(local.ids))
        if edits is None:
            continue
        place, latent, factor, added = _spelled_out(local, site, edits)
        feature = _feature_at(local, site, edits, table.latents[site].n)[place, latent]
        active = feature >= 0
        case, position = edits.case[place], edits.position[place]
        held.append((case[active], feature[active], factor[active], added[active]))
        rest = ~active & (added != 0)
        for to, decoder in table.latents[site].decoders.items():
            rows = decoder[latent[rest]] * added[rest].unsqueeze(1)
            silent.append(StreamChange(to, case[rest], position[rest], rows))
        if effects is not None and bool(rest.any()):
            pre = _own_pre(local, site, table.latents[site])[position[rest], latent[rest]]
            columns = (position[rest], latent[rest], pre, pre, torch.zeros_like(pre), added[rest])
            _share_out(effects.edited, site, case[rest], columns)
    whole = torch.zeros(0, dtype=torch.long, device=local.on.device)
    none = (whole, whole, local.on.new_zeros(0), local.on.new_zeros(0))
    return ActivationEdit(*map(torch.cat, zip(none, *held, strict=True))), silent


def _spelled_out(
    local: LocalModel, site: Site, edits: SiteEdits
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edits of single latents and of whole places, all as (place, latent, factor, added) [m]."""
    features, here = local.features, local.features.of(site)
    mask = edits.whole_added != 0
    at = edits.position[edits.whole]
    w, f = (at.unsqueeze(1) == features.position[here]).nonzero(as_tuple=True)
    mask[w, features.index[here][f]] = True
    row = torch.full_like(edits.case, -1)
    row[edits.whole] = torch.arange(len(edits.whole), device=row.device)
    single = row[edits.place]
    mask[single[single >= 0], edits.latent[single >= 0]] = False
    w, latent = mask.nonzero(as_tuple=True)
    return (
        torch.cat([edits.place, edits.whole[w]]),
        torch.cat([edits.latent, latent]),
        torch.cat([edits.factor, edits.whole_factor[w]]),
        torch.cat([edits.added, edits.whole_added[w, latent]]),
    )


def _feature_at(local: LocalModel, site: Site, edits: SiteEdits, n_latents: int) -> Tensor:
    """[u, s] which active feature each latent is at the places of edits; -1: it is silent."""
    features, here = local.features, local.features.of(site)
    found = torch.full((len(edits.case), n_latents), -1, device=local.on.device)
    u, f = (edits.position.unsqueeze(1) == features.position[here]).nonzero(as_tuple=True)
    found[u, features.index[here][f]] = f + here.start
    return found


def _own_pre(local: LocalModel, site: Site, latents: SiteLatents) -> Tensor:
    """Pre-activations [T, s] of a module's latents on the untouched prompt."""
    norm, scale = local.norm_at(site)
    if site.kind == "attention":
        inputs = norm.apply(local.record.resid_pre[site.layer], scale)
        return latents.pre_activations(inputs, local.lorsa_pattern(site.layer))
    return latents.pre_activations(local.record.mlp_in[site.layer])


def _share_out(
    to: list[list[LatentRows]], site: Site, case: Tensor, columns: Sequence[Tensor]
) -> None:
    """Give each case its rows of columns [m]: position, latent, and the four values."""
    for one in sorted(set(case.tolist())):
        mine = case == one
        position = columns[0][mine]
        number = torch.full_like(position, site.number)
        to[one].append(LatentRows(number, position, *(column[mine] for column in columns[1:])))
