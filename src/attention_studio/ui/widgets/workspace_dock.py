"""The Workspace dock: where everything is saved, whether it is, and the graphs to go back to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QFont, QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from attention_studio.ui import text
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    label,
    named,
    plain_tip,
    push_button,
    set_role,
)
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.workspace_view import SaveState

if TYPE_CHECKING:
    from attention_studio.core.workspace_index import GraphEntry
    from attention_studio.ui.workspace_view import WorkspaceView

_NAME, _NODES = 1, 4


class GraphList(ColumnsModel):
    """The graphs of the workspace, one per row. ``renamed`` carries the key of one whose name was
    edited, and what was typed."""

    HEADS = ("", "Graph", "Model", "Replacement model", "Nodes", "Pins", "Since")
    TIPS = (
        "● is shown now",
        "What you call it, or its prompt; F2 edits the name",
        "The model that it was traced with",
        "The replacement model that it was traced with",
        "How many nodes it has",
        "How many of them are pinned",
        "When it came into the workspace",
    )
    NUMBERS_FROM = _NODES

    renamed = Signal(str, str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._entries: tuple[GraphEntry, ...] = ()
        self._current = ""

    def set_view(self, view: Optional[WorkspaceView]) -> None:
        """Show the graphs of this workspace."""
        entries = () if view is None else view.graphs
        current = "" if view is None else view.current
        if tuple(e.key for e in entries) != tuple(e.key for e in self._entries):
            self.beginResetModel()
            self._entries, self._current = entries, current
            self.endResetModel()
        elif (entries, current) != (self._entries, self._current):
            # The same rows with other contents: what is selected stays so.
            self._entries, self._current = entries, current
            last = self.index(len(entries) - 1, len(self.HEADS) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    @property
    def n_rows(self) -> int:
        """How many graphs there are."""
        return len(self._entries)

    def key(self, place: int) -> str:
        """The key of the graph in a row."""
        return self._entries[place].key

    def row_of(self, key: str) -> int:
        """The row of a graph; -1: it is not there."""
        return next((row for row, e in enumerate(self._entries) if e.key == key), -1)

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Names can be edited."""
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == _NAME else flags

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Call a graph something else."""
        if role != Qt.ItemDataRole.EditRole or index.column() != _NAME:
            return False
        entry = self._entries[index.row()]
        typed = str(value)
        if typed != entry.title:
            self.renamed.emit(entry.key, typed)
        return True

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        entry, column = self._entries[index.row()], index.column()
        shown = entry.key == self._current
        if role == Qt.ItemDataRole.FontRole and shown:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= self.NUMBERS_FROM:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(_about(entry))
        if role == Qt.ItemDataRole.EditRole:
            return entry.title
        cells = (
            "●" if shown else "",
            entry.title,
            entry.model_name,
            entry.crm_name,
            f"{entry.nodes:,}",
            f"{entry.pins:,}",
            entry.made.astimezone().strftime("%d %b %H:%M"),
        )
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return (
                ("shown now" if shown else "")
                if not column
                else (f"{self.HEADS[column]} {cells[column]}")
            )
        return cells[column] if role == Qt.ItemDataRole.DisplayRole else None


def _about(entry: GraphEntry) -> str:
    traced = f"Traced in {text.duration(entry.seconds)}" if entry.seconds else ""
    lines = (
        entry.prompt,
        f"{entry.model_name}, weights {entry.model_hash[:12]}" if entry.model_hash else "",
        f"Replacement model {entry.crm_name}" if entry.crm_name else "",
        traced,
        ", ".join(f"{name} {value}" for name, value in entry.made_with.items()),
        f"graphs/{entry.key}.safetensors",
    )
    return "\n".join(line for line in lines if line)


class _GraphTable(QTableView):
    """A table whose rows can be taken out with Delete."""

    remove_asked = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Take a row out, or what a table does."""
        if event.key() == Qt.Key.Key_Delete and self.currentIndex().isValid():
            self.remove_asked.emit()
        else:
            super().keyPressEvent(event)


