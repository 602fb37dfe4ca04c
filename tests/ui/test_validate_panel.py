"""Validating the graph by clicks and keys, on the demo, against the call of the core."""

from __future__ import annotations

import ast
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from attention_studio.core import intervention_specs
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.intervention_specs import Edit, FeatureAt, Intervention
from attention_studio.core.sites import Site
from attention_studio.core.validation import validate
from attention_studio.core.validation_report import ValidationReport
from attention_studio.ui import work, work_interventions
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.widgets.validate_panel import ValidatePanel, validation_words
from attention_studio.ui.widgets.validation_table import (
    AgreementColumn,
    CheckColumn,
    feature_name,
)
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext
from tests.ui.demo_window import LONG, traced
from tests.ui.flow import settle
from tests.ui.stage import unnamed_controls

MEMBERS = ("A0/P8/F375", "A0/P8/F134")
SAMPLES = 6


def panel_of(studio: Studio) -> ValidatePanel:
    dock = studio.window.docks["intervene"]
    assert isinstance(dock, InterveneDock)
    dock.go_there()
    dock.tabs.setCurrentWidget(dock.validate_panel)
    return dock.validate_panel


def expected_report(studio: Studio, qtbot: QtBot, prompt: str, **settings: Any) -> ValidationReport:
    # Two threads must not run the model at once.
    settle(studio, qtbot)
    crm = studio.session.crm
    assert crm is not None
    return validate(crm, prompt, SAMPLES, 3, **settings)


def press_validate(studio: Studio, qtbot: QtBot) -> None:
    view = studio.window.graph_dock.view
    view.setFocus()
    held = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
    qtbot.keyClick(view, Qt.Key.Key_V, held)


def groups_in(script: str) -> Any:
    """What a script hands over as groups."""
    calls = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.keyword)]
    (value,) = (call.value for call in calls if call.arg == "groups")
    return eval(ast.unparse(value), {**vars(intervention_specs), "Site": Site})


