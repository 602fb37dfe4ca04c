"""What all docks have in common: title bar, empty state, and refreshing only while visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QDockWidget, QHBoxLayout, QLabel, QStackedWidget, QWidget

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
    the session that it draws), calls ``set_content`` and ``set_empty`` in its constructor, and
    implements ``refresh(parts)``, which is called with the changed parts: at once while the dock is
    visible, else when it is shown next. Changes that the dock itself initiated are left out.
    """

    NAME = ""
    TITLE = ""
    ICON = ""
    WATCHES: frozenset[SessionPart] = frozenset()

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
        # Stated, so that no content can force the window to be wider than a small screen.
        self._stack.setMinimumSize(_LEAST_WIDTH, _LEAST_HEIGHT)
        self.setWidget(self._stack)
        self._empty: Optional[EmptyState] = None
        self._content: Optional[QWidget] = None
        self._title_row = self._make_title()
        session.changed.connect(self._on_session_changed)

    # -- for subclasses -----------------------------------------------------------------------

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
    def empty(self) -> bool:
        """Whether the empty state is shown."""
        return self._empty is not None and self._stack.currentWidget() is self._empty

    def add_title_widget(self, widget: QWidget) -> None:
        """Put a small control in the title bar, left of the dock's own buttons."""
        self._title_row.insertWidget(self._title_row.count() - 2, widget)

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Draw what changed. Called on the main thread, with the dock visible."""

    def go_there(self) -> None:
        """Show the dock, bring it to the front and put the keyboard focus into it."""
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
        layout.setContentsMargins(10, 3, 4, 3)
        layout.setSpacing(2)
        title: QLabel = label(self.TITLE)
        layout.addWidget(title, 1)
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
        if self.isVisible():
            self.refresh(frozenset((part,)))
        else:
            self._dirty.add(part)

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what changed while the dock was hidden."""
        super().showEvent(event)
        if self._dirty:
            parts, self._dirty = frozenset(self._dirty), set()
            self.refresh(parts)