class WorkspaceDock(StudioDock):
    """The open workspace and its graphs.

    ``graph_asked`` and ``remove_asked`` carry the key of a graph that is to be shown or taken out,
    ``rename_asked`` a key and a name.
    """

    NAME = "workspaceDock"
    TITLE = "Workspace"
    ICON = "folder"
    WATCHES = frozenset((SessionPart.WORKSPACE,))
    LAZY = True

    graph_asked = Signal(str)
    remove_asked = Signal(str)
    rename_asked = Signal(str, str)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._state = label("", "caption", name="workspace.state")
        self._open = push_button(
            "Show graph", "workspace.show", "Show the chosen graph (Enter)", look="quiet"
        )
        self._rename = push_button(
            "Rename", "workspace.rename", "Give the chosen graph a name (F2)", look="quiet"
        )
        self._remove = push_button(
            "Remove", "workspace.remove",
            "Take the chosen graph out of the workspace; its files are kept (Delete)",
            look="quiet",
        )  # fmt: skip
        new = CommandTool(self.commands, "workspace.new", "workspace.new")
        other = CommandTool(self.commands, "workspace.open", "workspace.open")
        for control in (self._state, self._open, self._rename, self._remove, new, other):
            self.add_title_widget(control)
        self.model = GraphList(self)
        self.table = _GraphTable()
        named(self.table, "workspace.graphs", "Graphs of the workspace",
              "Enter shows a graph, F2 names it, Delete takes it out")  # fmt: skip
        self.table.setModel(self.model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.setTabKeyNavigation(False)
        head = self.table.horizontalHeader()
        head.setHighlightSections(False)
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        head.setMinimumSectionSize(24)
        head.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.set_content(self.table)
        self._empty_state = self.set_empty(
            "No graphs yet", "", CommandButton(self.commands, "graph.build", look="primary")
        )
        self.model.renamed.connect(self.rename_asked)
        self.table.activated.connect(self._show_chosen)
        self.table.remove_asked.connect(self._remove_chosen)
        self.table.selectionModel().selectionChanged.connect(self._on_selection)
        self._open.clicked.connect(self._show_chosen)
        self._rename.clicked.connect(self._rename_chosen)
        self._remove.clicked.connect(self._remove_chosen)
        self._on_selection()

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show the workspace as it is now."""
        view = self.session.workspace
        chosen = self._chosen()
        self.model.set_view(view)
        self.show_empty(not self.model.n_rows)
        if view is None:
            self._empty_state.set_texts(
                "No workspace", "A workspace keeps what you make, saved as you go, in a folder."
            )
            return
        self._empty_state.set_texts(
            f"{view.name}: no graphs yet",
            "Every graph that you trace or open is kept here with what you make of it, saved as "
            f"you go in {view.folder}",
        )
        self._show_state(view)
        if not chosen and view.current:
            self.table.selectRow(self.model.row_of(view.current))

    def _show_state(self, view: WorkspaceView) -> None:
        at = "" if view.saved_at is None else f" {view.saved_at:%H:%M:%S}"
        words = {
            SaveState.SAVED: f"Saved{at}",
            SaveState.SAVING: "Saving…",
            SaveState.FAILED: "Not saved",
        }
        self._state.setText(words[view.state])
        self._state.setToolTip(plain_tip("\n".join((view.problem or view.name, str(view.folder)))))
        set_role(self._state, "error" if view.state is SaveState.FAILED else "caption")

    def _chosen(self) -> str:
        rows = self.table.selectionModel().selectedRows()
        return self.model.key(rows[0].row()) if rows else ""

    @Slot()
    def _on_selection(self) -> None:
        for button in (self._open, self._rename, self._remove):
            button.setEnabled(bool(self._chosen()))

    @Slot()
    def _show_chosen(self) -> None:
        if self._chosen():
            self.graph_asked.emit(self._chosen())

    @Slot()
    def _rename_chosen(self) -> None:
        row_of = self.model.row_of(self._chosen())
        if row_of >= 0:
            self.table.setFocus()
            self.table.edit(self.model.index(row_of, _NAME))

    @Slot()
    def _remove_chosen(self) -> None:
        if self._chosen():
            self.remove_asked.emit(self._chosen())
