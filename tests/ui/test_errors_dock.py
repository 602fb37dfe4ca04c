"""The Errors dock on the demo, by clicks and keys."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from attention_studio.core.error_map import error_map
from attention_studio.core.sites import Site
from attention_studio.ui.app import Studio
from attention_studio.ui.figures import render
from attention_studio.ui.figures.cells_figure import CellsFigure
from attention_studio.ui.figures.style import FigureStyle
from attention_studio.ui.text import percent
from attention_studio.ui.widgets.errors_dock import ErrorsDock
from tests.ui.demo_window import traced
from tests.ui.stage import Stage


def test_without_a_graph_it_says_what_it_is_for(stage: Stage) -> None:
    dock = stage.put(ErrorsDock)
    assert dock.empty


def test_errors_are_found_shown_and_trained_next(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    expected = error_map(graph)
    assert studio.commands.run("go.errors")
    dock = studio.window.docks["errors"]
    assert isinstance(dock, ErrorsDock)
    told = studio.window.findChild(QLabel, "errors.told")
    assert isinstance(told, QLabel) and told.text().startswith(percent(expected.share))

    # From nowhere a key leads to where most is missed; Enter selects that error in the graph.
    dock.map.setFocus()
    qtbot.keyClick(dock.map, Qt.Key.Key_Right)
    row, column = divmod(int(expected.influence.argmax()), len(graph.tokens))
    assert dock.map.cursor_cell == (row, column)
    qtbot.keyClick(dock.map, Qt.Key.Key_Return)
    name = graph.node_name(int(expected.nodes[row, column]))
    assert studio.session.selection == name
    # A click on another cell does the same.
    other = np.argwhere((expected.nodes >= 0) & (expected.nodes != expected.nodes[row, column]))[0]
    at = dock.map.cell_point(int(other[0]), int(other[1])).toPoint()
    qtbot.mouseClick(dock.map.viewport(), Qt.MouseButton.LeftButton, pos=at)
    node = int(expected.nodes[other[0], other[1]])
    assert studio.session.selection == graph.node_name(node)
    # The cursor follows what is selected elsewhere.
    studio.session.set_selection(name)
    assert dock.map.cursor_cell == (row, column)

    # The largest comes first; what is chosen is emphasised in the graph.
    worst = expected.by_module()[0][0]
    dock.table.selectRow(0)
    assert dock.chosen_sites() == (worst,)
    assert studio.commands.run("errors.show")
    highlight = studio.session.highlight
    assert highlight is not None
    place = expected.sites.index(worst)
    nodes = [int(n) for n in expected.nodes[place] if n >= 0]
    assert set(highlight.nodes) == {graph.node_name(n) for n in nodes}

    # With nothing chosen it is those that hold half of what is missed.
    dock.table.clearSelection()
    assert dock.chosen_sites() == expected.worst(0.5)
    assert studio.commands.run("errors.train")
    form = studio.window.train_dock.form
    settings = form.settings()
    manifest = studio.session.crm_info
    assert manifest is not None
    for kind, layers, latents in (
        ("mlp", "layers", "d_latent"),
        ("attention", "attention_layers", "attention_latents"),
    ):
        wanted = tuple(site.layer for site in expected.worst(0.5) if site.kind == kind)
        assert settings[layers] == wanted
        if wanted:
            there = manifest.dictionaries[Site(wanted[0], kind).name]  # type: ignore[arg-type]
            assert settings[latents] == 2 * there.config.d_latent
    assert studio.window.train_dock.isVisible()


def test_the_map_and_the_table_become_figures(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    dock = studio.window.docks["errors"]
    assert isinstance(dock, ErrorsDock)
    assert dock.figures() == (), "nobody has looked at it yet"
    dock.catch_up()
    offers = {offer.name: offer for offer in dock.figures()}
    figure = offers["errors.map"].make()
    assert isinstance(figure, CellsFigure)
    assert graph.prompt in figure.caption and "influence on the output" in figure.caption
    expected = error_map(graph)
    assert np.array_equal(figure.cells.values, expected.influence)
    words = " ".join(ET.fromstring(render.to_svg(figure, FigureStyle())).itertext())
    assert "Dallas" in words and expected.sites[0].label in words
    # Colours are the paper's: a light page has a light map where nothing is missed.
    image = render.to_image(figure, FigureStyle(caption=""), 800)
    assert image.height() < image.width() and image.pixelColor(2, 2).lightness() > 240
    dock.measure.setCurrentIndex(1)
    by_size = dock.figures()[0].make()
    assert isinstance(by_size, CellsFigure)
    assert np.array_equal(by_size.cells.values, expected.size)
    assert by_size.caption != figure.caption
    table = offers["errors.modules"].make()
    assert table is not None and table.name == "error-modules"
    studio.session.set_graph(None, None)
    dock.catch_up()
    assert dock.figures() == ()
