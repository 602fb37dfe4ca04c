"""How often features are active over a text: a number for every latent of a CRM.

A record without torch, so that the window can look densities up; ``core.density_measurement`` makes
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_records import share_of
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import GraphNodes
    from attention_studio.core.feature_store import FeatureStore


@dataclass(frozen=True, eq=False)
class FeatureDensity:
    """What share of the tokens of a text each latent is active at.

    Attributes:
        crm: whose latents they are.
        text_hash: SHA-256 of the text, as ``TokenCorpus`` has it.
        n_tokens: how many positions were looked at.
        times: by module, how many of those each of its latents is active at, [n_latents]; below 0:
            not known.
    """

    crm: DictionariesId
    text_hash: str
    n_tokens: int
    times: Mapping[Site, NDArray[np.int64]]

    def of(self, site: Site, latent: int) -> float:
        """The density of one latent, in [0, 1]; NaN where it was not measured."""
        times = self.times.get(site)
        if times is None or not 0 <= latent < len(times) or not self.n_tokens:
            return float("nan")
        return share_of(int(times[latent]), self.n_tokens)

    def of_nodes(self, nodes: GraphNodes) -> NDArray[np.float64]:
        """[N] the density of every node of a graph; NaN for what is no feature."""
        found = np.full(len(nodes), np.nan)
        latent = (nodes.index >= 0) & (nodes.site_kind >= 0)
        for site, times in self.times.items():
            here = latent & (nodes.depth == site.number) & (nodes.index < len(times))
            mine = times[nodes.index[here]]
            found[here] = np.where(mine < 0, np.nan, mine / max(self.n_tokens, 1))
        return found


def density_of(store: FeatureStore) -> FeatureDensity:
    """The densities that a feature store has.

    Raises:
        FeatureStoreError: the store is damaged.
    """
    about = store.about
    return FeatureDensity(
        DictionariesId(about.crm_name, about.crm_hash),
        about.text_hash,
        about.n_tokens,
        {size.site: store.fired(size.site) for size in about.sites},
    )
