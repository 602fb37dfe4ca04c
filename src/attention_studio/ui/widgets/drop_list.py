"""A list of files and folders: added by buttons or dropped, removed when selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from attention_studio.ui.widgets.controls import icon_button, named, plain_tip, row

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme


class _HintedList(QListWidget):
    """A list that says what it is for while it is empty."""

    def __init__(self, theme: Theme, hint: str) -> None:
        super().__init__()
        self._theme, self._hint = theme, hint

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the rows, or the hint."""
        super().paintEvent(event)
        if self.count() == 0:
            painter = QPainter(self.viewport())
            painter.setPen(self._theme.colour("muted"))
            painter.drawText(
                self.viewport().rect().adjusted(8, 8, -8, -8),
                int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap),
                self._hint,
            )


class DropList(QWidget):
    """Texts, each once, in the order in which they came. Files and folders can be dropped on it."""

    changed = Signal()

    def __init__(
        self,
        theme: Theme,
        name: str,
        accessible: str,
        hint: str,
        buttons: tuple[QWidget, ...],
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self._list = _HintedList(theme, hint)
        named(self._list, f"{name}.list", accessible, hint)
        self._list.setMaximumHeight(84)
        self._list.setProperty("panel", "sunken")
        self._list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        remove = icon_button(
            theme, "trash", f"{name}.remove", "Remove what is selected from the list"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self._list)
        layout.addLayout(row(*buttons, remove, spacing=5))
        remove.clicked.connect(self._remove_selected)

    def sources(self) -> tuple[str, ...]:
        """What is in the list, in order."""
        return tuple(
            str(self._list.item(number).data(Qt.ItemDataRole.UserRole))
            for number in range(self._list.count())
        )

    def set_sources(self, sources: tuple[str, ...]) -> None:
        """Replace the list."""
        self._list.clear()
        for source in sources:
            self._append(source)
        self.changed.emit()

    @Slot(str)
    def add(self, source: str) -> None:
        """Add what is not there yet."""
        if source and source not in self.sources():
            self._append(source)
            self.changed.emit()

    def shown(self, source: str) -> str:
        """What the list says for a source."""
        return source

    def _append(self, source: str) -> None:
        item = QListWidgetItem(self.shown(source))
        item.setData(Qt.ItemDataRole.UserRole, source)
        item.setToolTip(plain_tip(source))
        self._list.addItem(item)

    @Slot()
    def _remove_selected(self) -> None:
        for item in self._list.selectedItems():
            self._list.takeItem(self._list.row(item))
        self.changed.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Add the dropped files and folders."""
        for url in event.mimeData().urls():
            if url.isLocalFile():
                self.add(url.toLocalFile())
        event.acceptProposedAction()
