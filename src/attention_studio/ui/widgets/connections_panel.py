"""What feeds the selected node of a graph and what it feeds, and the pinned nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QObject,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import QKeyEvent, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QListView,
    QScrollArea,
    QSizePolicy,
    QSplitter,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE, BarDelegate
from attention_studio.ui.widgets.columns_model import ROOT, ColumnsModel, Index
from attention_studio.ui.widgets.controls import (
    ElidedLabel,
    icon_button,
    label,
    named,
    plain_tip,
)
from attention_studio.ui.widgets.feature_tab import FeatureTab
from attention_studio.ui.widgets.graph_scene import (
    FEATURE,
    GraphScene,
    LinkMode,
)
from attention_studio.ui.widgets.qk_panel import QKPanel

if TYPE_CHECKING:
    from attention_studio.core.graph_notes import Supernode
    from attention_studio.ui.theme import Theme

_COLUMNS = ("Node", "At", "Weight", "Share")
# From an input towards the node, from the node towards what it feeds.
# A scroll bar at its widest.
_BAR = 12
_ARROWS = {LinkMode.INPUTS: "↘", LinkMode.OUTPUTS: "↗"}
_TIPS = (
    "The other end of the edge",
    "Token at which the other node stands",
    "Attribution: what the source adds to the target, in the target's own units",
    "The edge's part of all that flows into its target, with its sign",
)


class ConnectionsModel(ColumnsModel):
    """The edges into, or out of, one node, strongest first."""

    HEADS = _COLUMNS
    TIPS = _TIPS

    def __init__(self, mode: LinkMode, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._mode = mode
        self._scene: Optional[GraphScene] = None
        self._edges = np.zeros(0, dtype=np.int64)
        self._others = np.zeros(0, dtype=np.int64)
        self._longest = 1.0

    def show(self, scene: Optional[GraphScene], local: Optional[int]) -> None:
        """List the edges of another node."""
        self.beginResetModel()
        self._scene = scene
        if scene is None or local is None:
            self._edges = self._others = np.zeros(0, dtype=np.int64)
        else:
            self._edges = scene.edges_of(local, self._mode)[::-1]
            ends = scene.edge_source if self._mode is LinkMode.INPUTS else scene.edge_target
            self._others = ends[self._edges]
            shares = np.abs(scene.edge_share[self._edges])
            self._longest = max(float(shares.max(initial=0.0)), 1e-9)
        self.endResetModel()

    def name(self, row: int) -> str:
        """Return the name of the node in a row."""
        assert self._scene is not None
        return self._scene.names[int(self._others[row])]

    def total_share(self) -> float:
        """Return how much of the target's input the listed edges are, signs left out."""
        if self._scene is None:
            return 0.0
        return float(np.abs(self._scene.edge_share[self._edges]).sum())

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._edges)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell says."""
        scene = self._scene
        if scene is None or not index.isValid():
            return None
        edge, other = int(self._edges[index.row()]), int(self._others[index.row()])
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(scene, edge, other, column)
        if role == BAR_ROLE and column == 3:
            return float(scene.edge_share[edge]) / self._longest
        if role == Qt.ItemDataRole.TextAlignmentRole and column >= 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{_COLUMNS[column]} {self._text(scene, edge, other, column)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            weight, share = (self._text(scene, edge, other, which) for which in (2, 3))
            return plain_tip(f"{scene.describe(other)}, weight {weight}, share {share}")
        return None

    def row_of(self, name: Optional[str]) -> int:
        """Return the row of a node; -1 where it is not listed."""
        local = None if self._scene is None else self._scene.local(name)
        if local is None:
            return -1
        found = np.flatnonzero(self._others == local)
        return int(found[0]) if len(found) else -1

    def _text(self, scene: GraphScene, edge: int, other: int, column: int) -> str:
        if column == 0:
            words = scene.caption(other)
            title = f"{_ARROWS[self._mode]} {scene.title(other)}"
            return f"{title}  {words}" if words else title
        if column == 1:
            return visible_token(scene.tokens[int(scene.column[other])], spaces=False)
        if column == 2:
            return f"{scene.edge_weight[edge]:+.2f}"
        share = float(scene.edge_share[edge])
        return f"{'+' if share >= 0 else '-'}{percent(abs(share))}"


class ConnectionsTable(QTableView):
    """A table of edges in which a row is a node to go to."""

    chosen = Signal(str)
    pointed = Signal(object)

    def __init__(self, theme: Theme, mode: LinkMode, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.edges = ConnectionsModel(mode, self)
        self.setModel(self.edges)
        self.setItemDelegateForColumn(3, BarDelegate(theme, self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMouseTracking(True)
        self.setTabKeyNavigation(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 9)
        header = self.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.entered.connect(self._on_entered)
        self.clicked.connect(self._on_chosen)
        self.activated.connect(self._on_chosen)
        self.size_columns()

    def size_columns(self) -> None:
        """Give the narrow columns the width of what they hold in today's font."""
        metrics = self.fontMetrics()
        for column, sample in ((1, "Tower,"), (2, "+00.00,"), (3, "+00.0%00")):
            self.setColumnWidth(column, metrics.horizontalAdvance(sample) + 10)
        self.verticalHeader().setDefaultSectionSize(metrics.height() + 9)

    def mark(self, name: Optional[str]) -> None:
        """Mark the row of the node that is pointed at elsewhere, or none."""
        row = self.edges.row_of(name)
        if row < 0:
            self.clearSelection()
        else:
            self.selectRow(row)
            self.scrollTo(self.edges.index(row, 0))

    @Slot(QModelIndex)
    def _on_entered(self, index: QModelIndex) -> None:
        self.pointed.emit(self.edges.name(index.row()))

    @Slot(QModelIndex)
    def _on_chosen(self, index: QModelIndex) -> None:
        if index.isValid():
            self.chosen.emit(self.edges.name(index.row()))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave out what has no room beside the names; the row's tooltip says it all."""
        super().resizeEvent(event)
        letters = event.size().width() / self.fontMetrics().averageCharWidth()
        self.setColumnHidden(1, letters < 34)
        self.setColumnHidden(2, letters < 39)

    def leaveEvent(self, event: QEvent) -> None:
        """Point at nothing."""
        super().leaveEvent(event)
        self.pointed.emit(None)


