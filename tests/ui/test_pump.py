"""The pump: slices on the main thread, the rest on the lane, and an end to every run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from pytestqt.qtbot import QtBot

from attention_studio.core.training_events import (
    Finished,
    MicroStep,
    OffThread,
    StepDone,
    Stopped,
    TrainEvent,
)
from attention_studio.ui.jobs import Job, JobFailure, JobRunner
from attention_studio.ui.pump import PumpState, TrainingPump
from attention_studio.ui.watchdog import StallWatchdog
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

FOLDER = Path("/somewhere/run")


class Clockwork:
    """A trainer that trains nothing, but keeps the driver's contract like the real one."""

    def __init__(self, steps: int = 30, micro: int = 4, seconds: float = 0.001) -> None:
        self.out_dir = FOLDER
        self.steps, self.micro, self.seconds = steps, micro, seconds
        self.threads: dict[str, set[int]] = {"step": set(), "lane": set(), "ahead": set()}
        self.log: list[str] = []
        self.ready = False
        self.stop = False
        self.checkpoint = False
        self.closed = 0
        self.fail_at: Optional[int] = None
        self.fail_off_thread = False
        self.lane_seconds = 0.005
        self._events = self._run()

    def __iter__(self) -> Iterator[TrainEvent]:
        return self._events

    def _work(self, ctx: Optional[WorkContext]) -> None:
        self.threads["lane"].add(threading.get_ident())
        for _ in range(5):
            if ctx is not None:
                ctx.check()
            time.sleep(self.lane_seconds / 5)
        if self.fail_off_thread:
            raise StudioError("The harvest broke", "for a test")
        self.ready = True

    def _run(self) -> Iterator[TrainEvent]:
        for step in range(1, self.steps + 1):
            if step % 10 == 1:
                self.ready = False
                yield OffThread("harvest", "Collecting activations", self._work)
                assert self.ready, "next() was called before the off-thread work was done"
            for _ in range(self.micro):
                self.threads["step"].add(threading.get_ident())
                time.sleep(self.seconds)
                yield MicroStep(step, 0)
            if step == self.fail_at:
                raise StudioError("It diverged", "for a test")
            yield StepDone(step, self.steps, 64 * step, 0.001, 8, ())
            self.log.append(f"step {step}")
            if self.checkpoint or self.stop:
                self.checkpoint = False
                yield OffThread("checkpoint", "Writing a checkpoint", self._work)
                self.log.append("checkpoint")
            if self.stop:
                yield Stopped(step, FOLDER / "checkpoints")
                return
        yield Finished(FOLDER)

    def harvest_ahead(self, ctx: Optional[WorkContext] = None) -> bool:
        self.threads["ahead"].add(threading.get_ident())
        return False

    def request_checkpoint(self) -> None:
        self.checkpoint = True

    def request_stop(self) -> None:
        self.stop = True

    def close(self) -> None:
        self.closed += 1


class Outcome:
    """Notes how a run ended."""

    def __init__(self, pump: TrainingPump) -> None:
        self.ends: list[tuple[str, Any]] = []
        pump.finished.connect(self._finished)
        pump.failed.connect(self._failed)
        pump.stopped.connect(self._stopped)

    def _finished(self, value: object) -> None:
        self.ends.append(("finished", value))

    def _failed(self, value: object) -> None:
        self.ends.append(("failed", value))

    def _stopped(self, value: object) -> None:
        self.ends.append(("stopped", value))


@pytest.fixture
def runner(qtbot: QtBot) -> Iterator[JobRunner]:
    """A runner whose lanes are ended after the test."""
    made = JobRunner()
    yield made
    assert made.shutdown(5.0, force=False)


@pytest.fixture
def pump(runner: JobRunner) -> Iterator[TrainingPump]:
    """A pump that is idle after the test."""
    made = TrainingPump(runner)
    yield made
    made.abandon()


