"""Headless commands that bring dictionaries and graphs in from other tools, and take them there.

What is meant is told by the kind of file: a folder holds dictionaries, a file is a graph.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
)
from attention_studio.utils.config import Settings
from attention_studio.utils.paths import crm_folder

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.interchange.opening import OpenedGraph

CRM_TOOLS = ("circuit-tracer", "saelens", "sparsify", "llamascopium")
GRAPH_TOOLS = ("circuit-tracer", "neuronpedia", "llamascopium", "graphml", "csv")


def import_from(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Make a CRM of another tool's dictionaries, or a graph of its graph file."""
    source = Path(arguments.source)
    if source.is_file():
        return _import_graph(source, Path(arguments.out))
    if arguments.model is None:
        raise UsageError(f"{source} is no file, and dictionaries need --model")
    return _import_crm(source, arguments, settings, ctx)


def export_to(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Write a CRM's dictionaries, or a graph, as another tool reads them."""
    if arguments.graph is not None:
        return _export_graph(arguments, ctx)
    if arguments.crm is None:
        raise UsageError("There is nothing to export", "", "give --crm or --graph")
    if arguments.tool not in CRM_TOOLS:
        raise UsageError(
            f"{arguments.tool} holds graphs, no dictionaries", "", "give --graph, or another --tool"
        )
    return _export_crm(arguments, ctx)


# ---- dictionaries ------------------------------------------------------------------------------


def _import_crm(
    source: Path, arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext
) -> Report:
    from attention_studio.core.dictionaries.foreign.transfer import import_dictionaries

    loaded = load_model(arguments, settings, ctx)
    out = Path(arguments.out)
    manifest = import_dictionaries(source, loaded, out, arguments.normalized, ctx)
    names = list(manifest.dictionaries)
    return Report(
        {"crm": str(out), "model": loaded.info.name, "modules": names},
        [f"{len(names)} dictionaries ({', '.join(names)})", f"Saved in {out}"],
    )


def _export_crm(arguments: argparse.Namespace, ctx: ConsoleContext) -> Report:
    from attention_studio.core.dictionaries.crm_folder import load_manifest
    from attention_studio.core.dictionaries.foreign.transfer import export_dictionaries

    crm, out = crm_folder(arguments.crm), Path(arguments.out)
    sites = None
    if arguments.only:
        sites = [site for site in load_manifest(crm).sites if site.kind == arguments.only]
    folder = export_dictionaries(crm, arguments.tool, out, sites, ctx)
    return Report({"out": str(folder), "tool": arguments.tool}, [f"Saved in {folder}"])


# ---- graphs ------------------------------------------------------------------------------------


def _import_graph(source: Path, out: Path) -> Report:
    from attention_studio.core.interchange.foreign_graph import read_foreign_graph

    if out.suffix != ".safetensors":
        raise UsageError(f"A graph cannot be kept in {out.name}", "", "end it in .safetensors")
    foreign = read_foreign_graph(source)
    foreign.graph.save(out)
    graph = foreign.graph
    data = {
        "out": str(out),
        "dialect": foreign.document.dialect,
        "prompt": graph.prompt,
        "n_nodes": len(graph.nodes),
        "n_edges": graph.n_edges,
        "replacement_score": graph.scores.replacement,
        "completeness_score": graph.scores.completeness,
        "notes": list(foreign.notes),
    }
    lines = [
        f"{graph.prompt!r}: {len(graph.nodes):,} nodes and {graph.n_edges:,} edges, "
        f"as {foreign.document.dialect} writes them",
        *(f"  {note}" for note in foreign.notes),
        f"Saved in {out}",
    ]
    return Report(data, lines)


def _export_graph(arguments: argparse.Namespace, ctx: ConsoleContext) -> Report:
    from attention_studio.core.interchange.opening import open_graph_file

    if arguments.tool not in GRAPH_TOOLS:
        raise UsageError(
            f"{arguments.tool} holds no graphs", "", f"one of {', '.join(GRAPH_TOOLS)}"
        )
    if arguments.dashboards and arguments.tool != "circuit-tracer":
        raise UsageError("Pages about features are circuit-tracer's", "", "leave --dashboards out")
    opened = open_graph_file(Path(arguments.graph))
    if opened.foreign is not None:  # pruned once already
        part = opened.foreign.everything()
    else:
        part = opened.graph.prune(arguments.node_threshold, arguments.edge_threshold)
    written = _written(opened, part, arguments, ctx)
    data = {
        "out": [str(path) for path in written],
        "tool": arguments.tool,
        "n_nodes": len(part.node_ids),
        "n_edges": len(part.edge_weight),
        "notes": list(opened.notes),
    }
    lines = [
        f"{len(part.node_ids):,} nodes and {len(part.edge_weight):,} edges",
        *(f"  {note}" for note in opened.notes),
        f"Saved in {', '.join(map(str, written))}",
    ]
    return Report(data, lines)


def _written(
    opened: OpenedGraph,
    part: PrunedGraph,
    arguments: argparse.Namespace,
    ctx: ConsoleContext,
) -> list[Path]:
    from attention_studio.core.interchange import tables
    from attention_studio.core.interchange.graph_writing import (
        GraphLabels,
        GraphView,
        converted,
        save_graph_json,
    )
    from attention_studio.core.interchange.json_writing import write_ascii_json
    from attention_studio.core.interchange.slugs import slug_of
    from attention_studio.core.interchange.viewer_folder import write_viewer_folder

    graph, out, tool = opened.graph, Path(arguments.out), arguments.tool
    if tool == "graphml":
        tables.save_graphml(graph, out, part)
        return [out]
    if tool == "csv":
        nodes, edges = tables.csv_paths(out)
        tables.save_csv(graph, nodes, edges, part)
        return [nodes, edges]
    slug = arguments.slug or slug_of(graph.prompt)
    if tool == "circuit-tracer" and out.suffix != ".json":
        foreign = opened.foreign
        view = None if foreign is None else GraphView(foreign.pinned, foreign.supernodes)
        labels = GraphLabels(scan=arguments.scan)
        store = _store_of(graph, arguments.dashboards)
        try:
            return [write_viewer_folder(out, graph, part, slug, store, view, labels, ctx)]
        finally:
            if store is not None:
                store.close()
    if arguments.dashboards:
        raise UsageError("Pages about features need a folder", "", "give --out without .json")
    if opened.foreign is not None:
        write_ascii_json(out, converted(opened.foreign, tool))
    else:
        save_graph_json(graph, part, out, tool, GraphLabels(slug=slug, scan=arguments.scan))
    return [out]


def _store_of(graph: AttributionGraph, folder: Optional[str]) -> Optional[FeatureStore]:
    """The dashboards in a folder, if they are of the graph's features as far as both say."""
    if folder is None:
        return None
    from attention_studio.core.feature_store import FeatureStore

    store = FeatureStore.open(Path(folder))
    about = store.about
    if not about.may_be_of(graph):
        store.close()
        raise UsageError(
            f"These dashboards are of {about.crm_name} for {about.model_name}",
            f"the graph is of {graph.crm_name}",
            "give those of the replacement model that it was traced with",
        )
    return store
