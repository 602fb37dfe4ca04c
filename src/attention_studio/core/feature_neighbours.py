"""Features that resemble each other: by what they write, and by when they fire.

By decoder: the cosine of both decoder rows, rows in several layers summed first, of every feature
with every other.

By firing: ``n_fg / √(n_f · n_g)``, the cosine of both firing patterns (Ochiai's coefficient), where
``n_fg`` counts the tokens at which both are active. Counted at a sample of the text's tokens that a
hash draws; ``n_fg`` must be at least ``LEAST_TOGETHER``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.feature_candidates import row_hash
from attention_studio.core.feature_columns import Columns, bounds_of, stretches
from attention_studio.utils.progress import WorkContext

LEAST_TOGETHER = 3
_COUNTED_AT_ONCE = 1 << 22
_CELLS = 1 << 24
_ROWS, _COLUMNS = 1024, 8192
_WHOLE = 1 << 64


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest features of some: ``feature`` int64 [n, k], numbers among all features, −1: none;
    ``score`` float32 [n, k], the nearest first."""

    feature: NDArray[np.int64]
    score: NDArray[np.float32]


class FiringSample:
    """Which features fire at some tokens of a text.

    Holds at most ``most`` firings: when there are more, the share of tokens that is drawn is
    halved, and what is no longer drawn is dropped. So what is held is a function of the text.

    Args:
        share: of the tokens to begin with.
        most: firings.
        seed: of the draw.
    """

    def __init__(self, share: float, most: int, seed: int) -> None:
        self.bar = min(int(share * _WHOLE), _WHOLE - 1)
        self._most, self._seed = most, seed
        self._places = [np.zeros(0, dtype=np.int64)]
        self._features = [np.zeros(0, dtype=np.int32)]
        self._tokens = [np.zeros(0, dtype=np.int64)]
        self._held = 0

    def draws(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens are drawn."""
        zero = np.zeros_like(places)
        found: NDArray[np.bool_] = row_hash(zero, places, self._seed) <= np.uint64(self.bar)
        return found

    def meet(self, places: NDArray[np.int64]) -> None:
        """Tokens that were looked at, whether anything fires there or not."""
        self._tokens.append(places[self.draws(places)])

    def add(self, places: NDArray[np.int64], features: NDArray[np.int64]) -> None:
        """Firings: where, and of which feature."""
        mine = self.draws(places)
        self._places.append(places[mine])
        self._features.append(features[mine].astype(np.int32))
        self._held += int(mine.sum())
        while self._held > self._most:
            self.halve()

    def halve(self) -> None:
        """Draw half as many tokens."""
        self.bar >>= 1
        places, features = self._joined()
        mine = self.draws(places)
        self._places, self._features = [places[mine]], [features[mine]]
        self._held = int(mine.sum())
        tokens = np.concatenate(self._tokens)
        self._tokens = [tokens[self.draws(tokens)]]

    @property
    def n_tokens(self) -> int:
        """Tokens drawn."""
        return sum(map(len, self._tokens))

    def columns(self) -> Columns:
        """As arrays, for files."""
        places, features = self._joined()
        return {
            "places": places,
            "features": features,
            "tokens": np.concatenate(self._tokens),
            "bar": np.array([self.bar], dtype=np.uint64),
        }

    def restore(self, columns: Columns) -> None:
        """Go on from what ``columns`` gave."""
        self._places, self._features = [columns["places"]], [columns["features"]]
        self._tokens, self.bar = [columns["tokens"]], int(columns["bar"][0])
        self._held = len(columns["places"])

    def nearest(
        self, n_features: int, k: int, most_pairs: int, ctx: WorkContext
    ) -> Iterator[tuple[int, Nearest]]:
        """For each feature those that fire with it most, some features at a time: the number of the
        first, and theirs.

        Args:
            n_features: in all.
            k: of each.
            most_pairs: fewer tokens are used until there are no more pairs of firings.
            ctx: for cancelling.
        """
        while True:
            places, features = self._joined()
            order = np.lexsort((features, places))
            _, counts = np.unique(places, return_counts=True)
            if int((counts.astype(np.int64) ** 2).sum()) <= most_pairs:
                break
            self.halve()
        at_token = features[order].astype(np.int64)
        bounds = bounds_of(counts)
        token = np.repeat(np.arange(len(counts)), counts)
        by_feature = np.argsort(at_token, kind="stable")
        fired = np.bincount(at_token, minlength=n_features)
        starts = bounds_of(fired)
        tokens_of = token[by_feature]
        size = max(1, _CELLS // n_features)
        for first in range(0, n_features, size):
            ctx.check()
            end = min(first + size, n_features)
            mine = tokens_of[starts[first] : starts[end]]
            local = np.repeat(np.arange(end - first), fired[first:end])
            together = np.zeros((end - first, n_features), dtype=np.float32)
            work = counts[mine].cumsum()
            total = int(work[-1]) if len(work) else 0
            cuts = np.searchsorted(work, np.arange(0, total, _COUNTED_AT_ONCE)).tolist()
            for low, high in zip(cuts, [*cuts[1:], len(mine)], strict=True):
                here = mine[low:high]
                if not len(here):
                    continue
                rows = slice(int(local[low]), int(local[high - 1]) + 1)
                others = at_token[stretches(bounds[here], counts[here])]
                others += np.repeat((local[low:high] - rows.start) * n_features, counts[here])
                n_cells = (rows.stop - rows.start) * n_features
                times = np.bincount(others, minlength=n_cells).reshape(-1, n_features)
                together[rows] += times
            yield first, _firing_best(together, fired, first, k)

    def _joined(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        return np.concatenate(self._places), np.concatenate(self._features)


def _firing_best(
    together: NDArray[np.float32], fired: NDArray[np.int64], first: int, k: int
) -> Nearest:
    """The best of ``together`` [m, n], how often the features from ``first`` on fire with which."""
    end = first + len(together)
    together[np.arange(len(together)), np.arange(first, end)] = 0.0
    root = np.sqrt(np.maximum(fired, 1)).astype(np.float32)
    together[together < LEAST_TOGETHER] = 0.0
    together /= root
    top = torch.from_numpy(together).topk(min(k, together.shape[1]))
    score = top.values.numpy() / root[first:end, None]
    feature = np.where(score > 0, top.indices.numpy(), -1)
    missing = ((0, 0), (0, k - score.shape[1]))
    return Nearest(
        np.pad(feature, missing, constant_values=-1),
        np.pad(np.minimum(score, 1.0), missing).astype(np.float32),
    )


class DecoderFile:
    """Decoder rows of all features, on the disk: read in pieces, so that memory does not grow with
    their number.

    Args:
        path: the file.
        n, d: features, and the width of a row.
        device: where products are worked out.
    """

    def __init__(self, path: Path, n: int, d: int, device: torch.device) -> None:
        self.path, self.n, self.d, self._device = path, n, d, device

    def rows(self, first: int, end: int) -> torch.Tensor:
        """[n, d] some rows."""
        found = np.fromfile(
            self.path, dtype=np.float32, count=(end - first) * self.d, offset=first * self.d * 4
        )
        # Copied: products of memory that begins elsewhere may be rounded otherwise.
        return torch.from_numpy(found.reshape(-1, self.d)).clone().to(self._device)

    def _units(self, first: int, end: int) -> torch.Tensor:
        rows = self.rows(first, end)
        units: torch.Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return units

    @torch.no_grad()
    def nearest(self, first: int, end: int, k: int, ctx: WorkContext) -> Nearest:
        """For each feature from ``first`` to before ``end`` the ``k`` whose decoders have the
        largest cosines with its own."""
        parts = [
            self._nearest(low, min(low + _ROWS, end), k, ctx) for low in range(first, end, _ROWS)
        ]
        return Nearest(
            np.concatenate([part.feature for part in parts]),
            np.concatenate([part.score for part in parts]),
        )

    def _nearest(self, first: int, end: int, k: int, ctx: WorkContext) -> Nearest:
        mine = self._units(first, end)
        score = mine.new_full((end - first, k), -2.0)
        feature = torch.full((end - first, k), -1, device=self._device)
        own = torch.arange(first, end, device=self._device)
        for low in range(0, self.n, _COLUMNS):
            ctx.check()
            high = min(low + _COLUMNS, self.n)
            cosines = mine @ self._units(low, high).T
            inside = (own >= low) & (own < high)
            cosines[inside, own[inside] - low] = -2.0
            # Most columns have nothing better than what is there already.
            best = cosines.topk(min(k, high - low), dim=1)
            both = torch.cat([score, best.values], 1)
            numbers = torch.cat([feature, best.indices + low], 1)
            score, order = both.sort(dim=1, descending=True, stable=True)
            score, feature = score[:, :k], numbers.gather(1, order)[:, :k]
        feature = feature.masked_fill(score < -1.5, -1)
        return Nearest(feature.cpu().numpy(), score.clamp(-1.0, 1.0).float().cpu().numpy())
