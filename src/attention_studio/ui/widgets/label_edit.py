"""A line that says what somebody wrote about a feature, and lets one write something else."""

from __future__ import annotations

from typing import Optional

from PySide6.QtCore import QEvent, Qt, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from attention_studio.ui.widgets.controls import named


class LabelEdit(QLineEdit):
    """Enter, or going elsewhere, keeps what was typed; Escape takes it back.

    ``kept`` carries the new text, "" for none.
    """

    kept = Signal(str)

    def __init__(
        self, name: str, accessible: str, hint: str, most: int, parent: Optional[QWidget] = None
    ) -> None:
        """``hint``: what it says while it is empty; ``most``: letters that it takes."""
        super().__init__(parent)
        self._label = ""
        self.setMaxLength(most)
        self.setPlaceholderText(hint)
        named(self, name, accessible, f"{accessible}: Enter keeps it, Escape takes it back")
        self.returnPressed.connect(self._keep)

    def show_label(self, label: str) -> None:
        """Show another text. What is being typed is not lost to the same one."""
        if label != self._label or not self.isModified():
            self._label = label
            self.setText(label)
            self.setCursorPosition(0)

    @Slot()
    def leave(self) -> None:
        """Keep what was typed, before something else is shown."""
        self._keep()

    @Slot()
    def _keep(self) -> None:
        text = " ".join(self.text().split())
        if self.isModified() and text != self._label:
            self._label = text
            self.setModified(False)
            self.kept.emit(text)

    def event(self, event: QEvent) -> bool:
        """Keep Escape from being a shortcut of the window while something is typed."""
        overrides = event.type() == QEvent.Type.ShortcutOverride and self.isModified()
        if overrides and isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape takes back what was typed."""
        if event.key() == Qt.Key.Key_Escape and self.isModified():
            self.setText(self._label)
            self.setModified(False)
            return
        super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """What was typed counts when one goes elsewhere."""
        super().focusOutEvent(event)
        if event.reason() not in (Qt.FocusReason.PopupFocusReason,):
            self._keep()
