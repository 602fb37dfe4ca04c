"""The runs of agents to choose from, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QComboBox, QWidget

from attention_studio.ui.agent_words import run_title
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.form_fields import ElidedCombo

Run = dict[str, Any]


class RunList(ElidedCombo):
    """``chosen`` carries the run that somebody picks."""

    chosen = Signal(object)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(self, "agents.runs", "Runs of this workspace",
              "What agents said in this workspace, the newest first")  # fmt: skip
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(10)
        # The run of each row; None: the row that says that none is shown.
        self._runs: list[Optional[Run]] = []
        self.activated.connect(self._on_activated)

    def show_runs(self, records: Sequence[Run], shown: Optional[Run]) -> None:
        """List these runs, given the oldest first; rows that are there already are left alone."""
        wanted: list[Optional[Run]] = [*([None] if shown is None else []), *reversed(records)]
        there = {id(run) for run in wanted}
        blocked = self.blockSignals(True)
        for row in reversed(range(len(self._runs))):
            if id(self._runs[row]) not in there:
                self.removeItem(row)
                del self._runs[row]
        for row, run in enumerate(wanted):
            if row >= len(self._runs) or self._runs[row] is not run:
                self.insertItem(row, "" if run is None else run_title(run))
                self._runs.insert(row, run)
        for row in reversed(range(len(wanted), len(self._runs))):  # what stood elsewhere before
            self.removeItem(row)
            del self._runs[row]
        if shown is None:
            self.setItemText(0, "No run is shown" if records else "No runs yet")
        self.setCurrentIndex(next((n for n, run in enumerate(wanted) if run is shown), -1))
        self.blockSignals(blocked)

    @Slot(int)
    def _on_activated(self, row: int) -> None:
        run = self._runs[row] if 0 <= row < len(self._runs) else None
        if run is not None:
            self.chosen.emit(run)
