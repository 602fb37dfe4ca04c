"""Attribution graphs on disk.

``.safetensors`` holds everything, exactly, and opens again. ``.json`` holds the pruned graph in the
layout that attribution-graph viewers read (metadata, qParams, nodes, links).
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import attention_studio
from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphError,
    GraphNodes,
    GraphSettings,
    NodeKind,
    PrunedGraph,
)
from attention_studio.utils.files import atomic_write, write_json_atomic

FORMAT = "attention-studio-graph"
FORMAT_VERSION = 1
MAX_GRAPH_BYTES = 16 << 30

_FEATURE_TYPES = {
    NodeKind.FEATURE: "cross layer transcoder",
    NodeKind.ERROR: "mlp reconstruction error",
    NodeKind.EMBEDDING: "embedding",
    NodeKind.LOGIT: "logit",
}
_NODE_COLUMNS = tuple(f.name for f in fields(GraphNodes))


def save_graph(graph: AttributionGraph, path: Path, pruned: Optional[PrunedGraph] = None) -> None:
    """Write a graph; the suffix decides the format.

    Raises:
        GraphError: the suffix is neither ``.safetensors`` nor ``.json``.
        FileWriteError: the file cannot be written.
    """
    if path.suffix == ".json":
        part = graph.prune() if pruned is None else pruned
        write_json_atomic(path, graph_json(graph, part))
    elif path.suffix == ".safetensors":
        _save_whole(graph, path)
    else:
        raise GraphError(
            f"A graph cannot be written to {path.name}",
            f"the ending {path.suffix or '(none)'} says nothing about the format",
            "end the name in .safetensors (everything) or .json (pruned, for viewers)",
        )


def _save_whole(graph: AttributionGraph, path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        f"nodes.{name}": getattr(graph.nodes, name) for name in _NODE_COLUMNS
    }
    for name in ("weights", "targets", "biases", "values"):
        arrays[name] = getattr(graph, name)
    about = {
        "prompt": graph.prompt,
        "tokens": list(graph.tokens),
        "token_ids": list(graph.token_ids),
        "model_name": graph.model_name,
        "model_hash": graph.model_hash,
        "crm_name": graph.crm_name,
        "n_layers": graph.n_layers,
        "node_tokens": {str(node): text for node, text in graph.node_tokens.items()},
        "captions": {str(node): text for node, text in graph.captions.items()},
        "settings": asdict(graph.settings),
        "seconds": graph.seconds,
    }
    header = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "studio": attention_studio.__version__,
        "graph": json.dumps(about),
    }
    with atomic_write(path) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, header)


def load_graph(path: Path) -> AttributionGraph:
    """Read a graph that ``save_graph`` wrote as ``.safetensors``.

    Raises:
        GraphError: the file is missing, too large, damaged or something else.
    """
    if not path.is_file():
        raise GraphError(f"There is no graph at {path}", "", "choose a .safetensors graph file")
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise _damaged(path, f"it is larger than {MAX_GRAPH_BYTES >> 30} GiB")
    try:
        about = _read_about(path)
        arrays = load_file(path)
        nodes = GraphNodes(**{name: arrays[f"nodes.{name}"] for name in _NODE_COLUMNS})
        graph = AttributionGraph(
            prompt=str(about["prompt"]),
            tokens=tuple(map(str, about["tokens"])),
            token_ids=tuple(map(int, about["token_ids"])),
            model_name=str(about["model_name"]),
            model_hash=str(about["model_hash"]),
            crm_name=str(about["crm_name"]),
            n_layers=int(about["n_layers"]),
            nodes=nodes,
            node_tokens={int(k): str(v) for k, v in about["node_tokens"].items()},
            weights=arrays["weights"],
            targets=arrays["targets"],
            biases=arrays["biases"],
            values=arrays["values"],
            settings=GraphSettings(**about["settings"]),
            seconds=float(about["seconds"]),
            captions={int(k): str(v) for k, v in about["captions"].items()},
        )
    except (SafetensorError, OSError) as e:
        raise _damaged(path, str(e)) from e
    except KeyError as e:
        raise _damaged(path, f"{e.args[0]} is missing") from e
    except (TypeError, ValueError, AttributeError) as e:
        raise _damaged(path, f"its description is not what it should be ({e})") from e
    _check(graph, path)
    return graph


def _read_about(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
    if header.get("format") != FORMAT:
        raise _damaged(path, "it holds something other than a graph")
    if header.get("version") != str(FORMAT_VERSION):
        raise GraphError(
            f"{path.name} cannot be opened",
            f"it has format version {header.get('version')}, this studio reads {FORMAT_VERSION}",
            "open it with the version that wrote it",
        )
    about = json.loads(header["graph"])
    if not isinstance(about, dict):
        raise _damaged(path, "its description is not an object")
    return about


def _check(graph: AttributionGraph, path: Path) -> None:
    """Refuse arrays that do not fit together, before anything indexes with them."""
    if graph.weights.ndim != 2:
        raise _damaged(path, "weights is no matrix")
    n, (n_targets, n_sources) = len(graph.nodes), graph.weights.shape
    checks = {
        "nodes": all(len(getattr(graph.nodes, name)) == n for name in _NODE_COLUMNS),
        "weights": graph.weights.dtype == np.float32 and n_sources <= n,
        "targets": graph.targets.shape == (n_targets,)
        and graph.targets.dtype == np.int64
        and bool(((graph.targets >= 0) & (graph.targets < n)).all()),
        "biases": graph.biases.shape == (n_targets,),
        "values": graph.values.shape == (n_targets,),
        "weights (not finite)": bool(np.isfinite(graph.weights).all()),
        "tokens": len(graph.tokens) == len(graph.token_ids),
        "positions": bool(
            ((graph.nodes.position >= 0) & (graph.nodes.position < len(graph.tokens))).all()
        ),
        "kind": bool(np.isin(graph.nodes.kind, [int(kind) for kind in NodeKind]).all()),
    }
    for name, fits in checks.items():
        if not fits:
            raise _damaged(path, f"{name} does not fit the rest")


def _damaged(path: Path, why: str) -> GraphError:
    return GraphError(f"{path.name} cannot be opened as a graph", why, "trace the prompt again")


def graph_json(graph: AttributionGraph, pruned: PrunedGraph) -> dict[str, Any]:
    """The pruned graph in the layout of Neuronpedia's and circuit-tracer's viewers.

    Feature ids are ``layer_latent_position``; a feature is the Cantor pair of layer and latent
    (schema version 1). Beyond what viewers read, ``metadata`` carries ``scores``.
    """
    length = len(graph.tokens)
    ids = {int(node): _viewer_id(graph, int(node)) for node in pruned.node_ids}
    nodes = graph.nodes
    order = np.argsort(-graph.influence, kind="stable")
    total = max(float(graph.influence.sum()), 1e-10)
    cumulative = np.empty(len(nodes))
    cumulative[order] = np.cumsum(graph.influence[order], dtype=np.float64) / total
    scores = graph.scores

    def node_json(node: int) -> dict[str, Any]:
        kind = NodeKind(int(nodes.kind[node]))
        layer, index = int(nodes.layer[node]), int(nodes.index[node])
        return {
            "node_id": ids[node],
            "jsNodeId": ids[node],
            "feature": (layer + index) * (layer + index + 1) // 2 + index
            if kind is NodeKind.FEATURE
            else max(index, 0),
            "layer": "E" if kind is NodeKind.EMBEDDING else str(layer),
            "ctx_idx": int(nodes.position[node]),
            "reverse_ctx_idx": length - 1 - int(nodes.position[node]),
            "feature_type": _FEATURE_TYPES[kind],
            "clerp": graph.label(node),
            "influence": float(cumulative[node]),
            "activation": float(nodes.activation[node]) if kind is NodeKind.FEATURE else None,
            "token_prob": float(nodes.probability[node]),
            "is_target_logit": kind is NodeKind.LOGIT
            and bool(nodes.probability[node] == nodes.probability.max()),
            "run_idx": 0,
        }

    return {
        "metadata": {
            "slug": "graph",
            "scan": graph.crm_name,
            "prompt": graph.prompt,
            "prompt_tokens": list(graph.tokens),
            "node_threshold": pruned.node_threshold,
            "schema_version": 1,
            "info": {
                "creator_name": "AttentionStudio",
                "generator": {"name": "attention-studio", "version": attention_studio.__version__},
            },
            "generation_settings": {
                "max_n_logits": graph.settings.max_logits,
                "desired_logit_prob": graph.settings.logit_mass,
                "batch_size": graph.settings.batch,
                "max_feature_nodes": graph.settings.max_features,
            },
            "pruning_settings": {
                "node_threshold": pruned.node_threshold,
                "edge_threshold": pruned.edge_threshold,
            },
            "model_hash": graph.model_hash,
            "scores": asdict(scores),
        },
        "qParams": {
            "linkType": "both",
            "pinnedIds": [],
            "clickedId": "",
            "supernodes": [],
            "sg_pos": "",
        },
        "nodes": [node_json(int(node)) for node in pruned.node_ids],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for source, target, weight in zip(
                pruned.edge_source.tolist(),
                pruned.edge_target.tolist(),
                pruned.edge_weight.tolist(),
                strict=True,
            )
        ],
    }


def _viewer_id(graph: AttributionGraph, node: int) -> str:
    kind = graph.nodes.kind[node]
    layer, position = int(graph.nodes.layer[node]), int(graph.nodes.position[node])
    index = int(graph.nodes.index[node])
    if kind == NodeKind.FEATURE:
        return f"{layer}_{index}_{position}"
    if kind == NodeKind.ERROR:
        # circuit-tracer writes 0_L_P, which is also the name of feature L of layer 0.
        return f"{layer}_error_{position}"
    if kind == NodeKind.EMBEDDING:
        return f"E_{index}_{position}"
    return f"{layer}_{index}_{position}"
