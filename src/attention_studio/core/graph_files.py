"""Attribution graphs on disk.

``.safetensors`` holds everything, exactly, and opens again. ``.json`` holds the pruned graph as
Neuronpedia reads it; ``interchange`` has further formats, and reads them.
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
    GraphNodes,
    NodeKind,
    PrunedGraph,
)
from attention_studio.core.graph_edges import EdgeLayout, GraphEdges
from attention_studio.core.graph_settings import GraphError, GraphSettings
from attention_studio.core.interchange.graph_writing import save_graph_json
from attention_studio.core.interchange.node_facts import MAX_LAYERS
from attention_studio.core.trace_circumstances import read_circumstances
from attention_studio.core.validation_report import ValidationFormatError, ValidationReport
from attention_studio.utils.files import atomic_write

FORMAT = "attention-studio-graph"
FORMAT_VERSION = 3
"""Since 2 nodes say whether they belong to an MLP or an attention; in a file of version 1 all
features and errors are those of MLPs, and it is read as such. Since 3 edges are stored in blocks;
before they were one matrix ``weights`` with its ``targets``."""
MAX_GRAPH_BYTES = 16 << 30

_NODE_COLUMNS = {
    "kind": np.int8,
    "site_kind": np.int8,
    "layer": np.int16,
    "position": np.int32,
    "index": np.int64,
    "activation": np.float32,
    "probability": np.float32,
}
_LAYOUT = tuple(f.name for f in fields(EdgeLayout))


def save_graph(graph: AttributionGraph, path: Path, pruned: Optional[PrunedGraph] = None) -> None:
    """Write a graph; the suffix decides the format.

    Raises:
        GraphError: the suffix is neither ``.safetensors`` nor ``.json``.
        FileWriteError: the file cannot be written.
    """
    if path.suffix == ".json":
        part = graph.prune() if pruned is None else pruned
        save_graph_json(graph, part, path)
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
    for name in ("biases", "values"):
        arrays[name] = getattr(graph, name)
    for name in _LAYOUT:
        arrays[f"edges.{name}"] = getattr(graph.edges.layout, name)
    arrays["edges.data"] = graph.edges.data
    if graph.output_weights is not None:
        arrays["output_weights"] = graph.output_weights
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
        "validation": None if graph.validation is None else graph.validation.to_json(),
        "made_with": dict(graph.made_with),
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
        version, about = _read_about(path)
        arrays = load_file(path)
        if version == 1:
            arrays["nodes.site_kind"] = _as_mlps(arrays["nodes.kind"])
        nodes = GraphNodes(**{name: arrays[f"nodes.{name}"] for name in _NODE_COLUMNS})
        if version < 3:
            edges, order = _from_matrix(arrays, nodes, path)
            for name in ("biases", "values"):
                arrays[name] = arrays[name][order]
        else:
            layout = EdgeLayout(**{name: arrays[f"edges.{name}"] for name in _LAYOUT})
            _check_layout(layout, arrays["edges.data"], len(nodes), path)
            edges = GraphEdges(layout, arrays["edges.data"])
        validation = about.get("validation")
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
            edges=edges,
            biases=arrays["biases"],
            values=arrays["values"],
            settings=GraphSettings(**about["settings"]),
            seconds=float(about["seconds"]),
            captions={int(k): str(v) for k, v in about["captions"].items()},
            output_weights=arrays.get("output_weights"),
            validation=None if validation is None else ValidationReport.from_json(validation),
            made_with=read_circumstances(about.get("made_with", {})),
        )
    except (SafetensorError, OSError, ValidationFormatError) as e:
        raise _damaged(path, str(e)) from e
    except KeyError as e:
        raise _damaged(path, f"{e.args[0]} is missing") from e
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
        raise _damaged(path, f"its description is not what it should be ({e})") from e
    _check(graph, path)
    return graph


def _as_mlps(kind: NDArray[np.int8]) -> NDArray[np.int8]:
    """``GraphNodes.site_kind`` of a graph that knows MLPs alone."""
    of_module = np.isin(kind, [int(NodeKind.FEATURE), int(NodeKind.ERROR)])
    return np.where(of_module, 1, -1).astype(np.int8)


def _read_about(path: Path) -> tuple[int, dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
    if header.get("format") != FORMAT:
        raise _damaged(path, "it holds something other than a graph")
    version = header.get("version", "(none)")
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise GraphError(
            f"{path.name} cannot be opened",
            f"it has format version {version}, this studio reads 1 to {FORMAT_VERSION}",
            "open it with the version that wrote it",
        )
    about = json.loads(header["graph"])
    if not isinstance(about, dict):
        raise _damaged(path, "its description is not an object")
    return int(version), about


def _from_matrix(
    arrays: dict[str, NDArray[Any]], nodes: GraphNodes, path: Path
) -> tuple[GraphEdges, NDArray[np.int64]]:
    """Edges of the matrix ``weights``, and the order that its rows are put in."""
    weights, targets = arrays["weights"], arrays["targets"]
    if weights.ndim != 2:
        raise _damaged(path, "weights is no matrix")
    n_targets, n_sources = weights.shape
    if targets.shape != (n_targets,) or targets.dtype != np.int64 or n_sources > len(nodes):
        raise _damaged(path, "targets does not fit the rest")
    if not ((targets >= 0) & (targets < len(nodes))).all():
        raise _damaged(path, "targets does not fit the rest")
    return GraphEdges.from_matrix(weights, targets, nodes.depth)


def _check_layout(layout: EdgeLayout, data: NDArray[Any], n_nodes: int, path: Path) -> None:
    """Refuse edges whose parts do not fit together."""
    arrays = {name: getattr(layout, name) for name in _LAYOUT}

    def bounds(name: str, last: int) -> bool:
        values = arrays[name]
        return bool(
            len(values) and values[0] == 0 and values[-1] == last and (np.diff(values) >= 0).all()
        )

    n_sources, ranges = len(layout.order), layout.ranges
    whole = all(array.dtype == np.int64 for array in arrays.values())
    flat = all(array.ndim == 1 + (name == "ranges") for name, array in arrays.items())
    checks = {
        "edges": whole and flat and ranges.shape[-1] == 2 and data.ndim == 1,
        "order": n_sources <= n_nodes
        and np.array_equal(np.sort(layout.order), np.arange(n_sources)),
        "targets": bool(((layout.targets >= 0) & (layout.targets < n_nodes)).all())
        and len(np.unique(layout.targets)) == len(layout.targets),
        "row_bounds": bounds("row_bounds", len(layout.targets))
        and bool((np.diff(layout.row_bounds) > 0).all()),
        "range_bounds": bounds("range_bounds", len(ranges))
        and len(layout.range_bounds) == len(layout.row_bounds),
        "ranges": bool(
            (ranges >= 0).all() and (ranges <= n_sources).all() and (np.diff(ranges) >= 0).all()
        ),
    }
    for name, fits in checks.items():
        if not fits:
            raise _damaged(path, f"{name} does not fit the rest")
    # Counted in floats, which do not overflow: a block is no larger than what is stored of it.
    size = float(np.diff(layout.row_bounds).astype(np.float64) @ layout.widths.astype(np.float64))
    if data.dtype != np.float32 or size != len(data):
        raise _damaged(path, "weights does not fit the rest")


def _check(graph: AttributionGraph, path: Path) -> None:
    """Refuse arrays that do not fit together, before anything indexes with them."""
    n, n_targets = len(graph.nodes), len(graph.targets)
    of_module = np.isin(graph.nodes.kind, [int(NodeKind.FEATURE), int(NodeKind.ERROR)])
    outputs = graph.output_weights
    checks = {
        "nodes": all(
            getattr(graph.nodes, name).shape == (n,) and getattr(graph.nodes, name).dtype == dtype
            for name, dtype in _NODE_COLUMNS.items()
        ),
        "biases": graph.biases.shape == (n_targets,),
        "values": graph.values.shape == (n_targets,),
        "weights (not finite)": bool(np.isfinite(graph.edges.data).all()),
        "output_weights": outputs is None or (outputs.shape == (n,) and _weighs(outputs)),
        "probability": _weighs(graph.nodes.probability),
        "n_layers": 1 <= graph.n_layers <= MAX_LAYERS,
        "layer": bool(((graph.nodes.layer >= -1) & (graph.nodes.layer <= graph.n_layers)).all()),
        "tokens": len(graph.tokens) == len(graph.token_ids),
        "positions": bool(
            ((graph.nodes.position >= 0) & (graph.nodes.position < len(graph.tokens))).all()
        ),
        "kind": bool(np.isin(graph.nodes.kind, [int(kind) for kind in NodeKind]).all()),
        "site_kind": graph.nodes.site_kind.shape == of_module.shape
        and bool(np.isin(graph.nodes.site_kind, (-1, 0, 1)).all())
        and bool((of_module == (graph.nodes.site_kind >= 0)).all()),
    }
    for name, fits in checks.items():
        if not fits:
            raise _damaged(path, f"{name} does not fit the rest")


def _weighs(values: NDArray[Any]) -> bool:
    """Whether these are numbers that say how much something weighs."""
    return bool((np.isfinite(values) & (values >= 0)).all())


def _damaged(path: Path, why: str) -> GraphError:
    return GraphError(f"{path.name} cannot be opened as a graph", why, "trace the prompt again")
