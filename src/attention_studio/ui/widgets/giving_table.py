"""Tables that leave out columns where there is no room for them beside those that matter more, and
how tables of a few columns look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QTableView, QWidget


class GivingTable(QTableView):
    """Hides each column of ``gives`` while the table is narrower than so many letters."""

    def __init__(self, gives: Mapping[int, int], parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._gives = dict(gives)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as many columns as can be read."""
        super().resizeEvent(event)
        self.make_room()

    def make_room(self) -> None:
        """Show as many columns as can be read with the font as it is."""
        letters = self.viewport().width() / max(1, self.fontMetrics().averageCharWidth())
        for column, least in self._gives.items():
            self.setColumnHidden(column, letters < least)


def dress_table(table: QTableView) -> None:
    """How the tables look and are used."""
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setShowGrid(False)
    table.setWordWrap(False)
    table.setTabKeyNavigation(False)
    table.verticalHeader().hide()
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)


def size_columns(table: QTableView, samples: dict[int, str]) -> None:
    """Make columns wide enough for what they hold, and rows high enough for the font."""
    metrics = table.fontMetrics()
    for column, sample in samples.items():
        table.setColumnWidth(column, metrics.horizontalAdvance(sample) + 20)
    table.verticalHeader().setDefaultSectionSize(metrics.height() + 9)
    if isinstance(table, GivingTable):
        table.make_room()
