"""Drives training on the main thread without freezing it.

The trainer is an iterator of micro-steps. A timer runs micro-steps until a time slice is spent and
returns to the event loop. When the trainer asks for something that belongs off the main thread (a
harvest, an evaluation, a checkpoint), it goes to the compute lane, and stepping goes on after it.
While the main thread trains, the lane harvests the next block ahead.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING, Any, Optional, Protocol

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.core.training_events import (
    Finished,
    MicroStep,
    OffThread,
    StepDone,
    Stopped,
)
from attention_studio.ui.jobs import BACKGROUND, Job, JobFailure, JobRunner, JobState, LaneContext
from attention_studio.utils.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from attention_studio.core.training_events import TrainEvent
    from attention_studio.utils.progress import WorkContext

SLICE_MS = 10.0


class Trainer(Protocol):
    """What the pump needs of ``CRMTrainer``."""

    @property
    def out_dir(self) -> Path:
        """The folder that the run writes to."""

    def __iter__(self) -> Iterator[Any]: ...

    def harvest_ahead(self, ctx: Optional[WorkContext] = None) -> bool:
        """Fill the next block; runs on the compute lane while micro-steps run here."""

    def request_checkpoint(self) -> None:
        """Have a checkpoint written after the batch in work."""

    def request_stop(self) -> None:
        """End the run after the batch in work, with a checkpoint."""

    def close(self) -> None:
        """Give up the run and its memory."""


class PumpState(Enum):
    """What the pump is doing."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


def _harvest_ahead(ctx: LaneContext, trainer: Trainer) -> None:
    trainer.harvest_ahead(ctx)


def _run_off_thread(ctx: LaneContext, work: OffThread) -> None:
    work.run(ctx)


