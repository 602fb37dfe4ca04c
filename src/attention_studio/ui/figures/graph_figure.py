"""The link graph as a figure: whole, however it is zoomed and scrolled on the screen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PySide6.QtCore import QRectF

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.widgets.graph_geometry import EDGE_PAD, MIN_ROW, Camera, measure
from attention_studio.ui.widgets.graph_look import Frame, GraphLook, label_widths
from attention_studio.ui.widgets.graph_painter import paint_frame

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look

_ROW, _ASPECT = 22.0, 0.72


@dataclass(frozen=True)
class GraphFigure(Figure):
    """A link graph with its selection and pins.

    Attributes:
        frame: as it is shown; only place and size are found anew.
    """

    frame: Frame

    def height(self, look: Look, width: float) -> float:
        """A row's usual height for every layer, less where that would be higher than wide."""
        graph_look = GraphLook(look)
        return self._plot_height(width) + graph_look.header + graph_look.footer

    def _plot_height(self, width: float) -> float:
        rows = self.frame.scene.n_rows + 1
        pitch = max(MIN_ROW, min(_ROW, _ASPECT * width / rows))
        return float(pitch * rows + 2 * EDGE_PAD)

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Fit the graph into the width and paint it."""
        graph_look = GraphLook(look)
        scene = self.frame.scene
        plot = QRectF(
            graph_look.gutter,
            graph_look.header,
            width - graph_look.gutter - 4.0,
            height - graph_look.header - graph_look.footer,
        )
        widths = label_widths(scene, graph_look)
        geometry = measure(scene, plot.width(), plot.height(), widths)
        zoom = min(1.0, plot.width() / geometry.width)
        paint_frame(
            painter,
            replace(
                self.frame,
                geometry=geometry,
                camera=Camera(
                    zoom,
                    min(1.0, plot.height() / geometry.height),
                    plot.left() + (plot.width() - geometry.width * zoom) / 2.0,
                    plot.top(),
                ),
                plot=plot,
                size=(width, height),
                vector=True,
                smooth=True,
            ),
            graph_look,
        )
