"""The subgraph's canvas: what is shown, how it moves, is zoomed, panned and painted.

How a person uses it is ``subgraph_view``'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
from PySide6.QtCore import QElapsedTimer, QPointF, QRectF, QSize, Qt, QTimer, Slot
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QPixmap, QResizeEvent
from PySide6.QtWidgets import QWidget

from attention_studio.ui.highlight import Role
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.graph_look import GraphLook
from attention_studio.ui.widgets.graph_scene import Floats
from attention_studio.ui.widgets.name_editor import NameEditor
from attention_studio.ui.widgets.subgraph_painter import (
    SubgraphState,
    box_rect,
    member_points,
    paint_boxes,
    paint_card,
    paint_links,
    paint_marks,
    paint_subgraph,
)
from attention_studio.ui.widgets.subgraph_scene import SubgraphScene, carried_over

MIN_ZOOM, MAX_ZOOM, FIT_ZOOM = 0.1, 4.0, 1.15
ZOOM_STEP = 1.2
MARGIN = 26.0
MOVE_MS, FRAME_MS = 220, 16
# Above this many links the picture is antialiased only when nothing moves.
SMOOTH_LINKS = 60


@dataclass(frozen=True)
class View:
    """From the scene's units to the screen: ``screen = scene · zoom + (dx, dy)``."""

    zoom: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    def scene_point(self, at: QPointF) -> QPointF:
        """Return the scene's point under one of the screen."""
        return QPointF((at.x() - self.dx) / self.zoom, (at.y() - self.dy) / self.zoom)

    def screen_rect(self, rect: QRectF) -> QRectF:
        """Return where a rectangle of the scene is on the screen."""
        return QRectF(
            rect.left() * self.zoom + self.dx,
            rect.top() * self.zoom + self.dy,
            rect.width() * self.zoom,
            rect.height() * self.zoom,
        )