class PinsModel(QAbstractListModel):
    """The pinned nodes."""

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._pins: list[tuple[str, str]] = []

    def show(self, pins: Sequence[tuple[str, str]]) -> None:
        """List other pins, as (name, text). The same ones keep their place in the view."""
        if list(pins) != self._pins:
            self.beginResetModel()
            self._pins = list(pins)
            self.endResetModel()

    def name(self, row: int) -> str:
        """Return the name of the node in a row."""
        return self._pins[row][0]

    def rowCount(self, parent: Index = ROOT) -> int:
        """One row per pin."""
        return 0 if parent.isValid() else len(self._pins)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a pin is called."""
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return self._pins[index.row()][1]
        return None


class PinList(QListView):
    """The pinned nodes; Delete unpins."""

    chosen = Signal(str)
    unpinned = Signal(str)

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.pins = PinsModel(self)
        self.setModel(self.pins)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.clicked.connect(self._on_chosen)
        self.activated.connect(self._on_chosen)

    @Slot(QModelIndex)
    def _on_chosen(self, index: QModelIndex) -> None:
        if index.isValid():
            self.chosen.emit(self.pins.name(index.row()))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Unpin with Delete or Backspace."""
        index = self.currentIndex()
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and index.isValid():
            self.unpinned.emit(self.pins.name(index.row()))
            return
        super().keyPressEvent(event)


