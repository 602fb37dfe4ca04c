"""Measuring replacement models: what is measured on what, and how they compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QItemSelection, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QPlainTextEdit,
    QProgressBar,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.crm_quality import EvaluationRequest
from attention_studio.ui import text, work
from attention_studio.ui.jobs import Job, JobFailure, JobProgress
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.widgets.comparison_table import ComparisonTable
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    EmptyState,
    label,
    named,
    push_button,
    row,
    show_fraction,
)
from attention_studio.ui.widgets.dialogs import ask_folder, ask_save
from attention_studio.ui.widgets.drop_list import DropList
from attention_studio.ui.widgets.form_fields import form_column, grid, spin
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.module_table import ModulesPanel, number_table
from attention_studio.ui.widgets.text_sources import TextSources
from attention_studio.ui.widgets.train_history import module_text

if TYPE_CHECKING:
    from attention_studio.core.crm_quality import CRMComparison, CRMQuality
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.sites import Site
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.theme import Theme

_KEY = "evaluate"
_KINDS = (("Table", "csv"), ("Everything", "json"))


class CRMFolders(DropList):
    """The folders of the replacement models that are measured."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        add = push_button(
            "Add a folder", "evaluate.crms.add", "Choose the folder of a trained replacement model"
        )
        hint = "Drop folders of replacement models here, or add them below"
        super().__init__(theme, "evaluate.crms", "Replacement models to measure", hint, (add,))
        add.clicked.connect(self._ask)

    @Slot()
    def _ask(self) -> None:
        known = self.sources()
        start = Path(known[-1]).parent if known else None
        ask_folder(self, "Add a replacement model", self.add, start)


