"""What was found out after the workspace was left in which it was asked for. Knows no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Records = tuple[dict[str, Any], ...]


def appended(records: Records, record: dict[str, Any]) -> Records:
    """Records with one more."""
    return (*records, record)


@dataclass(frozen=True)
class StrayRecord:
    """A record that belongs to a workspace that is not open.

    Attributes:
        folder: of that workspace.
        kind: of the record.
        among: puts it among those of its kind.
    """

    folder: Path
    kind: str
    record: dict[str, Any]
    among: Callable[[Records, dict[str, Any]], Records] = appended
