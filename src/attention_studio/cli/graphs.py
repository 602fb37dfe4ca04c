"""Headless commands about stored graphs: trace one again, follow its paths, tell how two differ."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    not_negative,
    open_crm,
    positive,
)
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.difference_records import GraphDifference
    from attention_studio.core.graph_comparison import EdgeChange, GraphComparison
    from attention_studio.core.path_search import Path as GraphPath

_GRAPH = "a graph (.safetensors, or another tool's .json)"


def rerun(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Trace a stored graph's prompt again and report which edges moved."""
    from attention_studio.core.graph_rerun import rerun_graph
    from attention_studio.core.interchange.opening import open_graph_file

    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.suffix not in (".json", ".safetensors"):
        raise UsageError(
            f"A graph cannot be written to {out.name}", "", "end it in .json or .safetensors"
        )
    stored = open_graph_file(Path(arguments.graph))
    loaded = load_model(arguments, settings, ctx)
    replacement = open_crm(arguments, loaded, ctx)
    found = rerun_graph(stored.graph, replacement, arguments.other_model, arguments.tolerance, ctx)
    if out is not None:
        found.graph.save(out)
    data = {
        **found.comparison.to_json(),
        "prompt": stored.graph.prompt,
        "seconds": found.graph.seconds,
        "notes": list(stored.notes),
        "out": None if out is None else str(out),
    }
    lines = [
        f"{stored.graph.prompt!r}, traced again in {found.graph.seconds:.1f} s",
        *(f"  {note}" for note in stored.notes),
        *_lines(found.comparison, arguments.top_k),
    ]
    if out is not None:
        lines.append(f"Saved in {out}")
    return Report(data, lines)


