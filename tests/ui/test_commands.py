"""The one table of commands, and what is made from it."""

from __future__ import annotations

from collections import Counter

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QDockWidget, QLineEdit, QMenu, QToolBar
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.command import MENUS
from attention_studio.ui.command_table import COMMANDS
from attention_studio.ui.commands import fuzzy_score
from attention_studio.ui.icons import ICONS


def test_ids_are_unique_and_well_formed() -> None:
    ids = [command.id for command in COMMANDS]
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    assert all(i.count(".") == 1 and i == i.lower() for i in ids)


def test_shortcuts_are_unique_and_mean_something() -> None:
    keys = [QKeySequence.fromString(c.shortcut).toString() for c in COMMANDS if c.shortcut]
    assert all(keys)
    # Alt and its first letter opens a menu.
    keys += [f"Alt+{menu[0]}" for menu in MENUS]
    assert [k for k, n in Counter(keys).items() if n > 1] == []


def test_every_command_says_what_it_does() -> None:
    for command in COMMANDS:
        assert command.text and command.help, command.id
        assert not command.help.endswith("."), command.id
        assert command.menu.partition("/")[0] in ("", *MENUS), command.id
        assert command.icon in ("", *ICONS), command.id
        assert command.icon or not command.toolbar, command.id


def test_every_handler_exists(studio: Studio) -> None:
    for command in COMMANDS:
        assert callable(studio.commands.handler(command.id))


def test_an_unknown_handler_is_an_error(studio: Studio) -> None:
    studio.commands._targets.pop("graph")
    with pytest.raises(LookupError, match=r"graph\.fit"):
        studio.commands.handler("graph.fit")


def test_menus_hold_every_command_that_belongs_there(studio: Studio) -> None:
    for command in COMMANDS:
        if command.menu:
            menu = studio.window.findChild(QMenu, f"menu.{command.menu}")
            assert isinstance(menu, QMenu)
            assert studio.commands.action(command.id) in menu.actions()


def test_commands_are_enabled_by_what_there_is(studio: Studio) -> None:
    def enabled(command_id: str) -> bool:
        return studio.commands.action(command_id).isEnabled()

    assert enabled("model.load")
    assert not enabled("graph.build") and not enabled("edit.undo") and not enabled("crm.open")
    studio.session.toggle_pin("L0/1/2")
    assert enabled("edit.undo")
    assert studio.commands.action("edit.undo").text() == "Undo: Pin L0 #2 at position 1"
    assert studio.commands.run("edit.undo")
    assert not enabled("edit.undo") and enabled("edit.redo")
    assert not studio.commands.run("graph.build")


def test_a_shortcut_runs_its_command(studio: Studio, qtbot: QtBot) -> None:
    with qtbot.waitSignal(studio.commands.ran) as heard:
        qtbot.keyClick(
            studio.window,
            Qt.Key.Key_L,
            Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
        )
    assert heard.args == ["theme.toggle"]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("graph build", "graph.build"),
        ("bag", "graph.build"),
        ("build attr", "graph.build"),
        ("quit", "app.quit"),
        ("layout tr", "layout.train"),
        ("dark", "theme.toggle"),
        ("pause", "train.pause"),
    ],
)
def test_the_search_finds_what_is_meant(studio: Studio, query: str, best: str) -> None:
    found = [command.id for command in studio.commands.search(query)]
    assert found and found[0] == best, found[:4]


def test_letters_must_occur_in_order() -> None:
    assert fuzzy_score("abc", "a big cat") is not None
    assert fuzzy_score("cab", "a big cat") is None
    assert fuzzy_score("", "anything") == 0
    whole, scattered = fuzzy_score("log", "Show Log"), fuzzy_score("log", "Layout of things")
    assert whole is not None and (scattered is None or whole > scattered)


def test_nothing_else_makes_actions(studio: Studio) -> None:
    ours = set(studio.commands.actions())
    for action in studio.window.findChildren(QAction):
        parent = action.parent()
        # Qt makes one for each menu, dock and toolbar, and for a line with a clear button.
        made_by_qt = action.menu() is not None or isinstance(
            parent, (QDockWidget, QLineEdit, QToolBar)
        )
        assert action in ours or made_by_qt or action.isSeparator(), (action.text(), parent)


def test_the_view_menu_shows_and_hides_docks(studio: Studio, qtbot: QtBot) -> None:
    action, dock = studio.commands.action("view.tasks"), studio.window.tasks_dock
    assert action.isCheckable() and action.isChecked() and not dock.isHidden()
    action.trigger()
    assert dock.isHidden() and not action.isChecked()
    action.trigger()
    assert not dock.isHidden() and action.isChecked()
    # However else a dock comes and goes, the check mark follows.
    qtbot.mouseClick(dock._close_button, Qt.MouseButton.LeftButton)
    assert not action.isChecked()
    studio.commands.run("layout.train")
    for name, other in studio.window.docks.items():
        assert studio.commands.action(f"view.{name}").isChecked() == (not other.isHidden()), name


def test_going_to_a_dock_never_hides_it(studio: Studio, qtbot: QtBot) -> None:
    for _ in range(2):
        qtbot.keyClick(studio.window, Qt.Key.Key_J, Qt.KeyboardModifier.AltModifier)
        assert not studio.window.log_dock.isHidden()
        assert studio.window.log_dock.isAncestorOf(studio.window.focusWidget())


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("fetch", "model.fetch"),
        ("hub", "model.look_up"),
        ("zoom", "graph.zoom_in"),
        ("zoom out", "graph.zoom_out"),
        ("svg", "figure.save"),
        ("png", "figure.save"),
        ("connections", "graph.panel"),
    ],
)
def test_the_palette_finds_what_buttons_do(studio: Studio, query: str, found: str) -> None:
    assert found in [command.id for command in studio.commands.search(query)[:3]]
