"""The event loop stays free while the real model loads, trains, and is traced.

This is the promise that the window makes: the longest stall below 100 ms, and below 50 ms at the
99th percentile, measured by the watchdog while everything that is heavy goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
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

LONGEST_MS, P99_MS = 100.0, 50.0
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


def indivisible_ms(studio: Studio) -> float:
    """How long the tokenizers library keeps the interpreter's lock to read this vocabulary.

    One call, which nobody can divide: 80 ms for SmolLM2 on an idle machine, more on a busy one.
    """
    from tokenizers import Tokenizer

    file = studio.settings.cache_dir / "models" / "smollm2-135m" / "tokenizer.json"
    begun = time.perf_counter()
    Tokenizer.from_file(str(file))
    return 1000 * (time.perf_counter() - begun)


def assert_free(report: StallReport, what: str, longest_ms: float = LONGEST_MS) -> None:
    """Hold the window to its promise, not counting what else the machine was busy with."""
    told = f"{what}: {report}"
    logger.info(told)
    assert report.longest_own_ms < longest_ms, f"{told}\n{report.worst()}"
    assert report.p99_own_ms < P99_MS, f"{told}\n{report.worst()}"


def test_the_event_loop_stays_free(
    studio: Studio, smollm2: object, qtbot: QtBot, tmp_path: Path
) -> None:
    del smollm2  # only makes sure that the model is on this machine
    watchdog = StallWatchdog(threshold_ms=40)

    watchdog.start()
    studio.window.model_dock.choice.setEditText("smollm2-135m")
    studio.commands.run("model.load")
    qtbot.waitUntil(lambda: studio.session.model is not None, timeout=LONG)
    studio.window.prompt_dock.set_text(PROMPT)
    qtbot.waitUntil(lambda: studio.session.prompt_view is not None, timeout=LONG)
    qtbot.wait(1_500)  # enough beats for a percentile to mean something
    report = watchdog.stop()
    assert_free(report, "loading", max(LONGEST_MS, 1.6 * indivisible_ms(studio)))

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{PROMPT} Paris. Line {n} of the text." for n in range(3_000)))
    form = studio.window.train_dock.form
    form.texts.set_sources((str(text),))
    form.layers.setText("0")
    form.d_latent.setValue(1_152)
    form.tokens.setValue(8_192)
    form.block_tokens.setValue(4_096)
    form.heldout_tokens.setValue(1_024)
    form.out_dir.setText(str(tmp_path / "run"))
    studio.commands.run("layout.train")
    qtbot.wait(300)
    watchdog.start()
    assert studio.commands.run("train.start")
    qtbot.waitUntil(lambda: studio.session.crm is not None, timeout=LONG)
    assert_free(watchdog.stop(), "harvesting and training")

    watchdog.start()
    assert studio.commands.run("features.extract")
    qtbot.waitUntil(lambda: studio.session.features is not None, timeout=LONG)
    assert_free(watchdog.stop(), "extracting")

    studio.commands.run("layout.circuits")
    qtbot.wait(300)
    watchdog.start()
    assert studio.commands.run("graph.build")
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert_free(watchdog.stop(), "tracing")
