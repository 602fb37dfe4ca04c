"""Attention as figures: all heads as thumbnails, and one head large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.head_scene import HeadScene, Spot
from attention_studio.ui.widgets.head_overview import (
    ThumbnailImages,
    lay_out_overview,
    paint_overview,
)
from attention_studio.ui.widgets.head_painter import (
    HeadLayout,
    Manner,
    head_image,
    lay_out,
    paint_head,
)

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.core.attention_records import AttentionView
    from attention_studio.ui.figures.look import Look


_LARGEST = 120.0
"""Side of a thumbnail on paper, at most."""


@dataclass(frozen=True)
class OverviewFigure(Figure):
    """All heads, layer by layer.

    Attributes:
        view: what is shown; metric: the figure that stands below each head.
    """

    view: AttentionView
    metric: str

    def height(self, look: Look, width: float) -> float:
        """All layers; what is wider than the page is made smaller."""
        overview = lay_out_overview(self.view, self.metric, look, width, _LARGEST)
        return overview.height * min(1.0, width / overview.width)

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint all thumbnails."""
        overview = lay_out_overview(self.view, self.metric, look, width, _LARGEST)
        zoom = min(1.0, width / overview.width)
        painter.scale(zoom, zoom)
        paint_overview(painter, look, overview, ThumbnailImages(self.view, look))


@dataclass(frozen=True)
class HeadFigure(Figure):
    """One head, or one feature's z-pattern.

    Attributes:
        scene: what is shown; manner: how; spot: what is pointed at.
    """

    scene: HeadScene
    manner: Manner
    spot: Spot

    def _layout(self, look: Look, width: float) -> tuple[HeadLayout, float]:
        layout = lay_out(self.scene, look, self.manner, width, width)
        return layout, min(1.0, width / layout.width)

    def height(self, look: Look, width: float) -> float:
        """All tokens."""
        layout, zoom = self._layout(look, width)
        return layout.height * zoom

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint the head in the middle of the page."""
        layout, zoom = self._layout(look, width)
        painter.translate((width - layout.width * zoom) / 2, 0)
        painter.scale(zoom, zoom)
        image = head_image(self.scene, look)
        paint_head(painter, look, self.scene, layout, image, self.spot)
