"""Headless commands that look inside a model: features and graphs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    open_crm,
    token_words,
)
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph


def features(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """The strongest features of a prompt, per position and overall."""
    from attention_studio.core.feature_extractor import FeatureExtractor

    loaded = load_model(arguments, settings, ctx)
    extractor = FeatureExtractor(open_crm(arguments, loaded, ctx))
    report = extractor.extract_features(arguments.prompt, arguments.top_k, ctx)
    data = {
        "prompt": report.prompt,
        "tokens": list(report.tokens),
        "n_active": report.n_active,
        "seconds": round(report.seconds, 3),
        "overall": [asdict(record) for record in report.overall],
        "by_position": [[asdict(record) for record in records] for records in report.by_position],
    }
    lines = [
        f"{report.n_active:,} active features on {len(report.tokens)} tokens "
        f"({report.seconds:.2f} s). The strongest:",
        f"  {'feature':>14}  {'at':<16} {'activation':>10}  promotes",
    ]
    for record in report.overall:
        token = f"{record.position} {report.tokens[record.position]!r}"
        promotes = ", ".join(repr(word) for word, _ in record.promoted[:5])
        name = f"{record.site.label} #{record.index}"
        lines.append(f"  {name:>14}  {token:<16} {record.activation:10.3f}  {promotes}")
    return Report(data, lines)


def attribute(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Trace a prompt to an attribution graph."""
    from attention_studio.core.graph_builder import GraphBuilder, GraphSettings

    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.suffix not in (".json", ".safetensors"):
        raise UsageError(
            f"A graph cannot be written to {out.name}", "", "end it in .json or .safetensors"
        )
    loaded = load_model(arguments, settings, ctx)
    builder = GraphBuilder(open_crm(arguments, loaded, ctx))
    wanted = GraphSettings(
        max_logits=arguments.max_logits,
        logit_mass=arguments.logit_mass,
        max_features=arguments.max_features,
        influence=arguments.influence,
        precision=arguments.precision,
        max_gigabytes=arguments.max_gigabytes,
        tokens=tuple(map(token_words, arguments.token)),
        contrast=tuple(map(token_words, arguments.contrast)),
        features=tuple(arguments.target_feature),
        positions=tuple(arguments.position),
    )
    if arguments.estimate:
        told = builder.estimate(arguments.prompt, wanted, ctx)
        return Report(asdict(told), [f"At most {told}"])
    graph = builder.build(arguments.prompt, wanted, ctx)
    pruned = graph.prune(arguments.node_threshold, arguments.edge_threshold)
    if out is not None:
        graph.save(out, pruned)
    data = {
        **graph.summary(),
        "peak_mb": _peak_megabytes(),
        "n_nodes_pruned": len(pruned.node_ids),
        "n_edges_pruned": len(pruned.edge_weight),
        "out": None if out is None else str(out),
    }
    scores = graph.scores
    outputs = ", ".join(_output_words(graph, int(node)) for node in np.flatnonzero(graph.start))
    untraced = data["n_features_untraced"]
    traced = f" ({graph.n_features - untraced:,} traced)" if untraced else ""
    lines = [
        f"{graph.prompt!r} -> {outputs}",
        f"  {data['n_tokens']} tokens, {graph.n_features:,} active features{traced}, "
        f"{data['n_nodes']:,} nodes, {data['n_edges']:,} edges in {graph.seconds:.1f} s",
        f"  pruned to {len(pruned.node_ids)} nodes and {len(pruned.edge_weight)} edges",
        f"  replacement score {scores.replacement:.3f}, completeness {scores.completeness:.3f}, "
        f"largest identity error {scores.max_identity_error:.1e}",
    ]
    if out is not None:
        lines.append(f"Saved in {out}")
    return Report(data, lines)


def _output_words(graph: AttributionGraph, node: int) -> str:
    """What a graph explains, in words."""
    text = graph.node_tokens.get(node)
    if text is None:
        return graph.node_name(node)
    chance = float(graph.nodes.probability[node])
    return f"{text!r} {100 * chance:.1f}%" if chance else text


def _peak_megabytes() -> Optional[float]:
    """The most memory that this process held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
