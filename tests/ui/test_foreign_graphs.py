"""Graph files of other tools open in the window, which says what they do not tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.feature_store import SiteSize, StoreAbout
from attention_studio.core.interchange.graph_writing import graph_json
from attention_studio.core.sites import Site
from attention_studio.ui.app import Studio
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value
from tests.ui.demo_window import LONG, traced
from tests.ui.store_scene import N_ALIVE, write_demo_store


@pytest.mark.parametrize("value", [circuit_tracer_value, neuronpedia_value, llamascopium_value])
def test_a_graph_of_another_tool_opens(
    studio: Studio, qtbot: QtBot, tmp_path: Path, value: Callable[[], dict[str, Any]]
) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(value()))
    studio.window.open_graph_file(str(file))
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=20_000)
    graph = studio.session.graph
    assert graph is not None
    assert np.isnan(graph.scores.max_identity_error)
    badge = studio.window.findChild(QLabel, "graph.score.identity")
    qtbot.waitUntil(lambda: "not known" in badge.text(), timeout=20_000)
    assert "does not hold those values" in badge.toolTip()
    for node in range(len(graph.nodes)):
        studio.session.set_selection(graph.node_name(node))
    assert studio.window.messages.current is None


def leave_the_model(studio: Studio, qtbot: QtBot) -> None:
    assert studio.commands.run("model.release")
    qtbot.waitUntil(lambda: studio.session.model is None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert studio.session.crm is None


@pytest.mark.parametrize("known", [True, False], ids=["our file", "a viewer's file"])
def test_dashboards_are_read_beside_a_graph_without_its_model(
    studio: Studio, qtbot: QtBot, tmp_path: Path, known: bool
) -> None:
    """Of a graph that says its weights they must be; one that does not must have the features."""
    session, window = studio.session, studio.window
    graph = traced(studio, qtbot)
    file = tmp_path / ("graph.safetensors" if known else "graph.json")
    value = graph_json(graph, graph.prune(), "neuronpedia")
    if known:
        graph.save(file)
    else:
        del value["metadata"]["attention_studio"]
        file.write_text(json.dumps(value))
    for name, crm_hash in (("mine", None), ("others", "0" * 64)):
        write_demo_store(tmp_path / name, crm_hash)
    leave_the_model(studio, qtbot)
    window.open_graph_file(str(file))
    qtbot.waitUntil(lambda: session.graph is not None, timeout=LONG)
    graph = session.graph
    assert graph is not None and bool(graph.model_hash) is known
    window.stores.open_folder(str(tmp_path / "mine"))
    qtbot.waitUntil(lambda: session.store is not None, timeout=LONG)
    alive = next(
        name
        for name in map(graph.node_name, range(graph.n_features))
        if int(name.rpartition("F")[2]) < N_ALIVE
    )
    session.set_selection(alive)
    studio.commands.run("go.features")
    detail = window.features_dock.detail
    qtbot.waitUntil(lambda: detail.view is not None and detail.view.page is not None, timeout=LONG)
    assert detail.view is not None and detail.view.page is not None
    assert alive.startswith(f"{detail.view.site.label}/")
    assert detail.view.page.index == int(alive.rpartition("F")[2])
    assert "Open the replacement model" in detail.view.lacking
    assert "of another one" not in detail.view.lacking
    if not known:
        return
    # Pages of other dictionaries are not shown as this graph's, but can be looked through.
    window.stores.open_folder(str(tmp_path / "others"))
    other = tmp_path / "others"
    qtbot.waitUntil(
        lambda: session.store is not None and session.store.folder == other, timeout=LONG
    )
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert detail.view is not None and detail.view.page is None
    qtbot.waitUntil(
        lambda: detail.view is not None and "of another one, crm" in detail.view.lacking,
        timeout=LONG,
    )
    assert window.features_dock.list.model.n_rows > 4000


def test_pages_of_a_smaller_model_are_not_those_of_a_graph(studio: Studio, qtbot: QtBot) -> None:
    """What does not say its weights is told apart by its modules and features."""
    graph: AttributionGraph = replace(traced(studio, qtbot), model_hash="")
    nodes = graph.nodes
    sizes: dict[Site, int] = {}
    for node in range(graph.n_features):
        site = nodes.site(node)
        assert site is not None
        sizes[site] = max(sizes.get(site, 0), int(nodes.index[node]) + 1)

    def about(of: dict[Site, int], partial: bool = False) -> StoreAbout:
        listed = tuple(SiteSize(site.layer, site.kind, n) for site, n in sorted(of.items()))
        return StoreAbout("m", "", "c", "", "0", 1, listed, partial=partial)

    assert about(sizes).may_be_of(graph)
    first = min(sizes)
    smaller = {**sizes, first: sizes[first] - 1}
    assert not about(smaller).may_be_of(graph)
    assert about(smaller, partial=True).may_be_of(graph)
    del smaller[first]
    assert not about(smaller, partial=True).may_be_of(graph)
