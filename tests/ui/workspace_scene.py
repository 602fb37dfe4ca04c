"""A window in a process of its own that keeps a workspace until it is killed.

Run as a program with a folder. It says as JSON what it found there, makes things as a person would,
says ``saved N`` once all of that is on the disk, and goes on making things, with ever higher
numbers, so that a signal strikes in the middle of writing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, QTimer, Slot

from attention_studio.__main__ import main
from attention_studio.core.graph_notes import SavedQuery
from attention_studio.ui import app
from attention_studio.ui.app import Studio
from attention_studio.ui.workspace_view import SaveState
from attention_studio.utils.config import Settings
from tests.hand_graphs import hand_graph

NODES = 3
FEATURE = "L1/F1"


def found(studio: Studio) -> dict[str, Any]:
    """What a person would see of a workspace."""
    session, view = studio.session, studio.session.workspace
    assert view is not None
    return {
        "folder": str(view.folder),
        "prompt": session.prompt,
        "thresholds": list(session.thresholds),
        "graphs": [[entry.key, entry.name, entry.pins] for entry in view.graphs],
        "current": view.current,
        "weights": None if session.graph is None else float(session.graph.edges.data.sum()),
        "notes": session.notes.to_json(),
        "records": {kind: list(records) for kind, records in session.records.items()},
        "selection": session.selection,
        "chosen": list(session.chosen),
    }


class Hand(QObject):
    """Does what a person would."""

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio.window)
        self._studio = studio
        self._number = 0
        self._said = False
        self._clock = QTimer(self)
        self._clock.setInterval(5)
        self._clock.timeout.connect(self._go_on)
        studio.window.keeper.opened.connect(self._begin)
        studio.session.changed.connect(self._on_change)

    @Slot(bool)
    def _begin(self, _held: bool) -> None:
        told = found(self._studio)
        _say(json.dumps(told))
        session = self._studio.session
        kept = [int(record["number"]) for record in session.records.get("count", ())]
        self._number = max(kept, default=0)
        seed = len(told["graphs"])
        graph = hand_graph(seed=seed)
        # A prompt of its own: the same question again would take the place of this one.
        object.__setattr__(graph, "prompt", f"prompt {seed}")
        session.set_graph(graph, graph.prune())
        session.set_prompt(f"typed {seed}")
        session.set_thresholds(0.5 + seed / 10, 0.9)
        nodes = [graph.node_name(node) for node in range(NODES)]
        session.set_pinned(nodes)
        notes, group = session.notes.grouped(nodes[:2], "two of them")
        notes = notes.placed({group.key: (1.5, -2.0)}).remarked("", "what I think of it")
        session.set_notes(notes.with_queries([SavedQuery("late", "layer>1")]), "Note", self)
        session.set_selection(nodes[0])
        session.set_chosen(nodes[1:])
        self._count()

    def _count(self) -> None:
        session = self._studio.session
        self._number += 1
        session.set_notes(session.notes.labelled(FEATURE, f"number {self._number}"), "Label")
        session.set_records({"count": ({"number": self._number},)})

    @Slot(object, object)
    def _on_change(self, _part: object, _initiator: object) -> None:
        view = self._studio.session.workspace
        if self._number and not self._said and view is not None and view.state is SaveState.SAVED:
            self._said = True
            _say(f"saved {self._number}")
            self._clock.start()

    @Slot()
    def _go_on(self) -> None:
        self._count()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(folder: str) -> int:
    """Open the window as the program does, with a hand in it."""
    build: Callable[[Settings], Studio] = app.build_studio

    def with_hand(settings: Settings) -> Studio:
        studio = build(settings)
        # It would have torch imported, which takes longer than all that is looked at here.
        vars(studio.window.model_dock)["start"] = lambda: None
        Hand(studio)
        return studio

    app.build_studio = with_hand
    return main(["app", "--workspace", folder])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
