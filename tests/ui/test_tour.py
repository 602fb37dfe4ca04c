"""The tour of the first start: three cards, there until they were seen or dismissed."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QRect, Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.tour import STEPS
from tests.hand_graphs import hand_graph
from tests.ui.conftest import tear_down
from tests.ui.stage import unnamed_controls


def test_three_steps_by_the_keyboard(studio: Studio, qtbot: QtBot) -> None:
    studio.window.resize(1400, 900)
    studio.window.prompt_dock.text.setFocus()
    tour = studio.window.tour
    assert studio.commands.run("help.tour")
    assert len(STEPS) == 3 and tour.shown
    assert unnamed_controls(tour.card) == []
    for number, step in enumerate(STEPS):
        assert tour.card.title.text() == step.title
        assert tour.card.place.text() == f"{number + 1} of 3"
        assert studio.window.rect().contains(tour.card.geometry())
        dock = studio.window.docks[step.dock]
        corner = dock.mapTo(studio.window, dock.rect().topLeft())
        assert tour.ring.geometry() == QRect(corner, dock.size())
        assert QApplication.focusWidget() is tour.card.next
        qtbot.keyClick(tour.card.next, Qt.Key.Key_Space)
    assert not tour.shown and tour.ring.isHidden()
    assert studio.window.state.tour_done
    assert studio.window.prompt_dock.text.hasFocus(), "one is where one was"


def test_back_and_away_until_the_next_start(studio: Studio, qtbot: QtBot) -> None:
    tour = studio.window.tour
    tour.begin()
    assert not tour.card.back.isEnabled()
    qtbot.mouseClick(tour.card.next, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(tour.card.back, Qt.MouseButton.LeftButton)
    assert tour.card.title.text() == STEPS[0].title
    # Escape is the card's, whatever command it belongs to.
    studio.session.set_graph(hand_graph(), None)
    studio.session.set_selection("L0/P1/F1")
    qtbot.keyClick(tour.card.next, Qt.Key.Key_Escape)
    assert not tour.shown and studio.session.selection == "L0/P1/F1"
    assert not studio.window.state.tour_done


def test_dismissed_for_good(new_studio: Callable[[], Studio], qtbot: QtBot) -> None:
    first = new_studio()
    first.window.show()
    first.window.begin(None)
    graph = hand_graph()
    qtbot.waitUntil(lambda: first.session.workspace is not None)
    first.session.set_graph(graph, graph.prune())
    qtbot.waitUntil(lambda: first.window.tour.shown)
    qtbot.mouseClick(first.window.tour.card.never, Qt.MouseButton.LeftButton)
    assert not first.window.tour.shown
    first.window.close()
    qtbot.waitUntil(lambda: not first.window.isVisible(), timeout=20_000)
    tear_down(first)

    second = new_studio()
    second.window.show()
    second.window.begin(None)
    qtbot.waitUntil(lambda: second.session.graph is not None, timeout=20_000)
    qtbot.wait(800)
    assert not second.window.tour.shown
    assert second.commands.run("help.tour") and second.window.tour.shown


def test_the_card_stays_in_a_small_window(studio: Studio, qtbot: QtBot) -> None:
    studio.window.tour.begin()
    studio.window.resize(700, 500)
    for _ in STEPS:
        qtbot.wait(30)
        assert studio.window.rect().contains(studio.window.tour.card.geometry())
        studio.window.tour.card.next.click()


def test_the_card_steps_aside_where_its_dock_is_hidden(studio: Studio, qtbot: QtBot) -> None:
    studio.window.resize(1400, 900)
    tour = studio.window.tour
    tour.begin()
    spoken_of = studio.window.docks[STEPS[0].dock]
    qtbot.waitUntil(lambda: tour.ring.isVisible())
    spoken_of.hide()
    tour._place()
    room = studio.window.rect()
    assert tour.ring.isHidden() and room.contains(tour.card.geometry())
    assert room.center().x() < tour.card.x() and room.center().y() < tour.card.y()
    spoken_of.show()
    qtbot.waitUntil(lambda: spoken_of.width() > 1)
    tour._place()
    assert tour.ring.isVisible() and tour.ring.width() == spoken_of.width()
