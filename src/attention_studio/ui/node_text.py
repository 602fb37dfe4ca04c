"""What nodes of a graph that is open are called in lists and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attention_studio.ui.text import visible_token

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_notes import GraphNotes

# As ``core.attribution_graph.NodeKind`` has them; that module brings networkx.
_FEATURE, _ERROR, _EMBEDDING = range(3)


def short_title(graph: AttributionGraph, node: int, notes: GraphNotes) -> str:
    """A node in as few words as tell it: its label, ``L12 #1043``, ``“Dallas”``."""
    name = graph.node_name(node)
    label = notes.label_of(name)
    if label:
        return label
    kind, site = int(graph.nodes.kind[node]), graph.nodes.site(node)
    if site is not None and kind == _FEATURE:
        return f"{site.label} #{int(graph.nodes.index[node])}"
    if site is not None:
        return f"{site.label} not explained"
    return f"“{visible_token(graph.node_tokens.get(node, '?'), spaces=False)}”"


def title(graph: AttributionGraph, node: int, notes: GraphNotes) -> str:
    """A node with what it is: a feature with the tokens that it promotes, ``Token “Dallas”``."""
    short = short_title(graph, node, notes)
    kind = int(graph.nodes.kind[node])
    if kind == _FEATURE:
        words = graph.captions.get(node, "")
        return f"{short}  {visible_token(words, spaces=False)}" if words.strip() else short
    if kind == _ERROR:
        return short
    return f"Token {short}" if kind == _EMBEDDING else f"Output {short}"


def place(graph: AttributionGraph, node: int) -> str:
    """The token at which a node stands."""
    return visible_token(graph.tokens[int(graph.nodes.position[node])], spaces=False)
