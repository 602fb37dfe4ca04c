"""What lanes run for interventions and verified edges. Every function gets a context first and
imports the core when it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.edge_checks import EdgeReport, Reach, Scope
    from attention_studio.core.edge_choice import EdgeChoice
    from attention_studio.core.intervention_running import PassCost
    from attention_studio.core.intervention_runs import InterventionPlan, InterventionRun
    from attention_studio.core.intervention_specs import Intervention
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.validation_report import ValidationReport
    from attention_studio.utils.progress import WorkContext


def time_pass(ctx: WorkContext, crm: CompleteReplacementModel, prompt: str) -> PassCost:
    """How long a pass over the prompt takes, so that costs can be said beforehand."""
    from attention_studio.core.intervention_running import time_pass

    ctx.progress(0, None, "Timing a pass")
    return time_pass(crm, prompt, ctx)


@dataclass(frozen=True)
class KeptRun:
    """An intervention that was run, and the record by which it is kept."""

    run: InterventionRun
    record: dict[str, Any]


@dataclass(frozen=True)
class KeptReport:
    """What verifying edges found, and the record by which it is kept."""

    report: EdgeReport
    record: dict[str, Any]


@dataclass(frozen=True)
class KeptValidation:
    """What a validation found, and the record by which it is kept."""

    report: ValidationReport
    record: dict[str, Any]


def run_plan(ctx: WorkContext, crm: CompleteReplacementModel, plan: InterventionPlan) -> KeptRun:
    """Carry out an intervention."""
    from attention_studio.core.intervention_running import run_plan

    run = run_plan(crm, plan, ctx=ctx)
    return KeptRun(run, run.to_json())


def read_run(_ctx: WorkContext, record: dict[str, Any]) -> KeptRun:
    """An intervention from its record."""
    from attention_studio.core.intervention_runs import InterventionRun

    return KeptRun(InterventionRun.from_json(record), record)


def choose_edges(
    ctx: WorkContext,
    graph: AttributionGraph,
    pruned: PrunedGraph,
    scope: Scope,
    nodes: tuple[str, ...],
    max_features: int,
) -> EdgeChoice:
    """The edges that a scope means."""
    from attention_studio.core.edge_choice import choose_edges

    ctx.check()
    return choose_edges(graph, pruned, scope, nodes, max_features)


def verify_edges(
    ctx: WorkContext,
    crm: CompleteReplacementModel,
    graph: AttributionGraph,
    pruned: PrunedGraph,
    scope: Scope,
    nodes: tuple[str, ...],
    max_features: int,
    reach: Reach,
    controls: int,
    seed: int,
) -> KeptReport:
    """Test edges in the model."""
    from attention_studio.core.edge_choice import choose_edges
    from attention_studio.core.edge_verification import verify_edges

    ctx.progress(0, None, "Choosing edges")
    choice = choose_edges(graph, pruned, scope, nodes, max_features)
    report = verify_edges(crm, graph, choice, reach, controls, seed, ctx)
    return KeptReport(report, report.to_json())


def read_report(_ctx: WorkContext, record: dict[str, Any]) -> KeptReport:
    """Verified edges from their record."""
    from attention_studio.core.edge_checks import EdgeReport

    return KeptReport(EdgeReport.from_json(record), record)


def validate_graph(
    ctx: WorkContext,
    crm: CompleteReplacementModel,
    prompt: str,
    samples: int,
    seed: int,
    groups: tuple[Intervention, ...],
) -> KeptValidation:
    """Hold predictions for drawn features and some groups against the model."""
    from attention_studio.core.validation import validate

    report = validate(crm, prompt, samples, seed, ctx, groups)
    return KeptValidation(report, report.to_json())


def read_validation(_ctx: WorkContext, record: dict[str, Any]) -> KeptValidation:
    """A validation from its record."""
    from attention_studio.core.validation_report import ValidationReport

    return KeptValidation(ValidationReport.from_json(record), record)
