"""Figures that are pictures already: what a view shows on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, QRectF
from PySide6.QtGui import QImage, QPainter
from PySide6.QtWidgets import QWidget

from attention_studio.ui.figures.figure import Figure

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import Look

_SCREEN_SCALE = 2.0


@dataclass(frozen=True)
class ScreenFigure(Figure):
    """What a view shows on the screen, dot by dot: for views that have no figure of their own."""

    image: QImage

    def height(self, look: Look, width: float) -> float:
        """As high as its shape asks for."""
        return width * self.image.height() / max(1, self.image.width())

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Draw the picture."""
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(QRectF(0, 0, width, height), self.image)


def seen(widget: QWidget, name: str, title: str, caption: str = "") -> Optional[ScreenFigure]:
    """Take down what a widget shows; None where it shows nothing. On the main thread."""
    if widget.width() < 2 or widget.height() < 2:
        return None
    image = QImage(
        round(widget.width() * _SCREEN_SCALE),
        round(widget.height() * _SCREEN_SCALE),
        QImage.Format.Format_RGB32,
    )
    image.setDevicePixelRatio(_SCREEN_SCALE)
    image.fill(widget.palette().window().color())
    widget.render(image, QPoint(0, 0))
    image.setDevicePixelRatio(1.0)
    return ScreenFigure(name, title, caption, image)
