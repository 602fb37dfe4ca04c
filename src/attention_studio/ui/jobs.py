"""Work off the main thread: four serial lanes, and jobs that report back.

    job = runner.submit(work.load_model, request, title="Load model", key="model")
    job.finished.connect(self._on_loaded)      # always called on the main thread

A lane is one ``QThread`` that runs one function after another: ``compute`` for everything that
touches a model (so that hooks and global switches of torch never meet), ``io`` for downloads, which
may take an hour, ``quick`` for what a person waits for with a hand on the slider and that needs
neither: plain numpy on graphs, and small files, and ``talk`` for conversations with an endpoint,
which spend their time waiting. ``compute`` holds ``JobRunner.turn`` while a function runs; what
talks takes it for as long as it computes itself. The function gets a ``LaneContext`` as its first
argument. Lanes never touch a QObject of ours: they put a note in a box, and the main
thread emits the signals. Progress and partial results are kept as the latest value and delivered 20
times a second.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Optional

from loguru import logger
from PySide6.QtCore import QObject, Qt, QThread, QTimer, Signal, Slot

from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.logging import redact
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

LaneName = Literal["compute", "io", "quick", "talk"]
LANES: tuple[LaneName, ...] = ("compute", "io", "quick", "talk")
FLUSH_MS = 50
QUIET_S = 0.5
"""How long a quiet job may run before it is spoken of like any other."""
SHUTDOWN_TIMEOUT_S = 20.0
INTERACTIVE, BACKGROUND = 0, 10


class JobState(Enum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will come of the job."""
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class JobProgress:
    """How far a job is: ``done`` of ``total`` units (None: unknown), and what it is doing."""

    done: float = 0.0
    total: Optional[float] = None
    text: str = ""

    @property
    def fraction(self) -> Optional[float]:
        """Share done in [0, 1], or None where the total is unknown."""
        if not self.total or self.total <= 0:
            return None
        return min(1.0, max(0.0, self.done / self.total))


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed, ready to be shown. ``details`` is the traceback."""

    what: str
    why: str = ""
    todo: str = ""
    details: str = ""
    error: Optional[BaseException] = None

    @staticmethod
    def of(error: BaseException, title: str) -> JobFailure:
        """Describe an exception; one that is not ours is named by its type.

        What is shown passes the same filter as the log: a library's error may quote a request
        with its token.
        """
        details = redact("".join(traceback.format_exception(error)))
        # Frames would keep the lane's tensors alive for as long as the failure is shown.
        link: Optional[BaseException] = error
        while link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        if isinstance(error, StudioError):
            return JobFailure(
                redact(error.what), redact(error.why), redact(error.todo), details, error
            )
        if isinstance(error, MemoryError):
            return JobFailure(
                f"{title} ran out of memory",
                "This machine has too little free memory for it",
                "Close other programs or choose smaller settings",
                details,
                error,
            )
        what = f"{title} failed unexpectedly"
        why = redact(f"{type(error).__name__}: {error}".strip())
        return JobFailure(what, why, "The details show where; the log has them too", details, error)


class LaneContext(WorkContext):
    """What a function on a lane reports to. Keeps the latest values until they are fetched."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._progress: Optional[JobProgress] = None
        self._partial: Optional[tuple[Any]] = None

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        """Report progress. Cheap enough to call at every step, from any thread."""
        value = JobProgress(float(done), None if total is None else float(total), text)
        with self._lock:
            self._progress = value

    def partial(self, value: Any) -> None:
        """Hand over an intermediate result; an older one not yet delivered is dropped."""
        with self._lock:
            self._partial = (value,)

    def take(self) -> tuple[Optional[JobProgress], Optional[tuple[Any]]]:
        """Fetch and forget the latest progress and partial result (in a 1-tuple)."""
        with self._lock:
            progress, self._progress = self._progress, None
            partial, self._partial = self._partial, None
        return progress, partial


class Job(QObject):
    """One piece of work, as the main thread sees it.

    Exactly one of ``finished`` (the function's value), ``failed`` (a ``JobFailure``) and
    ``cancelled`` (None) is emitted, unless a newer job with the same key takes this one's place:
    then nothing more is.
    """

    progress = Signal(object)
    partial = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    cancelled = Signal(object)

    def __init__(
        self, number: int, title: str, lane: str, key: Optional[str], quiet: bool = False
    ) -> None:
        super().__init__()
        self.number = number
        self.title = title
        self.lane = lane
        self.key = key
        self.quiet = quiet
        self.context = LaneContext()
        self.state = JobState.QUEUED
        self.last_progress = JobProgress()
        self.failure: Optional[JobFailure] = None
        self.superseded = False
        self.started_at: Optional[float] = None
        self.ended_at: Optional[float] = None

    def cancel(self) -> None:
        """Ask the work to stop. It does so at its next check."""
        self.context.cancel()

    @property
    def seconds(self) -> float:
        """How long the job has run, or ran."""
        if self.started_at is None:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.started_at


@dataclass(frozen=True)
class _Order:
    """What a lane gets: nothing in it is a QObject."""

    number: int
    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    context: LaneContext


