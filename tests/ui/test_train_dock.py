"""Training and evaluating every kind of dictionary, by clicks and keys, on a tiny model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QAbstractSpinBox, QApplication, QLabel, QPushButton, QTableView
from pytestqt.qtbot import QtBot

from attention_studio.core.dictionaries.crm_folder import save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.sites import Site
from attention_studio.core.training_events import Evaluated, SiteMetrics
from attention_studio.ui.app import Studio
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.module_table import ModuleTable
from attention_studio.ui.widgets.train_history import Choice, RunHistory
from tests.tiny import random_lorsas, random_transcoders
from tests.ui.flow import LONG, label, set_up_run, settle

HEADS = 4


def retype(qtbot: QtBot, field: QAbstractSpinBox, typed: str) -> None:
    """Put a number into a field by keys, and leave it."""
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, typed)
    qtbot.keyClick(field, Qt.Key.Key_Tab)


def click_cell(qtbot: QtBot, table: QTableView, row: int, column: int) -> None:
    place = table.visualRect(table.model().index(row, column)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)


def column(table: QTableView, number: int) -> list[str]:
    model = table.model()
    return [str(model.index(row, number).data()) for row in range(model.rowCount())]


def button(studio: Studio, name: str) -> QPushButton:
    found = studio.window.findChild(QPushButton, name)
    assert isinstance(found, QPushButton), name
    return found


@pytest.fixture
def crms(loaded: Studio, tmp_path: Path) -> tuple[Path, Path]:
    """Two saved replacement models of the loaded model: MLPs alone, and every module."""
    model = loaded.session.model
    assert model is not None
    mlps = DictionarySet(random_transcoders(model.adapter))
    every = DictionarySet(random_transcoders(model.adapter), random_lorsas(model.adapter))
    save_crm(tmp_path / "mlps", mlps, model.info)
    save_crm(tmp_path / "every", every, model.info)
    return tmp_path / "mlps", tmp_path / "every"


def test_the_form_sets_up_every_kind_of_dictionary(loaded: Studio, qtbot: QtBot) -> None:
    loaded.commands.run("layout.train")
    form = loaded.window.train_dock.form
    qtbot.waitUntil(lambda: "Memory" in label(loaded, "train.estimate"), timeout=LONG)
    before = label(loaded, "train.estimate")
    assert not form.attention_latents.isVisible()
    form.attention.setFocus()
    qtbot.keyClick(form.attention, Qt.Key.Key_Space)
    assert form.attention_latents.isVisible()
    # What is trained besides shows in the estimate by itself.
    qtbot.waitUntil(lambda: label(loaded, "train.estimate") != before, timeout=LONG)

    retype(qtbot, form.attention_latents, "251")
    assert form.attention_latents.value() == 252
    form.attention_layers.selectAll()
    qtbot.keyClicks(form.attention_layers, "0, 2")
    qtbot.mouseClick(button(loaded, "train.advanced"), Qt.MouseButton.LeftButton)
    more = form.more
    retype(qtbot, more.qk_heads, "8")
    assert form.attention_latents.value() == 256
    retype(qtbot, more.qk_rate, "0.25")
    retype(qtbot, more.k_start, "48")
    retype(qtbot, more.auxk, "7")
    qtbot.keyClick(more.buffer, Qt.Key.Key_End)
    qtbot.keyClick(more.selection_dtype, Qt.Key.Key_Down)
    more.norm_aware.click()
    assert form.request().config().norm_aware
    assert not more.clt_store.isEnabled() and form.skip.isEnabled()
    qtbot.keyClick(form.mlp, Qt.Key.Key_Down)
    assert more.clt_store.isEnabled() and not form.skip.isEnabled()
    qtbot.keyClick(more.clt_store, Qt.Key.Key_Down)

    config = form.request().config()
    assert config.mlp == "clt" and config.layers == (0, 1, 2) and not config.skip
    assert config.attention_layers == (0, 2) and config.attention_latents == 256
    assert (config.qk_heads, config.qk_rate, config.k_start, config.auxk) == (8, 0.25, 48, 7)
    assert (config.buffer, config.clt_store) == ("disk", "memory")
    assert config.norm_aware
    assert config.selection_dtype == "float32"
    # Activations on disk spare memory, and the estimate says so.
    qtbot.waitUntil(lambda: "while it runs" in label(loaded, "train.estimate"), timeout=LONG)

    qtbot.keyClick(form.mlp, Qt.Key.Key_Down)
    assert not form.layers.isVisible()
    config = form.request().config()
    assert config.layers == () and len(config.sites) == 2
    form.attention.click()
    qtbot.waitUntil(lambda: "at least one layer" in label(loaded, "train.estimate"), timeout=LONG)


def test_untouched_the_form_asks_for_the_defaults(loaded: Studio) -> None:
    loaded.commands.run("layout.train")
    form = loaded.window.train_dock.form
    config = form.request().config()
    rest = config.model_dump(
        exclude={"layers", "d_latent", "seq_len"}, exclude_defaults=True
    )  # fmt: skip
    assert rest == {}
    assert config.layers == (0, 1, 2) and config.seq_len == 64


@pytest.mark.parametrize("kind", ["transcoder", "clt"])
def test_a_run_shows_its_modules(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot, kind: str
) -> None:
    loaded.commands.run("layout.train")
    set_up_run(loaded, text, tmp_path / "run")
    form = loaded.window.train_dock.form
    if kind == "clt":
        qtbot.keyClick(form.mlp, Qt.Key.Key_Down)
    form.attention.click()
    retype(qtbot, form.attention_latents, "64")
    retype(qtbot, form.attention_k, "4")
    form.attention_layers.selectAll()
    qtbot.keyClicks(form.attention_layers, "1-2")
    qtbot.mouseClick(button(loaded, "button.train.start"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: loaded.session.crm is not None, timeout=LONG)
    assert "2 of 3 MLPs, 2 of 3 attention blocks" in label(loaded, "status.crm")
    view = loaded.window.train_dock.view
    shown = [view.choice.itemText(n) for n in range(view.choice.count())]
    assert shown == [
        "Mean of 2 MLPs", "Mean of 2 attention blocks", "MLP 0", "Attention 1", "Attention 2",
        "MLP 2",
    ]  # fmt: skip
    qtbot.waitUntil(lambda: view.curves is not None and view.curves.ready, timeout=LONG)
    histograms = view.modules.histograms
    assert view.history is not None and histograms is not None
    newest = {row.site: row for row in view.history.newest}
    by_kind = [newest[Site(0, "mlp")], newest[Site(2, "mlp")]]
    assert histograms.counts[0] == tuple(map(sum, zip(*[r.density for r in by_kind], strict=True)))

    bar = view.tabs.tabBar()
    qtbot.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(1).center())
    table = view.modules.table
    assert column(table, 0) == ["MLP 0", "Attention 1", "Attention 2", "MLP 2"]
    click_cell(qtbot, table, 1, 0)
    assert view.choice.currentText() == "Attention 1"
    one = newest[Site(1, "attention")]
    assert histograms.counts == (one.density, one.errors)
    qtbot.waitUntil(lambda: histograms.ready, timeout=LONG)
    # The other way round, by keys.
    qtbot.keyClick(view.choice, Qt.Key.Key_Down)
    assert table.selectionModel().selectedRows()[0].data() == "Attention 2"

    header = table.horizontalHeader()
    place = QPoint(header.sectionViewportPosition(1) + 8, header.height() // 2)
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=place)
    found = [float(cell.removeprefix("⚠ ")) for cell in column(table, 1)]
    assert found == sorted(found) or found == sorted(found, reverse=True)
    settle(loaded, qtbot)


def test_what_is_bad_is_marked_by_sign_colour_and_reason(qapp: QApplication) -> None:
    model = ModuleTable(Theme("light"))
    good = SiteMetrics(9, Site(0, "mlp"), 0.2, 0.3, 8.0, 0.01, (), (), 0.01, 0.9, 0.1)
    bad = SiteMetrics(9, Site(1, "mlp"), 0.4, 0.3, 8.0, 0.5, (), (), 0.2, None, None)
    model.set_rows((bad, good))
    colour, tip = Qt.ItemDataRole.ForegroundRole, Qt.ItemDataRole.ToolTipRole
    for number in (1, 4, 5):
        assert not str(model.index(0, number).data()).startswith("⚠")
        cell = model.index(1, number)
        assert cell.data().startswith("⚠") and cell.data(colour) is not None and cell.data(tip)
    assert model.index(1, 6).data() == "-" and model.index(0, 3).data(colour) is None


def test_several_modules_show_what_they_recover_together(qtbot: QtBot) -> None:
    from attention_studio.ui.widgets.train_curves import TrainCurves

    # What a module recovers is divided by what the model loses without it: for one that is hardly
    # needed any number may come out, and a mean with it says nothing.
    rows = (
        SiteMetrics(9, Site(0, "mlp"), 0.2, 0.3, 8.0, 0.0, (), (), 0.0, 0.9, 0.1),
        SiteMetrics(9, Site(1, "mlp"), 0.2, 0.3, 8.0, 0.0, (), (), 0.0, -40.0, 0.1),
    )
    history = RunHistory((Site(0, "mlp"), Site(1, "mlp")))
    history.add_evaluation(Evaluated(3, 9, rows, 0.93, 0.2))
    curves = TrainCurves(Theme("light"))
    qtbot.addWidget(curves)
    curves.show()
    for places, value in (((0, 1), 0.93), ((1,), -40.0), ((0, 1), 0.93)):
        curves.show_run(history, Choice("", places))
        qtbot.waitUntil(lambda: curves.ready and not curves.waiting, timeout=LONG)
        (drawn,) = (p for p in curves.plots if p.widget.objectName() == "train.plot.recovered")
        assert drawn.heldout[1].tolist() == [value]


def test_choices_hold_means_only_of_several() -> None:
    history = RunHistory((Site(0, "mlp"),))
    assert [choice.text for choice in history.choices()] == ["MLP 0"]


def set_up_evaluation(studio: Studio, folders: tuple[Path, ...], text: Path) -> Any:
    studio.commands.run("layout.train")
    studio.commands.run("evaluate.show")
    panel = studio.window.train_dock.evaluation
    assert panel.isVisible()
    panel.crms.set_sources(tuple(str(folder) for folder in folders))
    panel.texts.set_sources((str(text),))
    panel.tokens.setValue(200)
    panel.downstream_tokens.setValue(64)
    return panel


def test_replacement_models_are_compared_and_exported(
    loaded: Studio, crms: tuple[Path, Path], text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    panel = set_up_evaluation(loaded, crms, text)
    assert not loaded.commands.action("evaluate.export").isEnabled()
    panel.prompts.setFocus()
    qtbot.keyClicks(panel.prompts, "the cat sat on")
    qtbot.mouseClick(button(loaded, "button.evaluate.run"), Qt.MouseButton.LeftButton)
    assert panel.cancel.isVisible() and not button(loaded, "button.evaluate.run").isVisible()
    qtbot.waitUntil(lambda: loaded.session.comparison is not None, timeout=LONG)
    compared = loaded.session.comparison
    assert compared is not None and [crm.folder for crm in compared.crms] == list(crms)
    assert not panel.cancel.isVisible()
    # Sorted by name: "every" before "mlps".
    assert column(panel.table, 0) == ["every", "mlps"] and column(panel.table, 1) == ["6", "3"]
    mlps = compared.crms[0]
    assert column(panel.table, 2)[1] == f"{mlps.mean('fvu'):.3f}"
    assert column(panel.table, 7)[1] == f"{mlps.prompts[0].replacement:.3f}"
    assert panel.modules.table.model().rowCount() == 6
    click_cell(qtbot, panel.table, 1, 0)
    assert column(panel.modules.table, 0) == ["MLP 0", "MLP 1", "MLP 2"]
    click_cell(qtbot, panel.modules.table, 2, 0)
    shown = loaded.window.findChild(QLabel, "evaluate.shown")
    assert isinstance(shown, QLabel) and "MLP 2" in shown.text()

    panel.export_to(str(tmp_path / "found.csv"))
    panel.export_to(str(tmp_path / "found.json"))
    settle(loaded, qtbot)
    with (tmp_path / "found.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 + 3 + 6
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["crms"][0]["summary"]["mean_fvu"] == mlps.mean("fvu")
    loaded.session.set_model(None)
    assert loaded.session.comparison is None
    assert panel.table.model().rowCount() == 0


def test_an_evaluation_can_be_cancelled_and_says_what_it_lacks(
    loaded: Studio, crms: tuple[Path, Path], text: Path, qtbot: QtBot
) -> None:
    panel = set_up_evaluation(loaded, (), text)
    said: list[Message] = []
    panel.message.connect(said.append)
    for folders, texts, lacking in (
        ((), (str(text),), "No replacement model is chosen"),
        ((str(crms[0]),), (), "There is no text to measure on"),
    ):
        panel.crms.set_sources(folders)
        panel.texts.set_sources(texts)
        loaded.commands.run("evaluate.run")
        assert said[-1].what == lacking
    panel.texts.set_sources((str(text),))
    panel.tokens.setValue(100_000)
    loaded.commands.run("evaluate.run")
    qtbot.mouseClick(panel.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.cancel.isVisible(), timeout=LONG)
    settle(loaded, qtbot)
    assert loaded.session.comparison is None


def test_the_open_replacement_model_is_offered_for_evaluation(
    loaded: Studio, crms: tuple[Path, Path], qtbot: QtBot
) -> None:
    loaded.window.open_crm_folder(str(crms[1]))
    qtbot.waitUntil(lambda: loaded.session.crm is not None, timeout=LONG)
    assert loaded.window.train_dock.evaluation.crms.sources() == (str(crms[1]),)
    current = loaded.window.messages.current
    assert current is not None
    assert "3 of 3 MLPs, 3 of 3 attention blocks" in current.what
