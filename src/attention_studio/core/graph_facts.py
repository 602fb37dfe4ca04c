"""What there is to say about two graphs beside their nodes and edges: what each was made of and
with, how large it is, how well it explains. numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_comparison import GraphComparison

_HASH_LETTERS = 16
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Fact:
    """One thing that is known of two graphs.

    ``first``, ``second``: as words; "" where one has nothing to say about it.
    """

    name: str
    first: str
    second: str

    @property
    def same(self) -> bool:
        """Whether it is the same for both."""
        return self.first == self.second


def facts(
    first: AttributionGraph,
    second: AttributionGraph,
    comparison: Optional[GraphComparison] = None,
) -> tuple[Fact, ...]:
    """Two graphs fact by fact, and their edges where they were compared one by one."""
    columns = [_facts(graph) for graph in (first, second)]
    names = list(dict.fromkeys([*columns[0], *columns[1]]))
    told = [Fact(name, *(column.get(name, NOT_KNOWN) for column in columns)) for name in names]
    if comparison is not None:
        told += [
            Fact("Edges in both", f"{comparison.edges_both:,}", f"{comparison.edges_both:,}"),
            Fact(
                "Edges in this one alone",
                f"{comparison.edges_before:,}",
                f"{comparison.edges_after:,}",
            ),
        ]
    return tuple(told)


def _facts(graph: AttributionGraph) -> dict[str, str]:
    scores = graph.scores
    told = {
        "Prompt": graph.prompt,
        "Model": graph.model_name,
        "Hash of the weights": graph.model_hash[:_HASH_LETTERS] or NOT_KNOWN,
        "Dictionaries": graph.crm_name,
        "Tokens": str(len(graph.tokens)),
        "Active features": f"{graph.n_features:,}",
        "Nodes": f"{len(graph.nodes):,}",
        "Edges": f"{graph.n_edges:,}",
        "Replacement score": f"{scores.replacement:.4f}",
        "Completeness score": f"{scores.completeness:.4f}",
        "Largest identity error": _number(scores.max_identity_error),
    }
    for name, value in asdict(graph.settings).items():
        told[f"Setting {name}"] = _setting(value)
    for name, text in graph.made_with.items():
        known = text[:_HASH_LETTERS] if name == "dictionaries" else text
        told[_MADE_WITH.get(name, name)] = known or NOT_KNOWN
    return told


_MADE_WITH = {
    "dictionaries": "Hash of the dictionaries",
    "dtype": "Number format",
    "device": "Device",
    "threads": "Threads",
    "system": "System",
}


def _number(value: float) -> str:
    return f"{value:.2g}" if value == value else NOT_KNOWN  # NaN: another tool does not tell it


def _setting(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def verdict(comparison: GraphComparison) -> str:
    """In a sentence whether two graphs that should be equal are."""
    share = f"{100 * comparison.tolerance:g}% of its target's input"
    alone = comparison.nodes_before + comparison.nodes_after
    if comparison.same:
        most = comparison.largest_change
        exact = "no edge differs at all" if most == 0 else f"no edge differs by more than {share}"
        return f"The same: {exact}, and both have the same {comparison.nodes_both:,} nodes"
    parts = []
    if alone:
        parts.append(_count(alone, "node is", "nodes are") + " in one of them alone")
    if comparison.edges_moved:
        moved = _count(comparison.edges_moved, "edge differs", "edges differ")
        parts.append(f"{moved} by more than {share}")
    if comparison.edges_alone:
        parts.append(_count(comparison.edges_alone, "edge is", "edges are") + " in one alone")
    return f"Not the same: {', '.join(parts)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
