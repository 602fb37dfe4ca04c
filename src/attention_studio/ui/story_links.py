"""What stories of circuits speak of, in the graph that is open. Knows no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention_studio.agents.circuit_story import Story
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_notes import GraphNotes

_EDGE = " -> "
"""Between both ends of an edge that a story links to."""


def nodes_of(story: Story, reference: str, graph: AttributionGraph) -> tuple[str, ...]:
    """The nodes of the open graph that a link to a node, an edge or a supernode means."""
    found: list[str] = []
    for name in reference.split(_EDGE):
        group = story.supernode(name)
        found += [name] if group is None else group.nodes
    return tuple(node for node in dict.fromkeys(found) if graph.has(node))


def with_supernodes(
    notes: GraphNotes, story: Story, graph: AttributionGraph
) -> tuple[GraphNotes, int]:
    """Notes with a story's supernodes, and how many of them are new.

    Raises:
        NotesError: there are too many.
    """
    count = 0
    for group in story.supernodes:
        nodes = [node for node in group.nodes if graph.has(node)]
        same = notes.supernode_of(nodes[0]) if nodes else None
        if nodes and (same is None or set(same.nodes) != set(nodes)):
            notes, count = notes.grouped(nodes, group.name)[0], count + 1
    return notes, count
