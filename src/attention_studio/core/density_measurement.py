"""Runs a complete replacement model over text and counts how often each latent is active."""

from __future__ import annotations

from typing import Optional

import numpy as np
import torch

from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_density import FeatureDensity
from attention_studio.core.feature_firing import FiringReader
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.utils.progress import WorkContext


@torch.no_grad()
def measure_density(
    crm: CompleteReplacementModel,
    corpus: TokenCorpus,
    max_tokens: Optional[int] = None,
    ctx: Optional[WorkContext] = None,
) -> FeatureDensity:
    """Count at how many positions of a text each latent of each dictionary is active.

    Positions that dictionaries leave out (the first, start tokens, filling) and norm sinks count
    for nothing, as everywhere (``core.feature_firing``).

    Args:
        max_tokens: positions to look at; None: all.

    Raises:
        CorpusError: there is no position in the text that dictionaries see.
        Cancelled: through ``ctx``.
    """
    n_tokens = 0
    times = {
        site: np.zeros(crm.dictionaries.config_at(site)[0], dtype=np.int64) for site in crm.sites
    }
    for found in FiringReader(crm, corpus).passes(0, max_tokens, ctx):
        n_tokens += len(found.places)
        for firing in found.firings:
            counted = times[firing.site]
            counted += np.bincount(firing.events.latent, minlength=len(counted))
    return FeatureDensity(crm.dictionaries_id, corpus.text_hash, n_tokens, times)
