"""The Notes dock: a label and a remark for what is selected, and all that was written."""

from __future__ import annotations

from typing import Optional

from PySide6.QtCore import QEvent, QModelIndex, QObject, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QKeyEvent, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLineEdit,
    QPlainTextEdit,
    QSplitter,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.graph_notes import MAX_TEXT, feature_of
from attention_studio.ui.event_filters import watch
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, named
from attention_studio.ui.widgets.form_fields import FormArea
from attention_studio.ui.widgets.notes_model import (
    WHOLE_GRAPH,
    Note,
    NoteKind,
    NotesModel,
    changed,
    notes_of,
)
from attention_studio.ui.widgets.studio_dock import StudioDock

_TYPING_MS = 400


class NotesTable(QTableView):
    """The notes. ``removed`` carries the row of one that Delete was pressed on, ``gone_to`` of one
    that Enter or a double click was made on."""

    removed = Signal(int)
    gone_to = Signal(int)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.notes = NotesModel(self)
        self.setModel(self.notes)
        named(self, "notes.table", "All that was written",
              "Enter goes to what a note is about, F2 edits its text, Delete takes it away",
        )  # fmt: skip
        self.setToolTip("")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.DoubleClicked
        )
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.doubleClicked.connect(self._on_double)
        self.size_columns()

    @Slot()
    def size_columns(self) -> None:
        """Give the first column the width of what it holds in today's font."""
        metrics = self.fontMetrics()
        self.setColumnWidth(0, metrics.horizontalAdvance("Supernode,") + 24)
        self.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    @Slot(QModelIndex)
    def _on_double(self, index: QModelIndex) -> None:
        if index.isValid() and index.column() != 2:
            self.gone_to.emit(index.row())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go there, edit, take away."""
        index, key = self.currentIndex(), event.key()
        editing = self.state() == QAbstractItemView.State.EditingState
        if editing or not index.isValid():
            super().keyPressEvent(event)
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.removed.emit(index.row())
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.gone_to.emit(index.row())
        elif key == Qt.Key.Key_F2:
            # Whatever column the row is entered at: the text is what can be edited.
            self.edit(self.notes.index(index.row(), 2))
        else:
            super().keyPressEvent(event)


class NotesDock(StudioDock):
    """What a person calls features and writes about nodes, supernodes and the graph."""

    NAME = "notesDock"
    TITLE = "Notes"
    ICON = "note"
    LAZY = True
    WATCHES = frozenset(
        (SessionPart.GRAPH, SessionPart.NOTES, SessionPart.LABELS, SessionPart.SELECTION)
    )

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._about = ""
        """Which node the two fields are about; "" the whole graph."""
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MS)
        self._typing.timeout.connect(self.keep)
        self.session.leaving.connect(self.keep)
        self._title = ElidedLabel(role="section")
        self._title.setObjectName("notes.about")
        self.label = QLineEdit()
        named(self.label, "notes.label", "Label",
              "What you call this feature, wherever it is active; Enter keeps it")  # fmt: skip
        self.label.setMaxLength(MAX_TEXT)
        self.remark = QPlainTextEdit()
        named(self.remark, "notes.remark", "Remark",
              "What you want to remember about it; kept as you type")  # fmt: skip
        self.remark.setTabChangesFocus(True)
        watch(self, self.remark)
        self.table = NotesTable()
        form = QWidget()
        form.setObjectName("formBody")
        fields = QVBoxLayout(form)
        fields.setContentsMargins(10, 6, 10, 8)
        fields.setSpacing(5)
        fields.addWidget(self._title)
        fields.addWidget(self.label)
        fields.addWidget(self.remark, 1)
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("notes.splitter")
        area = FormArea(form)
        area.setObjectName("notes.form")
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._splitter.addWidget(area)
        self._splitter.addWidget(self.table)
        self._splitter.setStretchFactor(1, 1)
        self._splitter.setSizes([360, 640])
        self._splitter.setChildrenCollapsible(False)
        self.set_content(self._splitter)
        self.set_empty(
            "No graph yet",
            "Here you say what features mean to you, write about nodes and the whole graph, and "
            "find it all again.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        self.label.editingFinished.connect(self.keep)
        self.remark.textChanged.connect(self._on_typed)
        self.table.notes.edited.connect(self._on_edited)
        self.table.removed.connect(self._on_removed)
        self.table.gone_to.connect(self._on_gone_to)
        self.theme.changed.connect(self._on_theme)
        self._on_theme()

    @Slot()
    def _on_theme(self) -> None:
        self.table.size_columns()
        # Two lines at least; where a low dock has no room for them, the form scrolls.
        self.remark.setMinimumHeight(2 * self.remark.fontMetrics().lineSpacing() + 18)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the list below the fields where the dock is narrow."""
        super().resizeEvent(event)
        if self._made:
            upright = event.size().width() < 30 * self.fontMetrics().averageCharWidth() + 260
            wanted = Qt.Orientation.Vertical if upright else Qt.Orientation.Horizontal
            if wanted != self._splitter.orientation():
                self._splitter.setOrientation(wanted)
                self._splitter.setSizes([160, 300] if upright else [360, 640])

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep a remark when the keyboard leaves it."""
        if watched is self.remark and event.type() == QEvent.Type.FocusOut:
            self.keep()
        return super().eventFilter(watched, event)

    # -- commands -------------------------------------------------------------------------------

    @Slot()
    def edit_label(self) -> None:
        """Go to the label of what is selected."""
        self.show()
        self.raise_()
        field = self.label if self.label.isEnabled() else self.remark
        field.setFocus(Qt.FocusReason.ShortcutFocusReason)
        if field is self.label:
            self.label.selectAll()

    @Slot()
    def edit_remark(self) -> None:
        """Go to the remark on what is selected, or on the graph."""
        self.show()
        self.raise_()
        self.remark.setFocus(Qt.FocusReason.ShortcutFocusReason)

    def figures(self) -> tuple[FigureOffer, ...]:
        """The list of what was written."""
        there = self.session.graph is not None and self.table.notes.n_rows > 0
        return (FigureOffer("notes", "Notes", self._figure),) if there else ()

    def _figure(self) -> Optional[Figure]:
        graph = self.session.graph
        if graph is None:
            return None
        caption = f"What was written about the attribution graph of “{graph.prompt}”."
        return of_view(self.table, "notes", "Notes", caption)

    # -- showing --------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        self.show_empty(self.session.graph is None)
        if parts & {SessionPart.SELECTION, SessionPart.GRAPH}:
            # What was being typed belongs to what was selected when it was typed.
            if SessionPart.GRAPH not in parts:
                self.keep()
            self._typing.stop()
            self._about = self.session.selection or ""
        self._show_fields()
        self._show_table()

    def _show_fields(self) -> None:
        notes, about = self.session.notes, self._about
        feature = feature_of(about)
        self._title.set_whole(self.session.words(about) if about else WHOLE_GRAPH)
        self.label.setEnabled(feature is not None)
        # What the dashboards call it stands there until the person calls it something.
        called = self.session.named_notes.label_of(about) or "Your name for this feature"
        self.label.setPlaceholderText(
            called if feature is not None else "Only features have labels"
        )
        self.remark.setPlaceholderText(
            "Your remark on this node" if about else "Your remark on the graph"
        )
        label = notes.labels.get(feature, "") if feature is not None else ""
        if self.label.text() != label:
            self.label.setText(label)
        remark = notes.remarks.get(about, "")
        if self.remark.toPlainText() != remark and not self._typing.isActive():
            blocked = self.remark.blockSignals(True)
            self.remark.setPlainText(remark)
            self.remark.blockSignals(blocked)

    def _show_table(self) -> None:
        graph = self.session.graph
        tokens = graph.tokens if graph is not None else ()
        self.table.notes.show(notes_of(self.session.notes, tokens))

    # -- from the person ------------------------------------------------------------------------

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def keep(self) -> None:
        """Keep what stands in the two fields."""
        self._typing.stop()
        if self.session.graph is None:
            return
        notes, about = self.session.notes, self._about
        what = self.session.words(about) if about else "the graph"
        feature, text = feature_of(about), self.label.text().strip()
        if feature is not None and text != notes.labels.get(feature, ""):
            verb = f"Label {what} “{text}”" if text else f"Remove the label of {what}"
            self.session.set_notes(notes.labelled(feature, text), verb)
            notes = self.session.notes
        remark = self.remark.toPlainText()
        if remark.strip() != notes.remarks.get(about, "").strip():
            kept = notes.remarked(about, remark if remark.strip() else "")
            # While one goes on typing, it is one step.
            self.session.set_notes(kept, f"Remark on {what}", self, merge=True)
            self._show_table()

    @Slot(object, str)
    def _on_edited(self, note: Note, text: str) -> None:
        self._change(note, text)

    @Slot(int)
    def _on_removed(self, row: int) -> None:
        self._change(self.table.notes.note(row), "")

    def _change(self, note: Note, text: str) -> None:
        kind = note.kind.value.lower()
        about = self.session.notes.supernode(note.key)
        named_so = note.text if note.kind in (NoteKind.QUERY, NoteKind.SUPERNODE) else note.about
        if note.kind is NoteKind.REMARK and about is not None:
            named_so = about.name
        verb = "Change" if text.strip() else "Remove"
        self.session.set_notes(
            changed(self.session.notes, note, text), f"{verb} the {kind} {named_so}"
        )

    @Slot(int)
    def _on_gone_to(self, row: int) -> None:
        """Select what a note is about, choose a supernode's nodes, or ask a query again."""
        note, session = self.table.notes.note(row), self.session
        graph = session.graph
        if graph is None:
            return
        group = session.notes.supernode(note.key)
        if note.kind in (NoteKind.QUERY, NoteKind.LABEL):
            session.set_query(note.about if note.kind is NoteKind.QUERY else note.key)
            self.commands.run("go.nodes")
        elif group is not None:
            session.set_chosen(group.nodes)
        elif note.key and graph.has(note.key):
            session.set_selection(note.key)