def test_the_graph_is_validated_as_the_core_does_it(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    panel, session = panel_of(studio), studio.session
    assert unnamed_controls(panel) == []
    notes, group = session.notes.grouped(list(MEMBERS), "capital")
    session.set_notes(notes, "Group")
    panel.samples.setValue(SAMPLES)
    panel.seed.setValue(3)
    wanted = f"{SAMPLES} features and 1 supernode: 15 passes, "
    qtbot.waitUntil(lambda: panel.cost.whole().startswith(wanted), timeout=LONG)
    members = tuple(FeatureAt.parse(name) for name in MEMBERS)
    assert panel.groups() == (Intervention((Edit(members, "ablate"),), "capital"),)
    press_validate(studio, qtbot)
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    expected = expected_report(studio, qtbot, graph.prompt, groups=panel.groups())
    report = panel.report
    assert report is not None and report.to_json() == expected.to_json()
    assert report.crm_fingerprint and report.belongs_to(graph)
    # The line, and both tables.
    assert panel.summary.whole() == validation_words(expected)
    rows = panel.agreements
    assert rows.n_rows == 3 + len(expected.sites)
    slope = rows.index(0, AgreementColumn.SLOPE).data()
    assert slope == f"{expected.logits.slope:.2f}"
    assert rows.index(2, AgreementColumn.WHAT).data() == "Random directions"
    assert [
        rows.index(3 + n, AgreementColumn.PAIRS).data() for n in range(len(expected.sites))
    ] == [str(site.logits.n) for site in expected.sites]
    panel.view.setCurrentIndex(1)
    checks = panel.checks
    assert checks.n_rows == SAMPLES + 1
    assert checks.index(SAMPLES, CheckColumn.WHAT).data() == "capital"
    first = expected.checks[0]
    assert checks.index(0, CheckColumn.MEASURED).data() == f"{first.measured:+.3f}"
    # A row is a node of the graph; a supernode is none.
    panel.features.selectRow(0)
    assert session.selection == feature_name(first)
    panel.features.selectRow(SAMPLES)
    assert session.selection == feature_name(first)
    assert len(session.records["validation"]) == 1
    # Once more takes the place of what was kept.
    assert studio.commands.run("intervene.validate")
    settle(studio, qtbot)
    assert len(session.records["validation"]) == 1
    assert group.name == "capital"
    # The script says the same.
    script = studio.window.scripts.script("intervene.validate")
    assert groups_in(script) == panel.groups()
    call = script[script.index("validate(crm") :].split("groups")[0]
    assert "".join(call.split()) == f"validate(crm,graph.prompt,{SAMPLES},3,"


def test_a_mark_of_the_plot_is_a_row_of_the_table(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    panel = panel_of(studio)
    report = expected_report(studio, qtbot, graph.prompt)
    studio.session.add_record("validation", report.to_json())
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    for index, pairs in enumerate((report.logit_pairs, report.feature_pairs)):
        panel.plotted.setCurrentIndex(index)
        panel.view.setCurrentIndex(0)
        # Rings lie below dots: those come first.
        largest = len(pairs) + int(np.abs(pairs.measured).argmax())
        place = panel.plot.place_of(largest).toPoint()
        qtbot.mouseClick(panel.plot, Qt.MouseButton.LeftButton, pos=place)
        assert panel.view.currentIndex() == 1
        chosen = panel.checks.record_at(panel.features.currentIndex().row())
        assert chosen == int(pairs.sample[largest - len(pairs)])
        assert studio.session.selection == feature_name(report.checks[chosen])
        assert f"{len(pairs):,} changes" in panel.plot.accessibleDescription()
    # Sorted by size, whatever the sign.
    header = panel.features.horizontalHeader()
    at = header.sectionViewportPosition(CheckColumn.MEASURED) + 20
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(at, 8))
    values = [
        abs(float(panel.checks.index(row, CheckColumn.MEASURED).data()))
        for row in range(panel.checks.n_rows)
    ]
    assert values in (sorted(values), sorted(values, reverse=True))
    offers = panel.figures()
    assert [offer.name for offer in offers] == ["validate.plot", "validate.modules"]
    assert all(offer.make() is not None for offer in offers)


def test_what_was_found_comes_and_goes_with_its_graph(
    studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    graph, session = traced(studio, qtbot), studio.session
    panel, pruned = panel_of(studio), session.pruned
    report = expected_report(studio, qtbot, graph.prompt)
    session.add_record("validation", report.to_json())
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    session.set_graph(None, None)
    assert panel.report is None and panel.figures() == ()
    assert "Trace a prompt" in panel.cost.whole()
    # Not of another graph, and not of other dictionaries of the same name.
    session.set_graph(replace(graph, prompt="Another"), pruned)
    settle(studio, qtbot)
    assert panel.report is None
    others = {**graph.made_with, "dictionaries": "other weights"}
    session.set_graph(replace(graph, made_with=others), pruned)
    settle(studio, qtbot)
    assert panel.report is None
    session.set_graph(graph, pruned)
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    # It goes along into the file, and comes back from there alone.
    path = tmp_path / "graph.safetensors"
    studio.window.save_graph_file(str(path))
    settle(studio, qtbot)
    stored = AttributionGraph.load(path)
    assert stored.validation is not None
    assert stored.validation.to_json() == report.to_json()
    session.set_records({})
    assert panel.report is None
    session.set_graph(stored, stored.prune())
    assert panel.report is stored.validation


def test_stopped_and_failed(studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    traced(studio, qtbot)
    panel = panel_of(studio)
    settle(studio, qtbot)
    studio.window.messages.dismiss()
    begun = threading.Event()

    def waits(ctx: WorkContext, *_: Any) -> None:
        ctx.progress(0, None, "Waiting")
        begun.set()
        while True:
            ctx.check()
            threading.Event().wait(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(work_interventions, "validate_graph", waits)
        qtbot.mouseClick(panel.run, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(begun.is_set, timeout=LONG)
        qtbot.waitUntil(panel.strip.isVisible, timeout=LONG)
        qtbot.mouseClick(panel.strip._stop, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert panel.report is None and "validation" not in studio.session.records

    def fails(*_: Any) -> None:
        raise StudioError("It broke", "the test wants it", "go on")

    with monkeypatch.context() as patch:
        patch.setattr(work_interventions, "validate_graph", fails)
        qtbot.mouseClick(panel.run, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: studio.window.messages.current is not None, timeout=LONG)
    assert studio.window.messages.current is not None
    assert studio.window.messages.current.what == "It broke"
    assert panel.report is None


def test_a_graph_that_comes_meanwhile_does_not_get_what_is_not_its_own(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, session = traced(studio, qtbot), studio.session
    panel, pruned = panel_of(studio), session.pruned
    panel.samples.setValue(2)
    held, begun = threading.Event(), threading.Event()
    real = work_interventions.validate_graph

    def late(*arguments: Any) -> Any:
        found = real(*arguments)
        begun.set()
        held.wait(60)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(work_interventions, "validate_graph", late)
        assert studio.commands.run("intervene.validate")
        qtbot.waitUntil(begun.is_set, timeout=LONG)
        session.set_graph(replace(graph, prompt="Another"), pruned)
        held.set()
        qtbot.waitUntil(lambda: "validation" in session.records, timeout=LONG)
    settle(studio, qtbot)
    assert panel.report is None
    session.set_graph(graph, pruned)
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    assert panel.report is not None and panel.report.n_samples == 2


def test_damaged_records_are_said_and_nothing_is_shown(
    studio: Studio, qtbot: QtBot, tmp_path: Path
) -> None:
    graph = traced(studio, qtbot)
    panel = panel_of(studio)
    record = {**expected_report(studio, qtbot, graph.prompt).to_json(), "logits": "none"}
    studio.window.messages.dismiss()
    studio.session.add_record("validation", record)
    qtbot.waitUntil(lambda: studio.window.messages.current is not None, timeout=LONG)
    assert studio.window.messages.current is not None
    assert "stored validation" in studio.window.messages.current.what
    assert panel.report is None
    # The graph can be saved all the same.
    path = work.save_graph(WorkContext(), graph, None, tmp_path / "graph.safetensors", record)
    assert AttributionGraph.load(path).validation is None