@dataclass(frozen=True)
class _Note:
    """What a lane puts in the box: a state and the value or failure that goes with it."""

    number: int
    state: JobState
    value: Any = None


class _Lane(QThread):
    """One thread that takes orders one at a time, the most urgent first."""

    def __init__(self, name: str, post: Callable[[_Note], None], turn: Optional[Turn]) -> None:
        """``turn``: is held while a function runs."""
        super().__init__()
        self.setObjectName(f"lane-{name}")
        self._name = name
        self._post = post
        self._turn = turn
        self._ready = threading.Condition()
        self._orders: list[tuple[int, int, _Order]] = []
        self._closing = False

    def add(self, order: _Order, priority: int) -> None:
        """Queue an order (lower priority numbers first, then in the order of arrival)."""
        with self._ready:
            heapq.heappush(self._orders, (priority, order.number, order))
            self._ready.notify()

    def withdraw(self, number: int) -> bool:
        """Take back an order that has not begun. Returns whether it was still there."""
        with self._ready:
            for position, entry in enumerate(self._orders):
                if entry[1] == number:
                    del self._orders[position]
                    heapq.heapify(self._orders)
                    return True
        return False

    def close(self) -> None:
        """End the thread after what it is doing now."""
        with self._ready:
            self._closing = True
            self._ready.notify()

    def run(self) -> None:
        """Take and execute orders until closed."""
        threading.current_thread().name = f"lane-{self._name}"
        while True:
            with self._ready:
                while not self._orders and not self._closing:
                    self._ready.wait()
                if self._closing:
                    return
                order = heapq.heappop(self._orders)[2]
            self._carry_out(order)
            # The order holds the arguments, a model among them: let go while waiting.
            del order

    def _carry_out(self, order: _Order) -> None:
        if self._turn is None:
            self._post(_Note(order.number, JobState.RUNNING))
            self._post(self._execute(order))
            return
        try:
            self._turn.take(order.context, may_always=True)
        except Cancelled:
            self._post(_Note(order.number, JobState.CANCELLED))
            return
        try:
            self._post(_Note(order.number, JobState.RUNNING))
            note = self._execute(order)
        finally:
            self._turn.give()
        self._post(note)

    @staticmethod
    def _execute(order: _Order) -> _Note:
        number = order.number
        try:
            order.context.check()
            value = order.function(order.context, *order.arguments)
        except Cancelled:
            return _Note(number, JobState.CANCELLED)
        except BaseException as error:
            # The outermost frame of the thread: whatever it is, a person must get to see it.
            if isinstance(error, SystemExit):
                logger.error(f"{order.title}: the work tried to exit the program")
            return _Note(number, JobState.FAILED, JobFailure.of(error, order.title))
        return _Note(number, JobState.FINISHED, value)


