"""The Train dock: training with estimates, live curves and checkpoints, and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QSplitter,
    QStackedWidget,
    QTabWidget,
)

from attention_studio.core.training_events import Evaluated
from attention_studio.core.training_request import TrainRequest
from attention_studio.ui import work, work_training
from attention_studio.ui.bindings import QtBindings
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.table import of_view
from attention_studio.ui.jobs import Job, JobFailure, JobProgress
from attention_studio.ui.pump import PumpState, TrainingPump
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import (
    CommandButton,
    EmptyState,
    named,
    push_button,
    row,
)
from attention_studio.ui.widgets.dialogs import ask_folder
from attention_studio.ui.widgets.evaluate_panel import EvaluatePanel
from attention_studio.ui.widgets.form_fields import form_column
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.run_checkpoints import RunCheckpoints
from attention_studio.ui.widgets.run_view import RunView
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.train_estimate import TrainEstimate
from attention_studio.ui.widgets.train_history import (
    OtherRun,
    RunHistory,
    alarm_text,
    module_text,
)
from attention_studio.ui.widgets.train_settings import TrainSettings
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.sites import Site

_WIDE = 620
_PREPARE_KEY = "train-prepare"


class TrainDock(StudioDock):
    """Trains dictionaries and measures them. A run is driven by ``pump`` on the main thread.

    ``crm_ready`` carries the folder of a finished run, ``crm_opened`` a checkpoint that was opened
    as a replacement model, ``graph_wanted`` the file of a graph that a person wants to see.
    """

    NAME = "trainDock"
    TITLE = "Train"
    ICON = "train"
    WATCHES = frozenset((SessionPart.MODEL, SessionPart.TRAINING))

    message = Signal(object)
    crm_ready = Signal(object)
    crm_opened = Signal(object)
    graph_wanted = Signal(str)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self.pump = TrainingPump(self.runner, self)
        self.form = TrainSettings(self.theme)
        self.view = RunView(self.theme)
        self.evaluation = EvaluatePanel(self.session, self.runner, self.commands, self.theme)
        self._plots_wanted = False
        self._bindings = QtBindings(self)
        self._bindings.ready.connect(self._import_plots)
        self._prepare_job: Optional[Job] = None
        self._others: list[OtherRun] = []
        self._alarmed = ""
        self._estimate = TrainEstimate(self.session, self.runner, self.form, self)
        self.checkpoints = RunCheckpoints(
            self.session, self.runner, self.commands, self.pump, self.view, self
        )
        self._build()
        self.view.pause.clicked.connect(self.toggle_pause)
        self.view.checkpoint.clicked.connect(self.checkpoint)
        self.view.stop.clicked.connect(self.stop)
        self.evaluation.message.connect(self.message)
        self.commands.bind("evaluate", self.evaluation)
        self.pump.stepped.connect(self.view.take)
        self.pump.state_changed.connect(self._on_pump_state)
        self.pump.finished.connect(self._on_finished)
        self.pump.failed.connect(self._on_run_failed)
        self.pump.stopped.connect(self._on_stopped)
        self.pump.stepped.connect(self._on_stepped)
        self.checkpoints.message.connect(self.message)
        self.checkpoints.opened.connect(self.crm_opened)
        self.checkpoints.graph_wanted.connect(self.graph_wanted)

    # -- handlers of commands -----------------------------------------------------------------

    @Slot()
    def start(self) -> None:
        """Train with the settings of the form."""
        request = self._request()
        if request is not None:
            if not request.sources:
                self.go_there()
                self.message.emit(
                    Message(
                        "warning",
                        "There is no text to train on",
                        "",
                        "Add files or a folder in the Train dock, or let the model write samples",
                    )
                )
                return
            self._prepare(request)

    @Slot()
    def resume(self) -> None:
        """Choose the folder of an unfinished run and go on with it."""
        ask_folder(self, "Resume an unfinished run", self.resume_folder)

    @Slot(str)
    def resume_folder(self, folder: str) -> None:
        """Go on with the run in ``folder``."""
        job = self.runner.submit(
            work.read_run, Path(folder), title="Read the run", lane="quick", key=_PREPARE_KEY
        )
        job.finished.connect(self._prepare)
        job.failed.connect(self._on_failed)

    @Slot()
    def toggle_pause(self) -> None:
        """Pause the run, or let it go on."""
        if self.pump.state is PumpState.PAUSED:
            self.pump.resume()
        else:
            self.pump.pause()

    @Slot()
    def checkpoint(self) -> None:
        """Write a checkpoint after the batch in work."""
        self.pump.checkpoint()
        self.view.say("A checkpoint is written after this step")

    @Slot()
    def stop(self) -> None:
        """Stop the run after a checkpoint."""
        self.pump.stop()

    @Slot()
    def compare_run(self) -> None:
        """Choose a run whose curves are drawn, beside those that are shown."""
        ask_folder(self, "Show the curves of a run", self.compare_run_folder)

    @Slot(str)
    def compare_run_folder(self, folder: str) -> None:
        """Draw the curves of the run in ``folder``."""
        job = self.runner.submit(
            work_training.read_past_run, Path(folder), title="Read the run", lane="quick"
        )
        job.finished.connect(self._on_past_run)
        job.failed.connect(self._on_failed)
        self._want_plots()

    @Slot()
    def compare_none(self) -> None:
        """Take away the curves of other runs."""
        self._others = []
        self.view.beside(())

    @Slot()
    def show_evaluation(self) -> None:
        """Go to where replacement models are measured."""
        self._tabs.setCurrentWidget(self.evaluation)
        self.go_there()

    @Slot(object)
    def set_up_for(self, sites: tuple[Site, ...]) -> None:
        """Fill the form in for dictionaries of these modules, and go there."""
        self.catch_up()
        self.form.aim_at(sites, self.session.crm_info)
        self._tabs.setCurrentWidget(self._splitter)
        self.go_there()
        names = ", ".join(module_text(site) for site in sites[:6])
        more = f" and {len(sites) - 6} more" if len(sites) > 6 else ""
        self.message.emit(
            Message(
                "info",
                f"The settings are for {names}{more}",
                "with twice the latents that these modules have now, if they have any",
                "Choose a text and press Start",
            )
        )

    # -- a run --------------------------------------------------------------------------------

    def _request(self) -> Optional[TrainRequest]:
        try:
            return self.form.request()
        except StudioError as error:
            self.message.emit(Message.of(error))
        except ValueError:
            self.message.emit(
                Message("error", "The learning rate is no number", "", "Write it as 0.004")
            )
        return None

    @Slot(object)
    def _prepare(self, request: TrainRequest) -> None:
        model = self.session.model
        if model is None or self.session.training is not None:
            return
        self._estimate.stop()
        self.session.set_training("preparing")
        job = self.runner.submit(
            work.prepare_run,
            self.session.settings,
            model,
            request,
            title="Prepare training",
            key=_PREPARE_KEY,
        )
        self._prepare_job = job
        job.progress.connect(self._on_prepare_progress)
        job.finished.connect(self._on_prepared)
        job.failed.connect(self._on_prepare_failed)
        job.cancelled.connect(self._on_prepare_cancelled)
        self._want_plots()

    @Slot(object)
    def _on_prepared(self, prepared: work.PreparedRun) -> None:
        self._prepare_job = None
        for note in prepared.notes:
            self.message.emit(Message("info", note))
        sites = prepared.trainer.config.sites
        history = RunHistory(sites)
        history.add_earlier(prepared.trainer.history)
        self._alarmed = ""
        title = f"Train {len(sites)} module{'' if len(sites) == 1 else 's'}"
        self.view.begin(history, f"{title} → {prepared.request.out_dir.name}")
        self._right.setCurrentWidget(self.view)
        self.checkpoints.begin(prepared.trainer.out_dir, prepared.traces)
        self._estimate.say("Settings cannot be changed while a run goes on.")
        self.view.follow(self.pump.start(prepared.trainer, title))

    @Slot(object)
    def _on_pump_state(self, state: PumpState) -> None:
        self.session.set_training(None if state is PumpState.IDLE else state.value)

    @Slot(object)
    def _on_finished(self, folder: Path) -> None:
        self.view.finish()
        self.form.fresh_out_dir()
        self.message.emit(
            Message("success", "Training is done", f"The dictionaries are in {folder}")
        )
        self.crm_ready.emit(folder)

    @Slot(object)
    def _on_stopped(self, checkpoint: Optional[Path]) -> None:
        self.view.say("Stopped")
        self.form.fresh_out_dir()
        if checkpoint is not None:
            self.message.emit(
                Message(
                    "info",
                    "Training is stopped",
                    f"Its last checkpoint is {checkpoint}",
                    "“Resume an unfinished run” in the Train menu goes on from there",
                )
            )

    @Slot(object)
    def _on_run_failed(self, failure: JobFailure) -> None:
        self.view.say("Failed", "error")
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_prepare_failed(self, failure: JobFailure) -> None:
        self._prepare_job = None
        self.session.set_training(None)
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_prepare_cancelled(self, _value: object) -> None:
        self._prepare_job = None
        self.session.set_training(None)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_prepare_progress(self, progress: JobProgress) -> None:
        self._estimate.say(progress.text)

    @Slot()
    def _on_cancel_prepare(self) -> None:
        if self._prepare_job is not None:
            self.runner.cancel(self._prepare_job)

    # -- other runs and alarms ----------------------------------------------------------------

    @Slot(object)
    def _on_past_run(self, past: work_training.PastRun) -> None:
        if not past.history:
            self.message.emit(
                Message(
                    "info",
                    f"{past.folder.name} has no curves yet",
                    "it has not been measured on held-out text so far",
                    "Choose it again later",
                )
            )
            return
        other = OtherRun.of(past.folder.name, past.history)
        if self.view.history is None:
            # Nothing to put it beside: it is what is shown.
            self.view.begin(other.history, other.name)
            self.checkpoints.begin(past.folder, past.traces)
            self.view.finish()
            self._right.setCurrentWidget(self.view)
        else:
            self._others.append(other)
            self.view.beside(self._others)
        self.go_there()

    @Slot(object)
    def _on_stepped(self, event: object) -> None:
        """Say once in the message bar what an evaluation finds wrong; the run shows it as long as
        it lasts."""
        if not isinstance(event, Evaluated):
            return
        told = alarm_text(event.metrics)
        if told and not self._alarmed:
            first = told.splitlines()[0].removeprefix("⚠ ")
            self.message.emit(Message("warning", "Some dictionaries are not well", first))
        self._alarmed = told

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The run's curves and modules, and what evaluation measured."""
        found = []
        if self.view.history is not None:
            found.append(FigureOffer("train.curves", "Training curves", self._curves_figure))
            found.append(FigureOffer("train.modules", "Modules of the run", self._modules_figure))
        if self.session.comparison is not None:
            found.append(
                FigureOffer("evaluate.table", "Replacement models compared", self._compared_figure)
            )
            found.append(
                FigureOffer("evaluate.modules", "Modules, evaluated", self._evaluated_figure)
            )
            found.append(
                FigureOffer("evaluate.plots", "Latents and tokens", self._histograms_figure)
            )
        return tuple(found)

    def _curves_figure(self) -> Optional[Figure]:
        curves, shown = self.view.curves, self.view.choice.currentText()
        caption = f"Training {self.view.title}: {shown}."
        return None if curves is None else curves.figure("curves", "Training curves", caption)

    def _modules_figure(self) -> Optional[Figure]:
        caption = f"Modules of {self.view.title}, on held-out text."
        return of_view(self.view.modules.table, "modules", "Modules of the run", caption)

    def _compared_figure(self) -> Optional[Figure]:
        caption = f"{self.evaluation.title}, measured on the same text and prompts."
        return of_view(self.evaluation.table, "comparison", "Replacement models compared", caption)

    def _evaluated_figure(self) -> Optional[Figure]:
        table = self.evaluation.modules.table
        return of_view(table, "evaluation", "Modules, evaluated", self.evaluation.facts)

    def _histograms_figure(self) -> Optional[Figure]:
        plots = self.evaluation.modules.histograms
        if plots is None:
            return None
        return plots.figure("histograms", "Latents and tokens", self.evaluation.facts)

    # -- plots --------------------------------------------------------------------------------

    def _want_plots(self) -> None:
        if self._plots_wanted or not self.runner.accepting:
            return
        self._plots_wanted = True
        self._bindings.start()

    @Slot()
    def _import_plots(self) -> None:
        if not self.runner.accepting:
            return
        job = self.runner.submit(
            work.import_plots, title="Get the plots ready", lane="quick", quiet=True
        )
        job.finished.connect(self._make_plots)

    @Slot(object)
    def _make_plots(self, _value: object) -> None:
        self.view.make_plots()
        self.evaluation.make_plots()

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Fit the form to the model, and the buttons to the run."""
        info = self.session.model_info
        self.show_empty(info is None and self.pump.state is PumpState.IDLE)
        if SessionPart.MODEL in parts:
            self.form.set_model(info)
            self._estimate.renew()
        training = self.session.training
        self.form.set_locked(training is not None)
        self._start.setVisible(training is None)
        self._resume.setVisible(training is None)
        self._cancel_prepare.setVisible(training == "preparing")
        self.view.show_state(training)
        if training is None and SessionPart.TRAINING in parts:
            self._estimate.renew()

    def showEvent(self, event: QShowEvent) -> None:
        """Get the plots ready when somebody first looks."""
        super().showEvent(event)
        if self.session.model is not None:
            self._want_plots()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Settings beside the curves where there is room, above them where there is not."""
        super().resizeEvent(event)
        wide = event.size().width() >= _WIDE
        wanted = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if self._splitter.orientation() != wanted:
            self._splitter.setOrientation(wanted)
            self._splitter.setSizes([330, 670] if wide else [600, 400])

    def _build(self) -> None:
        self._start = CommandButton(self.commands, "train.start", look="primary", text="Start")
        self._resume = CommandButton(self.commands, "train.resume", text="Resume a run", icon=False)
        self._cancel_prepare = push_button(
            "Cancel", "train.cancel_prepare", "Stop preparing the run"
        )
        self._cancel_prepare.clicked.connect(self._on_cancel_prepare)
        left = form_column(
            self.form, "train.form", "Settings of the training run", self._estimate.label,
            row(self._start, self._resume, self._cancel_prepare),
        )  # fmt: skip
        waiting = EmptyState(
            self.theme,
            "train",
            "No run yet",
            "Curves of reconstruction, sparsity, dead latents and recovered loss are drawn here "
            "while a run trains.",
        )
        self._right = QStackedWidget()
        self._right.setObjectName("trainRight")
        self._right.addWidget(waiting)
        self._right.addWidget(self.view)
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("trainSplitter")
        self._splitter.setChildrenCollapsible(False)
        self._splitter.addWidget(left)
        self._splitter.addWidget(self._right)
        self._splitter.setSizes([330, 670])
        self._tabs = QTabWidget()
        named(self._tabs, "train.tabs", "Train or evaluate", "What the dock is used for")
        self._tabs.setDocumentMode(True)
        self._tabs.addTab(self._splitter, "Train")
        self._tabs.addTab(self.evaluation, "Evaluate")
        self.set_content(self._tabs)
        self.set_empty(
            "Train dictionaries",
            "Transcoders and Lorsas replace a model's MLPs and attention with features that can be "
            "read. Load a model first; then choose text and settings here.",
            CommandButton(self.commands, "model.load", look="primary", text="Load a model"),
        )
