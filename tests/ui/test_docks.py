"""What holds for every dock, and what the small ones do."""

from __future__ import annotations

import threading
import time

import pytest
from loguru import logger
from PySide6.QtCore import Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.ui import work
from attention_studio.ui.app import Studio
from attention_studio.ui.jobs import LaneContext
from attention_studio.ui.widgets.controls import ElidedLabel, EmptyState

DOCKS = ("model", "prompt", "train", "features", "graph", "tasks", "log")
CONTROLS = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
)


def own_controls(root: QWidget) -> list[QWidget]:
    """The controls below ``root``, without the parts that Qt makes inside of them."""
    found = []
    for child in root.findChildren(QWidget):
        parent = child.parentWidget()
        inner = isinstance(parent, (QAbstractItemView, QComboBox, QAbstractSpinBox, QLineEdit))
        popup = child.objectName().startswith("qt_") or child.window() is not root.window()
        control = isinstance(child, CONTROLS) and not isinstance(child, QScrollBar)
        if control and not inner and not popup:
            found.append(child)
    return found


@pytest.mark.parametrize("name", DOCKS)
def test_every_control_has_a_name_and_a_tooltip(studio: Studio, name: str) -> None:
    dock = studio.window.docks[name]
    controls = own_controls(dock)
    assert controls
    for control in controls:
        assert control.objectName(), f"{name}: {type(control).__name__} {control.accessibleName()}"
        assert control.accessibleName(), f"{name}: {control.objectName()} has no accessible name"
        told = control.toolTip() or control.accessibleDescription()
        assert told, f"{name}: {control.objectName()} has no tooltip"


@pytest.mark.parametrize("name", DOCKS)
def test_object_names_are_unique(studio: Studio, name: str) -> None:
    seen: set[str] = set()
    for control in own_controls(studio.window.docks[name]):
        # A command may have a button in two places.
        if not control.objectName().startswith("button."):
            assert control.objectName() not in seen, control.objectName()
        seen.add(control.objectName())


@pytest.mark.parametrize("name", DOCKS)
def test_labels_show_plain_text(studio: Studio, name: str) -> None:
    for label in studio.window.docks[name].findChildren(QLabel):
        if label.text():
            assert label.textFormat() == Qt.TextFormat.PlainText, label.text()


