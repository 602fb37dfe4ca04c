"""Interventions and verified edges by clicks and keys, on the demo, against calls of the core."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.core.edge_choice import choose_edges
from attention_studio.core.edge_verification import verify_edges
from attention_studio.core.generation import generate
from attention_studio.core.generation_records import Continuation, GeneratedToken
from attention_studio.core.intervention_running import run_plan
from attention_studio.core.intervention_runs import InterventionPlan, InterventionRun
from attention_studio.core.intervention_specs import Edit, FeatureAt, Freeze, Intervention
from attention_studio.core.interventions import Interventions
from attention_studio.core.model_records import TokenProbability
from attention_studio.ui import work_interventions
from attention_studio.ui.app import Studio
from attention_studio.ui.highlight import Role
from attention_studio.ui.jobs import LaneContext
from attention_studio.ui.widgets.edges_table import EdgeColumn
from attention_studio.ui.widgets.effects_table import EffectColumn
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.widgets.steps_table import StepColumn
from attention_studio.ui.widgets.verified_note import UNTESTED
from tests.ui.demo_window import LONG, traced
from tests.ui.flow import settle
from tests.ui.stage import Stage, unnamed_controls

DALLAS = "The capital of the state containing Dallas is"
OAKLAND = "The capital of the state containing Oakland is"
SWAPPED = [f"A0/P8/F{n}" for n in (375, 325, 188, 134, 110, 343, 154, 295)]


def dock_of(studio: Studio) -> InterveneDock:
    dock = studio.window.docks["intervene"]
    assert isinstance(dock, InterveneDock)
    dock.go_there()
    return dock


def press(studio: Studio, qtbot: QtBot, key: Qt.Key, *modifiers: Qt.KeyboardModifier) -> None:
    """A key in the window, where no field has the focus."""
    studio.window.graph_dock.view.setFocus()
    held = Qt.KeyboardModifier.NoModifier
    for modifier in modifiers:
        held |= modifier
    qtbot.keyClick(studio.window.graph_dock.view, key, held)


def click(qtbot: QtBot, button: QPushButton) -> None:
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def bound(studio: Studio) -> Interventions:
    crm = studio.session.crm
    assert crm is not None
    return Interventions(crm, DALLAS)


def features(names: list[str]) -> tuple[FeatureAt, ...]:
    return tuple(map(FeatureAt.parse, names))


def test_dallas_becomes_oakland(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    studio.session.set_chosen(SWAPPED)
    press(studio, qtbot, Qt.Key.Key_I, Qt.KeyboardModifier.ShiftModifier)
    dock = dock_of(studio)
    editor = dock.form.editor
    assert editor.draft is not None
    assert [str(at) for at in editor.draft.features] == SWAPPED
    editor.action.setFocus()
    qtbot.keyClick(editor.action, Qt.Key.Key_End)
    assert editor.action.currentData() == "swap"
    qtbot.keyClicks(editor.prompt, OAKLAND)
    qtbot.waitUntil(lambda: "of 9 tokens" in dock.cost.whole(), timeout=LONG)
    click(qtbot, dock.run_button)
    qtbot.waitUntil(lambda: dock.result.run is not None, timeout=LONG)

    case = Intervention((Edit(features(SWAPPED), "swap", from_prompt=OAKLAND),))
    expected = bound(studio)
    (outcome,) = expected.run([case])
    texts = generate(expected, [case], 8)
    run = dock.result.run
    assert run is not None
    assert run.next_tokens == outcome.tokens
    assert run.divergence == outcome.divergence
    assert dock.result.whole[0].text() == texts.original.text == "Austin."
    assert dock.result.whole[1].text() == texts.changed[0].text == "Sacramento."
    steps = dock.result.steps
    assert steps.n_rows == len(texts.original.tokens)
    assert steps.index(0, StepColumn.NUMBER).data() == "1 ◆"
    assert steps.index(1, StepColumn.NUMBER).data() == "2"
    told = "◆ They part here: next token, ␣Austin → ␣Sacramento"
    assert dock.result.parting.whole() == told
    assert steps.index(0, StepColumn.ORIGINAL).data() == "␣Austin"
    assert steps.index(0, StepColumn.CHANGED).data() == "␣Sacramento"
    for side, token in ((0, texts.original.tokens[0]), (1, texts.changed[0].tokens[0])):
        shown = steps.tops(0)[side]
        assert [c[1] for c in shown] == [c.token_id for c in token.candidates]
        assert [c[2] for c in shown] == [c.probability for c in token.candidates]
        told = dock.result.bars[side].accessibleDescription()
        assert told.startswith(("'Austin' 99.9%", "'Sacramento' 97.9%")[side])
    # The arrow keys go through the tokens; what else could have been said goes along.
    table = dock.result.steps_table
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert dock.result.bars[1].accessibleDescription().startswith("'.' 100%")

    effects = dock.result.effects
    assert [effects.name(row) for row in range(8)] == [c.feature for c in run.edited]
    row = next(r for r in range(effects.n_rows) if effects.name(r) == "L0/P8/F523")
    assert effects.index(row, EffectColumn.BEFORE).data() == "10.328"
    assert effects.index(row, EffectColumn.AFTER).data() == "2.094"
    dock.result.tabs.setCurrentIndex(1)
    dock.result.effects_table.selectRow(row)
    assert studio.session.selection == "L0/P8/F523"
    click(qtbot, dock.result.show_in_graph)
    highlight = studio.session.highlight
    assert highlight is not None
    assert [offer.name for offer in dock.figures()] == ["intervene.effects"]
    assert highlight.nodes["L0/P8/F523"] is Role.FIRST
    assert highlight.nodes["A0/P8/F325"] is Role.SECOND


def words(text: str) -> Continuation:
    tokens = tuple(
        GeneratedToken(n, word, 0.5, (TokenProbability(n, word, 0.5),))
        for n, word in ((sum(map(ord, word)), word) for word in text.split())
    )
    return Continuation(None, tokens, text, True)


def test_texts_stand_beside_each_other_and_where_they_part_is_said(
    studio: Studio, qtbot: QtBot
) -> None:
    traced(studio, qtbot)
    studio.session.set_selection("L0/P8/F199")
    dock = dock_of(studio)
    studio.commands.run("intervene.switch_off")
    qtbot.waitUntil(lambda: dock.result.run is not None, timeout=LONG)
    result, steps = dock.result, dock.result.steps
    assert result.run is not None and result.run.generation is not None
    assert result.parting.whole() == "Both are the same, token for token"
    assert not any("◆" in steps.index(row, 0).data() for row in range(steps.n_rows))

    one, other = words("in Texas . It lies south"), words("in New Mexico . It is south")
    texts = replace(result.run.generation, original=one, changed=(other,))
    result.show_run(replace(result.run, generation=texts), str)
    rows = [[steps.index(row, column).data() for column in StepColumn] for row in range(7)]
    assert steps.n_rows == 7
    assert rows == [
        ["1", "in", "50.0%", "in", "50.0%"],
        ["2 ◆", "Texas", "50.0%", "New", "50.0%"],
        ["— / 3 ≠", "—", "", "Mexico", "50.0%"],
        ["3 / 4", ".", "50.0%", ".", "50.0%"],
        ["4 / 5", "It", "50.0%", "It", "50.0%"],
        ["5 / 6 ≠", "lies", "50.0%", "is", "50.0%"],
        ["6 / 7", "south", "50.0%", "south", "50.0%"],
    ]
    # The row where they part is the one to begin with, and bold; ears are told too.
    assert result.steps_table.currentIndex().row() == 1
    bold = [steps.index(row, 0).data(Qt.ItemDataRole.FontRole) for row in range(7)]
    assert [font is not None and font.bold() for font in bold] == [False, True] + [False] * 5
    read = steps.index(1, StepColumn.NUMBER).data(Qt.ItemDataRole.AccessibleTextRole)
    assert read == "2, the first difference"
    assert result.bars[0].accessibleDescription().startswith("'Texas' 50.0%")
    assert result.bars[1].accessibleDescription().startswith("'New' 50.0%")
    told = "◆ They part here: token 2 after the prompt, Texas → New"
    assert result.parting.whole() == told
    result.steps_table.setFocus()
    qtbot.keyClick(result.steps_table, Qt.Key.Key_Down)
    assert result.bars[0].accessibleDescription() == ""
    assert result.bars[1].accessibleDescription().startswith("'Mexico' 50.0%")


def test_a_selected_node_is_switched_off_by_a_key(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    studio.session.set_selection("L0/P8/F199")
    dock = dock_of(studio)
    press(
        studio, qtbot, Qt.Key.Key_I,
        Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier,
    )  # fmt: skip
    qtbot.waitUntil(lambda: dock.result.run is not None, timeout=LONG)
    case = Intervention((Edit(features(["L0/P8/F199"]), "ablate"),))
    (outcome,) = bound(studio).run([case])
    assert dock.result.run is not None
    assert dock.result.run.next_tokens == outcome.tokens
    assert dock.result.run.edited[0].activation_after == 0.0


def test_a_supernode_is_scaled_everywhere_with_the_attention_frozen(
    studio: Studio, qtbot: QtBot
) -> None:
    traced(studio, qtbot)
    names = ["L0/P8/F199", "L0/P8/F523"]
    notes, group = studio.session.notes.grouped(names, "in Texas")
    studio.session.set_notes(notes, "Group")
    studio.session.set_selection(group.key)
    press(studio, qtbot, Qt.Key.Key_I)
    dock = dock_of(studio)
    editor, form = dock.form.editor, dock.form
    qtbot.keyClick(editor.action, Qt.Key.Key_Down)
    assert editor.value.isVisibleTo(dock)
    editor.value.selectAll()
    qtbot.keyClicks(editor.value, "-1.5")
    qtbot.keyClick(editor.where, Qt.Key.Key_Down)
    assert form.list.item(0).text() == "Scale by -1.5 · in Texas: L0/P8/F199, L0/P8/F523 everywhere"
    qtbot.keyClick(form.freeze, Qt.Key.Key_Down)
    qtbot.keyClicks(form.layers, "1-3")
    form.n_tokens.setValue(3)
    press(studio, qtbot, Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: dock.result.run is not None, timeout=LONG)
    everywhere = features(["L0/*/F199", "L0/*/F523"])
    case, freeze = Intervention((Edit(everywhere, "scale", -1.5),)), Freeze("attention", 1, 3)
    expected = bound(studio)
    (outcome,) = expected.run([case], freeze)
    run = dock.result.run
    assert run is not None
    assert run.next_tokens == outcome.tokens
    assert run.plan.name == "in Texas"
    assert run.generation is not None
    assert run.generation.changed[0].text == generate(expected, [case], 3, freeze).changed[0].text


def test_features_are_typed_and_what_is_none_is_said(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    dock = dock_of(studio)
    editor, form = dock.form.editor, dock.form
    assert not editor.isEnabled()
    studio.commands.run("intervene.run")
    assert studio.window.messages.current is not None
    assert studio.window.messages.current.what == "Nothing is to be changed"
    studio.window.messages.dismiss()
    click(qtbot, form.add_empty)
    qtbot.keyClicks(editor.features, "L0/8/nonsense")
    qtbot.keyClick(editor.features, Qt.Key.Key_Return)
    assert "names no feature" in editor.problem.text()
    studio.commands.run("intervene.run")
    assert studio.window.messages.current is not None
    assert "cannot be understood" in studio.window.messages.current.what
    studio.window.messages.dismiss()
    editor.features.clear()
    qtbot.keyClicks(editor.features, "A0/8/325; L0/8/567")
    qtbot.keyClick(editor.features, Qt.Key.Key_Return)
    assert not editor.problem.text()
    assert [str(at) for at in form.drafts[0].features] == ["A0/P8/F325", "L0/P8/F567"]
    # The graph's own prediction: no text, no sampling.
    qtbot.keyClick(form.freeze, Qt.Key.Key_End)
    assert not form.n_tokens.isEnabled()
    editor.action.setCurrentIndex(editor.action.findData("set"))
    editor.where.setCurrentIndex(2)
    qtbot.keyClicks(editor.positions, "99")
    qtbot.waitUntil(lambda: "of 9 tokens" in dock.cost.whole(), timeout=LONG)
    studio.commands.run("intervene.run")
    assert studio.window.messages.current is not None
    assert studio.window.messages.current.what == "There is no position 99"
    studio.window.messages.dismiss()
    editor.positions.clear()
    qtbot.keyClicks(editor.positions, "7-8")
    studio.commands.run("intervene.run")
    qtbot.waitUntil(lambda: dock.result.run is not None, timeout=LONG)
    run = dock.result.run
    assert run is not None and run.generation is None
    assert len(run.edited) == 4
    assert all(change.activation_after == 5.0 for change in run.edited)
    assert dock.result.steps.n_rows == 1
    click(qtbot, form.remove)  # type: ignore[arg-type]
    assert form.drafts == ()


def test_what_was_run_is_kept_and_opened_again(studio: Studio, qtbot: QtBot) -> None:
    traced(studio, qtbot)
    dock, session = dock_of(studio), studio.session
    for name in ("L0/P8/F199", "A0/P8/F23"):
        session.set_selection(name)
        studio.commands.run("intervene.switch_off")
        settle(studio, qtbot)
    kept = session.records["intervention"]
    assert len(kept) == 2
    first = InterventionRun.from_json(json.loads(json.dumps(kept[0])))
    dock.tabs.setCurrentWidget(dock.history)
    table = dock.history.table
    assert dock.history.runs.n_rows == 2
    table.selectRow(1)
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: dock.result.run == first, timeout=LONG)
    assert dock.tabs.currentIndex() == 0
    assert [str(at) for at in dock.form.drafts[0].features] == ["L0/P8/F199"]
    dock.tabs.setCurrentWidget(dock.history)
    table.selectRow(1)
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    assert session.records["intervention"] == kept[1:]
    studio.commands.run("edit.undo")
    assert session.records["intervention"] == kept
    studio.commands.run("edit.redo")
    assert session.records["intervention"] == kept[1:]
    # A record that a file brought may hold anything.
    session.set_records({"intervention": ({"plan": 7}, *kept)})
    assert dock.history.runs.index(2, 1).data() == "?"
    table.selectRow(2)
    studio.commands.run("intervene.open_run")
    settle(studio, qtbot)
    assert studio.window.messages.current is not None
    assert "no stored intervention" in studio.window.messages.current.what


def test_a_running_intervention_is_stopped(
    studio: Studio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced(studio, qtbot)
    run = work_interventions.run_plan

    def endless(ctx: LaneContext, *_arguments: Any) -> Any:
        while True:
            ctx.check()
            ctx.progress(1, 2, "Generating")

    monkeypatch.setattr(work_interventions, "run_plan", endless)
    dock = dock_of(studio)
    studio.session.set_selection("L0/P8/F199")
    studio.commands.run("intervene.switch_off")
    stop = dock.findChild(QPushButton, "intervene.job.stop")
    assert stop is not None
    qtbot.waitUntil(stop.isVisible, timeout=LONG)
    click(qtbot, stop)
    settle(studio, qtbot)
    assert "intervention" not in studio.session.records
    monkeypatch.setattr(work_interventions, "run_plan", run)
    studio.commands.run("intervene.run")
    settle(studio, qtbot)
    assert len(studio.session.records["intervention"]) == 1


@pytest.mark.parametrize("reach", ["direct", "total"])
def test_shown_edges_are_verified_and_drawn(studio: Studio, qtbot: QtBot, reach: Any) -> None:
    graph = traced(studio, qtbot)
    dock, session = dock_of(studio), studio.session
    panel = dock.verify_panel
    panel.reach.setCurrentIndex(panel.reach.findData(reach))
    panel.limit.setValue(12)
    crm, pruned = session.crm, session.pruned
    assert crm is not None and pruned is not None
    choice = choose_edges(graph, pruned, max_features=12)
    dock.tabs.setCurrentWidget(panel)
    qtbot.waitUntil(lambda: f"{len(choice)} edges of 12" in panel.cost.whole(), timeout=LONG)
    assert "49 passes" in panel.cost.whole()
    press(
        studio, qtbot, Qt.Key.Key_V,
        Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier,
    )  # fmt: skip
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    report = panel.report
    assert report is not None
    expected = verify_edges(crm, graph, choice, reach)
    assert (report.source, report.target) == (expected.source, expected.target)
    for column in ("weight", "predicted", "measured", "control"):
        assert np.array_equal(getattr(report, column), getattr(expected, column))
    verdicts = expected.verdicts(0.5)
    texts = [panel.edges.index(row, EdgeColumn.VERDICT).data() for row in range(len(report))]
    assert [text.split()[1] for text in texts] == [verdict.value for verdict in verdicts]
    assert panel.edges.index(0, EdgeColumn.MEASURED).data() == f"{expected.measured[0]:+.3f}"

    def drawn() -> dict[tuple[str, str], str]:
        highlight = session.highlight
        assert highlight is not None
        return {edge: role.value for edge, role in highlight.edges.items()}

    def wanted(tolerance: float) -> dict[tuple[str, str], str]:
        found = zip(expected.source, expected.target, expected.verdicts(tolerance), strict=True)
        return {(s, t): v.value for s, t, v in found if v.value != "unclear"}

    assert drawn() == wanted(0.5)
    assert set(drawn().values()) == {"confirmed", "refuted"}
    names = [offer.name for offer in dock.figures()]
    assert names == ["verify.plot", "verify.table"]
    assert all(offer.make() is not None for offer in dock.figures())
    # Another tolerance judges anew, at once, and draws what it says.
    panel.tolerance.setValue(20)
    assert drawn() == wanted(0.2) != wanted(0.5)
    # A mark in the plot is a row of the table is a node of the graph.
    header = panel.table.horizontalHeader()
    at = header.sectionViewportPosition(EdgeColumn.MEASURED) + 20
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(at, 8))
    largest = int(np.abs(expected.predicted).argmax())
    place = panel.plot.place_of(largest).toPoint()
    qtbot.mouseClick(panel.plot, Qt.MouseButton.LeftButton, pos=place)
    row = panel.table.currentIndex().row()
    assert panel.edges.record_at(row) == largest
    assert session.selection == expected.source[largest]
    # It comes again with the graph, from the record alone.
    assert len(session.records["verification"]) == 1
    session.set_graph(None, None)
    assert panel.report is None
    session.set_graph(graph, pruned)
    qtbot.waitUntil(lambda: panel.report is not None, timeout=LONG)
    assert panel.report is not None
    assert np.array_equal(panel.report.measured, expected.measured)
    # Once more takes the place of what was kept.
    studio.commands.run("intervene.verify")
    settle(studio, qtbot)
    assert len(session.records["verification"]) == 1


def test_edges_between_pins_and_at_the_selection_are_counted(studio: Studio, qtbot: QtBot) -> None:
    graph = traced(studio, qtbot)
    dock, session = dock_of(studio), studio.session
    panel = dock.verify_panel
    dock.tabs.setCurrentWidget(panel)
    panel.scope.setCurrentIndex(1)
    qtbot.waitUntil(lambda: panel.cost.whole().startswith("No edges"), timeout=LONG)
    studio.commands.run("intervene.verify")
    settle(studio, qtbot)
    assert studio.window.messages.current is not None
    assert studio.window.messages.current.what == "There are no edges to verify"
    studio.window.messages.dismiss()
    output = graph.node_name(len(graph.nodes) - 1)
    session.set_pinned(["L0/P8/F199", "L0/P8/F523", output])
    qtbot.waitUntil(lambda: panel.cost.whole().startswith("2 edges of 2"), timeout=LONG)
    session.set_selection("L0/P8/F199")
    panel.scope.setCurrentIndex(2)
    assert session.pruned is not None
    choice = choose_edges(graph, session.pruned, "selected", ["L0/P8/F199"])
    start = f"{len(choice)} edges of"
    qtbot.waitUntil(lambda: panel.cost.whole().startswith(start), timeout=LONG)
    notes, group = session.notes.grouped(["L0/P8/F199", "L0/P8/F523"], "both")
    session.set_notes(notes, "Group")
    session.set_selection(group.key)
    assert dock.scope_nodes() == group.nodes
    session.set_chosen(reversed(group.nodes))
    assert studio.commands.run("intervene.add_chosen")
    assert dock.form.drafts[-1].name == "both"


def test_commands_work_where_nobody_has_seen_the_dock(studio: Studio, qtbot: QtBot) -> None:
    graph, session = traced(studio, qtbot), studio.session
    crm, pruned = session.crm, session.pruned
    assert crm is not None and pruned is not None
    report = verify_edges(crm, graph, choose_edges(graph, pruned, max_features=2), controls=1)
    plan = InterventionPlan(DALLAS, (Edit(features(["L0/P8/F199"]), "scale", 3.0),))
    run = run_plan(crm, plan)
    # The graph says at any time whether its edges were tested.
    note = studio.window.graph_dock.facts.verified
    assert note.text() == UNTESTED
    session.add_record("verification", report.to_json())
    session.add_record("intervention", run.to_json())
    verdicts = [verdict.value for verdict in report.verdicts()]
    said = f"Edges ✓ {verdicts.count('confirmed')}  ✗ {verdicts.count('refuted')}"
    qtbot.waitUntil(lambda: note.text() == said, timeout=LONG)
    assert f"Of {len(report)} edges" in note.toolTip()
    dock = studio.window.docks["intervene"]
    assert isinstance(dock, InterveneDock)
    assert studio.commands.run("intervene.show_edges")
    qtbot.waitUntil(lambda: session.highlight is not None, timeout=LONG)
    assert session.highlight is not None
    assert session.highlight.title.startswith("Verified edges")
    assert not dock.isVisible() or dock.visibleRegion().isEmpty()
    # What is thrown away is shown first.
    assert studio.commands.run("intervene.delete_run")
    assert len(session.records["intervention"]) == 1
    assert dock.tabs.currentWidget() is dock.history
    assert studio.commands.run("intervene.open_run")
    qtbot.waitUntil(lambda: dock.result.run == run, timeout=LONG)
    assert dock.form.drafts[0].value == 3.0


def test_it_says_what_it_is_for_and_names_its_controls(stage: Stage) -> None:
    dock = stage.put(InterveneDock)
    assert dock.empty
    assert unnamed_controls(dock) == []
    stage.theme.toggle()
    stage.theme.set_scale(1.6)
    stage.settle()
    assert dock.figures() == ()
    dock.show_effects()
    dock.show_edges()
    dock.run()
    dock.verify()
    dock.open_run()
    dock.delete_run()
    assert stage.session.records == {}
