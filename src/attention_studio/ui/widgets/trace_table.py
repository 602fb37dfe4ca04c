"""A prompt at the checkpoints of a run: one row per checkpoint, each of which opens its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtWidgets import QAbstractItemView, QVBoxLayout, QWidget

from attention_studio.ui import text
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import label, named, push_button, row
from attention_studio.ui.widgets.module_table import SORT_ROLE, number_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.training_traces import CheckpointTrace

_COLUMNS = (
    ("prompt", "Prompt", "What was traced"),
    ("output", "Output", "The likeliest next token"),
    ("step", "Step", "Batches trained on"),
    ("tokens", "Tokens", "Trained on, per module"),
    ("replacement", "Replacement", "Share of the output's input that no error node carries"),
    ("completeness", "Completeness", "Share of all nodes' input that no error node carries"),
    ("from_features", "By features", "Share of the output's direct input that features write"),
    ("features", "Features", "Active on the prompt"),
)


class TraceModel(ColumnsModel):
    """One checkpoint per row."""

    HEADS = tuple(head for _, head, _ in _COLUMNS)
    TIPS = tuple(tip for _, _, tip in _COLUMNS)
    NUMBERS_FROM = 2

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self.rows: tuple[CheckpointTrace, ...] = ()

    def set_rows(self, rows: Sequence[CheckpointTrace]) -> None:
        """Show these checkpoints."""
        self.beginResetModel()
        self.rows = tuple(rows)
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        name, head, _ = _COLUMNS[index.column()]
        value = getattr(self.rows[index.row()], name)
        if role == SORT_ROLE:
            return value
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() >= self.NUMBERS_FROM:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole and name == "prompt":
            return str(value)
        shown = _shown(name, value)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{head} {shown}"
        return shown if role == Qt.ItemDataRole.DisplayRole else None


def _shown(name: str, value: Any) -> str:
    if name == "prompt":
        return " ".join(str(value).split())
    if name == "output":
        return visible_token(value)
    if isinstance(value, float):
        return text.percent(value)
    return f"{value:,}"


class TracePanel(QWidget):
    """The table, and a line that says what it is for.

    ``opened`` carries the ``CheckpointTrace`` whose graph a person wants to see.
    """

    opened = Signal(object)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self.model = TraceModel(self)
        self.table = number_table(
            self.model, "train.traces", "The prompt at each checkpoint",
            "What the prompt's graph amounts to at each checkpoint; Enter opens the graph",
        )  # fmt: skip
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._told = label("", "caption", wrap=True, name="train.traces.told")
        self.open_button = push_button(
            "Open graph", "train.traces.open", "Open the graph of the chosen checkpoint"
        )
        named(self.open_button, "train.traces.open", "Open the graph of the chosen checkpoint",
              "Show it in the Graph dock; the Compare dock can set it beside another")  # fmt: skip
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 6, 12, 8)
        layout.setSpacing(6)
        layout.addLayout(row(self._told, self.open_button, stretch=0))
        layout.addWidget(self.table, 1)
        self.table.activated.connect(self._open)
        self.open_button.clicked.connect(self._open)
        self.table.selectionModel().selectionChanged.connect(self._on_selection)
        self.set_rows(())
        self.say(None)

    def set_rows(self, rows: Sequence[CheckpointTrace]) -> None:
        """Show these checkpoints, the newest chosen."""
        self.model.set_rows(rows)
        if rows:
            self.table.selectRow(self.model.n_rows - 1)
        self._on_selection()

    def say(self, prompt: Optional[str]) -> None:
        """Say which prompt is traced at checkpoints (None: none is)."""
        if prompt is None:
            self._told.setText(
                "Choose “Trace the prompt at each checkpoint” in the Train menu to see here how "
                "the circuit of a prompt comes to be while a run goes on."
            )
        else:
            self._told.setText(f"Traced at each checkpoint: “{prompt}”")

    @Slot()
    def _open(self) -> None:
        chosen = self.table.currentIndex()
        if chosen.isValid():
            proxy: Any = self.table.model()
            self.opened.emit(self.model.rows[proxy.mapToSource(chosen).row()])

    @Slot()
    def _on_selection(self) -> None:
        self.open_button.setEnabled(self.table.selectionModel().hasSelection())
