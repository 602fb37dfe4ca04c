"""Predicted against measured, one mark for each edge, painted by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QEvent, QLineF, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QHelpEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from attention_studio.core.edge_checks import TOLERANCE, Verdict
from attention_studio.core.validation_plot import ticks
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.controls import named, plain_tip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attention_studio.core.edge_checks import EdgeReport
    from attention_studio.ui.theme import Theme

MAX_MARKS = 4_000
"""More marks are one blot, and slow to paint; the largest are painted."""
_NEAR = 9.0
_STAMP = 10.0
_TOKENS = {
    Verdict.CONFIRMED: "success",
    Verdict.REFUTED: "error",
    Verdict.UNCLEAR: "neutral",
}


class AgreementPlot(QWidget):
    """Marks at (predicted, measured); on the dashed line both are equal, within the band an edge
    counts as confirmed. Says ``chosen`` with the number of the edge that was clicked."""

    chosen = Signal(int)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._report: Optional[EdgeReport] = None
        self._verdicts: tuple[Verdict, ...] = ()
        self._tolerance = TOLERANCE
        self._marks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._limit = 1.0
        self._marked: Optional[int] = None
        self._picture: Optional[QPixmap] = None
        named(self, "verify.plot", "Predicted against measured",
              "One mark for each edge: right as much as predicted, up as much as measured",
        )  # fmt: skip
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(180, 160)
        theme.changed.connect(self._on_theme)

    def sizeHint(self) -> QSize:
        """A square."""
        return QSize(360, 360)

    # -- what is shown ------------------------------------------------------------------------

    def show_report(
        self, report: Optional[EdgeReport], verdicts: tuple[Verdict, ...], tolerance: float
    ) -> None:
        """Show these edges, judged so."""
        self._report, self._verdicts, self._tolerance = report, verdicts, tolerance
        self._marked, self._limit = None, 1.0
        told = "No edges were verified"
        if report is not None and len(report):
            reach = np.maximum(np.abs(report.predicted), np.abs(report.measured))
            self._limit = 1.05 * float(reach.max()) or 1.0
            # The smallest first, so that the large ones lie on top of them.
            self._marks = np.sort(np.argsort(-reach, kind="stable")[:MAX_MARKS])
            found = report.agreement
            told = (
                f"{len(report):,} edges, correlation {found.correlation:.2f}, slope "
                f"{found.slope:.2f}, error {found.relative_error:.2f}"
            )
        else:
            self._marks = np.zeros(0, dtype=np.int64)
        self.setAccessibleDescription(told)
        self._picture = None
        self.update()

    def mark(self, edge: Optional[int]) -> None:
        """Put a ring around one edge's mark."""
        self._marked = edge
        self.update()

    def place_of(self, edge: int) -> QPointF:
        """Where the mark of an edge is."""
        assert self._report is not None  # else there are no edges
        frame = self._frame()
        return self._point(
            frame, float(self._report.predicted[edge]), float(self._report.measured[edge])
        )

    # -- geometry -----------------------------------------------------------------------------

    def _frame(self) -> QRectF:
        metrics = QFontMetricsF(self._theme.font(0.82))
        left = metrics.horizontalAdvance("-00.0 ") + metrics.height() + 10
        below = 2 * metrics.height() + 12
        side = max(40.0, min(self.width() - left - 12, self.height() - below - 10))
        return QRectF(left, 8, side, side)

    def _point(self, frame: QRectF, predicted: float, measured: float) -> QPointF:
        scale = frame.width() / (2 * self._limit)
        middle = frame.center()
        return QPointF(middle.x() + predicted * scale, middle.y() - measured * scale)

    def _edge_at(self, place: QPointF) -> Optional[int]:
        report = self._report
        if report is None or not len(self._marks):
            return None
        frame = self._frame()
        scale = frame.width() / (2 * self._limit)
        x = frame.center().x() + report.predicted[self._marks] * scale
        y = frame.center().y() - report.measured[self._marks] * scale
        distance = np.hypot(x - place.x(), y - place.y())
        nearest = int(distance.argmin())
        return int(self._marks[nearest]) if distance[nearest] <= _NEAR else None

    # -- painting -----------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the plot as it was painted before, and the ring."""
        ratio = self.devicePixelRatioF()
        if self._picture is None or self._picture.size() != self.size() * ratio:
            self._picture = self._painted(ratio)
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._picture)
        if self._marked is not None and self._report is not None:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setClipRect(self._frame())
            painter.setPen(QPen(self._theme.colour("text"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(self.place_of(self._marked), 8, 8)

    def _painted(self, ratio: float) -> QPixmap:
        """Frame, lines and marks."""
        picture = QPixmap(self.size() * ratio)
        picture.setDevicePixelRatio(ratio)
        picture.fill(self._theme.colour("canvas"))
        painter = QPainter(picture)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = self._frame()
        self._paint_axes(painter, frame)
        painter.setClipRect(frame)
        self._paint_lines(painter, frame)
        report = self._report
        if report is not None:
            scale = frame.width() / (2 * self._limit)
            left = frame.center().x() + report.predicted[self._marks] * scale - _STAMP / 2
            top = frame.center().y() - report.measured[self._marks] * scale - _STAMP / 2
            stamps = {verdict: self._stamp(verdict, ratio) for verdict in Verdict}
            kinds = [stamps[self._verdicts[edge]] for edge in self._marks.tolist()]
            for x, y, stamp in zip(left.tolist(), top.tolist(), kinds, strict=True):
                painter.drawPixmap(QPointF(x, y), stamp)
        painter.end()
        return picture

    def _paint_axes(self, painter: QPainter, frame: QRectF) -> None:
        font = self._theme.font(0.82)
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        for tick in ticks(-self._limit, self._limit):
            at = self._point(frame, tick, tick)
            painter.setPen(QPen(self._theme.colour("grid"), 1))
            painter.drawLine(QLineF(at.x(), frame.top(), at.x(), frame.bottom()))
            painter.drawLine(QLineF(frame.left(), at.y(), frame.right(), at.y()))
            painter.setPen(self._theme.colour("muted"))
            text = f"{tick:.4g}".replace("-", "\N{MINUS SIGN}")
            width = metrics.horizontalAdvance(text)
            painter.drawText(QPointF(at.x() - width / 2, frame.bottom() + metrics.height()), text)
            base = at.y() + (metrics.ascent() - metrics.descent()) / 2
            painter.drawText(QPointF(frame.left() - width - 6, base), text)
        painter.setPen(QPen(self._theme.colour("border_strong"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(frame)
        painter.setPen(self._theme.colour("muted"))
        below = QRectF(
            frame.left(), frame.bottom() + metrics.height() + 4, frame.width(), 2 * metrics.height()
        )
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "predicted change")
        painter.save()
        painter.translate(metrics.height(), frame.center().y())
        painter.rotate(-90)
        box = QRectF(-frame.height() / 2, -metrics.height(), frame.height(), metrics.height())
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, "measured change")
        painter.restore()

    def _paint_lines(self, painter: QPainter, frame: QRectF) -> None:
        limit = self._limit
        painter.setPen(QPen(self._theme.colour("border_strong"), 1))
        for slope in (1 - self._tolerance, 1 + self._tolerance):
            ends = (self._point(frame, x, slope * x) for x in (-limit, limit))
            painter.drawLine(QLineF(*ends))
        painter.setPen(QPen(self._theme.colour("text"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(
            QLineF(self._point(frame, -limit, -limit), self._point(frame, limit, limit))
        )

    def _stamp(self, verdict: Verdict, ratio: float) -> QPixmap:
        """The mark of a verdict, which has a shape of its own: painted once, put down often."""
        size = math.ceil(_STAMP * ratio)
        stamp = QPixmap(size, size)
        stamp.setDevicePixelRatio(ratio)
        stamp.fill(Qt.GlobalColor.transparent)
        painter = QPainter(stamp)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        t = self._theme.tokens
        colour, at = getattr(t, _TOKENS[verdict]), _STAMP / 2
        if verdict is Verdict.CONFIRMED:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(mix(t.canvas, colour, 0.8)))
            painter.drawEllipse(QPointF(at, at), 3.5, 3.5)
        elif verdict is Verdict.REFUTED:
            painter.setPen(QPen(QColor(colour), 1.8))
            for x in (-3.2, 3.2):
                painter.drawLine(QLineF(at - x, at - 3.2, at + x, at + 3.2))
        else:
            painter.setPen(QPen(QColor(colour), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(QPointF(at, at), 2.2, 2.2)
        painter.end()
        return stamp

    # -- pointer ------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the edge under the pointer."""
        edge = self._edge_at(event.position())
        if edge is not None and event.button() == Qt.MouseButton.LeftButton:
            self.chosen.emit(edge)
        super().mousePressEvent(event)

    def event(self, event: QEvent) -> bool:
        """Say which edge is under the pointer."""
        if isinstance(event, QHelpEvent) and self._report is not None:
            edge = self._edge_at(QPointF(event.pos()))
            if edge is None:
                QToolTip.hideText()
            else:
                report = self._report
                QToolTip.showText(
                    event.globalPos(),
                    plain_tip(
                        f"{report.source[edge]} to {report.target[edge]}: predicted "
                        f"{report.predicted[edge]:+.3f}, measured {report.measured[edge]:+.3f}, "
                        f"{self._verdicts[edge].value}"
                    ),
                    self,
                )
            return True
        return super().event(event)

    @Slot()
    def _on_theme(self) -> None:
        self._picture = None
        self.update()
