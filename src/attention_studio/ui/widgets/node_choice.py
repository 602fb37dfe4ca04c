"""A box to choose a node of the graph in: from a list, or by typing a part of what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QComboBox, QCompleter, QSizePolicy, QWidget

from attention_studio.ui.widgets.controls import named

_LETTERS = 18


class NodeChoice(QComboBox):
    """Says ``chosen`` with a node's name when a person has chosen or typed another."""

    chosen = Signal(str)

    def __init__(
        self, name: str, accessible: str, tip: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        named(self, name, accessible, tip)
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setMinimumContentsLength(_LETTERS)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        completer = QCompleter(self.model(), self)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setCompletionMode(QCompleter.CompletionMode.PopupCompletion)
        self.setCompleter(completer)
        line = self.lineEdit()
        assert line is not None
        named(line, f"{name}.text", accessible, tip)
        self._name = ""
        self._text = ""
        self._names: list[str] = []
        """Of the nodes that are offered."""
        self.activated.connect(self._on_activated)
        line.editingFinished.connect(self._on_typed)

    @property
    def name(self) -> str:
        """The name of the node that is chosen; "" for none."""
        return self._name

    def fill(self, items: Sequence[tuple[str, str]]) -> None:
        """Offer other nodes, as (name, what it is called); the chosen one stays."""
        line = self.lineEdit()
        assert line is not None
        typing = line.text() if line.isModified() and self.hasFocus() else None
        blocked = self.blockSignals(True)
        self.clear()
        self._names = [name for name, _ in items]
        # All at once: one by one each would be sorted in and announced.
        self.addItems([text for _, text in items])
        self.set_name(self._name, self._text)
        self.blockSignals(blocked)
        if typing is not None:
            line.setText(typing)
            line.setModified(True)

    def set_name(self, name: str, text: str = "") -> None:
        """Choose a node without saying so; ``text`` is what one is called that is not offered."""
        self._name, self._text = name, text
        place = self._names.index(name) if name in self._names else -1
        self.setCurrentIndex(place)
        if place < 0:
            self.setEditText(text or name)
        line = self.lineEdit()
        if line is not None:
            line.setCursorPosition(0)

    @Slot(int)
    def _on_activated(self, place: int) -> None:
        self._take(self._names[place])

    @Slot()
    def _on_typed(self) -> None:
        typed = self.currentText().strip()
        place = self.findText(typed, Qt.MatchFlag.MatchFixedString)
        if place < 0 and typed:
            place = self.findText(typed, Qt.MatchFlag.MatchContains)
        if place >= 0:
            self._take(self._names[place])
        elif typed and typed != self._name:
            # Perhaps a name; whoever looks for it says so if there is none.
            self._take(typed)

    def _take(self, name: str) -> None:
        if name != self._name:
            self._name = name
            self.chosen.emit(name)
