"""The bar at the top of the window that says what happened, why, and what to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Optional, Union

from PySide6.QtCore import QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.widgets.controls import icon_button, label, named, push_button
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

Level = Literal["info", "success", "warning", "error"]
_LEVEL_ICONS: dict[Level, str] = {
    "info": "info",
    "success": "check",
    "warning": "warning",
    "error": "error",
}
_LEVEL_WORDS: dict[Level, str] = {
    "info": "Note",
    "success": "Done",
    "warning": "Warning",
    "error": "Error",
}
# Good news goes by itself; what needs an answer stays.
_SHOWN_MS: dict[Level, int] = {"info": 12_000, "success": 6_000, "warning": 0, "error": 0}


@dataclass(frozen=True)
class Offer:
    """What the person may choose to have done about a message: ``text`` of a button, ``run``.

    Offers of one text are equal, so that a message that comes again is known again.
    """

    text: str
    run: Callable[[], None] = field(compare=False)


@dataclass(frozen=True)
class Message:
    """Something to tell the person."""

    level: Level
    what: str
    why: str = ""
    todo: str = ""
    details: str = ""
    offer: Optional[Offer] = None

    @staticmethod
    def of(problem: Union[JobFailure, StudioError]) -> Message:
        """The message for a failed job or an error of ours."""
        details = problem.details if isinstance(problem, JobFailure) else ""
        return Message("error", problem.what, problem.why, problem.todo, details)


class MessageBar(QFrame):
    """Shows one message at a time; later ones wait. Errors come before everything else."""

    shown = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._queue: deque[Message] = deque(maxlen=20)
        self.current: Optional[Message] = None
        self.setObjectName("messageBar")
        self.setAccessibleName("Messages")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._picture = QLabel()
        self._what = label("", "text", wrap=True, selectable=True)
        self._what.setObjectName("messageBar.what")
        font = theme.font(bold=True)
        self._what.setFont(font)
        self._why = label("", "muted", wrap=True, selectable=True)
        self._why.setObjectName("messageBar.why")
        self._details_button = push_button(
            "Details", "messageBar.details", "Show the technical details", look="quiet"
        )
        self._offer_button = push_button(
            "", "messageBar.offer", "Do what the message offers", look="primary"
        )
        self._copy_button = icon_button(
            theme, "copy", "messageBar.copy", "Copy message", "Copy the message with its details"
        )
        self._close_button = icon_button(theme, "close", "messageBar.close", "Dismiss message")
        self._details = QPlainTextEdit()
        named(self._details, "messageBar.text", "Details of the message", "Technical details")
        self._details.setReadOnly(True)
        self._details.setMaximumHeight(170)
        self._details.setProperty("look", "log")
        self._details.hide()

        texts = QVBoxLayout()
        texts.setSpacing(1)
        texts.addWidget(self._what)
        texts.addWidget(self._why)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(texts, 1)
        for button in (
            self._offer_button, self._details_button, self._copy_button, self._close_button,
        ):  # fmt: skip
            top.addWidget(button, 0, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 7, 8, 7)
        layout.setSpacing(6)
        layout.addLayout(top)
        layout.addWidget(self._details)

        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.dismiss)
        self._close_button.clicked.connect(self.dismiss)
        self._copy_button.clicked.connect(self._copy)
        self._details_button.clicked.connect(self._toggle_details)
        self._offer_button.clicked.connect(self._take_offer)
        theme.changed.connect(self._on_theme)
        self.hide()

    def post(self, message: Message) -> None:
        """Show the message now, or after the ones that wait."""
        if self.current == message or message in self._queue:
            return
        urgent = message.level == "error"
        if self.current is None or (urgent and self.current.level != "error"):
            self._show(message)
        elif urgent:
            self._queue.append(message)
        elif self.current.level in ("info", "success"):
            # News replaces news.
            self._show(message)
        else:
            self._queue.append(message)

    @Slot()
    def dismiss(self) -> None:
        """Put the message away and show the next one that waits."""
        self._timer.stop()
        if self._queue:
            self._show(self._queue.popleft())
            return
        self.current = None
        self.hide()

    @property
    def waiting(self) -> int:
        """How many messages wait behind the one that is shown."""
        return len(self._queue)

    def _show(self, message: Message) -> None:
        self.current = message
        self._what.setText(message.what)
        rest = ". ".join(_sentence(part) for part in (message.why, message.todo) if part)
        self._why.setText(f"{rest}." if rest and rest[-1].isalnum() else rest)
        self._why.setVisible(bool(rest))
        self._details.setPlainText(message.details)
        self._details.hide()
        self._details_button.setText("Details")
        self._details_button.setVisible(bool(message.details))
        self._offer_button.setText("" if message.offer is None else message.offer.text)
        self._offer_button.setVisible(message.offer is not None)
        self.setProperty("level", message.level)
        self.setAccessibleName(f"{_LEVEL_WORDS[message.level]}: {message.what}")
        self.setAccessibleDescription(rest)
        self.style().unpolish(self)
        self.style().polish(self)
        self._on_theme()
        self.show()
        duration = _SHOWN_MS[message.level]
        self._timer.stop()
        if duration:
            self._timer.start(duration)
        self.shown.emit(message)

    @Slot()
    def _on_theme(self) -> None:
        self._what.setFont(self._theme.font(bold=True))
        if self.current is None:
            return
        token = "accent" if self.current.level == "info" else self.current.level
        icon = self._theme.icon(_LEVEL_ICONS[self.current.level], token)
        side = self._theme.icon_size()
        self._picture.setPixmap(icon.pixmap(QSize(side, side), self._theme.pixel_ratio))

    @Slot()
    def _toggle_details(self) -> None:
        # isHidden, not isVisible: the bar itself may not be on screen.
        show = self._details.isHidden()
        self._details.setVisible(show)
        self._details_button.setText("Hide details" if show else "Details")
        if show:
            self._timer.stop()

    @Slot()
    def _take_offer(self) -> None:
        offer = None if self.current is None else self.current.offer
        self.dismiss()
        if offer is not None:
            offer.run()

    @Slot()
    def _copy(self) -> None:
        if self.current is None:
            return
        m = self.current
        parts = (m.what, m.why, m.todo, m.details)
        QGuiApplication.clipboard().setText("\n".join(part for part in parts if part))


def _sentence(text: str) -> str:
    """The text with a capital at its beginning, unless that may be a name or a setting."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    return text[0].upper() + text[1:] if first.isalpha() and len(first) > 1 else text