class JobRunner(QObject):
    """Lanes and the jobs on them. Lives on the main thread and is used from there only.

    ``job_added`` and ``job_changed`` carry the ``Job`` and serve the list of tasks; ``submitted``
    carries a new job with the function and the arguments that it will be called with. ``idle`` is
    emitted when no job is queued or running any more. ``turn`` says who computes, see the module.
    """

    job_added = Signal(object)
    job_changed = Signal(object)
    idle = Signal()
    submitted = Signal(object, object, object)
    _posted = Signal()

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._keys: dict[str, int] = {}
        self._box: deque[_Note] = deque()
        self._open = True
        self._lanes: dict[str, _Lane] = {}
        self.turn = Turn()
        self._posted.connect(self._empty_box, Qt.ConnectionType.QueuedConnection)
        self._flush = QTimer(self)
        self._flush.setInterval(FLUSH_MS)
        self._flush.timeout.connect(self._on_flush)
        for name in LANES:
            lane = _Lane(name, self._post, self.turn if name == "compute" else None)
            lane.start()
            self._lanes[name] = lane

    # -- using it -----------------------------------------------------------------------------

    @property
    def accepting(self) -> bool:
        """Whether new jobs are taken."""
        return self._open

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Jobs that are queued or running."""
        return tuple(self._jobs.values())

    @property
    def busy(self) -> bool:
        """Whether a job is queued or running."""
        return bool(self._jobs)

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        title: str,
        lane: LaneName = "compute",
        key: Optional[str] = None,
        priority: int = INTERACTIVE,
        quiet: bool = False,
    ) -> Job:
        """Run ``function(context, *arguments)`` on a lane.

        Args:
            function: gets a ``LaneContext`` first. It must not touch any QObject.
            title: what the person reads in the list of tasks ("Load smollm2-135m").
            lane: "compute" for what touches a model, "io" for downloads, "quick" for graphs and
                small files, "talk" for conversations.
            key: an older job with the same key is cancelled and disconnected.
            priority: lower runs first.
            quiet: too small for the list of tasks, unless it takes long.

        Returns:
            The job, not yet begun: connect to its signals now. After a shutdown has begun the job
            is cancelled at once.
        """
        job = Job(next(self._numbers), title, lane, key, quiet)
        if key is not None:
            self._supersede(key)
        if not self._open:
            job.context.cancel()
            job.state = JobState.CANCELLED
            return job
        self._register(job)
        self.submitted.emit(job, function, arguments)
        order = _Order(job.number, title, function, arguments, job.context)
        self._lanes[lane].add(order, priority)
        return job

    def adopt(self, title: str, lane: str = "main", key: Optional[str] = None) -> Job:
        """Make a running job for work that somebody else drives (the training pump).

        Whoever drives it ends it with ``settle``.
        """
        if key is not None:
            self._supersede(key)
        job = Job(next(self._numbers), title, lane, key)
        self._register(job)
        self._begin(job)
        return job

    def settle(self, job: Job, state: JobState, value: Any = None) -> None:
        """End a job that was adopted."""
        self._settle(job, state, value)

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; one that has not begun is taken out of its lane at once."""
        job.cancel()
        lane = self._lanes.get(job.lane)
        if lane is not None and job.state is JobState.QUEUED and lane.withdraw(job.number):
            self._settle(job, JobState.CANCELLED)

    def cancel_key(self, key: str) -> None:
        """Ask the job with that key, if there is one, to stop."""
        job = self._jobs.get(self._keys.get(key, -1))
        if job is not None:
            self.cancel(job)

    def running(self, key: str) -> Optional[Job]:
        """The queued or running job with that key."""
        return self._jobs.get(self._keys.get(key, -1))

    # -- stopping -----------------------------------------------------------------------------

    def begin_shutdown(self) -> None:
        """Refuse new jobs and ask all others to stop. ``idle`` follows when they have."""
        self._open = False
        for job in self.jobs:
            self.cancel(job)
        if not self._jobs:
            QTimer.singleShot(0, self, self.idle.emit)

    def shutdown(self, timeout_s: float = SHUTDOWN_TIMEOUT_S, *, force: bool = True) -> bool:
        """Stop everything and end the threads; blocks for at most ``timeout_s``.

        A function that does not come back in time cannot be ended: a QThread alive at exit aborts
        the process. With ``force`` the process then leaves at once with status 0, since all state
        worth keeping has been written by then.

        Returns:
            Whether all lanes ended.
        """
        self.begin_shutdown()
        for lane in self._lanes.values():
            lane.close()
        until = time.monotonic() + timeout_s
        ended = True
        for lane in self._lanes.values():
            left_ms = max(0, int((until - time.monotonic()) * 1000))
            ended = lane.wait(left_ms) and ended
        if not ended:
            logger.warning("a task did not stop in time")
            if force:
                os._exit(0)
            return False
        self._flush.stop()
        self._empty_box()
        for job in self.jobs:
            self._settle(job, JobState.CANCELLED)
        return True

    # -- inside -------------------------------------------------------------------------------

    def _register(self, job: Job) -> None:
        self._jobs[job.number] = job
        if job.key is not None:
            self._keys[job.key] = job.number
        if not self._flush.isActive():
            self._flush.start()
        self.job_added.emit(job)

    def _begin(self, job: Job) -> None:
        job.state = JobState.RUNNING
        job.started_at = time.monotonic()
        self.job_changed.emit(job)

    def _supersede(self, key: str) -> None:
        old = self._jobs.get(self._keys.pop(key, -1))
        if old is not None:
            old.superseded = True
            self.cancel(old)

    def _post(self, note: _Note) -> None:
        # Called on a lane: the queued signal wakes the main thread.
        self._box.append(note)
        self._posted.emit()

    @Slot()
    def _empty_box(self) -> None:
        while self._box:
            note = self._box.popleft()
            job = self._jobs.get(note.number)
            if job is None:
                continue
            if note.state is JobState.RUNNING:
                self._begin(job)
            else:
                self._settle(job, note.state, note.value)

    @Slot()
    def _on_flush(self) -> None:
        for job in self.jobs:
            self._deliver(job)

    def _deliver(self, job: Job) -> None:
        progress, partial = job.context.take()
        if progress is not None:
            job.last_progress = progress
            if not job.superseded:
                job.progress.emit(progress)
            self.job_changed.emit(job)
        if partial is not None and not job.superseded:
            job.partial.emit(partial[0])

    @staticmethod
    def _log_failure(job: Job, failure: JobFailure) -> None:
        told = f"{job.title}: {failure.what}. {failure.why}".rstrip(". ")
        if isinstance(failure.error, StudioError):
            logger.warning(told)
        else:
            logger.error(f"{told}\n{failure.details}")

    def _settle(self, job: Job, state: JobState, value: Any = None) -> None:
        if self._jobs.pop(job.number, None) is None:
            return
        if job.key is not None and self._keys.get(job.key) == job.number:
            del self._keys[job.key]
        # What was reported last is delivered first, so that nobody ends on a stale text.
        self._deliver(job)
        job.state = state
        job.ended_at = time.monotonic()
        if state is JobState.FAILED:
            job.failure = value
            self._log_failure(job, value)
        self.job_changed.emit(job)
        if not job.superseded:
            if state is JobState.FINISHED:
                job.finished.emit(value)
            elif state is JobState.FAILED:
                job.failed.emit(value)
            else:
                job.cancelled.emit(None)
        if not self._jobs:
            self._flush.stop()
            self.idle.emit()
