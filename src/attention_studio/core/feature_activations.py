"""Every activation of some features over a text, and of one feature on a text of one's own.

Kept is only where a feature fires, so memory grows with what fires, not with the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.active_features import N_LEFT_OUT, latents_at
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_extractor import FeatureError
from attention_studio.core.feature_firing import FiringReader
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

MAX_FIRINGS = 50_000_000
"""Activations that are kept at most, at 12 bytes each."""

Feature = tuple[Site, int]


@dataclass(frozen=True, eq=False)
class Firings:
    """Where one feature is active in a text.

    Attributes:
        where: int64 [m] ascending, ``row * seq_len + position``.
        values: float32 [m] the activations.
    """

    where: NDArray[np.int64]
    values: NDArray[np.float32]


def feature_activations(
    crm: CompleteReplacementModel,
    features: Sequence[Feature],
    corpus: TokenCorpus,
    ctx: Optional[WorkContext] = None,
) -> Mapping[Feature, Firings]:
    """Run the model over a text and keep every activation of some features.

    What counts is what ``core.feature_firing`` counts: positions that dictionaries leave out and
    norm sinks do not.

    Raises:
        FeatureError: a feature does not exist, or they fire so often that memory has no room.
        CorpusError: there is no position in the text that dictionaries see.
        FeatureFiringError: an activation is not finite.
        Cancelled: through ``ctx``.
    """
    check_features(crm, features)
    wanted: dict[Site, list[int]] = {}
    for site, index in sorted(set(features)):
        wanted.setdefault(site, []).append(index)
    parts: dict[Feature, list[tuple[NDArray[np.int64], NDArray[np.float32]]]] = {
        feature: [] for feature in features
    }
    if not parts:
        return {}
    total = 0
    for found in FiringReader(crm, corpus, sites=tuple(wanted)).passes(ctx=ctx):
        for firing in found.firings:
            latents, places = firing.events.latent, firing.events.place
            indices = wanted[firing.site]
            bounds = np.searchsorted(latents, np.array([indices, [i + 1 for i in indices]]))
            for index, low, high in zip(indices, *bounds.tolist(), strict=True):
                if low < high:
                    values = firing.events.value[low:high]
                    # Copied, or every part would keep all that fired with it.
                    parts[firing.site, index].append((places[low:high].copy(), values.copy()))
                    total += high - low
            if total > MAX_FIRINGS:
                raise FeatureError(
                    f"{len(parts):,} features are active too often",
                    f"more than {MAX_FIRINGS:,} activations in the first {found.rows.stop:,} rows",
                    "Ask for fewer features or give less text",
                )
    return {
        feature: Firings(
            np.concatenate([np.zeros(0, dtype=np.int64), *(places for places, _ in some)]),
            np.concatenate([np.zeros(0, dtype=np.float32), *(values for _, values in some)]),
        )
        for feature, some in parts.items()
    }


@torch.no_grad()
def activations_on(
    crm: CompleteReplacementModel, feature: Feature, ids: Sequence[int]
) -> NDArray[np.float32]:
    """[n] one feature's activations at the tokens of a text, as the model's ``encode`` gives them.

    Raises:
        FeatureError: there is no such feature.
    """
    check_features(crm, [feature])
    values = np.zeros(len(ids), dtype=np.float32)
    if len(ids) <= N_LEFT_OUT:
        return values
    site, index = feature
    latents, _ = latents_at(crm.adapter, crm.dictionaries, crm.adapter.record(list(ids)), site)
    mine = latents.latent == index
    values[latents.token[mine].cpu().numpy() + N_LEFT_OUT] = latents.value[mine].float().cpu()
    return values


def check_features(crm: CompleteReplacementModel, features: Sequence[Feature]) -> None:
    """Raise ``FeatureError`` if a CRM does not have all of some features."""
    for site, index in features:
        if site not in crm.sites or not 0 <= index < crm.dictionaries.config_at(site)[0]:
            raise FeatureError(
                f"There is no feature {site.label} #{index} in {crm.name}",
                f"it has dictionaries for {', '.join(other.label for other in crm.sites)}",
                "open the replacement model that the feature is of",
            )
