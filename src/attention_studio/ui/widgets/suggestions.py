"""A list of things that can be put into a line of text, shown above or below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import (
    QAbstractTableModel,
    QEvent,
    QModelIndex,
    QObject,
    QPoint,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import QFontMetrics, QKeyEvent, QPainter, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QFrame,
    QHeaderView,
    QTreeView,
    QVBoxLayout,
    QWidget,
)
from shiboken6 import isValid

from attention_studio.ui.event_filters import watch
from attention_studio.ui.widgets.columns_model import ROOT, Index
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

_MOST_ROWS = 9
_WIDEST = 620


class _SuggestionsModel(QAbstractTableModel):
    """What can be put there, and what each means."""

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.items: tuple[tuple[str, str], ...] = ()

    def show(self, items: Sequence[tuple[str, str]]) -> None:
        self.beginResetModel()
        self.items = tuple(items)
        self.endResetModel()

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self.items)

    def columnCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else 2

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        text, meaning = self.items[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (text, meaning)[index.column()]
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{text}: {meaning}"
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == 1:
            return self._theme.colour("muted")
        if role == Qt.ItemDataRole.FontRole and index.column() == 0:
            return self._theme.font(mono=True)
        return None


class Suggestions(QFrame):
    """The list.

    ``taken`` carries the place of what was chosen among the items shown.

    Args:
        focus: whether it takes the keyboard when it is shown, and gives it back; otherwise whoever
            shows it hands it the keys that it is to have.
    """

    taken = Signal(int)

    def __init__(
        self, theme: Theme, name: str, text: str, parent: QWidget, focus: bool = False
    ) -> None:
        # A child of the window, as the command palette is: no grab of keyboard or mouse.
        super().__init__(parent)
        self.hide()
        self._theme = theme
        self._focus = focus
        self._before: Optional[QWidget] = None
        self.setObjectName("suggestions")
        self._model = _SuggestionsModel(theme, self)
        self.list = QTreeView()
        named(self.list, name, text, "Up and Down choose, Enter or Tab takes, Escape closes")
        self.list.setModel(self._model)
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        policy = Qt.FocusPolicy.StrongFocus if focus else Qt.FocusPolicy.NoFocus
        self.list.setFocusPolicy(policy)
        watch(self, self.list)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.header().hide()
        self.list.header().setStretchLastSection(True)
        self.list.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(3, 3, 3, 3)
        layout.addWidget(self.list)
        self.list.clicked.connect(self._on_clicked)

    @property
    def items(self) -> tuple[tuple[str, str], ...]:
        """What is listed, as (text, meaning)."""
        return self._model.items

    def show_at(self, beside: QWidget, items: Sequence[tuple[str, str]], x: int = 0) -> None:
        """List things under a widget, or above it where there is more room; ``x`` is where in it.

        Nothing to list hides the list.
        """
        if not items:
            self.hide()
            return
        window = beside.window()
        if self.parentWidget() is not window:
            self.setParent(window)
        self._model.show(items)
        self.list.setCurrentIndex(QModelIndex())
        metrics = self.list.fontMetrics()
        mono = QFontMetrics(self._theme.font(mono=True))
        first = min(max(mono.horizontalAdvance(text) for text, _ in items) + 24, _WIDEST // 2)
        second = max(metrics.horizontalAdvance(meaning) for _, meaning in items) + 30
        self.list.header().resizeSection(0, first)
        width = min(first + second, _WIDEST, window.width() - 8)
        row = max(self.list.sizeHintForRow(0), metrics.height() + 6)
        height = min(len(items), _MOST_ROWS) * row + 10
        above = beside.mapTo(window, QPoint(0, 0)).y()
        below = window.height() - above - beside.height()
        upwards = below < height and above > below
        height = min(height, max(2 * row, (above if upwards else below) - 8))
        corner = beside.mapTo(window, QPoint(x, 0))
        left = max(4, min(corner.x(), window.width() - width - 4))
        top = above - height - 3 if upwards else above + beside.height() + 3
        self.setGeometry(left, top, width, height)
        if self._focus and not self.isVisible():
            self._before = QApplication.focusWidget()
        self.show()
        self.raise_()
        if self._focus:
            self.list.setCurrentIndex(self._model.index(0, 0))
            self.list.setFocus(Qt.FocusReason.PopupFocusReason)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The keys of a list that has the focus."""
        if watched is not self.list or not self._focus:
            return super().eventFilter(watched, event)
        if event.type() == QEvent.Type.FocusOut:
            self.hide()
        elif isinstance(event, QKeyEvent):
            escape = event.key() == Qt.Key.Key_Escape
            if event.type() == QEvent.Type.ShortcutOverride and escape:
                event.accept()
                return True
            if event.type() == QEvent.Type.KeyPress and escape:
                self._dismiss()
                return True
            if event.type() == QEvent.Type.KeyPress and event.key() in (
                Qt.Key.Key_Return,
                Qt.Key.Key_Enter,
                Qt.Key.Key_Tab,
            ):
                self.take()
                return True
        return super().eventFilter(watched, event)

    def _dismiss(self) -> None:
        """Close, and give the keyboard back."""
        before, self._before = self._before, None
        self.hide()
        if before is not None and isValid(before) and before.isVisible():
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    def move_by(self, rows: int) -> None:
        """Choose another row: the first, or the last, where none was chosen."""
        n = self._model.rowCount()
        now = self.list.currentIndex().row()
        row = (0 if rows > 0 else n - 1) if now < 0 else (now + rows) % n
        self.list.setCurrentIndex(self._model.index(row, 0))

    @property
    def current(self) -> Optional[int]:
        """The chosen place, or None."""
        index = self.list.currentIndex()
        return index.row() if index.isValid() else None

    def take(self, place: Optional[int] = None) -> None:
        """Take the chosen one (or that of a place), and close."""
        taken = self.current if place is None else place
        self._dismiss()
        if taken is not None:
            self.taken.emit(taken)

    @Slot(QModelIndex)
    def _on_clicked(self, index: QModelIndex) -> None:
        self.take(index.row())


def wavy(painter: QPainter, left: float, right: float, y: float, pen: QPen) -> None:
    """Draw the line that says that a text is wrong."""
    painter.setPen(pen)
    x, up = left, False
    while x < right:
        step = min(2.0, right - x)
        painter.drawLine(
            QPoint(round(x), round(y + (1 if up else -1))),
            QPoint(round(x + step), round(y + (-1 if up else 1))),
        )
        x, up = x + 2.0, not up