@pytest.mark.parametrize("name", DOCKS)
def test_docks_survive_a_theme_switch_and_larger_text(
    studio: Studio, name: str, qtbot: QtBot
) -> None:
    dock = studio.window.docks[name]
    dock.go_there()
    studio.theme.set_choice("dark")
    dark = dock.grab().toImage()
    studio.theme.set_scale(1.6)
    dock.grab()
    studio.theme.set_scale(1.0)
    studio.theme.set_choice("light")
    light = dock.grab().toImage()
    assert dark != light
    # The dock's own ground has the theme's colour.
    corner = light.pixelColor(light.width() // 2, light.height() - 8)
    assert corner.lightness() > 200


@pytest.mark.parametrize("name", ["train", "features", "graph", "tasks"])
def test_an_empty_dock_says_what_it_is_for(studio: Studio, name: str) -> None:
    dock = studio.window.docks[name]
    dock.go_there()
    assert dock.empty
    state = dock.findChild(EmptyState)
    assert isinstance(state, EmptyState)
    assert state.title.text() and len(state.text.text()) > 30
    if name != "tasks":
        assert state.findChildren(QAbstractButton)


@pytest.mark.parametrize("layout", ["circuits", "train"])
@pytest.mark.parametrize("name", DOCKS)
def test_go_there_brings_the_dock_to_the_front(
    studio: Studio, name: str, layout: str, qtbot: QtBot
) -> None:
    studio.commands.run(f"layout.{layout}")
    dock = studio.window.docks[name]
    dock.close()
    studio.commands.run(f"view.{name}")
    qtbot.waitUntil(lambda: not dock.visibleRegion().isEmpty(), timeout=2_000)
    assert not dock.isFloating() and dock.width() > 200


def test_a_hidden_dock_catches_up_when_it_is_shown(studio: Studio) -> None:
    dock = studio.window.prompt_dock
    dock.close()
    studio.session.set_prompt("typed elsewhere")
    assert dock.text.toPlainText() != "typed elsewhere"
    dock.show()
    assert dock.text.toPlainText() == "typed elsewhere"


def test_the_tasks_dock_follows_jobs(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.tasks_dock
    gate = threading.Event()

    def work(ctx: LaneContext) -> None:
        ctx.progress(1, 2, "half way")
        gate.wait(5)

    job = studio.runner.submit(work, title="A <b>task</b>")
    assert dock.n_rows == 1 and not dock.empty
    qtbot.waitUntil(lambda: job.last_progress.fraction == 0.5)
    gate.set()
    qtbot.waitUntil(lambda: not studio.runner.busy)
    row = dock.findChild(QWidget, f"task.{job.number}")
    assert isinstance(row, QWidget)
    assert any(label.text().startswith("Done") for label in row.findChildren(QLabel))
    clear = dock.findChild(QAbstractButton, "tasks.clear")
    assert isinstance(clear, QAbstractButton)
    clear.click()
    assert dock.n_rows == 0 and dock.empty


def test_a_task_can_be_cancelled_from_its_row(studio: Studio, qtbot: QtBot) -> None:
    def forever(ctx: LaneContext) -> None:
        while True:
            ctx.check()

    job = studio.runner.submit(forever, title="Forever")
    qtbot.waitUntil(lambda: job.started_at is not None)
    button = studio.window.tasks_dock.findChild(QAbstractButton, f"task.{job.number}.cancel")
    assert isinstance(button, QAbstractButton)
    button.click()
    qtbot.waitUntil(lambda: not studio.runner.busy)
    assert job.state.value == "cancelled"


def test_quiet_work_is_listed_only_if_it_takes_long(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.tasks_dock
    gate = threading.Event()

    def work(_ctx: LaneContext) -> None:
        gate.wait(5)

    studio.runner.submit(work, title="Quiet", quiet=True)
    assert dock.n_rows == 0
    qtbot.waitUntil(lambda: dock.n_rows == 1, timeout=3_000)
    gate.set()
    qtbot.waitUntil(lambda: dock.n_rows == 0, timeout=3_000)


def test_the_log_dock_filters_and_searches(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.log_dock
    dock.go_there()
    logger.info("an apple fell")
    logger.warning("a pear fell <b>hard</b>")
    logger.debug("a plum fell")
    qtbot.waitUntil(lambda: "pear" in dock.shown_text())
    assert "apple" in dock.shown_text() and "plum" not in dock.shown_text()
    assert "<b>hard</b>" in dock.shown_text()
    level = dock.findChild(QComboBox, "log.level")
    search = dock.findChild(QLineEdit, "log.search")
    assert isinstance(level, QComboBox) and isinstance(search, QLineEdit)
    level.setCurrentIndex(level.findData("DEBUG"))
    assert "plum" in dock.shown_text()
    level.setCurrentIndex(level.findData("WARNING"))
    assert "apple" not in dock.shown_text() and "pear" in dock.shown_text()
    level.setCurrentIndex(level.findData("DEBUG"))
    qtbot.keyClicks(search, "APPLE")
    assert "apple" in dock.shown_text() and "pear" not in dock.shown_text()


def test_the_log_takes_lines_from_any_thread(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.log_dock
    dock.go_there()

    def speak() -> None:
        for number in range(200):
            logger.info(f"line {number} of a lane")

    thread = threading.Thread(target=speak)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: "line 199 of a lane" in dock.shown_text())


def test_tooltips_show_plain_text(qtbot: QtBot) -> None:
    shown = ElidedLabel()
    qtbot.addWidget(shown)
    document = QTextDocument()
    for text in ("it's <b>bold</b> & <img src='x'>", "it's &lt; that"):
        shown.set_whole(text)
        document.setHtml(shown.toolTip())
        assert document.toPlainText() == text
    shown.set_whole("it's plain")
    assert shown.toolTip() == "it's plain"


def test_releasing_takes_the_place_of_a_fetch(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(ctx: LaneContext, *_: object) -> None:
        while True:
            ctx.check()
            time.sleep(0.005)

    monkeypatch.setattr(work, "fetch_model", fetch)
    monkeypatch.setattr(work, "release_model", lambda *_: 0)
    dock = studio.window.model_dock
    dock.load()
    cancel = dock.findChild(QAbstractButton, "model.cancel")
    assert cancel is not None and cancel.isVisibleTo(dock)
    dock.release()
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=10_000)
    assert not cancel.isVisibleTo(dock)
    load = dock.findChild(QAbstractButton, "button.model.load")
    assert load is not None and load.isVisibleTo(dock)
