"""Figures: sizes, formats, colours, and the dock that makes them, by clicks and keys."""

from __future__ import annotations

import errno
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QGuiApplication, QImage, QStandardItem, QStandardItemModel
from PySide6.QtWidgets import QCheckBox, QComboBox, QPushButton, QSpinBox, QTableView, QToolButton
from pytestqt.qtbot import QtBot

from attention_studio.core.sites import Site
from attention_studio.core.training_events import StepDone, StepMetrics
from attention_studio.ui.app import Studio
from attention_studio.ui.figures import render
from attention_studio.ui.figures.chart import ChartFigure, Panel, Series, known_series
from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.figures.graph_figure import GraphFigure
from attention_studio.ui.figures.palettes import PALETTES, palette
from attention_studio.ui.figures.pictures import ScreenFigure, seen
from attention_studio.ui.figures.render import FigureError, save_figures
from attention_studio.ui.figures.style import MM_PER_INCH, PRESETS, FigureStyle
from attention_studio.ui.figures.table import MAX_ROWS, TableFigure, of_view
from attention_studio.ui.theme import Theme
from attention_studio.ui.tokens import contrast
from attention_studio.ui.widgets.figures_dock import FiguresDock
from attention_studio.ui.widgets.graph_scene import build_scene
from attention_studio.ui.widgets.graph_view import GraphView
from attention_studio.ui.widgets.train_history import Choice, RunHistory
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.progress import WorkContext
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import synthetic_graph

_MODELS = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
                   (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
                     (-0.011820, 0.042940, 0.968881)),
}  # fmt: skip


def a_table(rows: int = 3) -> TableFigure:
    cells = tuple((f"row {n}", f"{n / 3:.3f}") for n in range(rows))
    return TableFigure(
        "table", "A table", "Numbers.", ("Name", "Value"), cells, (False, True), rows
    )


def a_chart() -> ChartFigure:
    x = np.linspace(0.0, 4000.0, 50)
    one = Series("falls", x, np.exp(-x / 1000.0), "line", 0)
    two = Series("held out", x[::10], np.exp(-x[::10] / 900.0), "line and points", 1)
    bars = Series("", np.arange(-3.0, 3.0), np.array([1.0, 4.0, 9.0, 2.0, 1.0]), "bars")
    panels = (
        Panel("Loss", "tokens", "nats", (one, two), zero=True),
        Panel("Density", "share", "latents", (bars,), zero=True, powers=True),
    )
    return ChartFigure("chart", "Curves", "Two curves.", panels)


def a_picture(width: int = 200, height: int = 100) -> ScreenFigure:
    image = QImage(width, height, QImage.Format.Format_RGB32)
    image.fill(0xD55E00)
    return ScreenFigure("picture", "A picture", "Orange.", image)


FIGURES = [a_table(), a_chart(), a_picture()]


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_format_has_the_size_that_was_asked_for(
    qapp: object, figure: Figure, preset: Any
) -> None:
    style = replace(preset.style, caption="A caption. " * 12, dpi=100)
    image = QImage.fromData(render.to_png(figure, style))
    assert image.width() == round(style.width_mm / MM_PER_INCH * 100)
    assert image.dotsPerMeterX() == pytest.approx(100 / 0.0254, rel=0.01)
    high = style.width_mm * image.height() / image.width()
    root = ET.fromstring(render.to_svg(figure, style))
    assert float(root.attrib["width"].removesuffix("mm")) == pytest.approx(style.width_mm, abs=0.1)
    assert float(root.attrib["height"].removesuffix("mm")) == pytest.approx(high, abs=0.6)
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", render.to_pdf(figure, style))
    assert box is not None
    points = [float(number) * MM_PER_INCH / 72 for number in box.groups()]
    assert points == pytest.approx([style.width_mm, high], abs=0.7)


def test_text_is_as_large_as_asked_for(qapp: object) -> None:
    """Ordinary text of an SVG has its points, whatever the width."""
    for width, points in ((88.0, 7.0), (254.0, 14.0)):
        style = FigureStyle(width_mm=width, font_pt=points)
        root = ET.fromstring(render.to_svg(a_table(), style))
        unit = float(root.attrib["width"].removesuffix("mm")) / float(
            root.attrib["viewBox"].split()[2]
        )
        sizes = {
            float(node.attrib["font-size"])
            for node in root.iter()
            if node.tag.endswith("g") and any(child.tag.endswith("text") for child in node)
        } | {float(node.attrib["font-size"]) for node in root.iter() if node.tag.endswith("text")}
        written = max(sizes) * unit / MM_PER_INCH * 72
        # Tables are set a little smaller than ordinary text.
        assert written == pytest.approx(0.92 * points, rel=0.06)


