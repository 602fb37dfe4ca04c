"""Pages about features made by hand, and a store of them that fits the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from attention_studio.core.dictionaries.crm_folder import load_manifest
from attention_studio.core.feature_records import (
    Example,
    ExampleGroup,
    FeatureLabel,
    FeaturePage,
    Histogram,
    Neighbour,
)
from attention_studio.core.feature_store import SiteSize, StoreAbout
from attention_studio.core.feature_store_writing import write_store
from attention_studio.core.sites import Site
from attention_studio.utils.paths import BUILT_IN_CRMS

N_TOKENS = 10_000
WORDS = ("The", " capital", " of", " the", " state", " containing", " <b>Dallas</b>", " is", "\n")


def example(
    site: Site, value: float, sequence: int, n: int = 9, peak: int = 5, repeated: bool = False
) -> Example:
    """A text in which a feature fires most at one token and a little at the one before."""
    tokens = tuple(WORDS[place % len(WORDS)] for place in range(n))
    values = np.zeros(n, dtype=np.float32)
    values[peak - 1], values[peak] = value / 4, value
    looks = None
    if site.kind == "attention":
        looks = np.zeros(n, dtype=np.float32)
        looks[1], looks[peak] = 0.75 * value, 0.25 * value
    return Example(tokens, values, peak, sequence, 3, looks, 0.0, repeated)


def page(site: Site, index: int, label: Optional[str] = None, long: int = 9) -> FeaturePage:
    """A page with two groups of examples; longer texts on demand."""
    top = 8.0 - index / 10
    strongest = (example(site, top, 1, long, long - 3), example(site, top / 2, 2))
    return FeaturePage(
        site,
        index,
        20 * (index + 1),
        N_TOKENS,
        top,
        Histogram(np.linspace(0, top, 9), np.array([9, 5, 3, 0, 1, 1, 0, 1])),
        (
            ExampleGroup("Strongest", 0.0, top, strongest),
            ExampleGroup("Weak", 0.0, 1.0, (example(site, 0.75, 3, repeated=True),)),
        ),
        promoted=((" Austin", 1.5), (" <i>Texas</i>", 0.5)),
        suppressed=((" pecan", -1.0),),
        near_by_decoder=(Neighbour(site, index + 1, 0.75, (" Austin",)),),
        near_by_firing=(Neighbour(Site(1, "mlp"), 1, 0.5, (" of",)),),
        label=None if label is None else FeatureLabel(label, "Ann", "2026-01-01T00:00:00+00:00"),
    )


N_ALIVE = 30
"""Latents of each module that have a page."""


def write_demo_store(folder: Path, crm_hash: Optional[str] = None) -> None:
    """Write a store of the demo's replacement model, most of whose features are dead."""
    manifest = load_manifest(BUILT_IN_CRMS["demo"])
    sizes = tuple(
        SiteSize(entry.site.layer, entry.site.kind, int(entry.config.d_latent))
        for entry in sorted(manifest.dictionaries.values(), key=lambda entry: entry.site)
    )
    about = StoreAbout(
        model_name="demo",
        model_hash=manifest.model.weights_hash,
        crm_name="crm",
        crm_hash=crm_hash or manifest.fingerprint,
        text_hash="0",
        n_tokens=N_TOKENS,
        sites=sizes,
    )
    pages = [page(size.site, index) for size in sizes for index in range(N_ALIVE)]
    write_store(folder, about, pages)
