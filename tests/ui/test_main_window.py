"""The window: layouts that come back, messages, background work, leaving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QSize
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.jobs import JobFailure, LaneContext
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.window_state import WindowState
from tests.ui.conftest import tear_down

ALWAYS = {"model", "prompt", "tasks", "log", "workspace"}
PRESETS = {
    "train": ALWAYS | {"train"},
    "features": ALWAYS | {"features", "graph"},
    "circuits": ALWAYS | {"graph", "features", "train"},
}
BODY = {"train", "features", "graph"}


def shown(studio: Studio) -> set[str]:
    """Of the docks that tell the presets from each other, those that are there."""
    docks = studio.window.docks.items()
    return {name for name, dock in docks if name in ALWAYS | BODY and not dock.isHidden()}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_show_their_docks(studio: Studio, preset: str) -> None:
    assert studio.commands.run(f"layout.{preset}")
    assert shown(studio) == PRESETS[preset]
    studio.commands.run("layout.reset")
    assert shown(studio) == PRESETS["circuits"]


def test_docks_keep_enough_room_to_be_used(studio: Studio, qtbot: QtBot) -> None:
    studio.window.resize(1400, 900)
    for preset in PRESETS:
        studio.commands.run(f"layout.{preset}")
        qtbot.wait(30)
        for name in PRESETS[preset]:
            dock = studio.window.docks[name]
            if dock.visibleRegion().isEmpty():
                continue
            assert dock.width() >= 280, (preset, name, dock.size())
            assert dock.height() >= 120, (preset, name, dock.size())


def test_the_layout_comes_back_on_the_next_start(
    new_studio: Callable[[], Studio], qtbot: QtBot
) -> None:
    first = new_studio()
    first.window.show()
    first.commands.run("layout.train")
    # Within the offscreen screen, which is 800 pixels wide.
    first.window.resize(QSize(780, 700))
    first.window.docks["log"].close()
    first.theme.set_choice("dark")
    first.theme.set_scale(1.1)
    first.window.model_dock.choice.setEditText("EleutherAI/pythia-70m")
    expected = shown(first)
    size = first.window.size()
    first.window.close()
    tear_down(first)

    second = new_studio()
    with qtbot.waitExposed(second.window):
        second.window.show()
    assert shown(second) == expected == {"model", "prompt", "train", "tasks", "workspace"}
    assert second.window.size() == size
    assert second.theme.choice == "dark" and second.theme.scale == pytest.approx(1.1)
    assert second.window.model_dock.config().name == "EleutherAI/pythia-70m"


def test_a_broken_state_file_is_no_obstacle(
    new_studio: Callable[[], Studio], qtbot: QtBot, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "window.ini").write_bytes(b"[window]\nlayout=@ByteArray(rubbish)\ngeometry=17\n\xff")
    studio = new_studio()
    studio.window.show()
    assert shown(studio) == PRESETS["circuits"]


def test_the_last_replacement_model_is_remembered(tmp_path: Path) -> None:
    state = WindowState(tmp_path)
    assert state.crm == ""
    state.crm = "/crm/7"
    state.flush()
    assert WindowState(tmp_path).crm == "/crm/7"


@pytest.mark.parametrize(
    ("kept", "scale"), [("1.3", 1.3), ("nan", 1.0), ("inf", 1.0), ("-inf", 1.0), ("big", 1.0)]
)
def test_a_text_scale_is_a_number(tmp_path: Path, kept: str, scale: float) -> None:
    (tmp_path / "window.ini").write_text(f"[theme]\nscale={kept}\n")
    assert WindowState(tmp_path).text_scale == scale


def test_run_async_calls_back_on_the_main_thread(studio: Studio, qtbot: QtBot) -> None:
    seen: list[tuple[object, int, int]] = []

    def work() -> int:
        return threading.get_ident()

    def done(value: int) -> None:
        seen.append(("done", value, threading.get_ident()))

    studio.window._run_async(work, done)
    qtbot.waitUntil(lambda: bool(seen))
    assert seen[0][1] != threading.get_ident() == seen[0][2]


def test_run_async_reports_errors(studio: Studio, qtbot: QtBot) -> None:
    failures: list[JobFailure] = []

    def fail() -> None:
        raise ValueError("a reason")

    studio.window._run_async(fail, on_error=failures.append)
    qtbot.waitUntil(lambda: bool(failures))
    assert "a reason" in failures[0].why and studio.window.messages.current is None
    studio.window._run_async(fail)
    qtbot.waitUntil(lambda: studio.window.messages.current is not None)
    assert "a reason" in studio.window.messages.current.why


def test_a_message_takes_its_own_room_and_gives_it_back(studio: Studio, qtbot: QtBot) -> None:
    bar, dock = studio.window.messages, studio.window.docks["model"]
    top = dock.mapTo(studio.window, dock.rect().topLeft()).y()
    studio.window.say(Message("error", "It broke", "a long reason " * 40, "do this"))
    qtbot.waitUntil(lambda: dock.mapTo(studio.window, dock.rect().topLeft()).y() > top + 30)
    assert not bar.visibleRegion().isEmpty()
    assert bar.height() >= bar.heightForWidth(bar.width())
    bar.dismiss()
    qtbot.waitUntil(lambda: dock.mapTo(studio.window, dock.rect().topLeft()).y() == top)


def test_a_crm_needs_a_model_first(studio: Studio) -> None:
    studio.window.open_crm_folder("/nowhere")
    current = studio.window.messages.current
    assert current is not None and current.what == "No model is loaded"


def test_opening_a_file_that_is_no_graph_says_so(
    studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    file = tmp_path / "graph.safetensors"
    file.write_text("not a graph")
    studio.window.open_graph_file(str(file))
    qtbot.waitUntil(lambda: studio.window.messages.current is not None, timeout=20_000)
    current = studio.window.messages.current
    assert current is not None and current.level == "error" and "graph.safetensors" in current.what


def test_closing_waits_for_a_job_and_says_so(studio: Studio, qtbot: QtBot) -> None:
    def work(ctx: LaneContext) -> None:
        while not ctx.cancelled:
            time.sleep(0.005)
        time.sleep(0.15)  # it takes a moment to stop

    job = studio.runner.submit(work, title="Busy")
    qtbot.waitUntil(lambda: job.started_at is not None)
    with qtbot.waitSignal(studio.window.stopped, timeout=5_000):
        assert not studio.window.close()
        assert studio.window.isVisible()
        current = studio.window.messages.current
        assert current is not None and current.what == "Stopping…"
    assert not studio.window.isVisible()
    assert not studio.runner.accepting


def test_a_tab_names_its_dock_and_the_title_bar_does_not(studio: Studio, qtbot: QtBot) -> None:
    window = studio.window

    def titled(name: str) -> bool:
        return not window.docks[name]._name_label.isHidden()

    # Layout Circuits: graph, features and train share a place, and tasks and log another.
    qtbot.waitUntil(lambda: not titled("graph"))
    assert titled("model") and titled("prompt")
    assert not titled("features") and not titled("tasks") and not titled("log")
    for dock in window.tabifiedDockWidgets(window.docks["tasks"]):
        dock.close()
    qtbot.waitUntil(lambda: titled("tasks"))
    studio.commands.run("layout.features")
    # There the graph has a place of its own.
    qtbot.waitUntil(lambda: titled("graph"))


def test_about_says_where_things_are(studio: Studio) -> None:
    studio.commands.run("help.about")
    current = studio.window.messages.current
    assert current is not None
    assert str(studio.settings.cache_dir) in current.why
    assert str(studio.settings.state_dir) in current.todo
