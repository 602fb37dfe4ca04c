"""The table of a feature report: fast to sort and filter at tens of thousands of rows.

Columns live in numpy arrays and text is matched in one lower-case string per row, so a key typed
into the filter costs milliseconds. Sorting and filtering only permute row numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt

from attention_studio.core.sites import Site
from attention_studio.ui.session import feature_id
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport

Ints = NDArray[np.int64]
# How many promoted or suppressed tokens a cell names.
CELL_TOKENS = 5
# As ``session.feature_id`` writes it.
_NAME = re.compile(r"([AL])(\d+)/P(\d+)/F(\d+)$")
_TERM = re.compile(r"(layer|l|pos|position|p):(\d+)(?:-(\d+))?$", re.IGNORECASE)


class Column(IntEnum):
    """The columns of the table."""

    LAYER = 0
    POSITION = 1
    INDEX = 2
    ACTIVATION = 3
    PROMOTED = 4
    SUPPRESSED = 5


_HEADS = ("Layer", "Token", "Feature", "Activation", "Promotes", "Suppresses")
_TIPS = (
    "Layer of the feature's dictionary, from 0; A before it: it stands in for the attention there",
    "Position in the prompt, and the token there",
    "Number of the feature in its layer's dictionary",
    "How strongly it fires at this token",
    "Tokens whose logit it raises most by its direct path",
    "Tokens whose logit it lowers most by its direct path",
)


def feature_parts(name: str) -> Optional[tuple[Site, int, int]]:
    """Return module, position and index from a feature's name; None for another node's name."""
    found = _NAME.match(name)
    if found is None:
        return None
    site = Site(int(found[2]), "attention" if found[1] == "A" else "mlp")
    return site, int(found[3]), int(found[4])


@dataclass(frozen=True)
class FeatureFilter:
    """What rows to show; every condition must hold.

    Attributes:
        words: each must occur in the row's text.
        layers, positions: inclusive ranges, one of which must hold if there are any.
        indices: one of which must hold if there are any.
    """

    words: tuple[str, ...] = ()
    layers: tuple[tuple[int, int], ...] = ()
    positions: tuple[tuple[int, int], ...] = ()
    indices: tuple[int, ...] = ()

    @staticmethod
    def parse(text: str) -> FeatureFilter:
        """Read a filter as typed: ``paris layer:12-20 pos:5 #1043``.

        A term that is not finished yet (``layer:``) narrows nothing.
        """
        words: list[str] = []
        ranges: dict[str, list[tuple[int, int]]] = {"l": [], "p": []}
        indices: list[int] = []
        for term in text.split():
            found = _TERM.match(term)
            if found is not None:
                low = int(found[2])
                ranges[found[1][0].lower()].append((low, int(found[3] or low)))
            elif term.startswith("#"):
                if term[1:].isdigit():
                    indices.append(int(term[1:]))
            elif not re.match(r"(layer|l|pos|position|p):", term, re.IGNORECASE):
                words.append(term.lower())
        return FeatureFilter(tuple(words), tuple(ranges["l"]), tuple(ranges["p"]), tuple(indices))


class FeaturesModel(ColumnsModel):
    """Feature records as a table."""

    HEADS = _HEADS
    TIPS = _TIPS

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._records: Sequence[FeatureRecord] = ()
        self._tokens: tuple[str, ...] = ()
        self._numbers: dict[Column, NDArray[Any]] = {}
        self._sites: Ints = np.zeros(0, dtype=np.int64)
        self._haystack: Optional[list[str]] = None
        self._strongest = 1.0
        self._labels: Mapping[str, str] = {}
        self._filter = FeatureFilter()
        self._sorting: Optional[tuple[Column, bool]] = None
        self._order: Ints = np.zeros(0, dtype=np.int64)
        self._rows: Ints = np.zeros(0, dtype=np.int64)

    # -- what is in it ------------------------------------------------------------------------

    def show(self, report: Optional[FeatureReport], records: Sequence[FeatureRecord] = ()) -> None:
        """Show these records of a report."""
        self.beginResetModel()
        self._records = records
        self._tokens = report.tokens if report is not None else ()
        self._numbers = {
            Column.LAYER: np.array([r.layer for r in records], dtype=np.int64),
            Column.POSITION: np.array([r.position for r in records], dtype=np.int64),
            Column.INDEX: np.array([r.index for r in records], dtype=np.int64),
            Column.ACTIVATION: np.array([r.activation for r in records], dtype=np.float64),
        }
        self._sites = np.array([r.site.number for r in records], dtype=np.int64)
        self._strongest = float(self._numbers[Column.ACTIVATION].max(initial=0.0)) or 1.0
        self._haystack = None
        self._sort_rows()
        self._filter_rows()
        self.endResetModel()

    def record(self, row: int) -> FeatureRecord:
        """Return the record that a row shows."""
        return self._records[int(self._rows[row])]

    def name(self, row: int) -> str:
        """Return the session's name of the feature that a row shows."""
        return self.name_of(self.record(row))

    @staticmethod
    def name_of(record: FeatureRecord) -> str:
        """Return the session's name of a feature."""
        return feature_id(record.site, record.position, record.index)

    def find(self, name: str) -> Optional[int]:
        """Return the row that shows the feature of that name, or None."""
        parts = feature_parts(name)
        if parts is None or not len(self._rows):
            return None
        site, position, index = parts
        here = self._sites[self._rows] == site.number
        here &= self._numbers[Column.POSITION][self._rows] == position
        here &= self._numbers[Column.INDEX][self._rows] == index
        rows = np.flatnonzero(here)
        return int(rows[0]) if len(rows) else None

    @property
    def n_records(self) -> int:
        """How many records there are, shown or not."""
        return len(self._records)

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Say what the person calls features, by their names without position (``L12/F1043``)."""
        if labels != self._labels:
            self._labels = labels
            self._haystack = None
            if self.n_rows:
                last = self.index(self.n_rows - 1, len(self.HEADS) - 1)
                self.dataChanged.emit(self.index(0, 0), last)

    def _label(self, record: FeatureRecord) -> str:
        return self._labels.get(f"{record.site.label}/F{record.index}", "")

    # -- order and filter ---------------------------------------------------------------------

    def set_filter(self, text: str) -> None:
        """Show only the rows that fit a filter as typed."""
        parsed = FeatureFilter.parse(text)
        if parsed != self._filter:
            self._filter = parsed
            self.beginResetModel()
            self._filter_rows()
            self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; column −1 restores the report's own order."""
        descending = order == Qt.SortOrder.DescendingOrder
        self._sorting = (Column(column), descending) if column >= 0 else None
        self.layoutAboutToBeChanged.emit()
        old = self.persistentIndexList()
        kept = [int(self._rows[index.row()]) for index in old]
        self._sort_rows()
        self._filter_rows()
        row_of = {number: row for row, number in enumerate(self._rows.tolist())}
        new = [
            self.index(row_of[number], index.column())
            for number, index in zip(kept, old, strict=True)
        ]
        self.changePersistentIndexList(old, new)
        self.layoutChanged.emit()

    def _sort_rows(self) -> None:
        order = np.arange(len(self._records), dtype=np.int64)
        if self._sorting is not None:
            column, descending = self._sorting
            if column in self._numbers:
                values = self._sites if column == Column.LAYER else self._numbers[column]
                order = np.argsort(-values if descending else values, kind="stable")
            else:
                keys = [self._effects_text(record, column).lower() for record in self._records]
                order = np.array(
                    sorted(range(len(keys)), key=keys.__getitem__, reverse=descending),
                    dtype=np.int64,
                )
        self._order = order

    def _filter_rows(self) -> None:
        wanted = self._filter
        keep = np.ones(len(self._records), dtype=bool)
        for column, ranges in (
            (Column.LAYER, wanted.layers),
            (Column.POSITION, wanted.positions),
            (Column.INDEX, tuple((index, index) for index in wanted.indices)),
        ):
            if ranges and len(keep):
                values = self._numbers[column]
                keep &= np.any([(values >= low) & (values <= high) for low, high in ranges], axis=0)
        for word in wanted.words:
            found = (word in text for text in self._texts())
            keep &= np.fromiter(found, bool, len(keep))
        self._rows = self._order[keep[self._order]]

    def _texts(self) -> list[str]:
        """Return what words are looked for in, by record. Made when it is first needed."""
        if self._haystack is None:
            places = [visible_token(token) for token in self._tokens]
            self._haystack = [
                f"{places[record.position]} {_tokens_text(record.promoted)} "
                f"{_tokens_text(record.suppressed)} {self._label(record)}".lower()
                for record in self._records
            ]
        return self._haystack

    # -- Qt's questions -----------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell says."""
        if not index.isValid():
            return None
        column = Column(index.column())
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(int(self._rows[index.row()]), column)
        if role == BAR_ROLE and column == Column.ACTIVATION:
            return self.record(index.row()).activation / self._strongest
        if role == Qt.ItemDataRole.TextAlignmentRole and column in (Column.LAYER, Column.INDEX):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{_HEADS[column]} {self._text(int(self._rows[index.row()]), column)}"
        return None

    def _text(self, number: int, column: Column) -> str:
        record = self._records[number]
        if column == Column.LAYER:
            return record.site.label if record.kind == "attention" else str(record.layer)
        if column == Column.POSITION:
            return (
                f"{record.position}  {visible_token(self._tokens[record.position], spaces=False)}"
            )
        if column == Column.INDEX:
            return f"#{record.index}"
        if column == Column.ACTIVATION:
            return f"{record.activation:.2f}"
        words = self._effects_text(record, column)
        label = self._label(record) if column == Column.PROMOTED else ""
        return f"{label} · {words}" if label else words

    @staticmethod
    def _effects_text(record: FeatureRecord, column: Column) -> str:
        return _tokens_text(record.promoted if column == Column.PROMOTED else record.suppressed)


def _tokens_text(effects: Sequence[tuple[str, float]]) -> str:
    return ", ".join([visible_token(token, spaces=False) for token, _ in effects[:CELL_TOKENS]])
