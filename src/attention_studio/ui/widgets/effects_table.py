"""What an intervention did to features, as a table."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.feature_names import FeatureName
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE
from attention_studio.ui.widgets.ordered_model import OrderedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.core.intervention_runs import FeatureChange, InterventionRun


class EffectColumn(IntEnum):
    """The columns."""

    HOW = 0
    FEATURE = 1
    LABEL = 2
    TOKEN = 3
    BEFORE = 4
    AFTER = 5
    CHANGE = 6


class EffectsTable(OrderedModel):
    """Features that were changed, moved, or are active only now."""

    HEADS = ("", "Feature", "Label", "At", "Before", "After", "Change")
    TIPS = (
        "Changed by the intervention, moved by it, or active only now",
        "Module, position and number of the feature",
        "What it is called",
        "The token at its position",
        "Activation on the untouched prompt",
        "Activation now",
        "By how much the activation moved",
    )
    NUMBERS_FROM = EffectColumn.BEFORE

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._rows: list[tuple[str, FeatureChange]] = []
        self._tokens: tuple[str, ...] = ()
        self._labels: list[str] = []
        self._largest = 1.0

    def show(self, run: Optional[InterventionRun], label: Callable[[str], str]) -> None:
        """Show what a run did; ``label`` says what a feature is called."""
        self._rows = []
        if run is not None:
            self._tokens = run.tokens
            for how, changes in (
                ("changed", run.edited), ("moved", run.moved), ("only now", run.newly_active),
            ):  # fmt: skip
                self._rows += [(how, change) for change in changes]
        self._labels = [label(change.feature) for _, change in self._rows]
        self._largest = max((abs(c.change) for _, c in self._rows), default=0.0) or 1.0
        self.reload()

    def name(self, row: int) -> str:
        """The name of the feature in a row."""
        return self._rows[self.record_at(row)][1].feature

    @property
    def n_records(self) -> int:
        """How many features there are."""
        return len(self._rows)

    def keys(self, column: int) -> NDArray[Any]:
        """By what a column sorts."""
        if column == EffectColumn.CHANGE:
            return np.array([abs(change.change) for _, change in self._rows])
        if column == EffectColumn.BEFORE:
            return np.array([change.activation_before for _, change in self._rows])
        if column == EffectColumn.AFTER:
            return np.array([change.activation_after for _, change in self._rows])
        if column in (EffectColumn.FEATURE, EffectColumn.TOKEN):
            places = [_place(change.feature) for _, change in self._rows]
            if column == EffectColumn.TOKEN:
                places = [(position, site, latent) for site, position, latent in places]
            rank = {place: number for number, place in enumerate(sorted(set(places)))}
            return np.array([rank[place] for place in places])
        texts = self._labels if column == EffectColumn.LABEL else [how for how, _ in self._rows]
        return np.array([text.lower() for text in texts])

    def cell(self, record: int, column: int, role: int) -> Any:
        """What a feature shows in a column."""
        how, change = self._rows[record]
        if role == BAR_ROLE:
            return change.change / self._largest if column == EffectColumn.CHANGE else None
        if role == Qt.ItemDataRole.ToolTipRole and column == EffectColumn.CHANGE:
            return f"Reads {change.pre_before:.3f}, now {change.pre_after:.3f}"
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if column == EffectColumn.HOW:
            return how
        if column == EffectColumn.FEATURE:
            return change.feature
        if column == EffectColumn.LABEL:
            return self._labels[record]
        if column == EffectColumn.TOKEN:
            position = _place(change.feature)[1]
            known = 0 <= position < len(self._tokens)
            return visible_token(self._tokens[position], spaces=False) if known else ""
        values = {
            EffectColumn.BEFORE: f"{change.activation_before:.3f}",
            EffectColumn.AFTER: f"{change.activation_after:.3f}",
            EffectColumn.CHANGE: f"{change.change:+.3f}",
        }
        return values[EffectColumn(column)]


def _place(feature: str) -> tuple[int, int, int]:
    """Site, position and latent of a feature's name."""
    name = FeatureName.read(feature)
    if name is None or not isinstance(name.position, int) or not isinstance(name.latent, int):
        return (-1, -1, -1)
    return (name.site.number, name.position, name.latent)
