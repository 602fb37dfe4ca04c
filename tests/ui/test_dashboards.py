"""Dashboards in the real window with the demo: found, listed, searched, labelled, built."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.core.dictionaries.crm_folder import load_manifest
from attention_studio.core.feature_gathering import gathering_folder
from attention_studio.core.feature_records import PERSON
from attention_studio.core.sites import Site
from attention_studio.ui.app import Studio
from attention_studio.ui.feature_labels import feature_notes
from attention_studio.ui.feature_view import FeatureView
from attention_studio.ui.jobs import Job
from attention_studio.ui.store_keeper import STORES
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.nodes_model import Column
from attention_studio.ui.widgets.store_model import FEATURE, LABEL
from attention_studio.utils.config import Settings
from attention_studio.utils.paths import BUILT_IN_CRMS
from tests.ui.demo_window import LONG, traced
from tests.ui.store_scene import N_ALIVE, write_demo_store


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the demo's features; not to be written to."""
    folder = tmp_path_factory.mktemp("dashboards") / "store"
    write_demo_store(folder)
    return folder


@pytest.fixture
def usual_store(demo_store: Path, settings: Settings) -> Path:
    """The same, where the studio looks for it by itself."""
    import shutil

    fingerprint = load_manifest(BUILT_IN_CRMS["demo"]).fingerprint
    folder = settings.cache_dir / STORES / f"crm-{fingerprint[:12]}"
    shutil.copytree(demo_store, folder)
    return folder


def quiet(studio: Studio, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)


def until(qtbot: QtBot, condition: Callable[[], bool]) -> None:
    qtbot.waitUntil(condition, timeout=LONG)


def shown_label(studio: Studio, name: str) -> str:
    scene = studio.window.graph_dock.scene
    local = None if scene is None else scene.local(name)
    return "" if scene is None or local is None else scene.label(local)


