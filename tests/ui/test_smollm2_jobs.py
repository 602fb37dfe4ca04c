"""The jobs of the studio on the real SmolLM2-135M, by clicks and keys in one real window.

The window trains the dictionaries that it needs on the way: for two MLPs and one attention module,
64 and 72 latents wide, on two thousand tokens. They explain next to nothing of the model; what is
tested is that every job works on thirty layers and real tokens, and that what the window shows is
what the core computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QLineEdit,
    QPushButton,
    QTabWidget,
    QWidget,
)
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.edge_verification import verify_edges
from attention_studio.core.error_map import error_map
from attention_studio.core.graph_comparison import compare_graphs
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.lens_records import Cell
from attention_studio.ui.app import Studio
from attention_studio.ui.highlight import Role
from attention_studio.ui.widgets.attention_dock import AttentionDock
from attention_studio.ui.widgets.compare_dock import CompareDock
from attention_studio.ui.widgets.errors_dock import ErrorsDock
from attention_studio.ui.widgets.figures_dock import FiguresDock
from attention_studio.ui.widgets.graph_scene import GraphScene, LinkMode
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.widgets.lens_dock import LensDock
from attention_studio.ui.widgets.nodes_dock import NodesDock
from attention_studio.ui.widgets.paths_dock import PathsDock
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.subgraph_dock import SubgraphDock
from attention_studio.ui.workspace_view import SaveState
from attention_studio.utils.config import Settings
from tests.ui.conftest import tear_down
from tests.ui.flow import answer, settle
from tests.ui.test_scripts import run_fresh

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

LONG = 300_000
PROMPT = "The capital of France is"
OTHER = "The capital of Italy is"
LEFT, KEY, HELD = Qt.MouseButton.LeftButton, Qt.Key, Qt.KeyboardModifier
Dock = TypeVar("Dock", bound=StudioDock)


@pytest.fixture
def settings(smollm2: LoadedModel, tmp_path: Path) -> Settings:
    """A person's own cache, where the model is, and everything else in the test's own folder."""
    del smollm2
    return Settings(state_dir=tmp_path / "state", offline=True, threads=1)


class Person:
    """Uses a window as a person would: finds controls by their names, clicks and types."""

    def __init__(self, studio: Studio, qtbot: QtBot) -> None:
        self.studio, self.qtbot = studio, qtbot
        self.session, self.window = studio.session, studio.window

    def until(self, condition: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(condition, timeout=LONG)

    def settle(self) -> None:
        """Wait until nothing runs, and what that brought is shown."""
        for _ in range(2):
            self.until(lambda: not self.studio.runner.busy)
            QApplication.processEvents()

    def go(self, kind: type[Dock], name: str) -> Dock:
        self.do(f"go.{name}")
        dock = self.window.docks[name]
        assert isinstance(dock, kind)
        self.until(lambda: dock.in_front)
        self.settle()
        return dock

    def press(self, key: Qt.Key, held: Qt.KeyboardModifier = HELD.NoModifier) -> None:
        """A key in the window, where no field has the keyboard."""
        self.window.graph_dock.view.setFocus()
        self.qtbot.keyClick(self.window.graph_dock.view, key, held)

    def click(self, name: str) -> None:
        """Click a button that can be seen and used."""
        found = [one for one in self.window.findChildren(QPushButton, name) if one.isVisible()]
        assert found, name
        assert found[0].isEnabled(), (name, found[0].toolTip())
        self.qtbot.mouseClick(found[0], LEFT)

    def type(self, field: QLineEdit, text: str) -> None:
        field.setFocus()
        field.selectAll()
        self.qtbot.keyClicks(field, text)
        self.qtbot.keyClick(field, KEY.Key_Return)

    def do(self, command: str) -> None:
        """Press the keys of a command, or choose it in its menu where it has none."""
        action = self.studio.commands.action(command)
        self.studio.commands.refresh()
        assert action.isEnabled(), command
        if action.shortcut().isEmpty():
            action.trigger()
        else:
            # Offscreen nobody gives the window back what a dialog has had.
            self.window.activateWindow()
            self.until(self.window.isActiveWindow)
            QTest.keySequence(self.window, action.shortcut())

    def number(self, field: QAbstractSpinBox, value: int) -> None:
        field.setFocus()
        field.selectAll()
        self.qtbot.keyClicks(field, str(value))
        self.qtbot.keyClick(field, KEY.Key_Tab)

    def tab(self, tabs: QTabWidget, page: QWidget) -> None:
        """Click the tab of a page."""
        bar = tabs.tabBar()
        self.qtbot.mouseClick(bar, LEFT, pos=bar.tabRect(tabs.indexOf(page)).center())
        assert tabs.currentWidget() is page

    def scene(self) -> GraphScene:
        scene = self.window.graph_dock.scene
        assert scene is not None
        return scene

    def graph(self) -> AttributionGraph:
        assert self.session.graph is not None
        return self.session.graph

    def point(self, name: str, held: Qt.KeyboardModifier = HELD.NoModifier) -> None:
        """Click a node of the graph."""
        view = self.window.graph_dock.view
        view.show_node(name)
        at = view.node_point(name)
        assert at is not None, name
        self.qtbot.mouseClick(view.viewport(), LEFT, held, at)


def text_file(folder: Path) -> Path:
    """Some ordinary sentences to train on."""
    lands = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Poland": "Warsaw"}
    file = folder / "text.txt"
    file.write_text(
        "\n\n".join(
            f"Letter {n}. The capital of {land} is {city}, and {city} is a city that many visit."
            for n in range(120)
            for land, city in lands.items()
        )
    )
    return file


# ---- the jobs, one after the other ---------------------------------------------------------------


def load_and_ask(person: Person) -> None:
    """A model by its name, a prompt typed: what comes next is told."""
    dock = person.window.model_dock
    line = dock.choice.lineEdit()
    assert line is not None
    line.selectAll()
    person.qtbot.keyClicks(line, "smollm2-135m")
    person.click("button.model.load")
    person.until(lambda: person.session.model is not None)
    assert len(person.session.layers) == 30
    person.do("prompt.focus")
    person.qtbot.keyClicks(person.window.prompt_dock.text, PROMPT)
    person.until(lambda: person.session.prompt_view is not None)
    person.settle()
    view = person.session.prompt_view
    assert view is not None and view.tokens[1:] == ("The", " capital", " of", " France", " is")
    assert view.candidates[0].token == " Paris"


def train(person: Person, folder: Path, tokens: int) -> None:
    """A short run, set up in the Train dock and started there."""
    person.go(StudioDock, "train")
    form = person.window.train_dock.form
    person.click("train.texts.files")
    answer(person.qtbot, str(text_file(folder)))
    person.type(form.layers, "3, 9")
    person.number(form.d_latent, 64)
    person.number(form.k, 4)
    person.qtbot.mouseClick(form.attention, LEFT, pos=QPoint(8, form.attention.height() // 2))
    assert form.attention.isChecked()
    person.type(form.attention_layers, "6")
    person.number(form.attention_latents, 72)
    person.number(form.attention_k, 8)
    person.number(form.batch_tokens, 256)
    person.number(form.tokens, tokens)
    person.click("train.advanced")
    person.number(form.more.seq_len, 32)
    person.number(form.more.block_tokens, 1_024)
    person.number(form.more.heldout_tokens, 128)
    person.number(form.more.checkpoint_every, 4)
    person.type(form.out_dir, str(folder / "run"))
    settings = form.settings()
    assert settings["layers"] == (3, 9) and settings["attention_latents"] == 72
    person.click("button.train.start")


def use_what_was_trained(person: Person) -> None:
    """The dictionaries of a finished run are open: features at once, and a graph."""
    session = person.session
    person.until(lambda: session.crm is not None and session.training is None)
    person.settle()
    assert session.crm_info is not None
    assert set(session.crm_info.dictionaries) == {"mlp_03", "mlp_09", "attention_06"}
    person.go(StudioDock, "features")
    person.click("button.features.extract")
    person.until(lambda: session.features is not None)
    assert session.features is not None and session.features.overall
    person.go(StudioDock, "graph")
    person.click("button.graph.build")
    person.until(lambda: session.graph is not None)
    person.settle()
    person.until(lambda: person.window.graph_dock.scene is not None)
    graph = person.graph()
    assert graph.n_layers == 30 and graph.scores.max_identity_error < 1e-4
    assert graph.summary()["output"][0]["token"] == " Paris"


def explore(person: Person) -> None:
    """Hover, click, pin, thresholds, connections, queries and keys."""
    dock, session = person.window.graph_dock, person.session
    # Three dictionaries for sixty modules: next to nothing of the influence goes through features,
    # so they are seen once everything is shown.
    few = person.scene().n_nodes
    for slider in (dock.controls.edge_slider.slider, dock.controls.node_slider.slider):
        slider.setFocus()
        person.qtbot.keyClick(slider, KEY.Key_End)
        person.settle()
    modules = {"L3", "L9", "A6"}
    person.until(lambda: {name.split("/")[0] for name in features_of(person)} == modules)
    scene, features = person.scene(), features_of(person)
    assert few < scene.n_nodes <= len(person.graph().nodes)
    upper, other = sorted(
        (name for name in features if name.startswith("L9")),
        key=lambda name: -int((scene.edge_target == scene.local_of[name]).sum()),
    )[:2]
    # Sixty rows of nodes in one place: whoever points at one of them looks at it closely.
    for _ in range(6):
        person.qtbot.keyClick(dock.view, KEY.Key_Plus)
    dock.view.show_node(upper)
    at = dock.view.node_point(upper)
    assert at is not None
    person.qtbot.mouseMove(dock.view.viewport(), at)
    assert dock.view.cursor_node == upper
    person.point(upper)
    assert session.selection == upper
    inputs = dock.panel.table(LinkMode.INPUTS)
    assert inputs.edges.rowCount() == int((scene.edge_target == scene.local_of[upper]).sum()) > 0
    person.point(upper, HELD.ControlModifier)
    assert session.pinned == (upper,)
    # A row of the connections leads on; keys bring back and pin.
    row = inputs.visualRect(inputs.edges.index(0, 0)).center()
    person.qtbot.mouseClick(inputs.viewport(), LEFT, pos=row)
    assert session.selection == inputs_name(person, upper)
    person.qtbot.keyClick(person.window, KEY.Key_P)
    assert session.pinned == (upper, inputs_name(person, upper))
    person.do("edit.undo")
    person.point(other, HELD.ControlModifier)
    assert session.pinned == (upper, other)
    # Fewer nodes and all of them again, by the keys of the slider.
    slider = dock.controls.node_slider.slider
    slider.setFocus()
    for key, fewer in ((KEY.Key_PageDown, True), (KEY.Key_End, False)):
        person.qtbot.keyClick(slider, key)
        person.until(lambda fewer=fewer: (person.scene().n_nodes < scene.n_nodes) is fewer)  # type: ignore[misc]
        person.settle()
    # Where an attention feature looks, and why.
    graph = person.graph()
    of_attention = [name for name in features_of(person) if name.startswith("A6/")]
    assert of_attention
    person.point(max(of_attention, key=lambda name: graph.influence[graph.find(name)]))
    panel = dock.panel
    person.tab(panel.tabs, panel.qk)
    person.until(lambda: panel.qk.keys.n_rows > 0)
    assert panel.qk._trace is not None and panel.qk._trace.look.name == session.selection
    assert panel.qk.pairs.n_rows > 0
    person.tab(panel.tabs, panel.tabs.widget(0))
    person.settle()


def features_of(person: Person) -> list[str]:
    """The features that the graph shows."""
    return [name for name in person.scene().names if "/F" in name]


def inputs_name(person: Person, name: str) -> str:
    """The strongest input of a node among what is shown."""
    scene = person.scene()
    edges = np.flatnonzero(scene.edge_target == scene.local_of[name])
    best = edges[np.abs(scene.edge_weight[edges]).argmax()]
    return str(scene.names[int(scene.edge_source[best])])


def group(person: Person) -> None:
    """What is pinned is a subgraph; two of it become a named supernode."""
    session = person.session
    first, second = session.pinned
    dock = person.go(SubgraphDock, "subgraph")
    person.until(lambda: dock.view.scene is not None and not dock.view.moving)
    assert dock.view.scene is not None and set(dock.view.scene.keys) == {first, second}
    for name, held in ((first, HELD.NoModifier), (second, HELD.ShiftModifier)):
        at = dock.view.box_point(name)
        assert at is not None
        person.qtbot.mouseClick(dock.view, LEFT, held, at.toPoint())
    assert session.chosen == (first, second)
    person.qtbot.keyClick(dock.view, KEY.Key_G)
    person.until(lambda: dock.view._editor.active)
    person.qtbot.keyClicks(dock.view._editor, "two of them")
    person.qtbot.keyClick(dock.view._editor, KEY.Key_Return)
    person.settle()
    (made,) = session.notes.supernodes
    assert (made.name, set(made.nodes)) == ("two of them", {first, second})


def query(person: Person) -> None:
    """The query bar narrows the table, which marks what fits in the graph."""
    dock = person.go(NodesDock, "nodes")
    dock.edit.setFocus()
    dock.edit.selectAll()
    person.qtbot.keyClicks(dock.edit, "layer>5 kind=feature")
    person.qtbot.keyClick(dock.edit, KEY.Key_Escape)
    person.until(lambda: not dock._typing.isActive())
    person.settle()
    found = [dock.nodes.name(row) for row in range(dock.nodes.n_rows)]
    shown = features_of(person)
    assert sorted(found) == sorted(n for n in shown if n.split("/")[0] in ("L9", "A6"))
    highlight = person.session.highlight
    assert highlight is not None and dict(highlight.nodes) == dict.fromkeys(found, Role.MARKED)
    at = dock.table.visualRect(dock.nodes.index(0, 0)).center()
    person.qtbot.mouseClick(dock.table.viewport(), LEFT, pos=at)
    assert person.session.chosen == (found[0],)
    dock.edit.setFocus()
    dock.edit.selectAll()
    person.qtbot.keyClick(dock.edit, KEY.Key_Delete)
    person.until(lambda: not dock._typing.isActive())
    person.settle()


def intervene(person: Person) -> None:
    """A feature is switched off with a key; what is shown is what the core computes."""
    from attention_studio.core.intervention_specs import Edit, FeatureAt, Intervention
    from attention_studio.core.interventions import Interventions

    session, graph = person.session, person.graph()
    names = [name for name in person.scene().names if name.startswith("L9/") and "/F" in name]
    name = max(names, key=lambda name: graph.influence[graph.find(name)])
    dock = person.go(InterveneDock, "intervene")
    person.number(dock.form.n_tokens, 2)
    person.do("go.graph")
    person.point(name)
    assert session.selection == name
    person.press(KEY.Key_I, HELD.ControlModifier | HELD.ShiftModifier)
    person.until(lambda: dock.result.run is not None)
    person.settle()
    run, crm = dock.result.run, session.crm
    assert run is not None and crm is not None
    case = Intervention((Edit((FeatureAt.parse(name),), "ablate"),))
    (outcome,) = Interventions(crm, PROMPT).run([case])
    assert run.next_tokens == outcome.tokens
    assert run.edited[0].activation_after == 0.0
    assert dock.result.whole[0].text().strip().startswith("Paris")
    assert dock.result.steps.n_rows == 2
    # The edges between pins are verified and drawn.
    person.do("go.graph")
    for node in (name, inputs_name(person, name), graph.node_name(graph_output(graph))):
        if node not in session.pinned:
            person.point(node, HELD.ControlModifier)
        assert node in session.pinned
    panel = dock.verify_panel
    person.do("go.intervene")
    person.tab(dock.tabs, panel)
    panel.scope.setFocus()
    person.qtbot.keyClick(panel.scope, KEY.Key_Down)
    assert panel.asked_scope == "pinned"
    person.until(lambda: "edge" in panel.cost.whole())
    person.settle()
    person.press(KEY.Key_V, HELD.ControlModifier | HELD.ShiftModifier)
    person.until(lambda: panel.report is not None)
    person.settle()
    report, pruned = panel.report, session.pruned
    assert report is not None and pruned is not None and len(report) > 0
    from attention_studio.core.edge_choice import choose_edges

    choice = choose_edges(graph, pruned, "pinned", list(session.pinned))
    expected = verify_edges(crm, graph, choice, panel.reach.currentData())
    assert (report.source, report.target) == (expected.source, expected.target)
    assert np.array_equal(report.measured, expected.measured)
    assert session.highlight is not None


def graph_output(graph: AttributionGraph) -> int:
    return int(np.argmax(graph.start))


def find_paths(person: Person) -> None:
    """From a token to the output by keys."""
    graph, session = person.graph(), person.session
    person.do("go.graph")
    person.point("P4/token")
    assert session.selection == "P4/token"
    person.press(KEY.Key_BracketLeft, HELD.ControlModifier)
    person.point(graph.node_name(graph_output(graph)))
    person.press(KEY.Key_BracketRight, HELD.ControlModifier)
    person.settle()
    dock = person.go(PathsDock, "paths")
    person.until(lambda: dock.answer is not None)
    assert dock.answer is not None
    expected = graph.strongest_paths(
        [graph.find("P4/token")], graph_output(graph), dock.number.value()
    )
    assert expected.paths and dock.answer.found == expected
    highlight = session.highlight
    assert highlight is not None and "France" in highlight.title and "Paris" in highlight.title


def contrast(person: Person) -> None:
    """Why this token and not another, from the Prompt dock."""
    row, graph = person.window.prompt_dock.contrast, person.graph()
    person.do("go.prompt")
    likeliest, second = row.tokens
    assert likeliest == " Paris" != second
    person.click("prompt.contrast.trace")
    person.until(lambda: person.session.graph is not graph)
    person.settle()
    assert person.graph().settings.contrast == (likeliest, second)
    person.until(lambda: "Why" in person.window.graph_dock.facts.prompt.whole())


def compare_prompts(person: Person) -> None:
    """The graph of another prompt is put beside this one."""
    first = person.graph()
    dock = person.go(CompareDock, "compare")
    person.type(dock.prompt, OTHER)
    person.until(lambda: dock.compared is not None)
    person.settle()
    assert dock.compared is not None and dock.compared.first is first
    assert dock.compared.second.graph.prompt == OTHER
    assert dock.compared.second.graph.summary()["output"][0]["token"] == " Rome"
    table = dock.pages.node_table.model()
    words = [str(table.index(row, 1).data()) for row in range(table.rowCount())]
    assert any("Rome" in one for one in words) or any("Italy" in one for one in words)


def map_errors(person: Person) -> None:
    """Where the dictionaries miss, and the Train dock set up for it."""
    graph = person.graph()
    expected = error_map(graph)
    dock = person.go(ErrorsDock, "errors")
    dock.map.setFocus()
    person.qtbot.keyClick(dock.map, KEY.Key_Right)
    row, column = divmod(int(expected.influence.argmax()), len(graph.tokens))
    assert dock.map.cursor_cell == (row, column)
    person.qtbot.keyClick(dock.map, KEY.Key_Return)
    assert person.session.selection == graph.node_name(int(expected.nodes[row, column]))
    person.do("errors.train")
    settings = person.window.train_dock.form.settings()
    wanted = tuple(site.layer for site in expected.worst(0.5) if site.kind == "mlp")
    assert not wanted or settings["layers"] == wanted


def look_at_heads(person: Person, model: LoadedModel) -> None:
    """All 270 heads, and one large; a Lorsa beside them."""
    dock = person.go(AttentionDock, "attention")
    person.click("button.attention.look")
    person.until(lambda: person.session.attention is not None)
    person.settle()
    view = person.session.attention
    assert view is not None and view.patterns.shape[:2] == (30, 9) and set(view.lorsas) == {6}
    head = view.ranked("previous")[0]
    assert dock.overview.head == head
    person.qtbot.keyClick(dock.overview, KEY.Key_Right)
    other = dock.overview.head
    assert other is not None and other != head
    assert dock.picture.scene is not None
    if other.kind == "model":
        assert (dock.picture.scene.values == view.patterns[other.layer, other.head]).all()
    assert view.tokens[1:] == tuple(model.token_strings(model.encode(PROMPT))[1:])


def read_lens(person: Person) -> None:
    """The lens over thirty layers, and the end of one token put into that of another."""
    dock = person.go(LensDock, "lens")
    person.click("button.lens.read")
    person.until(lambda: person.session.lens is not None)
    person.settle()
    table = person.session.lens
    assert table is not None and table.n_depths == 31
    assert table.top_word(Cell(30, table.n_tokens - 1)) == " Paris"
    dock.grid.go_to(Cell(20, 4))
    port = dock.grid.viewport()
    dock.grid.scrollTo(dock.grid.lens.index_of(Cell(20, 4)))
    begin = dock.grid.visualRect(dock.grid.lens.index_of(Cell(20, 4))).center()
    end = dock.grid.visualRect(dock.grid.lens.index_of(Cell(20, 5))).center()
    QTest.mousePress(port, LEFT, pos=begin)
    for step in range(1, 6):
        person.qtbot.mouseMove(port, begin + (end - begin) * step / 5)
    QTest.mouseRelease(port, LEFT, pos=end)
    (patch,) = person.session.patches.patches
    assert (patch.source, patch.target) == (Cell(20, 4), Cell(20, 5))
    person.until(lambda: dock._outcome is not None)
    person.settle()
    assert dock._outcome is not None and dock._outcome.divergence > 0.0
    assert " Paris" in table.top_word(Cell(30, 5))
    assert dock.panel.prediction.bars[1].isVisible()


def export_figures(person: Person, folder: Path) -> None:
    """The graph as a figure, in three formats."""
    person.do("go.graph")
    person.press(KEY.Key_F9)
    dock = person.window.docks["figures"]
    assert isinstance(dock, FiguresDock)
    person.until(lambda: not dock.preview.pixmap().isNull())
    assert PROMPT in dock.caption.toPlainText()
    for kind in ("svg", "pdf", "png"):
        person.click("button.figure.save")
        answer(person.qtbot, str(folder / f"graph.{kind}"))
        person.until((folder / f"graph.{kind}").exists)
    person.settle()
    assert "France" in (folder / "graph.svg").read_text(encoding="utf-8")
    assert (folder / "graph.pdf").read_bytes().startswith(b"%PDF")


def copy_script(person: Person, folder: Path) -> None:
    """All of it as a script, which gives the same graph and notes in a process of its own."""
    person.do("script.copy_session")
    script = QGuiApplication.clipboard().text()
    run_fresh(
        f"{script}\nimport json\nfrom pathlib import Path\n"
        "graph.save(Path('again.safetensors'))\n"
        "Path('notes.json').write_text(json.dumps(notes.to_json()))\n",
        person.studio.settings,
        folder,
    )
    import json

    found = compare_graphs(person.graph(), AttributionGraph.load(folder / "again.safetensors"))
    assert found.same and found.edges_both == person.graph().n_edges
    notes = GraphNotes.from_json(json.loads((folder / "notes.json").read_text()))
    assert notes == person.session.notes


def reopened(studio: Studio, qtbot: QtBot, new: Callable[[], Studio]) -> None:
    """What was made is on the disk, and a new window has it again."""
    # Asked for anew every time: each view of a workspace is of one moment.
    qtbot.waitUntil(
        lambda: getattr(studio.session.workspace, "state", None) is SaveState.SAVED, timeout=LONG
    )
    graph, notes = studio.session.graph, studio.session.notes
    records = {kind: list(found) for kind, found in studio.session.records.items()}
    assert graph is not None and {"intervention", "verification", "patch"} <= set(records)
    qtbot.keyClick(studio.window, KEY.Key_Q, HELD.ControlModifier)
    qtbot.waitUntil(lambda: not studio.window.isVisible(), timeout=LONG)
    tear_down(studio)
    second = new()
    with qtbot.waitExposed(second.window):
        second.window.show()
    with qtbot.waitSignal(second.window.keeper.opened, timeout=LONG):
        second.window.keeper.start(None)
    session = second.session
    assert session.graph is not None and session.prompt == PROMPT
    np.testing.assert_array_equal(session.graph.edges.data, graph.edges.data)
    assert session.notes == notes
    assert {kind: list(found) for kind, found in session.records.items()} == records
    # Then the model and the dictionaries that it was made with.
    qtbot.waitUntil(lambda: session.crm is not None, timeout=LONG)
    settle(second, qtbot)
    assert session.model is not None and len(session.layers) == 30


@pytest.mark.slow  # a good minute; the demo's tests of the same jobs always run
def test_every_job_from_a_model_to_a_script(
    new_studio: Callable[[], Studio], smollm2: LoadedModel, qtbot: QtBot, tmp_path: Path
) -> None:
    studio = new_studio()
    with qtbot.waitExposed(studio.window):
        studio.window.show()
    with qtbot.waitSignal(studio.window.keeper.opened, timeout=LONG):
        studio.window.keeper.start(None)
    person = Person(studio, qtbot)
    steps: tuple[tuple[Callable[..., None], tuple[Any, ...]], ...] = (
        (load_and_ask, ()), (train, (tmp_path, 2_048)), (use_what_was_trained, ()), (explore, ()),
        (group, ()), (query, ()), (intervene, ()), (find_paths, ()), (look_at_heads, (smollm2,)),
        (read_lens, ()), (map_errors, ()), (compare_prompts, ()), (export_figures, (tmp_path,)),
        (copy_script, (tmp_path,)), (contrast, ()),
    )  # fmt: skip
    for step, more in steps:
        step(person, *more)
        told = studio.window.messages.current
        assert told is None or told.level != "error", (step.__name__, told)
    reopened(studio, qtbot, new_studio)


@pytest.mark.slow
def test_a_checkpoint_is_opened_and_used_while_training_goes_on(
    studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    person = Person(studio, qtbot)
    session = person.session
    load_and_ask(person)
    train(person, tmp_path, 200_000)
    person.until(lambda: session.training == "running")
    person.until(lambda: studio.commands.action("train.open_checkpoint").isEnabled())
    person.do("train.open_checkpoint")
    person.until(lambda: session.crm is not None)
    assert session.training == "running"
    assert session.crm_folder is not None and session.crm_folder.parent.name == "snapshots"
    person.do("graph.build")
    person.until(lambda: session.graph is not None)
    assert session.training == "running"
    assert person.graph().scores.max_identity_error < 1e-4
    person.do("train.stop")
    person.until(lambda: session.training is None)
    person.settle()
