"""The tour: three cards over the window that say what it is for, each beside what it speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QEvent, QObject, QPoint, QRect, Qt, QTimer, Slot
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QApplication, QFrame, QVBoxLayout, QWidget
from shiboken6 import isValid

from attention_studio.ui.event_filters import watch
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import label, named, push_button, row

if TYPE_CHECKING:
    from attention_studio.ui.main_window import MainWindow
    from attention_studio.ui.theme import Theme

_WIDTH = 400
_GAP = 14
_SETTLE_MS = 600


@dataclass(frozen=True)
class TourStep:
    """One card: what it says, and the dock that it speaks of."""

    dock: str
    title: str
    text: str


STEPS = (
    TourStep(
        "graph",
        "This is how the prompt becomes the next token",
        "Columns are tokens, rows are layers, the output is on top. Click a node: its edges light "
        "up, and the panel beside lists what feeds it. P pins what you want to keep; Ctrl+Z takes "
        "anything back.",
    ),
    TourStep(
        "prompt",
        "Ask it something of your own",
        "Edit the prompt and press Graph (Ctrl+G) to trace it. Every graph, pin and label is "
        "saved in the workspace as you go; the Workspace dock (Alt+W) leads back to each.",
    ),
    TourStep(
        "model",
        "Go on from here",
        "Load another model here, train its replacement model in the Train dock, or find any "
        "command by its name with Ctrl+Shift+P. F1 lists all keys. The Help menu has this tour.",
    ),
)


class _Ring(QWidget):
    """A frame around what a card speaks of. Lets every click through."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setObjectName("tour.ring")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.hide()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the frame."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(self._theme.colour("accent"), 2))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -2, -2), 6, 6)
        painter.end()


class TourCard(QFrame):
    """One step of the tour, with ways on, back and out."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        named(self, "tourCard", "Tour")
        self.title = label("", "title", name="tour.title", wrap=True)
        self.text = label("", "text", name="tour.text", wrap=True)
        self.place = label("", "caption", name="tour.place")
        self.never = push_button(
            "Don't show again", "tour.never", "Close the tour for good; the Help menu has it",
            look="quiet",
        )  # fmt: skip
        self.back = push_button("Back", "tour.back", "Show the card before this one", look="quiet")
        self.next = push_button("Next", "tour.next", "Show the next card", look="primary")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(18, 14, 14, 12)
        layout.setSpacing(8)
        layout.addWidget(self.title)
        layout.addWidget(self.text)
        layout.addSpacing(4)
        layout.addLayout(row(self.place, QWidget(), self.never, self.back, self.next, stretch=1))
        self._column = layout
        self.hide()

    def height_for(self, width: int) -> int:
        """How high the card must be for its text, where it is that wide."""
        return self._column.totalHeightForWidth(width)


class Tour(QObject):
    """Shows the cards. Escape closes it until the next start; done or dismissed it stays away."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._before: Optional[QWidget] = None
        self._step = 0
        self._waits = False
        self.ring = _Ring(window.theme, window)
        self.card = TourCard(window.theme, window)
        self.card.next.clicked.connect(self._on_next)
        self.card.back.clicked.connect(self._on_back)
        self.card.never.clicked.connect(self.finish)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLE_MS)
        self._settle.timeout.connect(self._begin_unless_busy)
        watch(self, window, self.card, self.card.next, self.card.back, self.card.never)
        window.session.changed.connect(self._on_session_changed)
        window.theme.changed.connect(self._place)

    @property
    def shown(self) -> bool:
        """Whether a card is open."""
        return not self.card.isHidden()

    def begin_with_graph(self) -> None:
        """Begin as soon as there is a graph to speak of."""
        self._waits = True

    @Slot()
    def begin(self) -> None:
        """Show the first card."""
        self._waits = False
        if not self.shown:
            self._before = QApplication.focusWidget()
        self._show(0)

    @Slot()
    def finish(self) -> None:
        """Close the tour for good."""
        self._window.state.tour_done = True
        self._window.state.flush()
        self.close()

    def close(self) -> None:
        """Close the tour until the next start."""
        self.card.hide()
        self.ring.hide()
        before, self._before = self._before, None
        if before is not None and isValid(before) and before.isVisible():
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Stay beside what a card speaks of, and listen for Escape."""
        kind = event.type()
        if watched is self._window:
            if kind in (QEvent.Type.Resize, QEvent.Type.LayoutRequest) and self.shown:
                self._place()
            return False
        if isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            if kind == QEvent.Type.ShortcutOverride:
                event.accept()
                return True
            if kind == QEvent.Type.KeyPress:
                self.close()
                return True
        return False

    def _show(self, step: int) -> None:
        self._step = step
        card, told = self.card, STEPS[step]
        last = step == len(STEPS) - 1
        card.title.setText(told.title)
        card.text.setText(told.text)
        card.place.setText(f"{step + 1} of {len(STEPS)}")
        card.next.setText("Done" if last else "Next")
        card.next.setToolTip("Close the tour" if last else "Show the next card")
        card.back.setEnabled(step > 0)
        card.setAccessibleName(f"Tour, {step + 1} of {len(STEPS)}: {told.title}")
        card.setAccessibleDescription(told.text)
        dock = self._window.docks[told.dock]
        dock.show()
        dock.raise_()
        card.show()
        self.ring.show()
        self._place()
        self.ring.raise_()
        card.raise_()
        card.next.setFocus(Qt.FocusReason.OtherFocusReason)

    @Slot()
    def _place(self) -> None:
        """Put the card where it hides least of what it speaks of, and the ring around that."""
        if not self.shown:
            return
        window, dock = self._window, self._window.docks[STEPS[self._step].dock]
        room = window.rect()
        width = min(round(_WIDTH * max(1.0, window.theme.scale)), room.width() - 2 * _GAP)
        # A size hint of lines that wrap is made for another width.
        self.card.setFixedSize(width, self.card.height_for(width))
        size = self.card.size()
        about = QRect(dock.mapTo(window, QPoint(0, 0)), dock.size())
        # In a window of its own, or behind another tab, where it says it is nowhere in this one.
        away = dock.isFloating() or not about.intersects(room) or not dock.isVisible()
        if away:
            about = room
        self.ring.setGeometry(about)
        self.ring.setVisible(not away)
        right = about.right() + _GAP
        if right + size.width() <= room.right() - _GAP:
            corner = QPoint(right, about.top() + _GAP)
        else:
            corner = QPoint(
                about.right() - size.width() - _GAP, about.bottom() - size.height() - _GAP
            )
        corner.setX(max(_GAP, min(corner.x(), room.right() - size.width() - _GAP)))
        corner.setY(max(_GAP, min(corner.y(), room.bottom() - size.height() - _GAP)))
        self.card.move(corner)

    @Slot()
    def _on_next(self) -> None:
        if self._step + 1 < len(STEPS):
            self._show(self._step + 1)
        else:
            self.finish()

    @Slot()
    def _on_back(self) -> None:
        self._show(max(0, self._step - 1))

    @Slot(object, object)
    def _on_session_changed(self, part: SessionPart, _initiator: object) -> None:
        if self._waits and part is SessionPart.GRAPH and self._window.session.graph is not None:
            # Not in the middle of what brought the graph.
            self._settle.start()

    @Slot()
    def _begin_unless_busy(self) -> None:
        window = self._window
        if self._waits and window.isVisible() and window.session.graph is not None:
            self.begin()
