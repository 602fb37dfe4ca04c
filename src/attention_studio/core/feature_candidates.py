"""What is gathered of each feature while a text is read: counts, and the best examples so far.

Everything here is a function of the set of activations, whatever order and pieces they come in:

- The histogram of a feature has ``N_BINS`` bins from 0 to the smallest power of two above its
  largest activation. When that grows, neighbouring bins are added up, which is exact.
- The strongest examples are those of the ``k`` rows with the largest activations, the first token
  in each that reaches it; of equal rows the earlier ones.
- Which rows are drawn for the intervals is decided by a hash of feature and row. The text is read
  once, and intervals are shares of a largest activation that is known in the end only, so rows are
  drawn from each of ``N_DRAWS`` equal parts of the histogram's range, the ``m`` smallest hashes of
  each (bottom-k sampling, Cohen and Kaplan 2007), and the intervals take theirs from those.

No loop here runs over features or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_columns import Columns, bounds_of, stretches

N_BINS = 64
N_DRAWS = 16
_NEVER = -(1 << 14)
"""The exponent of a feature that was never active."""
_PLACE_BITS = 40
_ALL = np.iinfo(np.uint32).max

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Events:
    """Activations of features on some whole rows of a text.

    Attributes:
        latent: int64 [m].
        place: int64 [m], row times the length of rows, plus position.
        value: float32 [m], positive.
    """

    latent: Ints
    place: Ints
    value: Floats

    def sorted(self) -> Events:
        """By latent, then place."""
        order = np.argsort((self.latent << _PLACE_BITS) | self.place)
        return Events(self.latent[order], self.place[order], self.value[order])

    def of(self, first: int, end: int) -> Events:
        """Those of the latents from ``first`` to before ``end``, counted from ``first``; only of
        sorted ones."""
        low, high = np.searchsorted(self.latent, [first, end])
        return Events(self.latent[low:high] - first, self.place[low:high], self.value[low:high])


@dataclass(frozen=True)
class ExampleShape:
    """How examples are cut and how many are kept.

    Attributes:
        seq_len: tokens in a row of the text.
        strongest: examples of the largest activations.
        per_interval: examples of each interval.
        before, after: tokens on either side of the peak.
        seed: of the hash.
    """

    seq_len: int
    strongest: int
    per_interval: int
    before: int
    after: int
    seed: int


@dataclass(frozen=True, eq=False)
class Looks:
    """Where the peaks of some examples look: ``share`` of the stretch from the first token to the
    peak, one example after the other; ``before`` [m] summed over what comes before."""

    share: Floats
    before: Floats


LookAt = Callable[[Ints, Ints, Ints], Looks]
"""From latents, places of peaks and places of the first tokens shown [m each] to the looks."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Examples that may be among those that are kept.

    Attributes:
        latent, place: int64 [m]; value: float32 [m]: of the peak.
        value_bounds: [m + 1]; value_at: place of each activation in the stretch that is shown,
            minus that of its first token; values.
        look_bounds: [m + 1]; look, look_before [m]: see ``Looks``; empty stretches at MLPs.
    """

    latent: Ints
    place: Ints
    value: Floats
    value_bounds: Ints
    value_at: NDArray[np.int32]
    values: Floats
    look_bounds: Ints
    look: Floats
    look_before: Floats

    def __len__(self) -> int:
        return len(self.latent)

    @property
    def n_bytes(self) -> int:
        """Memory that they take."""
        return sum(column.nbytes for column in self.columns().values())

    def columns(self) -> Columns:
        """As arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def none(cls) -> Candidates:
        """No candidates."""
        whole, number = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        one = np.zeros(1, dtype=np.int64)
        at = np.zeros(0, dtype=np.int32)
        return cls(whole, whole, number, one, at, number, one, number, number)

    def take(self, chosen: Ints) -> Candidates:
        """Some of them, in the order given."""
        widths, seen = np.diff(self.value_bounds)[chosen], np.diff(self.look_bounds)[chosen]
        inside = stretches(self.value_bounds[chosen], widths)
        looked = stretches(self.look_bounds[chosen], seen)
        return Candidates(
            self.latent[chosen],
            self.place[chosen],
            self.value[chosen],
            bounds_of(widths),
            self.value_at[inside],
            self.values[inside],
            bounds_of(seen),
            self.look[looked],
            self.look_before[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of several."""
        if not parts:
            return cls.none()
        lists = {name: [getattr(p, name) for p in parts] for name in cls.__dataclass_fields__}
        found: dict[str, Any] = {
            name: bounds_of(np.concatenate([np.diff(part) for part in columns]))
            if name.endswith("_bounds")
            else np.concatenate(columns)
            for name, columns in lists.items()
        }
        return cls(**found)


def row_hash(latent: Ints, row: Ints, seed: int) -> NDArray[np.uint64]:
    """A number for each latent and row, as if by chance: SplitMix64 (Steele et al. 2014)."""
    x = latent.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = _mixed(x + np.uint64(seed & 0xFFFFFFFF))
    return _mixed(x ^ (row.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


class PartState:
    """What is gathered of some features of one dictionary.

    Args:
        n: how many.
        first: the number of the first among all features, for the hash.
        shape: what examples are like.

    Attributes:
        fired: int64 [n]; peak: float32 [n].
        exponent: int16 [n], the histogram's range is ``2 ** exponent``.
        counts: uint32 [n, N_BINS].
    """

    def __init__(self, n: int, first: int, shape: ExampleShape) -> None:
        self.n, self._first, self._shape = n, first, shape
        self.fired = np.zeros(n, dtype=np.int64)
        self.peak = np.zeros(n, dtype=np.float32)
        self.exponent = np.full(n, _NEVER, dtype=np.int16)
        self.counts = np.zeros((n, N_BINS), dtype=np.uint32)
        # What a newcomer must exceed, or stay below, to be kept.
        self._top_bar = np.zeros(n, dtype=np.float32)
        self._draw_bar = np.full((n, N_DRAWS), _ALL, dtype=np.uint32)
        self._new: tuple[list[Candidates], list[Candidates]] = ([], [])
        self._kept = (Candidates.none(), Candidates.none())
        self._n_new = 0

    @property
    def n_bytes(self) -> int:
        """Memory that its candidates take."""
        return sum(c.n_bytes for c in (*self._kept, *self._new[0], *self._new[1]))

    @property
    def has_new(self) -> bool:
        """Whether there are candidates that were not given away yet."""
        return bool(self._n_new or any(map(len, self._kept)))

    def statistics(self) -> Columns:
        """Counts and histogram as arrays, for files; ``restore`` takes them."""
        return {name: getattr(self, name) for name in ("fired", "peak", "exponent", "counts")}

    def restore(self, columns: Columns, kept: tuple[Candidates, Candidates]) -> None:
        """Go on from what ``statistics`` and ``settle`` gave; ``kept`` only sets the bars."""
        self.fired, self.peak = columns["fired"].copy(), columns["peak"].copy()
        self.exponent, self.counts = columns["exponent"].copy(), columns["counts"].copy()
        self._set_bars(*kept)

    def add(self, events: Events, looks: Optional[LookAt] = None) -> None:
        """Take in the activations of some whole rows, sorted; each row once."""
        if not len(events.latent):
            return
        latent, value = events.latent, events.value
        starts = np.flatnonzero(np.diff(latent, prepend=-1))
        here, times = latent[starts], np.diff(starts, append=len(latent))
        self.fired[here] += times
        tops = np.maximum.reduceat(value, starts)
        self.peak[here] = np.maximum(self.peak[here], tops)
        self._widen(here, tops)
        bins = self._bins(latent, value, N_BINS)
        local = np.repeat(np.arange(len(here)), times)
        counted = np.bincount(local * N_BINS + bins, minlength=len(here) * N_BINS)
        self.counts[here] += counted.reshape(-1, N_BINS).astype(np.uint32)
        for kind, chosen in enumerate((self._strong(events), self._drawn(events, bins))):
            if len(chosen):
                self._new[kind].append(self._cut(events, chosen, looks))
                self._n_new += len(chosen)
        # Newcomers are kept apart for a while: sorting all each time would cost more than memory.
        if self._n_new > 4096 + sum(map(len, self._kept)):
            self._settle()

    def settle(self, stored: tuple[Candidates, Candidates]) -> tuple[Candidates, Candidates]:
        """What is to be kept of all that came since, and of what was ``stored`` before: the
        strongest, and those drawn. They are the caller's from now on."""
        (top_before, drawn_before), (top, drawn) = stored, self._kept
        self._kept = (
            Candidates.joined([top_before, top]), Candidates.joined([drawn_before, drawn]),
        )  # fmt: skip
        self._settle()
        found = self._kept
        self._kept = (Candidates.none(), Candidates.none())
        return found

    # ---- parts -----------------------------------------------------------------------------------

    def _widen(self, here: Ints, tops: Floats) -> None:
        """Let the histograms of features ``here`` reach to ``tops``."""
        _, wanted = np.frexp(tops)  # top < 2 ** wanted
        old = self.exponent[here].astype(np.int64)
        grow = np.where(old == _NEVER, 0, np.maximum(wanted - old, 0))
        self.exponent[here] = np.maximum(old, wanted)
        for step in np.unique(grow[grow > 0]).tolist():
            mine = here[grow == step]
            self.counts[mine] = _folded(self.counts[mine], step, np.sum, 0)
            self._draw_bar[mine] = _folded(self._draw_bar[mine], step, np.min, _ALL)

    def _bins(self, latent: Ints, value: Floats, n: int) -> Ints:
        scaled = np.ldexp(value.astype(np.float64), -self.exponent[latent].astype(np.int32))
        found: Ints = (scaled * n).astype(np.int64)
        return found

    def _strong(self, events: Events) -> Ints:
        """Of each latent and row the first of the largest, where it is above the bar."""
        row = events.place // self._shape.seq_len
        new = (np.diff(events.latent, prepend=-1) != 0) | (np.diff(row, prepend=-1) != 0)
        starts = np.flatnonzero(new)
        tops = np.maximum.reduceat(events.value, starts)
        promising = tops > self._top_bar[events.latent[starts]]
        lengths = np.diff(starts, append=len(row))[promising]
        inside = stretches(starts[promising], lengths)
        largest = events.value[inside] == np.repeat(tops[promising], lengths)
        segment = np.repeat(np.arange(len(lengths)), lengths)[largest]
        first = np.diff(segment, prepend=-1) != 0
        found: Ints = inside[largest][first]
        return found

    def _drawn(self, events: Events, bins: Ints) -> Ints:
        """Those whose row's hash is below the bar of their part of the range."""
        hashes = self._hash(events.latent, events.place)
        bar = self._draw_bar[events.latent, bins // (N_BINS // N_DRAWS)]
        found: Ints = np.flatnonzero((hashes >> np.uint64(32)).astype(np.uint32) <= bar)
        return found

    def _hash(self, latent: Ints, place: Ints) -> NDArray[np.uint64]:
        return row_hash(latent + self._first, place // self._shape.seq_len, self._shape.seed)

    def _cut(self, events: Events, chosen: Ints, looks: Optional[LookAt]) -> Candidates:
        """The chosen events with what is active around them."""
        latent, place = events.latent[chosen], events.place[chosen]
        shape = self._shape
        row_start = place - place % shape.seq_len
        begin = np.maximum(place - shape.before, row_start)
        end = np.minimum(place + shape.after, row_start + shape.seq_len - 1)
        keys, high = (events.latent << _PLACE_BITS) | events.place, latent << _PLACE_BITS
        first = np.searchsorted(keys, high | begin)
        widths = np.searchsorted(keys, high | end, side="right") - first
        inside = stretches(first, widths)
        looked = Looks(np.zeros(0, np.float32), np.zeros(len(chosen), np.float32))
        seen = np.zeros(len(chosen), dtype=np.int64)
        if looks is not None:
            looked, seen = looks(latent, place, begin), place - begin + 1
        return Candidates(
            latent,
            place,
            events.value[chosen],
            bounds_of(widths),
            (events.place[inside] - np.repeat(begin, widths)).astype(np.int32),
            events.value[inside],
            bounds_of(seen),
            looked.share,
            looked.before,
        )

    def _settle(self) -> None:
        """Sort the newcomers in, and raise the bars."""
        top, drawn = (
            Candidates.joined([kept, *new]) for kept, new in zip(self._kept, self._new, strict=True)
        )
        top = top.take(best_of(top.latent, (top.place, -top.value), self._shape.strongest))
        drawn = drawn.take(self._best_drawn(drawn))
        self._kept, self._new, self._n_new = (top, drawn), ([], []), 0
        self._set_bars(top, drawn)

    def _draw_keys(self, found: Candidates) -> Ints:
        return found.latent * N_DRAWS + self._bins(found.latent, found.value, N_DRAWS)

    def _best_drawn(self, found: Candidates) -> Ints:
        return drawn_of(
            self._draw_keys(found),
            self._hash(found.latent, found.place),
            found.place,
            self._shape.seq_len,
            self._shape.per_interval,
        )

    def _set_bars(self, top: Candidates, drawn: Candidates) -> None:
        """From candidates as ``_settle`` sorts them."""
        full, last = _filled(top.latent, self._shape.strongest)
        bars = np.maximum(self._top_bar[full], top.value[last])
        self._top_bar[full] = bars
        full, last = _filled(self._draw_keys(drawn), self._shape.per_interval)
        hashes = self._hash(drawn.latent[last], drawn.place[last]) >> np.uint64(32)
        bars = self._draw_bar.reshape(-1)
        bars[full] = np.minimum(bars[full], hashes.astype(np.uint32))


def best_of(key: Ints, order: tuple[NDArray[Any], ...], most: int) -> Ints:
    """For each key the ``most`` first of its entries: places, sorted by key and then by ``order``
    (as ``np.lexsort`` has it: the last counts most)."""
    places: Ints = np.lexsort((*order, key))
    return places[_rank(key[places]) < most]


def drawn_of(key: Ints, hashes: NDArray[np.uint64], place: Ints, seq_len: int, most: int) -> Ints:
    """For each key the entries of the ``most`` rows with the smallest hashes, of each row its
    first: places, sorted by key, hash and place."""
    order: Ints = np.lexsort((place, hashes, key))
    row = place[order] // seq_len
    again = (np.diff(key[order], prepend=-1) == 0) & (np.diff(row, prepend=-1) == 0)
    order = order[~again]
    return order[_rank(key[order]) < most]


def _rank(key: Ints) -> Ints:
    """Of sorted keys: how many equal ones come before each."""
    if not len(key):
        return key
    starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
    found: Ints = np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))
    return found


def _filled(key: Ints, most: int) -> tuple[Ints, Ints]:
    """Of sorted keys: which have ``most`` entries, and the place of the last of those."""
    last = np.flatnonzero(_rank(key) == most - 1)
    return key[last], last


def _folded(
    table: NDArray[np.uint32], step: int, join: Callable[..., NDArray[np.uint32]], empty: int
) -> NDArray[np.uint32]:
    """Each row with ``2 ** step`` neighbouring cells joined, and empty cells at its end."""
    width = table.shape[1]
    size = min(1 << min(step, 30), width)
    found = np.full_like(table, empty)
    found[:, : width // size] = join(table.reshape(len(table), -1, size), axis=2)
    return found
