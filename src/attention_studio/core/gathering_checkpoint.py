"""Where the gathering of features stands, on disk: a folder beside the store to come.

    progress.json        what is gathered of what, how far, and which files count
    state_000004…        counts and histograms of all features, and the sample of firings
    mlp_03_00000_000004  examples of a part, as of the fourth checkpoint

Files are written under new names; the new ``progress.json`` takes the place of the old at once, and
what it does not name is removed. So a run that is killed at any moment finds the newest checkpoint
that is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from attention_studio.core.feature_candidates import Candidates
from attention_studio.core.feature_columns import Columns
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_write,
    read_json,
    write_json_atomic,
)

PROGRESS = "progress.json"
_FORMAT = "attention-studio-feature-gathering"
_VERSION = 1
_SUFFIX = ".safetensors"

Identity = Mapping[str, Any]
Pair = tuple[Candidates, Candidates]


class GatheringError(StudioError):
    """Features cannot be gathered as asked."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        number: of the checkpoint.
        rows_done: rows of the text that are read.
        n_tokens, n_sinks: positions that counted so far, and those left out for their norm.
        files: the file of each part that has examples.
    """

    number: int = 0
    rows_done: int = 0
    n_tokens: int = 0
    n_sinks: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


class GatheringFolder:
    """The folder of a run.

    Args:
        folder: where.
        identity: what is gathered of what; plain JSON values.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(dict(identity)))

    def read(self) -> Progress:
        """Where the run stands; a new one at the beginning.

        Raises:
            GatheringError: the folder is of another run, or damaged.
        """
        path = self.folder / PROGRESS
        if not path.exists():
            return Progress()
        try:
            value = read_json(path)
            if value["format"] != _FORMAT or value["version"] != _VERSION:
                raise self._damaged("it is of something else")
            stored = value["identity"]
            progress = TypeAdapter(Progress).validate_python(value["progress"])
        except (FileReadError, KeyError, TypeError, ValidationError) as error:
            raise self._damaged(str(error)) from error
        for name, mine in self._identity.items():
            if stored.get(name) != mine:
                raise GatheringError(
                    f"The run in {self.folder} cannot be taken up",
                    f"its {name} is {stored.get(name)!r}, here it is {mine!r}",
                    "give it what it was begun with, or begin anew",
                )
        return progress

    def state(self, progress: Progress) -> Columns:
        """The state that a checkpoint has.

        Raises:
            GatheringError: it is damaged.
        """
        return self.load(_state_name(progress.number))

    def candidates(self, progress: Progress, part: str) -> Pair:
        """The examples of a part as of a checkpoint: the strongest, and those drawn.

        Raises:
            GatheringError: they are damaged.
        """
        name = progress.files.get(part)
        if name is None:
            return Candidates.none(), Candidates.none()
        columns = self.load(name)
        try:
            top, drawn = (
                Candidates(
                    **{
                        field: columns[f"{kind}.{field}"]
                        for field in Candidates.__dataclass_fields__
                    }
                )
                for kind in ("top", "drawn")
            )
        except KeyError as error:
            raise self._damaged(f"{name} has no {error}") from error
        return top, drawn

    def save_candidates(self, number: int, part: str, pair: Pair) -> str:
        """Write the examples of a part for a checkpoint; the file's name.

        Raises:
            FileWriteError: they cannot be written.
        """
        columns = {
            f"{kind}.{name}": column
            for kind, found in zip(("top", "drawn"), pair, strict=True)
            for name, column in found.columns().items()
        }
        name = f"{part}_{number:06d}{_SUFFIX}"
        self.save(name, columns)
        return name

    def commit(self, progress: Progress, state: Columns) -> None:
        """Make a checkpoint the one that counts; the files of others go.

        Raises:
            FileWriteError: it cannot be written.
        """
        self.save(_state_name(progress.number), state)
        value = {
            "format": _FORMAT,
            "version": _VERSION,
            "identity": self._identity,
            "progress": {
                "number": progress.number,
                "rows_done": progress.rows_done,
                "n_tokens": progress.n_tokens,
                "n_sinks": progress.n_sinks,
                "files": dict(progress.files),
            },
        }
        write_json_atomic(self.folder / PROGRESS, value)
        named = {*progress.files.values(), _state_name(progress.number)}
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.name not in named:
                with suppress(OSError):  # in the way of nothing
                    path.unlink()

    def save(self, name: str, columns: Columns) -> None:
        """Write arrays.

        Raises:
            FileWriteError: they cannot be written.
        """
        with atomic_write(self.folder / name) as temporary:
            save_file({key: np.ascontiguousarray(c) for key, c in columns.items()}, temporary)

    def load(self, name: str) -> Columns:
        """Read arrays.

        Raises:
            GatheringError: they are damaged.
        """
        try:
            columns: Columns = load_file(self.folder / name)
        except (SafetensorError, OSError) as error:
            raise self._damaged(f"{name}: {error}") from error
        return columns

    def _damaged(self, why: str) -> GatheringError:
        return GatheringError(
            f"The run in {self.folder} cannot be taken up", why, "remove it, or begin anew"
        )


def _state_name(number: int) -> str:
    return f"state_{number:06d}{_SUFFIX}"