def compare(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Tell how two graphs of one prompt differ, edge by edge."""
    from attention_studio.core.graph_comparison import compare_graphs
    from attention_studio.core.interchange.opening import open_graph_file

    del settings  # no model is loaded
    before, after = (open_graph_file(Path(path)) for path in (arguments.before, arguments.after))
    found = compare_graphs(before.graph, after.graph, arguments.tolerance, ctx=ctx)
    notes = [
        f"{path}: {note}"
        for path, opened in ((arguments.before, before), (arguments.after, after))
        for note in opened.notes
    ]
    return Report({**found.to_json(), "notes": notes}, [*notes, *_lines(found, arguments.top_k)])


def diff(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Put two graphs side by side that need not be of one prompt, model or dictionary."""
    from attention_studio.core.graph_difference import difference_of
    from attention_studio.core.graph_facts import facts
    from attention_studio.core.interchange.opening import open_graph_file
    from attention_studio.core.position_map import PositionMap

    del settings  # no model is loaded
    opened = [open_graph_file(Path(path)) for path in (arguments.first, arguments.second)]
    first, second = (one.graph for one in opened)
    positions = PositionMap.by_rule(arguments.align, first.tokens, second.tokens)
    thresholds = (arguments.node_threshold, arguments.edge_threshold)
    found = difference_of(first, second, positions, thresholds, ctx=ctx)
    notes = [
        f"{path}: {note}"
        for path, one in zip((arguments.first, arguments.second), opened, strict=True)
        for note in one.notes
    ]
    data = {
        **found.to_json(first, second, arguments.top_k),
        "facts": [[fact.name, fact.first, fact.second] for fact in facts(first, second)],
        "notes": notes,
    }
    return Report(data, [*notes, *_difference_lines(found, first, second, arguments.top_k)])


def paths(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """List the strongest paths of a graph between nodes, and the influence that they carry."""
    from attention_studio.core.attribution_graph import NodeKind
    from attention_studio.core.interchange.opening import open_graph_file

    del settings  # no model is loaded
    opened = open_graph_file(Path(arguments.graph))
    graph = opened.graph
    if arguments.source:
        sources = [graph.find(name) for name in arguments.source]
    else:
        sources = (graph.nodes.kind == NodeKind.EMBEDDING).nonzero()[0].tolist()
    target = graph.find(arguments.into) if arguments.into else int(graph.start.argmax())
    thresholds = (arguments.node_threshold, arguments.edge_threshold)
    among = graph.prune(*thresholds) if arguments.pruned else None
    found = graph.strongest_paths(sources, target, arguments.top_k, among, ctx)
    data = {
        "prompt": graph.prompt,
        "sources": arguments.source or "tokens",
        "target": graph.node_name(target),
        "influence": found.influence,
        "net": found.net,
        "covered": found.covered,
        "n_paths": found.n_paths if math.isfinite(found.n_paths) else None,
        "paths": [_path_data(graph, path) for path in found.paths],
        "notes": list(opened.notes),
    }
    begin = " or ".join(arguments.source) if arguments.source else "any token"
    lines = [*opened.notes, f"{graph.prompt!r}: from {begin} to {graph.label(target)}"]
    if found.paths:
        lines.append(
            f"  influence {100 * found.influence:.2f}% over {found.n_paths:.4g} paths; the "
            f"strongest {len(found.paths)} carry {100 * found.covered:.1f}% of it"
        )
    else:
        lines.append("  No path leads from there to it.")
    for path in found.paths:
        way = " -> ".join(graph.node_name(node) for node in path.nodes)
        lines.append(f"  {path.sign * 100 * path.strength:+8.4f}%  {way}")
    return Report(data, lines)


def add_diff_words(sub: argparse.ArgumentParser) -> None:
    """The words of ``diff``."""
    sub.add_argument("first", help=_GRAPH)
    sub.add_argument("second", help="the one that it is put beside")
    sub.add_argument(
        "--align",
        choices=("tokens", "number", "end"),
        default="tokens",
        help="which positions stand for each other: by their tokens (if left out), by number, or "
        "by number from the end",
    )
    sub.add_argument("--top-k", type=not_negative, default=20, help="nodes that are listed")
    _add_thresholds(sub)


def add_paths_words(sub: argparse.ArgumentParser) -> None:
    """The words of ``paths``."""
    sub.add_argument("graph", help=_GRAPH)
    sub.add_argument(
        "--from", dest="source", nargs="+", default=[], metavar="NODE",
        help="where paths begin, such as P4/token or L2/P3/F7; any token if left out",
    )  # fmt: skip
    sub.add_argument(
        "--into", metavar="NODE", help="where they end; the likeliest output if left out"
    )
    sub.add_argument("--top-k", type=positive, default=10, help="paths that are listed")
    sub.add_argument("--pruned", action="store_true", help="only along edges that pruning keeps")
    _add_thresholds(sub)


def _add_thresholds(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--node-threshold", type=float, default=0.8)
    sub.add_argument("--edge-threshold", type=float, default=0.98)


def _path_data(graph: AttributionGraph, path: GraphPath) -> dict[str, object]:
    return {
        "nodes": [graph.node_name(node) for node in path.nodes],
        "shares": list(path.shares),
        "strength": path.strength,
        "sign": path.sign,
    }


def _difference_lines(
    found: GraphDifference, first: AttributionGraph, second: AttributionGraph, top: int
) -> list[str]:
    from attention_studio.core.difference_records import Presence

    lines = [
        f"  {first.prompt!r} and {second.prompt!r} share {100 * found.overlap:.0f}% of their "
        "influence",
        *(f"  {difference}" for difference in found.differences),
        f"  nodes: {found.count(Presence.BOTH):,} in both, {found.count(Presence.FIRST):,} only in "
        f"the first, {found.count(Presence.SECOND):,} only in the second",
    ]
    nodes = found.nodes
    if len(nodes) and top:
        lines.append("Nodes whose influence differs most:")
    for row in range(min(top, len(nodes))):
        one, two = int(nodes.first[row]), int(nodes.second[row])
        graph, node = (first, one) if two < 0 else (second, two)
        alone = "  (first alone)" if two < 0 else "  (second alone)" if one < 0 else ""
        lines.append(
            f"  {100 * nodes.influence[row, 0]:7.2f}% -> {100 * nodes.influence[row, 1]:7.2f}%  "
            f"{graph.node_name(node)} {graph.label(node)}{alone}"
        )
    return lines


def _lines(found: GraphComparison, top: int) -> list[str]:
    lines = [f"  {difference}" for difference in found.differences]
    lines += [
        f"  nodes: {found.nodes_both:,} in both, {found.nodes_before:,} only before, "
        f"{found.nodes_after:,} only after",
        f"  edges: {found.edges_both:,} in both, {found.edges_before:,} only before, "
        f"{found.edges_after:,} only after",
    ]
    for when, names in (("before", found.features_before), ("after", found.features_after)):
        if names:
            lines.append(f"  features only {when}: {', '.join(names)}")
    for name, before, after in (
        ("replacement", found.scores_before.replacement, found.scores_after.replacement),
        ("completeness", found.scores_before.completeness, found.scores_after.completeness),
    ):
        lines.append(f"  {name} score {before:.4f} before, {after:.4f} after")
    lines.append(
        f"  largest change of an edge {found.largest_change:.3g} (the largest edge is "
        f"{found.largest_edge:.3g}), or {found.largest_share:.1e} of its target's input"
    )
    for edges, words in (
        (found.gone, "Edges that are gone, the strongest"),
        (found.come, "Edges that are new, the strongest"),
        (found.moved, f"Edges that moved by more than {found.tolerance:g} of their target's input"),
    ):
        if edges and top:
            lines.append(f"{words}:")
            lines += [_line(edge) for edge in edges[:top]]
    if found.same:
        lines.append(f"Nothing moved by more than {found.tolerance:g} of a target's input")
    else:
        lines.append(
            f"{found.edges_moved:,} edges moved by more than {found.tolerance:g} of their "
            f"target's input, {found.edges_alone:,} as strong are in one graph alone"
        )
    return lines


def _line(edge: EdgeChange) -> str:
    return (
        f"  {100 * edge.share:6.2f}%  {edge.before:10.4g} -> {edge.after:10.4g}  "
        f"{edge.source} -> {edge.target}"
    )
