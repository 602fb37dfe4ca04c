"""The Errors dock: where in the model, and on which token, the dictionaries miss what matters."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.sites import Site, all_sites
from attention_studio.ui import text
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.bar_delegate import BAR_ROLE, BarDelegate
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import CommandButton, label, named, row
from attention_studio.ui.widgets.heat_map import HeatMap
from attention_studio.ui.widgets.heat_map_painter import Cells
from attention_studio.ui.widgets.module_table import SORT_ROLE, number_table
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.train_history import module_text

if TYPE_CHECKING:
    from attention_studio.core.error_map import ErrorMap

HALF = 0.5
"""Unless modules are chosen, those are trained next that hold this share of the errors."""
_MEASURES = (
    ("Influence on the output", "influence"),
    ("Size of what is missed", "size"),
)


class ErrorModules(ColumnsModel):
    """Modules by the share of the influence that starts in their errors; those without a dictionary
    come last, since what they do is not broken down at all."""

    HEADS = ("Module", "Most at", "Influence")
    TIPS = (
        "Whose dictionary, or that it has none",
        "The token at which the module's error has most influence",
        "Share of the influence on the output that starts in the module's errors",
    )
    NUMBERS_FROM = 2

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._errors: Optional[ErrorMap] = None
        self.sites: tuple[Site, ...] = ()
        self._shares: dict[Site, float] = {}

    def show_errors(self, errors: Optional[ErrorMap], bare: tuple[Site, ...]) -> None:
        """Show a graph's errors, and the modules that have no dictionary."""
        self.beginResetModel()
        self._errors = errors
        self._shares = {} if errors is None else dict(errors.by_module())
        self.sites = (*self._shares, *bare)
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.sites)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        site, column = self.sites[index.row()], index.column()
        share = self._shares.get(site)
        if role == SORT_ROLE:
            return (site.number, self._token(site), -1.0 if share is None else share)[column]
        if role == Qt.ItemDataRole.TextAlignmentRole and column == 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == BAR_ROLE and column == 2 and share is not None:
            return share / max(self._shares.values()) if share > 0 else 0.0
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return None
        if column == 0:
            return module_text(site) if share is not None else f"{module_text(site)}, no dictionary"
        if column == 2:
            return "-" if share is None else text.percent(share)
        return self._token(site)

    def _token(self, site: Site) -> str:
        errors = self._errors
        if errors is None or site not in self._shares:
            return ""
        influence = errors.influence[errors.sites.index(site)]
        if not influence.any():
            return ""
        return visible_token(errors.tokens[int(np.argmax(influence))], spaces=False)


