"""Follows links of stories and answers: to nodes, features, examples, interventions, graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.feature_names import FeatureName
from attention_studio.ui.session import SessionPart
from attention_studio.ui.session_desk import graph_key
from attention_studio.ui.story_links import nodes_of
from attention_studio.ui.widgets.message_bar import Message

if TYPE_CHECKING:
    from attention_studio.agents.circuit_story import Story
    from attention_studio.agents.references import Reference
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.session import Session


class LinkFollower(QObject):
    """Goes where links lead.

    ``message`` carries a ``Message``, ``run_wanted`` the record of an intervention,
    ``example_wanted`` module and index of a feature with row and position of one of its examples,
    ``graph_wanted`` the key of a graph of the workspace.
    """

    message = Signal(object)
    run_wanted = Signal(object)
    example_wanted = Signal(object, int, int, int)
    graph_wanted = Signal(str)

    def __init__(self, session: Session, commands: Commands, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._commands = session, commands
        # A node of a graph that is on its way: its key, and the node.
        self._awaited: Optional[tuple[str, str]] = None
        session.changed.connect(self._on_session)

    # -- of stories and explanations --------------------------------------------------------------

    def follow(self, kind: str, reference: str, story: Optional[Story], feature: str) -> None:
        """Follow a link of a story, or of an explanation of ``feature`` (``L12/F1043``)."""
        graph = self._session.graph
        if kind == "run":
            run = None if story is None else story.run(reference)
            if run is not None:
                self.run_wanted.emit(run.run.to_json())
        elif kind in ("node", "edge", "supernode", "look") and story is not None:
            there = () if graph is None else nodes_of(story, reference, graph)
            self._select(there, reference, "Open the graph that the story is about")
        else:
            # An example is named after its feature: "L0/F523 text 12:33".
            words = reference.split(" ")
            example = words[-1] if len(words) > 1 and words[-2] == "text" else ""
            whose = words[0] if FeatureName.read(words[0]) is not None else feature
            self._look_at(whose, *_place(example))

    def _select(self, nodes: tuple[str, ...], reference: str, todo: str) -> None:
        if not nodes:
            self.message.emit(Message("info", f"{reference} is not in the open graph", "", todo))
        elif len(nodes) == 1:
            self._session.set_selection(nodes[0])
            self._commands.run("go.graph")
        else:
            self._session.set_chosen(nodes)
            self._commands.run("go.graph")

    def _look_at(self, feature: str, sequence: int = -1, at: int = -1) -> None:
        name = FeatureName.read(feature)
        if name is None or not isinstance(name.latent, int):
            return
        if at >= 0:
            self.example_wanted.emit(name.site, name.latent, sequence, at)
        else:
            self._session.set_feature((name.site, name.latent), initiator=self)
            self._commands.run("go.features")

    # -- of answers -------------------------------------------------------------------------------

    def follow_reference(self, link: Reference, run: Mapping[str, Any]) -> None:
        """Follow a link of an answer that ``run`` came to."""
        if link.kind == "run":
            kept = run.get("runs")
            found = kept.get(str(link.number)) if isinstance(kept, Mapping) else None
            if isinstance(found, dict):
                self.run_wanted.emit(found)
        elif link.kind in ("graph", "node"):
            self._go_to_graph(link.graph or str(run.get("graph", "")), link.name, run)
        elif link.kind == "example":
            self._look_at(link.name, link.number, link.at)
        elif link.kind == "feature":
            self._look_at(link.name)

    def _go_to_graph(self, key: str, node: str, run: Mapping[str, Any]) -> None:
        session, workspace = self._session, self._session.workspace
        if key == graph_key(session) and session.graph is not None:
            if node:
                there = (node,) if session.graph.has(node) else ()
                self._select(there, node, "Ask again: the graph is another one now")
            else:
                self._commands.run("go.graph")
        elif workspace is not None and any(one.key == key for one in workspace.graphs):
            self._awaited = (key, node)
            self.graph_wanted.emit(key)
        else:
            traced = run.get("traced")
            prompt = str(traced.get(key, "")) if isinstance(traced, Mapping) else ""
            why = f"it was traced for the answer alone, from “{prompt}”" if prompt else ""
            self.message.emit(
                Message("info", f"The graph {key} is not in the workspace", why,
                        "Trace its prompt to see it")
            )  # fmt: skip

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        session = self._session
        if part is not SessionPart.PRUNED or self._awaited is None or session.graph is None:
            return
        (key, node), self._awaited = self._awaited, None
        if key == session.graph_key and node and session.graph.has(node):
            session.set_selection(node)


def _place(example: str) -> tuple[int, int]:
    """Row and position of ``12:33``; -1 for what is none."""
    row, _, at = example.partition(":")
    if row.isdecimal() and at.isdecimal() and len(row) < 10 and len(at) < 10:
        return int(row), int(at)
    return -1, -1
