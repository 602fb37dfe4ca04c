"""Makes a store of made-up features: ``python large_store.py FOLDER FEATURES SEED``.

As large in every part as a gathered one: 16 strongest examples and 5 of each fifth, 33 tokens each,
16 neighbours and tokens promoted and suppressed, z-patterns at every other module. Half of the
modules are attentions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from attention_studio.core.feature_assembly import GROUP_NAMES
from attention_studio.core.feature_columns import (
    N_NEIGHBOURS,
    N_WORDS,
    PART_FEATURES,
    Columns,
    bounds_of,
)
from attention_studio.core.feature_store import SiteSize, StoreAbout
from attention_studio.core.feature_store_writing import StoreWriter
from attention_studio.core.sites import Site
from attention_studio.utils.files import atomic_folder

N_LAYERS = 5
ROWS, ROW = 4096, 128
BEFORE, AFTER = 24, 8
GROUPS = (16, 5, 5, 5, 5, 5)
N_ACTIVE, N_BINS, N_VOCABULARY = 4, 48, 20_000
N_TOKENS = ROWS * ROW


def columns(rng: np.random.Generator, n: int, kind: str, sizes: tuple[SiteSize, ...]) -> Columns:
    """A part of ``n`` features that are all alive."""
    n_groups, per_feature = n * len(GROUPS), sum(GROUPS)
    e = n * per_feature
    peak = rng.gamma(2.0, 2.0, n).astype(np.float32) + 0.1
    row = rng.integers(0, ROWS, e)
    start = rng.integers(0, ROW - BEFORE - AFTER, e)
    value = np.sort(rng.random((e, N_ACTIVE)).astype(np.float32), axis=1)
    places = np.sort(rng.integers(0, BEFORE, (e, N_ACTIVE - 1)), axis=1)
    n_looks = BEFORE + 1 if kind == "attention" else 0
    look = rng.dirichlet(np.ones(BEFORE + 1), e).astype(np.float32) if n_looks else np.zeros(0)
    sites = np.array([size.site.number for size in sizes])
    found: Columns = {
        "fired": rng.integers(1, N_TOKENS // 10, n),
        "peak": peak,
        "hist_bounds": bounds_of(np.full(n, N_BINS)),
        "hist_counts": rng.integers(0, 1000, n * N_BINS),
        "hist_low": np.zeros(n),
        "hist_high": peak.astype(np.float64),
        "group_bounds": bounds_of(np.full(n, len(GROUPS))),
        "group_name": np.tile(np.arange(len(GROUPS)), n),
        "group_low": np.zeros(n_groups),
        "group_high": np.repeat(peak, len(GROUPS)),
        "example_bounds": bounds_of(np.tile(GROUPS, n)),
        "text_at": row * ROW + start,
        "length": np.full(e, BEFORE + 1 + AFTER),
        "row": row,
        "start": start,
        "at": np.full(e, BEFORE),
        "value_bounds": bounds_of(np.full(e, N_ACTIVE)),
        "value_at": np.concatenate([places, np.full((e, 1), BEFORE)], axis=1).ravel(),
        "value": (value * np.repeat(peak, per_feature)[:, None]).ravel(),
        "look_bounds": bounds_of(np.full(e, n_looks)),
        "look": look.ravel(),
        "look_before": np.zeros(e),
    }
    for side, sign in (("promoted", 1.0), ("suppressed", -1.0)):
        found[f"{side}_word"] = rng.integers(0, N_VOCABULARY, (n, N_WORDS))
        found[f"{side}_effect"] = sign * np.sort(rng.random((n, N_WORDS)))[:, ::-1]
    for side in ("decoder", "firing"):
        found[f"{side}_site"] = rng.choice(sites, (n, N_NEIGHBOURS))
        found[f"{side}_index"] = rng.integers(0, sizes[0].n_features, (n, N_NEIGHBOURS))
        found[f"{side}_score"] = np.sort(rng.random((n, N_NEIGHBOURS)))[:, ::-1]
    return found


def main() -> None:
    """Write it."""
    folder, n_features, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    each = n_features // (2 * N_LAYERS)
    sizes = tuple(
        SiteSize(layer, kind, each) for layer in range(N_LAYERS) for kind in ("attention", "mlp")
    )
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    strings = [" " + "".join(rng.choice(letters, 5)) for _ in range(N_VOCABULARY)]
    text = rng.integers(0, N_VOCABULARY, ROWS * ROW).astype(np.int32)
    about = StoreAbout(
        "made up", "0", "made up", "0", "0", N_TOKENS, sizes, n_rows=ROWS, seq_len=ROW,
        group_names=GROUP_NAMES,
    )  # fmt: skip
    with atomic_folder(folder) as staging:
        writer = StoreWriter(staging, sizes, text, strings)
        for size in sizes:
            for number, begin in enumerate(range(0, each, PART_FEATURES)):
                n = min(PART_FEATURES, each - begin)
                writer.part(Site(size.layer, size.kind), number, columns(rng, n, size.kind, sizes))
        writer.finish(about)
        writer.close()
    print("{}")


if __name__ == "__main__":
    main()
