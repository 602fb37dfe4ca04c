"""The link graph as a widget: zoom, pan, hover, selection, pins, keyboard.

It shows a ``GraphScene`` and knows neither session nor graph: what a person does leaves as signals
that name nodes, and what is selected or pinned is told from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Optional, Union

import numpy as np
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import (
    QAccessible,
    QAccessibleEvent,
    QContextMenuEvent,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QNativeGestureEvent,
    QPainter,
    QPaintEvent,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QFrame, QWidget

from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_geometry import Camera, GraphGeometry, measure, nearest
from attention_studio.ui.widgets.graph_labels import Chip, chips, paint_hover
from attention_studio.ui.widgets.graph_look import MAX_FAINT_EDGES, Frame, GraphLook
from attention_studio.ui.widgets.graph_painter import paint_frame
from attention_studio.ui.widgets.graph_scene import Direction, GraphScene, LinkMode, visible

MIN_ZOOM, MAX_ZOOM = 0.15, 8.0
ZOOM_STEP = 1.2
MAX_LABEL_WIDTH = 92.0
# Above this many drawn edges the picture is antialiased only when nothing moves.
SMOOTH_EDGES = 3000
SETTLE_MS = 120

_ARROWS = {
    Qt.Key.Key_Left: Direction.LEFT,
    Qt.Key.Key_Right: Direction.RIGHT,
    Qt.Key.Key_Up: Direction.UP,
    Qt.Key.Key_Down: Direction.DOWN,
}
_OWN_KEYS = frozenset(
    (
        *_ARROWS,
        Qt.Key.Key_Return,
        Qt.Key.Key_Enter,
        Qt.Key.Key_Space,
        Qt.Key.Key_P,
        Qt.Key.Key_F,
        Qt.Key.Key_Escape,
        Qt.Key.Key_Plus,
        Qt.Key.Key_Equal,
        Qt.Key.Key_Minus,
    )
)


class GraphView(QAbstractScrollArea):
    """The picture of a pruned attribution graph: token positions across, layers upwards.

    ``selected`` carries the name of the node that was chosen, or None; ``pin_toggled`` that of a
    node to pin or unpin; ``hovered`` that of the node under the pointer or the keyboard's cursor,
    or None.
    """

    selected = Signal(object)
    pin_toggled = Signal(str)
    hovered = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._look = GraphLook(theme)
        self._scene: Optional[GraphScene] = None
        self._geometry: Optional[GraphGeometry] = None
        self._zoom = 1.0
        self._selected: Optional[str] = None
        self._pinned: tuple[str, ...] = ()
        self._mode = LinkMode.EITHER
        self._max_faint = MAX_FAINT_EDGES
        self._cursor: Optional[int] = None
        self._keyed = False
        self._pressed_at: Optional[QPoint] = None
        self._panning = False
        self._moving = False
        self._frame: Optional[Frame] = None
        self._chips: list[Chip] = []
        self._picture: Optional[QPixmap] = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._on_settled)
        self.setObjectName("graphView")
        self.setAccessibleName("Attribution graph")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.viewport().setMouseTracking(True)
        self.viewport().setObjectName("graphCanvas")
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMinimumSize(220, 180)
        for bar in (self.horizontalScrollBar(), self.verticalScrollBar()):
            bar.setSingleStep(30)
            bar.valueChanged.connect(self._on_scrolled)
        self.horizontalScrollBar().setAccessibleName("Scroll the graph sideways")
        self.verticalScrollBar().setAccessibleName("Scroll the graph up and down")
        theme.changed.connect(self._on_theme_changed)
        self._describe()

    # -- what is shown ------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[GraphScene]:
        """What is drawn."""
        return self._scene

    @property
    def zoom(self) -> float:
        """The magnification; 1 fits as much as stays readable."""
        return self._zoom

    @property
    def cursor_node(self) -> Optional[str]:
        """The node under the pointer or the keyboard's cursor."""
        if self._scene is None or self._cursor is None:
            return None
        return self._scene.names[self._cursor]

    @property
    def frame(self) -> Optional[Frame]:
        """The picture as it is laid out now; None without a scene."""
        if self._frame is None:
            self._frame = self._make_frame()
        return self._frame

    def set_scene(self, scene: Optional[GraphScene]) -> None:
        """Show another scene. Of the same prompt, zoom and place stay as they are."""
        old, cursor = self._scene, self.cursor_node
        same = old is not None and scene is not None and old.tokens == scene.tokens
        self._scene = scene
        self._cursor = scene.local(cursor) if scene is not None and same else None
        if not same:
            self._zoom = 1.0
        self._relayout()
        if not same:
            self.horizontalScrollBar().setValue(self.horizontalScrollBar().maximum())
            self.verticalScrollBar().setValue(0)
        self._describe()

    def set_selected(self, name: Optional[str]) -> None:
        """Say which node is selected; one that is not drawn counts as none."""
        if name != self._selected:
            self._selected = name
            self._redraw()
            self._describe()

    def set_pinned(self, names: Iterable[str]) -> None:
        """Say which nodes are pinned."""
        pinned = tuple(names)
        if pinned != self._pinned:
            self._pinned = pinned
            self._redraw()

    def set_link_mode(self, mode: LinkMode) -> None:
        """Say which edges of the selected node are drawn."""
        if mode is not self._mode:
            self._mode = mode
            self._redraw()

    def set_max_faint_edges(self, limit: int) -> None:
        """Say how many of the strongest edges are drawn while nothing is selected."""
        if limit != self._max_faint:
            self._max_faint = limit
            self._redraw()

    def point_at(self, name: Optional[str]) -> None:
        """Show the ring and card of a node, as if the pointer were over it."""
        self._point_at(None if self._scene is None else self._scene.local(name), keyed=False)

    def show_node(self, name: str) -> None:
        """Scroll so that a node is in view."""
        local = None if self._scene is None else self._scene.local(name)
        if local is not None:
            self._reveal(local)

    def node_point(self, name: str) -> Optional[QPoint]:
        """Return where a node lies on the viewport, or None where it is not drawn."""
        frame = self.frame
        local = None if frame is None else frame.scene.local(name)
        if frame is None or local is None:
            return None
        return frame.at(local).toPoint()

    # -- zoom and place -----------------------------------------------------------------------

    @Slot()
    def fit(self) -> None:
        """Show the whole graph."""
        if self._geometry is None:
            return
        plot = self._plot(self.maximumViewportSize())
        scale = min(plot.width() / self._geometry.width, plot.height() / self._geometry.height)
        self._zoom = max(MIN_ZOOM, min(1.0, scale))
        self._update_bars()
        self._redraw()

    @Slot()
    def zoom_in(self) -> None:
        """Magnify about the middle."""
        self._zoom_about(self._plot(self.viewport().size()).center(), ZOOM_STEP)

    @Slot()
    def zoom_out(self) -> None:
        """Shrink about the middle."""
        self._zoom_about(self._plot(self.viewport().size()).center(), 1.0 / ZOOM_STEP)

    def _zoom_about(self, at: QPointF, factor: float) -> None:
        frame = self.frame
        if frame is None:
            return
        camera = frame.camera
        zoom = min(MAX_ZOOM, max(MIN_ZOOM, self._zoom * factor))
        if zoom == self._zoom:
            return
        world_x, world_y = (at.x() - camera.dx) / camera.zoom, (at.y() - camera.dy) / camera.zoom
        self._zoom = zoom
        self._update_bars()
        plot = self._plot(self.viewport().size())
        self.horizontalScrollBar().setValue(round(world_x * zoom - (at.x() - plot.left())))
        self.verticalScrollBar().setValue(round(world_y * zoom - (at.y() - plot.top())))
        self._move()

    def _plot(self, size: QSize) -> QRectF:
        """Return the part of a viewport that the graph moves in."""
        look = self._look
        return QRectF(
            look.gutter,
            look.header,
            max(20.0, size.width() - look.gutter - 8),
            max(20.0, size.height() - look.header - look.footer),
        )

    def _relayout(self) -> None:
        """Measure everything anew, for another scene, size or font."""
        self._geometry = None
        if self._scene is not None:
            widths = [
                min(MAX_LABEL_WIDTH, self._look.bold_metrics.horizontalAdvance(visible(token)) + 12)
                for token in self._scene.tokens
            ]
            size = self.maximumViewportSize()
            plot = self._plot(size)
            geometry = measure(self._scene, plot.width(), plot.height(), widths)
            bar_y = self.horizontalScrollBar().sizeHint().height()
            bar_x = self.verticalScrollBar().sizeHint().width()
            # A scroll bar takes room from the other direction.
            wide, high = geometry.width > plot.width() + 1, geometry.height > plot.height() + 1
            if wide or high:
                plot = plot.adjusted(0, 0, -bar_x if high else 0, -bar_y if wide else 0)
                geometry = measure(self._scene, plot.width(), plot.height(), widths)
            self._geometry = geometry
        self._update_bars()
        self._redraw()

    def _update_bars(self) -> None:
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        if self._geometry is None:
            across.setRange(0, 0)
            upright.setRange(0, 0)
            return
        width, height = self._geometry.width * self._zoom, self._geometry.height * self._zoom
        size = self.maximumViewportSize()
        plot = self._plot(size)
        wide, high = width > plot.width() + 1, height > plot.height() + 1
        for _ in range(2):
            room = plot.adjusted(
                0,
                0,
                -upright.sizeHint().width() if high else 0,
                -across.sizeHint().height() if wide else 0,
            )
            wide, high = width > room.width() + 1, height > room.height() + 1
        across.setRange(0, max(0, round(width - room.width())) if wide else 0)
        across.setPageStep(round(room.width()))
        upright.setRange(0, max(0, round(height - room.height())) if high else 0)
        upright.setPageStep(round(room.height()))

    def _make_frame(self) -> Optional[Frame]:
        if self._scene is None or self._geometry is None:
            return None
        size = self.viewport().size()
        plot = self._plot(size)
        free_x = max(0.0, plot.width() - self._geometry.width * self._zoom) / 2.0
        free_y = max(0.0, plot.height() - self._geometry.height * self._zoom) / 2.0
        camera = Camera(
            self._zoom,
            plot.left() + free_x - self.horizontalScrollBar().value(),
            plot.top() + free_y - self.verticalScrollBar().value(),
        )
        return self._frame_for(camera, plot, (size.width(), size.height()))

    def _frame_for(
        self, camera: Camera, plot: QRectF, size: tuple[float, float], vector: bool = False
    ) -> Frame:
        assert self._scene is not None
        assert self._geometry is not None
        scene = self._scene
        pinned = (scene.local(name) for name in self._pinned)
        drawn = min(scene.n_edges, self._max_faint)
        return Frame(
            scene=scene,
            geometry=self._geometry,
            camera=camera,
            size=size,
            plot=plot,
            selected=scene.local(self._selected),
            pinned=tuple(local for local in pinned if local is not None),
            mode=self._mode,
            ratio=self.devicePixelRatioF(),
            vector=vector,
            smooth=vector or (drawn <= SMOOTH_EDGES and not (self._moving and drawn > 500)),
            max_faint=self._max_faint,
        )

    def _redraw(self) -> None:
        """Forget the prepared picture."""
        self._frame = None
        self._picture = None
        self.viewport().update()

    def _move(self) -> None:
        """Draw quickly now, and well when nothing has moved for a moment."""
        self._moving = True
        self._settle.start()
        self._redraw()

    @Slot()
    def _on_settled(self) -> None:
        self._moving = False
        self._redraw()

    @Slot()
    def _on_scrolled(self) -> None:
        self._move()

    @Slot()
    def _on_theme_changed(self) -> None:
        self._look = GraphLook(self._theme)
        self._relayout()

    def _reveal(self, local: int) -> None:
        frame = self.frame
        if frame is None:
            return
        at, margin = frame.at(local), 28.0
        plot = self._plot(self.viewport().size())
        bar = self.horizontalScrollBar()
        if at.x() < plot.left() + margin or at.x() > plot.right() - margin:
            bar.setValue(round(bar.value() + at.x() - plot.center().x()))
        bar = self.verticalScrollBar()
        if at.y() < plot.top() + margin or at.y() > plot.bottom() - margin:
            bar.setValue(round(bar.value() + at.y() - plot.center().y()))

    # -- painting -----------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Stamp the prepared picture, and paint what follows the pointer over it."""
        painter = QPainter(self.viewport())
        frame = self.frame
        if frame is None:
            painter.fillRect(self.viewport().rect(), self._look.canvas)
            painter.end()
            return
        if self._picture is None:
            self._picture = self._render(frame)
            self._chips = chips(frame, self._look)
        painter.drawPixmap(0, 0, self._picture)
        if self._cursor is not None and not self._panning and self._cursor < frame.scene.n_nodes:
            paint_hover(painter, frame, self._look, self._cursor, self._keyed)
        painter.end()

    def _render(self, frame: Frame) -> QPixmap:
        ratio = frame.ratio
        picture = QPixmap(
            max(1, round(frame.size[0] * ratio)), max(1, round(frame.size[1] * ratio))
        )
        picture.setDevicePixelRatio(ratio)
        painter = QPainter(picture)
        paint_frame(painter, frame, self._look)
        painter.end()
        return picture

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit anew."""
        super().resizeEvent(event)
        self._relayout()

    # -- pointer ------------------------------------------------------------------------------

    def _hit(self, at: QPointF) -> Optional[int]:
        """Return the node under a point of the viewport: a logit's label counts as the logit."""
        frame = self.frame
        if frame is None:
            return None
        for chip in self._chips:
            if chip.box.contains(at):
                return chip.local
        if not frame.plot.contains(at):
            return None
        return nearest(frame.x, frame.y, at.x(), at.y(), frame.shown(0.0))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Pan while a button is held, else show what is under the pointer."""
        at = event.position()
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
        local = self._hit(at)
        self._point_at(local, keyed=False)
        hand = Qt.CursorShape.PointingHandCursor
        self.viewport().setCursor(hand if local is not None else Qt.CursorShape.ArrowCursor)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Remember where: a click selects, a drag pans."""
        if event.button() in (Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton):
            self._pressed_at = event.position().toPoint()
            self._panning = False

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select, pin (with Ctrl, or Cmd on a Mac) or clear, unless it was a drag."""
        pressed, self._pressed_at = self._pressed_at, None
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

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Count as another click."""
        self.mousePressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Leave the right button to whoever holds the view."""
        event.ignore()

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
        if key in _ARROWS:
            start = self._cursor if self._cursor is not None else self._scene.local(self._selected)
            step = self._scene.step(start, _ARROWS[key])
            self._point_at(step, keyed=True)
            if step is not None:
                self._reveal(step)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
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

    def _describe(self) -> None:
        """Say in words what is under the cursor, else what is selected, else what this is."""
        scene = self._scene
        if scene is None:
            text = "No graph yet"
        else:
            local = self._cursor if self._cursor is not None else scene.local(self._selected)
            text = (
                f"{scene.n_nodes} nodes and {scene.n_edges} edges over {len(scene.tokens)} tokens. "
                "Arrow keys move between nodes, Enter selects, P pins, Escape clears, F fits."
                if local is None
                else scene.describe(local)
            )
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            changed = QAccessibleEvent(self, QAccessible.Event.DescriptionChanged)
            QAccessible.updateAccessibility(changed)

    # -- files --------------------------------------------------------------------------------

    def _whole(self, vector: bool) -> Optional[Frame]:
        """Return a frame that shows the whole graph at the present zoom, scrolled or not."""
        if self._geometry is None:
            return None
        zoom, look = self._zoom, self._look
        size = self.viewport().size()
        plot = QRectF(
            look.gutter,
            look.header,
            max(self._geometry.width * zoom, size.width() - look.gutter - 8),
            max(self._geometry.height * zoom, size.height() - look.header - look.footer),
        )
        free_x = (plot.width() - self._geometry.width * zoom) / 2.0
        free_y = (plot.height() - self._geometry.height * zoom) / 2.0
        camera = Camera(zoom, plot.left() + free_x, plot.top() + free_y)
        whole = (plot.right() + 8, plot.bottom() + look.footer)
        return self._frame_for(camera, plot, whole, vector)

    def render_image(self, scale: float = 2.0) -> Optional[QImage]:
        """Return the whole graph as a picture with ``scale`` device pixels per pixel."""
        frame = self._whole(vector=True)
        if frame is None:
            return None
        # Larger pictures than this no program opens, and QImage refuses them.
        scale = min(scale, 16000.0 / max(frame.size))
        image = QImage(
            int(np.ceil(frame.size[0] * scale)),
            int(np.ceil(frame.size[1] * scale)),
            QImage.Format.Format_RGB32,
        )
        image.setDevicePixelRatio(scale)
        painter = QPainter(image)
        paint_frame(painter, frame, self._look)
        painter.end()
        return image

    def write_svg(self, path: Union[str, Path], title: str = "Attribution graph") -> bool:
        """Write the whole graph as SVG. Returns whether there was one."""
        frame = self._whole(vector=True)
        if frame is None:
            return False
        generator = QSvgGenerator()
        generator.setFileName(str(path))
        generator.setTitle(title)
        generator.setSize(QSize(round(frame.size[0]), round(frame.size[1])))
        generator.setViewBox(QRectF(0, 0, *frame.size))
        painter = QPainter(generator)
        paint_frame(painter, frame, self._look)
        painter.end()
        return True
