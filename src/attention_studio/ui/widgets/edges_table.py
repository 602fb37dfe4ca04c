"""Verified edges as a table."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.edge_checks import TOLERANCE, Verdict
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.ordered_model import OrderedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.edge_checks import EdgeReport

VERDICT_WORDS: dict[Verdict, str] = {
    Verdict.CONFIRMED: "✓ confirmed",
    Verdict.REFUTED: "✗ refuted",
    Verdict.UNCLEAR: "· unclear",
}
_ORDER = (Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNCLEAR)


class EdgeColumn(IntEnum):
    """The columns."""

    VERDICT = 0
    SOURCE = 1
    TARGET = 2
    WEIGHT = 3
    PREDICTED = 4
    MEASURED = 5
    CONTROL = 6


_VALUES = {
    EdgeColumn.WEIGHT: "weight",
    EdgeColumn.PREDICTED: "predicted",
    EdgeColumn.MEASURED: "measured",
    EdgeColumn.CONTROL: "control",
}


class EdgesTable(OrderedModel):
    """One row for each edge that was tested."""

    HEADS = ("Verdict", "From", "To", "Edge", "Predicted", "Measured", "Random")
    TIPS = (
        "Confirmed: measured as predicted. Refuted: not so. Unclear: no more is predicted than "
        "random directions do",
        "The feature that was taken out",
        "What reads it",
        "The graph's weight: what the feature adds to what the target reads",
        "By how much what the target reads should change without the feature",
        "By how much it does change in the model",
        "What random directions of the same norm change, root mean square",
    )
    NUMBERS_FROM = EdgeColumn.WEIGHT

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self.report: Optional[EdgeReport] = None
        self.verdicts: tuple[Verdict, ...] = ()
        self._words: Callable[[str], str] = str

    def show(
        self, report: Optional[EdgeReport], tolerance: float, words: Callable[[str], str]
    ) -> None:
        """Show a report; ``words`` says what a node is called."""
        self.report = report
        self.verdicts = () if report is None else report.verdicts(tolerance)
        self._words = words
        self.reload()

    def judge(self, tolerance: float = TOLERANCE) -> None:
        """Judge the same edges by another tolerance."""
        if self.report is not None:
            self.verdicts = self.report.verdicts(tolerance)
            self.reload()

    @property
    def n_records(self) -> int:
        """How many edges there are."""
        return len(self.verdicts)

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts."""
        assert self.report is not None  # else there are no rows
        if column == EdgeColumn.VERDICT:
            return np.array([_ORDER.index(verdict) for verdict in self.verdicts])
        if column in (EdgeColumn.SOURCE, EdgeColumn.TARGET):
            names = self.report.source if column == EdgeColumn.SOURCE else self.report.target
            return np.array(names)
        values: NDArray[Any] = np.abs(getattr(self.report, _VALUES[EdgeColumn(column)]))
        return values

    def cell(self, record: int, column: int, role: int) -> Any:
        """What an edge shows in a column."""
        assert self.report is not None  # else there are no rows
        names = {
            EdgeColumn.SOURCE: self.report.source,
            EdgeColumn.TARGET: self.report.target,
        }.get(EdgeColumn(column))
        if role == Qt.ItemDataRole.ToolTipRole and names is not None:
            return plain_tip(f"{names[record]}: {self._words(names[record])}")
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == EdgeColumn.VERDICT:
            return VERDICT_WORDS[self.verdicts[record]]
        if names is not None:
            return self._words(names[record])
        value = float(getattr(self.report, _VALUES[EdgeColumn(column)])[record])
        return f"{value:.3f}" if column == EdgeColumn.CONTROL else f"{value:+.3f}"
