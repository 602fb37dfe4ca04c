"""The stall watchdog sees what it should see."""

from __future__ import annotations

import random
import threading
import time

from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from attention_studio.ui import watchdog as watchdog_module
from attention_studio.ui.watchdog import StallWatchdog


def stand_still() -> None:
    """What the stack must name."""
    time.sleep(0.15)


def test_a_stall_is_measured_and_its_culprit_named(qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=50)
    stood: list[float] = []

    def stand_still_until_looked_at() -> None:
        # The sampler is a thread like others: on a busy machine it may get no turn for a while.
        begin = time.perf_counter()
        while time.perf_counter() < begin + 0.15 or (
            watchdog._seen.total() < 5 and time.perf_counter() < begin + 10
        ):
            time.sleep(0.01)
        stood.append(1000 * (time.perf_counter() - begin))

    watchdog.start()
    QTimer.singleShot(60, stand_still_until_looked_at)
    qtbot.waitUntil(lambda: bool(stood), timeout=15_000)
    qtbot.wait(50)
    report = watchdog.stop()
    assert report.longest_ms >= stood[0] - 2 * watchdog_module.BEAT_MS
    assert any("stand_still_until_looked_at" in stall.stack for stall in report.stalls)
    assert "stand_still_until_looked_at" in report.worst(len(report.stalls))


def test_what_most_looks_saw_is_named(qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=50)
    watchdog.start()
    qtbot.wait(30)
    stand_still()
    watchdog._seen.clear()
    watchdog._seen.update({"the culprit": 3, "what came after": 1})
    watchdog._beat()
    assert watchdog.stop().stalls[-1].stack == "the culprit"


class Perishable:
    """Notes on which thread it is destroyed."""

    def __init__(self, graves: list[int]) -> None:
        self._graves = graves

    def __del__(self) -> None:
        self._graves.append(threading.get_ident())


def test_what_the_main_thread_made_is_destroyed_there(qtbot: QtBot) -> None:
    graves: list[int] = []

    def stand_still_with_something() -> None:
        something = Perishable(graves)
        time.sleep(0.15)
        assert something

    watchdog = StallWatchdog(threshold_ms=40)
    watchdog.start()
    for _ in range(3):
        stand_still_with_something()
        qtbot.wait(60)
    assert graves == 3 * [threading.get_ident()]
    watchdog.stop()


def test_an_idle_event_loop_has_no_long_stalls(qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=100)
    watchdog.start()
    qtbot.wait(300)
    report = watchdog.stop()
    assert report.beats >= 3
    # What other programs take from the machine is not what is held against the window.
    assert report.p99_own_ms < 60


def test_a_stall_that_has_not_ended_counts(qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=50)
    watchdog.start()
    qtbot.wait(50)
    stand_still()
    assert watchdog.stop().longest_ms > 100


def test_percentiles_of_a_long_measurement_are_right_to_a_millisecond() -> None:
    chance = random.Random(0)
    seconds = [chance.expovariate(1 / 0.02) for _ in range(20_000)] + [7.5]
    lateness = watchdog_module._Lateness()
    assert (lateness.percentile_ms(0.99), lateness.longest_ms) == (0.0, 0.0)
    for value in seconds:
        lateness.add(value)
    ordered = sorted(seconds)
    assert lateness.beats == 20_001 and lateness.longest_ms == 7_500
    for share in (0.1, 0.5, 0.99):
        exact = 1000 * ordered[int(share * len(ordered))]
        assert exact <= lateness.percentile_ms(share) <= exact + 1
    assert lateness.percentile_ms(1.0) == 7_500
    assert len(lateness._bins) < 10_000
