"""The Features dock as a person uses it: sorting, filtering, choosing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QLabel

from attention_studio.ui import work
from attention_studio.ui.session import feature_id
from attention_studio.ui.widgets.controls import CommandButton
from attention_studio.ui.widgets.features_dock import FeaturesDock
from attention_studio.ui.widgets.features_model import (
    Column,
    FeatureFilter,
    FeaturesModel,
    feature_parts,
)
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.synthetic import TOKENS, synthetic_graph, synthetic_report

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureReport


@pytest.fixture(scope="module")
def report() -> FeatureReport:
    return synthetic_report()


@pytest.fixture
def dock(stage: Stage, report: FeatureReport) -> FeaturesDock:
    made = stage.put(FeaturesDock, 900, 800)
    stage.session.set_prompt(report.prompt)
    stage.session.set_features(report)
    stage.settle()
    return made


def column(dock: FeaturesDock, which: Column) -> list[str]:
    model = dock.table.model()
    return [model.index(row, which).data() for row in range(model.rowCount())]


def choose(dock: FeaturesDock, entry: str) -> None:
    dock.which.setCurrentIndex(dock.which.findText(entry))


def type_filter(stage: Stage, dock: FeaturesDock, text: str) -> None:
    dock.filter.clear()
    stage.qtbot.keyClicks(dock.filter, text)
    stage.until(lambda: not dock._typing.isActive())


# -- filter language and names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", FeatureFilter()),
        ("Paris  France", FeatureFilter(words=("paris", "france"))),
        ("layer:12", FeatureFilter(layers=((12, 12),))),
        ("L:3-8 pos:5", FeatureFilter(layers=((3, 8),), positions=((5, 5),))),
        ("#1043 #7", FeatureFilter(indices=(1043, 7))),
        ("layer: pos:x #", FeatureFilter()),
        ("city layer:2 #9", FeatureFilter(words=("city",), layers=((2, 2),), indices=(9,))),
    ],
)
def test_a_filter_is_read_as_typed(typed: str, expected: FeatureFilter) -> None:
    assert FeatureFilter.parse(typed) == expected


@pytest.mark.parametrize("attention", [False, True])
def test_a_feature_has_the_name_that_the_graph_gives_it(attention: bool) -> None:
    graph = synthetic_graph(n_layers=4, n_features=20, attention=attention)
    nodes = graph.nodes
    assert nodes.has_attention == attention
    for node in range(20):
        site = nodes.site(node)
        assert site is not None
        parts = site, int(nodes.position[node]), int(nodes.index[node])
        assert feature_id(*parts) == graph.node_name(node)
        assert feature_parts(graph.node_name(node)) == parts
    assert feature_parts(graph.node_name(25)) is None


# -- the dock -------------------------------------------------------------------------------------


def test_it_is_empty_at_first_and_says_what_fills_it(stage: Stage) -> None:
    dock = stage.put(FeaturesDock)
    assert dock.empty
    button = dock.findChild(CommandButton, "button.features.extract")
    assert button is not None
    assert button.text() == "Extract features"
    assert not button.isEnabled()
    dock.extract()
    stage.theme.toggle()
    stage.settle()
    assert dock.empty


def test_it_lists_the_report(dock: FeaturesDock, report: FeatureReport) -> None:
    assert not dock.empty
    assert column(dock, Column.INDEX) == [f"#{record.index}" for record in report.overall]
    choose(dock, "Every position")
    assert dock.table.model().rowCount() == sum(len(part) for part in report.by_position)
    choose(dock, "3  ␣Tower")
    assert set(column(dock, Column.POSITION)) == {"3  Tower"}
    assert dock.table.model().rowCount() == len(report.by_position[3])


def test_a_click_on_a_heading_sorts(stage: Stage, dock: FeaturesDock) -> None:
    choose(dock, "Every position")
    header = dock.table.horizontalHeader()
    middle = QPoint(
        header.sectionViewportPosition(Column.LAYER) + header.sectionSize(Column.LAYER) // 2,
        header.height() // 2,
    )
    stage.qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    layers = [int(text) for text in column(dock, Column.LAYER)]
    assert layers == sorted(layers)
    stage.qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    layers = [int(text) for text in column(dock, Column.LAYER)]
    assert layers == sorted(layers, reverse=True)
    dock.table.sortByColumn(Column.ACTIVATION, Qt.SortOrder.DescendingOrder)
    values = [float(text) for text in column(dock, Column.ACTIVATION)]
    assert values == sorted(values, reverse=True)
    dock.table.sortByColumn(Column.PROMOTED, Qt.SortOrder.AscendingOrder)
    words = [text.lower() for text in column(dock, Column.PROMOTED)]
    assert words == sorted(words)


def test_typing_narrows_the_table(stage: Stage, dock: FeaturesDock) -> None:
    choose(dock, "Every position")
    everything = dock.table.model().rowCount()
    type_filter(stage, dock, "paris")
    promoted = zip(column(dock, Column.PROMOTED), column(dock, Column.SUPPRESSED), strict=True)
    assert 0 < dock.table.model().rowCount() < everything
    assert all("paris" in f"{first} {second}".lower() for first, second in promoted)
    count = dock.findChild(QLabel, "features.count")
    assert count is not None
    assert f"{dock.table.model().rowCount()} of {everything} listed" in count.text()
    type_filter(stage, dock, "pos:5 layer:0-14")
    assert set(column(dock, Column.POSITION)) == {"5  in"}
    assert max(int(text) for text in column(dock, Column.LAYER)) <= 14
    index = column(dock, Column.INDEX)[0]
    type_filter(stage, dock, index)
    assert set(column(dock, Column.INDEX)) == {index}
    type_filter(stage, dock, "nothing-has-this")
    assert dock.table.model().rowCount() == 0
    dock.filter.clear()
    stage.until(lambda: dock.table.model().rowCount() == everything)


def test_choosing_a_row_shades_the_tokens_where_it_fires(
    stage: Stage,
    dock: FeaturesDock,
    report: FeatureReport,
) -> None:
    choose(dock, "Every position")
    fires = [int((report.activations(r.site, r.index) > 0).sum()) for r in dock.model._records]
    row = int(np.argmax(fires))
    assert fires[row] > 1
    dock.table.scrollTo(dock.model.index(row, 0))
    place = dock.table.visualRect(dock.model.index(row, Column.INDEX)).center()
    stage.qtbot.mouseClick(dock.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    record = dock.model.record(row)
    expected = feature_id(record.site, record.position, record.index)
    assert stage.session.selection == expected
    activations = report.activations(record.site, record.index)
    shades = dock.detail.chips.shades()
    assert len(shades) == len(TOKENS)
    assert np.allclose(shades, activations / activations.max())
    stage.settle()
    picture = dock.detail.chips.grab().toImage()
    chips = dock.detail.chips

    def ground(position: int) -> str:
        box = chips._boxes[position]
        return picture.pixelColor(int(box.left()) + 4, int(box.center().y())).name()

    idle = int(np.flatnonzero(activations == 0)[0])
    strong = int(np.argmax(activations))
    assert ground(idle) == stage.theme.tokens.sunken
    assert ground(strong) != ground(idle)
    for position in range(len(TOKENS)):
        assert (ground(position) == ground(idle)) == (activations[position] == 0)
    assert dock.detail.promoted._effects == record.promoted
    assert dock.detail.suppressed._effects == record.suppressed


def test_arrow_keys_walk_the_table(stage: Stage, dock: FeaturesDock) -> None:
    dock.table.setFocus()
    dock.table.selectRow(0)
    first = stage.session.selection
    stage.qtbot.keyClick(dock.table, Qt.Key.Key_Down)
    assert stage.session.selection == dock.model.name(1) != first


def test_the_table_follows_the_session(stage: Stage, dock: FeaturesDock) -> None:
    name = dock.model.name(7)
    stage.session.set_selection(name)
    assert dock.table.currentIndex().row() == 7
    assert dock.detail._title.whole().startswith("L")
    stage.session.set_selection("P0/token")
    assert not dock.table.selectionModel().hasSelection()
    assert dock.detail._title.whole() == "No feature selected"
    assert stage.session.selection == "P0/token", "following must not change what is selected"


def test_a_feature_that_is_not_listed_is_shown_all_the_same(
    stage: Stage,
    dock: FeaturesDock,
    report: FeatureReport,
) -> None:
    records = (record for part in report.by_position for record in part)
    hidden = next(r for r in records if dock.model.find(dock.model.name_of(r)) is None)
    stage.session.set_selection(feature_id(hidden.site, hidden.position, hidden.index))
    assert dock.detail._title.whole() == f"L{hidden.layer} #{hidden.index}"


def test_sorting_and_filtering_keep_the_selection(stage: Stage, dock: FeaturesDock) -> None:
    choose(dock, "Every position")
    dock.table.selectRow(5)
    name = stage.session.selection
    dock.table.sortByColumn(Column.INDEX, Qt.SortOrder.AscendingOrder)
    assert stage.session.selection == name
    assert dock.model.name(dock.table.currentIndex().row()) == name
    parts = feature_parts(name or "")
    assert parts is not None
    type_filter(stage, dock, f"layer:{parts[0].layer}")
    assert stage.session.selection == name
    assert dock.model.name(dock.table.currentIndex().row()) == name


def test_the_pin_button_pins_with_undo(stage: Stage, dock: FeaturesDock) -> None:
    dock.table.selectRow(2)
    stage.qtbot.mouseClick(dock.detail.pin, Qt.MouseButton.LeftButton)
    assert stage.session.pinned == (dock.model.name(2),)
    assert dock.detail.pin.isChecked()
    stage.session.undo_stack.undo()
    assert stage.session.pinned == ()
    assert not dock.detail.pin.isChecked()


def test_a_label_stands_wherever_its_feature_does(stage: Stage, dock: FeaturesDock) -> None:
    choose(dock, "Every position")
    record = dock.model.record(3)
    feature = f"{record.site.label}/F{record.index}"
    stage.session.set_selection(dock.model.name(3))
    stage.session.set_notes(stage.session.notes.labelled(feature, "steel"), "Label")
    assert dock.detail._title.whole() == f"{record.site.label} #{record.index} · steel"
    assert column(dock, Column.PROMOTED)[3].startswith("steel · ")
    labelled = [text for text in column(dock, Column.PROMOTED) if text.startswith("steel · ")]
    type_filter(stage, dock, "steel")
    assert column(dock, Column.PROMOTED).count(labelled[0]) >= 1
    stage.session.undo_stack.undo()
    assert dock.detail._title.whole() == f"{record.site.label} #{record.index}"


def test_the_extract_command_runs_on_a_lane(
    stage: Stage,
    report: FeatureReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def extracted(_ctx: object, crm: object, prompt: str, top_k: int) -> FeatureReport:
        asked.append((crm, prompt, top_k))
        return report

    monkeypatch.setattr(work, "extract_features", extracted)
    dock = stage.put(FeaturesDock)
    stage.commands.bind("features", dock)
    crm = object()
    stage.session.set_crm(crm, None)  # type: ignore[arg-type]
    stage.session.set_prompt(report.prompt)
    button = dock.findChild(CommandButton, "button.features.extract")
    assert button is not None
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    stage.until(lambda: stage.session.features is report)
    assert asked == [(crm, report.prompt, 20)]
    assert not dock.empty
    assert not dock._again.isVisible()
    stage.session.set_prompt("Another")
    assert dock._again.isVisible()


def test_text_from_models_stays_plain(stage: Stage, dock: FeaturesDock) -> None:
    odd = synthetic_report(("<s>", "<b>x</b>", "\n\n", "\t"), n_layers=3, top_k=5)
    stage.session.set_features(odd)
    choose(dock, "Every position")
    assert "1  <b>x</b>" in column(dock, Column.POSITION)
    assert "2  ⏎⏎" in column(dock, Column.POSITION)
    for child in dock.findChildren(QLabel):
        assert child.textFormat() == Qt.TextFormat.PlainText or not child.text()


def test_it_survives_themes_and_the_report_going_away(stage: Stage, dock: FeaturesDock) -> None:
    dock.table.selectRow(1)
    for _ in range(2):
        stage.theme.toggle()
        stage.settle()
        assert not dock.grab().isNull()
    stage.session.set_features(None)
    stage.settle()
    assert dock.empty
    assert dock.table.model().rowCount() == 0


def test_every_control_has_its_names(dock: FeaturesDock) -> None:
    assert unnamed_controls(dock) == []


def test_twenty_thousand_rows_are_quick(stage: Stage, report: FeatureReport) -> None:
    records = [record for part in report.by_position for record in part]
    many = (records * (20_000 // len(records) + 1))[:20_000]
    model = FeaturesModel()
    model.show(report, many)
    model.set_filter("paris")
    started = time.perf_counter()
    model.sort(Column.ACTIVATION, Qt.SortOrder.DescendingOrder)
    model.set_filter("paris layer:3-9")
    model.set_filter("lyon")
    seconds = time.perf_counter() - started
    assert 0 < model.rowCount() < len(many)
    assert seconds < 0.25


def test_features_of_attentions_are_told_apart(stage: Stage, dock: FeaturesDock) -> None:
    both = synthetic_report(n_layers=3, top_k=5, attention=True)
    stage.session.set_features(both)
    stage.settle()
    choose(dock, "Every position")
    kinds = {record.kind for record in dock.model._records}
    assert kinds == {"attention", "mlp"}
    dock.table.sortByColumn(Column.LAYER, Qt.SortOrder.AscendingOrder)
    rows = range(dock.model.rowCount())
    numbers = [dock.model.record(row).site.number for row in rows]
    assert numbers == sorted(numbers)
    for row in rows:
        record = dock.model.record(row)
        said = dock.model.data(dock.model.index(row, Column.LAYER))
        assert said == (f"A{record.layer}" if record.kind == "attention" else str(record.layer))
        assert dock.model.find(dock.model.name(row)) == row
    row = next(row for row in rows if dock.model.record(row).kind == "attention")
    dock.table.selectRow(row)
    record = dock.model.record(row)
    assert stage.session.selection == f"A{record.layer}/P{record.position}/F{record.index}"
    assert dock.detail._title.whole() == f"A{record.layer} #{record.index}"
