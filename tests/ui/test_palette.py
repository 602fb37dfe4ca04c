"""The command palette, by keys alone."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.command_table import COMMANDS


@pytest.fixture
def edit(studio: Studio, qtbot: QtBot) -> QLineEdit:
    """The palette's line, with the palette opened by its shortcut."""
    modifiers = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(studio.window, Qt.Key.Key_P, modifiers)
    palette = studio.window.palette_popup
    assert palette.isVisible()
    found = palette.findChild(QLineEdit, "commandPalette.query")
    assert isinstance(found, QLineEdit)
    return found


def test_it_lists_every_command_at_first(studio: Studio, edit: QLineEdit) -> None:
    listed = studio.window.palette_popup.shown_commands()
    # But for those that wait for something to act on, such as a layout of one's own.
    expected = {command.id for command in COMMANDS if command.shown} - {"palette.show"}
    assert set(listed) == expected


def test_typing_and_enter_run_a_command(studio: Studio, edit: QLineEdit, qtbot: QtBot) -> None:
    qtbot.keyClicks(edit, "layout train")
    assert studio.window.palette_popup.shown_commands()[0] == "layout.train"
    with qtbot.waitSignal(studio.commands.ran) as heard:
        qtbot.keyClick(edit, Qt.Key.Key_Return)
    assert heard.args == ["layout.train"]
    assert not studio.window.palette_popup.isVisible()
    assert studio.window.docks["graph"].isHidden()


def test_the_arrow_keys_choose(studio: Studio, edit: QLineEdit, qtbot: QtBot) -> None:
    qtbot.keyClicks(edit, "show")
    second = studio.window.palette_popup.shown_commands()[1]
    qtbot.keyClick(edit, Qt.Key.Key_Down)
    with qtbot.waitSignal(studio.commands.ran) as heard:
        qtbot.keyClick(edit, Qt.Key.Key_Enter)
    assert heard.args == [second]


def test_what_cannot_run_now_comes_last_and_does_not_run(
    studio: Studio, edit: QLineEdit, qtbot: QtBot
) -> None:
    listed = studio.window.palette_popup.shown_commands()
    enabled = [studio.commands.action(command).isEnabled() for command in listed]
    assert enabled == sorted(enabled, reverse=True) and not enabled[-1]
    qtbot.keyClicks(edit, "build attribution")
    ran: list[str] = []
    studio.commands.ran.connect(ran.append)
    qtbot.keyClick(edit, Qt.Key.Key_Return)
    assert ran == [] and studio.window.palette_popup.isVisible()


def test_escape_closes(studio: Studio, edit: QLineEdit, qtbot: QtBot) -> None:
    qtbot.keyClick(edit, Qt.Key.Key_Escape)
    assert not studio.window.palette_popup.isVisible()


def test_nonsense_finds_nothing(studio: Studio, edit: QLineEdit, qtbot: QtBot) -> None:
    qtbot.keyClicks(edit, "qqqzzz")
    assert studio.window.palette_popup.shown_commands() == ()
    qtbot.keyClick(edit, Qt.Key.Key_Return)
    assert studio.window.palette_popup.isVisible()
