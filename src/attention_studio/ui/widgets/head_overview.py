"""All heads as thumbnails: layers as rows, the last on top; a Lorsa's heads beside the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QToolTip, QWidget

from attention_studio.core.head_metrics import METRICS, value_text
from attention_studio.core.qk_records import HeadName
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.core.attention_records import AttentionView
    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.theme import Theme

_LEAST_SIDE, _MOST_SIDE = 34.0, 76.0
_GAP, _GROUP_GAP = 6.0, 16.0
_PAD = 8.0


@dataclass(frozen=True)
class Overview:
    """Where everything lies, from the top left corner.

    Attributes:
        view: what is shown.
        metric: the figure that is written below the thumbnails; largest: of all heads, or NaN.
        gutter: width of the names of layers; head: height of the titles.
        side: of a thumbnail; caption: height of what is written below it.
        width, height: of the whole.
    """

    view: AttentionView
    metric: str
    largest: float
    gutter: float
    head: float
    side: float
    caption: float
    width: float
    height: float

    def box(self, head: HeadName) -> QRectF:
        """The thumbnail of a head, with what is written below it."""
        pitch = self.side + _GAP
        x = self.gutter + head.head * pitch
        if head.kind == "lorsa":
            x += self.view.n_heads * pitch + _GROUP_GAP
        row = self.view.n_layers - 1 - head.layer
        y = self.head + row * (self.side + self.caption + _GAP)
        return QRectF(x, y, self.side, self.side + self.caption)

    def head_at(self, at: QPointF) -> Optional[HeadName]:
        """The head at a point."""
        row = int((at.y() - self.head) // (self.side + self.caption + _GAP))
        layer = self.view.n_layers - 1 - row
        if not 0 <= layer < self.view.n_layers:
            return None
        found = self.view.heads_of(layer)
        return next((head for head in found if self.box(head).contains(at)), None)


def lay_out_overview(
    view: AttentionView, metric: str, look: Look, width: float, largest: float = _MOST_SIDE
) -> Overview:
    """Fit the overview into a width; thumbnails become smaller, down to what can be seen,
    and larger, up to ``largest``."""
    metrics = QFontMetricsF(look.font(0.8))
    gutter = metrics.horizontalAdvance(f"L{view.n_layers - 1}") + 2 * _PAD
    across = view.n_heads
    groups = 0.0
    if view.lorsas:
        across += max(len(lorsa.patterns) for lorsa in view.lorsas.values())
        groups = _GROUP_GAP
    room = (width - gutter - groups - _PAD) / across - _GAP
    # The name of a head must fit in.
    last = [HeadName("model", view.n_layers - 1, view.n_heads - 1)]
    last += [HeadName("lorsa", i, len(one.patterns) - 1) for i, one in view.lorsas.items()]
    least = max(_LEAST_SIDE, *(metrics.horizontalAdvance(str(head)) + 8.0 for head in last))
    side = float(np.floor(np.clip(room, least, max(least, largest))))
    caption = metrics.height() + 6.0
    head = metrics.height() + 8.0
    return Overview(
        view, metric, view.largest(metric), gutter, head, side, caption,
        gutter + across * (side + _GAP) + groups + _PAD,
        head + view.n_layers * (side + caption + _GAP) + 2.0,
    )  # fmt: skip


class ThumbnailImages:
    """The thumbnails as images, a layer at a time and only when they are painted."""

    def __init__(self, view: AttentionView, look: Look) -> None:
        t = look.tokens
        ramp = [mix(t.canvas, t.accent, step / 255) for step in range(256)]
        colours = np.array([QColor(colour).getRgb() for colour in ramp], dtype=np.uint8)
        self._colours = colours[:, :3]
        self._view = view
        self._made: dict[tuple[str, int], QImage] = {}

    def image(self, head: HeadName) -> tuple[QImage, QRectF]:
        """An image, and the part of it that shows a head."""
        key = (head.kind, head.layer)
        found = self._made.get(key)
        lorsa = head.kind == "lorsa"
        small = (
            self._view.lorsa_thumbnails[head.layer] if lorsa else self._view.thumbnails[head.layer]
        )
        n, side = small.shape[0], small.shape[-1]
        if found is None:
            rgb = np.ascontiguousarray(self._colours[small.reshape(n * side, side)])
            whole = QImage(rgb.data, side, n * side, 3 * side, QImage.Format.Format_RGB888)
            found = self._made[key] = whole.convertToFormat(QImage.Format.Format_RGB32)
        return found, QRectF(0, head.head * side, side, side)


def paint_overview(
    painter: QPainter,
    look: Look,
    overview: Overview,
    images: ThumbnailImages,
    exposed: Optional[QRectF] = None,
) -> None:
    """Paint all thumbnails, or those in an exposed part, with the corner at the origin."""
    t, view = look.tokens, overview.view
    font = look.font(0.8)
    painter.setFont(font)
    middle = Qt.AlignmentFlag.AlignVCenter
    painter.setPen(QColor(t.muted))
    pitch = overview.side + _GAP
    titles = [("Model's heads", 0.0, view.n_heads * pitch)]
    if view.lorsas:
        before = view.n_heads * pitch + _GROUP_GAP
        titles.append(("Lorsa's QK heads", before, overview.width - overview.gutter - before))
    for text, x, width in titles:
        box = QRectF(overview.gutter + x, 0, width, overview.head - 4)
        shown = QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideRight, box.width())
        painter.drawText(box, int(middle), shown)
    for layer in range(view.n_layers):
        first = overview.box(HeadName("model", layer, 0))
        row = QRectF(0, first.top(), overview.gutter - _PAD, overview.side)
        if exposed is not None and not (
            exposed.top() - 3 <= first.bottom() and first.top() <= exposed.bottom() + 3
        ):
            continue
        painter.setPen(QColor(t.muted))
        painter.drawText(row, int(middle | Qt.AlignmentFlag.AlignRight), f"L{layer}")
        for head in view.heads_of(layer):
            if exposed is None or overview.box(head).intersects(exposed):
                _paint_thumbnail(painter, look, overview, images, head)


def paint_rings(
    painter: QPainter,
    look: Look,
    overview: Overview,
    chosen: Optional[HeadName],
    hovered: Optional[HeadName],
) -> None:
    """Paint a ring around the chosen thumbnail and the one that is pointed at."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for head, colour in ((hovered, look.tokens.border_strong), (chosen, look.tokens.accent)):
        if head is not None:
            painter.setPen(QPen(QColor(colour), 2.0))
            painter.drawRoundedRect(overview.box(head).adjusted(-2, -2, 2, 2), 3, 3)