class ErrorsDock(StudioDock):
    """A map of the error nodes of the graph, and the modules behind it.

    ``training_wanted`` carries the sites that a person wants to train next.
    """

    NAME = "errorsDock"
    TITLE = "Errors"
    ICON = "warning"
    LAZY = True
    WATCHES = frozenset((SessionPart.GRAPH, SessionPart.SELECTION))

    training_wanted = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self.errors: Optional[ErrorMap] = None
        self._told = label("", "caption", wrap=True, name="errors.told")
        self.measure = QComboBox()
        named(self.measure, "errors.measure", "What the map shows",
              "Influence: how much of the output starts in an error. Size: how much a dictionary "
              "leaves out, whether or not it matters here")  # fmt: skip
        for shown, name in _MEASURES:
            self.measure.addItem(shown, name)
        self.map = HeatMap(self.theme, self._describe)
        named(
            self.map,
            "errors.map",
            "Map of errors",
            "Rows are modules, columns are tokens; Enter selects the error in the graph",
        )
        self.model = ErrorModules(self)
        self.table = number_table(
            self.model, "errors.modules", "Modules by what they miss",
            "Choose modules to train next, or to see in the graph",
        )  # fmt: skip
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
        self.table.setItemDelegateForColumn(2, BarDelegate(self.theme, self.table))
        right = QWidget()
        right.setObjectName("formBody")
        column = QVBoxLayout(right)
        column.setContentsMargins(8, 6, 12, 8)
        column.setSpacing(6)
        column.addWidget(self.table, 1)
        column.addLayout(
            row(
                CommandButton(self.commands, "errors.train", look="primary", icon=False),
                CommandButton(self.commands, "errors.show", icon=False),
                stretch=2,
            )
        )
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("errors.splitter")
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(self.map)
        splitter.addWidget(right)
        splitter.setSizes([640, 360])
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        head = row(self._told, self.measure, stretch=0)
        head.setContentsMargins(12, 8, 12, 6)
        layout.addLayout(head)
        layout.addWidget(splitter, 1)
        self.set_content(body)
        self.set_empty(
            "What the dictionaries miss",
            "Every graph has error nodes: what a module does that its dictionary does not explain. "
            "Here they are a map of modules and tokens, with what to train next.",
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        self.measure.currentIndexChanged.connect(self._show_map)
        self.map.chosen.connect(self._on_cell)
        self.table.selectionModel().selectionChanged.connect(self._on_rows)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def train_missing(self) -> None:
        """Set the Train dock up for the chosen modules, or for those that miss most."""
        sites = self.chosen_sites()
        if sites:
            self.training_wanted.emit(sites)

    @Slot()
    def show_in_graph(self) -> None:
        """Emphasise the errors of the chosen modules in the graph."""
        graph, errors = self.session.graph, self.errors
        if graph is None or errors is None:
            return
        chosen = set(self.chosen_sites())
        rows = [place for place, site in enumerate(errors.sites) if site in chosen]
        nodes = errors.nodes[rows]
        names = {graph.node_name(int(node)): Role.MARKED for node in nodes[nodes >= 0]}
        title = f"Errors of {', '.join(module_text(errors.sites[place]) for place in rows)}"
        self.session.set_highlight(Highlight(title, MappingProxyType(names)), self)

    def chosen_sites(self) -> tuple[Site, ...]:
        """The modules that are chosen in the table; without any those that hold half of what starts
        in errors, and where no error has influence, those without a dictionary."""
        proxy: Any = self.table.model()
        rows = self.table.selectionModel().selectedRows()
        chosen = tuple(sorted(self.model.sites[proxy.mapToSource(r).row()] for r in rows))
        if chosen or self.errors is None:
            return chosen
        return self.errors.worst(HALF) or tuple(
            site for site in self.model.sites if site not in self.errors.sites
        )

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The map, and the table of modules."""
        if not self.made or self.errors is None or not self.errors.sites:
            return ()
        return (
            FigureOffer("errors.map", "Map of errors", self._map_figure),
            FigureOffer("errors.modules", "Modules by what they miss", self._table_figure),
        )

    def _caption(self) -> str:
        graph = self.session.graph
        if graph is None:
            return ""
        return (
            f"Errors of the attribution graph of “{graph.prompt}” in {graph.model_name}, traced "
            f"with {graph.crm_name}: {self._told.text()}"
        )

    def _map_figure(self) -> Optional[Figure]:
        from attention_studio.ui.figures.cells_figure import CellsFigure

        cells = self.map.cells
        if cells is None:
            return None
        shown = self.measure.currentText()
        colour = f"{shown[0].lower()}{shown[1:]}, the largest in full colour"
        caption = f"{self._caption()} Colour: {colour}."
        return CellsFigure("errors", "Map of errors", caption, cells, self.map.marked)

    def _table_figure(self) -> Optional[Figure]:
        return of_view(self.table, "error-modules", "Modules by what they miss", self._caption())

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show the graph's errors, and the selected one among them."""
        graph = self.session.graph
        self.show_empty(graph is None)
        if SessionPart.GRAPH in parts:
            # numpy, networkx: not before there is a graph.
            from attention_studio.core.error_map import error_map

            self.errors = None if graph is None else error_map(graph)
            bare: tuple[Site, ...] = ()
            if graph is not None and self.errors is not None:
                there = set(self.errors.sites)
                bare = tuple(site for site in all_sites(graph.n_layers) if site not in there)
            self.model.show_errors(self.errors, bare)
            self._show_map()
            self._tell()
        self._follow_selection()

    def _tell(self) -> None:
        errors = self.errors
        if errors is None:
            return
        if not errors.sites:
            self._told.setText("This graph has no dictionaries, and so no errors.")
            return
        worst = errors.worst(HALF)
        told = f"{text.percent(errors.share)} of the influence on the output starts in errors"
        if worst:
            names = ", ".join(module_text(site) for site in worst[:6])
            more = f" and {len(worst) - 6} more" if len(worst) > 6 else ""
            told += f"; half of that in {names}{more}"
        self._told.setText(f"{told}.")

    @Slot()
    def _show_map(self) -> None:
        errors = self.errors
        if errors is None:
            self.map.show_cells(None)
            return
        values = errors.influence if self.measure.currentData() == "influence" else errors.size
        self.map.show_cells(
            Cells(
                tuple(site.label for site in errors.sites),
                errors.tokens,
                values,
                errors.nodes >= 0,
            )
        )

    def _describe(self, module: int, position: int) -> str:
        errors = self.errors
        if errors is None:
            return ""
        share = errors.influence[module, position] / errors.total if errors.total else 0.0
        token = visible_token(errors.tokens[position])
        return (
            f"{module_text(errors.sites[module])} at “{token}” (position {position}): "
            f"{text.percent(float(share))} of the influence, "
            f"size {errors.size[module, position]:.3g}"
        )

    def _follow_selection(self) -> None:
        graph, errors, selection = self.session.graph, self.errors, self.session.selection
        if graph is None or errors is None:
            return
        cell = None
        if selection is not None and graph.has(selection):
            found = np.argwhere(errors.nodes == graph.find(selection))
            if len(found):
                cell = (int(found[0][0]), int(found[0][1]))
        self.map.set_cursor_cell(cell)

    @Slot(int, int)
    def _on_cell(self, module: int, position: int) -> None:
        graph, errors = self.session.graph, self.errors
        if graph is not None and errors is not None and errors.nodes[module, position] >= 0:
            name = graph.node_name(int(errors.nodes[module, position]))
            self.session.set_selection(name, self)

    @Slot()
    def _on_rows(self) -> None:
        if self.errors is None or not self.table.selectionModel().hasSelection():
            self.map.mark_rows(())
            return
        chosen = set(self.chosen_sites())
        self.map.mark_rows([n for n, site in enumerate(self.errors.sites) if site in chosen])
