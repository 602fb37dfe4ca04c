"""The History dock: what was done to the graph, step by step, and the way back to each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, Qt, Slot
from PySide6.QtWidgets import QAbstractItemView, QListView

from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.columns_model import ROOT, Index
from attention_studio.ui.widgets.controls import CommandButton, CommandTool, named, plain_tip
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from PySide6.QtGui import QUndoStack

    from attention_studio.ui.theme import Theme

BEGINNING = "As the graph was opened"


class HistoryModel(QAbstractListModel):
    """The steps of an undo stack: row 0 is before all of them, row n after the n-th."""

    def __init__(self, stack: QUndoStack, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._stack = stack
        self._theme = theme
        self._texts: list[str] = []
        self._now = 0

    def reread(self) -> None:
        """Show the stack as it is now. Steps that are still there keep their rows."""
        texts = [BEGINNING, *(self._stack.text(step) for step in range(self._stack.count()))]
        self._now = self._stack.index()
        if texts != self._texts:
            self.beginResetModel()
            self._texts = texts
            self.endResetModel()
        else:
            self.dataChanged.emit(self.index(0), self.index(len(texts) - 1))

    @property
    def now(self) -> int:
        """The row of the present."""
        return self._now

    def rowCount(self, parent: Index = ROOT) -> int:
        """One row more than there are steps."""
        return 0 if parent.isValid() else len(self._texts)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a step is called; those that were taken back look so, and say so."""
        if not index.isValid() or index.row() >= len(self._texts):
            return None
        row, text = index.row(), self._texts[index.row()]
        undone = row > self._now
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{text}  (taken back)" if undone else text
        if role == Qt.ItemDataRole.DecorationRole:
            name = "redo" if undone else "chevron-right" if row == self._now else "dash"
            return self._theme.icon(name, "accent" if row == self._now else "muted")
        if role == Qt.ItemDataRole.ForegroundRole and undone:
            return self._theme.colour("muted")
        if role == Qt.ItemDataRole.FontRole and row == self._now:
            return self._theme.font(bold=True)
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(f"{text}: go here")
        if role == Qt.ItemDataRole.AccessibleTextRole:
            state = "taken back" if undone else "the present" if row == self._now else "done"
            return f"{text}, {state}"
        return None


class HistoryDock(StudioDock):
    """The steps that can be taken back or made again; a click on one goes there."""

    NAME = "historyDock"
    TITLE = "History"
    ICON = "history"
    LAZY = True
    WATCHES = frozenset((SessionPart.GRAPH,))

    def make_body(self) -> None:
        """Make what the dock shows."""
        self.steps = HistoryModel(self.session.undo_stack, self.theme, self)
        self.list = QListView()
        named(self.list, "history.steps", "What was done",
              "A click or Enter goes back, or forth, to that step")  # fmt: skip
        self.list.setModel(self.steps)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setUniformItemSizes(True)
        self.set_content(self.list)
        self.set_empty(
            "Nothing was changed yet",
            "Pins, labels, supernodes, thresholds: every change of a graph is listed here by its "
            "name, and can be taken back.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        for name in ("undo", "redo"):
            self.add_title_widget(CommandTool(self.commands, f"edit.{name}", f"history.{name}"))
        self.list.clicked.connect(self._go_to)
        self.list.activated.connect(self._go_to)
        self.session.history_changed.connect(self._on_history)
        self.theme.changed.connect(self._on_history)

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show the steps as they are now."""
        self._on_history()

    @Slot()
    def _on_history(self) -> None:
        self.steps.reread()
        self.show_empty(self.session.undo_stack.count() == 0)
        here = self.steps.index(self.steps.now)
        self.list.setCurrentIndex(here)
        self.list.scrollTo(here)

    @Slot(QModelIndex)
    def _go_to(self, index: QModelIndex) -> None:
        if index.isValid():
            self.session.undo_stack.setIndex(index.row())
