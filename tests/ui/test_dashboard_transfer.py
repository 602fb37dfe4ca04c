"""Dashboards of other tools in the real window: imported, looked at, and exported again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from attention_studio.core.interchange.node_facts import cantor_pair
from attention_studio.core.sites import Site
from attention_studio.ui.app import Studio
from attention_studio.ui.store_transfer import StoreTransfer
from attention_studio.ui.widgets.message_bar import Message
from tests.ui.demo_window import LONG, traced
from tests.unit.test_dashboards_interchange import tracer_value


def test_pages_of_another_tool_are_shown_and_go_out_again(
    studio: Studio, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced(studio, qtbot)
    session, transfers = studio.session, studio.window.transfers
    assert isinstance(transfers, StoreTransfer)
    said: list[Message] = []
    transfers.message.connect(said.append)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    wrong = theirs / f"{cantor_pair(50, 7)}.json"
    wrong.write_text(json.dumps(tracer_value(7, 50)))
    (theirs / f"{cantor_pair(2, 7)}.json").write_text(json.dumps(tracer_value()))

    # A module that the open replacement model has not got: not its dashboards.
    refused: list[Message] = []
    studio.window.stores.message.connect(refused.append)
    transfers.bring_folder(str(theirs))
    qtbot.waitUntil(lambda: bool(refused), timeout=LONG)
    assert "another replacement model" in refused[0].what
    assert session.store is None

    wrong.unlink()
    transfers.bring_folder(str(theirs))
    qtbot.waitUntil(lambda: session.store is not None, timeout=LONG)
    store = session.store
    assert store is not None and store.about.anonymous
    assert "which weights" in said[-1].why
    studio.commands.run("go.features")
    session.set_feature((Site(2, "mlp"), 7))
    detail = studio.window.features_dock.detail
    qtbot.waitUntil(lambda: detail.view is not None and detail.view.page is not None, timeout=LONG)
    assert detail.view is not None and detail.view.page is not None
    assert "Imported from circuit-tracer (theirs)" in detail.facts
    assert "does not say of which weights" in detail.facts and "at 0.1% of" in detail.facts
    assert "how strong effects on tokens are" in detail.facts
    # The model may have said by now what it says. Tokens without effects are drawn, too.
    detail.promoted.set_effects(detail.view.page.promoted, 0.0)
    assert detail.promoted.accessibleDescription().startswith("w0, w1")
    assert not detail.promoted.grab().isNull()
    assert len(detail.examples.examples) == 2
    # A feature that the files have no page about is none that never fires.
    session.set_feature((Site(2, "mlp"), 3))
    qtbot.waitUntil(lambda: detail.title == "L2 #3" and not studio.runner.busy, timeout=LONG)
    assert detail.view is not None and detail.view.page is None
    assert "Dead" not in detail.facts

    out = tmp_path / "again"
    monkeypatch.setattr(transfers, "_tool", "circuit-tracer")
    transfers.send_folder(str(out))
    qtbot.waitUntil(lambda: "exported" in said[-1].what, timeout=LONG)
    (page,) = out.glob("[0-9]*.json")
    assert json.loads(page.read_text()) == tracer_value()
    for command in ("features.import_store", "features.export_tracer"):
        studio.window.scripts.copy(command)
        script = QGuiApplication.clipboard().text()
        assert "dashboards(" in script
        monkeypatch.chdir(tmp_path)
        made = tmp_path / (store.folder.name if "import" in command else "again")
        if made.exists():
            made.rename(tmp_path / "before")
        exec(compile(script, "script", "exec"), {})
        assert made.is_dir()
