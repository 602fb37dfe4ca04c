"""The real window with the demo in it, for tests of what one does with a graph."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.ui.app import Studio

LONG = 60_000
"""Milliseconds that a job may take on a busy machine."""


def traced(studio: Studio, qtbot: QtBot) -> AttributionGraph:
    """The demo, with its first prompt traced."""
    assert studio.commands.run("demo.open")
    qtbot.waitUntil(lambda: studio.session.graph is not None, timeout=LONG)
    # The prompt is read a moment after it was last changed.
    qtbot.waitUntil(lambda: studio.session.prompt_view is not None, timeout=LONG)
    qtbot.waitUntil(lambda: not studio.runner.busy, timeout=LONG)
    assert studio.session.graph is not None
    return studio.session.graph
