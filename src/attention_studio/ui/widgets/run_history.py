"""The interventions that were run, to be opened again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.widgets.controls import CommandButton, EmptyState, named
from attention_studio.ui.widgets.giving_table import dress_table, size_columns
from attention_studio.ui.widgets.runs_table import RunColumn, RunsTable

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme


class HistoryView(QTableView):
    """The table; says ``deleted`` when Delete is pressed."""

    deleted = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete throws the marked row away."""
        if event.key() == Qt.Key.Key_Delete:
            self.deleted.emit()
            return
        super().keyPressEvent(event)


class RunHistory(QStackedWidget):
    """A table of interventions, with what opens and deletes them; commands do both."""

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._commands = commands
        self.runs = RunsTable(self)
        self.table = HistoryView()
        named(self.table, "intervene.history", "Interventions that were run",
              "The newest first; Enter opens the marked one again, Delete throws it away",
        )  # fmt: skip
        dress_table(self.table)
        self.table.setModel(self.runs)
        header = self.table.horizontalHeader()
        for column in (RunColumn.WHAT, RunColumn.TEXT, RunColumn.PROMPT):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.table.activated.connect(self._on_activated)
        self.table.deleted.connect(self._on_deleted)
        buttons = QHBoxLayout()
        buttons.setContentsMargins(12, 8, 12, 4)
        for command_id, text in (
            ("intervene.open_run", "Open again"), ("intervene.delete_run", "Delete"),
        ):  # fmt: skip
            buttons.addWidget(CommandButton(commands, command_id, text=text))
        buttons.addStretch(1)
        page = QWidget()
        page.setObjectName("formBody")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.table, 1)
        self.addWidget(
            EmptyState(
                theme, "intervene", "Nothing was run yet",
                "Every intervention that is run is kept here, with its settings and all that came "
                "of it, to be opened again.",
            )
        )  # fmt: skip
        self.addWidget(page)
        theme.changed.connect(self._size)
        self._size()

    @Slot()
    def _size(self) -> None:
        size_columns(
            self.table,
            {RunColumn.WHEN: "2026-01-01 00:00:00",
             RunColumn.NEXT: "Sacramento 00.0% → Austin 00.0%",
             RunColumn.FROZEN: "attention and norms"},
        )  # fmt: skip

    def show_records(self, records: tuple[dict[str, Any], ...]) -> None:
        """Show these records, oldest first; the mark stays on its row."""
        row = max(0, self.table.currentIndex().row())
        self.runs.show(records)
        self.setCurrentIndex(1 if records else 0)
        if records:
            self.table.selectRow(min(row, len(records) - 1))

    @property
    def marked(self) -> Optional[dict[str, Any]]:
        """The record of the marked row, or of the newest."""
        if not self.runs.n_rows:
            return None
        return self.runs.record(max(0, self.table.currentIndex().row()))

    @Slot(QModelIndex)
    def _on_activated(self, _index: QModelIndex) -> None:
        self._commands.run("intervene.open_run")

    @Slot()
    def _on_deleted(self) -> None:
        self._commands.run("intervene.delete_run")