def test_features_are_listed_searched_and_labelled(
    usual_store: Path, studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = traced(studio, qtbot)
    session, commands, dock = studio.session, studio.commands, studio.window.features_dock
    until(qtbot, lambda: session.store is not None)
    store = session.store
    assert store is not None and store.folder == usual_store
    commands.run("go.features")
    assert dock.pages.currentWidget() is dock.list, "the dashboards are shown, not an empty dock"
    quiet(studio, qtbot)
    model = dock.list.model
    assert model.n_rows == store.about.n_features > 4000

    # A click on a row shows its page.
    index = model.index(3, FEATURE)
    assert index.data() == "A0 #3"
    place = dock.list.table.visualRect(index).center()
    qtbot.mouseClick(dock.list.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert session.feature == (Site(0, "attention"), 3)
    until(qtbot, lambda: dock.detail.view is not None and dock.detail.view.page is not None)
    assert dock.detail.title == "A0 #3"
    assert len(dock.detail.examples.examples) == 2
    # Where it fires on the graph's prompt comes from the model.
    until(qtbot, lambda: dock.detail.view is not None and dock.detail.view.report is not None)
    view = dock.detail.view
    assert view is not None and view.report is not None
    assert view.report.tokens == graph.tokens

    # Next, previous, a text of one's own, two side by side, the page as a figure and a script.
    laid_out: list[FeatureView] = []
    show = dock.detail.show_view
    dock.lookup._late.setInterval(LONG)  # however long the page takes to read here
    with monkeypatch.context() as patch:
        patch.setattr(dock.detail, "show_view", lambda view: (laid_out.append(view), show(view)))
        commands.run("features.next")
        until(qtbot, lambda: dock.detail.title == "A0 #4")
    assert laid_out[0].page is not None, "it is laid out once, with its page"
    commands.run("features.compare")
    commands.run("features.previous")
    until(qtbot, lambda: dock.detail.title == "A0 #3")
    assert dock.beside.isVisible() and dock.beside.title == "A0 #4"
    until(qtbot, lambda: dock.beside.view is not None and dock.beside.view.page is not None)
    commands.run("features.compare_none")
    assert not dock.beside.isVisible()
    # An example that somebody points to is gone to on its page: the second of the strongest.
    dock.show_example(Site(0, "attention"), 3, 2, 8)
    until(qtbot, lambda: dock.detail.examples.accessibleDescription().startswith("Text 2 of 2."))
    dock.show_example(Site(0, "attention"), 3, 3, 8)  # of the other group
    assert dock.detail.groups.currentText().startswith("Weak")
    qtbot.keyClicks(dock.detail.text, "The capital of the state containing Austin is")
    until(qtbot, lambda: dock.detail.tried_chips.isVisible())
    offers = {offer.name: offer for offer in dock.figures()}
    figure = offers["feature"].make()
    assert figure is not None and "A0 #3" in figure.title
    studio.window.scripts.copy("features.next")
    script = QGuiApplication.clipboard().text()
    assert "store.page(Site(0, 'attention'), 3)" in script and str(usual_store) in script
    scope: dict[str, object] = {}
    exec(compile(script, "script", "exec"), scope)
    page = scope["page"]
    assert getattr(page, "index", None) == 3

    # Only dead ones; a word; a module.
    dock.list.states.setCurrentIndex(dock.list.states.findText("Dead"))
    until(qtbot, lambda: 0 < model.n_rows == store.about.n_features - 8 * N_ALIVE)
    dock.list.states.setCurrentIndex(0)
    dock.list.sites.setCurrentIndex(dock.list.sites.findText("L1", Qt.MatchFlag.MatchStartsWith))
    until(qtbot, lambda: model.n_rows == 768)
    qtbot.keyClicks(dock.list.search, "Austin")
    until(qtbot, lambda: model.n_rows == N_ALIVE)
    assert {model.index(row, FEATURE).data()[:2] for row in range(N_ALIVE)} == {"L1"}
    dock.list.search.clear()
    commands.run("features.random")
    until(qtbot, lambda: session.feature is not None and session.feature[0] == Site(1, "mlp"))

    # A feature far down is shown where the list has it.
    dock.list.sites.setCurrentIndex(0)
    until(qtbot, lambda: model.n_rows == store.about.n_features)
    before = dock.list.table.currentIndex().row()
    asked: list[tuple[str, bool]] = []

    def heard(job: Job) -> None:
        view = dock.lookup.view
        asked.append((job.title, view is not None and view.page is not None))

    studio.runner.job_added.connect(heard)
    session.set_feature((Site(3, "mlp"), 700))
    assert dock.list.awaits_row and dock.list.table.currentIndex().row() == before
    row = store.about.n_features - 68
    until(qtbot, lambda: dock.list.table.currentIndex().row() == row)
    studio.runner.job_added.disconnect(heard)
    # Its page comes first: only then the list looks for the row, and paints others.
    assert asked[0] == ("Read the page of a feature", False)
    assert [there for title, there in asked if title == "Find a feature in the list"] == [True]
    until(qtbot, lambda: model.index(row, FEATURE).data() == "L3 #700")
    # So is one that a person goes to before its row is read.
    dock.list.table.setFocus()
    dock.list.renew()
    quiet(studio, qtbot)
    dock.list.table.setCurrentIndex(model.index(2000, FEATURE))
    until(qtbot, lambda: session.feature == store.ids(offset=2000, limit=1)[0])
    dock.list.sites.setCurrentIndex(dock.list.sites.findText("L1", Qt.MatchFlag.MatchStartsWith))
    until(qtbot, lambda: model.n_rows == 768)

    # A label of a feature that the graph has not got goes into the store, and can be taken back.
    nodes = graph.nodes
    mine = nodes.index[(nodes.layer == 1) & (nodes.site_kind == 1)].tolist()
    free = next(number for number in range(768) if number not in mine)
    session.set_feature((Site(1, "mlp"), free))
    until(qtbot, lambda: dock.detail.title == f"L1 #{free}")
    qtbot.keyClicks(dock.detail.label_edit, "nothing much")
    qtbot.keyClick(dock.detail.label_edit, Qt.Key.Key_Return)
    until(qtbot, lambda: dock.detail.title == f"L1 #{free} · nothing much")
    label = store.label(Site(1, "mlp"), free)
    assert label is not None and (label.text, label.by) == ("nothing much", PERSON)
    until(qtbot, lambda: model.index(free, LABEL).data() == "nothing much")
    session.undo_stack.undo()
    until(qtbot, lambda: dock.detail.title == f"L1 #{free}")
    assert store.label(Site(1, "mlp"), free) is None

    # A note, and the list of features that have one.
    qtbot.keyClicks(dock.detail.note_edit, "look again")
    qtbot.keyClick(dock.detail.note_edit, Qt.Key.Key_Return)
    assert feature_notes(session) == {f"L1/F{free}": "look again"}
    dock.list.states.setCurrentIndex(dock.list.states.findText("With a note"))
    until(qtbot, lambda: model.n_rows == 1)
    assert model.index(0, FEATURE).data() == f"L1 #{free}"

    # A label of a feature of the graph is the graph's, the store's goes along, and so does undo.
    name = next(
        one
        for one in studio.window.graph_dock.scene.names
        if "/F" in one  # type: ignore[union-attr]
    )
    session.set_selection(name)
    feature = session.feature
    assert feature is not None
    store.set_label(*feature, "what an agent said", "Agent")
    until(qtbot, lambda: dock.detail.view is not None and dock.detail.view.node == name)
    dock.lookup.forget()
    session.set_feature(None)
    session.set_feature(feature)
    until(qtbot, lambda: dock.detail.label_edit.text() == "what an agent said")
    dock.detail.label_edit.selectAll()
    qtbot.keyClicks(dock.detail.label_edit, "mine")
    qtbot.keyClick(dock.detail.label_edit, Qt.Key.Key_Return)
    assert session.notes.label_of(name) == "mine"
    until(qtbot, lambda: getattr(store.label(*feature), "text", "") == "mine")
    session.undo_stack.undo()
    assert session.notes.label_of(name) == ""
    until(qtbot, lambda: getattr(store.label(*feature), "text", "") == "what an agent said")
    given_back = store.label(*feature)
    assert given_back is not None and given_back.by == "Agent"
    quiet(studio, qtbot)

    # The graph's own panel shows the same detail.
    panel = studio.window.graph_dock.panel
    commands.run("go.graph")
    panel.tabs.setCurrentWidget(panel.feature)
    shown = panel.feature.detail
    until(qtbot, lambda: shown.view is not None and shown.view.page is not None)
    assert shown.view is not None and shown.view.node == name
    assert type(shown) is type(dock.detail)
    # What only the dashboards call a feature stands in the graph too.
    until(qtbot, lambda: shown_label(studio, name) == "what an agent said")
    assert session.labels[f"{feature[0].label}/F{feature[1]}"] == "what an agent said"
    # So do the subgraph, the table of nodes and what is asked of it; Delete takes it away.
    session.set_pinned([name])
    commands.run("go.subgraph")
    boxes = studio.window.docks["subgraph"].view
    until(qtbot, lambda: boxes.scene is not None)
    assert boxes.scene.words[0].title == "what an agent said"
    commands.run("nodes.query")
    nodes = studio.window.docks["nodes"]
    qtbot.keyClicks(nodes.edit, 'label~"agent said"')
    qtbot.keyClick(nodes.edit, Qt.Key.Key_Return)
    until(qtbot, lambda: nodes.nodes.n_rows == 1)
    assert nodes.nodes.name(0) == name
    index = nodes.nodes.index(0, Column.LABEL)
    assert index.data() == "what an agent said"
    nodes.table.setCurrentIndex(index)
    qtbot.keyClick(nodes.table, Qt.Key.Key_Delete)
    until(qtbot, lambda: getattr(store.label(*feature), "text", "") == "")
    until(qtbot, lambda: nodes.nodes.n_rows == 0)
    session.undo_stack.undo()
    until(qtbot, lambda: nodes.nodes.n_rows == 1)
    quiet(studio, qtbot)

    # Dashboards that were closed stay closed; whoever reads them on a lane has them until then.
    commands.run("go.features")
    read = threading.Event()
    reader = studio.runner.submit(lambda _ctx: read.wait(30), title="Read", lane="talk")
    closed = []
    monkeypatch.setattr(store, "close", lambda: closed.append(read.is_set()))
    commands.run("features.close_store")
    assert session.store is None
    until(qtbot, lambda: studio.runner.jobs == (reader,))
    read.set()
    until(qtbot, lambda: bool(closed))
    assert closed == [True]
    type(store).close(store)
    quiet(studio, qtbot)
    assert session.store is None and "are open" in dock.list._count.whole()


def test_dashboards_of_another_replacement_model_are_refused(
    tmp_path: Path, studio: Studio, qtbot: QtBot
) -> None:
    folder = tmp_path / "others"
    write_demo_store(folder, crm_hash="f" * 64)
    traced(studio, qtbot)
    said = []
    studio.window.stores.message.connect(said.append)
    studio.window.stores.open_folder(str(folder))
    until(qtbot, lambda: bool(said))
    assert "another replacement model" in said[-1].what
    assert studio.session.store is None


def test_dashboards_are_built_from_the_form(tmp_path: Path, studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    session, dock = studio.session, studio.window.features_dock
    text = tmp_path / "text.txt"
    text.write_text("The capital of the state containing Dallas is Austin. " * 12)
    studio.commands.run("features.build")
    builder = dock.builder
    assert dock.pages.currentWidget() is builder and builder.isVisible()
    builder.texts.set_sources((str(text),))
    builder.tokens.setValue(1_000)
    builder.seq_len.setValue(32)
    builder.folder.setText(str(tmp_path / "built"))
    until(qtbot, lambda: "features over at most" in builder.estimate.text())
    quiet(studio, qtbot)
    start = builder.findChild(QPushButton, "button.features.build_start")
    assert start is not None
    qtbot.mouseClick(start, Qt.MouseButton.LeftButton)
    assert builder.cancel.isVisible()
    qtbot.mouseClick(builder.cancel, Qt.MouseButton.LeftButton)
    until(qtbot, lambda: not builder.cancel.isVisible())
    assert session.store is None
    # What was stopped was of something else: it is not mixed with this, and can be forgotten.
    stopped = gathering_folder(tmp_path / "built")
    stopped.mkdir(exist_ok=True)
    of_other = {"format": "attention-studio-feature-gathering", "version": 1}
    progress = {"number": 1, "rows_done": 1, "n_tokens": 1, "n_sinks": 0, "files": {}}
    of_other |= {"identity": {"model": "another"}, "progress": progress}
    (stopped / "progress.json").write_text(json.dumps(of_other))
    told: list[Message] = []
    builder.message.connect(told.append)
    qtbot.mouseClick(start, Qt.MouseButton.LeftButton)
    until(qtbot, lambda: bool(told))
    assert "cannot be taken up" in told[0].what and session.store is None
    builder.anew.setChecked(True)
    qtbot.mouseClick(start, Qt.MouseButton.LeftButton)
    until(qtbot, lambda: session.store is not None)
    assert not builder.anew.isChecked() and not stopped.exists()
    store = session.store
    assert store is not None and store.folder == tmp_path / "built"
    (record,) = session.records[STORES]
    assert record["folder"] == str(tmp_path / "built"), "the workspace remembers it"
    started = time.perf_counter()
    feature = store.ids(order="-max", limit=1)[0]
    session.set_feature(feature)
    until(qtbot, lambda: dock.detail.view is not None and dock.detail.view.page is not None)
    assert time.perf_counter() - started < 5.0
    assert dock.detail.examples.examples
