"""Lanes, jobs and what comes back from them."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QObject, Slot
from pytestqt.qtbot import QtBot

from attention_studio.ui.jobs import Job, JobFailure, JobRunner, JobState, LaneContext
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.utils import logging
from attention_studio.utils.errors import StudioError


@pytest.fixture
def runner(qtbot: QtBot) -> Iterator[JobRunner]:
    """A runner whose lanes are ended after the test."""
    made = JobRunner()
    yield made
    assert made.shutdown(5.0, force=False)


class Ear(QObject):
    """Notes everything that a job says, and on which thread it was heard."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.heard: list[tuple[str, object]] = []
        self.threads: set[int] = set()
        job.progress.connect(self.on_progress)
        job.partial.connect(self.on_partial)
        job.finished.connect(self.on_finished)
        job.failed.connect(self.on_failed)
        job.cancelled.connect(self.on_cancelled)

    def _note(self, what: str, value: object) -> None:
        self.heard.append((what, value))
        self.threads.add(threading.get_ident())

    @Slot(object)
    def on_progress(self, value: object) -> None:
        self._note("progress", value)

    @Slot(object)
    def on_partial(self, value: object) -> None:
        self._note("partial", value)

    @Slot(object)
    def on_finished(self, value: object) -> None:
        self._note("finished", value)

    @Slot(object)
    def on_failed(self, value: object) -> None:
        self._note("failed", value)

    @Slot(object)
    def on_cancelled(self, value: object) -> None:
        self._note("cancelled", value)

    @property
    def ends(self) -> list[str]:
        return [what for what, _ in self.heard if what not in ("progress", "partial")]


def double(_ctx: LaneContext, number: int) -> int:
    return 2 * number


def count(ctx: LaneContext, steps: int, pause: float) -> int:
    for step in range(steps):
        ctx.check()
        ctx.progress(step + 1, steps, f"step {step + 1}")
        ctx.partial(step)
        time.sleep(pause)
    return steps


def until_cancelled(ctx: LaneContext) -> None:
    while True:
        ctx.check()
        time.sleep(0.002)


def test_a_result_arrives_on_the_main_thread(runner: JobRunner, qtbot: QtBot) -> None:
    job = runner.submit(double, 21, title="Double")
    ear = Ear(job)
    qtbot.waitUntil(lambda: not runner.busy)
    assert ear.heard == [("finished", 42)]
    assert ear.threads == {threading.get_ident()}
    assert job.state is JobState.FINISHED


def test_plain_callables_run_on_the_main_thread_too(runner: JobRunner, qtbot: QtBot) -> None:
    seen: list[int] = []

    def done(_value: object) -> None:
        seen.append(threading.get_ident())

    runner.submit(double, 1, title="Double").finished.connect(done)
    qtbot.waitUntil(lambda: bool(seen))
    assert seen == [threading.get_ident()]


def test_progress_is_throttled_and_the_last_one_is_not_lost(
    runner: JobRunner, qtbot: QtBot
) -> None:
    job = runner.submit(count, 400, 0.001, title="Count")
    ear = Ear(job)
    qtbot.waitUntil(lambda: not runner.busy, timeout=10_000)
    reports = [value for what, value in ear.heard if what == "progress"]
    # 20 a second, and the last one that comes with the end.
    assert 2 <= len(reports) <= 20 * job.seconds + 2
    assert reports[-1].done == 400  # type: ignore[attr-defined]
    assert ear.heard[-1] == ("finished", 400)


def test_the_newest_text_shows_although_nothing_follows_it(runner: JobRunner, qtbot: QtBot) -> None:
    gate = threading.Event()

    def work(ctx: LaneContext) -> None:
        ctx.progress(0, None, "first")
        ctx.progress(0, None, "a long step")
        gate.wait(5)

    job = runner.submit(work, title="Wait")
    qtbot.waitUntil(lambda: job.last_progress.text == "a long step", timeout=2_000)
    gate.set()


