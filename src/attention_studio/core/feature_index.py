"""Lists of a store's features: filtered, ordered, gone through, searched."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np

from attention_studio.core.feature_labels import FeatureLabels, labelled
from attention_studio.core.feature_records import share_of
from attention_studio.core.feature_store_about import (
    INDEX,
    FeatureId,
    FeatureNumbers,
    StoreAbout,
    checked,
)
from attention_studio.core.sites import Site, SiteKind

_AT_ONCE = 500
"""Features that one query names."""

Order = Literal["index", "density", "-density", "max", "-max"]


@dataclass(frozen=True)
class FeatureFilter:
    """Which features are meant; what is None is not asked for.

    Attributes:
        sites: only these modules.
        layers, kinds: only modules of these layers, of these kinds.
        least_density, most_density: between these, both included.
        dead: only those that were never active, or only others.
        labelled: only those that have a label, or only others.
    """

    sites: Optional[tuple[Site, ...]] = None
    layers: Optional[tuple[int, ...]] = None
    kinds: Optional[tuple[SiteKind, ...]] = None
    least_density: Optional[float] = None
    most_density: Optional[float] = None
    dead: Optional[bool] = None
    labelled: Optional[bool] = None


@dataclass(frozen=True)
class FeatureRow:
    """A feature in a list: at how many tokens it is active, and its largest activation."""

    site: Site
    index: int
    n_fired: int
    max_activation: float
    n_tokens: int = 0

    @property
    def density(self) -> float:
        """The share of tokens at which it is active; NaN: not known."""
        return share_of(self.n_fired, self.n_tokens)


class FeatureIndex:
    """The features of a store, in lists. Threads may share it.

    Attributes:
        folder: of the store.
        about: what it is of.
        numbers: of its features.
        labels: what they are called.
    """

    def __init__(self, folder: Path, about: StoreAbout) -> None:
        self.folder, self.about = folder, about
        self.numbers = FeatureNumbers(about, folder)
        self.labels = FeatureLabels(folder)
        self._query_lock = threading.RLock()
        self._index = _connect(folder / INDEX)

    def close(self) -> None:
        """Let go of its files. Reading afterwards is an error."""
        with self._query_lock:
            self._index.close()
        self.labels.close()

    def has(self, site: Site, index: int) -> bool:
        """Whether there is a page about a feature.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        if not self.numbers.knows((site, index)):
            return False
        if not self.about.partial:
            return True
        rows = self._rows("SELECT 1 FROM feature WHERE id = ?", [self.numbers.id(site, index)])
        return bool(rows)

    def ids(
        self,
        wanted: Optional[FeatureFilter] = None,
        order: Order = "index",
        limit: int = 1000,
        offset: int = 0,
    ) -> list[FeatureId]:
        """Features in an order: by module and number, or by density or largest activation, "-" in
        front of it: the largest first.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        return [(row.site, row.index) for row in self.rows(wanted, order, limit, offset)]

    def rows(
        self,
        wanted: Optional[FeatureFilter] = None,
        order: Order = "index",
        limit: int = 1000,
        offset: int = 0,
    ) -> list[FeatureRow]:
        """Like ``ids``, with what a list says of each.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        column = {"index": "id", "density": "fired", "max": "peak"}[order.lstrip("-")]
        down = " DESC" if order.startswith("-") else ""
        tail = f"ORDER BY {column}{down}, id LIMIT ? OFFSET ?"
        rows = self._select("id, fired, peak", wanted, "", tail, [limit, offset])
        return [self._row(found) for found in rows]

    def rows_of(
        self, features: Sequence[FeatureId], wanted: Optional[FeatureFilter] = None
    ) -> list[FeatureRow]:
        """What a list says of some features, in their order; those that the store does not know
        and those that are not meant are left out.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        ids = [self.numbers.id(*feature) for feature in features if self.numbers.knows(feature)]
        found: dict[int, FeatureRow] = {}
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            among = f"id IN ({', '.join('?' * len(some))})"
            rows = self._select("id, fired, peak", wanted, among, "", some)
            found |= {row[0]: self._row(row) for row in rows}
        return [found[one] for one in ids if one in found]

    def _row(self, found: tuple[Any, ...]) -> FeatureRow:
        site, index = self.numbers.feature(found[0])
        peak = float(found[2]) if found[2] >= 0 else float("nan")
        return FeatureRow(site, index, int(found[1]), peak, self.about.n_tokens)

    def count(self, wanted: Optional[FeatureFilter] = None) -> int:
        """How many features are meant."""
        return int(self._select("count(*)", wanted)[0][0])

    def place(
        self, site: Site, index: int, wanted: Optional[FeatureFilter] = None
    ) -> Optional[int]:
        """The place of a feature, from 0, in what ``ids`` lists by module and number; None: it is
        not among those that are meant.

        Raises:
            FeatureStoreError: there is no such feature.
        """
        row = self.numbers.id(site, index)
        if not self.rows_of([(site, index)], wanted):
            return None
        return int(self._select("count(*)", wanted, "id < ?", "", [row])[0][0])

    def random(
        self, wanted: Optional[FeatureFilter] = None, seed: Optional[int] = None
    ) -> Optional[FeatureId]:
        """One of the features that are meant, by chance; None: there is none."""
        n = self.count(wanted)
        if not n:
            return None
        place = int(np.random.default_rng(seed).integers(n))
        return self.ids(wanted, limit=1, offset=place)[0]

    def next(
        self, site: Site, index: int, wanted: Optional[FeatureFilter] = None
    ) -> Optional[FeatureId]:
        """The feature after this one among those that are meant; None: there is none."""
        return self._beside(site, index, wanted, ">", "ASC")

    def previous(
        self, site: Site, index: int, wanted: Optional[FeatureFilter] = None
    ) -> Optional[FeatureId]:
        """The feature before this one among those that are meant; None: there is none."""
        return self._beside(site, index, wanted, "<", "DESC")

    def matches(self, text: str, limit: int) -> list[FeatureId]:
        """Features whose label, promoted tokens or examples have all words of a text, the last one
        perhaps only begun; those with a fitting label first.

        What is typed is looked for as it stands; it is no language.
        """
        query = search_expression(text)
        if not query:
            return []
        knows = self.numbers.knows
        found = [feature for feature in self.labels.search(query, limit) if knows(feature)]
        rows = self._rows(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?", [query, limit]
        )
        found += [self.numbers.feature(row) for (row,) in rows]
        return list(dict.fromkeys(found))[:limit]

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._query_lock, checked(self.folder):
            return self._index.execute(query, values).fetchall()

    def _select(
        self,
        what: str,
        wanted: Optional[FeatureFilter],
        also: str = "",
        tail: str = "",
        values: Sequence[Any] = (),
    ) -> list[tuple[Any, ...]]:
        """``what`` of the features that are meant, for which ``also`` holds; ``values`` of both
        ``also`` and ``tail``."""
        wanted = wanted or FeatureFilter()
        with self._query_lock, checked(self.folder), ExitStack() as stack:
            some = wanted.labelled is not None and stack.enter_context(
                self.labels.attached(self._index)
            )
            parts, bound = self._conditions(wanted, some)
            parts += [also] if also else []
            where = f"WHERE {' AND '.join(parts)}" if parts else ""
            query = f"SELECT {what} FROM feature {where} {tail}"
            return self._index.execute(query, [*bound, *values]).fetchall()

    def _conditions(self, wanted: FeatureFilter, some: bool) -> tuple[list[str], list[Any]]:
        """In SQL, with their values; ``some``: whether there may be labels."""
        parts: list[str] = []
        values: list[Any] = []
        chosen = [
            size.site
            for size in self.about.sites
            if (wanted.sites is None or size.site in wanted.sites)
            and (wanted.layers is None or size.layer in wanted.layers)
            and (wanted.kinds is None or size.kind in wanted.kinds)
        ]
        if len(chosen) < len(self.about.sites):
            parts.append(f"site IN ({', '.join('?' * len(chosen))})")
            values += [site.number for site in chosen]
        for bound, sign in ((wanted.least_density, ">="), (wanted.most_density, "<=")):
            if bound is not None:
                parts.append(f"fired >= 0 AND fired {sign} ?")
                values.append(bound * self.about.n_tokens)
        if wanted.dead is not None:
            parts.append("fired = 0" if wanted.dead else "fired <> 0")
        if wanted.labelled is not None:
            sites = [(s.site, self.numbers.first(s.site), s.n_features) for s in self.about.sites]
            listed = labelled(sites) if some else ""
            parts.append(f"id {'' if wanted.labelled else 'NOT '}IN ({listed})")
        return parts, values

    def _beside(
        self, site: Site, index: int, wanted: Optional[FeatureFilter], sign: str, way: str
    ) -> Optional[FeatureId]:
        row = self.numbers.id(site, index)
        rows = self._select("id", wanted, f"id {sign} ?", f"ORDER BY id {way} LIMIT 1", [row])
        return self.numbers.feature(rows[0][0]) if rows else None


def search_expression(text: str) -> str:
    """What is typed, as an FTS5 expression that means just these words: each is quoted, so none can
    be an operator. "" where there is nothing to look for."""
    terms = [term for term in text.replace("\0", " ").split() if any(map(str.isalnum, term))]
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms]
    return " ".join(quoted) + "*" if quoted else ""


def _connect(path: Path) -> sqlite3.Connection:
    """An index that nobody writes to."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )
