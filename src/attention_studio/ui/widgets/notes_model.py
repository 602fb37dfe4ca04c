"""Everything that a person has written about a graph, as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Optional

from PySide6.QtCore import QObject, Qt, Signal

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import GraphNotes, SavedQuery
from attention_studio.core.node_words import node_words
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip

WHOLE_GRAPH = "The whole graph"


class NoteKind(Enum):
    """What a note is."""

    LABEL = "Label"
    REMARK = "Remark"
    SUPERNODE = "Supernode"
    QUERY = "Query"


@dataclass(frozen=True)
class Note:
    """One note: ``key`` is how ``GraphNotes`` knows it, ``about`` says it in words."""

    kind: NoteKind
    key: str
    about: str
    text: str


def notes_of(notes: GraphNotes, tokens: tuple[str, ...] = ()) -> list[Note]:
    """All that was written, in the order of its kinds."""
    listed = []
    for feature, text in notes.labels.items():
        name = FeatureName.read(feature)
        about = feature if name is None else f"{name.site.label} #{name.latent}"
        listed.append(Note(NoteKind.LABEL, feature, about, text))
    for key, text in notes.remarks.items():
        group = notes.supernode(key)
        about = WHOLE_GRAPH if not key else node_words(key, notes, tokens)
        listed.append(Note(NoteKind.REMARK, key, group.name if group else about, text))
    for group in notes.supernodes:
        n = len(group.nodes)
        about = f"{n} node" if n == 1 else f"{n} nodes"
        listed.append(Note(NoteKind.SUPERNODE, group.key, about, group.name))
    for place, query in enumerate(notes.queries):
        listed.append(Note(NoteKind.QUERY, str(place), query.text, query.name))
    return listed


def changed(notes: GraphNotes, note: Note, text: str) -> GraphNotes:
    """The notes with another text in place of one note's; "" takes the note away.

    A supernode without a name is dissolved; its nodes stay pinned.
    """
    text = text.strip()
    if note.kind is NoteKind.LABEL:
        return notes.labelled(note.key, text)
    if note.kind is NoteKind.REMARK:
        return notes.remarked(note.key, text)
    if note.kind is NoteKind.SUPERNODE:
        return notes.renamed(note.key, text) if text else notes.ungrouped(note.key)
    queries: list[Optional[SavedQuery]] = list(notes.queries)
    place = int(note.key)
    kept = queries[place]
    if kept is not None:
        queries[place] = replace(kept, name=text) if text else None
    return notes.with_queries(query for query in queries if query is not None)


class NotesModel(ColumnsModel):
    """What was written: its kind, what it is about, and the text, which can be edited.

    ``edited`` carries a ``Note`` and its new text.
    """

    HEADS = ("Kind", "About", "Text")
    TIPS = (
        "What kind of note it is",
        "What it was written about; a double click or Enter goes there",
        "What you wrote; F2 or a double click edits it, Delete takes the note away",
    )

    edited = Signal(object, str)

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._notes: list[Note] = []

    def show(self, notes: list[Note]) -> None:
        """List these notes."""
        if notes != self._notes:
            self.beginResetModel()
            self._notes = notes
            self.endResetModel()

    def note(self, row: int) -> Note:
        """The note in a row."""
        return self._notes[row]

    @property
    def n_rows(self) -> int:
        """How many notes there are."""
        return len(self._notes)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        note = self._notes[index.row()]
        cells = (note.kind.value, note.about, note.text)
        if role == Qt.ItemDataRole.EditRole:
            return cells[index.column()]
        shown = " ".join(cells[index.column()].split())
        if role == Qt.ItemDataRole.DisplayRole:
            return shown
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(note.text if index.column() == 2 else shown)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[index.column()]} {shown}"
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        """The text can be edited."""
        flags = super().flags(index)
        editable = index.isValid() and index.column() == 2
        return flags | Qt.ItemFlag.ItemIsEditable if editable else flags

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Say what was typed."""
        if role != Qt.ItemDataRole.EditRole or not index.isValid():
            return False
        note = self._notes[index.row()]
        if str(value) != note.text:
            self.edited.emit(note, str(value))
        return True
