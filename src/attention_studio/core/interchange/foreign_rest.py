"""What pages of an imported store do not hold of the files that they are from.

A table beside the store (``foreign.sqlite``): of each feature the format of its file and the
difference from what the studio would write in that format (``json_rest``), compressed JSON.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from pathlib import Path
from types import TracebackType
from typing import Optional

from attention_studio.core.feature_store import FOREIGN, FeatureStoreError
from attention_studio.core.interchange.json_rest import Rest
from attention_studio.core.interchange.strict_json import MAX_DEPTH, NotStrictJsonError, strict_json
from attention_studio.core.sites import Site

_SHIFT = 32
_MAX_BYTES = 64 << 20
_TABLE = (
    "CREATE TABLE rest (feature INTEGER PRIMARY KEY, format TEXT NOT NULL, value BLOB NOT NULL)"
)


class RestWriter:
    """Writes the rests of a store that is being made."""

    def __init__(self, folder: Path) -> None:
        self._file = sqlite3.connect(folder / FOREIGN)
        self._file.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        self._file.execute(_TABLE)

    def add(self, site: Site, index: int, form: str, rest: Rest) -> None:
        """Keep the rest of a feature's file; nothing where there is none."""
        if rest is not None:
            value = zlib.compress(json.dumps(rest, separators=(",", ":")).encode("ascii"))
            key = (site.number << _SHIFT) | index
            self._file.execute("INSERT INTO rest VALUES (?, ?, ?)", [key, form, value])

    def close(self) -> None:
        """Finish the file."""
        self._file.commit()
        self._file.close()


class ForeignRests:
    """The rests of a store; of one that was gathered here there are none. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / FOREIGN
        self._file: Optional[sqlite3.Connection] = None
        if path.is_file():
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._file = sqlite3.connect(uri, uri=True, check_same_thread=False)

    def __enter__(self) -> ForeignRests:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, site: Site, index: int, form: str) -> Rest:
        """The rest of a feature's file in a format; None: none is kept.

        Raises:
            FeatureStoreError: the store is damaged.
        """
        if self._file is None:
            return None
        key = (site.number << _SHIFT) | index
        try:
            rows = self._file.execute(
                "SELECT value FROM rest WHERE feature = ? AND format = ?", [key, form]
            ).fetchall()
            if not rows:
                return None
            unpacker = zlib.decompressobj()
            value = unpacker.decompress(rows[0][0], _MAX_BYTES)
            if unpacker.unconsumed_tail:
                raise ValueError("what was kept of a file is too large")
            found = strict_json(value, 2 * MAX_DEPTH)  # differences stand within differences
            if not isinstance(found, list):
                raise ValueError("what was kept of a file is no difference")
            return found
        except (sqlite3.Error, zlib.error, NotStrictJsonError, ValueError, TypeError) as error:
            raise FeatureStoreError(
                f"The feature store in {self._folder} is damaged", str(error), "import it again"
            ) from error