def test_a_cancel_stops_running_work(runner: JobRunner, qtbot: QtBot) -> None:
    job = runner.submit(until_cancelled, title="Forever")
    ear = Ear(job)
    qtbot.waitUntil(lambda: job.state is JobState.RUNNING)
    runner.cancel(job)
    qtbot.waitUntil(lambda: not runner.busy)
    assert ear.ends == ["cancelled"]
    assert job.state is JobState.CANCELLED


def test_a_cancel_takes_waiting_work_out_of_its_lane(runner: JobRunner, qtbot: QtBot) -> None:
    first = runner.submit(until_cancelled, title="First")
    ran: list[int] = []

    def never(_ctx: LaneContext) -> None:
        ran.append(1)

    second = runner.submit(never, title="Second")
    ear = Ear(second)
    runner.cancel(second)
    assert ear.ends == ["cancelled"]
    runner.cancel(first)
    qtbot.waitUntil(lambda: not runner.busy)
    assert not ran


def test_a_newer_job_with_the_same_key_silences_the_older(runner: JobRunner, qtbot: QtBot) -> None:
    old = runner.submit(until_cancelled, title="Old", key="prompt")
    old_ear = Ear(old)
    qtbot.waitUntil(lambda: old.state is JobState.RUNNING)
    new = runner.submit(double, 4, title="New", key="prompt")
    new_ear = Ear(new)
    qtbot.waitUntil(lambda: not runner.busy)
    assert old_ear.heard == []
    assert old.superseded and old.state is JobState.CANCELLED
    assert new_ear.heard == [("finished", 8)]


def test_an_older_job_that_finishes_anyway_is_not_heard(runner: JobRunner, qtbot: QtBot) -> None:
    gate = threading.Event()

    def deaf(_ctx: LaneContext) -> str:
        gate.wait(5)
        return "too late"

    old_ear = Ear(runner.submit(deaf, title="Old", key="k"))
    new_ear = Ear(runner.submit(double, 1, title="New", key="k"))
    gate.set()
    qtbot.waitUntil(lambda: not runner.busy)
    assert old_ear.heard == []
    assert new_ear.ends == ["finished"]


def test_a_failure_says_what_why_and_what_to_do(runner: JobRunner, qtbot: QtBot) -> None:
    def fail(_ctx: LaneContext) -> None:
        raise StudioError("It broke", "the reason", "do this")

    ear = Ear(runner.submit(fail, title="Break"))
    qtbot.waitUntil(lambda: not runner.busy)
    ((what, failure),) = ear.heard
    assert what == "failed"
    assert isinstance(failure, JobFailure)
    assert (failure.what, failure.why, failure.todo) == ("It broke", "the reason", "do this")
    assert "StudioError" in failure.details
    # The traceback is text by now: frames would keep what the lane had in its variables.
    assert failure.error is not None and failure.error.__traceback__ is None


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), MemoryError(), SystemExit(3)])
def test_any_error_is_reported_and_the_lane_lives_on(
    runner: JobRunner, qtbot: QtBot, error: BaseException
) -> None:
    def fail(_ctx: LaneContext) -> None:
        raise error

    bad = Ear(runner.submit(fail, title="Break"))
    good = Ear(runner.submit(double, 2, title="Go on"))
    qtbot.waitUntil(lambda: not runner.busy)
    assert bad.ends == ["failed"]
    assert good.heard == [("finished", 4)]


