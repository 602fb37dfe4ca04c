"""How pages about features lie in arrays: the bulk of a feature store.

The features of a dictionary are parted into runs of ``PART_FEATURES``; a part is one table of
columns, one safetensors file. ``n`` features have ``g`` groups with ``e`` examples in all:

    fired [n]  peak [n]                           tokens where active, −1: not known, −2: there is
                                                  no page; the largest activation, NaN: not known
    hist_bounds [n + 1]  hist_counts              histogram counts of feature i: from
                                                  ``hist_bounds[i]`` to ``hist_bounds[i + 1]``
    hist_low [n]  hist_high [n]                   outer edges; bins are of equal width
    {promoted, suppressed}_{word, effect} [n, k]  word −1: none
    {decoder, firing}_{site, index, score} [n, m] neighbours; site is ``Site.number``, −1: none
    group_bounds [n + 1]                          groups of a feature
    group_name [g]  group_low [g]  group_high [g] name: a place in ``StoreAbout.group_names``;
                                                  NaN: not known
    example_bounds [g + 1]                        examples of a group
    text_at [e]  length [e]                       its tokens, a stretch of the store's text
    row [e]  start [e]  at [e]                    row (−1: not known, −2: nor it, but shown before),
                                                  position in it of the first token; the peak,
                                                  counted from that
    value_bounds [e + 1]  value_at  value         where the feature is active, and how strongly
    look_bounds [e + 1]  look  look_before [e]    z-pattern from the first token on, in shares of
                                                  the activation; of an MLP's empty

The text is one array of words, ``text.safetensors``: ``words`` indexes a table of strings
(``word_bounds``, ``word_text``: UTF-8, one after the other).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_records import FeaturePage, FeaturePageError, Neighbour

PART_FEATURES = 2048
NOT_KNOWN, NO_PAGE = -1, -2
REPEATED = -2
N_WORDS = 8
N_NEIGHBOURS = 8

Columns = dict[str, NDArray[Any]]

COLUMN_TYPES: Mapping[str, str] = {
    "fired": "I64",
    "peak": "F32",
    "hist_bounds": "I64",
    "hist_counts": "I64",
    "hist_low": "F64",
    "hist_high": "F64",
    "promoted_word": "I32",
    "promoted_effect": "F32",
    "suppressed_word": "I32",
    "suppressed_effect": "F32",
    "decoder_site": "I32",
    "decoder_index": "I32",
    "decoder_score": "F32",
    "firing_site": "I32",
    "firing_index": "I32",
    "firing_score": "F32",
    "group_bounds": "I64",
    "group_name": "I32",
    "group_low": "F32",
    "group_high": "F32",
    "example_bounds": "I64",
    "text_at": "I64",
    "length": "I32",
    "row": "I64",
    "start": "I32",
    "at": "I32",
    "value_bounds": "I64",
    "value_at": "I32",
    "value": "F32",
    "look_bounds": "I64",
    "look": "F32",
    "look_before": "F32",
}
"""Every column of a part, and its type as safetensors names it."""
TEXT_TYPES: Mapping[str, str] = {"words": "I32", "word_bounds": "I64", "word_text": "U8"}
NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "I64": np.int64,
    "I32": np.int32,
    "F32": np.float32,
    "F64": np.float64,
    "U8": np.uint8,
}


def part_name(site_name: str, part: int) -> str:
    """The file of a part of a site's features."""
    return f"{site_name}_{part:05d}.safetensors"


def bounds_of(lengths: NDArray[Any] | Sequence[int]) -> NDArray[np.int64]:
    """[n + 1] where stretches of these lengths begin and end, laid one after the other."""
    found: NDArray[np.int64] = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.asarray(lengths, dtype=np.int64), out=found[1:])
    return found


