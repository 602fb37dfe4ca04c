"""The Lens dock: what the residual stream would predict at every depth, and patching it by hand."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.lens_records import (
    Cell,
    LensTable,
    Patch,
    PatchError,
    PatchOutcome,
    PatchSet,
    describe_patch,
)
from attention_studio.ui import work_attention
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.lens_figure import LensFigure
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.lens_measures import MEASURES, cell_title
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, label, named
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.lens_table import DROP, PATCHED, TAKEN, LensGrid
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.patch_panel import PatchPanel
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.workspace import Workspace

RECORD = "patch"
"""The kind of record that is kept of patches."""
_READ, _PATCH, _SOURCE = "lens.read", "lens.patch", "lens.source"


class LensDock(StudioDock):
    """The logit lens of a prompt.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "lensDock"
    TITLE = "Lens"
    ICON = "lens"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.MODEL,
            SessionPart.PROMPT,
            SessionPart.LENS,
            SessionPart.PATCHES,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._shown: Optional[LensTable] = None
        self._source: Optional[LensTable] = None
        self._outcome: Optional[PatchOutcome] = None
        # The patches that are being run, and those of which a record is to be kept.
        self._running: Optional[PatchSet] = None
        self._to_record: Optional[PatchSet] = None
        self._record_home: Optional[Workspace] = None
        """The workspace in which it was patched."""
        # What was taken: the prompt and its cell.
        self._taken: Optional[tuple[str, Cell]] = None
        self._drop: Optional[Cell] = None
        self._unpatched = False
        self.grid = LensGrid(self.theme, "lens.table", "Logit lens")
        self.source_grid = LensGrid(self.theme, "lens.source.table", "Lens of the other prompt")
        self.panel = PatchPanel(self.theme, self.commands)
        self.strip = JobStrip(self.runner, "lens.job")
        self._make_controls()
        self._set_up()
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.measure = QComboBox()
        named(self.measure, "lens.measure", "Colour of the cells",
              "What the colour and the bar of a cell say")  # fmt: skip
        self._list_measures()
        self._made_for = ElidedLabel(role="caption")
        named(self._made_for, "lens.made_for", "The prompt that was read")
        self._again = CommandButton(self.commands, "lens.read", look="quiet", text="Renew")
        self._again.setObjectName("lens.again")
        self._stale = label("", "warning", name="lens.stale", wrap=True)
        self.source_text = QLineEdit()
        named(self.source_text, "lens.source.text", "The other prompt",
              "A prompt to take cells from; Enter reads it")  # fmt: skip
        self.source_text.setPlaceholderText("Another prompt to patch from; Enter reads it")
        self.source_area = QWidget()
        self.source_area.setObjectName("formBody")
        column = QVBoxLayout(self.source_area)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        line = QHBoxLayout()
        line.setContentsMargins(10, 4, 10, 4)
        line.addWidget(label("Patch from", "caption"))
        line.addWidget(self.source_text, 1)
        column.addLayout(line)
        column.addWidget(self.source_grid, 1)
        self.source_area.hide()

    def _list_measures(self) -> None:
        """Fill the list with what makes sense now; the chosen entry stays."""
        chosen = self.measure.currentData()
        blocked = self.measure.blockSignals(True)
        self.measure.clear()
        for name, measure in MEASURES.items():
            if measure.patched and self._outcome is None:
                continue
            self.measure.addItem(measure.title, name)
            place = self.measure.count() - 1
            self.measure.setItemData(place, measure.help, Qt.ItemDataRole.ToolTipRole)
        self.measure.setCurrentIndex(max(0, self.measure.findData(chosen)))
        self.measure.blockSignals(blocked)

    def _set_up(self) -> None:
        top = QHBoxLayout()
        top.setContentsMargins(10, 8, 10, 2)
        top.setSpacing(8)
        top.addWidget(self.measure)
        top.addWidget(self._made_for, 1)
        top.addWidget(self._again)
        stale = QHBoxLayout()
        stale.setContentsMargins(12, 0, 10, 2)
        stale.addWidget(self._stale)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.setObjectName("lens.splitter")
        for part in (self.source_area, self.grid, self.panel):
            self.splitter.addWidget(part)
        self.splitter.setChildrenCollapsible(False)
        for place, stretch in enumerate((2, 3, 2)):
            self.splitter.setStretchFactor(place, stretch)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(top)
        layout.addLayout(stale)
        layout.addWidget(self.splitter, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        empty = self.set_empty(
            "Nothing read yet",
            "The logit lens shows what the model would say next if it stopped after each layer. "
            "Drag one cell onto another to put its residual stream there, and see what changes.",
            CommandButton(self.commands, "lens.read", look="primary", text="Read the lens"),
        )
        self._waiting = JobStrip(self.runner, "lens.job.first")
        empty_layout = empty.layout()
        assert isinstance(empty_layout, QVBoxLayout)
        empty_layout.insertWidget(empty_layout.count() - 1, self._waiting)

    def _connect(self) -> None:
        self.measure.currentIndexChanged.connect(self._on_measure)
        self.source_text.returnPressed.connect(self._on_source_text)
        self.grid.dragged.connect(self._on_dragged)
        self.grid.dropped.connect(self._on_dropped)
        self.grid.taken.connect(self._on_taken)
        self.grid.put.connect(self._on_put)
        self.grid.removed.connect(self._on_removed)
        self.grid.moved.connect(self._on_moved)
        self.source_grid.dragged.connect(self._on_dragged)
        self.source_grid.dropped.connect(self._on_dropped_from_source)
        self.source_grid.taken.connect(self._on_taken_from_source)
        self.panel.history.itemActivated.connect(self.reopen)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def read(self) -> None:
        """Read the lens of the session's prompt."""
        model, prompt = self.session.model, self.session.prompt
        if model is None or not prompt.strip():
            return
        self.show()
        job = self.runner.submit(
            work_attention.read_stream, model, prompt, title="Read the logit lens", key=_READ
        )
        job.finished.connect(self._on_table)
        job.failed.connect(self._on_failed)
        (self._waiting if self.empty else self.strip).follow(job)

    @Slot()
    def pick(self) -> None:
        """Take the current cell, of the table that was used last."""
        if self.source_grid.hasFocus():
            self._on_taken_from_source(self.source_grid.cell)
        else:
            self._on_taken(self.grid.cell)

    @Slot()
    def put(self) -> None:
        """Put what was taken into the current cell."""
        self._on_put(self.grid.cell)

    @Slot()
    def remove(self) -> None:
        """Take out the patch that is chosen in the list, or that is on the current cell."""
        listed = self.panel.patches.currentRow()
        here = self._patches().patches
        on_cell = any(patch.target == self.grid.cell for patch in here)
        if 0 <= listed < len(here) and (self.panel.patches.hasFocus() or not on_cell):
            self._on_removed(here[listed].target)
        else:
            self._on_removed(self.grid.cell)

    @Slot()
    def clear(self) -> None:
        """Take all patches out."""
        if self._shown is not None:
            empty = PatchSet(self._shown.weights_hash, self._shown.prompt)
            self.session.set_patches(empty, "Take all patches out")

    @Slot()
    def toggle_unpatched(self) -> None:
        """Show the table without patches, or with them again."""
        self._unpatched = not self._unpatched
        self.commands.set_checked("lens.unpatched", self._unpatched)
        self._draw()

    @Slot()
    def toggle_source(self) -> None:
        """Show the table of a second prompt, or hide it."""
        shown = not self.source_area.isVisibleTo(self)
        self.source_area.setVisible(shown)
        self.commands.set_checked("lens.source", shown)
        if shown:
            self.source_text.setFocus()

    @Slot()
    def reopen(self) -> None:
        """Patch as the chosen entry of the history says, or the newest one."""
        records = self.session.records.get(RECORD, ())
        row = max(0, self.panel.history.currentRow())
        if row >= len(records):
            self.message.emit(
                Message("info", "Nothing was patched yet", "", "Drag a cell onto another one")
            )
            return
        model = self.session.model
        try:
            patches = PatchSet.of_data(records[len(records) - 1 - row])
            if model is None or patches.weights_hash != model.info.weights_hash:
                raise PatchError(
                    "These patches are for another model", "its weights are not the same",
                    "Load the model that they were made with",
                )  # fmt: skip
        except PatchError as error:
            self.message.emit(Message.of(error))
            return
        self.session.set_patches(patches, "Patch again as before")
        if self._shown is None or not patches.fits(self._shown):
            self.session.set_prompt(patches.prompt)
            self.read()

    # -- jobs ---------------------------------------------------------------------------------

    @Slot(object)
    def _on_table(self, table: LensTable) -> None:
        self.session.set_lens(table)

    @Slot(object)
    def _on_source_table(self, table: LensTable) -> None:
        self._source = table
        self._draw()

    @Slot(object)
    def _on_outcome(self, outcome: PatchOutcome) -> None:
        self._running = None
        if self._shown is None or outcome.patches != self.session.patches:
            return
        self._outcome = outcome
        self._list_measures()
        if outcome.patches == self._to_record:
            self._to_record = None
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            record = {"when": now, **outcome.data()}
            self.session.add_record(RECORD, record, self, self._record_home)
            self._show_history()
        self._draw()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._running = None
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(int)
    def _on_measure(self, _index: int) -> None:
        self._draw()

    @Slot()
    def _on_source_text(self) -> None:
        model, prompt = self.session.model, self.source_text.text()
        if model is None or not prompt.strip():
            return
        job = self.runner.submit(
            work_attention.read_stream, model, prompt, title="Read the other prompt", key=_SOURCE
        )
        job.finished.connect(self._on_source_table)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot()
    def _on_moved(self) -> None:
        cell = self.grid.cell
        if self._shown is not None and cell is not None:
            self.panel.show_cell(self._shown, self._outcome, cell)

    @Slot(object, object)
    def _on_dragged(self, _cell: Optional[Cell], point: Optional[QPoint]) -> None:
        self._drop = None if point is None else self.grid.cell_on_screen(point)
        self._mark()

    @Slot(object, object)
    def _on_dropped(self, cell: Cell, point: QPoint) -> None:
        target = self.grid.cell_on_screen(point)
        if target is not None and target != cell and self._shown is not None:
            self._patch(self._shown.prompt, cell, target)

    @Slot(object, object)
    def _on_dropped_from_source(self, cell: Cell, point: QPoint) -> None:
        target = self.grid.cell_on_screen(point)
        if target is not None and self._source is not None:
            self._patch(self._source.prompt, cell, target)

    @Slot(object)
    def _on_taken(self, cell: Optional[Cell]) -> None:
        if cell is not None and self._shown is not None:
            self._taken = (self._shown.prompt, cell)
            self._mark()

    @Slot(object)
    def _on_taken_from_source(self, cell: Optional[Cell]) -> None:
        if cell is not None and self._source is not None:
            self._taken = (self._source.prompt, cell)
            self._mark()

    @Slot(object)
    def _on_put(self, cell: Optional[Cell]) -> None:
        if self._taken is None:
            self.message.emit(
                Message(
                    "info", "No cell was taken to patch with", "",
                    "Go to a cell and press Space, then to another one and press Enter",
                )
            )  # fmt: skip
        elif cell is not None and self._shown is not None:
            self._patch(*self._taken, cell)

    @Slot(object)
    def _on_removed(self, cell: Optional[Cell]) -> None:
        patches = self._patches()
        rest = tuple(patch for patch in patches.patches if patch.target != cell)
        if len(rest) != len(patches.patches):
            changed = PatchSet(patches.weights_hash, patches.prompt, rest)
            self.session.set_patches(changed, "Take a patch out")

    def _patches(self) -> PatchSet:
        """The patches of the table that is shown."""
        table = self._shown
        if table is None:
            return PatchSet()
        here = self.session.patches
        return here if here.fits(table) else PatchSet(table.weights_hash, table.prompt)

    def _patch(self, prompt: str, source: Cell, target: Cell) -> None:
        table = self._shown
        if table is None:
            return
        patch = Patch(prompt, source, target)
        self._taken = None
        self._to_record = self._patches().with_patch(patch)
        self._record_home = self.session.home
        self.grid.go_to(target)
        self.panel.setCurrentIndex(0)
        told = describe_patch(patch, table.prompt, table.tokens)
        self.session.set_patches(self._to_record, f"Patch {told}")

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        table = self.session.lens
        if table is not self._shown:
            before, self._shown = self._shown, table
            self._outcome = self._taken = self._drop = None
            if table is None or (before and before.weights_hash != table.weights_hash):
                self._source = None
            self._list_measures()
        if {SessionPart.LENS, SessionPart.PATCHES} & parts:
            self._run_patches()
        if SessionPart.RECORDS in parts:
            self._show_history()
        self._draw()
        self.show_empty(table is None)
        self._show_stale()

    @Slot(object)
    def _on_patch_cancelled(self, _value: object) -> None:
        # Asked for again, they are to run again.
        self._running = None

    def _run_patches(self) -> None:
        """Work out what comes of the session's patches, unless that is known."""
        patches, model = self._patches(), self.session.model
        if not patches.patches or model is None:
            self.runner.cancel_key(_PATCH)
            self._running = self._outcome = self._to_record = None
            self._list_measures()
        elif patches != self._running and (
            self._outcome is None or self._outcome.patches != patches
        ):
            self._running = patches
            job = self.runner.submit(
                work_attention.patch_stream, model, patches,
                title="Run the patched model", key=_PATCH,
            )  # fmt: skip
            job.finished.connect(self._on_outcome)
            job.cancelled.connect(self._on_patch_cancelled)
            job.failed.connect(self._on_failed)
            self.strip.follow(job)

    def _draw(self) -> None:
        table, outcome = self._shown, self._outcome
        if outcome is not None and outcome.patches != self._patches():
            outcome = None
        name = self.measure.currentData()
        shown = table if outcome is None or self._unpatched else outcome.after
        self.grid.lens.show(shown, outcome, name)
        # The other prompt knows no patches.
        other = "top" if MEASURES[name].patched else name
        self.source_grid.lens.show(self._source, None, other)
        self._mark()
        if table is None:
            return
        if self.grid.cell is None:
            self.grid.go_to(Cell(table.n_depths - 1, table.n_tokens - 1))
        self.panel.show_prediction(table, outcome)
        cell = self.grid.cell
        if cell is not None:
            self.panel.show_cell(table, outcome, cell)
        self.panel.show_patches(self._patches(), table.tokens)
        without = " · shown without patches" if outcome is not None and self._unpatched else ""
        self._made_for.set_whole(f"“{table.prompt.strip()}”{without}")

    def _mark(self) -> None:
        """Mark the cells that are patched, taken or about to be dropped on."""
        table = self._shown
        marks = dict.fromkeys((patch.target for patch in self._patches().patches), PATCHED)
        there: dict[Cell, str] = {}
        told = "Take a cell with Space or “Take”, then put it into another one; or drag it there."
        if self._taken is not None and table is not None:
            prompt, cell = self._taken
            (marks if prompt == table.prompt else there)[cell] = TAKEN
            source = table if prompt == table.prompt else self._source
            name = cell_title(source, cell) if source is not None else "a cell"
            told = f"Taken: {name}. Go to another cell and press Enter."
        if self._drop is not None:
            marks[self._drop] = DROP
        self.grid.lens.mark(marks)
        self.source_grid.lens.mark(there)
        self.panel.taken.set_whole(told)

    def _show_history(self) -> None:
        records: Sequence[dict[str, object]] = self.session.records.get(RECORD, ())
        self.panel.show_history(records)

    def _show_stale(self) -> None:
        table, prompt = self._shown, self.session.prompt.strip()
        stale = table is not None and table.prompt.strip() != prompt
        stale = stale and self.session.model is not None
        told = "This is for the prompt above; another one has been typed since." if stale else ""
        self._stale.setText(told)
        self._stale.setVisible(stale)
        self._again.setVisible(stale and bool(prompt))

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The table."""
        if self._made and self._shown is not None:
            return (FigureOffer("lens", "Logit lens", self._figure),)
        return ()

    def _figure(self) -> Optional[Figure]:
        table = self.grid.lens.table
        if table is None:
            return None
        name = self.measure.currentData()
        measure = MEASURES[name]
        patches = () if self._unpatched else self._patches().patches
        told = "; ".join(describe_patch(p, table.prompt, table.tokens) for p in patches)
        caption = (
            f"Prompt: {table.prompt.strip()}. Model: {table.model}. Colour and bar: "
            f"{measure.help[0].lower()}{measure.help[1:]}; bold: the model's own word."
        )
        if told:
            caption += f" Patched (diamonds): {told}."
        return LensFigure(
            "lens", "Logit lens", caption, table, measure.shares(table, self._outcome),
            frozenset(patch.target for patch in patches),
        )  # fmt: skip
