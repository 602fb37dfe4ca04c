"""What all docks have in common: title bar, empty state, and refreshing only while visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QSize, Qt, QTimer, Slot
from PySide6.QtWidgets import (
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QStackedWidget,
    QWidget,
)

from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.pictures import seen
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.widgets.controls import EmptyState, icon_button, label

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.theme import Theme


_LEAST_WIDTH, _LEAST_HEIGHT = 250, 90


class StudioDock(QDockWidget):
    """A dock of the studio.

    A subclass sets ``NAME`` (object name, unique), ``TITLE``, ``ICON``, ``WATCHES`` (the parts of
    the session that it draws), calls ``set_content`` and ``set_empty`` in ``make_body``, and
    implements ``refresh(parts)``, which is called with the changed parts: at once while the dock is
    in front, else when it comes there. Changes that the dock itself initiated are left out.

    With ``LAZY`` the body is made when the dock first comes to the front or one of its commands
    runs, so that the first paint of the window does not wait for docks that nobody sees. One that
    ``FITS`` is never narrower than its content.
    """

    NAME = ""
    TITLE = ""
    ICON = ""
    WATCHES: frozenset[SessionPart] = frozenset()
    LAZY = False
    FITS = False

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(self.TITLE, parent)
        self.session = session
        self.runner = runner
        self.commands = commands
        self.theme = theme
        self._dirty: set[SessionPart] = set(self.WATCHES)
        self.setObjectName(self.NAME)
        self.setAccessibleName(f"{self.TITLE} dock")
        self.setAllowedAreas(Qt.DockWidgetArea.AllDockWidgetAreas)
        self.setFeatures(
            QDockWidget.DockWidgetFeature.DockWidgetMovable
            | QDockWidget.DockWidgetFeature.DockWidgetFloatable
            | QDockWidget.DockWidgetFeature.DockWidgetClosable
        )
        self._stack = QStackedWidget()
        self._stack.setObjectName("dockBody")
        # Stated, so that no content can force the window to be wider than a small screen. Forms
        # that cannot be read in less get what they need.
        self._stack.setMinimumHeight(_LEAST_HEIGHT)
        if not self.FITS:
            self._stack.setMinimumWidth(_LEAST_WIDTH)
        self.setWidget(self._stack)
        self._empty: Optional[EmptyState] = None
        self._content: Optional[QWidget] = None
        self._title_row = self._make_title()
        session.changed.connect(self._on_session_changed)
        # A dock behind another tab counts as visible for Qt: this says what a person sees.
        self._in_front = False
        self.visibilityChanged.connect(self._on_visibility)
        self._made = self._making = False
        if not self.LAZY:
            self.ensure_body()

    def ensure_body(self) -> None:
        """Make the body, unless that was done."""
        if not self._made and not self._making:
            self._making = True
            self.make_body()
            self._made, self._making = True, False

    @property
    def made(self) -> bool:
        """Whether the dock has a body yet, see ``LAZY``."""
        return self._made

    def catch_up(self) -> None:
        """Draw what has changed while nobody saw the dock: before it is seen, or used unseen."""
        self.ensure_body()
        if self._dirty and self._made:
            parts, self._dirty = frozenset(self._dirty), set()
            self.refresh(parts)

    # -- for subclasses -----------------------------------------------------------------------

    def make_body(self) -> None:
        """Make what the dock shows. Called once, see ``LAZY``."""

    def set_content(self, content: QWidget) -> None:
        """Set what is shown when there is something to show."""
        self._content = content
        self._stack.addWidget(content)

    def set_empty(self, title: str, text: str, button: Optional[QWidget] = None) -> EmptyState:
        """Set what is shown when there is nothing to show, and show it."""
        self._empty = EmptyState(self.theme, self.ICON, title, text, button)
        self._stack.addWidget(self._empty)
        self._stack.setCurrentWidget(self._empty)
        return self._empty

    def show_empty(self, empty: bool) -> None:
        """Switch between the empty state and the content."""
        wanted = self._empty if empty else self._content
        if wanted is not None:
            self._stack.setCurrentWidget(wanted)

    @property
    def in_front(self) -> bool:
        """Whether a person sees the dock: it is shown, and not behind another tab."""
        return self._in_front

    @property
    def preparing(self) -> bool:
        """Whether a lane still works out what the dock is to show of the session."""
        return False

    @property
    def empty(self) -> bool:
        """Whether the empty state is shown."""
        return self._empty is not None and self._stack.currentWidget() is self._empty

    def add_title_widget(self, widget: QWidget) -> None:
        """Put a small control in the title bar, left of the dock's own buttons."""
        self._title_row.insertWidget(self._title_row.count() - 2, widget)

    def set_tabbed(self, tabbed: bool) -> None:
        """Say whether a tab bar names the dock already, so that its title need not."""
        self._name_label.setVisible(not tabbed)

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Draw what changed. Called on the main thread, with the dock visible."""

    def figures(self) -> tuple[FigureOffer, ...]:
        """Which figures there are of what the dock shows now.

        A dock that draws something of its own says so here (see ``ui.figures.figure``). Of others
        it is a picture of the screen, while the dock has a place in the window and is not empty.
        """
        if self.empty or self._content is None or not self.toggleViewAction().isChecked():
            return ()
        title = f"{self.TITLE}, as on the screen"
        return (FigureOffer(self.NAME, title, self._seen, screen=True),)

    def _seen(self) -> Optional[Figure]:
        if self._content is None:
            return None
        if self._content.visibleRegion().isEmpty():
            # Behind another tab: it may never have had its size, nor drawn the newest.
            room = self._room()
            if room is not None:
                self._content.resize(room)
            self.catch_up()
        return seen(self._content, self.TITLE.lower().replace(" ", "-"), self.TITLE)

    def _room(self) -> Optional[QSize]:
        """The room that the dock would have in front of those that it shares a place with."""
        window = self.parentWidget()
        if not isinstance(window, QMainWindow):
            return None
        beside = (
            dock.widget()
            for dock in window.tabifiedDockWidgets(self)
            if not dock.visibleRegion().isEmpty()
        )
        return next((widget.size() for widget in beside if widget is not None), None)

    @Slot()
    def toggle_shown(self) -> None:
        """Hide the dock if it has a place in the window, else show it and go there."""
        if self.toggleViewAction().isChecked():
            self.close()
        else:
            self.go_there()

    @Slot()
    def go_there(self) -> None:
        """Show the dock, bring it to the front and put the keyboard focus into it."""
        self.ensure_body()
        self.show()
        self.raise_()
        shown = self._stack.currentWidget()
        for child in shown.findChildren(QWidget) if shown is not None else ():
            policy = child.focusPolicy()
            if child.isVisibleTo(self) and child.isEnabled() and policy & Qt.FocusPolicy.TabFocus:
                child.setFocus(Qt.FocusReason.ShortcutFocusReason)
                return
        self.setFocus(Qt.FocusReason.ShortcutFocusReason)

    # -- inside -------------------------------------------------------------------------------

    def _make_title(self) -> QHBoxLayout:
        bar = QWidget()
        bar.setObjectName("dockTitle")
        bar.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        layout = QHBoxLayout(bar)
        layout.setContentsMargins(10, 2, 4, 2)
        layout.setSpacing(2)
        self._name_label: QLabel = label(self.TITLE)
        layout.addWidget(self._name_label)
        layout.addStretch(1)
        self._float_button = icon_button(
            self.theme, "float", f"{self.NAME}.float", f"Float or dock {self.TITLE}",
            "Take the dock out of the window, or put it back",
        )  # fmt: skip
        self._close_button = icon_button(
            self.theme, "close", f"{self.NAME}.close", f"Hide {self.TITLE}",
            "Hide the dock; the View menu brings it back",
        )  # fmt: skip
        for button in (self._float_button, self._close_button):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            layout.addWidget(button)
        self._float_button.clicked.connect(self._toggle_floating)
        self._close_button.clicked.connect(self.close)
        self.setTitleBarWidget(bar)
        return layout

    @Slot()
    def _toggle_floating(self) -> None:
        self.setFloating(not self.isFloating())

    @Slot(object, object)
    def _on_session_changed(self, part: SessionPart, initiator: object) -> None:
        if part not in self.WATCHES or initiator is self:
            return
        if self._in_front and self._made:
            self.refresh(frozenset((part,)))
        else:
            self._dirty.add(part)

    @Slot(bool)
    def _on_visibility(self, in_front: bool) -> None:
        """Draw what changed while the dock was hidden or behind another."""
        self._in_front = in_front
        if in_front and self._made:
            self.catch_up()
        elif in_front:
            # While docks are arranged, one after the other comes to the front for a moment.
            QTimer.singleShot(0, self, self._on_settled)

    @Slot()
    def _on_settled(self) -> None:
        if self._in_front:
            self.catch_up()
