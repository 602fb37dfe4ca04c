"""The records of a workspace: what was found out, one file of plain JSON for each kind.

    records/intervention.json   a list of records, oldest first

Knows neither Qt nor torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

import numpy as np

from attention_studio.core.workspace_files import (
    RECORDS,
    WorkspaceError,
    names_in,
    read_bounded,
    set_aside,
    write_bounded,
)
from attention_studio.utils.files import FileReadError, explain_write_errors
from attention_studio.utils.progress import WorkContext

MAX_RECORD_KINDS = 100

Records = Mapping[str, tuple[dict[str, Any], ...]]
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def read_records(
    folder: Path, ctx: Optional[WorkContext] = None
) -> tuple[Records, tuple[str, ...]]:
    """Read the records of the workspace in a folder; damaged ones are set aside.

    Returns:
        The records by kind, and a sentence for each file that could not be read.

    Raises:
        WorkspaceUnreadableError: the system does not give a file out. It stays where it is, and
            since what is in it is not known, nothing may be written in its place.
        FileWriteError: a damaged file cannot be set aside.
        Cancelled: through ``ctx``, between two files.
    """
    found: dict[str, tuple[dict[str, Any], ...]] = {}
    problems: list[str] = []
    for name in names_in(folder / RECORDS):
        path = folder / RECORDS / name
        if ctx is not None:
            ctx.check()
        if path.suffix != ".json" or not _KIND.fullmatch(path.stem):
            continue
        if len(found) == MAX_RECORD_KINDS:
            problems.append(f"There are more than {MAX_RECORD_KINDS} kinds of records")
            break
        try:
            records = read_bounded(path)
            if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
                raise FileReadError(f"{path.name} cannot be read", "it is no list of records")
        except FileReadError as error:
            aside = set_aside(path)
            problems.append(
                f"The records “{path.stem}” cannot be read ({error.why}); they are kept as "
                f"{aside.name}"
            )
            continue
        found[path.stem] = tuple(records)
    return MappingProxyType(found), tuple(problems)


def write_records(folder: Path, kind: str, records: tuple[dict[str, Any], ...]) -> None:
    """Write all records of a kind; without any, their file goes.

    Raises:
        WorkspaceError: they hold what JSON cannot say, or are of a kind with no plain name.
        FileWriteError: the file cannot be written, or would be too large to be read again. What
            was written before stays.
    """
    if not _KIND.fullmatch(kind):
        raise WorkspaceError(
            f"Records of the kind “{kind[:40]}” cannot be saved",
            "their kind is no plain name in small letters",
        )
    path = folder / RECORDS / f"{kind}.json"
    if not records:
        with explain_write_errors(path):
            path.unlink(missing_ok=True)
        return
    try:
        write_bounded(path, [_as_json(record) for record in records])
    except (TypeError, ValueError, RecursionError) as error:
        raise WorkspaceError(
            f"A record of the kind “{kind}” cannot be saved", str(error)
        ) from error


def _as_json(value: Any) -> Any:
    """As values that JSON has: numbers of numpy as Python's, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _as_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_as_json(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
