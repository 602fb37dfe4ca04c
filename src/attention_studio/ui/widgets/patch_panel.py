"""What the lens says below its table: the prediction, the current cell, patches and their history.

Records of patches may come from a file, so nothing is taken for granted of what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QGridLayout,
    QListWidget,
    QListWidgetItem,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.lens_records import (
    Cell,
    LensTable,
    PatchError,
    PatchOutcome,
    PatchSet,
    describe_patch,
)
from attention_studio.ui.lens_measures import candidates, cell_facts, cell_title
from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    label,
    named,
    plain_tip,
    row,
)
from attention_studio.ui.widgets.token_views import ProbabilityBars

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme


class _SideBySide(QWidget):
    """What a cell predicts, without and with patches."""

    def __init__(self, theme: Theme, name: str, what: str) -> None:
        super().__init__()
        self.setObjectName("formBody")
        self.title = ElidedLabel(role="text")
        named(self.title, f"{name}.title", what)
        self.facts = ElidedLabel(role="caption")
        named(self.facts, f"{name}.facts", f"{what}: figures")
        self._heads = [label("Original", "section"), label("Patched", "section")]
        self.bars = [
            ProbabilityBars(
                theme, name=f"{name}.{side}", accessible=f"{what}, {side}",
                tip="The likeliest next tokens",
            )
            for side in ("original", "patched")
        ]  # fmt: skip
        grid = QGridLayout()
        grid.setHorizontalSpacing(20)
        grid.setVerticalSpacing(4)
        for column in range(2):
            grid.addWidget(self._heads[column], 0, column)
            grid.addWidget(self.bars[column], 1, column, Qt.AlignmentFlag.AlignTop)
            grid.setColumnStretch(column, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 12, 8)
        layout.setSpacing(4)
        layout.addWidget(self.title)
        layout.addWidget(self.facts)
        layout.addLayout(grid)
        layout.addStretch(1)

    def show_cell(self, before: LensTable, after: Optional[LensTable], cell: Cell) -> None:
        """Show a cell of the table, and of the patched one where there is one."""
        self.bars[0].set_candidates(candidates(before, cell))
        self.bars[1].set_candidates(() if after is None else candidates(after, cell))
        for part in (*self._heads, self.bars[1]):
            part.setVisible(after is not None)


class PatchPanel(QTabWidget):
    """Three pages: the prediction behind the prompt, the current cell, and the patches."""

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(self, "lens.panel", "Prediction, cell and patches")
        self.setDocumentMode(True)
        self.prediction = _SideBySide(theme, "lens.prediction", "Next token")
        self.cell = _SideBySide(theme, "lens.cell", "The current cell")
        self.taken = ElidedLabel(role="caption")
        named(self.taken, "lens.taken", "The cell that was taken to patch with")
        self.patches = QListWidget()
        named(self.patches, "lens.patches", "Patches", "What is patched now")
        self.history = QListWidget()
        named(self.history, "lens.history", "History of patches",
              "What was patched before and what came of it, newest first; Enter patches again",
        )  # fmt: skip
        for page, title in (
            (self.prediction, "Prediction"),
            (self.cell, "Cell"),
            (self._make_patches(commands), "Patches"),
        ):
            area = QScrollArea()
            named(area, f"lens.page.{title.lower()}", title)
            area.setWidgetResizable(True)
            area.setFrameShape(QScrollArea.Shape.NoFrame)
            area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            area.setWidget(page)
            self.addTab(area, title)

    def _make_patches(self, commands: Commands) -> QWidget:
        page = QWidget()
        page.setObjectName("formBody")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(12, 8, 12, 8)
        layout.setSpacing(4)
        layout.addWidget(self.taken)
        layout.addLayout(
            row(
                CommandButton(commands, "lens.pick", text="Take", icon=False),
                CommandButton(commands, "lens.put", text="Put here", icon=False),
                CommandButton(commands, "lens.remove", text="Take out", icon=False),
                CommandButton(commands, "lens.clear", text="Take all out", icon=False),
            )
        )
        layout.addWidget(label("Patches", "section"))
        layout.addWidget(self.patches, 1)
        again = CommandButton(commands, "lens.reopen", look="quiet", text="Patch again")
        layout.addLayout(row(label("History", "section"), again, stretch=0))
        layout.addWidget(self.history, 2)
        for listed in (self.patches, self.history):
            listed.setMinimumHeight(3 * listed.fontMetrics().height())
            listed.setWordWrap(False)
            listed.setTextElideMode(Qt.TextElideMode.ElideRight)
        return page

    # -- showing ------------------------------------------------------------------------------

    def show_prediction(self, before: LensTable, outcome: Optional[PatchOutcome]) -> None:
        """Show what comes behind the prompt."""
        last = Cell(before.n_depths - 1, before.n_tokens - 1)
        self.prediction.show_cell(before, None if outcome is None else outcome.after, last)
        word, share = _best(before, last)
        if outcome is None:
            self.prediction.title.set_whole(f"Next token: {word} {share}")
            self.prediction.facts.set_whole(
                f"“{word}” is first from {_settled(before)} on. Drag a cell onto another one to "
                "see what changes."
            )
            return
        then, now = _best(outcome.after, last)
        self.prediction.title.set_whole(f"Next token: {word} {share} → {then} {now}")
        n = len(outcome.patches.patches)
        self.prediction.facts.set_whole(
            f"{n} {'patch' if n == 1 else 'patches'} · the prediction moved by "
            f"{outcome.divergence:.3f} nats, KL(patched ‖ original)"
        )

    def show_cell(self, before: LensTable, outcome: Optional[PatchOutcome], cell: Cell) -> None:
        """Show what a cell would predict."""
        self.cell.show_cell(before, None if outcome is None else outcome.after, cell)
        self.cell.title.set_whole(cell_title(before, cell))
        shown = before if outcome is None else outcome.after
        moved = "" if outcome is None else f" · moved by {float(outcome.change[cell]):.3f} nats"
        self.cell.facts.set_whole(cell_facts(shown, cell) + moved)

    def show_patches(self, patches: PatchSet, tokens: Sequence[str]) -> None:
        """List what is patched now."""
        current = self.patches.currentRow()
        self.patches.clear()
        for patch in patches.patches:
            _add(self.patches, describe_patch(patch, patches.prompt, tokens))
        self.patches.setCurrentRow(min(current, self.patches.count() - 1))

    def show_history(self, records: Sequence[Mapping[str, Any]]) -> None:
        """List what was patched, the newest first."""
        self.history.clear()
        for record in reversed(records):
            _add(self.history, record_text(record))


def record_text(record: Mapping[str, Any]) -> str:
    """A record of patches in one line; says so where it is not one."""
    try:
        patches = PatchSet.of_data(record)
        moved = float(record["divergence"])
        told = "; ".join(describe_patch(patch, patches.prompt, ()) for patch in patches.patches)
        before = _likeliest(record, "probability_before")
        after = _likeliest(record, "probability_after")
        return f"{before} → {after}, {moved:.2f} nats: {told} in “{patches.prompt.strip()}”"
    except (PatchError, KeyError, TypeError, ValueError):
        return "A record that cannot be read"


def _likeliest(record: Mapping[str, Any], side: str) -> str:
    """The likeliest token of one side of a record, with its probability."""
    share, token = max(
        ((float(token[side]), str(token["token"])) for token in record["tokens"]),
        key=itemgetter(0),
    )
    return f"{visible_token(token, spaces=False)} {percent(share)}"


def _best(table: LensTable, cell: Cell) -> tuple[str, str]:
    token, _, share = candidates(table, cell)[0]
    return visible_token(token, spaces=False), percent(share)


def _settled(table: LensTable) -> str:
    depth = table.settled(table.n_tokens - 1)
    return "the embedding" if depth == 0 else f"layer {depth - 1}"


def _add(listed: QListWidget, text: str) -> None:
    item = QListWidgetItem(" ".join(text.split()))
    item.setToolTip(plain_tip(text))
    listed.addItem(item)
