"""Two next tokens to set against one another: why the first, and not the second?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QComboBox, QGridLayout, QSizePolicy, QWidget

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.controls import CommandButton, label, named

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands


class TokenChoice(QComboBox):
    """A token from a list of candidates, or one that is typed."""

    def __init__(self, name: str, accessible: str, tip: str) -> None:
        super().__init__()
        named(self, name, accessible, tip)
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(6)
        line = self.lineEdit()
        assert line is not None
        named(line, f"{name}.text", accessible, tip)
        # What was typed is a person's own; what was chosen follows the candidates.
        self._typed = False
        line.textEdited.connect(self._on_edited)
        self.activated.connect(self._on_activated)

    @property
    def token(self) -> str:
        """The token: a candidate as the tokenizer has it, else what was typed."""
        at = self.currentIndex()
        chosen = at >= 0 and not self._typed
        return str(self.itemData(at)) if chosen else self.currentText()

    def offer(self, candidates: Sequence[tuple[str, float]], place: int) -> None:
        """Offer other candidates (token, probability); the one at ``place`` is chosen, unless a
        person has typed something."""
        blocked = self.blockSignals(True)
        text = self.currentText()
        self.clear()
        for token, probability in candidates:
            self.addItem(visible_token(token), token)
            self.setItemData(self.count() - 1, percent(probability), Qt.ItemDataRole.ToolTipRole)
        if self._typed:
            self.setEditText(text)
        elif candidates:
            self.setCurrentIndex(min(place, len(candidates) - 1))
        self.blockSignals(blocked)

    @Slot(str)
    def _on_edited(self, text: str) -> None:
        self._typed = bool(text)

    @Slot(int)
    def _on_activated(self, _index: int) -> None:
        self._typed = False


class ContrastRow(QWidget):
    """“Why A and not B?”, with the button that traces it."""

    def __init__(self, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("prompt.contrast")
        self.setAccessibleName("Why one next token and not another")
        tip = "A likely next token from the list, or any token, typed"
        self.first = TokenChoice("prompt.contrast.first", "The token to explain", tip)
        self.second = TokenChoice("prompt.contrast.second", "The token to set against it", tip)
        trace = CommandButton(commands, "graph.contrast", text="Trace the difference")
        trace.setObjectName("prompt.contrast.trace")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setHorizontalSpacing(8)
        layout.setVerticalSpacing(5)
        for row, (text, choice) in enumerate((("Why", self.first), ("and not", self.second))):
            layout.addWidget(label(text, "caption"), row, 0)
            layout.addWidget(choice, row, 1)
        layout.addWidget(trace, 2, 1)
        layout.setColumnStretch(1, 1)

    def offer(self, candidates: Sequence[tuple[str, float]]) -> None:
        """Offer the candidates for the next token, likeliest first."""
        self.first.offer(candidates, 0)
        self.second.offer(candidates, 1)

    @property
    def tokens(self) -> tuple[str, str]:
        """The two tokens."""
        return self.first.token, self.second.token
