"""Small controls that every dock uses, made so that none forgets its name, tooltip or text format.

Text from models, prompts and files is data: labels here show plain text, never markup.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Literal, Optional, TypeVar

from PySide6.QtCore import QEvent, QSize, Qt, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QBoxLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.theme import LARGE_ICON

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

Look = Literal["plain", "primary", "quiet", "danger"]
Role = Literal[
    "text", "title", "muted", "caption", "section", "figure", "mono", "error", "warning", "success"
]
W = TypeVar("W", bound=QWidget)


def plain_tip(text: str) -> str:
    """``text`` for a tooltip, where Qt would take what looks like markup for markup."""
    return f"<qt>{escape(text)}</qt>" if "<" in text or "&" in text else text


def named(widget: W, name: str, accessible: str, tip: str = "") -> W:
    """Give a control its object name, accessible name and tooltip, and hand it back."""
    widget.setObjectName(name)
    widget.setAccessibleName(accessible)
    if tip:
        widget.setToolTip(tip)
        widget.setAccessibleDescription(tip)
    return widget


def label(
    text: str = "",
    role: Role = "text",
    *,
    name: str = "",
    wrap: bool = False,
    selectable: bool = False,
) -> QLabel:
    """A label for plain text."""
    made = QLabel()
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setText(text)
    made.setWordWrap(wrap)
    made.setProperty("role", role)
    if name:
        made.setObjectName(name)
    if selectable:
        made.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return made


def set_role(target: QLabel, role: Role) -> None:
    """Change a label's role and make the style sheet notice."""
    if target.property("role") != role:
        target.setProperty("role", role)
        target.style().unpolish(target)
        target.style().polish(target)


