"""The Attention dock as a person uses it: all heads, one head large, Lorsas beside the model."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from attention_studio.core.attention_records import AttentionView, LorsaHeads, thumbnails_of
from attention_studio.core.head_metrics import METRICS, head_metrics
from attention_studio.core.qk_records import HeadName
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.ui.app import Studio
from attention_studio.ui.figures import render
from attention_studio.ui.figures.style import FigureStyle
from attention_studio.ui.head_scene import STEPS, HeadScene, Spot, scale_colours
from attention_studio.ui.scripts.table import Source, command_script
from attention_studio.ui.session import Session
from attention_studio.ui.tokens import DARK, LIGHT, contrast, ink_on
from attention_studio.ui.widgets.attention_dock import AttentionDock
from attention_studio.ui.widgets.head_painter import lay_out
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls

TOKENS = ("<start>", "The", " cat", " saw", " the", " cat")
IDS = (0, 1, 2, 3, 4, 2)


def causal(seed: int, *shape: int) -> np.ndarray:
    raw = np.tril(np.random.default_rng(seed).random((*shape, len(IDS), len(IDS)))) ** 3
    return (raw / raw.sum(-1, keepdims=True)).astype(np.float32)


def synthetic(prompt: str = "The cat saw the cat", lorsa: bool = True) -> AttentionView:
    """Three layers of four heads; a Lorsa with two QK heads in layer 1."""
    patterns, own = causal(0, 3, 4), causal(1, 2)
    own_metrics = head_metrics(own, IDS)
    activations = np.zeros((3, len(IDS)), dtype=np.float32)
    activations[0, 5], activations[1, 2], activations[2, 3] = 4.0, 3.0, 2.0
    heads = LorsaHeads(
        1, own, 8, np.array([9, 3, 12]), 7, activations,
        np.random.default_rng(2).normal(size=(3, len(IDS))).astype(np.float32), own_metrics,
    )  # fmt: skip
    metrics = head_metrics(patterns, IDS)
    metrics["induction_probe"] = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    lorsas = {1: heads} if lorsa else {}
    crm = DictionariesId("mine") if lorsa else None
    return AttentionView(
        "synthetic", "hash", crm, prompt, IDS, TOKENS, patterns, metrics,
        lorsas, thumbnails_of(patterns), {1: thumbnails_of(own)} if lorsa else {},
    )  # fmt: skip


@pytest.fixture
def dock(stage: Stage) -> AttentionDock:
    made = stage.put(AttentionDock, 700, 900)
    view = synthetic()
    stage.session.set_prompt(view.prompt)
    stage.session.set_attention(view)
    stage.settle()
    # One begins with the head that has the largest figure.
    assert made.overview.head == view.ranked("previous")[0]
    made.overview.choose(HeadName("model", 0, 0))
    return made


def name_of(dock: AttentionDock) -> str:
    return str(dock.overview.head)


# ---- scenes --------------------------------------------------------------------------------------


def scene(signed: bool = False) -> HeadScene:
    values = np.tril(np.ones((3, 3), dtype=np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
    if signed:
        values = values * np.array([[1], [-4], [2]], dtype=np.float32)
    return HeadScene("Head 0.0", ("a", " b", " c"), values, signed)


def test_a_scene_scales_what_has_no_fixed_scale() -> None:
    plain, signed = scene(), scene(signed=True)
    assert (plain.shares == plain.values).all()
    assert np.abs(signed.shares).max() == 1.0 and signed.shares[1, 0] == -1.0
    assert plain.steps()[0, 0] == STEPS - 1 and plain.steps()[0, 1] == -1
    assert signed.steps()[1, 0] == 0 and signed.steps()[0, 0] > STEPS // 2


def test_lines_are_those_of_what_is_pointed_at() -> None:
    query, key, share = scene().lines(Spot(query=1))
    assert set(query.tolist()) == {1} and sorted(key.tolist()) == [0, 1]
    assert share.tolist() == [0.5, 0.5]
    query, key, _ = scene().lines(Spot(key=2))
    assert (query.tolist(), key.tolist()) == ([2], [2])
    assert len(scene().lines(Spot())[0]) == 6
    faint = HeadScene("h", ("a", "b"), np.array([[1, 0], [0.99, 0.01]], dtype=np.float32))
    assert len(faint.lines(Spot())[0]) == 2
    assert len(faint.lines(Spot(query=1))[0]) == 2


def test_values_are_told_in_words() -> None:
    assert scene().cell_sentence(Spot(2, 0)) == "2 “c” looks at 0 “a”: 33.3%"
    assert scene().cell_sentence(Spot(query=1)) == "1 “b” looks at 0 “a” 50.0%, 1 “b” 50.0%"
    assert scene().cell_sentence(Spot(key=2)) == "2 “c” is seen by 2 “c” 33.3%"
    assert scene(True).cell_sentence(Spot(1, 0)) == "1 “b” takes from 0 “a”: -2.00"
    assert scene().cell_sentence(Spot()) == ""


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=lambda tokens: tokens.name)
@pytest.mark.parametrize("signed", [False, True])
def test_figures_can_be_read_on_every_colour_of_the_scale(tokens: object, signed: bool) -> None:
    assert isinstance(tokens, type(LIGHT))
    colours = scale_colours(tokens, signed)
    assert len(colours) == STEPS and len(set(colours)) > STEPS // 2
    worst = min(contrast(ink_on(colour), colour) for colour in colours)
    assert worst >= 4.5


@pytest.mark.parametrize("manner", ["matrix", "lines"])
@pytest.mark.parametrize("size", [(200, 150), (420, 380), (1400, 900)])
def test_every_spot_is_found_where_it_is_drawn(
    stage: Stage, manner: str, size: tuple[int, int]
) -> None:
    view = synthetic()
    here = HeadScene("h", view.tokens, view.patterns[0, 0])
    layout = lay_out(here, stage.theme, manner, *size)  # type: ignore[arg-type]
    spots = [Spot(query=2), Spot(key=3)]
    if manner == "matrix":
        spots += [Spot(4, key) for key in range(5)]
        assert layout.spot_at(here, layout.middle(Spot(2, 5))) is None  # not seen from there
    for spot in spots:
        assert layout.spot_at(here, layout.middle(spot)) == spot
    assert layout.spot_at(here, QPointF(layout.width + 50, layout.height + 50)) is None


# ---- the dock ------------------------------------------------------------------------------------


def test_an_empty_dock_says_what_it_is_for(stage: Stage) -> None:
    dock = stage.put(AttentionDock, 600, 500)
    assert dock.empty and unnamed_controls(dock) == []
    stage.session.set_attention(synthetic())
    assert not dock.empty and unnamed_controls(dock) == []


def test_a_click_on_a_thumbnail_shows_its_head_large(dock: AttentionDock, stage: Stage) -> None:
    view = stage.session.attention
    assert view is not None and name_of(dock) == "0.0"
    target = HeadName("model", 2, 3)
    port = dock.overview.viewport()
    stage.qtbot.mouseClick(port, Qt.MouseButton.LeftButton, pos=dock.overview.point_of(target))
    assert name_of(dock) == "2.3" and dock._name.text() == "Head 2.3"
    assert dock.picture.scene is not None
    assert (dock.picture.scene.values == view.patterns[2, 3]).all()
    for figure in ("previous token", "entropy"):
        assert figure in dock._figures.whole()


def test_arrow_keys_go_from_head_to_head_and_over_to_the_lorsa(
    dock: AttentionDock, stage: Stage
) -> None:
    keys = stage.qtbot.keyClick
    for key, expected in (
        (Qt.Key.Key_Up, "1.0"),
        (Qt.Key.Key_Right, "1.1"),
        (Qt.Key.Key_Right, "1.2"),
        (Qt.Key.Key_Right, "1.3"),
        (Qt.Key.Key_Right, "A1.0"),
        (Qt.Key.Key_Right, "A1.1"),
        (Qt.Key.Key_Right, "A1.1"),
        (Qt.Key.Key_Up, "A1.1"),  # no other layer has a Lorsa
        (Qt.Key.Key_Left, "A1.0"),
        (Qt.Key.Key_Left, "1.3"),
        (Qt.Key.Key_Down, "0.3"),
        (Qt.Key.Key_Down, "0.3"),
    ):
        keys(dock.overview, key)
        assert name_of(dock) == expected
    assert "Head 0.3" in dock.overview.accessibleDescription()
    assert "Entropy" in dock.overview.accessibleDescription()


def test_the_figure_below_the_heads_can_be_chosen_and_followed(
    dock: AttentionDock, stage: Stage
) -> None:
    view = stage.session.attention
    assert view is not None
    dock.metric_choice.setCurrentIndex(list(METRICS).index("distance"))
    assert dock.overview.overview is not None and dock.overview.overview.metric == "distance"
    ranked = view.ranked("distance")
    assert stage.commands.run("attention.strongest") and dock.overview.head == ranked[0]
    assert stage.commands.run("attention.next") and dock.overview.head == ranked[1]
    assert stage.commands.run("attention.next") and dock.overview.head == ranked[2]
    assert stage.commands.run("attention.previous") and dock.overview.head == ranked[1]


def test_where_no_head_has_a_figure_that_is_said(dock: AttentionDock, stage: Stage) -> None:
    view = synthetic()
    none = {name: np.full_like(values, np.nan) for name, values in view.metrics.items()}
    bare = AttentionView(
        **{**{f: getattr(view, f) for f in view.__dataclass_fields__}, "metrics": none,
           "lorsas": {}, "lorsa_thumbnails": {}, "crm": None}
    )  # fmt: skip
    stage.session.set_attention(bare)
    dock.metric_choice.setCurrentIndex(list(METRICS).index("induction"))
    with stage.qtbot.waitSignal(dock.message) as said:
        stage.commands.run("attention.strongest")
    assert "No head has this figure" in said.args[0].what


def test_pointing_at_a_cell_reads_its_value(dock: AttentionDock, stage: Stage) -> None:
    port = dock.picture.viewport()
    at = dock.picture.point_of(Spot(4, 2)).toPoint()
    stage.qtbot.mouseMove(port, at)
    assert dock.picture.spot == Spot(4, 2) and dock.picture.held == Spot()
    scene = dock.picture.scene
    assert scene is not None
    assert dock._readout.whole() == scene.cell_sentence(Spot(4, 2))
    assert scene.value_text(4, 2) in dock._readout.whole()
    stage.qtbot.mouseClick(port, Qt.MouseButton.LeftButton, pos=at)
    stage.qtbot.mouseMove(port, QPoint(1, port.height() - 2))
    assert dock.picture.held == Spot(4, 2) == dock.picture.spot


def test_keys_read_every_cell_of_a_head(dock: AttentionDock, stage: Stage) -> None:
    press = stage.qtbot.keyClick
    for key, expected in (
        (Qt.Key.Key_Down, Spot(query=5)),
        (Qt.Key.Key_Up, Spot(query=4)),
        (Qt.Key.Key_Right, Spot(4, 0)),
        (Qt.Key.Key_Right, Spot(4, 1)),
        (Qt.Key.Key_Up, Spot(3, 1)),
        (Qt.Key.Key_Escape, Spot()),
    ):
        press(dock.picture, key)
        assert dock.picture.held == expected
    press(dock.picture, Qt.Key.Key_Down)
    assert "looks at" in dock.picture.accessibleDescription()


def test_token_lines_take_the_place_of_the_matrix(dock: AttentionDock, stage: Stage) -> None:
    before = dock.picture.viewport().grab().toImage()
    assert stage.commands.run("attention.lines")
    assert dock.picture.manner == "lines"
    assert stage.commands.action("attention.lines").isChecked()
    assert dock.picture.viewport().grab().toImage() != before
    port = dock.picture.viewport()
    at = dock.picture.point_of(Spot(key=2)).toPoint()
    stage.qtbot.mouseMove(port, at)
    assert dock.picture.spot == Spot(key=2) and "is seen by" in dock._readout.whole()
    for key, expected in (
        (Qt.Key.Key_Down, Spot(query=5)),
        (Qt.Key.Key_Up, Spot(query=4)),
        (Qt.Key.Key_Right, Spot(key=4)),
        (Qt.Key.Key_Up, Spot(key=3)),
        (Qt.Key.Key_Left, Spot(query=3)),
    ):
        stage.qtbot.keyClick(dock.picture, key)
        assert dock.picture.held == expected
    assert stage.commands.run("attention.lines") and dock.picture.manner == "matrix"


def test_features_of_a_lorsas_head_show_their_z_pattern(dock: AttentionDock, stage: Stage) -> None:
    view = stage.session.attention
    assert view is not None
    assert not dock.what.isEnabled()
    dock.overview.choose(HeadName("lorsa", 1, 1))
    assert dock.what.isEnabled() and dock.what.count() == 3
    assert "A1/P5/F9" in dock.what.itemText(1) and "A1/P3/F12" in dock.what.itemText(2)
    stage.qtbot.keyClick(dock.what, Qt.Key.Key_Down)
    scene = dock.picture.scene
    assert scene is not None and scene.signed and scene.name == "z-pattern of A1/P5/F9"
    assert (scene.values == view.lorsas[1].z_pattern(0)).all()
    assert stage.session.selection == "A1/P5/F9"
    dock.overview.choose(HeadName("model", 0, 0))
    assert dock.picture.scene is not None and not dock.picture.scene.signed


def test_a_feature_that_is_selected_elsewhere_is_followed(
    dock: AttentionDock, stage: Stage
) -> None:
    stage.session.set_selection("A1/P2/F3")
    assert name_of(dock) == "A1.0"
    assert dock.picture.scene is not None
    assert dock.picture.scene.name == "z-pattern of A1/P2/F3"
    for other in ("L1/P2/F3", "A1/P2/F999", "A0/P2/F3", None):
        stage.session.set_selection(other)
        assert name_of(dock) == "A1.0"


def test_another_prompt_makes_the_dock_say_what_it_is_for(
    dock: AttentionDock, stage: Stage
) -> None:
    assert not dock._stale.isVisible() and "The cat saw the cat" in dock._made_for.whole()
    # Without a model nothing could be renewed.
    stage.session.set_prompt("something else")
    assert not dock._stale.isVisible()


def test_a_theme_switch_repaints_and_text_size_fits(dock: AttentionDock, stage: Stage) -> None:
    stage.theme.set_choice("dark")
    canvas = QColor(stage.theme.tokens.canvas)
    for part in (dock.overview, dock.picture):
        port = part.viewport()
        image = port.grab().toImage()
        assert QColor(image.pixel(image.width() - 3, image.height() - 3)) == canvas
    for scale in (0.8, 2.0):
        stage.theme.set_scale(scale)
        stage.settle()
        assert dock.overview.overview is not None and dock.overview.overview.side >= 34


def test_it_lies_side_by_side_where_there_is_room(dock: AttentionDock, stage: Stage) -> None:
    assert dock.splitter.orientation() == Qt.Orientation.Vertical
    stage.window.resize(1300, 700)
    stage.settle()
    assert dock.splitter.orientation() == Qt.Orientation.Horizontal


def test_figures_are_offered_of_what_is_shown(stage: Stage) -> None:
    dock = stage.put(AttentionDock, 700, 900)
    assert dock.figures() == ()
    stage.session.set_attention(synthetic())
    stage.settle()
    offers = {offer.name: offer.make() for offer in dock.figures()}
    assert set(offers) == {"attention-overview", "attention-head"}
    for figure in offers.values():
        assert figure is not None and "The cat saw the cat" in figure.caption
        words = " ".join(ET.fromstring(render.to_svg(figure, FigureStyle())).itertext())
        assert ("A1.1" in words) == (figure.name == "attention-overview")
        assert ("2 cat" in words) == (figure.name == "attention-head")


def test_large_models_are_painted_without_a_stall(stage: Stage) -> None:
    """80 layers of 64 heads: only what can be seen is painted."""
    many = np.tile(causal(3, 1, 1), (80, 64, 1, 1))
    base = synthetic(lorsa=False)
    large = AttentionView(
        **{**{f: getattr(base, f) for f in base.__dataclass_fields__}, "patterns": many,
           "metrics": {name: np.ones((80, 64), dtype=np.float32) for name in METRICS},
           "thumbnails": thumbnails_of(many)}
    )  # fmt: skip
    dock = stage.put(AttentionDock, 900, 700)
    stage.session.set_attention(large)
    stage.settle()
    dock.overview.viewport().grab()
    images = dock.overview._images
    assert images is not None
    assert 0 < len(images._made) < 20  # of 80 rows


# ---- on the demo ---------------------------------------------------------------------------------


def test_the_demos_heads_are_looked_at_by_clicks(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    session: Session = studio.session
    assert studio.commands.run("go.attention")
    dock = studio.window.docks["attention"]
    assert isinstance(dock, AttentionDock) and dock.empty
    button = dock.findChild(QWidget, "button.attention.look")
    assert button is not None
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.attention is not None, timeout=LONG)
    view = session.attention
    assert view is not None and session.model is not None and session.graph is not None
    assert view.prompt == session.prompt and view.n_layers == 4 and set(view.lorsas) == {0, 1, 2, 3}
    assert view.tokens == tuple(session.graph.tokens)
    np.testing.assert_allclose(view.patterns.sum(-1), 1, atol=1e-5)
    written: dict[str, Any] = {}
    exec(command_script("attention.look", Source(session, studio.commands)), written)
    assert (written["attention"].patterns == view.patterns).all()
    # A feature of the traced graph is shown with what it takes from where.
    lorsa = view.lorsas[0]
    session.set_selection(str(lorsa.feature(0)))
    assert dock.overview.head is not None and dock.overview.head.kind == "lorsa"
    # Another prompt: the dock says so, and renews at a click.
    session.set_prompt("The capital of the state containing Oakland is")
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert dock._stale.isVisible() and dock._again.isVisible()
    qtbot.mouseClick(dock._again, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: session.attention is not view, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert not dock._stale.isVisible() and "Oakland" in dock._made_for.whole()
    # Without the model nothing of it is left.
    studio.commands.run("model.release")
    qtbot.waitUntil(lambda: session.model is None, timeout=LONG)
    assert session.attention is None and dock.empty
