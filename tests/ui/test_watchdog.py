"""The stall watchdog sees what it should see."""

from __future__ import annotations

import random
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
    watchdog.start()
    QTimer.singleShot(60, stand_still)
    qtbot.wait(350)
    report = watchdog.stop()
    assert 100 <= report.longest_ms < 400
    assert any("stand_still" in stall.stack for stall in report.stalls)
    assert "stand_still" in report.worst(1)


def test_an_idle_event_loop_has_no_long_stalls(qtbot: QtBot) -> None:
    watchdog = StallWatchdog(threshold_ms=100)
    watchdog.start()
    qtbot.wait(300)
    report = watchdog.stop()
    assert report.beats > 10
    assert report.p99_ms < 60


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
