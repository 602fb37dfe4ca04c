"""The subgraph as a figure: whole, however it is zoomed and panned on the screen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.widgets.graph_look import GraphLook
from attention_studio.ui.widgets.subgraph_painter import SubgraphState, paint_subgraph

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look
    from attention_studio.ui.widgets.subgraph_scene import SubgraphScene

_MARGIN = 10.0


@dataclass(frozen=True)
class SubgraphFigure(Figure):
    """A subgraph with its selection and what is highlighted.

    Attributes:
        scene: boxes where they are.
        state: what is selected, chosen and highlighted.
    """

    scene: SubgraphScene
    state: SubgraphState

    def _scale(self, width: float) -> float:
        left, _, right, _ = self.scene.bounds
        return min(1.0, (width - 2 * _MARGIN) / max(1.0, right - left))

    def height(self, look: Look, width: float) -> float:
        """As high as the boxes stand where their width fits."""
        _, top, _, bottom = self.scene.bounds
        return (bottom - top) * self._scale(width) + 2 * _MARGIN

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Shrink the picture into the width, and centre it."""
        left, top, right, bottom = self.scene.bounds
        scale = self._scale(width)
        painter.save()
        painter.translate(width / 2.0, height / 2.0)
        painter.scale(scale, scale)
        painter.translate(-(left + right) / 2.0, -(top + bottom) / 2.0)
        # What the pointer is over is nobody's business on paper.
        paint_subgraph(painter, self.scene, GraphLook(look), replace(self.state, pointed=None))
        painter.restore()
