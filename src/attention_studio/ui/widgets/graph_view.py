"""The link graph as a widget that one uses: hover, selection, pins, keyboard, screen readers.

It knows neither session nor graph: what a person does leaves as signals that name nodes, and what
is selected or pinned is told from outside.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleEvent,
    QContextMenuEvent,
    QFocusEvent,
    QKeyEvent,
    QMouseEvent,
    QNativeGestureEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QApplication, QWidget

from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_canvas import ZOOM_STEP, GraphCanvas
from attention_studio.ui.widgets.graph_geometry import nearest
from attention_studio.ui.widgets.graph_minimap import Minimap
from attention_studio.ui.widgets.graph_scene import Direction

_ARROWS = {
    Qt.Key.Key_Left: Direction.LEFT,
    Qt.Key.Key_Right: Direction.RIGHT,
    Qt.Key.Key_Up: Direction.UP,
    Qt.Key.Key_Down: Direction.DOWN,
}
_CHOOSERS = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
_OWN_KEYS = frozenset(
    (
        *_ARROWS,
        *_CHOOSERS,
        Qt.Key.Key_P,
        Qt.Key.Key_F,
        Qt.Key.Key_Escape,
        Qt.Key.Key_Plus,
        Qt.Key.Key_Equal,
        Qt.Key.Key_Minus,
    )
)


class GraphView(GraphCanvas):
    """The picture of a pruned attribution graph: token positions across, layers upwards.

    ``selected`` carries the name of the node that was chosen, or None; ``pin_toggled`` that of a
    node to pin or unpin; ``choice_toggled`` that of a node to choose beside others, or not any
    more; ``rectangle_chosen`` names that a rectangle was drawn around, and whether they come to
    those that are chosen; ``hovered`` the name of the node under the pointer or the keyboard's
    cursor, or None; ``menu_wanted`` the point of the screen where a menu should open.
    """

    selected = Signal(object)
    pin_toggled = Signal(str)
    choice_toggled = Signal(str)
    rectangle_chosen = Signal(object, bool)
    hovered = Signal(object)
    menu_wanted = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(theme, parent)
        self._pressed_at: Optional[QPoint] = None
        self._band_from: Optional[QPointF] = None
        self._over_minimap = False
        self.setObjectName("graphView")
        self.setAccessibleName("Attribution graph")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.viewport().setMouseTracking(True)
        self._describe()

    def point_at(self, name: Optional[str]) -> None:
        """Show the ring and card of a node, as if the pointer were over it."""
        self._point_at(None if self._scene is None else self._scene.local(name), keyed=False)

    # -- pointer ------------------------------------------------------------------------------

    def _hit(self, at: QPointF) -> Optional[int]:
        """Return the node under a point of the viewport: a logit's label counts as the logit."""
        frame = self.frame
        if frame is None or self._minimap_box(at) is not None:
            return None
        for chip in self._chips:
            if chip.box.contains(at):
                return chip.local
        if not frame.plot.contains(at):
            return None
        return nearest(frame.x, frame.y, at.x(), at.y(), frame.shown(0.0))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Pan or draw a rectangle while a button is held, else show what is under the pointer.

        With Shift held and no button, what was shown last stays.
        """
        at = event.position()
        if self._over_minimap:
            self._go_to(at)
            return
        if self._band_from is not None:
            self._stretch_band(at)
            return
        if self._pressed_at is not None:
            step = at.toPoint() - self._pressed_at
            if self._panning or step.manhattanLength() >= QApplication.startDragDistance():
                self._panning = True
                self.viewport().setCursor(Qt.CursorShape.ClosedHandCursor)
                self._pressed_at = at.toPoint()
                for bar, way in (
                    (self.horizontalScrollBar(), step.x()),
                    (self.verticalScrollBar(), step.y()),
                ):
                    bar.setValue(bar.value() - way)
            return
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            return
        local = self._hit(at)
        self._point_at(local, keyed=False)
        hand = Qt.CursorShape.PointingHandCursor
        self.viewport().setCursor(hand if local is not None else Qt.CursorShape.ArrowCursor)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Remember where: a click selects, a drag pans, a drag with Shift draws a rectangle."""
        left = event.button() == Qt.MouseButton.LeftButton
        if left and self._minimap_box(event.position()) is not None:
            self._over_minimap = True
            self._go_to(event.position())
        elif left and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._band_from = event.position()
        elif left or event.button() == Qt.MouseButton.MiddleButton:
            self._pressed_at = event.position().toPoint()
            self._panning = False

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select, pin (with Ctrl, or Cmd on a Mac), choose (with Shift) or clear, unless it was a
        drag."""
        pressed, self._pressed_at = self._pressed_at, None
        start, self._band_from = self._band_from, None
        if self._over_minimap:
            self._over_minimap = False
            return
        if start is not None:
            add = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            self._end_band(event.position(), add)
            return
        if self._panning:
            self._panning = False
            self.viewport().unsetCursor()
            self.viewport().update()
            return
        if pressed is None or event.button() != Qt.MouseButton.LeftButton or self._scene is None:
            return
        local = self._hit(event.position())
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            if local is not None:
                self.pin_toggled.emit(self._scene.names[local])
            return
        self._choose(local)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Select the node under the pointer (or, from the keyboard, keep the selection), and have
        whoever holds this show a menu."""
        if event.reason() == QContextMenuEvent.Reason.Mouse:
            local = self._hit(QPointF(event.pos()))
            if local is not None:
                self._choose(local)
        self.menu_wanted.emit(event.globalPos())
        event.accept()

    # -- choosing several ---------------------------------------------------------------------

    def _stretch_band(self, at: QPointF) -> None:
        start = self._band_from
        if start is None:
            return
        far = (at - start).manhattanLength() >= QApplication.startDragDistance()
        if self._band is not None or far:
            self._band = QRectF(start, at).normalized()
            self.viewport().update()

    def _end_band(self, at: QPointF, add: bool) -> None:
        """Choose what lies in the rectangle, or without one the node under the pointer."""
        band, self._band = self._band, None
        frame = self.frame
        if frame is None:
            return
        if band is None:
            local = self._hit(at)
            if local is not None:
                self.choice_toggled.emit(frame.scene.names[local])
            return
        self.viewport().update()
        inside = (frame.x >= band.left()) & (frame.x <= band.right())
        inside &= (frame.y >= band.top()) & (frame.y <= band.bottom()) & frame.shown(0.0)
        names = tuple(frame.scene.names[local] for local in np.flatnonzero(inside).tolist())
        self.rectangle_chosen.emit(names, add)

    # -- the small picture of everything ------------------------------------------------------

    def _minimap_box(self, at: QPointF) -> Optional[QRectF]:
        """Where the small picture lies, if the point is in it."""
        frame = self.frame
        box = Minimap.box(frame) if frame is not None and self._with_minimap else None
        return box if box is not None and box.contains(at) else None

    def _go_to(self, at: QPointF) -> None:
        frame = self.frame
        box = None if frame is None else Minimap.box(frame)
        if frame is not None and box is not None:
            self._centre_on(Minimap.world(frame, box, at))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Count as another click."""
        self.mousePressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Point at nothing."""
        super().leaveEvent(event)
        if not self._keyed:
            self._point_at(None, keyed=False)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom about the pointer; with Shift, or sideways, scroll along the prompt."""
        turn = event.angleDelta()
        sideways = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
        if sideways or abs(turn.x()) > abs(turn.y()):
            way = turn.x() or turn.y()
            bar = self.horizontalScrollBar()
            bar.setValue(bar.value() - way)
        else:
            self._zoom_about(event.position(), ZOOM_STEP ** (turn.y() / 120.0))
        event.accept()

    def viewportEvent(self, event: QEvent) -> bool:
        """Understand a pinch on a touchpad."""
        pinch = Qt.NativeGestureType.ZoomNativeGesture
        if isinstance(event, QNativeGestureEvent) and event.gestureType() == pinch:
            self._zoom_about(event.position(), 1.0 + event.value())
            return True
        return bool(super().viewportEvent(event))

    # -- keyboard -----------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        """Keep the view's own keys from becoming shortcuts of the window."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            plain = event.modifiers() in (
                Qt.KeyboardModifier.NoModifier,
                Qt.KeyboardModifier.KeypadModifier,
                Qt.KeyboardModifier.ShiftModifier,
            )
            if plain and event.key() in _OWN_KEYS and self._scene is not None:
                event.accept()
                return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move between nodes, select, pin, clear, zoom, fit."""
        key = Qt.Key(event.key())
        if self._scene is None or event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            super().keyPressEvent(event)
            return
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier and key in _CHOOSERS:
            name = self.cursor_node or self._selected
            if name is not None and self._scene.local(name) is not None:
                self.choice_toggled.emit(name)
        elif key in _ARROWS:
            start = self._cursor if self._cursor is not None else self._scene.local(self._selected)
            step = self._scene.step(start, _ARROWS[key])
            self._point_at(step, keyed=True)
            if step is not None:
                self._reveal(step)
        elif key in _CHOOSERS:
            self._choose(self._cursor)
        elif key == Qt.Key.Key_P:
            name = self.cursor_node or self._selected
            if name is not None and self._scene.local(name) is not None:
                self.pin_toggled.emit(name)
        elif key == Qt.Key.Key_F:
            self.fit()
        elif key == Qt.Key.Key_Escape:
            self._point_at(None, keyed=False)
            self._choose(None)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom_in()
        elif key == Qt.Key.Key_Minus:
            self.zoom_out()
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Drop the keyboard's cursor."""
        super().focusOutEvent(event)
        if self._keyed:
            self._point_at(None, keyed=False)

    def _choose(self, local: Optional[int]) -> None:
        name = None if local is None or self._scene is None else self._scene.names[local]
        self.selected.emit(name)

    def _point_at(self, local: Optional[int], keyed: bool) -> None:
        if local == self._cursor and keyed == self._keyed:
            return
        self._cursor, self._keyed = local, keyed and local is not None
        self.viewport().update()
        self._describe()
        self.hovered.emit(self.cursor_node)

    # -- accessibility ------------------------------------------------------------------------

    def _on_changed(self) -> None:
        """Say anew what this is."""
        self._describe()

    def _describe(self) -> None:
        """Say in words what is under the cursor, else what is selected, else what this is."""
        scene = self._scene
        if scene is None:
            text = "No graph yet"
        else:
            local = self._cursor if self._cursor is not None else scene.local(self._selected)
            text = (
                f"{scene.n_nodes} nodes and {scene.n_edges} edges over {len(scene.tokens)} "
                "tokens. Arrow keys move, Enter selects, Shift+Enter chooses, P pins, "
                "Escape clears, F fits."
                if local is None
                else scene.describe(local)
            )
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            changed = QAccessibleEvent(self, QAccessible.Event.DescriptionChanged)
            QAccessible.updateAccessibility(changed)
