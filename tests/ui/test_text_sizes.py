"""Whatever the size of the text, nothing that is written in the window is cut or squeezed."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QApplication,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.form_fields import ElidedCombo
from tests.ui.clipping import clipped
from tests.ui.demo_window import LONG, traced


def settle(studio: Studio, qtbot: QtBot) -> None:
    for _ in range(2):
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
        for _ in range(5):
            QApplication.processEvents()


def test_what_is_too_small_is_found(qtbot: QtBot) -> None:
    """The search itself: a label, a button and a field without their room, and with it."""
    box = QWidget()
    qtbot.addWidget(box)
    layout = QHBoxLayout(box)
    parts: tuple[QWidget, ...] = (QLabel("some words"), QPushButton("a button"), QLineEdit("x"))
    for part in parts:
        layout.addWidget(part)
    box.show()
    qtbot.waitExposed(box)
    assert clipped(box) == []
    parts[0].setFixedWidth(10)
    parts[1].setFixedWidth(10)
    parts[2].setFixedHeight(4)
    QApplication.processEvents()
    found = clipped(box)
    assert len(found) == 3 and all("needs" in one for one in found)


@pytest.mark.parametrize(
    "scale",
    [0.8, 2.0, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1.0, 1.8))],
)
def test_nothing_is_cut_in_any_dock(studio: Studio, qtbot: QtBot, scale: float) -> None:
    window = studio.window
    window.resize(1400, 900)
    traced(studio, qtbot)
    for command_id in ("attention.look", "lens.read", "features.extract"):
        assert studio.commands.run(command_id)
    studio.theme.set_scale(scale)
    settle(studio, qtbot)
    found: dict[str, str] = {}
    for name, dock in window.docks.items():
        assert studio.commands.run(f"go.{name}")
        settle(studio, qtbot)
        assert dock.isVisible()
        for said in clipped(window):
            found.setdefault(said, name)
    assert not found, "\n".join(f"{name}: {said}" for said, name in found.items())


def test_words_of_a_choice_end_in_an_ellipsis_only_where_there_is_no_room(
    studio: Studio, qtbot: QtBot
) -> None:
    """Painted as Qt does where all fits; where not, unlike the words cut off in a letter."""
    words = "quite a number of words for a choice"
    box = QWidget()
    qtbot.addWidget(box)
    ours, plain = ElidedCombo(box), QComboBox(box)
    for choice in (ours, plain):
        choice.addItem(words)
        choice.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        choice.move(0, 0)
    box.show()
    qtbot.waitExposed(box)
    for width, same in ((plain.sizeHint().width(), True), (120, False)):
        for choice in (ours, plain):
            choice.resize(width, plain.sizeHint().height())
        assert (ours.grab().toImage() == plain.grab().toImage()) is same
