"""A studio with a tiny model, text to train on, and hands for whole flows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel, QLineEdit
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from tests.tiny import WORDS, tiny_folder

LONG = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on the disk."""
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some text in the tiny model's words."""
    chance = random.Random(0)
    file = tmp_path_factory.mktemp("texts") / "text.txt"
    file.write_text(" ".join(chance.choice(WORDS) for _ in range(6_000)))
    return file


@pytest.fixture
def loaded(studio: Studio, folder: Path, qtbot: QtBot) -> Studio:
    """A studio with the tiny model loaded by its own button."""
    studio.window.model_dock.choice.setEditText(str(folder))
    studio.commands.run("model.load")
    qtbot.waitUntil(lambda: studio.session.model is not None, timeout=LONG)
    return studio


def settle(studio: Studio, qtbot: QtBot) -> None:
    """Wait until nothing runs."""
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)


def label(studio: Studio, name: str) -> str:
    """The text of a label of that name anywhere in the window."""
    found = studio.window.findChild(QLabel, name)
    assert isinstance(found, QLabel), name
    return found.text()


def set_up_run(studio: Studio, text: Path, out: Path, tokens: int = 2_048) -> None:
    """Settings that train in a moment."""
    studio.window.train_dock.catch_up()
    form = studio.window.train_dock.form
    form.texts.set_sources((str(text),))
    form.layers.setText("0, 2")
    form.batch_tokens.setValue(64)
    form.tokens.setValue(tokens)
    form.d_latent.setValue(64)
    form.k.setValue(4)
    form.more.seq_len.setValue(16)
    form.more.block_tokens.setValue(256)
    form.more.heldout_tokens.setValue(64)
    form.more.checkpoint_every.setValue(4)
    form.out_dir.setText(str(out))


def answer(qtbot: QtBot, name: str) -> None:
    """Type the name of a file or folder into the dialog that is open, and press Enter."""
    qtbot.waitUntil(lambda: isinstance(QApplication.activeModalWidget(), QFileDialog), timeout=LONG)
    dialog = QApplication.activeModalWidget()
    assert isinstance(dialog, QFileDialog)
    edit = dialog.findChild(QLineEdit, "fileNameEdit")
    assert edit is not None
    # The dialog reads its folder on a thread of its own, and writes into the line when it has.
    qtbot.waitUntil(edit.hasFocus, timeout=LONG)
    qtbot.wait(200)
    edit.setText("")
    QTest.keyClicks(edit, name)
    qtbot.waitUntil(lambda: edit.text() == name, timeout=LONG)
    QTest.keyClick(edit, Qt.Key.Key_Return)