def _paint_thumbnail(
    painter: QPainter,
    look: Look,
    overview: Overview,
    images: ThumbnailImages,
    head: HeadName,
) -> None:
    t, box, largest = look.tokens, overview.box(head), overview.largest
    picture = QRectF(box.left(), box.top(), overview.side, overview.side)
    image, part = images.image(head)
    smooth = part.width() > picture.width()
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth)
    painter.drawImage(picture, image, part)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(t.border), 1))
    painter.drawRect(picture.adjusted(0.5, 0.5, -0.5, -0.5))
    value = overview.view.metric(head, overview.metric)
    share = value / largest if np.isfinite(value) and largest > 0 else 0.0
    track = QRectF(box.left(), picture.bottom() + 2, overview.side, 3)
    painter.fillRect(track, QColor(t.sunken))
    painter.fillRect(QRectF(track.left(), track.top(), track.width() * share, 3), QColor(t.accent))
    caption = QRectF(box.left(), track.bottom(), overview.side, box.bottom() - track.bottom())
    painter.setPen(QColor(t.muted))
    # Above the diagonal nothing is ever seen: there is room for the name.
    corner = picture.adjusted(0, 1, -3, 0)
    painter.drawText(
        corner, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop), str(head)
    )
    figure = "—" if not np.isfinite(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"
    painter.setPen(QColor(t.text))
    middle = Qt.AlignmentFlag.AlignVCenter
    painter.drawText(caption, int(middle | Qt.AlignmentFlag.AlignRight), figure)


class HeadOverview(QAbstractScrollArea):
    """The thumbnails. A click or the arrow keys choose a head; ``chosen`` carries its name."""

    chosen = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._view: Optional[AttentionView] = None
        self._metric = next(iter(METRICS))
        self._overview: Optional[Overview] = None
        self._images: Optional[ThumbnailImages] = None
        self._picture: Optional[QPixmap] = None
        self._head: Optional[HeadName] = None
        self._hovered: Optional[HeadName] = None
        named(self, "attention.overview", "All heads",
              "A thumbnail of every head, layer by layer; arrow keys choose one",
        )  # fmt: skip
        self.setToolTip("")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.viewport().setMouseTracking(True)
        theme.changed.connect(self._on_theme)

    # -- what is shown ------------------------------------------------------------------------

    @property
    def head(self) -> Optional[HeadName]:
        """The chosen head."""
        return self._head

    @property
    def overview(self) -> Optional[Overview]:
        """Where everything lies, for figures and tests."""
        return self._overview

    def show_view(self, view: Optional[AttentionView]) -> None:
        """Show the heads of a prompt. The chosen one stays, where there still is one; else it is
        the one with the largest figure."""
        self._view = view
        self._images = None if view is None else ThumbnailImages(view, self._theme)
        self._hovered = None
        if view is None or self._head not in view.heads:
            ranked = () if view is None else view.ranked(self._metric)
            first = view.heads[0] if view is not None else None
            self._head = ranked[0] if ranked else first
        self._relayout()
        self._describe()
        self._reveal()

    def set_metric(self, metric: str) -> None:
        """Write another figure below the thumbnails."""
        self._metric = metric
        self._relayout()
        self._describe()

    def choose(self, head: HeadName) -> None:
        """Choose a head, as a click would."""
        if head != self._head:
            self._head = head
            self._describe()
            self._reveal()
            self.viewport().update()
            self.chosen.emit(head)

    def point_of(self, head: HeadName) -> QPoint:
        """The middle of a thumbnail on the viewport."""
        assert self._overview is not None
        return (self._overview.box(head).center() + self._origin()).toPoint()

    def sizeHint(self) -> QSize:
        """Room for a small model."""
        return QSize(400, 300)

    # -- inside -------------------------------------------------------------------------------

    def _origin(self) -> QPointF:
        return QPointF(-self.horizontalScrollBar().value(), 4 - self.verticalScrollBar().value())

    def _relayout(self) -> None:
        view, self._overview, self._picture = self._view, None, None
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        if view is None:
            across.setRange(0, 0)
            upright.setRange(0, 0)
        else:
            room = self.maximumViewportSize()
            width, height = float(room.width()), float(room.height()) - 4
            overview = lay_out_overview(view, self._metric, self._theme, width)
            if overview.height > height:
                width -= upright.sizeHint().width()
                overview = lay_out_overview(view, self._metric, self._theme, width)
            self._overview = overview
            across.setRange(0, max(0, round(overview.width - width)))
            upright.setRange(0, max(0, round(overview.height - height)))
            across.setPageStep(max(1, round(width)))
            upright.setPageStep(max(1, round(height)))
            upright.setSingleStep(max(1, round(overview.side / 2)))
        self.viewport().update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the thumbnails that can be seen."""
        if self._picture is None:
            self._picture = self._paint_picture()
        painter = QPainter(self.viewport())
        painter.drawPixmap(0, 0, self._picture)
        if self._overview is not None:
            painter.translate(self._origin())
            paint_rings(painter, self._theme, self._overview, self._head, self._hovered)
            if self.hasFocus():
                painter.resetTransform()
                painter.setPen(self._theme.colour("focus"))
                painter.drawRect(QRectF(self.viewport().rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _paint_picture(self) -> QPixmap:
        """All that does not change while one points and chooses."""
        port, ratio = self.viewport(), self.devicePixelRatioF()
        picture = QPixmap(port.size() * ratio)
        picture.setDevicePixelRatio(ratio)
        picture.fill(self._theme.colour("canvas"))
        if self._overview is not None and self._images is not None:
            origin = self._origin()
            painter = QPainter(picture)
            painter.translate(origin)
            exposed = QRectF(port.rect()).translated(-origin)
            paint_overview(painter, self._theme, self._overview, self._images, exposed)
            painter.end()
        return picture

    def _sentence(self, head: HeadName) -> str:
        view = self._view
        assert view is not None
        kind = "Lorsa's QK head" if head.kind == "lorsa" else "Head"
        known = [
            f"{info.title}: {value_text(name, view.metric(head, name))}"
            for name, info in METRICS.items()
            if np.isfinite(view.metric(head, name))
        ]
        return "\n".join([f"{kind} {head}", *known])

    def _describe(self) -> None:
        told = "" if self._head is None else self._sentence(self._head).replace("\n", ", ")
        self.setAccessibleDescription(told)

    def _reveal(self) -> None:
        if self._head is None or self._overview is None:
            return
        box = self._overview.box(self._head).translated(self._origin()).adjusted(-4, -4, 4, 4)
        room = self.viewport().size()
        across, upright = self.horizontalScrollBar(), self.verticalScrollBar()
        for bar, low, high, size in (
            (across, box.left(), box.right(), room.width()),
            (upright, box.top(), box.bottom(), room.height()),
        ):
            if low < 0:
                bar.setValue(round(bar.value() + low))
            elif high > size:
                bar.setValue(round(bar.value() + high - size))

    # -- hands --------------------------------------------------------------------------------

    def _head_at(self, at: QPointF) -> Optional[HeadName]:
        return None if self._overview is None else self._overview.head_at(at - self._origin())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Ring the thumbnail under the pointer."""
        head = self._head_at(event.position())
        if head != self._hovered:
            self._hovered = head
            self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the head under the pointer."""
        head = self._head_at(event.position())
        if head is not None and event.button() == Qt.MouseButton.LeftButton:
            self.choose(head)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is gone."""
        super().leaveEvent(event)
        self._hovered = None
        self.viewport().update()

    def viewportEvent(self, event: QEvent) -> bool:
        """Say the figures of the head under the pointer."""
        if isinstance(event, QHelpEvent):
            head = self._head_at(QPointF(event.pos()))
            told = "" if head is None else self._sentence(head)
            QToolTip.showText(event.globalPos(), told, self.viewport())
            return True
        return super().viewportEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go to the next head in some direction."""
        moves = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (1, 0),
            Qt.Key.Key_Down: (-1, 0),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is None or self._view is None or self._head is None:
            super().keyPressEvent(event)
            return
        head = self._neighbour(self._view, self._head, *move)
        if head is not None:
            self.choose(head)

    @staticmethod
    def _neighbour(view: AttentionView, head: HeadName, up: int, right: int) -> Optional[HeadName]:
        if right:
            beside = view.heads_of(head.layer)
            place = beside.index(head) + right
            return beside[place] if 0 <= place < len(beside) else None
        layer = head.layer + up
        while 0 <= layer < view.n_layers:
            # A layer without a Lorsa is passed over.
            row = tuple(h for h in view.heads_of(layer) if h.kind == head.kind)
            if row:
                return row[min(head.head, len(row) - 1)]
            layer += up
        return None

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit anew."""
        super().resizeEvent(event)
        self._relayout()

    def scrollContentsBy(self, _dx: int, _dy: int) -> None:
        """All is painted anew."""
        self._picture = None
        self.viewport().update()

    @Slot()
    def _on_theme(self) -> None:
        if self._view is not None:
            self._images = ThumbnailImages(self._view, self._theme)
        self._relayout()
