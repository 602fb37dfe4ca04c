"""A line to type a name into, laid over the thing that is named."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRect, Qt, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from attention_studio.ui.widgets.controls import named

_MOST = 200
_LEAST_WIDTH = 120


class NameEditor(QLineEdit):
    """Hidden until something is to be named; Enter or leaving it names, Escape does not.

    ``named`` carries what was named (as ``edit`` was told) and its name.
    """

    named = Signal(str, str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._over = parent
        named(self, "nameEditor", "Name", "Enter keeps the name, Escape leaves it as it was")
        self.setMaxLength(_MOST)
        self._about = ""
        self.returnPressed.connect(self._keep)
        self.hide()

    @property
    def active(self) -> bool:
        """Whether somebody is typing a name."""
        return not self.isHidden()

    def edit(self, about: str, name: str, place: QRect, group: bool) -> None:
        """Ask for the name of a thing that is drawn at ``place`` of the parent."""
        self._about = about
        self.setAccessibleName("Name of the supernode" if group else "Label of the feature")
        self.setText(name)
        self.selectAll()
        self.follow(place)
        self.show()
        self.raise_()
        self.setFocus(Qt.FocusReason.PopupFocusReason)

    @property
    def about(self) -> str:
        """What is being named; "" while nothing is."""
        return self._about

    def follow(self, place: QRect) -> None:
        """Lie over a thing that is drawn there now, inside the parent."""
        height = self.sizeHint().height()
        width = max(_LEAST_WIDTH, place.width())
        room = self._over.rect()
        left = max(0, min(place.center().x() - width // 2, room.width() - width))
        top = max(0, min(place.top() - 1, room.height() - height))
        self.setGeometry(left, top, width, height)

    def leave(self) -> None:
        """Go, whatever was typed."""
        if self.active:
            self._about = ""
            had_focus = self.hasFocus()
            self.hide()
            if had_focus:
                self._over.setFocus(Qt.FocusReason.OtherFocusReason)

    @Slot()
    def _keep(self) -> None:
        about, name = self._about, self.text().strip()
        self.leave()
        if about:
            self.named.emit(about, name)

    def event(self, event: QEvent) -> bool:
        """Keep Escape from being a shortcut of the window."""
        overrides = event.type() == QEvent.Type.ShortcutOverride
        if overrides and isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape leaves the name as it was."""
        if event.key() == Qt.Key.Key_Escape:
            self.leave()
            return
        super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """What was typed counts when one goes elsewhere."""
        super().focusOutEvent(event)
        if self.active and event.reason() != Qt.FocusReason.PopupFocusReason:
            self._keep()
