"""The link graph's canvas: what is shown, how it is laid out, zoomed, scrolled and painted.

How a person uses it is ``graph_view``'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from PySide6.QtCore import QPoint, QPointF, QRectF, QSize, Qt, QTimer, Slot
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPixmap, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from attention_studio.ui.highlight import Highlight
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_emphasis import Emphasis
from attention_studio.ui.widgets.graph_geometry import (
    Camera,
    GraphGeometry,
    measure,
    room_beside_bars,
)
from attention_studio.ui.widgets.graph_labels import Chip, chips, paint_hover
from attention_studio.ui.widgets.graph_look import (
    MAX_FAINT_EDGES,
    Frame,
    GraphLook,
    label_widths,
)
from attention_studio.ui.widgets.graph_minimap import Minimap
from attention_studio.ui.widgets.graph_painter import paint_frame
from attention_studio.ui.widgets.graph_scene import GraphScene, LinkMode

MIN_ZOOM, MAX_ZOOM = 0.02, 8.0
ZOOM_STEP = 1.2
# Above this many drawn edges the picture is antialiased only when nothing moves.
SMOOTH_EDGES = 3000
SMOOTH_MOVING_EDGES = 500
SETTLE_MS = 120


class GraphCanvas(QAbstractScrollArea):
    """Shows a ``GraphScene``: token positions across, layers upwards."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._look = GraphLook(theme)
        self._scene: Optional[GraphScene] = None
        self._geometry: Optional[GraphGeometry] = None
        self._zoom_x = self._zoom_y = 1.0
        self._selected: Optional[str] = None
        self._pinned: tuple[str, ...] = ()
        self._chosen: tuple[str, ...] = ()
        self._highlight: Optional[Highlight] = None
        self._minimap = Minimap()
        self._with_minimap = True
        self._band: Optional[QRectF] = None
        self._mode = LinkMode.EITHER
        self._cursor: Optional[int] = None
        self._keyed = False
        self._panning = False
        self._moving = False
        self._frame: Optional[Frame] = None
        self._chips: list[Chip] = []
        self._picture: Optional[QPixmap] = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._on_settled)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.viewport().setObjectName("graphCanvas")
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMinimumSize(220, 180)
        for bar in (self.horizontalScrollBar(), self.verticalScrollBar()):
            bar.setSingleStep(30)
            bar.valueChanged.connect(self._on_scrolled)
        self.horizontalScrollBar().setAccessibleName("Scroll the graph sideways")
        self.verticalScrollBar().setAccessibleName("Scroll the graph up and down")
        theme.changed.connect(self._on_theme_changed)

    # -- what is shown ------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[GraphScene]:
        """What is drawn."""
        return self._scene

    @property
    def zoom(self) -> float:
        """The magnification of the axis that is shrunk more; 1 fits as much as stays readable."""
        return min(self._zoom_x, self._zoom_y)

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
            self._zoom_x = self._zoom_y = 1.0
        self._relayout()
        if not same:
            self.horizontalScrollBar().setValue(self.horizontalScrollBar().maximum())
            self.verticalScrollBar().setValue(0)
        self._on_changed()

    def set_selected(self, name: Optional[str]) -> None:
        """Say which node is selected; one that is not drawn counts as none."""
        if name != self._selected:
            self._selected = name
            self._redraw()
            self._on_changed()

    def set_pinned(self, names: Iterable[str]) -> None:
        """Say which nodes are pinned."""
        pinned = tuple(names)
        if pinned != self._pinned:
            self._pinned = pinned
            self._redraw()

    def set_chosen(self, names: Iterable[str]) -> None:
        """Say which nodes are chosen together."""
        chosen = tuple(names)
        if chosen != self._chosen:
            self._chosen = chosen
            self._redraw()

    def set_highlight(self, highlight: Optional[Highlight]) -> None:
        """Say what a view wants to be seen."""
        if highlight is not self._highlight:
            self._highlight = highlight
            self._redraw()

    def set_minimap(self, shown: bool) -> None:
        """Say whether the whole graph is shown in a corner while only a part is in view."""
        if shown != self._with_minimap:
            self._with_minimap = shown
            self.viewport().update()

    def set_link_mode(self, mode: LinkMode) -> None:
        """Say which edges of the selected node are drawn."""
        if mode is not self._mode:
            self._mode = mode
            self._redraw()

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

    def _on_changed(self) -> None:
        """Called when another scene is shown or another node selected."""

    # -- zoom and place -----------------------------------------------------------------------

    @Slot()
    def fit(self) -> None:
        """Show the whole graph: each axis is shrunk as far as it must be, and no further."""
        if self._geometry is None:
            return
        plot = self._plot(self.maximumViewportSize())
        self._zoom_x = max(MIN_ZOOM, min(1.0, plot.width() / self._geometry.width))
        self._zoom_y = max(MIN_ZOOM, min(1.0, plot.height() / self._geometry.height))
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
        # Both axes by the same factor, up to where one of them ends.
        factor = min(factor, MAX_ZOOM / max(self._zoom_x, self._zoom_y))
        factor = max(factor, MIN_ZOOM / min(self._zoom_x, self._zoom_y))
        if factor == 1.0:
            return
        world_x = (at.x() - camera.dx) / camera.zoom_x
        world_y = (at.y() - camera.dy) / camera.zoom_y
        self._zoom_x *= factor
        self._zoom_y *= factor
        self._update_bars()
        plot = self._plot(self.viewport().size())
        self.horizontalScrollBar().setValue(round(world_x * self._zoom_x - (at.x() - plot.left())))
        self.verticalScrollBar().setValue(round(world_y * self._zoom_y - (at.y() - plot.top())))
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
        bar = self.horizontalScrollBar()
        # What the prompt comes to stays in view.
        at_end = bar.value() == bar.maximum()
        self._geometry = None
        if self._scene is not None:
            widths = label_widths(self._scene, self._look)
            plot = self._plot(self.maximumViewportSize())
            geometry = measure(self._scene, plot.width(), plot.height(), widths)
            room = self._room(geometry.width, geometry.height)
            if room != (plot.width(), plot.height()):
                geometry = measure(self._scene, *room, widths)
            self._geometry = geometry
        self._update_bars()
        if at_end:
            bar.setValue(bar.maximum())
        self._redraw()

    def _update_bars(self) -> None:
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        if self._geometry is None:
            across.setRange(0, 0)
            upright.setRange(0, 0)
            return
        width = self._geometry.width * self._zoom_x
        height = self._geometry.height * self._zoom_y
        room_x, room_y = self._room(width, height)
        across.setRange(0, max(0, round(width - room_x)) if width > room_x + 1 else 0)
        across.setPageStep(round(room_x))
        upright.setRange(0, max(0, round(height - room_y)) if height > room_y + 1 else 0)
        upright.setPageStep(round(room_y))

    def _room(self, width: float, height: float) -> tuple[float, float]:
        """Return the room that a picture of that size gets in the plot beside its scroll bars."""
        plot = self._plot(self.maximumViewportSize())
        return room_beside_bars(
            (width, height),
            (plot.width(), plot.height()),
            (
                self.verticalScrollBar().sizeHint().width(),
                self.horizontalScrollBar().sizeHint().height(),
            ),
        )

    def _centre_on(self, world: tuple[float, float]) -> None:
        """Scroll so that a point, in world coordinates, lies in the middle."""
        plot = self._plot(self.viewport().size())
        across, down = world[0] * self._zoom_x, world[1] * self._zoom_y
        self.horizontalScrollBar().setValue(round(across - plot.width() / 2.0))
        self.verticalScrollBar().setValue(round(down - plot.height() / 2.0))

    def _make_frame(self) -> Optional[Frame]:
        if self._scene is None or self._geometry is None:
            return None
        size = self.viewport().size()
        plot = self._plot(size)
        free_x = max(0.0, plot.width() - self._geometry.width * self._zoom_x) / 2.0
        free_y = max(0.0, plot.height() - self._geometry.height * self._zoom_y) / 2.0
        camera = Camera(
            self._zoom_x,
            self._zoom_y,
            plot.left() + free_x - self.horizontalScrollBar().value(),
            plot.top() + free_y - self.verticalScrollBar().value(),
        )
        scene = self._scene
        pinned = (scene.local(name) for name in self._pinned)
        chosen = (scene.local(name) for name in self._chosen)
        drawn = min(scene.n_edges, MAX_FAINT_EDGES)
        return Frame(
            scene=scene,
            geometry=self._geometry,
            camera=camera,
            size=(size.width(), size.height()),
            plot=plot,
            selected=scene.local(self._selected),
            pinned=tuple(local for local in pinned if local is not None),
            chosen=tuple(local for local in chosen if local is not None),
            emphasis=Emphasis.of(self._highlight, scene),
            mode=self._mode,
            ratio=self.devicePixelRatioF(),
            smooth=drawn <= SMOOTH_EDGES and not (self._moving and drawn > SMOOTH_MOVING_EDGES),
        )

    def invalidate(self, *, moving: bool) -> None:
        """Have everything painted anew, quickly while something moves, else well."""
        self._moving = moving
        self._redraw()

    def _redraw(self) -> None:
        """Forget the prepared picture."""
        self._frame = None
        self._picture = None
        self.viewport().update()

    def _move(self) -> None:
        """Draw quickly now, and well when nothing has moved for a moment."""
        self._settle.start()
        self.invalidate(moving=True)

    @Slot()
    def _on_settled(self) -> None:
        self.invalidate(moving=False)

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
        if self._with_minimap:
            self._minimap.paint(painter, frame, self._look)
        if self._band is not None:
            self._paint_band(painter, frame, self._band)
        if self._cursor is not None and not self._panning and self._cursor < frame.scene.n_nodes:
            paint_hover(painter, frame, self._look, self._cursor, self._keyed)
        painter.end()

    def _paint_band(self, painter: QPainter, frame: Frame, band: QRectF) -> None:
        """Paint the rectangle that a person draws around nodes."""
        fill = QColor(self._look.accent)
        fill.setAlpha(28)
        pen = QPen(self._look.accent, 1.2)
        pen.setDashPattern([4.0, 3.0])
        painter.setPen(pen)
        painter.setBrush(fill)
        painter.drawRect(band.intersected(frame.plot))

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
