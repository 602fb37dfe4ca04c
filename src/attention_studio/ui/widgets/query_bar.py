"""The line for queries with what helps to fill it: examples, and queries that were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QWidget

from attention_studio.core.query_completion import EXAMPLES
from attention_studio.ui.widgets.controls import icon_button
from attention_studio.ui.widgets.query_edit import QueryEdit
from attention_studio.ui.widgets.suggestions import Suggestions

if TYPE_CHECKING:
    from attention_studio.core.graph_notes import SavedQuery
    from attention_studio.ui.theme import Theme

KEEP = "Keep this query"
NOTHING_KEPT = "No query is kept yet"


class QueryBar(QWidget):
    """``edit``, and a button each for examples and for kept queries.

    ``taken`` carries a query that was taken from one of the lists; ``keep_wanted`` says that the
    one that is typed is to be kept.
    """

    taken = Signal(str)
    keep_wanted = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._kept: tuple[SavedQuery, ...] = ()
        self._listed: tuple[str, ...] = ()
        self._examples: Optional[Suggestions] = None
        self._saved: Optional[Suggestions] = None
        self.edit = QueryEdit(theme)
        self.help = icon_button(
            theme, "help", "nodes.help", "What can be asked",
            "Show examples of what can be asked, to begin with one of them (F1)",
        )  # fmt: skip
        self.saved = icon_button(
            theme, "bookmark", "nodes.saved", "Saved queries",
            "Keep this query, or take up one that was kept",
        )  # fmt: skip
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.edit, 1)
        layout.addWidget(self.help)
        layout.addWidget(self.saved)
        self.edit.help_wanted.connect(self.show_examples)
        self.help.clicked.connect(self.show_examples)
        self.saved.clicked.connect(self.show_saved)

    def set_kept(self, queries: tuple[SavedQuery, ...]) -> None:
        """Say which queries were kept."""
        self._kept = queries

    @Slot()
    def show_examples(self) -> None:
        """List examples of what can be asked."""
        if self._examples is None:
            self._examples = self._list("nodes.examples", "What can be asked")
            self._examples.taken.connect(self._on_example)
        self._examples.show_at(self.edit, EXAMPLES)

    @Slot()
    def show_saved(self) -> None:
        """List the kept queries, and the way to keep the one that is typed."""
        if self._saved is None:
            self._saved = self._list("nodes.saved.list", "Saved queries")
            self._saved.taken.connect(self._on_saved)
        typed = self.edit.text().strip()
        items = [(query.name, query.text) for query in self._kept]
        self._listed = tuple(query.text for query in self._kept)
        if typed:
            items.insert(0, (KEEP, typed))
            self._listed = ("", *self._listed)  # something to do, rather than to ask
        if not items:
            items = [(NOTHING_KEPT, "Type one, and keep it here")]
        self._saved.show_at(self.edit, items)

    @property
    def examples_list(self) -> Optional[Suggestions]:
        """The list of examples, once it was shown."""
        return self._examples

    @property
    def saved_list(self) -> Optional[Suggestions]:
        """The list of kept queries, once it was shown."""
        return self._saved

    def _list(self, name: str, text: str) -> Suggestions:
        return Suggestions(self._theme, name, text, self.window(), focus=True)

    @Slot(int)
    def _on_example(self, place: int) -> None:
        self.edit.setFocus(Qt.FocusReason.OtherFocusReason)
        self.taken.emit(EXAMPLES[place][0])

    @Slot(int)
    def _on_saved(self, place: int) -> None:
        self.edit.setFocus(Qt.FocusReason.OtherFocusReason)
        if place >= len(self._listed):
            return
        if self._listed[place]:
            self.taken.emit(self._listed[place])
        else:
            self.keep_wanted.emit()
