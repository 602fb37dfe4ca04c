"""Layouts that a person saves under names of their own."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QComboBox, QInputDialog, QLineEdit
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.window_state import OWN_LAYOUTS, OwnLayout
from tests.ui.conftest import tear_down


def dialog(qtbot: QtBot) -> QInputDialog:
    qtbot.waitUntil(lambda: isinstance(QApplication.activeModalWidget(), QInputDialog))
    found = QApplication.activeModalWidget()
    assert isinstance(found, QInputDialog)
    return found


def save(studio: Studio, qtbot: QtBot, name: str) -> None:
    """Save the layout, typing its name."""
    assert studio.commands.run("layout.save_own")
    edit = dialog(qtbot).findChild(QLineEdit)
    assert edit is not None
    QTest.keyClicks(edit, name)
    QTest.keyClick(edit, Qt.Key.Key_Return)


def shown(studio: Studio) -> set[str]:
    return {name for name, dock in studio.window.docks.items() if not dock.isHidden()}


def test_a_layout_of_one_s_own(
    new_studio: Callable[[], Studio], studio: Studio, qtbot: QtBot
) -> None:
    assert not studio.commands.action("layout.own1").isVisible()
    assert not studio.commands.action("layout.delete_own").isVisible()
    studio.commands.run("layout.train")
    studio.window.docks["log"].close()
    save(studio, qtbot, "just & mine")
    mine = shown(studio)
    studio.commands.run("layout.circuits")
    assert shown(studio) != mine
    qtbot.keyClick(studio.window, Qt.Key.Key_4, Qt.KeyboardModifier.ControlModifier)
    assert shown(studio) == mine
    # The same name again replaces it.
    studio.window.docks["prompt"].close()
    save(studio, qtbot, " just  & mine ")
    assert [layout.name for layout in studio.window.state.own_layouts] == ["just & mine"]
    studio.window.close()
    tear_down(studio)

    again = new_studio()
    again.window.show()
    assert again.commands.action("layout.own1").text() == "Layout: just && mine"
    again.commands.run("layout.circuits")
    found = again.commands.search("just mine")
    assert found[0].id == "layout.own1"
    assert again.commands.run("layout.own1")
    assert shown(again) == mine - {"prompt"}
    assert again.commands.run("layout.delete_own")
    box = dialog(qtbot).findChild(QComboBox)
    assert box is not None and box.currentText() == "just & mine"
    dialog(qtbot).accept()
    assert again.window.state.own_layouts == ()
    assert not again.commands.action("layout.own1").isVisible()


def test_there_are_only_so_many(studio: Studio, qtbot: QtBot) -> None:
    layouts = studio.commands._targets["layouts"]
    for number in range(OWN_LAYOUTS + 1):
        layouts.save(f"layout {number}")  # type: ignore[attr-defined]
    assert len(studio.window.state.own_layouts) == OWN_LAYOUTS
    current = studio.window.messages.current
    assert current is not None and "layouts already" in current.what
    layouts.save("   ")  # type: ignore[attr-defined]
    assert len(studio.window.state.own_layouts) == OWN_LAYOUTS


def test_one_that_cannot_be_used_changes_nothing(studio: Studio) -> None:
    from PySide6.QtCore import QByteArray

    before = shown(studio)
    studio.window.state.own_layouts = (OwnLayout("old", QByteArray(b"rubbish")),)
    layouts = studio.commands._targets["layouts"]
    layouts.apply(0)  # type: ignore[attr-defined]
    assert shown(studio) == before
    current = studio.window.messages.current
    assert current is not None and "cannot be used" in current.what


def test_broken_values_read_as_none(studio: Studio) -> None:
    state = studio.window.state
    for value in ("{", "7", '["a"]', '[["name"]]', '[[1, "QQ=="]]', '[["n", "ü"]]', "[" * 9999):
        state._settings.setValue("layouts/own", value)
        assert state.own_layouts == (), value