class TrainingPump(QObject):
    """Runs one trainer at a time. Lives on the main thread.

    ``stepped`` carries what the trainer yielded, except micro-steps; ``checkpointed`` the folder of
    the run when a checkpoint has been written; ``state_changed`` a ``PumpState``. Exactly one of
    ``finished`` (the CRM's folder), ``failed`` (a ``JobFailure``) and ``stopped`` (the last
    checkpoint's folder, or None) ends a run.
    """

    stepped = Signal(object)
    checkpointed = Signal(object)
    state_changed = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    stopped = Signal(object)

    def __init__(self, runner: JobRunner, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._runner = runner
        self._trainer: Optional[Trainer] = None
        self._steps: Optional[Iterator[TrainEvent]] = None
        self._job: Optional[Job] = None
        self._lane_job: Optional[Job] = None
        self._writing = False
        """Whether what the run waits for is a checkpoint."""
        self._ahead_job: Optional[Job] = None
        self._abandoned = False
        self._state = PumpState.IDLE
        self._steps_done: tuple[int, int] = (0, 0)
        self.longest_step_ms = 0.0
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._slice)

    # -- what a person does -------------------------------------------------------------------

    @property
    def state(self) -> PumpState:
        """What the pump is doing."""
        return self._state

    @property
    def waiting(self) -> bool:
        """Whether the run waits for work on the lane."""
        return self._lane_job is not None

    def start(self, trainer: Trainer, title: str) -> Job:
        """Begin to drive ``trainer``; the returned job stands for the run in the list of tasks.

        Raises:
            RuntimeError: a run is going on already.
        """
        if self._state is not PumpState.IDLE:
            raise RuntimeError("a training run is going on already")
        self._trainer = trainer
        self._steps = iter(trainer)
        self._abandoned = False
        self._steps_done = (0, 0)
        self.longest_step_ms = 0.0
        self._job = self._runner.adopt(title)
        self._set_state(PumpState.RUNNING)
        self._timer.start()
        return self._job

    def pause(self) -> None:
        """Stop stepping until ``resume``. Work on the lane finishes."""
        if self._state is PumpState.RUNNING:
            self._timer.stop()
            self._set_state(PumpState.PAUSED)

    def resume(self) -> None:
        """Go on after ``pause``."""
        if self._state is PumpState.PAUSED:
            self._set_state(PumpState.RUNNING)
            self._harvest_ahead()
            self._go_on()

    def checkpoint(self) -> None:
        """Write a checkpoint after the batch in work; a paused run writes it when it goes on."""
        if self._trainer is not None:
            self._trainer.request_checkpoint()

    def stop(self) -> None:
        """End the run after the batch in work, with a checkpoint."""
        if self._trainer is not None and self._state in (PumpState.RUNNING, PumpState.PAUSED):
            self._trainer.request_stop()
            self._set_state(PumpState.STOPPING)
            self._say("Stopping after this step")
            self._go_on()

    def abandon(self) -> None:
        """End the run at once; its last checkpoint stays (for closing the window)."""
        if self._state is PumpState.IDLE:
            return
        self._abandoned = True
        self._set_state(PumpState.STOPPING)
        self._timer.stop()
        for job in (self._lane_job, self._ahead_job):
            if job is not None:
                self._runner.cancel(job)
        if self._lane_job is None:
            self._end(JobState.CANCELLED)

    # -- the loop -----------------------------------------------------------------------------

    @Slot()
    def _slice(self) -> None:
        if self._job is None or self._steps is None:
            self._timer.stop()
            return
        if self._job.context.cancelled and self._state is not PumpState.STOPPING:
            self.stop()
        until = time.perf_counter() + SLICE_MS / 1000
        while True:
            begun = time.perf_counter()
            try:
                event = next(self._steps)
            except StopIteration:
                self._end(JobState.CANCELLED)
                return
            except Cancelled:
                self._end(JobState.CANCELLED)
                return
            except Exception as error:
                # The outermost frame on this thread: the event loop must survive whatever a
                # trainer raises, and the person must see it.
                self._end(JobState.FAILED, JobFailure.of(error, self._job.title))
                return
            now = time.perf_counter()
            self.longest_step_ms = max(self.longest_step_ms, 1000 * (now - begun))
            if not self._handle(event) or now >= until:
                return

    def _handle(self, event: TrainEvent) -> bool:
        """Act on an event. Returns whether the slice may go on."""
        if isinstance(event, MicroStep):
            return True
        if isinstance(event, OffThread):
            self._timer.stop()
            self._go_off_thread(event)
            return False
        if isinstance(event, StepDone):
            self._steps_done = (event.step, event.total_steps)
            self._say(f"Step {event.step:,} of {event.total_steps:,}")
        self.stepped.emit(event)
        if isinstance(event, Finished):
            self._end(JobState.FINISHED, event.path)
            return False
        if isinstance(event, Stopped):
            self._end(JobState.CANCELLED, event.checkpoint)
            return False
        return True

    def _say(self, text: str) -> None:
        if self._job is not None:
            done, total = self._steps_done
            self._job.context.progress(done, total or None, text)

    # -- the lane -----------------------------------------------------------------------------

    def _go_off_thread(self, event: OffThread) -> None:
        self._say(event.text)
        job = self._runner.submit(_run_off_thread, event, title=event.text, quiet=True)
        self._lane_job = job
        self._writing = event.kind == "checkpoint"
        job.finished.connect(self._on_lane_done)
        job.failed.connect(self._on_lane_failed)
        job.cancelled.connect(self._on_lane_cancelled)
        if job.state.over:
            # The runner is shutting down and takes no more work.
            self._on_lane_cancelled(None)

    def _harvest_ahead(self) -> None:
        if self._ahead_job is not None or self._state is not PumpState.RUNNING:
            return
        job = self._runner.submit(
            _harvest_ahead, self._trainer, title="Collecting the next activations",
            priority=BACKGROUND, quiet=True,
        )  # fmt: skip
        if job.state.over:
            return
        self._ahead_job = job
        job.finished.connect(self._on_ahead_over)
        job.cancelled.connect(self._on_ahead_over)
        job.failed.connect(self._on_ahead_failed)

    def _go_on(self) -> None:
        if self._lane_job is None and self._steps is not None:
            self._timer.start()

    @Slot(object)
    def _on_lane_done(self, _value: object) -> None:
        self._lane_job = None
        if self._writing and self._trainer is not None:
            self.checkpointed.emit(self._trainer.out_dir)
        if self._abandoned:
            self._end(JobState.CANCELLED)
        elif self._state is not PumpState.PAUSED:
            # A block may just have been used up: fill the next one while this thread trains.
            self._harvest_ahead()
            self._go_on()

    @Slot(object)
    def _on_lane_failed(self, failure: JobFailure) -> None:
        self._lane_job = None
        self._end(JobState.FAILED, failure)

    @Slot(object)
    def _on_lane_cancelled(self, _value: object) -> None:
        self._lane_job = None
        self._end(JobState.CANCELLED)

    @Slot(object)
    def _on_ahead_over(self, _value: object) -> None:
        self._ahead_job = None

    @Slot(object)
    def _on_ahead_failed(self, failure: JobFailure) -> None:
        self._ahead_job = None
        self._end(JobState.FAILED, failure)

    # -- the end ------------------------------------------------------------------------------

    def _end(self, state: JobState, value: Any = None) -> None:
        if self._state is PumpState.IDLE:
            return
        self._timer.stop()
        for attribute in ("_ahead_job", "_lane_job"):
            job: Optional[Job] = getattr(self, attribute)
            setattr(self, attribute, None)
            if job is not None:
                job.superseded = True
                self._runner.cancel(job)
        self._steps = None
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            trainer.close()
        run, self._job = self._job, None
        self._set_state(PumpState.IDLE)
        if run is not None:
            self._runner.settle(run, state, value)
        if state is JobState.FINISHED:
            self.finished.emit(value)
        elif state is JobState.FAILED:
            self.failed.emit(value)
        else:
            self.stopped.emit(value)

    def _set_state(self, state: PumpState) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)
