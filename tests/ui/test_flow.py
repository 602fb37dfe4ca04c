"""Load, type, train, open, trace: the docks together, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio
from attention_studio.ui.pump import PumpState
from tests.ui.flow import LONG, label, set_up_run, settle


def test_a_loaded_model_is_described(loaded: Studio, qtbot: QtBot) -> None:
    assert loaded.session.model_info is not None
    assert len(loaded.session.layers) == loaded.session.model_info.n_layers
    assert "tiny-llama" in label(loaded, "status.model")
    assert loaded.window.windowTitle().startswith("tiny-llama")
    table = loaded.window.model_dock._description._table
    assert table.model().rowCount() == loaded.session.model_info.n_layers


def test_releasing_forgets_the_model(loaded: Studio, qtbot: QtBot) -> None:
    loaded.commands.run("model.release")
    assert loaded.session.model is None
    settle(loaded, qtbot)
    current = loaded.window.messages.current
    assert current is not None and "came free" in current.what
    assert not loaded.commands.action("model.release").isEnabled()


def test_while_a_run_trains_with_it_the_model_stays(loaded: Studio) -> None:
    session, commands = loaded.session, loaded.commands
    load, release = commands.action("model.load"), commands.action("model.release")
    fetch = loaded.window.findChild(QPushButton, "button.model.fetch")
    assert isinstance(fetch, QPushButton)
    free = load.toolTip(), fetch.toolTip()
    for state in ("preparing", "running", "paused", "stopping"):
        assert load.isEnabled() and release.isEnabled() and fetch.isEnabled()
        session.set_training(state)
        assert not load.isEnabled() and not release.isEnabled() and not fetch.isEnabled()
        for tip in (load.toolTip(), load.statusTip(), release.toolTip(), fetch.toolTip()):
            assert "Training uses the model" in tip
        session.set_training(None)
    assert (load.toolTip(), fetch.toolTip()) == free


def test_a_model_that_arrives_during_a_run_does_not_take_the_place_of_its_model(
    loaded: Studio, qtbot: QtBot
) -> None:
    model = loaded.session.model
    assert loaded.commands.run("model.load")
    loaded.session.set_training("running")
    settle(loaded, qtbot)
    assert loaded.session.model is model
    current = loaded.window.messages.current
    assert current is not None and "Training uses the model" in current.why
    loaded.session.set_training(None)


def test_a_name_that_is_no_model_says_so(studio: Studio, qtbot: QtBot) -> None:
    studio.window.model_dock.choice.setEditText("no such thing")
    studio.commands.run("model.load")
    qtbot.waitUntil(lambda: studio.window.messages.current is not None, timeout=LONG)
    current = studio.window.messages.current
    assert current is not None and current.level == "error" and "no such thing" in current.what


def test_offline_a_hub_model_says_so_and_nothing_is_asked_unasked(
    studio: Studio, qtbot: QtBot
) -> None:
    dock = studio.window.model_dock
    dock.choice.setEditText("EleutherAI/pythia-70m")
    dock.start()
    look_up = dock.findChild(QPushButton, "button.model.look_up")
    assert isinstance(look_up, QPushButton)
    qtbot.waitUntil(lambda: not look_up.isHidden(), timeout=LONG)
    settle(studio, qtbot)
    assert "Not on this machine" in label(studio, "model.fit")
    assert studio.window.messages.current is None
    look_up.click()
    settle(studio, qtbot)
    assert "not asked" in label(studio, "model.fit") or "offline" in label(studio, "model.fit")


def test_the_prompt_shows_tokens_and_next_tokens_by_itself(loaded: Studio, qtbot: QtBot) -> None:
    dock = loaded.window.prompt_dock
    assert "empty" in label(loaded, "prompt.problem")
    qtbot.keyClicks(dock.text, "the cat sat on")
    qtbot.waitUntil(lambda: loaded.session.prompt_view is not None, timeout=LONG)
    view = loaded.session.prompt_view
    assert view is not None
    assert "".join(view.tokens[1:]).strip() == "the cat sat on"
    assert "cat" in dock.chips.accessibleDescription()
    assert len(view.candidates) == 10
    assert not dock.bars.isHidden() and dock.bars.accessibleDescription()
    dock.text.selectAll()
    qtbot.keyClick(dock.text, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: loaded.session.prompt_view is None, timeout=5_000)
    assert "empty" in label(loaded, "prompt.problem") and dock.chips.isHidden()


def test_a_prompt_beyond_the_context_says_so(loaded: Studio, qtbot: QtBot) -> None:
    loaded.window.prompt_dock.set_text("the cat " * 400)
    assert loaded.commands.run("prompt.run")
    qtbot.waitUntil(lambda: loaded.window.messages.current is not None, timeout=LONG)
    current = loaded.window.messages.current
    assert current is not None and "64" in f"{current.what} {current.why} {current.todo}"
    assert loaded.session.prompt_view is None


def test_an_estimate_comes_before_the_start(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    set_up_run(loaded, text, tmp_path / "run")
    loaded.commands.run("go.train")
    qtbot.waitUntil(lambda: "Memory" in label(loaded, "train.estimate"), timeout=LONG)
    told = label(loaded, "train.estimate")
    assert "parameters" in told and "Disk" in told and "Time" in told
    loaded.window.train_dock.form.layers.setText("0-99")
    qtbot.waitUntil(lambda: "no layer 99" in label(loaded, "train.estimate"), timeout=5_000)


def test_training_without_text_says_so(loaded: Studio, qtbot: QtBot) -> None:
    loaded.commands.run("train.start")
    current = loaded.window.messages.current
    assert current is not None and current.what == "There is no text to train on"
    assert loaded.session.training is None


def test_from_training_to_a_graph(loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot) -> None:
    out = tmp_path / "run"
    set_up_run(loaded, text, out)
    loaded.commands.run("layout.train")
    assert loaded.commands.run("train.start")
    assert not loaded.commands.action("train.start").isEnabled()
    # A finished run is opened at once.
    qtbot.waitUntil(lambda: loaded.session.crm is not None, timeout=LONG)
    assert loaded.session.crm_folder == out and (out / "manifest.json").is_file()
    assert "2 of 3 MLPs" in label(loaded, "status.crm")
    dock = loaded.window.train_dock
    assert dock.pump.state is PumpState.IDLE and loaded.session.training is None
    history = dock.view.history
    assert history is not None
    tokens, values = history.batch["fvu"].arrays()
    assert tokens[-1] == 2_048 and values.shape == (len(tokens), 2)
    held_tokens, held = history.heldout["recovered"].arrays()
    assert len(held_tokens) >= 1 and held.shape[1] == 2
    qtbot.waitUntil(lambda: dock.view.curves is not None and dock.view.curves.ready, timeout=LONG)

    loaded.window.prompt_dock.set_text("the cat sat on")
    assert loaded.commands.run("features.extract")
    qtbot.waitUntil(lambda: loaded.session.features is not None, timeout=LONG)
    assert loaded.commands.run("graph.build")
    qtbot.waitUntil(lambda: loaded.session.graph is not None, timeout=LONG)
    graph = loaded.session.graph
    assert graph is not None and graph.scores.max_identity_error < 1e-4
    settle(loaded, qtbot)

    file = tmp_path / "graph.safetensors"
    loaded.window.save_graph_file(str(file))
    settle(loaded, qtbot)
    assert file.is_file()
    loaded.session.set_graph(None, None)
    loaded.window.open_graph_file(str(file))
    qtbot.waitUntil(lambda: loaded.session.graph is not None, timeout=LONG)
    settle(loaded, qtbot)


def test_a_stopped_run_can_be_resumed(
    loaded: Studio, text: Path, tmp_path: Path, qtbot: QtBot
) -> None:
    out = tmp_path / "run"
    set_up_run(loaded, text, out, tokens=6_400)
    dock = loaded.window.train_dock
    assert loaded.commands.run("train.start")
    qtbot.waitUntil(
        lambda: dock.view.history is not None and len(dock.view.history.batch["fvu"].tokens) > 3,
        timeout=LONG,
    )
    assert loaded.commands.run("train.pause") and loaded.session.training == "paused"
    assert loaded.commands.run("train.pause") and loaded.session.training == "running"
    assert loaded.commands.run("train.stop")
    qtbot.waitUntil(lambda: loaded.session.training is None, timeout=LONG)
    assert loaded.session.crm is None and not (out / "manifest.json").exists()
    settle(loaded, qtbot)

    dock.resume_folder(str(out))
    qtbot.waitUntil(lambda: loaded.session.crm is not None, timeout=LONG)
    assert (out / "manifest.json").is_file()
    settle(loaded, qtbot)


def test_a_folder_without_a_run_cannot_be_resumed(
    loaded: Studio, tmp_path: Path, qtbot: QtBot
) -> None:
    loaded.window.train_dock.resume_folder(str(tmp_path))
    qtbot.waitUntil(lambda: loaded.window.messages.current is not None, timeout=LONG)
    current = loaded.window.messages.current
    assert current is not None and "no run" in current.what
    assert loaded.session.training is None


def test_closing_while_training_leaves_a_run_that_can_go_on(
    loaded: Studio,
    new_studio: Callable[[], Studio],
    folder: Path,
    text: Path,
    tmp_path: Path,
    qtbot: QtBot,
) -> None:
    out = tmp_path / "run"
    # Some hundred steps: far from done when the window closes, and soon done afterwards.
    set_up_run(loaded, text, out, tokens=25_600)
    assert loaded.commands.run("train.start")
    dock = loaded.window.train_dock
    qtbot.waitUntil(
        lambda: dock.view.history is not None and len(dock.view.history.batch["fvu"].tokens) > 2,
        timeout=LONG,
    )
    with qtbot.waitSignal(loaded.window.stopped, timeout=LONG):
        loaded.window.close()
    assert (out / "run.json").is_file()
    assert not (out / "manifest.json").exists(), "the run was over before the window closed"
    assert not list(out.rglob("*.part-*"))

    again = new_studio()
    with qtbot.waitExposed(again.window):
        again.window.show()
    again.window.model_dock.choice.setEditText(str(folder))
    assert again.commands.run("model.load")
    qtbot.waitUntil(lambda: again.session.model is not None, timeout=LONG)
    again.window.train_dock.resume_folder(str(out))
    # A finished run is opened at once.
    qtbot.waitUntil(lambda: again.session.crm is not None, timeout=LONG)
    assert (out / "manifest.json").is_file()
    history = again.window.train_dock.view.history
    assert history is not None and history.batch["fvu"].tokens[-1] == 25_600
    settle(again, qtbot)
