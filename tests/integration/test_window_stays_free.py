"""The event loop stays free while the real model loads, trains, and is traced.

This is the promise that the window makes: the longest stall below 100 ms, and below 50 ms at the
99th percentile, measured by the watchdog while everything that is heavy goes on. The longest of
thousands of beats tells as much about the machine as about the window, so the everyday run holds
it to a second, which only real work on the main thread exceeds; the slow run, meant for a quiet
machine, holds it to 100 ms. Likewise the percentile: some jobs are over in a second, where it is
but the longest beat, so the everyday run takes it over all jobs together and the slow one by job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from loguru import logger
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import SWITCH_INTERVAL_S, Studio, build_studio
from attention_studio.ui.collector import MainThreadCollector
from attention_studio.ui.watchdog import StallReport, StallWatchdog
from attention_studio.utils.config import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

LONGEST_MS, EVERYDAY_LONGEST_MS, P99_MS = 100.0, 1_000.0, 50.0
# Idle time after each job, so that a percentile of its beats is not just their longest.
AFTER_MS = 1_500
PROMPT = "The Eiffel Tower is in the city of"
LONG = 600_000


@pytest.fixture
def studio(qtbot: QtBot, tmp_path: Path) -> Iterator[Studio]:
    """A whole studio as the program builds it, on the person's own cache of models."""
    settings = Settings(state_dir=tmp_path / "state")
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    built = build_studio(settings)
    collector = MainThreadCollector(built.window)
    collector.start()
    with qtbot.waitExposed(built.window):
        built.window.show()
    yield built
    built.window.close()
    assert built.runner.shutdown(30.0, force=False)
    collector.stop()
    built.window.log_dock.shutdown()
    built.window.close()
    built.window.deleteLater()
    sys.setswitchinterval(before)


@dataclass(frozen=True)
class Promise:
    """What each job of a run is held to."""

    longest_ms: float
    p99_ms: float

    def check(self, report: StallReport, what: str) -> None:
        """Not counting what else the machine was busy with."""
        told = f"{what}: {report}"
        logger.info(told)
        assert report.longest_own_ms < self.longest_ms, f"{told}\n{report.worst()}"
        assert report.p99_own_ms < self.p99_ms, f"{told}\n{report.worst()}"


@pytest.mark.parametrize(
    "promise",
    [
        pytest.param(Promise(EVERYDAY_LONGEST_MS, EVERYDAY_LONGEST_MS), id="everyday"),
        pytest.param(Promise(LONGEST_MS, P99_MS), id="quiet machine", marks=pytest.mark.slow),
    ],
)
def test_the_event_loop_stays_free(
    studio: Studio, smollm2: object, qtbot: QtBot, tmp_path: Path, promise: Promise
) -> None:
    del smollm2  # only makes sure that the model is on this machine
    watchdog = StallWatchdog(threshold_ms=40)
    whole = StallWatchdog(threshold_ms=40)
    whole.start()

    watchdog.start()
    studio.window.model_dock.choice.setEditText("smollm2-135m")
    studio.commands.run("model.load")
    qtbot.waitUntil(lambda: studio.session.model is not None, timeout=LONG)
    studio.window.prompt_dock.set_text(PROMPT)
    qtbot.waitUntil(lambda: studio.session.prompt_view is not None, timeout=LONG)
    qtbot.wait(AFTER_MS)
    promise.check(watchdog.stop(), "loading")

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{PROMPT} Paris. Line {n} of the text." for n in range(3_000)))
    form = studio.window.train_dock.form
    form.texts.set_sources((str(text),))
    form.layers.setText("0")
    form.d_latent.setValue(1_152)
    form.tokens.setValue(8_192)
    form.more.block_tokens.setValue(4_096)
    form.more.heldout_tokens.setValue(1_024)
    form.out_dir.setText(str(tmp_path / "run"))
    studio.commands.run("layout.train")
    qtbot.wait(300)
    watchdog.start()
    assert studio.commands.run("train.start")
    qtbot.waitUntil(lambda: studio.session.crm is not None, timeout=LONG)
    promise.check(watchdog.stop(), "harvesting and training")

    watchdog.start()
    assert studio.commands.run("features.extract")
    qtbot.waitUntil(lambda: studio.session.features is not None, timeout=LONG)
    qtbot.wait(AFTER_MS)
    promise.check(watchdog.stop(), "extracting")

    studio.commands.run("layout.circuits")
    qtbot.wait(300)
    watchdog.start()
    assert studio.commands.run("graph.build")
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    qtbot.wait(AFTER_MS)
    promise.check(watchdog.stop(), "tracing")
    Promise(promise.longest_ms, P99_MS).check(whole.stop(), "all of it")