def stretches(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places ``starts[i] … starts[i] + lengths[i] - 1`` of all i, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shift = np.repeat(starts - ends + lengths, lengths)
    return np.arange(total, dtype=np.int64) + shift


class WordTable:
    """Strings, each once, in the order in which they are first met.

    Attributes:
        strings: all of them, each at its number.
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.strings: list[str] = []

    def id(self, word: str) -> int:
        """Its number."""
        found = self._ids.get(word)
        if found is None:
            found = self._ids[word] = len(self.strings)
            self.strings.append(word)
        return found


class Words(Protocol):
    """The text of a store while it grows: numbers of words."""

    def __len__(self) -> int: ...

    def extend(self, words: Iterable[int], /) -> None:
        """Add some at the end."""


def word_columns(words: Sequence[str]) -> Columns:
    """``word_bounds`` and ``word_text`` of a list of strings."""
    texts = [word.encode("utf-8", "replace") for word in words]
    return {
        "word_bounds": bounds_of([len(text) for text in texts]),
        "word_text": np.frombuffer(b"".join(texts), dtype=np.uint8),
    }


def columns_of_pages(
    pages: Iterable[FeaturePage],
    words: WordTable,
    text: Words,
    group_names: list[str],
) -> Columns:
    """The columns of some pages, latents 0, 1 … in order.

    Args:
        words: the store's strings; new ones are added.
        text: the store's text as their numbers; every example adds its tokens.
        group_names: the headings; new ones are added.

    Raises:
        FeaturePageError: a histogram's bins are not of equal width.
    """
    lists: dict[str, list[Any]] = {name: [] for name in COLUMN_TYPES}
    hist, groups, examples, values, looks = [], [], [], [], []
    for page in pages:
        edges = page.histogram.edges
        if len(edges) > 1 and not np.allclose(np.diff(edges), edges[1] - edges[0], rtol=1e-4):
            raise FeaturePageError(
                f"The page about {page.site.label} #{page.index} cannot be stored",
                "the bins of its histogram are not of equal width",
            )
        lists["fired"].append(page.n_fired)
        lists["peak"].append(page.max_activation)
        hist.append(len(page.histogram.counts))
        lists["hist_counts"] += page.histogram.counts.tolist()
        lists["hist_low"].append(float(edges[0]))
        lists["hist_high"].append(float(edges[-1]))
        for side, found in (("promoted", page.promoted), ("suppressed", page.suppressed)):
            rows = [(words.id(word), effect) for word, effect in found[:N_WORDS]]
            rows += [(-1, 0.0)] * (N_WORDS - len(rows))
            lists[f"{side}_word"].append([row[0] for row in rows])
            lists[f"{side}_effect"].append([row[1] for row in rows])
        for side, near in (("decoder", page.near_by_decoder), ("firing", page.near_by_firing)):
            kin = [_neighbour(one) for one in near[:N_NEIGHBOURS]]
            kin += [(-1, 0, 0.0)] * (N_NEIGHBOURS - len(kin))
            for place, name in enumerate(("site", "index", "score")):
                lists[f"{side}_{name}"].append([row[place] for row in kin])
        groups.append(len(page.groups))
        for group in page.groups:
            if group.name not in group_names:
                group_names.append(group.name)
            lists["group_name"].append(group_names.index(group.name))
            lists["group_low"].append(np.nan if group.low is None else group.low)
            lists["group_high"].append(np.nan if group.high is None else group.high)
            examples.append(len(group.examples))
            for example in group.examples:
                lists["text_at"].append(len(text))
                text.extend([words.id(token) for token in example.tokens])
                lists["length"].append(len(example.tokens))
                unknown = REPEATED if example.repeated else -1
                lists["row"].append(example.sequence if example.sequence >= 0 else unknown)
                lists["start"].append(example.start)
                lists["at"].append(example.peak)
                active = np.nonzero(example.values)[0]
                values.append(len(active))
                lists["value_at"] += active.tolist()
                lists["value"] += example.values[active].tolist()
                look = example.looks_at
                seen = [] if look is None else (look / (example.value or 1.0)).tolist()
                looks.append(len(seen))
                lists["look"] += seen
                lists["look_before"].append(example.looks_before / (example.value or 1.0))
    columns = {
        name: np.asarray(lists[name], dtype=NUMPY_TYPES[kind])
        for name, kind in COLUMN_TYPES.items()
    }
    for name in COLUMN_TYPES:
        for side, width in (
            ("promoted", N_WORDS),
            ("suppressed", N_WORDS),
            ("decoder", N_NEIGHBOURS),
            ("firing", N_NEIGHBOURS),
        ):
            if name.startswith(side):
                columns[name] = columns[name].reshape(-1, width)
    for name, lengths in (
        ("hist", hist),
        ("group", groups),
        ("example", examples),
        ("value", values),
        ("look", looks),
    ):
        columns[f"{name}_bounds"] = bounds_of(lengths)
    return columns


def _neighbour(near: Neighbour) -> tuple[int, int, float]:
    return near.site.number, near.index, near.score
