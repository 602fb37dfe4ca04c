"""The Train dock: settings with estimates, live curves, start, pause, resume, stop, checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QProgressBar,
    QScrollArea,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.training_events import Evaluated, StepDone
from attention_studio.ui import text, work
from attention_studio.ui.jobs import Job, JobFailure, JobProgress
from attention_studio.ui.pump import PumpState, TrainingPump
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    EmptyState,
    label,
    line,
    named,
    push_button,
    row,
    set_role,
)
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.train_settings import TrainSettings
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.widgets.train_curves import RunHistory, TrainCurves

_CHANGE_MS = 300
_WIDE = 620
_ESTIMATE_KEY = "train-estimate"
_PREPARE_KEY = "train-prepare"


class TrainDock(StudioDock):
    """Trains transcoders. The run itself is driven by ``pump`` on the main thread.

    ``crm_ready`` carries the folder of a finished run.
    """

    NAME = "trainDock"
    TITLE = "Train"
    ICON = "train"
    WATCHES = frozenset((SessionPart.MODEL, SessionPart.TRAINING))

    message = Signal(object)
    crm_ready = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(session, runner, commands, theme, parent)
        self.pump = TrainingPump(runner, self)
        self.form = TrainSettings(theme)
        self._history: Optional[RunHistory] = None
        self._curves: Optional[TrainCurves] = None
        self._plots_wanted = False
        self._run_job: Optional[Job] = None
        self._prepare_job: Optional[Job] = None
        self._build()
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_CHANGE_MS)
        self._typing.timeout.connect(self._estimate)
        self.form.changed.connect(self._typing.start)
        self.pump.stepped.connect(self._on_stepped)
        self.pump.state_changed.connect(self._on_pump_state)
        self.pump.finished.connect(self._on_finished)
        self.pump.failed.connect(self._on_run_failed)
        self.pump.stopped.connect(self._on_stopped)

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
        dialog = QFileDialog(self, "Resume an unfinished run")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self.resume_folder)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot(str)
    def resume_folder(self, folder: str) -> None:
        """Go on with the run in ``folder``."""
        from pathlib import Path

        job = self.runner.submit(
            work.read_run, Path(folder), title="Read the run", lane="io", key=_PREPARE_KEY
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
        self._say("A checkpoint is written after this step")

    @Slot()
    def stop(self) -> None:
        """Stop the run after a checkpoint."""
        self.pump.stop()

    # -- a run --------------------------------------------------------------------------------

    def _request(self) -> Optional[work.TrainRequest]:
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
    def _prepare(self, request: work.TrainRequest) -> None:
        model = self.session.model
        if model is None or self.session.training is not None:
            return
        self._typing.stop()
        self.runner.cancel_key(_ESTIMATE_KEY)
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
        settings = dict(prepared.request.settings)
        from attention_studio.ui.widgets.train_curves import RunHistory

        self._history = RunHistory(tuple(settings["layers"]), int(settings["d_latent"]))
        self._history.add_earlier(prepared.trainer.history)
        if self._curves is not None:
            self._curves.start(self._history)
        self._right.setCurrentWidget(self._live)
        count = len(settings["layers"])
        title = f"Train {count} layer{'' if count == 1 else 's'}"
        self._set_estimate("Settings cannot be changed while a run goes on.", "caption")
        self._title.set_whole(f"{title} → {prepared.request.out_dir.name}")
        self._run_job = self.pump.start(prepared.trainer, title)
        self._run_job.progress.connect(self._on_run_progress)

    @Slot(object)
    def _on_stepped(self, event: Any) -> None:
        if self._history is None:
            return
        if isinstance(event, StepDone):
            self._history.add_step(event)
            self._show_figures(event)
        elif isinstance(event, Evaluated):
            self._history.add_evaluation(event)
        else:
            return
        if self._curves is not None:
            self._curves.update_curves()

    def _show_figures(self, done: StepDone) -> None:
        metrics = done.layer_metrics
        fvu = sum(m.fvu for m in metrics) / max(1, len(metrics))
        l0 = sum(m.l0 for m in metrics) / max(1, len(metrics))
        self._figures.setText(f"{text.count(done.tokens)} tokens   FVU {fvu:.3f}   L0 {l0:.1f}")

    @Slot(object)
    def _on_run_progress(self, progress: JobProgress) -> None:
        fraction = progress.fraction
        self._progress.setRange(0, 1000 if fraction is not None else 0)
        if fraction is not None:
            self._progress.setValue(round(1000 * fraction))
        shown = progress.text
        job = self._run_job
        if job is not None and fraction is not None and 0.01 < fraction < 1 and job.seconds > 5:
            shown += f" · about {text.duration(job.seconds * (1 - fraction) / fraction)} left"
        self._say(shown)

    @Slot(object)
    def _on_pump_state(self, state: PumpState) -> None:
        self.session.set_training(None if state is PumpState.IDLE else state.value)

    @Slot(object)
    def _on_finished(self, folder: Path) -> None:
        self._say("Done")
        self._progress.setRange(0, 1000)
        self._progress.setValue(1000)
        self.form.fresh_out_dir()
        self.message.emit(
            Message("success", "Training is done", f"The transcoders are in {folder}")
        )
        self.crm_ready.emit(folder)

    @Slot(object)
    def _on_stopped(self, checkpoint: Optional[Path]) -> None:
        self._say("Stopped")
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
        self._say("Failed", "error")
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
        self._set_estimate(progress.text, "caption")

    @Slot()
    def _on_cancel_prepare(self) -> None:
        if self._prepare_job is not None:
            self.runner.cancel(self._prepare_job)

    # -- estimates ----------------------------------------------------------------------------

    @Slot()
    def _estimate(self) -> None:
        model = self.session.model
        if model is None or self.session.training is not None or not self.runner.accepting:
            return
        try:
            request = self.form.request()
        except StudioError as error:
            self._set_estimate(str(error), "error")
            return
        except ValueError:
            self._set_estimate("The learning rate is no number.", "error")
            return
        job = self.runner.submit(
            work.estimate_run,
            self.session.settings,
            model,
            replace(request, sources=(), heldout_sources=()),
            title="Estimate training",
            key=_ESTIMATE_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_estimate)
        job.failed.connect(self._on_no_estimate)

    @Slot(object)
    def _on_estimate(self, outlook: work.RunOutlook) -> None:
        e = outlook.estimate
        time = "" if e.seconds is None else f"\nTime: about {text.duration(e.seconds)}"
        notes = "".join(f"\n{note}" for note in outlook.notes)
        short = []
        if e.memory_bytes > outlook.free_memory:
            short.append("memory")
        if e.disk_bytes > outlook.free_disk:
            short.append("disk space")
        warning = f"\nThere is not enough {' and '.join(short)} for this." if short else ""
        self._set_estimate(
            f"{text.count(e.parameters)} parameters\n"
            f"Memory: {text.size(e.memory_bytes)} of {text.size(outlook.free_memory)} free\n"
            f"Disk: {text.size(e.disk_bytes)} of {text.size(outlook.free_disk)} free"
            f"{time}{notes}{warning}",
            "error" if short else "caption",
        )

    @Slot(object)
    def _on_no_estimate(self, failure: JobFailure) -> None:
        self._set_estimate(". ".join(p for p in (failure.what, failure.why) if p), "error")

    def _set_estimate(self, shown: str, role: str) -> None:
        self._estimate_label.setText(shown)
        set_role(self._estimate_label, role)  # type: ignore[arg-type]

    def _say(self, shown: str, role: str = "caption") -> None:
        self._status.set_whole(shown)
        set_role(self._status, role)  # type: ignore[arg-type]

    # -- plots --------------------------------------------------------------------------------

    def _want_plots(self) -> None:
        if self._plots_wanted or not self.runner.accepting:
            return
        self._plots_wanted = True
        job = self.runner.submit(
            work.import_plots, title="Get the plots ready", lane="io", quiet=True
        )
        job.finished.connect(self._make_plots)

    @Slot(object)
    def _make_plots(self, _value: object) -> None:
        from attention_studio.ui.widgets.train_curves import TrainCurves

        self._curves = TrainCurves(self.theme)
        self._curves_place.addWidget(self._curves, 1)
        if self._history is not None:
            self._curves.start(self._history)

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Fit the form to the model, and the buttons to the run."""
        info = self.session.model_info
        self.show_empty(info is None and self.pump.state is PumpState.IDLE)
        if SessionPart.MODEL in parts:
            self.form.set_model(info)
            self._typing.start()
        training = self.session.training
        self.form.set_locked(training is not None)
        self._start.setVisible(training is None)
        self._resume.setVisible(training is None)
        self._cancel_prepare.setVisible(training == "preparing")
        alive = training in ("running", "paused", "stopping")
        for button in (self._pause, self._checkpoint_button, self._stop):
            button.setEnabled(training in ("running", "paused"))
            button.setVisible(alive)
        self._pause.setText("Continue" if training == "paused" else "Pause")
        self._pause.setAccessibleName(self._pause.text())
        if training == "paused":
            self._say("Paused")
        if training is None and SessionPart.TRAINING in parts:
            self._typing.start()

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
        self._estimate_label = label("", "caption", wrap=True, name="train.estimate")
        self._start = CommandButton(self.commands, "train.start", look="primary", text="Start")
        self._resume = CommandButton(self.commands, "train.resume", text="Resume a run", icon=False)
        self._cancel_prepare = push_button(
            "Cancel", "train.cancel_prepare", "Stop preparing the run"
        )
        self._cancel_prepare.clicked.connect(self._on_cancel_prepare)
        area = QScrollArea()
        named(area, "train.form", "Settings of the training run")
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(self.form)
        foot = QFrame()
        foot.setObjectName("formBody")
        foot_layout = QVBoxLayout(foot)
        foot_layout.setContentsMargins(12, 6, 12, 10)
        foot_layout.setSpacing(6)
        foot_layout.addWidget(self._estimate_label)
        foot_layout.addLayout(row(self._start, self._resume, self._cancel_prepare))
        left = QWidget()
        left.setObjectName("formBody")
        left_layout = QVBoxLayout(left)
        left_layout.setContentsMargins(0, 0, 0, 0)
        left_layout.setSpacing(0)
        left_layout.addWidget(area, 1)
        left_layout.addWidget(line())
        left_layout.addWidget(foot)
        left.setMinimumWidth(270)

        self._title = ElidedLabel("", "title")
        self._status = ElidedLabel("", "caption")
        self._figures = label("", "caption", name="train.figures")
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        named(self._progress, "train.progress", "Progress of the run", "Steps done")
        self._pause = push_button("Pause", "train.pause", "Pause the run, or let it go on")
        self._pause.clicked.connect(self.toggle_pause)
        self._checkpoint_button = push_button(
            "Checkpoint", "train.checkpoint", "Write a checkpoint after this step"
        )
        self._checkpoint_button.clicked.connect(self.checkpoint)
        self._stop = push_button(
            "Stop", "train.stop", "Stop after a checkpoint; the run can be resumed", look="danger"
        )
        self._stop.clicked.connect(self.stop)
        self._live = QWidget()
        self._live.setObjectName("formBody")
        self._curves_place = QVBoxLayout(self._live)
        self._curves_place.setContentsMargins(0, 0, 0, 0)
        self._curves_place.setSpacing(0)
        head = QVBoxLayout()
        head.setContentsMargins(12, 10, 12, 4)
        head.setSpacing(6)
        head.addLayout(
            row(self._title, self._pause, self._checkpoint_button, self._stop, stretch=0)
        )
        head.addWidget(self._progress)
        head.addLayout(row(self._status, self._figures, stretch=0))
        self._curves_place.addLayout(head)
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
        self._right.addWidget(self._live)
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("trainSplitter")
        self._splitter.setChildrenCollapsible(False)
        self._splitter.addWidget(left)
        self._splitter.addWidget(self._right)
        self._splitter.setSizes([330, 670])
        self.set_content(self._splitter)
        self.set_empty(
            "Train transcoders",
            "Transcoders replace a model's MLPs with features that can be read. Load a model "
            "first; then choose text and settings here.",
            CommandButton(self.commands, "model.load", look="primary", text="Load a model"),
        )
