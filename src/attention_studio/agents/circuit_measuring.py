"""Runs the interventions of a story through the real model, beside controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.agents.circuit_story import StoryError, StoryRun, StorySupernode
from attention_studio.agents.story_checks import EvidenceBook
from attention_studio.core.attribution_graph import NodeKind
from attention_studio.core.intervention_specs import Edit, FeatureAt, Freeze
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.intervention_runs import InterventionPlan
    from attention_studio.core.replacement_model import CompleteReplacementModel

_KEPT = 8
"""Features of a run that are kept beside those of the story."""


@dataclass(frozen=True)
class Wanted:
    """An intervention that is to be run: ``subject`` is a supernode's key."""

    subject: str
    action: Literal["ablate", "scale"] = "ablate"
    value: float = 0.0
    proposed_by: str = ""


def measure(
    replacement: CompleteReplacementModel,
    graph: AttributionGraph,
    supernodes: Sequence[StorySupernode],
    answer: str,
    wanted: Sequence[Wanted],
    controls: int = 3,
    seed: int = 0,
    begun: int = 0,
    ctx: Optional[WorkContext] = None,
) -> tuple[StoryRun, ...]:
    """Run interventions, what the graph foretells of them, and controls.

    A control does the same to as many other active features of the same modules and positions (as
    far as there are), drawn anew for each; features of the story's supernodes are not drawn.

    Args:
        answer: the output's node.
        wanted: the interventions.
        controls: draws for each.
        seed: of the draws.
        begun: how many runs the story has already; keys count on from there.

    Raises:
        StoryError: the graph is of another model, prompt or CRM.
        InterventionError: an edit that there is not.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.intervention_running import run_plans
    from attention_studio.core.trace_circumstances import made_by

    if not wanted:
        return ()
    if not made_by(graph, replacement):
        raise StoryError(
            "The graph cannot be tested with what is open",
            f"it was traced on {graph.model_name} with {graph.crm_name}",
            "Open what it was traced with, or trace the prompt again",
        )
    ctx = ctx or WorkContext()
    groups = {one.key: [graph.find(name) for name in one.nodes] for one in supernodes}
    told = sorted({node for group in groups.values() for node in group})
    rng = np.random.default_rng(seed)
    drawn: list[list[list[int]]] = [
        [_others(graph, groups[one.subject], told, rng) for _ in range(controls)] for one in wanted
    ]
    watched = [graph.node_name(node) for node in told]
    token = int(graph.nodes.index[graph.find(answer)])
    free, frozen = Freeze(), Freeze("all")
    plans = [_plan(graph, groups[one.subject], one, free) for one in wanted]
    for one, draws in zip(wanted, drawn, strict=True):
        plans += [_plan(graph, nodes, one, free) for nodes in draws if nodes]
    ctx.progress(0, None, f"Running {len(plans)} interventions")
    runs = run_plans(replacement, plans, [token], watched, _KEPT, ctx)
    foretold = run_plans(
        replacement,
        [_plan(graph, groups[one.subject], one, frozen) for one in wanted],
        [token],
        watched,
        0,
        ctx,
    )
    # Only to read runs: what is foretold is no evidence.
    book = EvidenceBook(graph, supernodes)
    names = [answer, *groups]
    found: list[StoryRun] = []
    place = len(wanted)
    for number, (one, draws) in enumerate(zip(wanted, drawn, strict=True)):
        made = StoryRun(f"R{begun + number + 1}", one.subject, runs[number])
        others = [replace(made, run=runs[place + i]) for i in range(sum(map(bool, draws)))]
        place += len(others)
        objects = [name for name in names if name != one.subject]
        predicted, control = {}, {}
        for name in objects:
            effect = book.effect(replace(made, run=foretold[number]), name)
            if effect is not None:
                predicted[name] = effect.change
            moved = [book.effect(other, name) for other in others]
            squares = [effect.change**2 for effect in moved if effect is not None]
            if squares:
                control[name] = math.sqrt(math.fsum(squares) / len(squares))
        found.append(
            replace(
                made,
                predicted=predicted,
                control=control,
                n_controls=len(others),
                proposed_by=one.proposed_by,
            )
        )
    return tuple(found)


def _plan(
    graph: AttributionGraph, nodes: Sequence[int], wanted: Wanted, freeze: Freeze
) -> InterventionPlan:
    from attention_studio.core.intervention_runs import InterventionPlan

    features = tuple(FeatureAt.parse(graph.node_name(node)) for node in nodes)
    return InterventionPlan(graph.prompt, (Edit(features, wanted.action, wanted.value),), freeze)


def _others(
    graph: AttributionGraph,
    members: Sequence[int],
    told: Sequence[int],
    rng: np.random.Generator,
) -> list[int]:
    """As many other features of the same modules and positions; where a module has no other one
    there, of any module at that position, and else of any."""
    nodes = graph.nodes
    free = nodes.kind == NodeKind.FEATURE
    free[list(told)] = False
    found: list[int] = []
    for node in members:
        position: NDArray[np.bool_] = nodes.position == nodes.position[node]
        module = (nodes.layer == nodes.layer[node]) & (nodes.site_kind == nodes.site_kind[node])
        for near in (position & module, position, np.ones_like(free)):
            choice = np.flatnonzero(free & near)
            if len(choice):
                chosen = int(rng.choice(choice))
                free[chosen] = False
                found.append(chosen)
                break
    return found
