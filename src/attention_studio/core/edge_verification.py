"""Edges of a graph, tested in the model itself.

An edge says what a feature adds to what another one, or an output, reads. ``verify_edges`` takes
the feature out of the model (as ``validation`` does, with nothing frozen) and compares the change
of what the target reads with the change that the local linear model predicts; or, for the direct
paths alone, does so with all other modules held at what they gave before. Random directions of the
same norm at the same places say what size of change means nothing.
"""

from __future__ import annotations

import time
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.attribution import Targets
from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, contrasted
from attention_studio.core.edge_checks import EdgeReport, Reach
from attention_studio.core.edge_choice import EdgeChoice, EdgeChoiceError
from attention_studio.core.intervention_edits import EditTable
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.trace_circumstances import dictionaries_of, made_by
from attention_studio.core.validation import (
    Changes,
    ablation,
    check_room,
    measure,
    predict,
    random_directions,
)
from attention_studio.utils.progress import WorkContext

CONTROLS = 3
"""Random directions of each feature."""


def verify_edges(
    replacement: CompleteReplacementModel,
    graph: AttributionGraph,
    choice: EdgeChoice,
    reach: Reach = "total",
    controls: int = CONTROLS,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> EdgeReport:
    """Take the sources of some edges out of the model, one at a time; see what the targets read.

    Costs ``(1 + controls)`` passes over the prompt for each source, many in one batch.

    Raises:
        EdgeChoiceError: there are none, the graph is not of this model and CRM, or a feature of it
            is not active any more.
        InterventionError: memory has no room for what is found.
        Cancelled: ``ctx`` was cancelled.
    """
    ctx, started = ctx or WorkContext(), time.perf_counter()
    check_belongs(replacement, graph)
    if not len(choice):
        raise EdgeChoiceError(
            "There are no edges to verify",
            "edges are verified by taking the feature out that they start at",
            "show or pin more features",
        )
    ctx.progress(0, None, "Running the model")
    local = replacement.localize(graph.token_ids)
    sources, targets = choice.sources, np.unique(choice.target)
    check_room(local, (2 + controls) * len(sources))
    number = _active(local, graph, np.union1d(sources, targets))
    logits = targets[graph.nodes.kind[targets] == NodeKind.LOGIT]
    read = _outputs(local, graph, logits)
    cases = [ablation(local, number[node]) for node in sources.tolist()]
    table = EditTable(local, cases, lambda _prompt: local)
    row = np.searchsorted(sources, choice.source)
    column = np.array(
        [
            number[node]
            if node in number
            else len(local.features) + int(np.searchsorted(logits, node))
            for node in choice.target.tolist()
        ],
        dtype=np.int64,
    )

    def at_edges(changes: Changes) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (
            torch.cat([changes.features, changes.logits], 1).float().cpu().numpy()[row, column]
        )
        return found

    steps, held = 2 + controls, reach == "direct"
    ctx.progress(0, steps, "Predicting")
    predicted = at_edges(predict(local, read, table, features_respond=not held))
    ctx.check()
    ctx.progress(1, steps, f"Taking {len(sources):,} features out of the model")
    measured = at_edges(measure(local, read, table, (), ctx, held))
    generator = torch.Generator().manual_seed(seed)
    untouched = EditTable.empty(local, table.n)
    squares = np.zeros(len(choice), dtype=np.float64)
    for done in range(controls):
        ctx.check()
        ctx.progress(2 + done, steps, "Writing random directions of the same norm")
        noise = random_directions(local, table, generator)
        changed = at_edges(measure(local, read, untouched, noise, ctx, held))
        squares += np.square(changed, dtype=np.float64)
    ctx.progress(steps, steps, "Comparing")
    return EdgeReport(
        prompt=graph.prompt,
        model_hash=graph.model_hash,
        crm_name=graph.crm_name,
        reach=reach,
        seed=seed,
        controls=controls,
        source=tuple(graph.node_name(node) for node in choice.source.tolist()),
        target=tuple(graph.node_name(node) for node in choice.target.tolist()),
        weight=choice.weight,
        predicted=predicted,
        measured=measured,
        control=np.sqrt(squares / max(1, controls)).astype(np.float32),
        n_tokens=choice.n_tokens,
        n_weaker=choice.n_weaker,
        seconds=time.perf_counter() - started,
        crm_fingerprint=dictionaries_of(graph).fingerprint,
    )


def check_belongs(replacement: CompleteReplacementModel, graph: AttributionGraph) -> None:
    """Refuse a graph that is not of this model and CRM.

    Raises:
        EdgeChoiceError: it is of others.
    """
    if not made_by(graph, replacement):
        other = "another " if graph.crm_name == replacement.name else ""
        raise EdgeChoiceError(
            "The graph cannot be tested with what is open",
            f"it was traced on {graph.model_name} with {graph.crm_name}, and "
            f"{replacement.loaded.info.name} with {other}{replacement.name} is open",
            "open what it was traced with, or trace the prompt again",
        )


def _active(local: LocalModel, graph: AttributionGraph, nodes: NDArray[np.int64]) -> dict[int, int]:
    """Of each of some nodes that are features, its number among the active ones."""
    features = local.features
    columns = (features.site, features.position, features.index)
    place = {key: n for n, key in enumerate(zip(*(c.cpu().tolist() for c in columns), strict=True))}
    found = {}
    for node in nodes.tolist():
        site = graph.nodes.site(node)
        if site is None or graph.nodes.kind[node] != NodeKind.FEATURE:
            continue
        key = (site.number, int(graph.nodes.position[node]), int(graph.nodes.index[node]))
        if key not in place:
            raise EdgeChoiceError(
                f"{graph.node_name(node)} is not active now",
                "the graph was traced with other dictionaries or on another machine",
                "trace the prompt again",
            )
        found[node] = place[key]
    return found


def _outputs(local: LocalModel, graph: AttributionGraph, nodes: NDArray[np.int64]) -> Targets:
    """The directions that a graph's outputs read."""
    rows: list[Tensor] = []
    for index in graph.nodes.index[nodes].tolist():
        pair = contrasted(index)
        directions, _ = local.logit_directions([index] if pair is None else pair)
        rows.append(directions[0] if pair is None else directions[0] - directions[1])
    none = local.on.new_zeros(0, local.adapter.d_model)
    positions = torch.from_numpy(graph.nodes.position[nodes].astype(np.int64))
    return Targets(
        directions=torch.stack(rows) if rows else none,
        direction_bias=local.on.new_zeros(len(rows)),
        positions=positions.to(local.on.device),
        features=torch.zeros(0, dtype=torch.long, device=local.on.device),
    )
