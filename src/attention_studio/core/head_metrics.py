"""What kind of head a head is: figures that its pattern gives. Numpy only.

Position 0 is left out where it would count as an ordinary token: decoders use it as a sink
(Xiao et al. 2023, *Efficient Streaming Language Models with Attention Sinks*), and how much a head
does so is a figure of its own. Queries at position 0 see nothing but themselves and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Optional

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MetricInfo:
    """What there is to say about a figure.

    Attributes:
        title: for lists.
        help: one sentence.
        share: whether it is a share in [0, 1]; else it is a number with a ``unit``.
        unit: such as "nats".
    """

    title: str
    help: str
    share: bool = True
    unit: str = ""


METRICS: MappingProxyType[str, MetricInfo] = MappingProxyType(
    {
        "previous": MetricInfo("Previous token", "Mean share that goes to the token just before"),
        "current": MetricInfo("Same token", "Mean share that stays at the token itself"),
        "first": MetricInfo("First position", "Mean share that goes to position 0, the sink"),
        "duplicate": MetricInfo(
            "Duplicate token", "Mean share that goes to earlier places of the same token"
        ),
        "induction": MetricInfo(
            "Induction", "Mean share that goes to what followed earlier places of the same token"
        ),
        "induction_probe": MetricInfo(
            "Induction, random tokens",
            "Mean share that goes to what followed the token before, on random tokens said twice",
        ),
        "entropy": MetricInfo("Entropy", "How spread the attention is on average", False, "nats"),
        "distance": MetricInfo("Distance", "How far back it looks on average", False, "tokens"),
    }
)
"""By name, in the order of lists."""


def head_metrics(patterns: Floats, token_ids: Sequence[int]) -> dict[str, Floats]:
    """All figures that patterns of one prompt give.

    Args:
        patterns: ``[..., T, T]``; row t is where the head looks from t, and sums to 1.
        token_ids: ``[T]``.

    Returns:
        By the names of ``METRICS`` (all but ``induction_probe``) arrays ``[...]`` float32. NaN
        where the prompt has no place that the figure could be read at: no earlier place of any
        token, or too few tokens.
    """
    length = len(token_ids)
    ids = np.asarray(token_ids, dtype=np.int64)
    place = np.arange(length)
    query, key = place[:, None], place[None, :]
    # What came before and is the same token; the sink is no ordinary token.
    same = (ids[:, None] == ids[None, :]) & (key < query) & (key > 0)
    after = np.zeros_like(same)
    after[:, 1:] = same[:, :-1]
    # A token right after itself: what followed is the query, and looking there is no induction.
    after &= key < query
    back = query.astype(np.float32) - key.astype(np.float32)
    return {
        "previous": _mean(np.diagonal(patterns, -1, -2, -1)[..., 1:]),
        "current": _mean(np.diagonal(patterns, 0, -2, -1)[..., 1:]),
        "first": _mean(patterns[..., 1:, 0]),
        "duplicate": _mean_share(patterns, same),
        "induction": _mean_share(patterns, after),
        "entropy": _mean_of_rows(patterns, _entropy),
        "distance": _mean_of_rows(patterns, lambda rows: _sums(rows * back[1:])),
    }


def repeated_share(patterns: Floats, half: int) -> Floats:
    """Induction on ``1 + 2·half`` tokens, a start token and random ones said twice.

    ``patterns [..., T, T]`` → ``[...]``: mean share of the token behind the first saying of the
    query's token, over the second saying without its last token (Olsson et al. 2022, *In-context
    Learning and Induction Heads*, call it prefix matching).
    """
    query = np.arange(half + 1, 2 * half)
    picked = patterns[..., query, query - half + 1]
    share: Floats = picked.astype(np.float64).mean(-1).astype(np.float32)
    return share


def value_text(name: str, value: Optional[float]) -> str:
    """A figure for people: ``"0.87"``, ``"1.9 nats"``, or a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "—"
    info = METRICS[name]
    return f"{value:.2f}" if info.share else f"{value:.1f} {info.unit}"


def _mean(shares: Floats) -> Floats:
    """Mean over the last axis, NaN where it is empty; added up in float64."""
    if not shares.shape[-1]:
        return np.full(shares.shape[:-1], np.nan, dtype=np.float32)
    mean: Floats = shares.mean(-1, dtype=np.float64).astype(np.float32)
    return mean


def _mean_share(patterns: Floats, wanted: NDArray[np.bool_]) -> Floats:
    """Mean over the queries that have a wanted key of the share that goes to wanted keys."""
    rows = np.flatnonzero(wanted.any(-1))
    among = wanted[rows]
    return _each(patterns, lambda pattern: _sums(pattern[rows] * among))


def _mean_of_rows(patterns: Floats, figure: Callable[[Floats], NDArray[np.float64]]) -> Floats:
    return _each(patterns, lambda pattern: figure(pattern[1:]))


def _each(patterns: Floats, figures: Callable[[Floats], NDArray[np.float64]]) -> Floats:
    """Mean of the figures [n] of every pattern [T, T], NaN where there are none.

    One head after another: what is worked out on the way is as large as the pattern or larger.
    """
    length = patterns.shape[-1]
    means = [
        found.mean() if len(found) else np.nan
        for found in map(figures, patterns.reshape(-1, length, length))
    ]
    return np.array(means, dtype=np.float32).reshape(patterns.shape[:-2])


def _sums(rows: Floats) -> NDArray[np.float64]:
    """Sum of each row [n, T], added up in float64."""
    sums: NDArray[np.float64] = rows.sum(-1, dtype=np.float64)
    return sums


def _entropy(rows: Floats) -> NDArray[np.float64]:
    logs = np.where(rows > 0, rows, np.float32(1))
    np.log(logs, out=logs)
    logs *= rows
    return -_sums(logs)