class EvaluatePanel(QWidget):
    """Replacement models, text and prompts on the left, what they reach on the right."""

    message = Signal(object)

    def __init__(
        self, session: Session, runner: JobRunner, commands: Commands, theme: Theme
    ) -> None:
        super().__init__()
        self._session, self._runner, self._theme = session, runner, theme
        self._job: Optional[Job] = None
        self._model: Optional[LoadedModel] = None
        self._shown: Optional[CRMQuality] = None
        self.crms = CRMFolders(theme)
        self.texts = TextSources(theme, "evaluate.texts", "Held-out texts to measure on")
        self.prompts = named(
            QPlainTextEdit(), "evaluate.prompts", "Prompts",
            "One prompt a line; each is traced for its replacement and completeness scores",
        )  # fmt: skip
        self.prompts.setPlaceholderText("One prompt a line, or none")
        self.prompts.setTabChangesFocus(True)
        self.prompts.setFixedHeight(72)
        usual = EvaluationRequest((), ())
        self.tokens = spin(
            "evaluate.tokens", "Held-out tokens", usual.tokens, 64, 10_000_000, 4096,
            "Tokens that each module is measured on, at most",
        )  # fmt: skip
        self.downstream_tokens = spin(
            "evaluate.downstream_tokens", "Tokens for the loss", usual.downstream_tokens, 0,
            1_000_000, 512, "Tokens on which the model's own loss is measured; 0 leaves it out",
        )  # fmt: skip
        self.seq_len = spin(
            "evaluate.seq_len", "Tokens per sequence", usual.seq_len, 8, 4096, 32,
            "Length of the text's pieces",
        )  # fmt: skip
        self.cancel = push_button(
            "Cancel", "evaluate.cancel", "Stop the evaluation; nothing is kept of it"
        )
        self._start = CommandButton(commands, "evaluate.run", look="primary", text="Evaluate")
        self._status = ElidedLabel("", "caption")
        self._progress = named(
            QProgressBar(), "evaluate.progress", "Progress of the evaluation", "How far it is"
        )
        self._progress.setTextVisible(False)
        self.comparison = ComparisonTable(self)
        self.table = number_table(
            self.comparison, "evaluate.comparison", "Comparison of replacement models",
            "Select one to see its modules",
        )  # fmt: skip
        self.table.setMinimumHeight(84)
        self.table.setMaximumHeight(190)
        self.modules = ModulesPanel("evaluate", theme)
        self._title = ElidedLabel("", "title")
        self._facts = ElidedLabel("", "caption")
        self._build(CommandButton(commands, "evaluate.export", text="Export", icon=False))
        self.cancel.clicked.connect(self._on_cancel)
        self.table.selectionModel().selectionChanged.connect(self._on_selected)
        self.modules.chosen.connect(self._on_module)
        session.changed.connect(self._on_session)
        self._set_running(None)

    # -- handlers of commands -----------------------------------------------------------------

    @Slot()
    def start(self) -> None:
        """Measure the chosen replacement models."""
        model = self._session.model
        if model is None or self._job is not None:
            return
        request = self.request()
        missing = "" if request.sources else "There is no text to measure on"
        missing = missing if request.folders else "No replacement model is chosen"
        if missing:
            todo = "Add it under “Evaluate” in the Train dock"
            self.message.emit(Message("warning", missing, "", todo))
            return
        many = f"{len(request.folders)} replacement models"
        what = request.folders[0].name if len(request.folders) == 1 else many
        job = self._runner.submit(
            work.evaluate_crms, model, request, title=f"Evaluate {what}", key=_KEY
        )
        self._model = model
        self._set_running(job)
        job.progress.connect(self._on_progress)
        job.finished.connect(self._on_finished)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        if job.state.over:  # the runner takes no more work
            self._set_running(None)

    @Slot()
    def export(self) -> None:
        """Choose a file and save what was measured."""
        ask_save(self, "Export evaluation", self.export_to, _KINDS)

    @Slot(str)
    def export_to(self, file: str) -> None:
        """Save what was measured."""
        comparison = self._session.comparison
        if comparison is None:
            return
        job = self._runner.submit(
            work.save_comparison, comparison, Path(file), title=f"Save {Path(file).name}",
            lane="quick",
        )  # fmt: skip
        job.finished.connect(self._on_saved)
        job.failed.connect(self._on_problem)

    # -- an evaluation ------------------------------------------------------------------------

    def request(self) -> EvaluationRequest:
        """What the form asks for."""
        lines = self.prompts.toPlainText().splitlines()
        return EvaluationRequest(
            folders=tuple(Path(folder) for folder in self.crms.sources()),
            sources=self.texts.sources(),
            prompts=tuple(prompt for prompt in lines if prompt.strip()),
            tokens=self.tokens.value(),
            downstream_tokens=self.downstream_tokens.value(),
            seq_len=self.seq_len.value(),
        )

    @property
    def title(self) -> str:
        """What was measured, for people."""
        return self._title.whole()

    @property
    def facts(self) -> str:
        """What the chosen replacement model covers and was measured on."""
        return self._facts.whole()

    def make_plots(self) -> None:
        """Add the histograms, once pyqtgraph is there."""
        self.modules.make_plots()

    def _set_running(self, job: Optional[Job]) -> None:
        self._job = job
        self._start.setVisible(job is None)
        self.cancel.setVisible(job is not None)
        self._progress.setVisible(job is not None)
        show_fraction(self._progress, None)
        self._status.set_whole("" if job is None else "Waiting for its turn")

    @Slot(object)
    def _on_progress(self, progress: JobProgress) -> None:
        show_fraction(self._progress, progress.fraction)
        self._status.set_whole(progress.text)

    @Slot(object)
    def _on_finished(self, comparison: CRMComparison) -> None:
        self._set_running(None)
        if self._session.model is self._model:
            self._session.set_comparison(comparison)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._set_running(None)
        self._on_problem(failure)

    @Slot(object)
    def _on_problem(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_cancelled(self, _value: object) -> None:
        self._set_running(None)
        self._status.set_whole("Cancelled")

    @Slot(object)
    def _on_saved(self, path: Path) -> None:
        self.message.emit(Message("success", f"The evaluation is saved as {path.name}", str(path)))

    @Slot()
    def _on_cancel(self) -> None:
        if self._job is not None:
            self._runner.cancel(self._job)

    # -- drawing ------------------------------------------------------------------------------

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if part is SessionPart.COMPARISON:
            self._show(self._session.comparison)
        elif part is SessionPart.CRM:
            folder = self._session.crm_folder
            if folder is not None and not self.crms.sources():
                self.crms.add(str(folder))
        elif part is SessionPart.MODEL and self._session.model_info is not None:
            context = self._session.model_info.context_length
            self.seq_len.setMaximum(context)
            self.seq_len.setValue(min(EvaluationRequest((), ()).seq_len, context))

    def _show(self, comparison: Optional[CRMComparison]) -> None:
        self.comparison.set_comparison(comparison)
        self._right.setCurrentWidget(self._empty if comparison is None else self._results)
        if comparison is None:
            self.modules.show_rows(())
            return
        n = len(comparison.crms)
        self._title.set_whole(f"{n} replacement model{'' if n == 1 else 's'} of {comparison.model}")
        self.table.selectRow(0)

    @Slot(QItemSelection, QItemSelection)
    def _on_selected(self, _now: object, _before: object) -> None:
        indexes = self.table.selectionModel().selectedRows()
        if not indexes:
            return
        proxy: Any = self.table.model()
        crm = self._shown = self.comparison.crm(proxy.mapToSource(indexes[0]).row())
        self._facts.set_whole(f"{crm.folder.name}: {crm.coverage}; {text.count(crm.tokens)} tokens")
        self.modules.show_rows(crm.modules)
        self.modules.choose(tuple(found.site for found in crm.modules), "all modules")

    @Slot(object)
    def _on_module(self, site: Site) -> None:
        self.modules.choose((site,), module_text(site))

    def _build(self, export: QWidget) -> None:
        form = QWidget()
        form.setObjectName("formBody")
        fields = QVBoxLayout(form)
        fields.setContentsMargins(12, 10, 12, 8)
        fields.setSpacing(4)
        fields.addWidget(label("Replacement models", "section"))
        fields.addWidget(self.crms)
        fields.addSpacing(8)
        fields.addWidget(label("Held-out text", "section"))
        fields.addWidget(self.texts)
        fields.addSpacing(8)
        fields.addWidget(label("Prompts", "section"))
        fields.addWidget(self.prompts)
        fields.addSpacing(8)
        fields.addLayout(
            grid(
                ("Held-out tokens", self.tokens),
                ("Tokens for the loss", self.downstream_tokens),
                ("Tokens per sequence", self.seq_len),
            )
        )
        fields.addStretch(1)
        left = form_column(
            form, "evaluate.form", "Settings of the evaluation",
            self._status, self._progress, row(self._start, self.cancel),
        )  # fmt: skip
        self._results = QWidget()
        self._results.setObjectName("formBody")
        results = QVBoxLayout(self._results)
        results.setContentsMargins(0, 0, 0, 0)
        results.setSpacing(4)
        head = row(self._title, export, stretch=0)
        head.setContentsMargins(12, 10, 12, 2)
        results.addLayout(head)
        results.addWidget(self.table)
        self._facts.setContentsMargins(12, 4, 12, 0)
        results.addWidget(self._facts)
        results.addWidget(self.modules, 1)
        self._empty = EmptyState(
            self._theme, "features", "Nothing measured yet",
            "How well replacement models stand in for the model is shown here: per module, all at "
            "once, and on the graphs of prompts. Choose text that they were not trained on.",
        )  # fmt: skip
        self._right = QStackedWidget()
        self._right.setObjectName("evaluateRight")
        self._right.addWidget(self._empty)
        self._right.addWidget(self._results)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("evaluateSplitter")
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(left)
        splitter.addWidget(self._right)
        splitter.setSizes([330, 670])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(splitter)
