"""What the message bar shows, in which order, and as what."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QPlainTextEdit, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.message_bar import Message, MessageBar
from attention_studio.utils.errors import StudioError


@pytest.fixture
def bar(qtbot: QtBot) -> MessageBar:
    """A bar on its own."""
    theme = Theme("light")
    theme.apply()
    made = MessageBar(theme)
    qtbot.addWidget(made)
    return made


def texts(bar: MessageBar) -> tuple[str, str]:
    what = bar.findChild(QLabel, "messageBar.what")
    why = bar.findChild(QLabel, "messageBar.why")
    assert isinstance(what, QLabel) and isinstance(why, QLabel)
    return what.text(), why.text()


def test_it_says_what_why_and_what_to_do(bar: MessageBar) -> None:
    bar.post(Message.of(StudioError("The disk is full", "0 bytes are left", "Delete something")))
    assert texts(bar) == ("The disk is full", "0 bytes are left. Delete something.")
    assert bar.accessibleName() == "Error: The disk is full"


def test_text_from_outside_is_never_markup(bar: MessageBar) -> None:
    evil = "<b>bold</b><img src='http://example.com/x.png'>"
    bar.post(Message("error", evil, evil))
    assert texts(bar)[0] == evil
    for label in bar.findChildren(QLabel):
        if label.objectName():
            assert label.textFormat() == Qt.TextFormat.PlainText


def test_details_are_one_click_away(bar: MessageBar, qtbot: QtBot) -> None:
    bar.post(Message.of(JobFailure("It failed", "because", "", "Traceback …")))
    bar.show()
    details = bar.findChild(QPlainTextEdit, "messageBar.text")
    button = bar.findChild(QPushButton, "messageBar.details")
    assert isinstance(details, QPlainTextEdit) and isinstance(button, QPushButton)
    assert details.isHidden()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert not details.isHidden() and details.toPlainText() == "Traceback …"
    copy = bar.findChild(QToolButton, "messageBar.copy")
    assert isinstance(copy, QToolButton)
    qtbot.mouseClick(copy, Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == "It failed\nbecause\nTraceback …"


def test_news_gives_way_errors_stay_and_wait_their_turn(bar: MessageBar) -> None:
    bar.post(Message("info", "first"))
    bar.post(Message("success", "second"))
    assert texts(bar)[0] == "second" and bar.waiting == 0
    bar.post(Message("error", "an error"))
    assert texts(bar)[0] == "an error"
    bar.post(Message("info", "later"))
    bar.post(Message("error", "another error"))
    bar.post(Message("error", "another error"))
    assert texts(bar)[0] == "an error" and bar.waiting == 2
    bar.dismiss()
    bar.dismiss()
    assert texts(bar)[0] == "another error"
    bar.dismiss()
    assert bar.current is None and bar.isHidden()