class ConnectionsPanel(QWidget):
    """The selected node in words, its edges in two tables, and the pinned nodes.

    ``chosen`` carries a node to select, ``pointed`` one to show (or None), ``pin_toggled`` one to
    pin or unpin.
    """

    chosen = Signal(str)
    pointed = Signal(object)
    pin_toggled = Signal(str)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._name: Optional[str] = None
        self.setObjectName("connectionsPanel")
        self.setAccessibleName("Connections of the selected node")
        self.setMinimumWidth(220)
        self._title = ElidedLabel(role="title")
        self._title.setObjectName("connections.title")
        self._facts = label(role="caption", name="connections.facts", wrap=True)
        self._pin = icon_button(
            theme, "pin", "connections.pin", "Pin the selected node",
            "Pin the selected node, or let it go (P)",
        )  # fmt: skip
        self._pin.setCheckable(True)
        self._pin.clicked.connect(self._on_pin)
        self._tables: dict[LinkMode, ConnectionsTable] = {}
        self._heads: dict[LinkMode, ElidedLabel] = {}
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        for mode, text in ((LinkMode.INPUTS, "Inputs"), (LinkMode.OUTPUTS, "Outputs")):
            table = ConnectionsTable(theme, mode)
            named(table, f"connections.{mode.value}", f"{text} of the selected node",
                  "Click a row to go to its node")  # fmt: skip
            table.setToolTip("")
            table.chosen.connect(self.chosen)
            table.pointed.connect(self.pointed)
            head = ElidedLabel(role="section")
            head.setObjectName(f"connections.{mode.value}.head")
            self._tables[mode], self._heads[mode] = table, head
            splitter.addWidget(_section(head, table))
        self._pins_head = ElidedLabel("Pinned", "section")
        self._pins = PinList()
        named(self._pins, "connections.pins", "Pinned nodes", "Click to select, Delete to unpin")
        self._pins.chosen.connect(self.chosen)
        self._pins.unpinned.connect(self.pin_toggled)
        hint = "Ctrl-click a node, or press P, to keep it here."
        self._no_pins = label(hint, "caption", wrap=True)
        self._no_pins.setContentsMargins(10, 0, 10, 8)
        self._no_pins.setAlignment(Qt.AlignmentFlag.AlignTop)
        pins = _section(self._pins_head, self._no_pins, self._pins)
        splitter.addWidget(pins)
        splitter.setSizes([300, 220, 110])
        self.qk = QKPanel(theme)
        self.qk.chosen.connect(self.chosen)
        self.feature = FeatureTab(theme)
        self.tabs = QTabWidget()
        named(self.tabs, "connections.tabs", "What is shown of the selected node")
        self.tabs.setDocumentMode(True)
        links = QScrollArea()
        links.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        links.setWidgetResizable(True)
        links.setWidget(splitter)
        for page, text, tip in (
            (links, "Links", "What feeds the selected node, and what it feeds"),
            (self.feature, "Feature", "Where the selected feature fires, and what it says"),
            (self.qk, "QK", "Why an attention feature looks where it looks"),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(page, text), tip)
        top = QHBoxLayout()
        top.setContentsMargins(10, 8, 6, 0)
        top.addWidget(self._title, 1)
        top.addWidget(self._pin)
        self._facts.setContentsMargins(10, 0, 10, 4)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(top)
        layout.addWidget(self._facts)
        layout.addWidget(self.tabs, 1)
        theme.changed.connect(self._on_theme_changed)
        self.show_node(None, None)
        self.show_pins(None, ())

    def table(self, mode: LinkMode) -> ConnectionsTable:
        """Return the table of inputs or of outputs."""
        return self._tables[mode]

    @property
    def pins(self) -> PinList:
        """The list of pinned nodes."""
        return self._pins

    def show_group(self, scene: Optional[GraphScene], group: Supernode) -> None:
        """Say what a supernode is: its links are the subgraph's business."""
        self.show_node(scene, None)
        self._title.set_whole(group.name)
        members = (name if scene is None else _pin_text(scene, name) for name in group.nodes)
        self._facts.setText(
            f"A supernode of {len(group.nodes)}: {', '.join(members)}. The Subgraph dock shows "
            "its links."
        )

    def show_node(self, scene: Optional[GraphScene], name: Optional[str]) -> None:
        """Show another node: its facts and its edges."""
        self._name = name
        local = None if scene is None else scene.local(name)
        self._pin.setEnabled(local is not None)
        if scene is None or local is None:
            self._title.set_whole("No node selected" if name is None else name)
            self._facts.setText(
                "Click a node to see what feeds it and what it feeds."
                if name is None
                else "Not in the picture at these thresholds. Raise the node threshold to see it."
            )
        else:
            self._title.set_whole(scene.title(local))
            self._facts.setText(_facts(scene, local))
        for mode, table in self._tables.items():
            table.edges.show(scene, local)
            table.scrollToTop()
            n_rows = table.edges.rowCount()
            word = "Inputs" if mode is LinkMode.INPUTS else "Outputs"
            text = f"{word} · {n_rows}" if local is not None else word
            if mode is LinkMode.INPUTS and n_rows:
                text += f" · {percent(table.edges.total_share())} of what flows in"
            self._heads[mode].set_whole(text)
        self.feature.show_node(name)
        self.qk.show_node(scene, name)

    def point_at(self, name: Optional[str]) -> None:
        """Mark the row of the node that is pointed at in the picture."""
        for table in self._tables.values():
            # Not while it is the table that points.
            if not table.underMouse():
                table.mark(name)

    def show_pins(self, scene: Optional[GraphScene], names: Sequence[str]) -> None:
        """Show other pins."""
        self._pins.pins.show([(name, _pin_text(scene, name)) for name in names])
        self._pins.setVisible(bool(names))
        self._no_pins.setVisible(not names)
        self._pins_head.set_whole(f"Pinned · {len(names)}" if names else "Pinned")
        self._pin.setChecked(self._name is not None and self._name in names)

    @Slot()
    def _on_pin(self) -> None:
        if self._name is not None:
            self.pin_toggled.emit(self._name)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Give what is said where nothing is pinned its lines."""
        super().resizeEvent(event)
        self._fit_hint()

    @Slot()
    def _on_theme_changed(self) -> None:
        for table in self._tables.values():
            table.size_columns()
        self._fit_hint()

    def _fit_hint(self) -> None:
        # A splitter asks its parts for no height at a width.
        self._no_pins.setMinimumHeight(self._no_pins.heightForWidth(self.width() - _BAR))


def _section(*widgets: QWidget) -> QWidget:
    """Return a heading with what stands below it."""
    box = QWidget()
    layout = QVBoxLayout(box)
    layout.setContentsMargins(0, 6, 0, 0)
    layout.setSpacing(2)
    for number, widget in enumerate(widgets):
        if number == 0:
            widget.setContentsMargins(10, 0, 10, 0)
        layout.addWidget(widget, 1 if number == len(widgets) - 1 else 0)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
    return box


def _facts(scene: GraphScene, local: int) -> str:
    shown = (fact for fact in scene.facts(local) if fact[0] not in ("Kind", "Layer"))
    facts = [f"{name} {value}" for name, value in shown]
    words = scene.promotes(local)
    lines = [f"promotes {words}"] if words else []
    if scene.label(local):
        lines.insert(0, f"“{scene.label(local)}”")
    return "\n".join([*lines, " · ".join(facts)])


def _pin_text(scene: Optional[GraphScene], name: str) -> str:
    local = None if scene is None else scene.local(name)
    if scene is None or local is None:
        return f"{name} (not in the picture)"
    words = scene.caption(local)
    text = f"{scene.title(local)}  {words}" if words else scene.title(local)
    if scene.kind[local] == FEATURE:
        text += f"  at {visible_token(scene.tokens[int(scene.column[local])], spaces=False)}"
    return text