def test_text_of_an_svg_is_text(qapp: object) -> None:
    words = " ".join(ET.fromstring(render.to_svg(a_table(), FigureStyle())).itertext())
    assert "row 2" in words and "Name" in words and "0.667" in words


def test_the_caption_is_below_and_not_in_the_figure(qapp: object) -> None:
    bare = render.to_image(a_table(), FigureStyle(), 800)
    below = render.to_image(a_table(), FigureStyle(caption="What it is."), 800)
    assert below.height() > bare.height()
    assert below.copy(0, 0, 800, bare.height() - 8) == bare.copy(0, 0, 800, bare.height() - 8)


def test_a_table_says_what_it_leaves_out(qapp: object) -> None:
    style = FigureStyle()
    words = " ".join(ET.fromstring(render.to_svg(a_table(MAX_ROWS + 5), style)).itertext())
    assert "and 5 more rows" in words and f"row {MAX_ROWS}" not in words.split("and 5")[0]


def test_columns_that_are_too_wide_give_way(qapp: object) -> None:
    wide = replace(a_table(), heads=("N" * 300, "Value"))
    root = ET.fromstring(render.to_svg(wide, FigureStyle()))
    words = " ".join(root.itertext())
    assert "…" in words and "Value" in words and "0.667" in words


def test_what_fits_no_page_is_refused(qapp: object) -> None:
    with pytest.raises(FigureError, match="times as high as wide"):
        render.to_svg(a_picture(10, 100), FigureStyle())
    with pytest.raises(FigureError, match="pixels"):
        render.to_png(a_table(), FigureStyle(width_mm=1000.0, dpi=1200))
    with pytest.raises(FigureError, match=r"saved as \.gif"):
        render.document(a_table(), FigureStyle(), "gif")


def test_series_without_a_number_are_left_out() -> None:
    nothing = np.full(3, np.nan)
    assert known_series("", np.arange(3.0), nothing) is None
    some = known_series("", np.arange(3.0), np.array([1.0, np.nan, 2.0]))
    assert some is not None and some.x.tolist() == [0.0, 2.0]
    for y in (np.zeros(3), np.array([5.0, 5.0, 5.0]), np.array([-1e9, 0.0, 1e9])):
        panel = Panel("", "", "", (Series("", np.arange(3.0), y),))
        figure = ChartFigure("c", "C", "", (panel,))
        assert render.to_image(figure, FigureStyle(), 300).width() == 300


def test_all_files_are_written_until_somebody_cancels(qapp: object, tmp_path: Path) -> None:
    ctx = WorkContext()
    wanted = [(one, FigureStyle()) for one in FIGURES]
    files = save_figures(ctx, wanted, tmp_path, ("pdf", "svg"))
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(one.name for one in files)
    assert len(files) == 6
    ctx.cancel()
    with pytest.raises(Cancelled):
        save_figures(ctx, wanted, tmp_path / "more", ("png",))


@pytest.mark.parametrize("kind", render.FORMATS)
def test_a_figure_that_cannot_be_written_leaves_the_older_one(
    qapp: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"figure.{kind}"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileWriteError, match="could not be written"):
        render.save_figure(WorkContext(), a_table(), FigureStyle(), path)
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


# -- colours --------------------------------------------------------------------------------------


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, for a white of D65."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ np.clip(linear, 0.0, 1.0) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _seen_as(colour: str, kind: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return _lab(np.array(_MODELS[kind]) @ linear if kind in _MODELS else linear)


@pytest.mark.parametrize("name", [one.name for one in PALETTES])
def test_signs_and_curves_are_told_apart_by_everyone(name: str) -> None:
    t = palette(name).tokens
    for kind in ("everyone", *_MODELS):
        apart = np.linalg.norm(_seen_as(t.positive, kind) - _seen_as(t.negative, kind))
        assert apart > 25, (kind, apart)
        for first in range(3):
            for second in range(first):
                pair = t.series[first], t.series[second]
                gap = np.linalg.norm(_seen_as(pair[0], kind) - _seen_as(pair[1], kind))
                assert gap > 12, (kind, pair, gap)


