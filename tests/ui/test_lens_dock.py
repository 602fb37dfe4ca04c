"""The Lens dock as a person uses it: reading, dragging one cell onto another, undo, history."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from attention_studio.core.lens_records import Cell, LensTable, Patch, PatchSet
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.logit_lens import apply_patches, read_lens
from attention_studio.ui.app import Studio
from attention_studio.ui.figures import render
from attention_studio.ui.figures.style import FigureStyle
from attention_studio.ui.lens_measures import MEASURES, cell_facts, cell_sentence
from attention_studio.ui.scripts.table import Source, command_script
from attention_studio.ui.widgets.lens_dock import RECORD, LensDock
from attention_studio.ui.widgets.lens_table import DROP, MARK_ROLE, PATCHED, TAKEN, LensGrid
from attention_studio.ui.widgets.patch_panel import record_text
from tests.tiny import PROMPT, tiny_loaded
from tests.ui.demo_window import LONG, traced
from tests.ui.stage import Stage, unnamed_controls

OTHER = "the dog sat on the mat"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def table(model: LoadedModel) -> LensTable:
    return read_lens(model, PROMPT)


@pytest.fixture
def dock(stage: Stage, model: LoadedModel, table: LensTable) -> LensDock:
    made = stage.put(LensDock, 1100, 900)
    stage.session.set_model(model)
    stage.session.set_prompt(PROMPT)
    stage.session.set_lens(table)
    stage.settle()
    return made


def middle(grid: LensGrid, cell: Cell) -> QPoint:
    grid.scrollTo(grid.lens.index_of(cell))
    return grid.visualRect(grid.lens.index_of(cell)).center()


def drag(stage: Stage, source: LensGrid, start: Cell, target: LensGrid, end: Cell) -> None:
    """By the mouse: press, move in steps, let go."""
    port = source.viewport()
    begin = middle(source, start)
    stop = port.mapFromGlobal(target.viewport().mapToGlobal(middle(target, end)))
    QTest.mousePress(port, Qt.MouseButton.LeftButton, pos=begin)
    for step in range(1, 6):
        stage.qtbot.mouseMove(port, begin + (stop - begin) * step / 5)
    QTest.mouseRelease(port, Qt.MouseButton.LeftButton, pos=stop)


def mark(grid: LensGrid, cell: Cell) -> object:
    return grid.lens.data(grid.lens.index_of(cell), MARK_ROLE)


def patched(stage: Stage, dock: LensDock) -> None:
    """Wait for what comes of the patches."""
    stage.until(
        lambda: dock._outcome is not None and dock._outcome.patches == stage.session.patches
    )
    stage.settle()


# ---- measures ------------------------------------------------------------------------------------


def test_colours_are_shares_of_one(table: LensTable) -> None:
    for name, measure in MEASURES.items():
        shares = measure.shares(table, None)
        assert shares.shape == table.entropy.shape and shares.min() >= 0 and shares.max() <= 1
        if name in ("entropy", "divergence"):
            assert shares.max() == 1.0
    assert MEASURES["end"].text(0.25) == "25.0%" and MEASURES["entropy"].text(1.5) == "1.50 nats"


def test_a_cell_is_told_in_words(table: LensTable) -> None:
    end = Cell(table.n_depths - 1, 3)
    assert "KL to the end 0.00 nats" in cell_facts(table, end) and "is first" in cell_facts(
        table, end
    )
    told = cell_sentence(table, Cell(0, 2))
    assert told.startswith("embedding at 2 “cat”: ")
    assert table.top_word(Cell(0, 2)).strip() in told


# ---- the dock ------------------------------------------------------------------------------------


def test_an_empty_dock_offers_to_read(stage: Stage, model: LoadedModel) -> None:
    dock = stage.put(LensDock, 700, 700)
    assert dock.empty and unnamed_controls(dock) == []
    button = dock.findChild(QWidget, "button.lens.read")
    assert button is not None and not button.isEnabled()
    stage.session.set_model(model)
    stage.session.set_prompt(PROMPT)
    stage.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    stage.until(lambda: stage.session.lens is not None)
    stage.settle()
    assert not dock.empty and unnamed_controls(dock) == []
    shown = dock.grid.lens
    assert (shown.rowCount(), shown.columnCount()) == (4, 11)
    assert shown.headerData(0, Qt.Orientation.Vertical) == "after 2"
    assert shown.headerData(3, Qt.Orientation.Vertical) == "embedding"
    # The end of the last token is where one begins.
    assert dock.grid.cell == Cell(3, 10)


def test_cells_show_what_they_would_predict(dock: LensDock, table: LensTable) -> None:
    for cell in (Cell(0, 0), Cell(2, 4), Cell(3, 10)):
        index = dock.grid.lens.index_of(cell)
        assert index.data() == table.top_word(cell).strip()
        assert index.data(int(Qt.ItemDataRole.AccessibleTextRole)) == cell_sentence(table, cell)
    dock.grid.go_to(Cell(1, 4))
    assert dock.panel.cell.title.whole() == "after 0 at 4 “on”"
    assert dock.panel.cell.facts.whole() == cell_facts(table, Cell(1, 4))


def test_arrow_keys_go_from_cell_to_cell(dock: LensDock, stage: Stage) -> None:
    dock.grid.setFocus()
    for key, expected in (
        (Qt.Key.Key_Down, Cell(2, 10)),
        (Qt.Key.Key_Left, Cell(2, 9)),
        (Qt.Key.Key_Up, Cell(3, 9)),
        (Qt.Key.Key_Up, Cell(3, 9)),
        (Qt.Key.Key_Right, Cell(3, 10)),
    ):
        stage.qtbot.keyClick(dock.grid, key)
        assert dock.grid.cell == expected


def test_a_cell_is_dragged_onto_another(
    dock: LensDock, stage: Stage, model: LoadedModel, table: LensTable
) -> None:
    source, target = Cell(2, 2), Cell(1, 5)
    drag(stage, dock.grid, source, dock.grid, target)
    patches = PatchSet(model.info.weights_hash, PROMPT, (Patch(PROMPT, source, target),))
    assert stage.session.patches == patches
    patched(stage, dock)
    expected = apply_patches(model, patches)
    assert dock._outcome is not None
    np.testing.assert_array_equal(dock._outcome.change, expected.change)
    # The table shows the patched pass, and both predictions stand side by side.
    assert dock.grid.lens.table is dock._outcome.after
    assert mark(dock.grid, target) == PATCHED and dock.grid.cell == target
    panel = dock.panel
    assert panel.currentIndex() == 0 and panel.prediction.bars[1].isVisible()
    assert f"{expected.divergence:.3f} nats" in panel.prediction.facts.whole()
    # By which cells moved can be asked now.
    dock.measure.setCurrentIndex(dock.measure.findData("change"))
    assert dock.grid.lens.table is dock._outcome.after
    # The table as it was, at a command.
    assert stage.commands.run("lens.unpatched")
    assert dock.grid.lens.table is table and "without patches" in dock._made_for.whole()
    assert stage.commands.run("lens.unpatched")
    assert dock.grid.lens.table is dock._outcome.after


def test_while_dragging_the_cell_below_is_marked_and_escape_gives_up(
    dock: LensDock, stage: Stage
) -> None:
    port = dock.grid.viewport()
    begin, over = middle(dock.grid, Cell(1, 1)), middle(dock.grid, Cell(2, 3))
    QTest.mousePress(port, Qt.MouseButton.LeftButton, pos=begin)
    stage.qtbot.mouseMove(port, over)
    assert mark(dock.grid, Cell(2, 3)) == DROP
    before = port.grab().toImage()
    stage.qtbot.keyClick(dock.grid, Qt.Key.Key_Escape)
    assert mark(dock.grid, Cell(2, 3)) is None and port.grab().toImage() != before
    QTest.mouseRelease(port, Qt.MouseButton.LeftButton, pos=over)
    assert stage.session.patches.patches == ()


def test_a_click_and_a_drop_outside_patch_nothing(dock: LensDock, stage: Stage) -> None:
    port = dock.grid.viewport()
    at = middle(dock.grid, Cell(1, 1))
    stage.qtbot.mouseClick(port, Qt.MouseButton.LeftButton, pos=at)
    assert dock.grid.cell == Cell(1, 1)
    QTest.mousePress(port, Qt.MouseButton.LeftButton, pos=at)
    far = QPoint(at.x(), port.height() + 200)
    stage.qtbot.mouseMove(port, far)
    QTest.mouseRelease(port, Qt.MouseButton.LeftButton, pos=far)
    drag(stage, dock.grid, Cell(1, 1), dock.grid, Cell(1, 1))
    assert stage.session.patches.patches == ()


def test_keys_alone_patch_and_take_patches_out(dock: LensDock, stage: Stage) -> None:
    press = stage.qtbot.keyClick
    dock.grid.go_to(Cell(2, 2))
    press(dock.grid, Qt.Key.Key_Space)
    assert mark(dock.grid, Cell(2, 2)) == TAKEN
    assert dock.panel.taken.whole().startswith("Taken: after 1 at 2 “cat”")
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Down, Qt.Key.Key_Return):
        press(dock.grid, key)
    assert stage.session.patches.patches == (Patch(PROMPT, Cell(2, 2), Cell(1, 4)),)
    patched(stage, dock)
    press(dock.grid, Qt.Key.Key_Delete)
    assert stage.session.patches.patches == ()
    stage.settle()
    assert dock._outcome is None and not dock.panel.prediction.bars[1].isVisible()


def test_commands_patch_as_the_keys_do(dock: LensDock, stage: Stage) -> None:
    dock.grid.go_to(Cell(0, 1))
    assert stage.commands.run("lens.pick")
    dock.grid.go_to(Cell(1, 3))
    assert stage.commands.run("lens.put")
    dock.grid.go_to(Cell(0, 2))
    assert stage.commands.run("lens.pick")
    dock.grid.go_to(Cell(2, 4))
    assert stage.commands.run("lens.put")
    patched(stage, dock)
    assert dock.panel.patches.count() == 2
    assert dock.panel.patches.item(0).text() == "embedding at 1 “the” → after 0 at 3 “sat”"
    dock.grid.go_to(Cell(3, 0))
    dock.panel.patches.setCurrentRow(0)
    assert stage.commands.run("lens.remove")
    assert [patch.target for patch in stage.session.patches.patches] == [Cell(2, 4)]
    assert stage.commands.run("lens.clear") and stage.session.patches.patches == ()
    assert not stage.commands.run("lens.clear")


def test_putting_without_having_taken_says_how(dock: LensDock, stage: Stage) -> None:
    with stage.qtbot.waitSignal(dock.message) as said:
        stage.commands.run("lens.put")
    assert "No cell was taken" in said.args[0].what and "Space" in said.args[0].todo


def test_patches_are_undone_and_made_again(dock: LensDock, stage: Stage) -> None:
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 5))
    patched(stage, dock)
    drag(stage, dock.grid, Cell(0, 1), dock.grid, Cell(2, 7))
    patched(stage, dock)
    both = stage.session.patches
    assert len(both.patches) == 2
    stack = stage.session.undo_stack
    assert stack.undoText() == "Patch embedding at 1 “the” → after 1 at 7 “and”"
    stack.undo()
    patched(stage, dock)
    assert len(stage.session.patches.patches) == 1 and mark(dock.grid, Cell(2, 7)) is None
    stack.undo()
    stage.settle()
    assert dock._outcome is None and dock.grid.lens.table is stage.session.lens
    stack.redo()
    stack.redo()
    patched(stage, dock)
    assert stage.session.patches == both and mark(dock.grid, Cell(2, 7)) == PATCHED
    # Only what a person patched is in the history, not what undo went through.
    assert len(stage.session.records[RECORD]) == 2


def test_what_was_undone_before_it_was_run_is_not_recorded(dock: LensDock, stage: Stage) -> None:
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 5))
    patched(stage, dock)
    drag(stage, dock.grid, Cell(0, 1), dock.grid, Cell(2, 7))
    stage.session.undo_stack.undo()
    patched(stage, dock)
    assert len(stage.session.records[RECORD]) == 1


def test_the_history_is_kept_as_json_and_patches_again(dock: LensDock, stage: Stage) -> None:
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 5))
    patched(stage, dock)
    first = stage.session.patches
    stage.commands.run("lens.clear")
    stage.settle()
    drag(stage, dock.grid, Cell(1, 1), dock.grid, Cell(2, 6))
    patched(stage, dock)
    records = stage.session.records[RECORD]
    assert json.loads(json.dumps(records[0])) == records[0]
    assert PatchSet.of_data(records[0]) == first and records[0]["when"].startswith("20")
    history = dock.panel.history
    assert history.count() == 2 and "after 1 at 2 → after 0 at 5" in history.item(1).text()
    dock.panel.setCurrentIndex(2)
    history.setFocus()
    history.setCurrentRow(1)
    stage.qtbot.keyClick(history, Qt.Key.Key_Return)
    assert stage.session.patches == first
    patched(stage, dock)
    assert len(stage.session.records[RECORD]) == 2


def test_records_that_make_no_sense_are_said_and_do_no_harm(dock: LensDock, stage: Stage) -> None:
    assert record_text({}) == record_text({"patches": 7}) == "A record that cannot be read"
    other = {"weights_hash": "x", "prompt": PROMPT, "patches": []}
    stage.session.set_records({RECORD: ({"nonsense": 1}, other)})
    assert dock.panel.history.count() == 2
    for row, told in ((0, "another model"), (1, "no record of patches")):
        dock.panel.history.setCurrentRow(row)
        with stage.qtbot.waitSignal(dock.message) as said:
            stage.commands.run("lens.reopen")
        assert told in said.args[0].what
    stage.session.set_records({})
    with stage.qtbot.waitSignal(dock.message) as said:
        stage.commands.run("lens.reopen")
    assert "Nothing was patched" in said.args[0].what


def test_a_cell_of_another_prompt_is_dragged_over(
    dock: LensDock, stage: Stage, model: LoadedModel
) -> None:
    assert stage.commands.run("lens.source") and dock.source_area.isVisible()
    stage.qtbot.keyClicks(dock.source_text, OTHER)
    stage.qtbot.keyClick(dock.source_text, Qt.Key.Key_Return)
    stage.until(lambda: dock._source is not None)
    stage.settle()
    assert dock.source_grid.lens.columnCount() == 7
    drag(stage, dock.source_grid, Cell(1, 2), dock.grid, Cell(1, 2))
    patch = Patch(OTHER, Cell(1, 2), Cell(1, 2))
    assert stage.session.patches.patches == (patch,)
    patched(stage, dock)
    assert OTHER in dock.panel.patches.item(0).text()
    # By keys too.
    dock.source_grid.go_to(Cell(2, 3))
    dock.source_grid.setFocus()
    stage.qtbot.keyClick(dock.source_grid, Qt.Key.Key_Space)
    assert mark(dock.source_grid, Cell(2, 3)) == TAKEN and mark(dock.grid, Cell(2, 3)) is None
    dock.grid.go_to(Cell(2, 6))
    stage.qtbot.keyClick(dock.grid, Qt.Key.Key_Enter)
    assert stage.session.patches.patches[-1] == Patch(OTHER, Cell(2, 3), Cell(2, 6))
    patched(stage, dock)
    assert stage.commands.run("lens.source") and not dock.source_area.isVisible()


def test_another_prompt_keeps_its_own_patches(dock: LensDock, stage: Stage) -> None:
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 5))
    patched(stage, dock)
    first = stage.session.patches
    stage.session.set_prompt(OTHER)
    assert dock._stale.isVisible()
    stage.qtbot.mouseClick(dock._again, Qt.MouseButton.LeftButton)
    stage.until(lambda: stage.session.lens is not None and stage.session.lens.prompt == OTHER)
    stage.settle()
    assert not dock._stale.isVisible() and dock._outcome is None
    assert dock.panel.patches.count() == 0 and mark(dock.grid, Cell(1, 5)) is None
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 4))
    patched(stage, dock)
    assert stage.session.patches.prompt == OTHER and len(stage.session.patches.patches) == 1
    # The history of the first prompt brings it back, prompt and all.
    dock.panel.history.setCurrentRow(1)
    assert stage.commands.run("lens.reopen")
    stage.until(lambda: stage.session.lens is not None and stage.session.lens.prompt == PROMPT)
    patched(stage, dock)
    assert stage.session.patches == first and stage.session.prompt == PROMPT


def test_another_model_drops_everything(dock: LensDock, stage: Stage) -> None:
    drag(stage, dock.grid, Cell(2, 2), dock.grid, Cell(1, 5))
    patched(stage, dock)
    stage.session.set_model(None)
    stage.settle()
    assert dock.empty and stage.session.lens is None and stage.session.patches == PatchSet()


def test_themes_text_sizes_and_figures(dock: LensDock, stage: Stage) -> None:
    before = dock.grid.viewport().grab().toImage()
    stage.theme.set_choice("dark")
    assert dock.grid.viewport().grab().toImage() != before
    for scale in (0.8, 2.0):
        stage.theme.set_scale(scale)
        stage.settle()
        metrics = dock.grid.fontMetrics()
        assert dock.grid.verticalHeader().defaultSectionSize() >= metrics.height() + 6
    (offer,) = dock.figures()
    figure = offer.make()
    assert figure is not None and PROMPT in figure.caption and "Colour and bar" in figure.caption
    words = " ".join(ET.fromstring(render.to_svg(figure, FigureStyle())).itertext())
    assert "embedding" in words and "after 2" in words and "2 cat" in words


# ---- on the demo ---------------------------------------------------------------------------------


def test_the_capital_of_another_state_is_dragged_in(studio: Studio, qtbot: QtBot) -> None:
    """The demo knows states by their cities: the stream of one city gives another capital."""
    traced(studio, qtbot)
    session, commands = studio.session, studio.commands
    assert commands.run("go.lens") and commands.run("lens.read")
    dock = studio.window.docks["lens"]
    assert isinstance(dock, LensDock)
    qtbot.waitUntil(lambda: session.lens is not None and not studio.runner.busy, timeout=LONG)
    table = session.lens
    assert table is not None
    assert table.top_word(Cell(4, table.n_tokens - 1)) == " Austin"
    city = next(i for i, token in enumerate(table.tokens) if "Dallas" in token)
    commands.run("lens.source")
    dock.source_text.setText(table.prompt.replace("Dallas", "Oakland"))
    qtbot.keyClick(dock.source_text, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: dock._source is not None and not studio.runner.busy, timeout=LONG)
    qtbot.waitUntil(dock.source_grid.isVisible, timeout=LONG)
    port = dock.source_grid.viewport()
    dock.source_grid.scrollTo(dock.source_grid.lens.index_of(Cell(0, city)))
    dock.grid.scrollTo(dock.grid.lens.index_of(Cell(0, city)))
    begin = middle(dock.source_grid, Cell(0, city))
    goal = dock.grid.viewport().mapToGlobal(middle(dock.grid, Cell(0, city)))
    QTest.mousePress(port, Qt.MouseButton.LeftButton, pos=begin)
    qtbot.mouseMove(port, port.mapFromGlobal(goal))
    QTest.mouseRelease(port, Qt.MouseButton.LeftButton, pos=port.mapFromGlobal(goal))
    qtbot.waitUntil(lambda: dock._outcome is not None and not studio.runner.busy, timeout=LONG)
    assert dock._outcome is not None
    assert dock._outcome.after.top_word(Cell(4, table.n_tokens - 1)) == " Sacramento"
    assert "Austin" in dock.panel.prediction.title.whole()
    assert "Sacramento" in dock.panel.prediction.title.whole()
    # The same from a script: what the patches are, and what comes of them.
    written: dict[str, Any] = {}
    exec(command_script("lens.put", Source(session, commands)), written)
    assert written["patches"] == session.patches
    assert written["outcome"].tokens == dock._outcome.tokens
    commands.run("edit.undo")
    qtbot.waitUntil(lambda: dock._outcome is None and not studio.runner.busy, timeout=LONG)
