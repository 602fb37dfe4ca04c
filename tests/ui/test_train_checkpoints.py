"""A run that one looks into while it goes on: its checkpoints opened and traced, its curves beside
those of others, its alarms."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.sites import Site
from attention_studio.core.training_events import Evaluated, SiteMetrics
from attention_studio.ui.app import Studio
from attention_studio.ui.widgets.train_history import Choice, OtherRun, alarm_text
from tests.ui.flow import LONG, set_up_run, settle

PROMPT = "the cat sat on the mat"


def row(site: Site, tokens: int = 64, fvu: float = 0.3, dead: float = 0.0) -> SiteMetrics:
    return SiteMetrics(tokens, site, fvu, 0.8, 4.0, dead, (), (), 0.0, None, None)


def test_a_checkpoint_is_opened_and_a_prompt_traced_while_the_run_goes_on(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    dock, session = loaded.window.train_dock, loaded.session
    loaded.commands.run("layout.train")
    session.set_prompt(PROMPT)
    set_up_run(loaded, text, tmp_path / "out", tokens=64 * 4_000)
    assert not loaded.commands.run("train.open_checkpoint")
    assert loaded.commands.run("train.trace_checkpoints")
    assert loaded.commands.run("train.start")
    traces = dock.view.traces
    qtbot.waitUntil(lambda: traces.model.n_rows >= 2, timeout=LONG)
    assert session.training == "running"
    assert loaded.commands.run("train.open_checkpoint")
    qtbot.waitUntil(lambda: session.crm is not None, timeout=LONG)
    assert session.training == "running"
    assert session.crm_folder is not None and session.crm_folder.parent.name == "snapshots"

    # A later prompt does not change what is traced.
    session.set_prompt("something else")
    seen = traces.model.n_rows
    qtbot.waitUntil(lambda: traces.model.n_rows > seen, timeout=LONG)
    assert {one.prompt for one in traces.model.rows} == {PROMPT}
    steps = [one.step for one in traces.model.rows]
    assert steps == sorted(set(steps))
    assert loaded.commands.run("train.trace_checkpoints")
    assert loaded.commands.run("train.stop")
    qtbot.waitUntil(lambda: session.training is None, timeout=LONG)
    settle(loaded, qtbot)

    # Enter opens the graph of the chosen checkpoint.
    chosen = traces.model.rows[0]
    traces.table.setFocus()
    traces.table.selectRow(0)
    qtbot.keyClick(traces.table, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: session.graph is not None, timeout=LONG)
    assert session.graph is not None
    assert session.graph.prompt == PROMPT and session.graph.n_features == chosen.features
    saved = AttributionGraph.load(tmp_path / "out" / "traces" / chosen.graph)
    assert saved.n_edges == session.graph.n_edges == chosen.edges
    # The run's folder tells the same to whoever looks later.
    dock.compare_run_folder(str(tmp_path / "out"))
    settle(loaded, qtbot)


def test_curves_of_runs_stand_beside(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    dock = loaded.window.train_dock
    loaded.commands.run("layout.train")
    for name in ("one", "two"):
        set_up_run(loaded, text, tmp_path / name, tokens=512)
        assert loaded.commands.run("train.start")
        qtbot.waitUntil(lambda: loaded.session.training is None, timeout=LONG)
        settle(loaded, qtbot)
    dock.compare_run_folder(str(tmp_path / "one"))
    qtbot.waitUntil(lambda: bool(dock._others), timeout=LONG)
    curves = dock.view.curves
    assert curves is not None
    qtbot.waitUntil(lambda: curves.ready and not curves.waiting, timeout=LONG)
    plot = curves.plots[0]
    (other,) = plot._others  # type: ignore[attr-defined]
    tokens, values = other.getOriginalDataset()
    held_tokens, held = plot.heldout  # type: ignore[attr-defined]
    # The same settings and seed: the same curve.
    assert list(tokens) == list(held_tokens) and list(values) == list(held)
    assert "one" in dock.view._legend.whole()
    assert loaded.commands.run("train.compare_none")
    qtbot.waitUntil(lambda: not curves.waiting, timeout=LONG)
    assert not plot._others  # type: ignore[attr-defined]


def test_a_folder_without_a_run_is_refused_in_words(
    loaded: Studio, tmp_path: Path, qtbot: QtBot
) -> None:
    loaded.window.train_dock.compare_run_folder(str(tmp_path))
    settle(loaded, qtbot)
    told = loaded.window.messages.current
    assert told is not None and "holds no training run" in told.what


def test_other_runs_show_the_modules_that_are_chosen() -> None:
    sites = (Site(0, "attention"), Site(0, "mlp"), Site(3, "mlp"))
    other = OtherRun.of("other", [row(Site(3, "mlp")), row(Site(0, "mlp")), row(Site(5, "mlp"))])
    assert other.history.sites == (Site(0, "mlp"), Site(3, "mlp"), Site(5, "mlp"))
    assert other.places(Choice("Mean of 2 MLPs", (1, 2)), sites) == (0, 1, 2)
    assert other.places(Choice("MLP 3", (2,)), sites) == (1,)
    assert other.places(Choice("Attention 0", (0,)), sites) == ()


def test_an_alarm_says_what_is_wrong_and_what_may_help(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    assert alarm_text([row(Site(0, "mlp"))]) == ""
    bad = [row(Site(layer, "mlp"), dead=0.2) for layer in range(6)]
    told = alarm_text([*bad, row(Site(9, "attention"), fvu=0.9)])
    assert "MLP 0, MLP 1, MLP 2, MLP 3 and 2 more: more than 10% of the latents dead" in told
    assert "Attention 9: worse than the best affine map" in told
    dock = loaded.window.train_dock
    loaded.commands.run("layout.train")
    set_up_run(loaded, text, tmp_path / "out", tokens=64 * 4_000)
    assert loaded.commands.run("train.start")
    qtbot.waitUntil(lambda: loaded.session.training == "running", timeout=LONG)
    shown = loaded.window.findChild(QLabel, "train.alarm")
    assert isinstance(shown, QLabel)
    dock.pump.stepped.emit(Evaluated(4, 256, (row(Site(0, "mlp"), dead=0.5),), None, None))
    assert shown.isVisible() and "MLP 0" in shown.text()
    message = loaded.window.messages.current
    assert message is not None and message.what == "Some dictionaries are not well"
    dock.pump.stepped.emit(Evaluated(8, 512, (row(Site(0, "mlp")),), None, None))
    assert not shown.isVisible()
    loaded.commands.run("train.stop")
    qtbot.waitUntil(lambda: loaded.session.training is None, timeout=LONG)