@pytest.mark.parametrize("name", [one.name for one in PALETTES])
def test_text_and_marks_stand_out_from_the_paper(name: str) -> None:
    t = palette(name).tokens
    assert min(contrast(one, t.canvas) for one in (t.text, t.muted)) >= 4.5
    marks = (t.positive, t.node_feature, t.node_embedding, t.node_logit, t.node_error)
    assert min(contrast(one, t.canvas) for one in marks) >= 2.9


def test_the_high_contrast_palette_survives_a_copier() -> None:
    t = palette("tol-high-contrast").tokens
    light = [_seen_as(one, "everyone")[0] for one in t.series[:3]]
    assert min(np.diff(sorted(light))) > 15


# -- what views give ------------------------------------------------------------------------------


def test_a_view_of_a_table_is_taken_as_it_is_sorted(qtbot: QtBot) -> None:
    model = QStandardItemModel(0, 2)
    model.setHorizontalHeaderLabels(["Name", "Secret"])
    for word in ("pear", "apple"):
        model.appendRow([QStandardItem(word), QStandardItem("x")])
    view = QTableView()
    qtbot.addWidget(view)
    view.setModel(model)
    view.setColumnHidden(1, True)
    model.sort(0)
    figure = of_view(view, "fruit", "Fruit")
    assert figure.heads == ("Name",) and figure.rows == (("apple",), ("pear",))
    assert figure.n_rows == model.rowCount(QModelIndex())


def test_curves_of_a_run_are_what_it_measured(qtbot: QtBot) -> None:
    from attention_studio.ui.widgets.train_curves import TrainCurves

    sites = (Site(0, "mlp"), Site(1, "mlp"))
    history = RunHistory(sites)
    theme = Theme("light")
    curves = TrainCurves(theme)
    qtbot.addWidget(curves)
    curves.resize(700, 500)
    curves.show()
    qtbot.waitUntil(lambda: curves.ready, timeout=LONG)
    assert curves.figure("curves", "Curves", "") is None
    for step in range(5):
        history.add_step(_step(step, sites))
    curves.show_run(history, Choice("Mean of 2 MLPs", (0, 1)))
    qtbot.waitUntil(lambda: not curves.waiting, timeout=LONG)
    figure = curves.figure("curves", "Curves", "")
    assert figure is not None
    fvu = figure.panels[0]
    assert fvu.title == "FVU" and fvu.series[0].text == "batches"
    tokens, values = history.batch["fvu"].arrays()
    assert fvu.series[0].x.tolist() == tokens.tolist()
    assert fvu.series[0].y == pytest.approx(values.mean(1))


def _step(step: int, sites: tuple[Site, ...]) -> StepDone:
    metrics = tuple(
        StepMetrics(
            site=site,
            loss=1.0,
            fvu=0.5 / (step + 1 + n),
            l0=8.0,
            dead_fraction=0.1,
            gradient_norm=1.0,
        )
        for n, site in enumerate(sites)
    )
    return StepDone(step, 5, 100 * step, 0.001, 8, metrics)


def test_a_view_without_a_figure_is_taken_from_the_screen(qtbot: QtBot) -> None:
    button = QPushButton("A button with text")
    qtbot.addWidget(button)
    button.resize(200, 60)
    picture = seen(button, "button", "A button")
    assert picture is not None
    assert picture.image.width() == 400 and picture.height(Theme("light"), 100.0) == 30.0
    colours = {picture.image.pixel(x, y) for x in range(0, 400, 7) for y in range(0, 120, 7)}
    assert len(colours) > 2


# -- the dock -------------------------------------------------------------------------------------


def shown(dock: FiguresDock) -> bool:
    return not dock.preview.pixmap().isNull()


def child(dock: FiguresDock, kind: type, name: str) -> Any:
    found = dock.findChild(kind, name)
    assert isinstance(found, kind), name
    return found


def test_an_empty_window_says_what_figures_are_for(stage: Stage) -> None:
    dock = stage.put(FiguresDock)
    assert dock.empty and dock.findChild(QPushButton, "button.demo.open") is not None


