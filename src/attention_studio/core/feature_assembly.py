"""From what was gathered of features to the columns of a store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_candidates import (
    N_BINS,
    Candidates,
    ExampleShape,
    drawn_of,
    row_hash,
)
from attention_studio.core.feature_columns import N_NEIGHBOURS, N_WORDS, Columns, bounds_of

N_INTERVALS = 5
GROUP_NAMES = (
    "Strongest",
    *(
        f"{100 * i // N_INTERVALS}% to {100 * (i + 1) // N_INTERVALS}% of the largest"
        for i in reversed(range(N_INTERVALS))
    ),
)
"""The strongest, then equal intervals of activation from the largest down to 0, as SAEDashboard and
sae-vis part them (their ``n_quantiles``)."""


def interval_of(value: NDArray[np.float32], largest: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which of the intervals ``largest · (i, i + 1] / N_INTERVALS`` activations lie in."""
    share = value.astype(np.float64) * N_INTERVALS / largest.astype(np.float64)
    found: NDArray[np.int64] = np.clip(np.ceil(share).astype(np.int64) - 1, 0, N_INTERVALS - 1)
    return found


def chosen_examples(
    statistics: Columns, top: Candidates, drawn: Candidates, shape: ExampleShape, first: int
) -> tuple[Candidates, NDArray[np.int64]]:
    """The examples of some features, sorted by feature, heading and activation, and the place of
    each one's heading in ``GROUP_NAMES``; ``first`` as ``PartState`` has it.

    An interval from which nothing was drawn takes those of the strongest that lie in it: so of a
    feature that is active in no more rows than those, no interval looks empty that is not.
    """
    peak = statistics["peak"]
    found = drawn.latent * N_INTERVALS + interval_of(drawn.value, peak[drawn.latent])
    strong = top.latent * N_INTERVALS + interval_of(top.value, peak[top.latent])
    drawn = Candidates.joined([drawn, top.take(np.flatnonzero(~np.isin(strong, found)))])
    interval = interval_of(drawn.value, peak[drawn.latent])
    hashes = row_hash(drawn.latent + first, drawn.place // shape.seq_len, shape.seed)
    keys = drawn.latent * N_INTERVALS + interval
    mine = drawn_of(keys, hashes, drawn.place, shape.seq_len, shape.per_interval)
    every = Candidates.joined([top, drawn.take(mine)])
    heading = np.concatenate([np.zeros(len(top), np.int64), N_INTERVALS - interval[mine]])
    order = np.lexsort((every.place, -every.value, heading, every.latent))
    return every.take(order), heading[order]


def assembled(
    statistics: Columns,
    examples: Candidates,
    heading: NDArray[np.int64],
    shape: ExampleShape,
    text_start: NDArray[np.int64],
    lengths: NDArray[np.int32],
) -> Columns:
    """The columns of a part, without the tokens that features promote and their neighbours.

    Args:
        statistics: counts and histograms [n].
        examples, heading: from ``chosen_examples``.
        shape: how they were cut.
        text_start: for each row of the corpus, where it begins in the store's text.
        lengths: of each row of the corpus.
    """
    n, peak = len(statistics["fired"]), statistics["peak"]
    alive = statistics["fired"] > 0
    exponent = np.where(alive, statistics["exponent"], 0).astype(np.int32)
    scaled = np.ldexp(peak.astype(np.float64), -exponent)
    n_bins = np.where(alive, (scaled * N_BINS).astype(np.int64) + 1, 1)
    shown = np.arange(N_BINS) < n_bins[:, None]
    new = (np.diff(examples.latent, prepend=-1) != 0) | (np.diff(heading, prepend=-1) != 0)
    starts = np.flatnonzero(new)
    of_group, name = examples.latent[starts], heading[starts]
    step = peak[of_group].astype(np.float64) / N_INTERVALS
    interval = N_INTERVALS - name
    row, position = np.divmod(examples.place, shape.seq_len)
    begin = np.maximum(position - shape.before, 0)
    end = np.minimum(position + shape.after + 1, lengths[row])
    return {
        "fired": statistics["fired"],
        "peak": peak,
        "hist_bounds": bounds_of(n_bins),
        "hist_counts": statistics["counts"][shown].astype(np.int64),
        "hist_low": np.zeros(n),
        "hist_high": np.where(alive, np.ldexp(n_bins / N_BINS, exponent), 1.0),
        "group_bounds": bounds_of(np.bincount(of_group, minlength=n)),
        "group_name": name,
        "group_low": np.where(name > 0, step * interval, np.nan),
        "group_high": np.where(name > 0, step * (interval + 1), np.nan),
        "example_bounds": np.append(starts, len(heading)),
        "text_at": text_start[row] + begin,
        "length": end - begin,
        "row": row,
        "start": begin,
        "at": position - begin,
        "value_bounds": examples.value_bounds,
        "value_at": examples.value_at,
        "value": examples.values,
        "look_bounds": examples.look_bounds,
        "look": examples.look,
        "look_before": examples.look_before,
    }


def no_neighbours(n: int) -> Columns:
    """The columns of features that were compared with none."""
    none: Columns = {}
    for side in ("decoder", "firing"):
        none[f"{side}_site"] = np.full((n, N_NEIGHBOURS), -1)
        none[f"{side}_index"] = np.zeros((n, N_NEIGHBOURS))
        none[f"{side}_score"] = np.zeros((n, N_NEIGHBOURS))
    return none


def padded(table: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
    """[n, N_WORDS] from [n, k ≤ N_WORDS]: a small vocabulary has fewer tokens."""
    missing = N_WORDS - table.shape[1]
    return np.pad(table, ((0, 0), (0, missing)), constant_values=fill)