class SubgraphCanvas(QWidget):
    """Shows a ``SubgraphScene`` whose boxes move to new places instead of jumping there."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._look = GraphLook(theme)
        self._scene: Optional[SubgraphScene] = None
        self._state = SubgraphState()
        self._view = View()
        self._auto = True
        """Whether everything is kept in view, until a person zooms or pans."""
        self._from: Optional[tuple[Floats, Floats, View]] = None
        self._to: Optional[tuple[Floats, Floats]] = None
        self._layers: dict[str, QPixmap] = {}
        self._layers_of: Optional[tuple[object, ...]] = None
        self._clock = QElapsedTimer()
        self._timer = QTimer(self)
        self._timer.setInterval(FRAME_MS)
        self._timer.timeout.connect(self._on_frame)
        self._dragged: tuple[int, ...] = ()
        self._panning = False
        self._frame: Optional[QRectF] = None
        self._editor = NameEditor(self)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMinimumSize(220, 160)
        theme.changed.connect(self._on_theme)

    # -- what is shown ------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[SubgraphScene]:
        """What is drawn, where it is drawn now."""
        return self._scene

    @property
    def state(self) -> SubgraphState:
        """What a person has to do with it."""
        return self._state

    @property
    def look(self) -> GraphLook:
        """Fonts and colours, by which boxes are measured."""
        return self._look

    @property
    def zoom(self) -> float:
        """The magnification."""
        return self._view.zoom

    @property
    def moving(self) -> bool:
        """Whether boxes are on their way to where they are to be."""
        return self._timer.isActive()

    @property
    def pointed_key(self) -> Optional[str]:
        """Key of the box under the pointer or the keyboard's cursor."""
        at = self._state.pointed
        return None if at is None or self._scene is None else self._scene.keys[at]

    def set_scene(self, scene: Optional[SubgraphScene]) -> None:
        """Show another scene; boxes that were there move to their new places."""
        old = self._scene
        pointed = self.pointed_key
        self._editor.leave()
        if scene is None or not len(scene):
            self._timer.stop()
            self._scene, self._to = scene, None
            self._state = SubgraphState()
            self._auto = True
            self._end_drag()
        else:
            self._scene = scene.at(*carried_over(old, scene.keys, scene.x, scene.y))
            if old is None or old.keys != scene.keys:
                self._end_drag()
            here = scene.keys.index(pointed) if pointed in scene.keys else None
            self._state = replace(self._state, pointed=here)
            self._go_to(scene.x, scene.y, at_once=old is None or not len(old))
        self._describe()
        self.update()

    def set_places(self, x: Floats, y: Floats) -> None:
        """Let the boxes move there."""
        if self._scene is not None:
            self._go_to(x, y)

    def set_state(
        self,
        selected: Optional[int],
        member: Optional[int],
        chosen: frozenset[int],
    ) -> None:
        """Say which boxes are selected and chosen."""
        self._state = replace(self._state, selected=selected, member=member, chosen=chosen)
        self._describe()
        self.update()

    def set_roles(
        self, boxes: Mapping[int, Role], links: Mapping[tuple[int, int], Role], dim: bool
    ) -> None:
        """Say what is highlighted."""
        self._state = replace(self._state, boxes=dict(boxes), links=dict(links), dim=dim)
        self.update()

    def box_point(self, key: str) -> Optional[QPointF]:
        """Return the middle of a box on the widget, or None where it is not drawn."""
        if self._scene is None or key not in self._scene.keys:
            return None
        return self._view.screen_rect(box_rect(self._scene, self._scene.keys.index(key))).center()

    def member_point(self, key: str, member: int) -> Optional[QPointF]:
        """Return where the sign of a supernode's member is on the widget."""
        if self._scene is None or key not in self._scene.keys:
            return None
        points = member_points(self._scene, self._scene.keys.index(key))
        if member >= len(points):
            return None
        at = points[member]
        return self._view.screen_rect(QRectF(at.x(), at.y(), 0, 0)).topLeft()

    def edit_name(self, key: str) -> None:
        """Let a person type a name over a box."""
        scene = self._scene
        if scene is None or key not in scene.keys:
            return
        box = scene.keys.index(key)
        if self._timer.isActive():
            self._finish_move()
            scene = self._scene or scene
        rect = self._view.screen_rect(box_rect(scene, box)).toRect()
        name = scene.subgraph.boxes[box].name
        self._editor.edit(key, name, rect, scene.subgraph.boxes[box].is_group)

    # -- moving -------------------------------------------------------------------------------

    def _go_to(self, x: Floats, y: Floats, at_once: bool = False) -> None:
        assert self._scene is not None
        to_x, to_y = x.copy(), y.copy()
        for box in self._dragged:
            to_x[box], to_y[box] = self._scene.x[box], self._scene.y[box]
        self._to = (to_x, to_y)
        if at_once or not self.isVisible():
            self._finish_move()
            return
        far = max(
            float(np.abs(to_x - self._scene.x).max()), float(np.abs(to_y - self._scene.y).max())
        )
        if far < 0.5 and self._fitted(self._scene.at(to_x, to_y)) == self._view:
            self._finish_move()
            return
        self._from = (self._scene.x, self._scene.y, self._view)
        self._clock.start()
        self._timer.start()

    @Slot()
    def _on_frame(self) -> None:
        if self._scene is None or self._to is None or self._from is None:
            self._timer.stop()
            return
        part = min(1.0, self._clock.elapsed() / MOVE_MS)
        if part >= 1.0:
            self._finish_move()
            return
        eased = 1.0 - (1.0 - part) ** 3
        x, y = (
            old + (new - old) * eased for old, new in zip(self._from[:2], self._to, strict=True)
        )
        for box in self._dragged:
            x[box], y[box] = self._scene.x[box], self._scene.y[box]
        self._scene = self._scene.at(x, y)
        if self._auto:
            old_view, to = self._from[2], self._fitted(self._scene.at(*self._to))
            self._view = View(
                old_view.zoom + (to.zoom - old_view.zoom) * eased,
                old_view.dx + (to.dx - old_view.dx) * eased,
                old_view.dy + (to.dy - old_view.dy) * eased,
            )
        self._follow()
        self.update()

    def _follow(self) -> None:
        """Keep the editor of a name over what is named."""
        scene, about = self._scene, self._editor.about
        if scene is not None and about in scene.keys:
            rect = box_rect(scene, scene.keys.index(about))
            self._editor.follow(self._view.screen_rect(rect).toRect())

    def _finish_move(self) -> None:
        self._timer.stop()
        if self._scene is not None and self._to is not None:
            x, y = self._to[0].copy(), self._to[1].copy()
            for box in self._dragged:
                x[box], y[box] = self._scene.x[box], self._scene.y[box]
            self._scene = self._scene.at(x, y)
            if self._auto:
                self._view = self._fitted(self._scene)
            self._follow()
        self.update()

    # -- zoom and place -----------------------------------------------------------------------

    def _fitted(self, scene: SubgraphScene) -> View:
        """Return the view in which everything is seen, as large as reads well."""
        if not self._auto:
            return self._view
        left, top, right, bottom = scene.bounds
        wide, high = max(1.0, right - left), max(1.0, bottom - top)
        room_x, room_y = self.width() - 2 * MARGIN, self.height() - 2 * MARGIN
        zoom = min(room_x / wide, room_y / high, FIT_ZOOM)
        zoom = min(MAX_ZOOM, max(MIN_ZOOM, zoom))
        return View(
            zoom,
            self.width() / 2 - zoom * (left + right) / 2,
            self.height() / 2 - zoom * (top + bottom) / 2,
        )

    @Slot()
    def fit(self) -> None:
        """Show everything, and keep it in view."""
        self._auto = True
        if self._scene is not None and len(self._scene):
            self._go_to(*(self._to or (self._scene.x, self._scene.y)))

    @Slot()
    def zoom_in(self) -> None:
        """Magnify about the middle."""
        self._zoom_about(QPointF(self.width() / 2, self.height() / 2), ZOOM_STEP)

    @Slot()
    def zoom_out(self) -> None:
        """Shrink about the middle."""
        self._zoom_about(QPointF(self.width() / 2, self.height() / 2), 1.0 / ZOOM_STEP)

    def _zoom_about(self, at: QPointF, factor: float) -> None:
        if self._scene is None:
            return
        self._auto = False
        zoom = min(MAX_ZOOM, max(MIN_ZOOM, self._view.zoom * factor))
        fixed = self._view.scene_point(at)
        self._view = View(zoom, at.x() - fixed.x() * zoom, at.y() - fixed.y() * zoom)
        self._editor.leave()
        self.update()

    def _pan(self, dx: float, dy: float) -> None:
        self._auto = False
        self._view = replace(self._view, dx=self._view.dx + dx, dy=self._view.dy + dy)
        self._editor.leave()
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep everything in view."""
        super().resizeEvent(event)
        if self._scene is not None and self._auto and not self._timer.isActive():
            self._view = self._fitted(self._scene)

    def sizeHint(self) -> QSize:
        """As much room as there is."""
        return QSize(700, 500)

    # -- painting -----------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the picture, the frame that is being drawn, and the card of what is pointed at."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), self._look.canvas)
        scene = self._scene
        if scene is None or not len(scene):
            painter.end()
            return
        at = self._state.pointed
        still = not (self._timer.isActive() or self._dragged or self._panning)
        if not still:
            self._place(painter)
            smooth = len(scene.links) <= SMOOTH_LINKS
            paint_subgraph(painter, scene, self._look, self._state, smooth)
        elif at is None:
            painter.drawPixmap(0, 0, self._layer("rest"))
        else:
            # Only what is at the pointer's box is painted anew while the pointer goes about.
            painter.drawPixmap(0, 0, self._layer("faint"))
            self._place(painter)
            paint_links(painter, scene, self._look, self._state, near=True)
            painter.resetTransform()
            painter.drawPixmap(0, 0, self._layer("boxes"))
            self._place(painter)
            paint_marks(painter, scene, self._look, self._state)
        painter.resetTransform()
        if self._frame is not None:
            pen = QPen(self._look.accent, 1.2)
            pen.setDashPattern([3.0, 2.0])
            painter.setPen(pen)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self._frame)
        if at is not None and not self._dragged and not self._panning and not self._editor.active:
            boxes = [self._view.screen_rect(box_rect(scene, box)) for box in range(len(scene))]
            paint_card(painter, scene.facts(at), self._look, boxes, QRectF(self.rect()))
        painter.end()

    def _place(self, painter: QPainter) -> None:
        """Let a painter paint in the scene's units."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.translate(self._view.dx, self._view.dy)
        painter.scale(self._view.zoom, self._view.zoom)

    def _layer(self, which: str) -> QPixmap:
        """Return a picture of everything at rest, of all links stepped back, or of the boxes, made
        once for a scene, a state and a view."""
        scene, state = self._scene, replace(self._state, pointed=None, keyed=False)
        assert scene is not None
        made_for = (scene, state, self._view, self._look, self.size(), self.devicePixelRatioF())
        if self._layers_of is None or any(
            old is not new and (number == 0 or old != new)
            for number, (old, new) in enumerate(zip(self._layers_of, made_for, strict=True))
        ):
            self._layers, self._layers_of = {}, made_for
        if which not in self._layers:
            ratio = self.devicePixelRatioF()
            picture = QPixmap(round(self.width() * ratio), round(self.height() * ratio))
            picture.setDevicePixelRatio(ratio)
            picture.fill(Qt.GlobalColor.transparent if which == "boxes" else self._look.canvas)
            painter = QPainter(picture)
            self._place(painter)
            if which == "rest":
                paint_subgraph(painter, scene, self._look, state)
            elif which == "faint":
                paint_links(painter, scene, self._look, state, near=False)
            else:
                paint_boxes(painter, scene, self._look, state)
            painter.end()
            self._layers[which] = picture
        return self._layers[which]

    @Slot()
    def _on_theme(self) -> None:
        self._look = GraphLook(self._theme)
        self.update()

    # -- for who makes a widget of it that one uses ---------------------------------------------

    def _end_drag(self) -> None:
        self._dragged = ()
        self.unsetCursor()

    def _describe(self) -> None:
        """Called when another scene is shown, or other boxes are selected or chosen."""