def test_steps_run_here_and_the_rest_on_the_lane(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer, outcome = Clockwork(), Outcome(pump)
    steps: list[int] = []
    pump.stepped.connect(lambda event: steps.append(getattr(event, "step", 0)))
    with qtbot.waitSignal(pump.finished, timeout=10_000):
        pump.start(trainer, "Train")
    here = threading.get_ident()
    assert trainer.threads["step"] == {here}
    assert here not in trainer.threads["lane"] and here not in trainer.threads["ahead"]
    assert trainer.threads["ahead"]
    assert outcome.ends == [("finished", FOLDER)]
    assert [step for step in steps if step] == list(range(1, 31))
    assert pump.state is PumpState.IDLE and trainer.closed == 1


def test_the_event_loop_stays_free(pump: TrainingPump, qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=80)
    watchdog.start()
    with qtbot.waitSignal(pump.finished, timeout=20_000):
        pump.start(Clockwork(steps=60, micro=20, seconds=0.0005), "Train")
    report = watchdog.stop()
    assert report.beats > 20
    assert report.longest_ms < 100, report.worst()
    assert report.p99_ms < 50, report.worst()


def test_pausing_stops_the_steps(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer = Clockwork(steps=200)
    pump.start(trainer, "Train")
    qtbot.waitUntil(lambda: len(trainer.log) > 3)
    pump.pause()
    assert pump.state is PumpState.PAUSED
    qtbot.wait(60)
    before = list(trainer.log)
    qtbot.wait(80)
    assert trainer.log == before
    pump.resume()
    qtbot.waitUntil(lambda: len(trainer.log) > len(before))


def test_a_pause_outlasts_the_work_on_the_lane(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer = Clockwork()
    trainer.lane_seconds = 0.5
    pump.start(trainer, "Train")
    qtbot.waitUntil(lambda: pump.waiting)
    pump.pause()
    before = list(trainer.log)
    qtbot.waitUntil(lambda: not pump.waiting)
    qtbot.wait(50)
    assert trainer.log == before
    with qtbot.waitSignal(pump.finished, timeout=10_000):
        pump.resume()


def test_a_checkpoint_is_written_between_steps(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer = Clockwork()
    with qtbot.waitSignal(pump.finished, timeout=10_000):
        pump.start(trainer, "Train")
        qtbot.waitUntil(lambda: len(trainer.log) > 2)
        pump.checkpoint()
    assert trainer.log.count("checkpoint") == 1


@pytest.mark.parametrize("paused", [False, True])
def test_stopping_writes_a_checkpoint_first(pump: TrainingPump, qtbot: QtBot, paused: bool) -> None:
    trainer, outcome = Clockwork(steps=500), Outcome(pump)
    job = pump.start(trainer, "Train")
    qtbot.waitUntil(lambda: len(trainer.log) > 2)
    if paused:
        pump.pause()
    with qtbot.waitSignal(pump.stopped, timeout=10_000):
        pump.stop()
    assert trainer.log[-1] == "checkpoint"
    assert outcome.ends == [("stopped", FOLDER / "checkpoints")]
    assert job.state.value == "cancelled" and trainer.closed == 1


def test_cancelling_the_task_stops_the_run(
    pump: TrainingPump, runner: JobRunner, qtbot: QtBot
) -> None:
    trainer = Clockwork(steps=500)
    job: Job = pump.start(trainer, "Train")
    qtbot.waitUntil(lambda: len(trainer.log) > 2)
    with qtbot.waitSignal(pump.stopped, timeout=10_000):
        runner.cancel(job)
    assert trainer.log[-1] == "checkpoint"


def test_an_error_in_a_step_ends_the_run(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer, outcome = Clockwork(), Outcome(pump)
    trainer.fail_at = 5
    with qtbot.waitSignal(pump.failed, timeout=10_000):
        pump.start(trainer, "Train")
    ((what, failure),) = outcome.ends
    assert what == "failed" and isinstance(failure, JobFailure) and failure.what == "It diverged"
    assert pump.state is PumpState.IDLE and trainer.closed == 1


def test_an_error_on_the_lane_ends_the_run(pump: TrainingPump, qtbot: QtBot) -> None:
    trainer, outcome = Clockwork(), Outcome(pump)
    trainer.fail_off_thread = True
    with qtbot.waitSignal(pump.failed, timeout=10_000):
        pump.start(trainer, "Train")
    assert outcome.ends[0][1].what == "The harvest broke"


def test_abandoning_ends_at_once_wherever_the_run_is(
    pump: TrainingPump, runner: JobRunner, qtbot: QtBot
) -> None:
    for wait_for_lane in (False, True):
        trainer = Clockwork(steps=500)
        trainer.lane_seconds = 0.5 if wait_for_lane else 0.005
        pump.start(trainer, "Train")
        if wait_for_lane:
            qtbot.waitUntil(lambda: pump.waiting)
        else:
            qtbot.waitUntil(lambda t=trainer: len(t.log) > 2)  # type: ignore[misc]
        pump.abandon()
        qtbot.waitUntil(lambda: pump.state is PumpState.IDLE, timeout=2_000)
        assert trainer.closed == 1 and "checkpoint" not in trainer.log
    qtbot.waitUntil(lambda: not runner.busy)


def test_one_run_at_a_time(pump: TrainingPump) -> None:
    pump.start(Clockwork(), "Train")
    with pytest.raises(RuntimeError, match="already"):
        pump.start(Clockwork(), "Train again")
