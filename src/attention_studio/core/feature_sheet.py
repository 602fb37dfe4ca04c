"""One feature of a replacement model looked up: where it fires in a text, what it says, its kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.active_features import N_LEFT_OUT, latents_at
from attention_studio.core.feature_extractor import (
    N_LOGIT_TOKENS,
    FeatureError,
    FeatureRecord,
    FeatureReport,
    promoted_tokens,
)
from attention_studio.core.feature_records import Neighbour
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

N_NEAREST, N_WORDS = 8, 3
"""How many features with similar decoders a sheet lists, and with how many words each."""


@dataclass(frozen=True)
class FeatureSheet:
    """What is known of one feature.

    Attributes:
        report: the text, and where this feature (it alone) is active in it.
        record: the feature at the position that was asked for, or where it fires most.
        nearest: the features whose decoders have the largest cosines with its own; rows in several
            layers are summed first.
    """

    report: FeatureReport
    record: FeatureRecord
    nearest: tuple[Neighbour, ...]


@torch.no_grad()
def feature_sheet(
    crm: CompleteReplacementModel,
    site: Site,
    index: int,
    ids: Sequence[int],
    position: Optional[int] = None,
    ctx: Optional[WorkContext] = None,
) -> FeatureSheet:
    """Look a feature up.

    Args:
        crm: whose feature.
        site, index: which.
        ids: the tokens of a text, as the model's ``encode`` gives them.
        position: of the token that is meant; None: where it fires most.
        ctx: for progress and cancelling.

    Raises:
        FeatureError: there is no such feature.
    """
    ctx = ctx or WorkContext()
    dictionaries, adapter = crm.dictionaries, crm.adapter
    if site not in crm.sites or not 0 <= index < dictionaries.config_at(site)[0]:
        raise FeatureError(
            f"There is no feature {site.label} #{index} in {crm.name}",
            f"it has dictionaries for {', '.join(other.label for other in crm.sites)}",
            "open the replacement model that the feature is of",
        )
    ctx.progress(0, None, "Looking the feature up")
    latents, _ = latents_at(adapter, dictionaries, adapter.record(list(ids)), site)
    mine = latents.latent == index
    places = latents.token[mine].cpu().numpy().astype(np.int64) + N_LEFT_OUT
    values = latents.value[mine].float().cpu().numpy()
    ctx.check()
    row = _rows(crm, site)[index]
    words = [_words(crm, row[None], N_LOGIT_TOKENS, side)[0] for side in (False, True)]
    at = position
    if at is None:
        at = int(places[int(values.argmax())]) if len(values) else N_LEFT_OUT
    here = values[places == at]
    record = FeatureRecord(
        layer=site.layer,
        position=at,
        index=index,
        activation=float(here[0]) if len(here) else 0.0,
        promoted=words[0],
        suppressed=words[1],
        kind=site.kind,
    )
    active = np.stack([np.full_like(places, site.number), places, np.full_like(places, index)], 1)
    report = FeatureReport(
        prompt=crm.loaded.tokenizer.decode(list(ids)),
        tokens=tuple(crm.loaded.token_strings(list(ids))),
        token_ids=tuple(ids),
        overall=(record,),
        by_position=tuple((record,) if place == at else () for place in range(len(ids))),
        n_active=len(values),
        seconds=0.0,
        active=active,
        active_values=values,
    )
    return FeatureSheet(report, record, _nearest(crm, site, index, row, ctx))


def _rows(crm: CompleteReplacementModel, site: Site) -> Tensor:
    """[n, d] what each latent of a module writes, summed over the modules that it writes to."""
    return SiteLatents(crm.dictionaries, site).written(slice(None))


def _words(
    crm: CompleteReplacementModel, rows: Tensor, k: int, suppressed: bool
) -> list[tuple[tuple[str, float], ...]]:
    k = min(k, crm.adapter.vocab_size)
    top = promoted_tokens(crm.adapter, rows, k, suppressed)
    text = crm.loaded.token_strings(top.tokens.flatten().tolist())
    return [
        tuple(zip(text[place * k : (place + 1) * k], effects, strict=True))
        for place, effects in enumerate(top.effects.tolist())
    ]


def _nearest(
    crm: CompleteReplacementModel, site: Site, index: int, row: Tensor, ctx: WorkContext
) -> tuple[Neighbour, ...]:
    found: list[tuple[float, Site, int, Tensor]] = []
    unit = row / row.norm().clamp_min(1e-12)
    for other in crm.sites:
        ctx.check()
        rows = _rows(crm, other)
        cosines = (rows @ unit.to(rows.dtype)) / rows.norm(dim=1).clamp_min(1e-12)
        if other == site:
            cosines[index] = -2.0
        best = cosines.topk(min(N_NEAREST, len(cosines)))
        found += [
            (float(cosine), other, int(place), rows[int(place)])
            for cosine, place in zip(best.values, best.indices, strict=True)
            if cosine > -1.5
        ]
    found = sorted(found, key=lambda entry: -entry[0])[:N_NEAREST]
    if not found:
        return ()
    words = _words(crm, torch.stack([entry[3] for entry in found]), N_WORDS, False)
    return tuple(
        Neighbour(other, place, cosine, tuple(token for token, _ in said))
        for (cosine, other, place, _), said in zip(found, words, strict=True)
    )
