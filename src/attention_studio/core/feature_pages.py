"""Reads pages about features from the bulk files of a store; see ``core.feature_columns``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from attention_studio.core.dictionaries.safetensors_header import read_safetensors_header
from attention_studio.core.feature_columns import (
    COLUMN_TYPES,
    N_NEIGHBOURS,
    N_WORDS,
    NO_PAGE,
    NUMPY_TYPES,
    PART_FEATURES,
    REPEATED,
    TEXT_TYPES,
    part_name,
)
from attention_studio.core.feature_records import (
    Example,
    ExampleGroup,
    FeatureLabel,
    FeaturePage,
    Histogram,
    Neighbour,
)
from attention_studio.core.feature_store_about import (
    TEXT,
    FeatureNumbers,
    FeatureStoreError,
    StoreAbout,
    checked,
    damaged,
    made_at,
)
from attention_studio.core.sites import Site

_MAX_EXAMPLE = 4096
_MAX_PAGE = 10_000
"""Examples, bins or groups of a page; more make no sense."""
_NEAR = ("site", "index", "score")


class PageFiles:
    """The bulk files of a store, opened as they are needed. Threads may share them.

    Args:
        folder: of the store.
        about: what it is of.
        numbers: of its features.
        files: which files it has.
        label_of: what a feature is called.
        words_of: what a neighbour is shown with.

    Raises:
        FeatureStoreError: the text of its examples is damaged.
    """

    def __init__(
        self,
        folder: Path,
        about: StoreAbout,
        numbers: FeatureNumbers,
        files: frozenset[str],
        label_of: Callable[[Site, int], Optional[FeatureLabel]],
        words_of: Callable[[Site, int], tuple[str, ...]],
    ) -> None:
        self.folder, self.about, self._files = folder, about, files
        self._numbers, self._label_of, self._words_of = numbers, label_of, words_of
        self._lock = threading.RLock()
        self._parts: dict[str, Any] = {}
        self._made = made_at(folder)
        self._text = self._open_part(TEXT, TEXT_TYPES)
        self._word_bounds: NDArray[np.int64] = self._text.get_tensor("word_bounds")
        self._word_text: NDArray[np.uint8] = self._text.get_tensor("word_text")
        bounds = self._word_bounds
        if not len(bounds) or bounds[0] != 0 or (np.diff(bounds) < 0).any():
            raise self._damaged("the bounds of its words are not ascending")
        if bounds[-1] != len(self._word_text):
            raise self._damaged("its words do not fit together")

    def close(self) -> None:
        """Let go of them."""
        with self._lock:
            self._parts.clear()

    def page(self, site: Site, index: int) -> FeaturePage:
        """The page about a feature that has one.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        with self._checked():
            part = self._part(site, index)
            i = index % PART_FEATURES
            groups = self._groups(part, i)
            edges, counts = _histogram(part, i)
            return FeaturePage(
                site=site,
                index=index,
                n_fired=int(_slice(part, "fired", i, i + 1)[0]),
                n_tokens=self.about.n_tokens,
                max_activation=float(_slice(part, "peak", i, i + 1)[0]),
                histogram=Histogram(edges, counts),
                groups=groups,
                promoted=self._effects(part, i, "promoted"),
                suppressed=self._effects(part, i, "suppressed"),
                near_by_decoder=self._neighbours(part, i, "decoder"),
                near_by_firing=self._neighbours(part, i, "firing"),
                label=self._label_of(site, index),
                counted=self.about.counted,
            )

    def promotes(self, site: Site, index: int, n: int = N_WORDS) -> tuple[str, ...]:
        """The tokens that a feature that has a page promotes most.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        with self._checked():
            i = index % PART_FEATURES
            words = _slice(self._part(site, index), "promoted_word", i, i + 1)[0, :n]
            return tuple(self._word(word) for word in words.tolist() if word >= 0)

    def fired(self, site: Site) -> NDArray[np.int64]:
        """[n] at how many tokens each latent of a module is active; below 0: not known.

        Raises:
            FeatureStoreError: the store has no such module, or is damaged.
        """
        n = self._numbers.size(site)
        with self._checked():
            found: NDArray[np.int64] = np.full(n, NO_PAGE, dtype=np.int64)
            for begin in range(0, n, PART_FEATURES):
                if part_name(site.name, begin // PART_FEATURES) in self._files:
                    part = self._part(site, begin).get_tensor("fired")
                    found[begin : begin + PART_FEATURES] = part
            return found

    def _part(self, site: Site, index: int) -> Any:
        return self._open_part(part_name(site.name, index // PART_FEATURES), COLUMN_TYPES)

    def _open_part(self, name: str, types: Mapping[str, str]) -> Any:
        with self._lock:
            found = self._parts.get(name)
            if found is None:
                path = self.folder / name
                header = read_safetensors_header(path)
                if {key: entry.dtype for key, entry in header.items()} != dict(types):
                    raise self._damaged(f"the columns of {name} are not those of a store")
                shapes = {key: entry.shape for key, entry in header.items()}
                if types is COLUMN_TYPES:
                    _check_shapes(self.folder, name, shapes)
                found = safe_open(path, framework="numpy")
                if self._made != made_at(self.folder):
                    # Parts are opened when they are needed; those of another store do not fit.
                    raise FeatureStoreError(
                        f"The feature store in {self.folder} was built anew",
                        "what is open is the one before",
                        "open it again",
                    )
                self._parts[name] = found
            return found

    def _groups(self, part: Any, i: int) -> tuple[ExampleGroup, ...]:
        first, last = self._span(part, "group_bounds", i)
        bounds = _slice(part, "example_bounds", first, last + 1).tolist()
        columns = [_slice(part, f"group_{c}", first, last) for c in ("name", "low", "high")]
        names, lows, highs = (column.tolist() for column in columns)
        if not names:
            return ()
        begin, end = bounds[0], bounds[-1]
        if not 0 <= end - begin <= _MAX_PAGE or sorted(bounds) != bounds:
            raise self._damaged("a feature has an impossible number of examples")
        examples = self._examples(part, begin, end)
        return tuple(
            ExampleGroup(
                self._group_name(name),
                None if np.isnan(low) else low,
                None if np.isnan(high) else high,
                tuple(examples[a - begin : b - begin]),
            )
            for name, low, high, a, b in zip(
                names, lows, highs, bounds[:-1], bounds[1:], strict=True
            )
        )

    def _group_name(self, name: int) -> str:
        if not 0 <= name < len(self.about.group_names):
            raise self._damaged("a group of examples has no name")
        return self.about.group_names[name]

    def _examples(self, part: Any, begin: int, end: int) -> list[Example]:
        fields = ("text_at", "length", "row", "start", "at", "look_before")
        columns = {name: _slice(part, name, begin, end).tolist() for name in fields}
        value_bounds = _slice(part, "value_bounds", begin, end + 1).tolist()
        look_bounds = _slice(part, "look_bounds", begin, end + 1).tolist()
        if any(sorted(bounds) != bounds for bounds in (value_bounds, look_bounds)):
            raise self._damaged("the activations of an example are not in order")
        value_at = _slice(part, "value_at", value_bounds[0], value_bounds[-1])
        value = _slice(part, "value", value_bounds[0], value_bounds[-1])
        if not np.isfinite(value).all():
            raise self._damaged("an activation is not finite")
        look = _slice(part, "look", look_bounds[0], look_bounds[-1])
        shown: set[int] = set()
        found = []
        for e in range(end - begin):
            n, at = columns["length"][e], columns["at"][e]
            if not (0 < n <= _MAX_EXAMPLE and 0 <= at < n):
                raise self._damaged("an example has no tokens")
            mine = slice(value_bounds[e] - value_bounds[0], value_bounds[e + 1] - value_bounds[0])
            values = np.zeros(n, dtype=np.float32)
            places = value_at[mine]
            if len(places) and not (places.min() >= 0 and places.max() < n):
                raise self._damaged("an example has activations beyond its end")
            values[places] = value[mine]
            row, peak = columns["row"][e], float(values[at])
            shares = look[look_bounds[e] - look_bounds[0] : look_bounds[e + 1] - look_bounds[0]]
            looks_at = None
            if len(shares):
                if len(shares) > n:
                    raise self._damaged("an example looks beyond its end")
                looks_at = np.zeros(n, dtype=np.float32)
                looks_at[: len(shares)] = shares * peak
            found.append(
                Example(
                    tokens=self._tokens(columns["text_at"][e], n),
                    values=values,
                    peak=at,
                    sequence=max(row, -1),
                    start=columns["start"][e],
                    looks_at=looks_at,
                    looks_before=columns["look_before"][e] * peak,
                    repeated=row == REPEATED or (row >= 0 and row in shown),
                )
            )
            shown.add(row)
        return found

    def _tokens(self, at: int, n: int) -> tuple[str, ...]:
        return tuple(self._word(word) for word in _slice(self._text, "words", at, at + n).tolist())

    def _word(self, word: int) -> str:
        if not 0 <= word < len(self._word_bounds) - 1:
            raise self._damaged("a token has no text")
        text = self._word_text[self._word_bounds[word] : self._word_bounds[word + 1]]
        return text.tobytes().decode("utf-8", "replace")

    def _effects(self, part: Any, i: int, side: str) -> tuple[tuple[str, float], ...]:
        words = _slice(part, f"{side}_word", i, i + 1)[0].tolist()
        effects = _slice(part, f"{side}_effect", i, i + 1)[0].tolist()
        pairs = zip(words, effects, strict=True)
        return tuple((self._word(word), effect) for word, effect in pairs if word >= 0)

    def _neighbours(self, part: Any, i: int, side: str) -> tuple[Neighbour, ...]:
        rows = [_slice(part, f"{side}_{c}", i, i + 1)[0].tolist() for c in _NEAR]
        found = []
        for number, index, score in zip(*rows, strict=True):
            if number >= 0:
                site = Site.of_number(number)
                if not self._numbers.knows((site, index)):
                    raise self._damaged("a feature resembles one that there is not")
                words = self._words_of(site, index)
                label = self._label_of(site, index)
                found.append(
                    Neighbour(site, index, score, words, label.text if label is not None else "")
                )
        return tuple(found)

    def _span(self, part: Any, name: str, i: int) -> tuple[int, int]:
        first, last = _slice(part, name, i, i + 2).tolist()
        if not 0 <= first <= last <= first + _MAX_PAGE:
            raise self._damaged(f"{name} is not ascending")
        return first, last

    def _damaged(self, why: str) -> FeatureStoreError:
        return damaged(self.folder, why)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        with self._lock, checked(self.folder):
            yield


def _slice(part: Any, name: str, begin: int, end: int) -> NDArray[Any]:
    rows = part.get_slice(name)
    if not 0 <= begin <= end <= rows.get_shape()[0]:
        raise ValueError(f"{name} has no rows from {begin} to {end}")
    if begin == end:  # of an empty column no slice can be had
        return np.zeros(0, dtype=NUMPY_TYPES[{**COLUMN_TYPES, **TEXT_TYPES}[name]])
    found: NDArray[Any] = rows[begin:end]
    return found


def _histogram(part: Any, i: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    first, last = _slice(part, "hist_bounds", i, i + 2).tolist()
    if not 0 <= first <= last <= first + _MAX_PAGE:
        raise ValueError("a histogram has an impossible number of bins")
    counts = _slice(part, "hist_counts", first, last)
    low, high = (float(_slice(part, f"hist_{end}", i, i + 1)[0]) for end in ("low", "high"))
    if (counts < 0).any() or not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("a histogram has impossible counts or edges")
    return np.linspace(low, high, len(counts) + 1), counts


def _check_shapes(folder: Path, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse columns that do not fit together."""
    n, g, e = (shapes[column] for column in ("fired", "group_name", "text_at"))
    expected: dict[str, tuple[int, ...]] = {}
    expected |= dict.fromkeys(("peak", "hist_low", "hist_high"), n)
    expected |= dict.fromkeys(("group_low", "group_high"), g)
    expected |= dict.fromkeys(("length", "row", "start", "at", "look_before"), e)
    for side in ("promoted", "suppressed"):
        expected |= dict.fromkeys((f"{side}_word", f"{side}_effect"), (*n, N_WORDS))
    for side in ("decoder", "firing"):
        expected |= dict.fromkeys([f"{side}_{c}" for c in _NEAR], (*n, N_NEIGHBOURS))
    expected["value"] = shapes["value_at"]
    if not len(n) == len(g) == len(e) == 1:
        raise damaged(folder, f"the columns of {name} are not lists")
    for bounds, items in (("hist", n), ("group", n), ("example", g), ("value", e), ("look", e)):
        expected[f"{bounds}_bounds"] = (items[0] + 1,)
    for column, shape in expected.items():
        if shapes[column] != shape:
            raise damaged(folder, f"{column} of {name} does not fit the rest")