@pytest.fixture
def figures(studio: Studio, qtbot: QtBot) -> FiguresDock:
    """The dock, with the demo's graph in it, opened by its key from the graph."""
    traced(studio, qtbot)
    studio.window.graph_dock.view.setFocus()
    qtbot.keyClick(studio.window.graph_dock.view, Qt.Key.Key_F9)
    dock = studio.window.docks["figures"]
    assert isinstance(dock, FiguresDock)
    qtbot.waitUntil(lambda: shown(dock), timeout=LONG)
    return dock


def test_the_graph_becomes_a_figure_and_files(
    figures: FiguresDock, studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    assert isinstance(figures.figure, GraphFigure)
    assert child(figures, QComboBox, "figures.view").currentText() == "Attribution graph"
    assert unnamed_controls(figures) == []
    caption = figures.caption.toPlainText()
    assert "The capital of the state containing Dallas is" in caption and "Replacement" in caption
    # Width by keys: the preset is none of the known ones then.
    width = child(figures, QSpinBox, "figures.width")
    width.setFocus()
    width.selectAll()
    qtbot.keyClicks(width, "120")
    qtbot.keyClick(width, Qt.Key.Key_Tab)
    assert child(figures, QComboBox, "figures.preset").currentText() == "Own"
    qtbot.waitUntil(lambda: "120 by" in figures.facts, timeout=LONG)
    qtbot.mouseClick(child(figures, QCheckBox, "figures.with_caption"), Qt.MouseButton.LeftButton)
    assert figures.style_asked().caption == ""
    for kind in render.FORMATS:
        figures.save_to(str(tmp_path / f"graph.{kind}"))
    qtbot.waitUntil(lambda: len(list(tmp_path.glob("graph.*"))) == 3, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    root = ET.fromstring((tmp_path / "graph.svg").read_bytes())
    assert root.attrib["width"].startswith("120")
    words = " ".join(root.itertext())
    assert "Dallas" in words and "Austin" in words and "Logits" in words
    assert (tmp_path / "graph.pdf").read_bytes().startswith(b"%PDF")
    figures.save_to(str(tmp_path / "graph.gif"))
    bar = studio.window.messages
    qtbot.waitUntil(lambda: bar.current is not None and bar.current.level == "error", timeout=LONG)


def test_the_button_of_the_graph_makes_a_figure_of_it(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    assert studio.commands.run("features.extract")
    qtbot.waitUntil(lambda: studio.session.features is not None, timeout=LONG)
    button = studio.window.graph_dock.findChild(QToolButton, "graph.figure")
    assert isinstance(button, QToolButton)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    dock = studio.window.docks["figures"]
    assert isinstance(dock, FiguresDock)
    qtbot.waitUntil(lambda: isinstance(dock.figure, GraphFigure) and shown(dock), timeout=LONG)


def test_views_presets_and_colours_change_the_picture(
    figures: FiguresDock, studio: Studio, qtbot: QtBot
) -> None:
    def picture() -> QImage:
        qtbot.waitUntil(lambda: not figures.drawing, timeout=LONG)
        return figures.preview.pixmap().toImage()

    before = picture()
    colours = child(figures, QComboBox, "figures.palette")
    colours.setFocus()
    qtbot.keyClick(colours, Qt.Key.Key_End)
    assert colours.currentData() == "studio-dark"
    dark = picture()
    assert dark.pixelColor(4, 4).lightness() < 60 < before.pixelColor(4, 4).lightness()
    preset = child(figures, QComboBox, "figures.preset")
    preset.setFocus()
    qtbot.keyClick(preset, Qt.Key.Key_Down)
    assert figures.style_asked().width_mm == 88.0
    # A shown selection is in the figure.
    qtbot.waitUntil(lambda: not figures.drawing, timeout=LONG)
    graph = studio.session.graph
    assert graph is not None
    studio.session.set_selection(graph.node_name(int(graph.nodes.probability.argmax())))
    figure = figures.figure
    assert isinstance(figure, GraphFigure) and figure.frame.selected is not None


def test_all_views_are_saved_at_once(
    figures: FiguresDock, studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    assert studio.commands.run("features.extract")
    qtbot.waitUntil(lambda: studio.session.features is not None, timeout=LONG)
    qtbot.mouseClick(child(figures, QCheckBox, "figures.all.svg"), Qt.MouseButton.LeftButton)
    figures.save_all_to(str(tmp_path))
    qtbot.waitUntil(lambda: (tmp_path / "features.svg").exists(), timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    names = {one.name for one in tmp_path.iterdir()}
    assert {"graph.pdf", "graph.svg", "features.pdf", "features.svg"} <= names
    assert not [one for one in tmp_path.iterdir() if one.stat().st_size < 500]


def test_views_that_nobody_has_looked_at_are_saved_too(
    studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    graph = traced(studio, qtbot)
    session, docks = studio.session, studio.window.docks
    session.set_pinned([graph.node_name(int(n)) for n in graph.prune().node_ids[:4]])
    figures = docks["figures"]
    assert isinstance(figures, FiguresDock)
    figures.ensure_body()
    lazy = [docks[name] for name in ("nodes", "subgraph", "errors", "lens", "console")]
    assert not any(dock.made for dock in lazy)
    figures.save_all_to(str(tmp_path))
    bar = studio.window.messages
    qtbot.waitUntil(
        lambda: bar.current is not None and "figures were written" in bar.current.what,
        timeout=LONG,
    )
    names = {one.name for one in tmp_path.iterdir()}
    assert {"graph.pdf", "nodes.pdf", "subgraph.pdf", "errors.pdf"} <= names
    told = bar.current
    assert told is not None
    assert re.search("Left out: .*Lens.*: nothing to show now", told.todo)
    assert re.search("Console.*: not open", told.todo)
    assert not docks["console"].made, "nothing begins to run that nobody has opened"


def test_no_figure_is_of_the_graph_before(
    figures: FiguresDock, studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    """Behind another tab the Graph dock draws nothing by itself."""
    graph_dock, session = studio.window.graph_dock, studio.session
    first = session.graph
    assert first is not None
    for name in ("nodes", "graph", "figures"):
        studio.window.docks[name].catch_up()
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    studio.window.tabifyDockWidget(figures, graph_dock)
    figures.raise_()
    qtbot.waitUntil(lambda: figures.in_front and not graph_dock.in_front, timeout=LONG)
    figures.caption.setFocus()
    figures.caption.selectAll()
    qtbot.keyClicks(figures.caption, "Of Dallas.")
    other = synthetic_graph(n_layers=6, n_features=90, seed=5)
    session.set_graph(other, other.prune(*session.thresholds))
    offered = {offer.name for name in ("graph", "nodes") for offer in
               studio.window.docks[name].figures()}  # fmt: skip
    assert not offered, "what is drawn is of the graph before"
    qtbot.waitUntil(
        lambda: (
            isinstance(figures.figure, GraphFigure) and figures.figure.frame.scene.n_layers == 6
        ),
        timeout=LONG,
    )
    assert not graph_dock.in_front
    caption = figures.caption.toPlainText()
    assert other.prompt in caption and "Dallas" not in caption
    # What was written of the first graph is there again when one goes back to it.
    session.set_graph(first, first.prune(*session.thresholds))
    qtbot.waitUntil(lambda: figures.caption.toPlainText() == "Of Dallas.", timeout=LONG)


def test_a_figure_goes_to_the_clipboard(figures: FiguresDock, studio: Studio, qtbot: QtBot) -> None:
    clipboard = QGuiApplication.clipboard()
    clipboard.clear()
    assert studio.commands.run("figure.copy")
    qtbot.waitUntil(lambda: not clipboard.image().isNull(), timeout=LONG)
    assert clipboard.mimeData().hasFormat("image/svg+xml")
    image = clipboard.image()
    assert image.width() == round(180 / MM_PER_INCH * 300)


def test_the_view_paints_for_paper_as_for_the_screen(qtbot: QtBot) -> None:
    """A figure of a graph has every node that the view has."""
    graph = synthetic_graph(n_features=200)
    view = GraphView(Theme("light"))
    qtbot.addWidget(view)
    view.resize(900, 600)
    view.set_scene(build_scene(graph, graph.prune(0.8, 0.98)))
    assert view.frame is not None
    figure = GraphFigure("graph", "A graph", "", view.frame)
    svg = render.to_svg(figure, FigureStyle(width_mm=180.0)).decode()
    assert "<title>A graph</title>" in svg and "Paris" in svg
    assert "<image" not in svg, "nodes are drawn as shapes, so that the picture scales"
    circles = svg.count("<path") + svg.count("<circle") + svg.count("<ellipse")
    assert circles >= view.frame.scene.n_nodes
