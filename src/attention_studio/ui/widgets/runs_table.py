"""Interventions that were run, as a table. Records come from files too, so nothing is taken for
granted of what is in them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Optional

from PySide6.QtCore import QObject, Qt

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip

_ACTIONS = {"set": "hold", "ablate": "switch off", "scale": "scale", "add": "add", "swap": "swap"}
_FREEZES = {"none": "nothing", "attention": "attention and norms", "all": "everything"}
_FEATURES = 3


class RunColumn(IntEnum):
    """The columns."""

    WHEN = 0
    WHAT = 1
    NEXT = 2
    TEXT = 3
    FROZEN = 4
    PROMPT = 5


class RunsTable(ColumnsModel):
    """One row for each intervention, the newest first."""

    HEADS = ("When", "What", "Next token", "Changed text", "Frozen", "Prompt")
    TIPS = (
        "When it was run (UTC)",
        "What was changed",
        "The likeliest next token before and after",
        "The text that the changed model generated",
        "What stayed as on the untouched prompt",
        "The prompt",
    )

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._records: tuple[dict[str, Any], ...] = ()

    def show(self, records: tuple[dict[str, Any], ...]) -> None:
        """Show these records, oldest first."""
        self.beginResetModel()
        self._records = records
        self.endResetModel()

    def record(self, row: int) -> dict[str, Any]:
        """The record in a row."""
        return self._records[len(self._records) - 1 - row]

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self._records)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        text = run_cell(self.record(index.row()), RunColumn(index.column()))
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(text)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[index.column()]} {text}"
        return text if role == Qt.ItemDataRole.DisplayRole else None


def run_cell(record: dict[str, Any], column: RunColumn) -> str:
    """What a stored intervention says in a column; "?" where it says nothing that makes sense."""
    try:
        return _cell(record, column)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return "?"


def _cell(record: dict[str, Any], column: RunColumn) -> str:
    plan = record["plan"]
    if column == RunColumn.WHEN:
        return str(record["when"])[:19].replace("T", " ")
    if column == RunColumn.PROMPT:
        return str(plan["prompt"])
    if column == RunColumn.FROZEN:
        return _FREEZES[plan["freeze"]["mode"]]
    if column == RunColumn.WHAT:
        name = str(plan["name"])
        return f"{name}: {_edits(plan['edits'], name != '')}" if name else _edits(plan["edits"])
    if column == RunColumn.NEXT:
        tokens = record["next_tokens"]
        sides = []
        for side in ("before", "after"):
            best = max(tokens, key=lambda token: token[f"probability_{side}"])
            share = percent(float(best[f"probability_{side}"]))
            sides.append(f"{visible_token(str(best['token']), spaces=False)} {share}")
        return " → ".join(sides)
    generation = record["generation"]
    return "" if generation is None else str(generation["changed"]["text"])


def _edits(edits: list[dict[str, Any]], named: bool = False) -> str:
    parts = []
    for edit in edits:
        features = [str(name) for name in edit["features"]]
        shown = ", ".join(features[:_FEATURES]) + (", …" if len(features) > _FEATURES else "")
        value = f" {float(edit['value']):g}" if edit["action"] in ("set", "scale", "add") else ""
        parts.append(f"{_ACTIONS[edit['action']]}{value}" + ("" if named else f" {shown}"))
    return "; ".join(parts)
