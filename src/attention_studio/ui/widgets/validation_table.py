"""What a validation found, as tables: module by module, and feature by feature."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.intervention_specs import FeatureAt
from attention_studio.core.sites import Site
from attention_studio.ui.text import count, visible_token
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.ordered_model import OrderedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.validation_report import (
        Agreement,
        FeatureCheck,
        ValidationReport,
    )


class AgreementColumn(IntEnum):
    """The columns of the first table."""

    WHAT = 0
    CORRELATION = 1
    SLOPE = 2
    ERROR = 3
    PAIRS = 4


class CheckColumn(IntEnum):
    """The columns of the second table."""

    WHAT = 0
    TOKEN = 1
    PREDICTED = 2
    MEASURED = 3
    CONTROL = 4


class _Line(NamedTuple):
    """One set of pairs, and what it is."""

    words: str
    tip: str
    agreement: Agreement


_FIGURES = {
    AgreementColumn.CORRELATION: "correlation",
    AgreementColumn.SLOPE: "slope",
    AgreementColumn.ERROR: "relative_error",
    AgreementColumn.PAIRS: "n",
}


class AgreementTable(OrderedModel):
    """How predictions and measurements agree: over all, and over the features of each module."""

    HEADS = ("Of", "r", "Slope", "Error", "Pairs")
    TIPS = (
        "Which predictions and measurements are compared",
        "Pearson's correlation of measured and predicted changes; 1 is perfect",
        "Slope of measured on predicted through the origin; 1 is perfect, 0 is no effect",
        "What measurements miss predictions by, summed, as a share of what was measured; 0 is "
        "perfect",
        "How many pairs are compared",
    )
    NUMBERS_FROM = AgreementColumn.CORRELATION

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._lines: tuple[_Line, ...] = ()

    def show(self, report: Optional[ValidationReport]) -> None:
        """Show a validation."""
        self._lines = () if report is None else _lines(report)
        self.reload()

    @property
    def n_records(self) -> int:
        """How many sets of pairs there are."""
        return len(self._lines)

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts; their own order is that of the forward pass."""
        if column == AgreementColumn.WHAT:
            return np.arange(len(self._lines))
        name = _FIGURES[AgreementColumn(column)]
        return np.array([getattr(line.agreement, name) for line in self._lines])

    def cell(self, record: int, column: int, role: int) -> Any:
        """What a set of pairs shows in a column."""
        line = self._lines[record]
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(line.tip)
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == AgreementColumn.WHAT:
            return line.words
        if column == AgreementColumn.PAIRS:
            return count(line.agreement.n)
        return f"{getattr(line.agreement, _FIGURES[AgreementColumn(column)]):.2f}"


def _lines(report: ValidationReport) -> tuple[_Line, ...]:
    sampled = f"{count(report.n_samples)} features, each taken out alone"
    parts = [
        _Line("Logits", f"Of the likeliest next tokens; {sampled}", report.logits),
        _Line("Features downstream", f"Of what they read; {sampled}", report.features),
        _Line(
            "Random directions",
            "The control: the same predictions against random directions of the same norm",
            report.control,
        ),
    ]
    for site in report.sites:
        n = f"{site.n_samples} feature{'' if site.n_samples == 1 else 's'}"
        parts.append(_Line(f"Logits, {site.label} ({n})", f"{n} of {site.label}", site.logits))
    return tuple(parts)


class ChecksTable(OrderedModel):
    """What taking each feature and each supernode out did to the token that it moves most."""

    HEADS = ("Without", "Token", "Predicted", "Measured", "Random")
    TIPS = (
        "What was taken out: a feature, or a supernode as a whole",
        "The token whose logit should change most",
        "By how much the graph says that its logit changes",
        "By how much it does change in the model, nothing frozen",
        "What a random direction of the same norm changes",
    )
    NUMBERS_FROM = CheckColumn.PREDICTED

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._report: Optional[ValidationReport] = None
        self._words: Callable[[str], str] = str

    def show(self, report: Optional[ValidationReport], words: Callable[[str], str]) -> None:
        """Show a validation; ``words`` says what a node is called."""
        self._report, self._words = report, words
        self.reload()

    @property
    def n_records(self) -> int:
        """How many features and supernodes were taken out."""
        report = self._report
        return 0 if report is None else len(report.checks) + len(report.groups)

    def node_of(self, record: int) -> Optional[str]:
        """The name of the feature; None: it is a supernode."""
        report = self._report
        if report is None or record >= len(report.checks):
            return None
        return feature_name(report.checks[record])

    def name_of(self, record: int) -> str:
        """What was taken out, in words."""
        assert self._report is not None  # else there are no records
        node = self.node_of(record)
        if node is not None:
            return self._words(node)
        return self._report.groups[record - len(self._report.checks)].name

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts."""
        if column == CheckColumn.WHAT:
            return np.arange(self.n_records)
        found = [self._value(record, column) for record in range(self.n_records)]
        return np.array(found) if column == CheckColumn.TOKEN else np.abs(np.array(found))

    def cell(self, record: int, column: int, role: int) -> Any:
        """What one of them shows in a column."""
        if role == Qt.ItemDataRole.ToolTipRole and column == CheckColumn.WHAT:
            node = self.node_of(record)
            name = self.name_of(record)
            return plain_tip(name if node is None else f"{node}: {name}")
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == CheckColumn.WHAT:
            return self.name_of(record)
        value = self._value(record, column)
        return visible_token(value) if isinstance(value, str) else f"{value:+.3f}"

    def _value(self, record: int, column: int) -> Union[str, float]:
        report = self._report
        assert report is not None  # else there are no records
        n = len(report.checks)
        check = report.checks[record] if record < n else report.groups[record - n]
        if column == CheckColumn.TOKEN:
            return check.token
        name = {CheckColumn.PREDICTED: "predicted", CheckColumn.MEASURED: "measured"}.get(
            CheckColumn(column), "control"
        )
        return float(getattr(check, name))


def feature_name(check: FeatureCheck) -> str:
    """What a graph calls the feature that was taken out."""
    return str(FeatureAt(Site(check.layer, check.kind), check.position, check.index))
