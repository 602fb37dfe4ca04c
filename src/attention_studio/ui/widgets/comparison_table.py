"""Several replacement models side by side, one per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt

from attention_studio.ui.widgets.columns_model import ColumnsModel, Index
from attention_studio.ui.widgets.controls import plain_tip
from attention_studio.ui.widgets.module_table import SORT_ROLE, number_text

if TYPE_CHECKING:
    from attention_studio.core.crm_quality import CRMComparison, CRMQuality

# Name in ``CRMQuality.summary``, head, what it means.
_COLUMNS = (
    ("", "Folder", "Where the replacement model is kept"),
    ("modules", "Modules", "How many modules of the model it replaces"),
    ("mean_fvu", "FVU", "Share of variance that is not explained, mean over modules"),
    ("mean_l0", "L0", "Active latents per token, mean over modules"),
    ("mean_dead_fraction", "Dead", "Latents that never fire, mean over modules"),
    ("loss_recovered", "Recovered", "Of the model's loss, with all modules replaced at once"),
    ("kl", "KL", "To the model's own predictions, with all modules replaced; nats per token"),
    ("replacement", "Repl.", "Replacement score, mean over the prompts: influence that starts at "
     "tokens rather than errors"),
    ("completeness", "Compl.", "Completeness score, mean over the prompts: edge inputs that are no "
     "errors"),
)  # fmt: skip


class ComparisonTable(ColumnsModel):
    """One replacement model per row: means over its modules and prompts."""

    HEADS = tuple(head for _, head, _ in _COLUMNS)
    TIPS = tuple(tip for _, _, tip in _COLUMNS)
    NUMBERS_FROM = 1

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._crms: tuple[CRMQuality, ...] = ()

    def set_comparison(self, comparison: Optional[CRMComparison]) -> None:
        """Show these replacement models."""
        self.beginResetModel()
        self._crms = () if comparison is None else comparison.crms
        self.endResetModel()

    def crm(self, row: int) -> CRMQuality:
        """The replacement model in a row."""
        return self._crms[row]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._crms)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        crm, (name, head, _) = self._crms[index.row()], _COLUMNS[index.column()]
        value = len(crm.modules) if name == "modules" else crm.summary().get(name)
        if role == SORT_ROLE:
            # What is not known sorts below everything.
            return crm.folder.name if not name else -1e30 if value is None else value
        if role == Qt.ItemDataRole.ToolTipRole:
            return plain_tip(self._tip(crm, name))
        if role == Qt.ItemDataRole.TextAlignmentRole and name:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if not name:
            shown = crm.folder.name
        elif name == "modules":
            shown = str(value)
        else:
            shown = number_text(name.removeprefix("mean_"), value)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{head} {shown}"
        return shown if role == Qt.ItemDataRole.DisplayRole else None

    @staticmethod
    def _tip(crm: CRMQuality, name: str) -> str:
        if name == "modules":
            return crm.coverage
        if name in ("replacement", "completeness"):
            lines = (f"{getattr(one, name):.3f}  {one.prompt}" for one in crm.prompts)
            return "\n".join(lines) or "No prompt was given"
        return f"{crm.folder}, measured on {crm.tokens:,} tokens"
