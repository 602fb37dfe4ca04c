"""Changes to the notes of a graph that a model proposes, and the tools that it does so with.

The tools hand proposals to whoever gave them somewhere to put them, and do no more. A ``Toolbox``
holds them only if it was made to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from attention_studio.agents.tools import Tool, ToolArguments, ToolError
from attention_studio.agents.workspace_tools import MAX_NAME, MAX_NODES, GetBench
from attention_studio.core.graph_notes import GraphNotes, feature_of
from attention_studio.utils.progress import WorkContext

ProposalKind = Literal["pin", "group", "label", "remark"]


@dataclass(frozen=True)
class Proposal:
    """A change to the notes of a graph that somebody is asked to allow.

    Attributes:
        kind: what would be done.
        nodes: names of nodes of the graph (of ``label`` and ``remark`` one).
        text: the name, label or remark; plain text.
        why: in the words of whoever proposes it.
    """

    kind: ProposalKind
    nodes: tuple[str, ...]
    text: str = ""
    why: str = ""

    def applied(self, notes: GraphNotes) -> GraphNotes:
        """The notes as they would be.

        Raises:
            NotesError: it cannot be done.
        """
        if self.kind == "pin":
            return notes.with_pinned((*notes.pinned, *self.nodes))
        if self.kind == "group":
            return notes.grouped(self.nodes, self.text)[0]
        if self.kind == "label":
            feature = feature_of(self.nodes[0])
            return notes if feature is None else notes.labelled(feature, self.text)
        return notes.remarked(self.nodes[0], self.text)

    def made_in(self, notes: GraphNotes) -> bool:
        """Whether the notes have it already."""
        if self.kind == "pin":
            return set(self.nodes) <= set(notes.pinned)
        if self.kind == "group":
            mine = (self.text, set(self.nodes))
            return any((one.name, set(one.nodes)) == mine for one in notes.supernodes)
        if self.kind == "label":
            return notes.labels.get(feature_of(self.nodes[0]) or "") == self.text
        return notes.remarks.get(self.nodes[0]) == self.text


@dataclass(frozen=True)
class GraphProposal:
    """A proposal, and the key of the graph that it is for."""

    graph: str
    proposal: Proposal

    @property
    def told(self) -> dict[str, Any]:
        """As plain values."""
        said = dataclasses.asdict(self.proposal)
        return {"graph": self.graph, **said, "nodes": list(self.proposal.nodes)}

    def __str__(self) -> str:
        said = self.proposal
        words = f" “{said.text}”" if said.text else ""
        why = f" ({said.why})" if said.why else ""
        return f"{said.kind} {', '.join(said.nodes)} of {self.graph}{words}{why}"


class ProposeNodes(ToolArguments):
    """Nodes to pin."""

    nodes: list[str] = Field(min_length=1, max_length=MAX_NODES)
    why: str = Field(default="", max_length=500)


class ProposeGroup(ProposeNodes):
    """Nodes that are one thing."""

    name: str = Field(min_length=1, max_length=120)


class ProposeText(ToolArguments):
    """Words about a node."""

    node: str = Field(max_length=MAX_NAME)
    text: str = Field(min_length=1, max_length=500)
    why: str = Field(default="", max_length=500)


def proposing_tools(get: GetBench, propose: Callable[[Proposal], None]) -> tuple[Tool[Any], ...]:
    """Tools that propose changes; ``propose`` gets them, and nothing else happens."""

    def hand_in(kind: ProposalKind, nodes: Sequence[str], text: str, why: str) -> str:
        graph = get().the_graph()
        names = tuple(dict.fromkeys(graph.node_name(graph.find(name)) for name in nodes))
        if kind == "label" and feature_of(names[0]) is None:
            raise ToolError(f"{names[0]} is no feature", "only features have labels")
        # One line: labels and names are shown in lists.
        propose(Proposal(kind, names, " ".join(text.split()), " ".join(why.split())))
        return "Proposed. The person decides."

    def pin(arguments: ProposeNodes, ctx: WorkContext) -> str:
        return hand_in("pin", arguments.nodes, "", arguments.why)

    def group(arguments: ProposeGroup, ctx: WorkContext) -> str:
        return hand_in("group", arguments.nodes, arguments.name, arguments.why)

    def label(arguments: ProposeText, ctx: WorkContext) -> str:
        return hand_in("label", [arguments.node], arguments.text, arguments.why)

    def remark(arguments: ProposeText, ctx: WorkContext) -> str:
        return hand_in("remark", [arguments.node], arguments.text, arguments.why)

    return (
        Tool("propose_pin", "Propose to pin nodes.", ProposeNodes, pin, proposing=True),
        Tool("propose_supernode", "Propose a supernode.", ProposeGroup, group, proposing=True),
        Tool("propose_label", "Propose a label of a feature.", ProposeText, label, proposing=True),
        Tool("propose_remark", "Propose a remark on a node.", ProposeText, remark, proposing=True),
    )