@pytest.mark.parametrize("kind", [ValueError, StudioError])
def test_a_failure_shows_no_secret(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_secrets", set())
    logging.register_secret("hf_jobs/secret")
    try:
        raise kind("got 401 for https://hub/?token=hf_jobs%2Fsecret with hf_jobs/secret")
    except kind as error:
        failure = JobFailure.of(error, "A fetch")
    shown = "\n".join((failure.what, failure.why, failure.todo, failure.details))
    assert "got 401" in shown and logging.REDACTED in shown
    assert "hf_jobs" not in shown


def test_lanes_are_serial_and_independent(runner: JobRunner, qtbot: QtBot) -> None:
    running: dict[str, int] = {"compute": 0, "io": 0}
    most = dict(running)
    lock = threading.Lock()

    def work(_ctx: LaneContext, lane: str) -> None:
        with lock:
            running[lane] += 1
            most[lane] = max(most[lane], running[lane])
        time.sleep(0.01)
        with lock:
            running[lane] -= 1

    for _ in range(4):
        runner.submit(work, "compute", title="c", lane="compute")
        runner.submit(work, "io", title="i", lane="io")
    qtbot.waitUntil(lambda: not runner.busy)
    assert most == {"compute": 1, "io": 1}


def test_urgent_work_overtakes_background_work(runner: JobRunner, qtbot: QtBot) -> None:
    order: list[str] = []
    gate = threading.Event()

    def hold(_ctx: LaneContext) -> None:
        gate.wait(5)

    def note(_ctx: LaneContext, name: str) -> None:
        order.append(name)

    runner.submit(hold, title="Hold")
    runner.submit(note, "ahead", title="Ahead", priority=10)
    runner.submit(note, "now", title="Now")
    gate.set()
    qtbot.waitUntil(lambda: not runner.busy)
    assert order == ["now", "ahead"]


def test_after_a_shutdown_nothing_is_taken(runner: JobRunner, qtbot: QtBot) -> None:
    job = runner.submit(until_cancelled, title="Forever")
    qtbot.waitUntil(lambda: job.state is JobState.RUNNING)
    with qtbot.waitSignal(runner.idle, timeout=2_000):
        runner.begin_shutdown()
    assert job.state is JobState.CANCELLED
    late = runner.submit(double, 1, title="Late")
    assert late.state is JobState.CANCELLED
    assert not runner.busy


def test_a_shutdown_gives_up_on_deaf_work_after_the_timeout(qtbot: QtBot) -> None:
    gate = threading.Event()

    def deaf(_ctx: LaneContext) -> None:
        gate.wait(10)

    runner = JobRunner()
    job = runner.submit(deaf, title="Deaf")
    qtbot.waitUntil(lambda: job.state is JobState.RUNNING)
    began = time.monotonic()
    assert not runner.shutdown(0.2, force=False)
    assert time.monotonic() - began < 2
    gate.set()
    assert runner.shutdown(5, force=False)


def test_a_lane_lets_go_of_what_it_worked_on(runner: JobRunner, qtbot: QtBot) -> None:
    import weakref

    class Big:
        pass

    def use(_ctx: LaneContext, thing: Big) -> None:
        assert thing is not None

    big = Big()
    watched = weakref.ref(big)
    runner.submit(use, big, title="Use")
    del big
    qtbot.waitUntil(lambda: not runner.busy)
    qtbot.waitUntil(lambda: watched() is None, timeout=1_000)


def test_a_failure_lets_go_of_what_its_causes_worked_on(runner: JobRunner, qtbot: QtBot) -> None:
    class Big:
        pass

    held: list[weakref.ref[Big]] = []

    def work(ctx: LaneContext) -> None:
        big = Big()
        held.append(weakref.ref(big))
        try:
            raise ValueError("first")
        except ValueError as error:
            raise StudioError("It broke") from error

    job = runner.submit(work, title="Break")
    qtbot.waitUntil(lambda: job.failure is not None)
    gc.collect()
    assert job.failure is not None and "first" in job.failure.details
    assert held[0]() is None


def test_a_strip_ends_with_the_job_that_another_replaces(runner: JobRunner, qtbot: QtBot) -> None:
    def work(ctx: LaneContext) -> None:
        while True:
            ctx.check()
            time.sleep(0.005)

    strip = JobStrip(runner, "test.strip")
    qtbot.addWidget(strip)
    old = runner.submit(work, title="Old", key="same")
    strip.follow(old)
    qtbot.waitUntil(strip.isVisible)
    newer = runner.submit(work, title="New", key="same")
    qtbot.waitUntil(lambda: old.state.over)
    assert not strip.isVisible()
    newer.cancel()
