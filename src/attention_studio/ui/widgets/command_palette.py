"""The command palette: type a few letters, press Enter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QObject,
    QRect,
    QSize,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import QKeyEvent, QKeySequence, QPainter, QPalette
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)
from shiboken6 import isValid

from attention_studio.ui.event_filters import watch
from attention_studio.ui.widgets.controls import label, named

if TYPE_CHECKING:
    from attention_studio.ui.command import Command
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

_COMMAND_ROLE = Qt.ItemDataRole.UserRole + 1
_ANY_INDEX = QModelIndex()


class _PaletteModel(QAbstractListModel):
    """The commands that fit what was typed."""

    def __init__(self, commands: Commands, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._commands = commands
        self._found: tuple[Command, ...] = ()

    def search(self, query: str) -> None:
        self.beginResetModel()
        hits = [c for c in self._commands.search(query) if c.id != "palette.show"]
        # What can be run comes first; what cannot is still found, greyed.
        hits.sort(key=lambda c: not self._commands.action(c.id).isEnabled())
        self._found = tuple(hits)
        self.endResetModel()

    def rowCount(self, parent: Any = _ANY_INDEX) -> int:
        return 0 if parent.isValid() else len(self._found)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or index.row() >= len(self._found):
            return None
        command = self._found[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._commands.action(command.id).text().replace("&&", "&")
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._commands.hindrance(command.id) or command.help
        if role == Qt.ItemDataRole.AccessibleTextRole:
            hindrance = self._commands.hindrance(command.id)
            waits = f" {hindrance}." if hindrance else ""
            return f"{command.text}. {command.help}.{waits} {command.shortcut}"
        if role == Qt.ItemDataRole.DecorationRole:
            return self._commands.action(command.id).icon()
        if role == _COMMAND_ROLE:
            return command
        return None

    def flags(self, index: Any) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        command = self._found[index.row()]
        if self._commands.action(command.id).isEnabled():
            return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return Qt.ItemFlag.ItemIsSelectable


class _PaletteDelegate(QStyledItemDelegate):
    """Draws a command: icon, name, what it does, its keys."""

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Any) -> QSize:
        height = self._theme_height()
        return QSize(200, height)

    def _theme_height(self) -> int:
        return round(self._theme.font().pointSizeF() * 3.6) + 6

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        command: Command = index.data(_COMMAND_ROLE)
        enabled = bool(index.flags() & Qt.ItemFlag.ItemIsEnabled)
        rect: QRect = option.rect.adjusted(4, 1, -4, -1)
        state: QStyle.StateFlag = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if state & QStyle.StateFlag.State_Selected:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("accent_soft"))
            painter.drawRoundedRect(rect, 6, 6)
        icon = index.data(Qt.ItemDataRole.DecorationRole)
        middle = rect.center().y()
        if icon is not None and not icon.isNull():
            icon.paint(painter, QRect(rect.left() + 10, middle - 9, 18, 18))
        left, right = rect.left() + 38, rect.right() - 12
        keys = QKeySequence.fromString(command.shortcut).toString(
            QKeySequence.SequenceFormat.NativeText
        )
        painter.setFont(self._theme.font(0.9, mono=True))
        key_width = painter.fontMetrics().horizontalAdvance(keys) if keys else 0
        painter.setPen(self._theme.colour("muted" if enabled else "disabled"))
        painter.drawText(
            QRect(right - key_width, rect.top(), key_width + 2, rect.height()),
            Qt.AlignmentFlag.AlignVCenter,
            keys,
        )
        room = right - key_width - 14 - left
        top = QRect(left, rect.top() + 3, room, rect.height() // 2)
        bottom = QRect(left, middle, room, rect.height() // 2)
        painter.setFont(self._theme.font())
        painter.setPen(self._theme.colour("text" if enabled else "disabled"))
        title = painter.fontMetrics().elidedText(
            index.data(), Qt.TextElideMode.ElideRight, top.width()
        )
        painter.drawText(top, Qt.AlignmentFlag.AlignVCenter, title)
        painter.setFont(self._theme.font(0.88))
        painter.setPen(self._theme.colour("muted" if enabled else "disabled"))
        text = index.data(Qt.ItemDataRole.ToolTipRole)
        if not enabled:
            text = f"{text} (not now)"
        text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, bottom.width())
        painter.drawText(bottom, Qt.AlignmentFlag.AlignVCenter, text)
        painter.restore()


def _with_modifier(event: QKeyEvent) -> bool:
    modifiers = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
    return bool(event.modifiers() & modifiers)


class CommandPalette(QFrame):
    """A panel over the window: a line to type in and the commands that fit, the best first.

    Up and Down move, Enter runs, Ctrl+C copies as a script, Escape closes, and so does a click
    elsewhere.

    ``script_wanted`` carries the id of a command that is wanted as a script.
    """

    script_wanted = Signal(str)

    def __init__(self, commands: Commands, theme: Theme, parent: QWidget) -> None:
        # A child of the window, not a popup of its own: no grab of keyboard or mouse, and the same
        # behaviour on every platform.
        super().__init__(parent)
        self.hide()
        self._window = parent
        self._before: Optional[QWidget] = None
        self._commands = commands
        self._theme = theme
        named(self, "commandPalette", "Command palette")
        frame = QFrame()
        frame.setObjectName("paletteFrame")
        self._edit = QLineEdit()
        named(self._edit, "commandPalette.query", "Search commands", "Letters of a command's name")
        self._edit.setPlaceholderText("Type a command…")
        self._edit.setClearButtonEnabled(False)
        self._list = QListView()
        named(self._list, "commandPalette.list", "Commands that fit", "Enter runs the command")
        self._list.setItemDelegate(_PaletteDelegate(theme, self))
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self._list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._list.setMouseTracking(True)
        self._model = _PaletteModel(commands, self)
        self._list.setModel(self._model)
        inner = QVBoxLayout(frame)
        inner.setContentsMargins(1, 1, 1, 5)
        inner.setSpacing(3)
        inner.addWidget(self._edit)
        inner.addWidget(self._list)
        foot = label("Enter runs it · Ctrl+C copies it as a Python script", "caption")
        foot.setContentsMargins(12, 2, 12, 2)
        inner.addWidget(foot)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(frame)
        watch(self, self._edit)
        self._edit.textChanged.connect(self._on_text)
        self._list.clicked.connect(self._on_clicked)
        theme.changed.connect(self._on_theme)
        self._on_theme()

    @property
    def query(self) -> str:
        """What is typed."""
        return self._edit.text()

    def shown_commands(self) -> tuple[str, ...]:
        """Ids of the commands in the list, in order."""
        rows = range(self._model.rowCount())
        return tuple(self._model.index(r, 0).data(_COMMAND_ROLE).id for r in rows)

    def open(self) -> None:
        """Show the palette over its window, empty."""
        self._commands.refresh()
        self._edit.clear()
        self._on_text("")
        window = self._window
        width = min(620, max(320, window.width() - 60))
        self.resize(width, min(440, max(200, window.height() - 160)))
        self.move((window.width() - width) // 2, 72)
        if not self.isVisible():
            self._before = QApplication.focusWidget()
        self.show()
        self.raise_()
        self._edit.setFocus(Qt.FocusReason.ShortcutFocusReason)

    def dismiss(self) -> None:
        """Close it and give the focus back."""
        before, self._before = self._before, None
        self.close()
        if before is not None and isValid(before) and before.isVisible():
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Let the keys of the list work while the focus is in the line."""
        if watched is self._edit and event.type() == QEvent.Type.ShortcutOverride:
            # Plain keys are the palette's while it is open, whatever commands they belong to.
            if isinstance(event, QKeyEvent) and not _with_modifier(event):
                event.accept()
                return True
            return False
        if watched is self._edit and event.type() == QEvent.Type.FocusOut:
            self.close()
            return False
        if watched is self._edit and isinstance(event, QKeyEvent):
            if event.type() != QEvent.Type.KeyPress:
                return False
            key = event.key()
            if key == Qt.Key.Key_Escape:
                self.dismiss()
                return True
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._run(self._list.currentIndex())
                return True
            if event.matches(QKeySequence.StandardKey.Copy) and not self._edit.hasSelectedText():
                self._copy(self._list.currentIndex())
                return True
            steps = {
                Qt.Key.Key_Down: 1,
                Qt.Key.Key_Up: -1,
                Qt.Key.Key_PageDown: 7,
                Qt.Key.Key_PageUp: -7,
            }
            if key in steps:
                self._move(steps[Qt.Key(key)])
                return True
        return super().eventFilter(watched, event)

    def _move(self, by: int) -> None:
        count = self._model.rowCount()
        if count:
            row = min(count - 1, max(0, self._list.currentIndex().row() + by))
            self._list.setCurrentIndex(self._model.index(row, 0))

    def _run(self, index: QModelIndex) -> None:
        command = index.data(_COMMAND_ROLE) if index.isValid() else None
        if command is None or not self._commands.action(command.id).isEnabled():
            return
        self.dismiss()
        self._commands.run(command.id)

    def _copy(self, index: QModelIndex) -> None:
        command = index.data(_COMMAND_ROLE) if index.isValid() else None
        if command is not None:
            self.dismiss()
            self.script_wanted.emit(command.id)

    @Slot(str)
    def _on_text(self, text: str) -> None:
        self._model.search(text)
        if self._model.rowCount():
            self._list.setCurrentIndex(self._model.index(0, 0))

    @Slot(QModelIndex)
    def _on_clicked(self, index: QModelIndex) -> None:
        self._run(index)

    @Slot()
    def _on_theme(self) -> None:
        palette = self._edit.palette()
        palette.setColor(QPalette.ColorRole.PlaceholderText, self._theme.colour("muted"))
        self._edit.setPalette(palette)
        self._model.search(self._edit.text())
