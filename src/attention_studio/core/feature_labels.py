"""What people and agents call features: a small SQLite file that outlives the store beside it.

Every label that was ever given is kept, with who gave it and when; the newest counts.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.feature_records import FeatureLabel
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

LABELS = "labels.sqlite"
MAX_LABEL = 2000
_SHIFT = 32
_PATIENCE_S = 60.0
"""How long one waits for others to have written."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS label (
    number INTEGER PRIMARY KEY, feature INTEGER NOT NULL,
    text TEXT NOT NULL, by TEXT NOT NULL, time TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS of_feature ON label (feature, number);
CREATE TABLE IF NOT EXISTS newest (feature INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS label_words USING fts5 (text);
"""


class FeatureLabelError(StudioError):
    """A label cannot be read, written, or is none."""


class FeatureLabels:
    """The labels of the features of one replacement model. Threads and processes may share them.

    Args:
        folder: where ``labels.sqlite`` lies; it is made with the first label.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LABELS
        self._lock = threading.RLock()
        self._connection: Optional[sqlite3.Connection] = None
        self._file: Optional[tuple[int, int]] = None
        """Which file it is that the connection has open."""

    def get(self, site: Site, index: int) -> Optional[FeatureLabel]:
        """What a feature is called now; None: nothing."""
        query = (
            "SELECT text, by, time FROM newest JOIN label USING (number) WHERE newest.feature = ?"
        )
        with self._open(write=False) as connection:
            rows = (
                [] if connection is None else list(connection.execute(query, [_key(site, index)]))
            )
        return FeatureLabel(*rows[0]) if rows and rows[0][0] else None

    def history(self, site: Site, index: int) -> list[FeatureLabel]:
        """What it was called, the oldest first; a text of "" is where a label was taken away."""
        query = "SELECT text, by, time FROM label WHERE feature = ? ORDER BY number"
        with self._open(write=False) as connection:
            rows = (
                [] if connection is None else list(connection.execute(query, [_key(site, index)]))
            )
        return [FeatureLabel(*row) for row in rows]

    def all(self) -> dict[tuple[Site, int], FeatureLabel]:
        """Every feature that has a label, by module and number."""
        query = (
            "SELECT newest.feature, text, by, time FROM newest JOIN label USING (number) "
            "WHERE text != '' ORDER BY newest.feature"
        )
        return {_feature(key): FeatureLabel(*rest) for key, *rest in self._read(query, [])}

    def set(self, site: Site, index: int, text: str, by: str) -> FeatureLabel:
        """Call a feature something; "" takes its label away.

        Raises:
            FeatureLabelError: it is too long, or cannot be written.
        """
        text, by = " ".join(text.split()), " ".join(by.split())
        if max(len(text), len(by)) > MAX_LABEL:
            raise FeatureLabelError(
                "The label is too long", f"at most {MAX_LABEL:,} characters fit", "shorten it"
            )
        label = FeatureLabel(text, by, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        key = _key(site, index)
        with self._writing() as connection:
            made = connection.execute(
                "INSERT INTO label (feature, text, by, time) VALUES (?, ?, ?, ?)",
                [key, text, by, label.when],
            )
            connection.execute("REPLACE INTO newest VALUES (?, ?)", [key, made.lastrowid])
            connection.execute("DELETE FROM label_words WHERE rowid = ?", [key])
            if text:
                connection.execute(
                    "INSERT INTO label_words (rowid, text) VALUES (?, ?)", [key, text]
                )
        return label

    def set_all(self, labels: Mapping[tuple[Site, int], FeatureLabel]) -> None:
        """Call many features something at once, none of which has a label.

        Raises:
            FeatureLabelError: they cannot be written.
        """
        if not labels:
            return
        with self._writing() as connection:
            for (site, index), label in labels.items():
                key, text = _key(site, index), label.text
                made = connection.execute(
                    "INSERT INTO label (feature, text, by, time) VALUES (?, ?, ?, ?)",
                    [key, text, label.by, label.when],
                )
                connection.execute("INSERT INTO newest VALUES (?, ?)", [key, made.lastrowid])
                connection.execute(
                    "INSERT INTO label_words (rowid, text) VALUES (?, ?)", [key, text]
                )

    def search(self, expression: str, limit: int) -> list[tuple[Site, int]]:
        """Features whose label fits an FTS5 expression, the best first."""
        query = "SELECT rowid FROM label_words WHERE label_words MATCH ? ORDER BY rank LIMIT ?"
        with self._open(write=False) as connection:
            rows = (
                [] if connection is None else list(connection.execute(query, [expression, limit]))
            )
        return [_feature(key) for (key,) in rows]

    def copy_to(self, folder: Path) -> None:
        """Write all labels into another folder.

        Raises:
            FeatureLabelError: they cannot be read or written.
        """
        with self._open(write=False) as connection:
            if connection is None:
                return
            target = sqlite3.connect(folder / LABELS)
            try:
                connection.backup(target)
            finally:
                target.close()

    @contextmanager
    def attached(self, connection: sqlite3.Connection) -> Iterator[bool]:
        """Have the labels in queries of another file, for the text that ``labelled`` gives; False:
        there is no label yet, and nothing to ask.

        Raises:
            FeatureLabelError: they cannot be read, or what is asked meanwhile cannot.
        """
        with self._open(write=False) as mine:
            if mine is None:
                yield False
                return
            connection.execute("ATTACH ? AS labels", [f"{self.path.resolve().as_uri()}?mode=rw"])
            try:
                yield True
            finally:
                connection.execute("DETACH labels")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody gives a label meanwhile: who wants to waits, and then gives it where the labels
        are by then. For those who put a copy in the place of the folder.

        Raises:
            FeatureLabelError: they cannot be written.
        """
        if os.name == "nt":  # a folder whose files somebody has open cannot be replaced there
            yield
            return
        with self._writing():
            yield

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._open(write=False) as connection:
            return [] if connection is None else connection.execute(query, values).fetchall()

    @contextmanager
    def _open(self, write: bool) -> Iterator[Optional[sqlite3.Connection]]:
        """The file's connection; None: there is no file yet, and nothing is to be written."""
        try:
            with self._lock:
                yield self._current(write)
        except sqlite3.Error as error:
            raise FeatureLabelError(
                f"The labels in {self.path} cannot be {'written' if write else 'read'}", str(error)
            ) from error

    def _current(self, write: bool) -> Optional[sqlite3.Connection]:
        """The connection to the file that lies at the path now."""
        if self._connection is not None and self._file != self._found():
            self.close()  # a store was built anew in its place, with a copy of the labels
        if self._connection is None and (write or self.path.is_file()):
            self._connection = sqlite3.connect(self.path, _PATIENCE_S, check_same_thread=False)
            tables = "SELECT count(*) FROM sqlite_master WHERE name = 'label_words'"
            if not self._connection.execute(tables).fetchone()[0]:
                self._connection.executescript(_SCHEMA)
            self._file = self._found()
        return self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of what is written meanwhile, or nothing of it."""
        with self._open(write=True) as connection:
            while True:
                assert connection is not None  # it is made for writing
                connection.execute("BEGIN IMMEDIATE")
                if self._file == self._found():
                    break
                # A store was put in its place while this waited for whoever did so.
                connection.rollback()
                connection = self._current(write=True)
            with connection:
                yield connection

    def _found(self) -> Optional[tuple[int, int]]:
        """Which file lies at the path; None: none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def labelled(sites: Sequence[tuple[Site, int, int]]) -> str:
    """A query for the numbers of all features that have a label, for a connection to which labels
    are ``attached``.

    Args:
        sites: the modules that are known, each with the number of its first feature and how many
            it has.
    """
    rows = ", ".join(f"({_key(site, 0)}, {first}, {n})" for site, first, n in sites)
    return (
        "SELECT newest.feature - site.column1 + site.column2 "
        f"FROM (VALUES {rows or '(0, 0, 0)'}) AS site CROSS JOIN labels.newest AS newest "
        "ON newest.feature >= site.column1 AND newest.feature < site.column1 + site.column3 "
        "JOIN labels.label AS label USING (number) WHERE label.text <> ''"
    )


def _key(site: Site, index: int) -> int:
    return (site.number << _SHIFT) | index


def _feature(key: int) -> tuple[Site, int]:
    return Site.of_number(key >> _SHIFT), key & ((1 << _SHIFT) - 1)
