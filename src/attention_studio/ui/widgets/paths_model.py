"""Paths through the graph as tables: all that were found, and one step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.node_text import place, short_title, title
from attention_studio.ui.text import percent
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.ordered_model import OrderedModel

if TYPE_CHECKING:
    from attention_studio.core.path_search import Path
    from attention_studio.ui.work_paths import PathAnswer

ARROW = " \N{RIGHTWARDS ARROW} "
MINUS = "\N{MINUS SIGN}"


def signed(share: float) -> str:
    """A signed share as people read it: ``+12.3%``."""
    return f"{MINUS if share < 0 else '+'}{percent(abs(share))}"


class PathsModel(OrderedModel):
    """One path per row, the strongest first."""

    HEADS = ("Path", "Steps", "Effect", "Share", "Together")
    TIPS = (
        "The nodes on the way, from where it begins to where it ends",
        "How many edges the path has",
        "Whether more of what it begins with makes more (+) or less (-) of what it ends in",
        "The path's part of the influence of the one end on the other",
        "What this path and all stronger ones carry of that influence",
    )
    NUMBERS_FROM = 1
    ROUTE, STEPS, EFFECT, SHARE, TOGETHER = range(5)

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._answer: Optional[PathAnswer] = None
        self._notes = GraphNotes()
        self._routes: list[str] = []
        self._shares: NDArray[np.float64] = np.zeros(0)
        self._together: NDArray[np.float64] = np.zeros(0)

    def show(self, answer: Optional[PathAnswer], notes: GraphNotes) -> None:
        """List other paths."""
        self._answer, self._notes = answer, notes
        if answer is None:
            self._routes = []
            self._shares = self._together = np.zeros(0)
        else:
            titles = {
                node: short_title(answer.graph, node, notes)
                for path in answer.found.paths
                for node in path.nodes
            }
            self._routes = [
                ARROW.join(titles[node] for node in path.nodes) for path in answer.found.paths
            ]
            strengths = np.array([path.strength for path in answer.found.paths])
            whole = answer.found.influence
            self._shares = strengths / whole if whole > 0 else np.zeros(len(strengths))
            self._together = np.minimum(1.0, np.cumsum(self._shares))
        self.reload()

    def path(self, record: int) -> Path:
        """A path by its rank."""
        assert self._answer is not None
        return self._answer.found.paths[record]

    def _whole_route(self, path: Path) -> str:
        """The nodes with the tokens at which they stand."""
        assert self._answer is not None
        graph = self._answer.graph
        return ARROW.join(
            f"{short_title(graph, node, self._notes)} at {place(graph, node)}"
            for node in path.nodes
        )

    @property
    def n_records(self) -> int:
        """How many paths there are."""
        return len(self._routes)

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts."""
        paths = () if self._answer is None else self._answer.found.paths
        if column == self.ROUTE:
            return np.array(self._routes)
        if column == self.STEPS:
            return np.array([len(path.shares) for path in paths])
        if column == self.EFFECT:
            return np.array([path.sign for path in paths])
        return self._shares if column == self.SHARE else self._together

    def cell(self, record: int, column: int, role: int) -> Any:
        """What a path shows in a column."""
        path = self.path(record)
        if role == BAR_ROLE and column == self.SHARE:
            most = float(self._shares.max(initial=0.0))
            return path.sign * float(self._shares[record]) / most if most > 0 else 0.0
        if role == Qt.ItemDataRole.ToolTipRole and column == self.ROUTE:
            return plain_tip(self._whole_route(path))
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == self.ROUTE:
            return self._routes[record]
        if column == self.STEPS:
            return str(len(path.shares))
        if column == self.EFFECT:
            return "+" if path.sign > 0 else MINUS
        return percent(float((self._shares if column == self.SHARE else self._together)[record]))


class StepsModel(ColumnsModel):
    """One path node by node, from where it begins."""

    HEADS = ("Node", "At", "Of its input", "So far")
    TIPS = (
        "A node on the path",
        "Token at which it stands",
        "The signed part of all that flows into this node that comes from the one above",
        "The product of the parts up to here: the path's strength at this node",
    )
    NUMBERS_FROM = 2

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._rows: list[tuple[str, str, str, Optional[float], float]] = []

    def show(self, answer: Optional[PathAnswer], rank: Optional[int], notes: GraphNotes) -> None:
        """Show another path, by its rank."""
        self.beginResetModel()
        self._rows = []
        if answer is not None and rank is not None:
            path, graph = answer.found.paths[rank], answer.graph
            strengths = np.cumprod(np.abs(np.r_[1.0, path.shares]))
            for node, share, strength in zip(
                path.nodes, (None, *path.shares), strengths, strict=True
            ):
                self._rows.append(
                    (
                        graph.node_name(node), title(graph, node, notes), place(graph, node),
                        share, float(strength),
                    )
                )  # fmt: skip
        self.endResetModel()

    def name(self, row: int) -> str:
        """The name of the node in a row."""
        return self._rows[row][0]

    def row_of(self, name: str) -> Optional[int]:
        """The row of a node; None where it is not on the path."""
        return next((row for row, entry in enumerate(self._rows) if entry[0] == name), None)

    @property
    def n_rows(self) -> int:
        """How many nodes are on the path."""
        return len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        column = index.column()
        _, words, at, share, strength = self._rows[index.row()]
        shown = ("" if share is None else signed(share), percent(strength))
        cells = (words, at, *shown)
        if role == Qt.ItemDataRole.DisplayRole:
            return cells[column]
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {cells[column]}"
        if role == BAR_ROLE and column == 2:
            return share
        if role == Qt.ItemDataRole.ToolTipRole and column == 0:
            return plain_tip(f"{words}, at {at}")
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= self.NUMBERS_FROM:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None
