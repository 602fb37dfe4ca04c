"""What holds for every dock, and what the small ones do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from loguru import logger
from PySide6.QtCore import Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.ui import work
from attention_studio.ui.app import Studio
from attention_studio.ui.jobs import Job, LaneContext
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.controls import ElidedLabel, EmptyState
from attention_studio.ui.widgets.log_dock import KEPT_LINES, SLICE_LINES
from attention_studio.ui.widgets.studio_dock import StudioDock

# Those that have something to show from the start.
NEVER_EMPTY = ("model", "prompt", "log", "workspace", "figures", "console", "history")
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
        inner = isinstance(
            parent, (QAbstractItemView, QComboBox, QAbstractSpinBox, QLineEdit, QTabBar)
        )
        popup = child.objectName().startswith("qt_") or child.window() is not root.window()
        control = isinstance(child, CONTROLS) and not isinstance(child, QScrollBar)
        if control and not inner and not popup:
            found.append(child)
    return found


def faults(studio: Studio, look: Callable[[str, StudioDock], Iterator[str]]) -> list[str]:
    """What is wrong with any dock; one window is enough to look at them all."""
    found = []
    for name, dock in studio.window.docks.items():
        dock.ensure_body()
        found += [f"{name}: {fault}" for fault in look(name, dock)]
    return found


def test_every_control_has_a_name_and_a_tooltip(studio: Studio) -> None:
    def look(_name: str, dock: StudioDock) -> Iterator[str]:
        controls = own_controls(dock)
        if not controls:
            yield "no controls"
        for control in controls:
            what = f"{type(control).__name__} {control.objectName()!r}"
            if not control.objectName():
                yield f"{what} {control.accessibleName()} has no object name"
            if not control.accessibleName():
                yield f"{what} has no accessible name"
            if not (control.toolTip() or control.accessibleDescription()):
                yield f"{what} has no tooltip"

    assert not faults(studio, look)


def test_object_names_are_unique(studio: Studio) -> None:
    def look(_name: str, dock: StudioDock) -> Iterator[str]:
        seen: set[str] = set()
        for control in own_controls(dock):
            # A command may have a button in two places.
            if not control.objectName().startswith("button.") and control.objectName() in seen:
                yield control.objectName()
            seen.add(control.objectName())

    assert not faults(studio, look)


def test_labels_show_plain_text(studio: Studio) -> None:
    def look(_name: str, dock: StudioDock) -> Iterator[str]:
        for label in dock.findChildren(QLabel):
            if label.text() and label.textFormat() != Qt.TextFormat.PlainText:
                yield label.text()

    assert not faults(studio, look)


@pytest.mark.parametrize("scale", [0.8, 1.6, 2.0])
def test_docks_survive_a_theme_switch_and_other_text_sizes(studio: Studio, scale: float) -> None:
    studio.theme.set_choice("dark")
    studio.theme.set_scale(scale)
    dark = {}
    for name, dock in studio.window.docks.items():
        dock.go_there()
        QApplication.processEvents()
        dark[name] = dock.grab().toImage()
    studio.theme.set_choice("light")

    def look(name: str, dock: StudioDock) -> Iterator[str]:
        dock.go_there()
        QApplication.processEvents()
        light = dock.grab().toImage()
        if light == dark[name]:
            yield "looks the same in light and dark"
        # The dock's own ground has the theme's colour, wherever no text or line lies.
        foot = [light.pixelColor(x, light.height() - 8).lightness() for x in range(light.width())]
        if sorted(foot)[len(foot) // 2] < 200:
            yield "is dark at its foot in the light scheme"

    assert not faults(studio, look)


def test_an_empty_dock_says_what_it_is_for(studio: Studio) -> None:
    def look(name: str, dock: StudioDock) -> Iterator[str]:
        if name in NEVER_EMPTY:
            return
        dock.go_there()
        if not dock.empty:
            yield "is not empty in a new window"
        state = dock.findChild(EmptyState)
        if not isinstance(state, EmptyState):
            yield "has no empty state"
            return
        if not state.title.text() or len(state.text.text()) <= 30:
            yield "does not say what it is for"
        if name != "tasks" and not state.findChildren(QAbstractButton):
            yield "does not offer the button that fills it"

    assert not faults(studio, look)


@pytest.mark.parametrize("layout", ["circuits", "train"])
def test_go_there_brings_the_dock_to_the_front(studio: Studio, layout: str, qtbot: QtBot) -> None:
    for name, dock in studio.window.docks.items():
        studio.commands.run(f"layout.{layout}")
        dock.close()
        studio.commands.run(f"view.{name}")
        qtbot.waitUntil(lambda dock=dock: not dock.visibleRegion().isEmpty(), timeout=2_000)
        assert not dock.isFloating() and dock.width() > 200, name


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

    status = studio.window.findChild(QLabel, "status.work")
    assert isinstance(status, QLabel)
    begun: list[str] = []

    def heard(_job: Job) -> None:
        begun.append(status.text())

    studio.runner.job_changed.connect(heard)
    studio.runner.submit(work, title="Quiet", quiet=True)
    assert dock.n_rows == 0
    qtbot.waitUntil(lambda: dock.n_rows == 1, timeout=3_000)
    assert begun == [""], "it is not spoken of when it begins"
    qtbot.waitUntil(lambda: status.text() == "Quiet", timeout=3_000)
    gate.set()
    qtbot.waitUntil(lambda: dock.n_rows == 0, timeout=3_000)
    assert status.text() == ""
    studio.runner.job_changed.disconnect(heard)


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
    qtbot.waitUntil(lambda: "pear" not in dock.shown_text(), timeout=5_000)
    assert "apple" in dock.shown_text()


def test_a_full_log_is_filtered_once_and_in_slices(studio: Studio, qtbot: QtBot) -> None:
    dock = studio.window.log_dock
    dock.go_there()
    for number in range(KEPT_LINES):
        logger.info(f"entry {number} {'even' if number % 2 == 0 else 'odd'}")
    qtbot.waitUntil(lambda: f"entry {KEPT_LINES - 1} " in dock.shown_text(), timeout=20_000)
    written: list[int] = []
    append = dock._append
    dock._append = lambda lines: (written.append(len(lines)), append(lines))[1]  # type: ignore[method-assign]
    search = dock.findChild(QLineEdit, "log.search")
    assert isinstance(search, QLineEdit)
    qtbot.keyClicks(search, "even")
    assert written == [], "typing waits for nothing"
    qtbot.waitUntil(lambda: sum(written) >= KEPT_LINES // 2, timeout=20_000)
    assert max(written) <= SLICE_LINES
    shown = [int(line.split("entry ")[1].split()[0]) for line in dock.shown_text().splitlines()]
    assert shown == sorted(shown) and all(number % 2 == 0 for number in shown)
    assert len(shown) >= KEPT_LINES // 2 - 1


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


@pytest.mark.parametrize(
    ("token", "marked", "plain"),
    [
        (" the", "␣the", "the"),
        ("a b  ", "a b␣␣", "a b"),
        ("  ", "␣␣", "␣"),
        ("", "␣", "␣"),
        ("\n\t\r", "⏎⇥␍", "⏎⇥␍"),
        ("␣", "␣", "␣"),
    ],
)
def test_a_token_is_made_visible(token: str, marked: str, plain: str) -> None:
    assert visible_token(token) == marked
    assert visible_token(token, spaces=False) == plain


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
