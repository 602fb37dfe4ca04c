"""Measures how long the event loop stands still, and says where.

A timer on the main thread beats every 10 ms. Each beat notes how late it is; a sampler thread looks
at the clock meanwhile and, when a beat is overdue, records what the main thread is doing. Tests use
it to hold the window to its promise (longest stall below 100 ms); ``ATTENTION_STUDIO_WATCHDOG=1``
turns it on in the program, which then logs each stall.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import Counter, deque
from dataclasses import dataclass, field
from types import FrameType
from typing import Optional

from loguru import logger
from PySide6.QtCore import QObject, Qt, QTimer, Slot

BEAT_MS = 10
# The lateness of beats is counted up to so many milliseconds.
_BINS = 2_000
# Stalls that are kept with their stacks, the newest ones.
_MAX_STALLS = 1_000
# Looks at the threads during one stall.
_MAX_LOOKS = 100


@dataclass(frozen=True)
class Stall:
    """One time that the event loop stood still.

    Attributes:
        at_s: when it ended, in seconds after the start of the measurement.
        ms: for how long.
        own_ms: the part of it for which this process is to blame (see ``StallReport``).
        stack: what the main thread did while it was overdue, as most looks at it saw it, or "".
    """

    at_s: float
    ms: float
    own_ms: float
    stack: str


@dataclass(frozen=True)
class StallReport:
    """What was measured between start and stop.

    ``longest_ms`` and ``p99_ms`` are lateness of beats: 0 is a perfectly free event loop. The
    percentile is over beats, so a long stall counts once.

    On a machine that runs other things too, part of a stall is the wait for a processor.
    ``longest_own_ms`` and ``p99_own_ms`` count a beat's lateness only as far as this process worked
    meanwhile, on any of its threads. On an idle machine they equal the others.
    """

    beats: int
    seconds: float
    longest_ms: float
    p99_ms: float
    longest_own_ms: float
    p99_own_ms: float
    stalls: tuple[Stall, ...] = field(default=())

    def __str__(self) -> str:
        return (
            f"{self.beats} beats in {self.seconds:.1f} s: longest stall {self.longest_ms:.0f} ms, "
            f"99th percentile {self.p99_ms:.0f} ms (own work: {self.longest_own_ms:.0f} and "
            f"{self.p99_own_ms:.0f} ms)"
        )

    def worst(self, count: int = 3) -> str:
        """The longest stalls with their stacks, to be read by a person."""
        chosen = sorted(self.stalls, key=lambda stall: -stall.ms)[:count]
        return "\n".join(
            f"--- {s.ms:.0f} ms, {s.own_ms:.0f} of them own, at {s.at_s:.2f} s\n{s.stack}"
            for s in chosen
        )


class _Lateness:
    """How late beats were, in bins of a millisecond: as small after a day as after a second.

    The longest is exact. A percentile is right to a millisecond, and lateness beyond the last bin
    counts as the longest.
    """

    def __init__(self) -> None:
        self._bins = [0] * _BINS
        self.beats = 0
        self.longest_ms = 0.0

    def add(self, seconds: float) -> None:
        ms = 1000 * seconds
        self._bins[min(_BINS - 1, max(0, int(ms)))] += 1
        self.beats += 1
        self.longest_ms = max(self.longest_ms, ms)

    def percentile_ms(self, share: float) -> float:
        """What that share of the beats did not exceed: the upper end of its bin."""
        rank = min(self.beats - 1, int(share * self.beats))
        seen = 0
        for upper, number in enumerate(self._bins[:-1], start=1):
            seen += number
            if seen > rank >= 0:
                return min(float(upper), self.longest_ms)
        return self.longest_ms


class StallWatchdog(QObject):
    """Start it on the main thread, stop it to get the report.

    Args:
        threshold_ms: lateness from which on a beat counts as a stall and its stack is recorded.
        log: write each stall to the log as a warning.
    """

    def __init__(
        self, threshold_ms: float = 50.0, log: bool = False, parent: Optional[QObject] = None
    ) -> None:
        super().__init__(parent)
        self._threshold = threshold_ms / 1000
        self._log = log
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._late = _Lateness()
        self._own = _Lateness()
        self._last_cpu = 0.0
        self._stalls: deque[Stall] = deque(maxlen=_MAX_STALLS)
        self._started = 0.0
        self._last = 0.0
        # What each look of this stall saw, and how often: the last look alone may fall into what
        # little came after the culprit.
        self._seen: Counter[str] = Counter()
        self._counting = threading.Lock()
        # What keeps a frame keeps its variables, and widgets must not die on the sampler's thread.
        # So frames that it looked at are let go of by the main thread.
        self._frames: list[dict[int, FrameType]] = []
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._sampler: Optional[threading.Thread] = None
        self._main = threading.get_ident()

    def start(self) -> None:
        """Begin to measure, forgetting what was measured before."""
        self._main = threading.get_ident()
        self._late = _Lateness()
        self._own = _Lateness()
        self._last_cpu = time.process_time()
        self._stalls.clear()
        self._started = self._last = time.perf_counter()
        self._stop.clear()
        self._sampler = threading.Thread(target=self._watch, name="stall-sampler", daemon=True)
        self._sampler.start()
        self._timer.start()

    def stop(self) -> StallReport:
        """End the measurement."""
        # A stall may be going on right now, with its beat still to come.
        if self._timer.isActive():
            self._beat()
        self._timer.stop()
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()
            self._sampler = None
        self._frames.clear()
        return StallReport(
            beats=self._late.beats,
            seconds=time.perf_counter() - self._started,
            longest_ms=self._late.longest_ms,
            p99_ms=self._late.percentile_ms(0.99),
            longest_own_ms=self._own.longest_ms,
            p99_own_ms=self._own.percentile_ms(0.99),
            stalls=tuple(self._stalls),
        )

    @Slot()
    def _beat(self) -> None:
        now = time.perf_counter()
        late = max(0.0, now - self._last - BEAT_MS / 1000)
        self._last = now
        cpu = time.process_time()
        own = min(late, cpu - self._last_cpu)
        self._last_cpu = cpu
        self._late.add(late)
        self._own.add(own)
        if self._frames and self._looking.acquire(blocking=False):
            self._frames.clear()
            self._looking.release()
        with self._counting:
            seen, self._seen = self._seen, Counter()
        if late > self._threshold:
            sample = seen.most_common(1)[0][0] if seen else ""
            stall = Stall(now - self._started, 1000 * late, 1000 * own, sample)
            self._stalls.append(stall)
            if self._log:
                logger.warning(f"the window stood still for {stall.ms:.0f} ms\n{sample}")

    def _watch(self) -> None:
        while not self._stop.wait(self._threshold / 4):
            if time.perf_counter() - self._last < BEAT_MS / 1000 + self._threshold / 2:
                continue
            with self._looking:
                if len(self._frames) < _MAX_LOOKS:
                    self._look()

    def _look(self) -> None:
        # Not the main thread's frames alone: a lane that holds the interpreter's lock is the usual
        # culprit, and only its own stack names it.
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames()
        del frames[threading.get_ident()]
        self._frames.append(frames)
        parts = []
        for ident, frame in frames.items():
            name = names.get(ident, "")
            if ident == self._main or name.startswith("lane-"):
                stack = "".join(traceback.format_stack(frame)[-6:])
                parts.append(f"[{'main' if ident == self._main else name}]\n{stack}")
        text = "\n".join(parts)
        with self._counting:
            self._seen[text] += 1
