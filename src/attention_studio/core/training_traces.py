"""One prompt traced at every checkpoint of a run: how a circuit comes to be.

The graphs lie in the run's folder beside a small table of what each amounts to:

    traces/traces.json                     one row per checkpoint
    traces/step_00000050.safetensors       the graph, whole
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.graph_settings import GraphSettings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json, write_json_atomic
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

TRACE_FOLDER = "traces"
_TABLE = "traces.json"
_MAX_ROWS = 100_000


class TraceTableError(StudioError):
    """What a run has traced cannot be read."""


@dataclass(frozen=True)
class CheckpointTrace:
    """What the graph of a prompt amounts to at a checkpoint.

    Attributes:
        step, tokens: how far the run was: batches, and tokens per module.
        prompt: what was traced.
        graph: name of the graph's file in the folder of traces.
        features, edges: active features, and edges of the whole graph.
        replacement, completeness: the graph's scores, in [0, 1].
        output: the likeliest next token in the graph; it is the model's own, whatever the
            dictionaries are like.
        from_features: share of that token's input that comes from features, in [0, 1].
    """

    step: int
    tokens: int
    prompt: str
    graph: str
    features: int
    edges: int
    replacement: float
    completeness: float
    output: str
    from_features: float


def trace_checkpoint(
    loaded: LoadedModel,
    run: Path,
    prompt: str,
    settings: Optional[GraphSettings] = None,
    ctx: Optional[WorkContext] = None,
) -> CheckpointTrace:
    """Trace a prompt with a run's newest checkpoint, and add the result to the run's table.

    Args:
        loaded: the model.
        run: the run's folder.
        prompt: what is traced.
        settings: of the graph; None: the usual ones.
        ctx: for progress and cancelling.

    Raises:
        SnapshotError, CheckpointError: see ``save_snapshot``.
        GraphError: the prompt cannot be traced.
        FileWriteError: the graph cannot be written.
    """
    from attention_studio.core.attribution_graph import NodeKind
    from attention_studio.core.dictionaries.crm_folder import load_manifest
    from attention_studio.core.graph_builder import GraphBuilder
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.training_snapshot import passing_snapshot

    with passing_snapshot(loaded, run, ctx) as snapshot:
        crm = CompleteReplacementModel.from_folder(loaded, snapshot, ctx)
        graph = GraphBuilder(crm).build(prompt, settings or GraphSettings(), ctx)
        tokens = load_manifest(snapshot).training.tokens_trained
    best = int(graph.start.argmax())
    inputs = graph.inputs(best)
    features = graph.nodes.kind[inputs.nodes] == NodeKind.FEATURE
    step = int(snapshot.name.rpartition("_")[2])
    row = CheckpointTrace(
        step=step,
        tokens=tokens,
        prompt=prompt,
        graph=f"{snapshot.name}.safetensors",
        features=graph.n_features,
        edges=graph.n_edges,
        replacement=float(graph.scores.replacement),
        completeness=float(graph.scores.completeness),
        output=graph.node_tokens.get(best, ""),
        from_features=float(abs(inputs.shares[features]).sum()),
    )
    folder = run / TRACE_FOLDER
    graph.save(folder / row.graph)
    # A prompt traced again at the same step takes the older row's place: there is one graph.
    rows = [old for old in read_traces(run) if old.step != step]
    rows.append(row)
    rows.sort(key=lambda one: one.step)
    write_json_atomic(folder / _TABLE, [asdict(one) for one in rows])
    return row


def read_traces(run: Path) -> tuple[CheckpointTrace, ...]:
    """What has been traced at a run's checkpoints, in order; nothing where there is no table.

    Raises:
        TraceTableError: the table is damaged.
    """
    file = run / TRACE_FOLDER / _TABLE
    if not file.is_file():
        return ()
    try:
        return tuple(_read(row) for row in read_json(file)[:_MAX_ROWS])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise TraceTableError(
            f"What was traced at the checkpoints of {run.name} cannot be read",
            f"{file} is not as a run writes it: {error}",
            "Delete it; the graphs beside it can be opened one by one",
        ) from error


def _read(row: dict[str, Any]) -> CheckpointTrace:
    name = str(row["graph"])
    if not re.fullmatch(r"step_[0-9]{1,12}\.safetensors", name):
        raise ValueError(f"“{name}” is no file of the folder")
    return CheckpointTrace(
        step=int(row["step"]),
        tokens=int(row["tokens"]),
        prompt=str(row["prompt"]),
        graph=name,
        features=int(row["features"]),
        edges=int(row["edges"]),
        replacement=float(row["replacement"]),
        completeness=float(row["completeness"]),
        output=str(row["output"]),
        from_features=float(row["from_features"]),
    )
