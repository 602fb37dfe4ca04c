"""Writes feature stores: part by part from columns, or by hand from pages."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import attention_studio
from attention_studio.core.feature_columns import (
    COLUMN_TYPES,
    NO_PAGE,
    NUMPY_TYPES,
    PART_FEATURES,
    TEXT_TYPES,
    Columns,
    WordTable,
    columns_of_pages,
    part_name,
    word_columns,
)
from attention_studio.core.feature_labels import LABELS, FeatureLabels
from attention_studio.core.feature_records import FeatureLabel, FeaturePage, Histogram
from attention_studio.core.feature_store_about import (
    ABOUT,
    FOREIGN,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    TEXT,
    FeatureId,
    FeatureStoreError,
    SiteSize,
    StoreAbout,
    now,
)
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    atomic_folder,
    explain_write_errors,
    flush_files,
    read_json,
    write_json_atomic,
)

N_SEARCHED, _BEFORE, _AFTER = 5, 10, 5
"""Of how many examples the text can be searched, and how many tokens around the peak."""
_AT_ONCE = 1 << 20
_OF_STORES = re.compile(
    "|".join(map(re.escape, (ABOUT, INDEX, TEXT, FOREIGN, LABELS)))
    + rf"|{re.escape(LABELS)}-(wal|shm|journal)|(mlp|attention)_\d+_\d+\.safetensors|\.DS_Store"
)
"""Names of what lies in stores, and of what a system puts beside it."""
_TABLES = """
CREATE TABLE feature (
    id INTEGER PRIMARY KEY, site INTEGER NOT NULL, fired INTEGER NOT NULL, peak REAL NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (promoted, examples, content='');
"""
_ORDERS = """
CREATE INDEX by_fired ON feature (fired, id);
CREATE INDEX by_peak ON feature (peak, id);
"""


class StoreWriter:
    """Fills an empty folder with a store: parts in any order, then ``finish``.

    Args:
        folder: where; not the final place, but one that is renamed when it is whole.
        sites: the modules and their latents, in order of the forward pass.
        text: the words of all examples, as numbers; as a memory map it is not read into memory.
        strings: what the numbers mean.

    Raises:
        FileWriteError: it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[SiteSize],
        text: NDArray[np.int32],
        strings: Sequence[str],
    ) -> None:
        self._folder, self._sites = folder, tuple(sites)
        self._text, self._strings = text, strings
        self._first: dict[Site, int] = {}
        total = 0
        for size in self._sites:
            self._first[size.site] = total
            total += size.n_features
        columns = {"words": text, **word_columns(strings)}
        with explain_write_errors(folder / TEXT):
            if isinstance(text, np.memmap):  # more, perhaps, than memory has room for
                _save_large(folder / TEXT, columns)
            else:
                save_file(columns, folder / TEXT)
        self._index = sqlite3.connect(folder / INDEX)
        # Nobody reads the file before it is whole.
        self._index.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)

    def part(self, site: Site, part: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write the features from ``part * PART_FEATURES`` on of a module. The index has those that
        have a page.

        Raises:
            FileWriteError: it cannot be written.
        """
        self._save(
            part_name(site.name, part),
            {
                name: np.ascontiguousarray(columns[name], dtype=NUMPY_TYPES[kind])
                for name, kind in COLUMN_TYPES.items()
            },
        )
        first = self._first[site] + part * PART_FEATURES
        there = columns["fired"] != NO_PAGE
        peaks = np.where(np.isnan(columns["peak"]), -1.0, columns["peak"])  # NaN would be NULL
        facts = zip(columns["fired"].tolist(), peaks.tolist(), strict=True)
        self._index.executemany(
            "INSERT INTO feature VALUES (?, ?, ?, ?)",
            [(first + i, site.number, *facts) for i, facts in enumerate(facts) if there[i]],
        )
        self._index.executemany(
            "INSERT INTO words (rowid, promoted, examples) VALUES (?, ?, ?)",
            [
                (first + i, promoted, examples)
                for i, (promoted, examples) in enumerate(self._documents(columns))
                if there[i]
            ],
        )

    def finish(self, about: StoreAbout) -> StoreAbout:
        """Write the rest, with the version and the time where ``about`` does not say them.

        Returns:
            What is written of it.

        Raises:
            FileWriteError: it cannot be written.
        """
        self._index.executescript(_ORDERS)
        self._index.commit()
        self._index.close()
        names = sorted(path.name for path in self._folder.iterdir() if path.name != LABELS)
        about = replace(
            about,
            sites=self._sites,
            version=about.version or attention_studio.__version__,
            made=about.made or now(),
        )
        value = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "about": asdict(about),
            "files": {name: (self._folder / name).stat().st_size for name in names},
        }
        write_json_atomic(self._folder / ABOUT, value)
        return about

    def close(self) -> None:
        """Let go of the files, finished or not."""
        self._index.close()

    def _save(self, name: str, columns: Columns) -> None:
        with explain_write_errors(self._folder / name):
            save_file(columns, self._folder / name)

    def _documents(self, columns: Mapping[str, NDArray[Any]]) -> Iterable[tuple[str, str]]:
        """What of each feature can be searched: its promoted tokens, and its first examples."""
        strings, text = self._strings, self._text
        groups, examples = columns["group_bounds"].tolist(), columns["example_bounds"].tolist()
        begins = columns["text_at"] + np.maximum(columns["at"] - _BEFORE, 0)
        ends = columns["text_at"] + np.minimum(columns["at"] + _AFTER + 1, columns["length"])
        spans = list(zip(begins.tolist(), ends.tolist(), strict=True))
        for i, words in enumerate(columns["promoted_word"].tolist()):
            promoted = " ".join(strings[word].strip() for word in words if word >= 0)
            shown: list[str] = []
            if groups[i] < groups[i + 1]:
                first = examples[groups[i]]
                for begin, end in spans[first : min(examples[groups[i] + 1], first + N_SEARCHED)]:
                    shown.append("".join(strings[word] for word in text[begin:end].tolist()))
            yield promoted, " \n ".join(shown)


def write_store(folder: Path, about: StoreAbout, pages: Iterable[FeaturePage]) -> None:
    """Write a store of pages that somebody has, replacing what is at ``folder``; its labels stay
    where they are of the same replacement model, and the pages' own are added.

    Latents that have no page are kept as never active. ``about.sites`` may be empty: then modules
    are as large as their largest page.

    Raises:
        FeaturePageError: a page cannot be stored.
        FeatureStoreError: there is no page, or two of a feature, or one of a latent that
            ``about.sites`` does not have.
        FileWriteError: it cannot be written.
    """
    of_sites: dict[Site, dict[int, FeaturePage]] = {}
    for page in pages:
        here = of_sites.setdefault(page.site, {})
        if page.index in here:
            raise FeatureStoreError(f"There are two pages about {page.site.label} #{page.index}")
        here[page.index] = page
    sizes = about.sites or tuple(
        SiteSize(site.layer, site.kind, max(here) + 1) for site, here in sorted(of_sites.items())
    )
    known = {size.site: size.n_features for size in sizes}
    for site, here in of_sites.items():
        if max(here) >= known.get(site, 0):
            raise FeatureStoreError(f"There is no feature {site.label} #{max(here)}")
    if not sizes:
        raise FeatureStoreError("A store needs features", "there are no pages", "give some")
    words, text, names = WordTable(), list[int](), list(about.group_names)
    parts: dict[tuple[Site, int], Columns] = {}
    for size in sizes:
        here = of_sites.get(size.site, {})
        for first in range(0, size.n_features, PART_FEATURES):
            run = [
                here.get(i) or silent_page(size.site, i, about.n_tokens)
                for i in range(first, min(first + PART_FEATURES, size.n_features))
            ]
            parts[size.site, first // PART_FEATURES] = columns_of_pages(run, words, text, names)
    own = {
        (site, index): page.label
        for site, here in of_sites.items()
        for index, page in here.items()
        if page.label is not None
    }
    with store_folder(folder, about, own) as staging:
        writer = StoreWriter(staging, sizes, np.asarray(text, dtype=np.int32), words.strings)
        try:
            for (site, part), columns in parts.items():
                writer.part(site, part, columns)
            writer.finish(replace(about, group_names=tuple(names)))
        finally:
            writer.close()


@contextmanager
def store_folder(
    folder: Path, about: StoreAbout, own: Optional[Mapping[FeatureId, FeatureLabel]] = None
) -> Iterator[Path]:
    """Give an empty folder for a store, which takes the place of what is at ``folder`` when the
    block ends, and takes over the labels: those as well that are given while it is written. Who
    gives one while it is put in its place waits until it is there.

    What else of the store before is damaged, or of another version, does not matter: whoever builds
    it again because of that wants the labels.

    Args:
        folder: the store to be.
        about: what it is of.
        own: labels for features that have none.

    Raises:
        FeatureStoreError: as ``check_labels``.
        FeatureLabelError: labels cannot be read or written.
        FileWriteError: it cannot be written.
    """
    check_labels(folder, about)
    # Two, for a connection that holds the file cannot be copied from.
    old, reader, held = FeatureLabels(folder), FeatureLabels(folder), ExitStack()
    try:
        with held, atomic_folder(folder) as staging:
            yield staging
            with explain_write_errors(folder):
                flush_files(staging)  # while nobody waits yet
            check_labels(folder, about)
            if (folder / ABOUT).is_file() or old.path.is_file():
                held.enter_context(old.held())
                reader.copy_to(staging)
                reader.close()
            _add_labels(staging, own or {})
    finally:
        reader.close()
        old.close()


def _add_labels(folder: Path, own: Mapping[FeatureId, FeatureLabel]) -> None:
    labels = FeatureLabels(folder)
    try:
        there = labels.all() if own else {}
        labels.set_all({one: label for one, label in own.items() if one not in there})
    finally:
        labels.close()


def check_labels(old: Path, about: StoreAbout) -> None:
    """Make sure that a store about ``about`` may take the place of the one at ``old``.

    Raises:
        FeatureStoreError: what is there is no store, or there are labels that it could
            not keep: they are of another replacement model, or nothing says of which.
        FeatureLabelError: they cannot be read.
    """
    _check_replaceable(old)
    if not (old / LABELS).is_file():
        return
    labels = FeatureLabels(old)
    try:
        some = bool(labels.all())
    finally:
        labels.close()
    if not some:
        return
    try:
        said = read_json(old / ABOUT)["about"]
        mine = (said["crm_hash"], said["model_hash"]) == (about.crm_hash, about.model_hash)
        why = "they are of another replacement model"
    except (StudioError, KeyError, TypeError, IndexError):
        mine, why = False, f"{ABOUT} does not say of which replacement model they are"
    if not mine:
        raise FeatureStoreError(
            f"The labels in {old} would be lost",
            why,
            f"Move {LABELS} elsewhere, or choose another folder",
        )


def _check_replaceable(place: Path) -> None:
    """Refuse to take the place of anything but a store, whole or not: all of it would be gone."""
    if not place.is_dir():
        others = [place.name] if place.exists() or place.is_symlink() else []
    else:
        with explain_write_errors(place):
            names = sorted(entry.name for entry in place.iterdir())
        others = [name for name in names if not _OF_STORES.fullmatch(name)]
    if others:
        raise FeatureStoreError(
            f"{place} is in use",
            f"what is there is no feature store ({others[0]}), and would be lost",
            "Choose a folder that is new or empty",
        )


def _save_large(path: Path, columns: Columns) -> None:
    """Write safetensors array by array, without a copy of them in memory."""
    order = sorted(columns, key=lambda name: -columns[name].dtype.itemsize)  # so that all align
    header, at = {}, 0
    for name in order:
        array = columns[name]
        end = at + array.nbytes
        header[name] = {
            "dtype": TEXT_TYPES[name],
            "shape": list(array.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            for begin in range(0, len(columns[name]), _AT_ONCE):
                stream.write(columns[name][begin : begin + _AT_ONCE].tobytes())


def silent_page(site: Site, index: int, n_tokens: int) -> FeaturePage:
    """Of a latent that is never active."""
    nothing = Histogram(np.array([0.0, 1.0]), np.zeros(1, dtype=np.int64))
    return FeaturePage(site, index, 0, n_tokens, 0.0, nothing)
