"""A pruned graph for other programs: GraphML (Gephi, yEd, Cytoscape, networkx) and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import Any, Optional

import networkx as nx

from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
from attention_studio.utils.files import atomic_write

NODE_COLUMNS = (
    "name", "kind", "module", "layer", "position", "index", "activation", "influence", "label",
)  # fmt: skip
EDGE_COLUMNS = ("source", "target", "weight", "share")
# What XML 1.0 has no way to write, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def save_graphml(graph: AttributionGraph, path: Path, pruned: Optional[PrunedGraph] = None) -> None:
    """Write the (by default pruned) graph as GraphML: the nodes and edges of ``to_networkx``.

    Characters that XML cannot hold become U+FFFD; what is not known (NaN) is left out.

    Raises:
        FileWriteError: it cannot be written.
    """
    found = graph.to_networkx(pruned)
    clean = nx.DiGraph(**_clean(found.graph))
    clean.add_nodes_from((name, _clean(facts)) for name, facts in found.nodes(data=True))
    clean.add_edges_from((a, b, _clean(facts)) for a, b, facts in found.edges(data=True))
    with atomic_write(path) as temporary:
        nx.write_graphml(clean, temporary, named_key_ids=True)


def save_csv(
    graph: AttributionGraph,
    nodes_path: Path,
    edges_path: Path,
    pruned: Optional[PrunedGraph] = None,
) -> None:
    """Write the (by default pruned) graph's nodes and edges as two tables, UTF-8, with a header.

    What is not known (NaN) is left empty.

    Raises:
        FileWriteError: one cannot be written.
    """
    found = graph.to_networkx(pruned)
    nodes = [{"name": name, **facts} for name, facts in found.nodes(data=True)]
    edges = [{"source": a, "target": b, **facts} for a, b, facts in found.edges(data=True)]
    _write_table(nodes_path, NODE_COLUMNS, nodes)
    _write_table(edges_path, EDGE_COLUMNS, edges)


def csv_paths(path: Path) -> tuple[Path, Path]:
    """Where the tables of nodes and edges go for a name like ``graph.csv``."""
    return path.with_suffix(".nodes.csv"), path.with_suffix(".edges.csv")


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "replace"))


def _clean(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value
        for key, value in facts.items()
        if not _is_unknown(value)
    }


def _cell(value: Any) -> Any:
    """What stands in a table: U+2400 for a NUL, which Python 3.10 cannot write into one."""
    if isinstance(value, str):
        return value.replace("\0", "\N{SYMBOL FOR NULL}")
    return "" if _is_unknown(value) else value


def _is_unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
