"""Any graph file as a graph: the studio's own, or another tool's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.interchange.foreign_graph import ForeignGraph, read_foreign_graph


@dataclass(frozen=True)
class OpenedGraph:
    """A graph, and the file's document where another tool's format holds it."""

    graph: AttributionGraph
    foreign: Optional[ForeignGraph] = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file does not tell, in sentences."""
        return () if self.foreign is None else self.foreign.notes


def open_graph_file(path: Path) -> OpenedGraph:
    """Open ``.json`` as other tools write it, and anything else as the studio's own format.

    Raises:
        GraphDocumentError: a ``.json`` that cannot be read, or is no graph.
        GraphError: no such file, or none of the studio's.
    """
    if path.suffix.lower() == ".json":
        foreign = read_foreign_graph(path)
        return OpenedGraph(foreign.graph, foreign)
    return OpenedGraph(AttributionGraph.load(path))
