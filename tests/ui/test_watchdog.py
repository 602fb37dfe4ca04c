"""The stall watchdog sees what it should see."""

from __future__ import annotations

import time

from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

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
