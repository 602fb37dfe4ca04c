"""How good each module's dictionary is: a table that marks what is bad, and its histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QObject,
    QSortFilterProxyModel,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QVBoxLayout, QWidget

from attention_studio.core.crm_quality import defects
from attention_studio.ui import text
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import label, named
from attention_studio.ui.widgets.train_history import module_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.sites import Site
    from attention_studio.core.training_events import SiteMetrics
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.widgets.module_histograms import ModuleHistograms

SORT_ROLE = int(Qt.ItemDataRole.UserRole) + 1

# Metric, head, what it means.
_COLUMNS = (
    ("site", "Module", "In order of the forward pass"),
    ("fvu", "FVU", "Share of the output's variance that is not explained"),
    ("affine_fvu", "Affine", "FVU of the best affine map without latents, at the end of training"),
    ("l0", "L0", "Active latents per token"),
    ("dead_fraction", "Dead", "Latents that never fire on the held-out text"),
    ("dense_fraction", "Dense", "Latents that fire at more than a tenth of the tokens"),
    ("loss_recovered", "Recovered", "Of the model's loss, with this module alone replaced"),
    ("kl", "KL", "To the model's own predictions, with this module alone replaced; nats per token"),
)


def number_text(name: str, value: Optional[float]) -> str:
    """A metric for people, by its name in ``SiteMetrics``."""
    if value is None:
        return "-"
    if name.endswith("_fraction"):
        return text.percent(value)
    return f"{value:.1f}" if name == "l0" else f"{value:.3f}"


class ModuleTable(ColumnsModel):
    """One module per row. What is bad carries a sign, a colour and its reason."""

    HEADS = tuple(head for _, head, _ in _COLUMNS)
    TIPS = tuple(tip for _, _, tip in _COLUMNS)
    NUMBERS_FROM = 1

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._rows: tuple[SiteMetrics, ...] = ()
        theme.changed.connect(self._on_theme)

    def set_rows(self, rows: Sequence[SiteMetrics]) -> None:
        """Show these modules. The selection stays if they are the same as before."""
        ordered = tuple(sorted(rows, key=lambda found: found.site))
        if [r.site for r in ordered] != [r.site for r in self._rows]:
            self.beginResetModel()
            self._rows = ordered
            self.endResetModel()
            return
        self._rows = ordered
        if ordered:
            self.dataChanged.emit(self.index(0, 0), self.index(len(ordered) - 1, len(_COLUMNS) - 1))

    @property
    def rows(self) -> tuple[SiteMetrics, ...]:
        """The modules, in order of the forward pass."""
        return self._rows

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        found, (name, head, _) = self._rows[index.row()], _COLUMNS[index.column()]
        wrong = defects(found).get(name)
        if role == SORT_ROLE:
            value = getattr(found, name)
            # What is not known sorts below everything.
            return found.site.number if name == "site" else -1e30 if value is None else value
        if role == Qt.ItemDataRole.ToolTipRole:
            return wrong
        if role == Qt.ItemDataRole.ForegroundRole and wrong:
            return self._theme.colour("error")
        if role == Qt.ItemDataRole.TextAlignmentRole and name != "site":
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return None
        shown = (
            module_text(found.site) if name == "site" else number_text(name, getattr(found, name))
        )
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{head} {shown}{f'. {wrong}' if wrong else ''}"
        return f"⚠ {shown}" if wrong else shown

    @Slot()
    def _on_theme(self) -> None:
        if self._rows:
            last = self.index(len(self._rows) - 1, len(_COLUMNS) - 1)
            self.dataChanged.emit(self.index(0, 0), last, [Qt.ItemDataRole.ForegroundRole])


def number_table(model: QAbstractTableModel, name: str, accessible: str, tip: str) -> QTableView:
    """A sortable view of a table whose first column takes the room that is left."""
    view = named(QTableView(), name, accessible, tip)
    proxy = QSortFilterProxyModel(view)
    proxy.setSourceModel(model)
    proxy.setSortRole(SORT_ROLE)
    view.setModel(proxy)
    view.setSortingEnabled(True)
    view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    view.verticalHeader().hide()
    view.setShowGrid(False)
    view.setWordWrap(False)
    view.setTabKeyNavigation(False)
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    header = view.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    header.setHighlightSections(False)
    header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    return view


class ModulesPanel(QWidget):
    """The table of modules above the histograms of those that are chosen.

    ``chosen`` carries the ``Site`` of a row that a person selected.
    """

    chosen = Signal(object)

    def __init__(self, name: str, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._name, self._theme = name, theme
        self.model = ModuleTable(theme, self)
        self.table = number_table(
            self.model, f"{name}.modules", "Modules",
            "What each module's dictionary reaches on held-out text; ⚠ marks what is bad",
        )  # fmt: skip
        self.table.setMinimumHeight(110)
        self._sites: tuple[Site, ...] = ()
        self._showing = False
        self.histograms: Optional[ModuleHistograms] = None
        self._caption = label("", "caption", name=f"{name}.shown", wrap=True)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)
        self._layout.addWidget(self.table, 3)
        self._layout.addWidget(self._caption)
        self._caption.setContentsMargins(12, 4, 12, 0)
        self.table.selectionModel().selectionChanged.connect(self._on_selected)

    def make_plots(self) -> None:
        """Add the histograms, once pyqtgraph is there."""
        from attention_studio.ui.widgets.module_histograms import ModuleHistograms

        self.histograms = ModuleHistograms(self._name, self._theme)
        self.histograms.setMinimumHeight(150)
        self._layout.addWidget(self.histograms, 2)
        self._draw()

    def show_rows(self, rows: Sequence[SiteMetrics]) -> None:
        """Show these modules' numbers; the histograms stay with the chosen ones."""
        self.model.set_rows(rows)
        self._draw()

    def choose(self, sites: tuple[Site, ...], text: str) -> None:
        """Show the histograms of these modules, which are called ``text``."""
        self._sites = sites
        self._caption.setText(f"Latents and tokens of {text}, on held-out text")
        self._showing = True
        selection = self.table.selectionModel()
        places = [n for n, found in enumerate(self.model.rows) if found.site in sites]
        if len(sites) == 1 and places:
            proxy: Any = self.table.model()
            self.table.selectRow(proxy.mapFromSource(self.model.index(places[0], 0)).row())
        else:
            selection.clearSelection()
        self._showing = False
        self._draw()

    def _draw(self) -> None:
        if self.histograms is not None:
            wanted = [found for found in self.model.rows if found.site in self._sites]
            self.histograms.show_modules(wanted)

    @Slot(QItemSelection, QItemSelection)
    def _on_selected(self, _now: object, _before: object) -> None:
        indexes = self.table.selectionModel().selectedRows()
        if indexes and not self._showing:
            proxy: Any = self.table.model()
            self.chosen.emit(self.model.rows[proxy.mapToSource(indexes[0]).row()].site)
