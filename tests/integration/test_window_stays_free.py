"""The event loop stays free while the real model loads, trains, and is traced.

This is the promise that the window makes: the longest stall below 100 ms, and below 50 ms at the
99th percentile, measured by the watchdog while everything that is heavy goes on. The longest of
thousands of beats tells as much about the machine as about the window, so the everyday run holds
it to a second, which only real work on the main thread exceeds; the slow run, meant for a quiet
machine, holds it to 100 ms. The percentile is the same in both.
"""

from __future__ import annotations

import json
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

LONGEST_MS, EVERYDAY_LONGEST_MS, P99_MS = 100.0, 1_000.0, 50.0
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
    """How long two libraries keep the interpreter's lock to read this vocabulary.

    The tokenizers library reads the file in one call, and transformers has the JSON decoder read it
    as well; each is a call that nobody can divide, and one may follow the other at once. For
    SmolLM2 they take 80 and 40 ms on an idle machine, more on a busy one, so they are measured
    here, three times, and the slowest counts.
    """
    from tokenizers import Tokenizer

    file = studio.settings.cache_dir / "models" / "smollm2-135m" / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    slowest = 0.0
    for _ in range(3):
        begun = time.perf_counter()
        Tokenizer.from_file(str(file))
        json.loads(text)
        slowest = max(slowest, time.perf_counter() - begun)
    return 1000 * slowest


def assert_free(report: StallReport, what: str, longest_ms: float) -> None:
    """Hold the window to its promise, not counting what else the machine was busy with."""
    told = f"{what}: {report}"
    logger.info(told)
    assert report.longest_own_ms < longest_ms, f"{told}\n{report.worst()}"
    assert report.p99_own_ms < P99_MS, f"{told}\n{report.worst()}"


@pytest.mark.parametrize(
    "longest_ms",
    [
        pytest.param(EVERYDAY_LONGEST_MS, id="everyday"),
        pytest.param(LONGEST_MS, id="quiet machine", marks=pytest.mark.slow),
    ],
)
def test_the_event_loop_stays_free(
    studio: Studio, smollm2: object, qtbot: QtBot, tmp_path: Path, longest_ms: float
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
    assert_free(report, "loading", max(longest_ms, 1.6 * indivisible_ms(studio)))

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
    assert_free(watchdog.stop(), "harvesting and training", longest_ms)

    watchdog.start()
    assert studio.commands.run("features.extract")
    qtbot.waitUntil(lambda: studio.session.features is not None, timeout=LONG)
    assert_free(watchdog.stop(), "extracting", longest_ms)

    studio.commands.run("layout.circuits")
    qtbot.wait(300)
    watchdog.start()
    assert studio.commands.run("graph.build")
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert_free(watchdog.stop(), "tracing", longest_ms)
