"""A folder that circuit-tracer's server shows: graphs, their index, and pages about features.

The server gives out files of one folder. Its page asks for ``graph-metadata.json``, then for
``SLUG.json``, and for a feature at ``SCAN/NUMBER.json`` where the graph's ``scan`` begins with
``./``; so ``scan`` names the folder of feature files as the page sees it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
from attention_studio.core.feature_store import FeatureStore
from attention_studio.core.interchange.feature_export import features_of, write_feature_files
from attention_studio.core.interchange.graph_writing import GraphLabels, GraphView, graph_json
from attention_studio.core.interchange.json_writing import write_ascii_json
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, read_json
from attention_studio.utils.progress import WorkContext

INDEX = "graph-metadata.json"
_MAX_INDEX_BYTES = 64 << 20


class ViewerFolderError(StudioError):
    """A graph cannot be put into a folder for circuit-tracer's server."""


def write_viewer_folder(
    folder: Path,
    graph: AttributionGraph,
    pruned: PrunedGraph,
    slug: str,
    store: Optional[FeatureStore] = None,
    view: Optional[GraphView] = None,
    labels: Optional[GraphLabels] = None,
    ctx: Optional[WorkContext] = None,
) -> Path:
    """Put a graph into a folder, beside those that are there; one with the same slug is replaced.

    Args:
        folder: what ``circuit_tracer.frontend.local_server.serve`` is given.
        graph, pruned: what is shown.
        slug: the graph's name there: letters, digits, ``.``, ``_`` and ``-``.
        store: has pages about features; those of the graph's go along.
        view: what was pinned and grouped.
        labels: further names; slug and, with ``store``, scan are set here.

    Returns:
        The graph's file.

    Raises:
        ViewerFolderError: the slug cannot be used, or the folder's index is damaged.
        FeatureStoreError: the store is damaged.
        FileWriteError: a file cannot be written.
        Cancelled: through ``ctx``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", slug) or f"{slug}.json" == INDEX:
        raise ViewerFolderError(
            f"{slug!r} cannot be the name of a graph there",
            "it becomes part of an address: up to 100 letters, digits, dots, _ and -",
            "choose another name",
        )
    index = _read_index(folder / INDEX)
    labels = replace(labels or GraphLabels(), slug=slug)
    if store is not None:
        labels = replace(labels, scan=f"./data/features/{slug}")
    made = graph_json(graph, pruned, "circuit-tracer", labels, view)
    if store is not None:
        sites = made["metadata"]["attention_studio"].get("layers") == "sites"
        shown = features_of(graph, pruned)
        write_feature_files(store, folder / "features" / slug, shown, sites, ctx)
    path = folder / f"{slug}.json"
    write_ascii_json(path, made)
    graphs = [entry for entry in index["graphs"] if entry.get("slug") != slug]
    write_ascii_json(folder / INDEX, {**index, "graphs": [*graphs, made["metadata"]]})
    return path


def _read_index(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"graphs": []}
    try:
        found = read_json(path, _MAX_INDEX_BYTES)
    except FileReadError as error:
        raise ViewerFolderError(error.what, error.why, error.todo) from error
    graphs = found.get("graphs") if isinstance(found, dict) else None
    if not isinstance(graphs, list) or not all(isinstance(entry, dict) for entry in graphs):
        raise ViewerFolderError(
            f"{path} is no list of graphs", "", "Restore it, or choose another folder"
        )
    table: dict[str, Any] = found
    return table
