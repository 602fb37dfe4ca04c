"""One head large, as a matrix or as lines between tokens, with a spot that one points at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QWidget

from attention_studio.ui.head_scene import HeadScene, Spot
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.head_painter import (
    HeadLayout,
    Manner,
    head_image,
    lay_out,
    paint_head,
)

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

_NOWHERE = Spot()


class HeadView(QAbstractScrollArea):
    """The picture of one head.

    Pointing shows, a click holds; arrow keys move the held spot (up and down the query, left and
    right the key), Escape lets it go. ``pointed`` says that ``spot`` has changed.
    """

    pointed = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._scene: Optional[HeadScene] = None
        self._manner: Manner = "matrix"
        self._layout: Optional[HeadLayout] = None
        self._image: Optional[QImage] = None
        self._held = _NOWHERE
        self._hovered: Optional[Spot] = None
        named(self, "attention.head", "The chosen head",
              "Where it looks; arrow keys move from token to token, Escape points at nothing",
        )  # fmt: skip
        self.setToolTip("")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.viewport().setMouseTracking(True)
        theme.changed.connect(self._on_theme)

    # -- what is shown ------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[HeadScene]:
        """What is shown."""
        return self._scene

    @property
    def manner(self) -> Manner:
        """How it is shown."""
        return self._manner

    @property
    def held(self) -> Spot:
        """What a click or the keys hold."""
        return self._held

    @property
    def spot(self) -> Spot:
        """What is pointed at: what lies under the pointer, else what is held."""
        return self._held if self._hovered is None else self._hovered

    def show_scene(self, scene: Optional[HeadScene]) -> None:
        """Show a head. What is held stays, where the prompt is the same."""
        same = scene is not None and self._scene is not None and scene.tokens == self._scene.tokens
        self._scene = scene
        self._hovered = None
        if not same:
            self._held = _NOWHERE
        self._relayout()
        self._tell()

    def set_manner(self, manner: Manner) -> None:
        """Show it as a matrix, or as lines."""
        self._manner = manner
        if manner == "lines" and self._held.query is not None:
            self._held = Spot(query=self._held.query)
        self._hovered = None
        self._relayout()
        self._tell()

    def hold(self, spot: Spot) -> None:
        """Hold a spot, as a click there would."""
        self._held = spot
        self._tell()
        self.viewport().update()

    def point_of(self, spot: Spot) -> QPointF:
        """The middle of a spot on the viewport."""
        if self._layout is None:
            return QPointF()
        return self._layout.middle(spot) + self._origin()

    def sizeHint(self) -> QSize:
        """Room for a prompt of some tokens."""
        return QSize(380, 320)

    # -- inside -------------------------------------------------------------------------------

    def _origin(self) -> QPointF:
        layout = self._layout
        spare = 0.0 if layout is None else max(0.0, self.viewport().width() - layout.width)
        across, upright = self.horizontalScrollBar().value(), self.verticalScrollBar().value()
        return QPointF(round(min(spare / 2, 24.0)) + 6 - across, 4 - upright)

    def _relayout(self) -> None:
        scene, self._layout, self._image = self._scene, None, None
        bars = (self.horizontalScrollBar(), self.verticalScrollBar())
        if scene is not None:
            room = self.maximumViewportSize()
            width, height = room.width() - 12.0, room.height() - 8.0
            layout = lay_out(scene, self._theme, self._manner, width, height)
            if layout.height > height + 0.5:
                # The upright bar takes room from the width.
                width -= bars[1].sizeHint().width()
                layout = lay_out(scene, self._theme, self._manner, width, height)
            self._layout = layout
            self._image = head_image(scene, self._theme)
            for bar, whole, shown in zip(
                bars, (layout.width, layout.height), (width, height), strict=True
            ):
                bar.setRange(0, max(0, round(whole - shown)))
                bar.setPageStep(max(1, round(shown)))
                bar.setSingleStep(max(1, round(layout.cell)))
        else:
            for bar in bars:
                bar.setRange(0, 0)
        self.viewport().update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the picture."""
        painter = QPainter(self.viewport())
        painter.fillRect(self.viewport().rect(), self._theme.colour("canvas"))
        if self._scene is not None and self._layout is not None and self._image is not None:
            origin = self._origin()
            painter.translate(origin)
            exposed = QRectF(self.viewport().rect()).translated(-origin)
            paint_head(
                painter, self._theme, self._scene, self._layout, self._image, self.spot, exposed
            )
            if self.hasFocus():
                painter.resetTransform()
                painter.setPen(self._theme.colour("focus"))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRect(QRectF(self.viewport().rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _tell(self) -> None:
        told = "" if self._scene is None else self._scene.cell_sentence(self.spot)
        self.setAccessibleDescription(told or "Nothing is pointed at")
        self.pointed.emit()

    # -- hands --------------------------------------------------------------------------------

    def _spot_at(self, at: QPointF) -> Optional[Spot]:
        if self._scene is None or self._layout is None:
            return None
        return self._layout.spot_at(self._scene, at - self._origin())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Show what lies under the pointer."""
        spot = self._spot_at(event.position())
        if spot != self._hovered:
            self._hovered = spot
            self._tell()
            self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Hold what lies under the pointer, or nothing."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.hold(self._spot_at(event.position()) or _NOWHERE)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is gone: back to what is held."""
        super().leaveEvent(event)
        if self._hovered is not None:
            self._hovered = None
            self._tell()
            self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move what is held."""
        scene, key = self._scene, Qt.Key(event.key())
        moves = {
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
        }
        if scene is None or not (key in moves or (key == Qt.Key.Key_Escape and self._is_held)):
            super().keyPressEvent(event)
            return
        self._hovered = None
        if key == Qt.Key.Key_Escape:
            self.hold(_NOWHERE)
            return
        self.hold(self._moved(scene, *moves[key]))
        self._reveal()

    @property
    def _is_held(self) -> bool:
        return self._held != _NOWHERE

    def _moved(self, scene: HeadScene, down: int, right: int) -> Spot:
        held = self._held
        if not self._is_held:
            # The last token is what the prediction hangs on.
            return Spot(query=scene.length - 1)
        if self._manner == "lines":
            if held.query is not None:
                if right > 0:
                    return Spot(key=held.query)
                return Spot(query=_kept(held.query + down, 0, scene.length - 1))
            key = held.key or 0
            return (
                Spot(query=key) if right < 0 else Spot(key=_kept(key + down, 0, scene.length - 1))
            )
        last = scene.length - 1
        query = last if held.query is None else _kept(held.query + down, 0, last)
        if held.key is None:
            return Spot(query, None if not right else (0 if right > 0 else query))
        return Spot(query, _kept(held.key + right, 0, query))

    def _reveal(self) -> None:
        layout = self._layout
        if layout is None:
            return
        at, room = self.point_of(self._held), self.viewport().size()
        for bar, place, size, edge in (
            (self.horizontalScrollBar(), at.x(), room.width(), layout.gutter),
            (self.verticalScrollBar(), at.y(), room.height(), 0.0),
        ):
            if place < edge:
                bar.setValue(round(bar.value() + place - edge))
            elif place + layout.cell > size:
                bar.setValue(round(bar.value() + place + layout.cell - size))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit anew."""
        super().resizeEvent(event)
        self._relayout()

    def scrollContentsBy(self, _dx: int, _dy: int) -> None:
        """All is painted anew."""
        self.viewport().update()

    @Slot()
    def _on_theme(self) -> None:
        self._relayout()


def _kept(value: int, low: int, high: int) -> int:
    return min(high, max(low, value))
