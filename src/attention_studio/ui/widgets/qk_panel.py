"""Why an attention feature looks where it looks: the tab beside the connections.

What is shown is one trace (``core.qk_records.FeatureTrace``): the positions that the feature's head
looks at, each with what it adds to the feature, and for one of them the pairs of sources, one on
the query's side and one on the key's, whose products make the score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from PySide6.QtCore import QModelIndex, QObject, Qt, Signal, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QVBoxLayout, QWidget

from attention_studio.core.qk_records import BIAS
from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE, BarDelegate
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import ElidedLabel, label, named, plain_tip
from attention_studio.ui.widgets.graph_scene import GraphScene

if TYPE_CHECKING:
    from attention_studio.core.qk_records import FeatureTrace, KeyTrace
    from attention_studio.ui.theme import Theme

_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
# As many positions are listed, those that add most first.
MAX_POSITIONS = 40


class KeysModel(ColumnsModel):
    """The positions that the head looks at, those that add most to the feature first."""

    HEADS = ("Looks at", "Adds", "Pattern")
    TIPS = (
        "The position that the feature's head looks at",
        "What this position adds to what the feature reads: its z-pattern",
        "How much of its attention the head gives to this position",
    )
    NUMBERS_FROM = 1

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._tokens: tuple[str, ...] = ()
        self._trace: Optional[FeatureTrace] = None
        self.positions: tuple[int, ...] = ()

    def show(self, tokens: tuple[str, ...], trace: Optional[FeatureTrace]) -> None:
        """List the positions of another trace, or none."""
        self.beginResetModel()
        self._tokens, self._trace, self.positions = tokens, trace, ()
        if trace is not None:
            size = np.abs(trace.look.z_pattern)
            order = np.argsort(-size, kind="stable")[:MAX_POSITIONS]
            self.positions = tuple(int(at) for at in order if size[at] > 0)
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many positions are listed."""
        return len(self.positions)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell says."""
        if self._trace is None or not index.isValid():
            return None
        at, column = self.positions[index.row()], index.column()
        z = self._trace.look.z_pattern
        text = (
            f"{at}  {visible_token(self._tokens[at], spaces=False)}",
            f"{z[at]:+.3f}",
            percent(float(self._trace.look.pattern[at])),
        )[column]
        if role == Qt.ItemDataRole.DisplayRole:
            return text
        if role == BAR_ROLE and column == 1:
            return float(z[at] / max(float(np.abs(z).max()), 1e-30))
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= 1:
            return _RIGHT
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {text}"
        return None


class PairsModel(ColumnsModel):
    """The strongest pairs behind the score of one position."""

    HEADS = ("Query side", "Key side", "Score")
    TIPS = (
        "What made the head look for something: a source of the feature's own position",
        "What made it find it there: a source of the position that it looks at",
        "What the pair adds to the score, above the mean of all positions",
    )
    NUMBERS_FROM = 2

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._scene: Optional[GraphScene] = None
        self._names: tuple[str, ...] = ()
        self._key: Optional[KeyTrace] = None

    def show(
        self, scene: Optional[GraphScene], names: tuple[str, ...], key: Optional[KeyTrace]
    ) -> None:
        """List the pairs of another position, or none."""
        self.beginResetModel()
        self._scene, self._names, self._key = scene, names, key
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many pairs are listed."""
        return 0 if self._key is None else len(self._key.pair_value)

    def source(self, row: int, column: int) -> Optional[str]:
        """The name of the node of a side of a pair; None for biases."""
        if self._key is None:
            return None
        side = self._key.pair_key if column == 1 else self._key.pair_query
        name = self._names[int(side[row])]
        return None if name == BIAS else name

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell says."""
        if self._key is None or not index.isValid():
            return None
        row, column = index.row(), index.column()
        values = self._key.pair_value
        text = f"{values[row]:+.3f}" if column == 2 else self._words(self.source(row, column))
        if role == Qt.ItemDataRole.DisplayRole:
            return text
        if role == BAR_ROLE and column == 2:
            return float(values[row] / max(float(np.abs(values).max()), 1e-30))
        if role == Qt.ItemDataRole.TextAlignmentRole and column == 2:
            return _RIGHT
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self.HEADS[column]} {text}"
        if role == Qt.ItemDataRole.ToolTipRole and column < 2:
            return plain_tip(text)
        return None

    def _words(self, name: Optional[str]) -> str:
        if name is None:
            return "biases"
        local = None if self._scene is None else self._scene.local(name)
        if self._scene is None or local is None:
            return name
        about = self._scene.caption(local)
        return f"{self._scene.title(local)}  {about}" if about else self._scene.title(local)


class QKPanel(QWidget):
    """The tab. ``wanted`` asks for the trace of a node's name, ``chosen`` names a node to go to."""

    wanted = Signal(str)
    chosen = Signal(str)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("qkPanel")
        self.setAccessibleName("Queries and keys of the selected attention feature")
        self._theme = theme
        self._scene: Optional[GraphScene] = None
        self._name: Optional[str] = None
        self._trace: Optional[FeatureTrace] = None
        self._asked: Optional[str] = None
        self.says = label("", "caption", name="qk.says", wrap=True)
        self.keys = KeysModel(self)
        self.pairs = PairsModel(self)
        self._keys_table = _table(
            theme, self.keys, 1, "qk.keys", "Positions that are looked at",
            "Choose a position to see which pairs of sources make its score",
        )  # fmt: skip
        self._pairs_table = _table(
            theme, self.pairs, 2, "qk.pairs", "Pairs that make the score",
            "What asked and what answered; Enter goes to the node",
        )  # fmt: skip
        self._pairs_head = ElidedLabel(role="section")
        self._pairs_head.setObjectName("qk.pairs.head")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.setSpacing(4)
        self.says.setContentsMargins(10, 0, 10, 0)
        self._pairs_head.setContentsMargins(10, 4, 10, 0)
        layout.addWidget(self.says)
        layout.addWidget(self._keys_table, 2)
        layout.addWidget(self._pairs_head)
        layout.addWidget(self._pairs_table, 3)
        self._rest = QWidget()
        layout.addWidget(self._rest, 1)
        self._keys_table.selectionModel().currentRowChanged.connect(self._on_key)
        self._pairs_table.activated.connect(self._on_pair)
        self._pairs_table.doubleClicked.connect(self._on_pair)
        theme.changed.connect(self._on_theme)
        self.show_node(None, None)

    def show_node(self, scene: Optional[GraphScene], name: Optional[str]) -> None:
        """Be about another node. What is asked of the model is asked when the tab is seen."""
        same = name == self._name and (self._trace is not None or self._asked == name)
        self._scene, self._name = scene, name
        if not same:
            self._trace = self._asked = None
        self._fill()
        self._ask()

    def show_trace(self, name: str, trace: FeatureTrace) -> None:
        """Show what was traced, if the node is still the one that is shown."""
        if name == self._name:
            self._trace, self._asked = trace, None
            self._fill()

    def show_refusal(self, why: str) -> None:
        """Say why there is no trace."""
        self._asked = None
        self.says.setText(why)

    def showEvent(self, event: QShowEvent) -> None:
        """Ask for what was not asked for while nobody saw it."""
        super().showEvent(event)
        self._ask()

    def _ask(self) -> None:
        if self.isVisible() and self._is_attention() and self._trace is None and not self._asked:
            assert self._name is not None
            self._asked = self._name
            self.says.setText("Asking why the head looks there…")
            self.wanted.emit(self._name)

    def _is_attention(self) -> bool:
        return self._name is not None and self._name.startswith("A") and "/F" in self._name

    def _fill(self) -> None:
        trace = self._trace
        tokens = () if self._scene is None else self._scene.tokens
        self.keys.show(tokens, trace)
        for widget in (self._keys_table, self._pairs_head, self._pairs_table):
            widget.setVisible(trace is not None)
        self._rest.setVisible(trace is None)
        if trace is None:
            self.pairs.show(None, (), None)
            if not self._asked:
                self.says.setText(
                    "Select an attention feature (▲ in a row A…) to see where its head looks, and "
                    "which pairs of sources make it look there."
                )
            return
        look = trace.look
        at = f"{look.position} {visible_token(tokens[look.position])}" if tokens else look.position
        self.says.setText(f"QK head {look.head} looks from position {at}.")
        if self.keys.n_rows:
            self._keys_table.selectRow(0)

    @Slot(QModelIndex, QModelIndex)
    def _on_key(self, current: QModelIndex, _previous: QModelIndex) -> None:
        trace = self._trace
        if trace is None or not current.isValid():
            self.pairs.show(None, (), None)
            return
        at = self.keys.positions[current.row()]
        key = next((key for key in trace.trace.keys if key.key == at), None)
        self.pairs.show(self._scene, trace.trace.names, key)
        if key is None:
            self._pairs_head.set_whole(f"Position {at}: adds too little to be traced")
        else:
            self._pairs_head.set_whole(
                f"Position {at}: score {key.score:+.2f}, {key.score - key.baseline:+.2f} above the "
                "mean"
            )

    @Slot(QModelIndex)
    def _on_pair(self, index: QModelIndex) -> None:
        name = self.pairs.source(index.row(), index.column()) if index.isValid() else None
        if name is not None:
            self.chosen.emit(name)

    @Slot()
    def _on_theme(self) -> None:
        for table in (self._keys_table, self._pairs_table):
            table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 9)


def _table(
    theme: Theme, model: ColumnsModel, bar: int, name: str, accessible: str, tip: str
) -> QTableView:
    table = named(QTableView(), name, accessible, tip)
    table.setModel(model)
    table.setItemDelegateForColumn(bar, BarDelegate(theme, table))
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setShowGrid(False)
    table.setWordWrap(False)
    table.setTabKeyNavigation(False)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 9)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    header.setSectionResizeMode(len(model.HEADS) - 1, QHeaderView.ResizeMode.ResizeToContents)
    return table
