"""The subgraph as a widget that one uses: boxes are dragged, chosen, grouped and named.

It knows neither session nor graph: what a person does leaves as signals that name boxes by their
keys, and what is selected, chosen or highlighted is told from outside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
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
from attention_studio.ui.widgets.graph_scene import Direction, Floats
from attention_studio.ui.widgets.subgraph_canvas import ZOOM_STEP, SubgraphCanvas
from attention_studio.ui.widgets.subgraph_painter import SIGN_STEP, member_points

NUDGE = 12.0
_ARROWS = {
    Qt.Key.Key_Left: Direction.LEFT,
    Qt.Key.Key_Right: Direction.RIGHT,
    Qt.Key.Key_Up: Direction.UP,
    Qt.Key.Key_Down: Direction.DOWN,
}
_NUDGES = {
    Qt.Key.Key_Left: (-NUDGE, 0.0),
    Qt.Key.Key_Right: (NUDGE, 0.0),
    Qt.Key.Key_Up: (0.0, -NUDGE),
    Qt.Key.Key_Down: (0.0, NUDGE),
}
_COMMANDS = {
    Qt.Key.Key_G: "subgraph.group",
    Qt.Key.Key_U: "subgraph.ungroup",
    Qt.Key.Key_F2: "subgraph.rename",
    Qt.Key.Key_P: "subgraph.unpin",
}
_OWN_KEYS = frozenset(
    (
        *_ARROWS,
        *_COMMANDS,
        Qt.Key.Key_Return,
        Qt.Key.Key_Enter,
        Qt.Key.Key_Space,
        Qt.Key.Key_F,
        Qt.Key.Key_Escape,
        Qt.Key.Key_Plus,
        Qt.Key.Key_Equal,
        Qt.Key.Key_Minus,
    )
)
_PLAIN = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.KeypadModifier,
    Qt.KeyboardModifier.ShiftModifier,
)


class SubgraphView(SubgraphCanvas):
    """The picture of a subgraph.

    ``selected`` carries the key of a box that was clicked (or None) and the index of the member
    that was hit in it (or None); ``toggled`` the key of a box to choose or to let go;
    ``unpin_asked`` that of one to unpin; ``rectangle_chosen`` keys, and whether they come to those
    that are chosen; ``moved`` places by key, and whether the keyboard moved them; ``renamed`` a key
    and a name; ``command_asked`` the id of a command; ``menu_asked`` a global point.
    """

    selected = Signal(object, object)
    toggled = Signal(str)
    unpin_asked = Signal(str)
    rectangle_chosen = Signal(object, bool)
    moved = Signal(object, bool)
    renamed = Signal(str, str)
    command_asked = Signal(str)
    menu_asked = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(theme, parent)
        self._press: Optional[QPointF] = None
        self._pressed_box: Optional[int] = None
        self._drag_from: tuple[Floats, Floats] = (np.zeros(0), np.zeros(0))
        self._frame_from: Optional[QPointF] = None
        self._editor.named.connect(self.renamed)
        self.setObjectName("subgraphView")
        self.setAccessibleName("Subgraph")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self._describe()

    # -- pointer ------------------------------------------------------------------------------

    def _hit(self, at: QPointF) -> Optional[int]:
        if self._scene is None:
            return None
        point = self._view.scene_point(at)
        return self._scene.hit(point.x(), point.y())

    def _member_at(self, box: int, at: QPointF) -> Optional[int]:
        """Return which of a supernode's members is under a point of the widget."""
        if self._scene is None:
            return None
        point = self._view.scene_point(at)
        for number, sign in enumerate(member_points(self._scene, box)):
            if max(abs(sign.x() - point.x()), abs(sign.y() - point.y())) <= SIGN_STEP / 2:
                return number
        return None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Remember where: a click selects, a drag moves a box, or the picture, or draws a frame."""
        if event.button() not in (Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton):
            return
        self._press = event.position()
        middle = event.button() == Qt.MouseButton.MiddleButton
        self._pressed_box = None if middle else self._hit(event.position())
        shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if self._pressed_box is None and not middle and shift:
            self._frame_from = event.position()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag what was pressed, else show what is under the pointer."""
        at = event.position()
        if self._press is None:
            self._point_at(self._hit(at), keyed=False)
            hand = self._state.pointed is not None
            self.setCursor(
                Qt.CursorShape.PointingHandCursor if hand else Qt.CursorShape.ArrowCursor
            )
            return
        step = at - self._press
        started = self._dragged or self._panning or self._frame is not None
        if not started and step.manhattanLength() < QApplication.startDragDistance():
            return
        if self._frame_from is not None:
            self._frame = QRectF(self._frame_from, at).normalized()
        elif self._pressed_box is not None:
            self._drag(self._pressed_box, step)
        else:
            self._panning = True
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
            self._pan(step.x(), step.y())
            self._press = at
        self.update()

    def _drag(self, box: int, step: QPointF) -> None:
        scene = self._scene
        assert scene is not None
        if not self._dragged:
            if self._timer.isActive():
                self._finish_move()
                scene = self._scene
                assert scene is not None
            together = self._state.chosen if box in self._state.chosen else frozenset((box,))
            self._dragged = tuple(sorted(together))
            self._drag_from = (scene.x.copy(), scene.y.copy())
            # What one drags must not run away from under the pointer.
            self._auto = False
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
        x, y = scene.x.copy(), scene.y.copy()
        for other in self._dragged:
            x[other] = self._drag_from[0][other] + step.x() / self._view.zoom
            y[other] = self._drag_from[1][other] + step.y() / self._view.zoom
        self._scene = scene.at(x, y)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Drop what was dragged, else select, choose (with Shift) or unpin (with Ctrl)."""
        press, box = self._press, self._pressed_box
        self._press, self._pressed_box = None, None
        if self._frame is not None and self._scene is not None:
            a = self._view.scene_point(self._frame.topLeft())
            b = self._view.scene_point(self._frame.bottomRight())
            keys = tuple(
                self._scene.keys[i] for i in self._scene.inside(a.x(), a.y(), b.x(), b.y())
            )
            self._frame_from = self._frame = None
            add = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            self.rectangle_chosen.emit(keys, add)
            self.update()
            return
        self._frame_from = None
        if self._dragged and self._scene is not None:
            places = {
                self._scene.keys[i]: (float(self._scene.x[i]), float(self._scene.y[i]))
                for i in self._dragged
            }
            self._end_drag()
            self.moved.emit(places, False)
            return
        if self._panning:
            self._panning = False
            self.unsetCursor()
            return
        if press is None or event.button() != Qt.MouseButton.LeftButton or self._scene is None:
            return
        key = None if box is None else self._scene.keys[box]
        if key is not None and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.unpin_asked.emit(key)
        elif key is not None and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.toggled.emit(key)
        else:
            member = None if box is None else self._member_at(box, event.position())
            self.selected.emit(key, member)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Name the box."""
        box = self._hit(event.position())
        if box is not None and event.button() == Qt.MouseButton.LeftButton:
            self._press = None
            self.command_asked.emit("subgraph.rename")

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Select what is under the pointer, and offer what can be done with it."""
        box = self._hit(QPointF(event.pos()))
        if box is not None and self._scene is not None and box not in self._state.chosen:
            self.selected.emit(self._scene.keys[box], None)
        self.menu_asked.emit(event.globalPos())

    def leaveEvent(self, event: QEvent) -> None:
        """Point at nothing."""
        super().leaveEvent(event)
        if not self._state.keyed:
            self._point_at(None, keyed=False)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom about the pointer; with Shift, or sideways, pan."""
        turn = event.angleDelta()
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier or abs(turn.x()) > abs(turn.y()):
            self._pan(float(turn.x() or turn.y()) / 2.0, 0.0)
        else:
            self._zoom_about(event.position(), ZOOM_STEP ** (turn.y() / 120.0))
        event.accept()

    # -- keyboard -----------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        """Keep the view's own keys from becoming shortcuts of the window; understand a pinch."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            plain = event.modifiers() in _PLAIN and event.key() in _OWN_KEYS
            control = Qt.KeyboardModifier.ControlModifier
            nudge = bool(event.modifiers() & control) and event.key() in _NUDGES
            if (plain or nudge) and self._scene is not None:
                event.accept()
                return True
        pinch = Qt.NativeGestureType.ZoomNativeGesture
        if isinstance(event, QNativeGestureEvent) and event.gestureType() == pinch:
            self._zoom_about(event.position(), 1.0 + event.value())
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Walk between boxes, select, choose, group, name, move, zoom, fit."""
        key, scene = Qt.Key(event.key()), self._scene
        if scene is None:
            super().keyPressEvent(event)
            return
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            if key in _NUDGES:
                self._nudge(*_NUDGES[key])
            else:
                super().keyPressEvent(event)
            return
        at = self._state.pointed if self._state.pointed is not None else self._state.selected
        if key in _ARROWS:
            self._point_at(scene.step(at, _ARROWS[key]), keyed=True)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.selected.emit(None if at is None else scene.keys[at], None)
        elif key == Qt.Key.Key_Space:
            if at is not None:
                self.toggled.emit(scene.keys[at])
        elif key in _COMMANDS:
            self._select_pointed(key)
            self.command_asked.emit(_COMMANDS[key])
        elif key == Qt.Key.Key_F:
            self.fit()
        elif key == Qt.Key.Key_Escape:
            self._point_at(None, keyed=False)
            self.selected.emit(None, None)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom_in()
        elif key == Qt.Key.Key_Minus:
            self.zoom_out()
        else:
            super().keyPressEvent(event)

    def _select_pointed(self, key: Qt.Key) -> None:
        """Let a command speak of the box under the keyboard's cursor, unless several are chosen."""
        pointed, state = self._state.pointed, self._state
        if key == Qt.Key.Key_G or pointed is None or not state.keyed or self._scene is None:
            return
        if pointed not in state.chosen and pointed != state.selected:
            self.selected.emit(self._scene.keys[pointed], None)

    def _nudge(self, dx: float, dy: float) -> None:
        """Move the chosen boxes, else the one under the cursor, else the selected one."""
        scene, state = self._scene, self._state
        if scene is None:
            return
        if self._timer.isActive():
            self._finish_move()
            scene = self._scene
            assert scene is not None
        at = state.pointed if state.pointed is not None else state.selected
        boxes = sorted(state.chosen) if state.chosen else [] if at is None else [at]
        if not boxes:
            return
        self._auto = False
        places = {scene.keys[i]: (float(scene.x[i] + dx), float(scene.y[i] + dy)) for i in boxes}
        self.moved.emit(places, True)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Drop the keyboard's cursor."""
        super().focusOutEvent(event)
        if self._state.keyed:
            self._point_at(None, keyed=False)

    def _point_at(self, box: Optional[int], keyed: bool) -> None:
        keyed = keyed and box is not None
        if (box, keyed) != (self._state.pointed, self._state.keyed):
            self._state = replace(self._state, pointed=box, keyed=keyed)
            self._describe()
            self.update()

    # -- accessibility ------------------------------------------------------------------------

    def _describe(self) -> None:
        """Say in words what is under the cursor, else what is selected, else what this is."""
        scene, at = self._scene, self._state.centre
        if scene is None or not len(scene):
            text = "Nothing is pinned"
        elif at is not None and at < len(scene):
            text = scene.describe(at)
        else:
            text = (
                f"{len(scene)} boxes and {len(scene.links)} links. Arrow keys move between boxes, "
                "Enter selects, Space chooses, G groups, U ungroups, F2 names, P unpins, "
                "Ctrl with arrow keys moves a box, F fits."
            )
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            changed = QAccessibleEvent(self, QAccessible.Event.DescriptionChanged)
            QAccessible.updateAccessibility(changed)
