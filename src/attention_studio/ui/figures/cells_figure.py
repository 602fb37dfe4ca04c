"""A matrix of cells as a figure: all of it, however it is scrolled on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.widgets.heat_map_painter import (
    Cells,
    CellsLayout,
    cells_image,
    fill_cells,
    lay_out_cells,
    paint_column_names,
    paint_grid,
    paint_row_names,
)

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look

_FLAT = 0.5
"""Height of the page that cells fill, as a share of its width; many rows make it higher."""


@dataclass(frozen=True)
class CellsFigure(Figure):
    """Cells with names for rows and columns.

    Attributes:
        cells: what is shown; marked: the rows with a bar at their names.
    """

    cells: Cells
    marked: frozenset[int] = frozenset()

    def _layout(self, look: Look, width: float) -> tuple[CellsLayout, float]:
        """Where what is, and by how much it is made smaller to fit the width."""
        layout = lay_out_cells(self.cells, look, width, _FLAT * width)
        return layout, min(1.0, width / (layout.whole(self.cells).right() + 6))

    def height(self, look: Look, width: float) -> float:
        """All rows."""
        layout, zoom = self._layout(look, width)
        return (layout.whole(self.cells).bottom() + 6) * zoom

    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint cells and names."""
        layout, zoom = self._layout(look, width)
        painter.scale(zoom, zoom)
        fill_cells(painter, self.cells, layout, cells_image(self.cells, look))
        paint_grid(painter, look, self.cells, layout)
        paint_row_names(painter, look, self.cells, layout, self.marked)
        paint_column_names(painter, look, self.cells, layout)
