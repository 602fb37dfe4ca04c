"""What one has of a run's checkpoints while it goes on: the newest as the replacement model, and a
prompt traced at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.training_traces import TRACE_FOLDER
from attention_studio.ui import work_training
from attention_studio.ui.jobs import BACKGROUND, JobFailure
from attention_studio.ui.pump import PumpState
from attention_studio.ui.widgets.message_bar import Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attention_studio.core.training_traces import CheckpointTrace
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.pump import TrainingPump
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.run_view import RunView

_TRACE_KEY = "train-trace"


class RunCheckpoints(QObject):
    """Follows the run that ``view`` shows.

    ``opened`` carries a checkpoint that was opened as a replacement model, ``graph_wanted`` the
    file of a graph that a person wants to see, ``message`` a ``Message`` for the message bar.
    """

    opened = Signal(object)
    graph_wanted = Signal(str)
    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        pump: TrainingPump,
        view: RunView,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._session, self._runner, self._commands = session, runner, commands
        self._pump, self._view = pump, view
        self._run: Optional[Path] = None
        self._open_wanted = False
        self._prompt: Optional[str] = None
        """What is traced at every checkpoint."""
        pump.checkpointed.connect(self._on_checkpointed)
        view.traces.opened.connect(self._on_trace_wanted)
        commands.bind("checkpoints", self)

    def begin(self, run: Path, traces: Sequence[CheckpointTrace]) -> None:
        """Follow the run in a folder, of which some checkpoints may be traced already."""
        self._run, self._open_wanted = run, False
        self._view.traces.set_rows(traces)

    # -- handlers of commands -----------------------------------------------------------------

    @Slot()
    def open_newest(self) -> None:
        """Open the run's checkpoint as the replacement model: a new one, or, while the run is
        paused, the last one that it wrote."""
        if self._pump.state is PumpState.PAUSED and self._run is not None:
            self._open(self._run)
            return
        self._open_wanted = True
        self._pump.checkpoint()
        self._view.say("A checkpoint is written after this step, and opened")

    @Slot()
    def toggle_tracing(self) -> None:
        """Trace the prompt as it is now at every checkpoint, or no longer."""
        on = self._prompt is None
        self._prompt = self._session.prompt if on else None
        self._commands.set_checked("train.trace_checkpoints", on)
        self._view.traces.say(self._prompt)
        if on:
            self._view.tabs.setCurrentWidget(self._view.traces)

    # -- inside -------------------------------------------------------------------------------

    @Slot(object)
    def _on_checkpointed(self, run: Path) -> None:
        if self._open_wanted:
            self._open_wanted = False
            self._open(run)
        model = self._session.model
        if self._prompt is None or model is None:
            return
        job = self._runner.submit(
            work_training.trace_checkpoint, model, run, self._prompt,
            title="Trace with the checkpoint", key=_TRACE_KEY, priority=BACKGROUND,
        )  # fmt: skip
        job.finished.connect(self._on_traced)
        job.failed.connect(self._on_failed)

    def _open(self, run: Path) -> None:
        model = self._session.model
        if model is None:
            return
        job = self._runner.submit(
            work_training.open_checkpoint, model, run,
            title="Open the checkpoint", key="open-crm",
        )  # fmt: skip
        job.finished.connect(self.opened)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_traced(self, row: CheckpointTrace) -> None:
        traces = self._view.traces
        traces.set_rows([*(old for old in traces.model.rows if old.step != row.step), row])

    @Slot(object)
    def _on_trace_wanted(self, row: CheckpointTrace) -> None:
        if self._run is not None:
            self.graph_wanted.emit(str(self._run / TRACE_FOLDER / row.graph))

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))