class ElidedLabel(QLabel):
    """A one-line label that gives way: what does not fit ends in an ellipsis, whole on hover."""

    def __init__(
        self,
        text: str = "",
        role: Role = "text",
        mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self._whole = ""
        self._mode = mode
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.set_whole(text)

    def set_whole(self, text: str) -> None:
        """Set the text; newlines become spaces."""
        self._whole = " ".join(text.split())
        self.setToolTip(plain_tip(self._whole))
        self._elide()

    def whole(self) -> str:
        """The text, unshortened."""
        return self._whole

    def minimumSizeHint(self) -> QSize:
        """Any width will do."""
        return QSize(24, super().minimumSizeHint().height())

    def resizeEvent(self, event: object) -> None:
        """Shorten anew."""
        super().resizeEvent(event)  # type: ignore[arg-type]
        self._elide()

    def changeEvent(self, event: QEvent) -> None:
        """Shorten anew where letters have another size."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self._elide()

    def _elide(self) -> None:
        room = self.contentsRect().width()
        self.setText(self.fontMetrics().elidedText(self._whole, self._mode, max(0, room)))


class CommandButton(QPushButton):
    """A button that runs a command: text, help, icon and enabledness are the command's."""

    def __init__(
        self,
        commands: Commands,
        command_id: str,
        *,
        look: Look = "plain",
        text: Optional[str] = None,
        icon: bool = True,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self._action = commands.action(command_id)
        self._own_text = text
        self._with_icon = icon and look != "primary"
        self.setProperty("look", look)
        self.setObjectName(f"button.{command_id}")
        self._sync()
        self._action.changed.connect(self._sync)
        self.clicked.connect(self._action.trigger)

    @Slot()
    def _sync(self) -> None:
        action: QAction = self._action
        text = self._own_text or action.text().rstrip("…")
        if self.text() != text:
            self.setText(text)
            self.setAccessibleName(text)
        self.setToolTip(action.toolTip())
        self.setAccessibleDescription(action.statusTip())
        self.setEnabled(action.isEnabled())
        if self._with_icon:
            self.setIcon(action.icon())


class CommandTool(QToolButton):
    """A small button with an icon alone that runs a command, as ``CommandButton`` does."""

    def __init__(
        self, commands: Commands, command_id: str, name: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._action = commands.action(command_id)
        self.setObjectName(name)
        self.setAccessibleName(self._action.text().rstrip("…"))
        self.setCheckable(self._action.isCheckable())
        self._sync()
        self._action.changed.connect(self._sync)
        self.clicked.connect(self._action.trigger)

    @Slot()
    def _sync(self) -> None:
        self.setIcon(self._action.icon())
        self.setToolTip(self._action.toolTip())
        self.setAccessibleDescription(self._action.statusTip())
        self.setEnabled(self._action.isEnabled())
        self.setChecked(self._action.isChecked())


def icon_button(theme: Theme, icon: str, name: str, accessible: str, tip: str = "") -> QToolButton:
    """A small button with an icon alone; ``accessible`` is its tooltip too unless ``tip`` is."""
    button = QToolButton()
    theme.set_icon(button, icon)
    return named(button, name, accessible, tip or accessible)


def push_button(
    text: str, name: str, tip: str, *, look: Look = "plain", accessible: str = ""
) -> QPushButton:
    """A button with text."""
    button = QPushButton(text)
    button.setProperty("look", look)
    return named(button, name, accessible or text, tip)


def line() -> QFrame:
    """A thin horizontal line."""
    made = QFrame()
    made.setProperty("panel", "line")
    return made


def row(*widgets: QWidget, stretch: Optional[int] = None, spacing: int = 8) -> QHBoxLayout:
    """Widgets side by side; ``stretch`` is the index of the one that grows."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    for index, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if index == stretch else 0)
    if stretch is None:
        layout.addStretch(1)
    return layout


def stack(parts: QBoxLayout, narrow: bool) -> None:
    """Put the parts of a row below each other where there is no room for them side by side."""
    direction = QBoxLayout.Direction
    parts.setDirection(direction.TopToBottom if narrow else direction.LeftToRight)


def show_fraction(bar: QProgressBar, fraction: Optional[float]) -> None:
    """Show a share in [0, 1] on a progress bar; None: that something goes on."""
    bar.setRange(0, 0 if fraction is None else 1000)
    if fraction is not None:
        bar.setValue(round(1000 * fraction))


class EmptyState(QScrollArea):
    """What a view shows while it has nothing to show: what it is for and how to fill it.

    It scrolls where the place is low and the letters are large.
    """

    def __init__(
        self,
        theme: Theme,
        icon: str,
        title: str,
        text: str,
        button: Optional[QWidget] = None,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("emptyState")
        self._theme = theme
        self._icon_name = icon
        self._picture = QLabel()
        self._picture.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.title = label(title, "title")
        self.title.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.title.setWordWrap(True)
        self.text = label(text, "muted", wrap=True)
        self.text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        body = QWidget()
        body.setObjectName("formBody")
        layout = self._layout = QVBoxLayout(body)
        layout.setContentsMargins(24, 16, 24, 16)
        layout.setSpacing(8)
        layout.addStretch(2)
        layout.addWidget(self._picture)
        layout.addSpacing(2)
        layout.addWidget(self.title)
        layout.addWidget(self.text)
        if button is not None:
            layout.addSpacing(6)
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addStretch(3)
        # The button inside takes the keyboard, and is scrolled to when it does.
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(body)
        theme.changed.connect(self._repaint_icon)
        self._repaint_icon()

    def set_texts(self, title: str, text: str) -> None:
        """Change what it says."""
        self.title.setText(title)
        self.text.setText(text)

    def layout(self) -> QVBoxLayout:
        """The layout of what it says: views put more below the button, before the last stretch."""
        return self._layout

    @Slot()
    def _repaint_icon(self) -> None:
        icon = self._theme.icon(self._icon_name, "muted")
        side = self._theme.icon_size(LARGE_ICON)
        self._picture.setPixmap(icon.pixmap(QSize(side, side), self._theme.pixel_ratio))
