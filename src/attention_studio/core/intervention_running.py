"""A planned intervention carried out whole: next tokens, features, and the text from there on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Optional

import torch

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.generation import generate
from attention_studio.core.generation_records import Generation
from attention_studio.core.intervention_outcomes import FeatureEffects, Outcome
from attention_studio.core.intervention_runs import (
    KEPT_FEATURES,
    FeatureChange,
    InterventionPlan,
    InterventionRun,
)
from attention_studio.core.interventions import Interventions
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

_ROWS = 16
_OPERATIONS = 2e10
"""About so many for finding out what a batch costs; longer prompts of larger models get fewer
rows."""


@dataclass(frozen=True)
class PassCost:
    """What passes over a prompt take, measured.

    Attributes:
        n_tokens: of the prompt, the start token included.
        seconds: one pass alone.
        batched: one of many passes in a batch.
    """

    n_tokens: int
    seconds: float
    batched: float


@torch.no_grad()
def time_pass(
    replacement: CompleteReplacementModel, prompt: str, ctx: Optional[WorkContext] = None
) -> PassCost:
    """Measure passes of the model over a prompt.

    Raises:
        EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``.
        Cancelled: ``ctx`` was cancelled.
    """
    ids = replacement.loaded.encode(prompt)
    per_row = 2.0 * replacement.loaded.info.n_parameters * len(ids)
    rows = int(min(_ROWS, max(1.0, _OPERATIONS / per_row)))

    def timed(n: int) -> float:
        if ctx is not None:
            ctx.check()
        batch = torch.tensor([ids] * n, device=replacement.adapter.device)
        started = time.perf_counter()
        # Reading a number waits for the device.
        float(replacement.adapter.final_normed(batch).sum())
        return time.perf_counter() - started

    timed(1)  # the first is slower
    seconds = timed(1)
    return PassCost(len(ids), seconds, seconds if rows == 1 else timed(rows) / rows)


def run_plan(
    replacement: CompleteReplacementModel,
    plan: InterventionPlan,
    top_k: int = 5,
    ctx: Optional[WorkContext] = None,
) -> InterventionRun:
    """Carry out what was planned.

    Raises:
        InterventionError: an edit that there is not, see ``Interventions.run`` and ``generate``.
        EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``.
        Cancelled: ``ctx`` was cancelled.
    """
    ctx, started = ctx or WorkContext(), time.perf_counter()
    bound = Interventions(replacement, plan.prompt, ctx)
    ctx.check()
    (outcome,) = bound.run([plan.intervention], plan.freeze, top_k=top_k, ctx=ctx)
    generation = None
    if plan.n_tokens:
        generation = generate(
            bound, [plan.intervention], plan.n_tokens, plan.freeze, plan.sampling, top_k, ctx
        )
    return _record(bound, plan, outcome, generation, time.perf_counter() - started)


def run_plans(
    replacement: CompleteReplacementModel,
    plans: Sequence[InterventionPlan],
    tokens: Sequence[int] = (),
    watched: Collection[str] = (),
    kept: int = KEPT_FEATURES,
    ctx: Optional[WorkContext] = None,
) -> tuple[InterventionRun, ...]:
    """Carry out plans of one prompt and one freeze together; no text is generated.

    Args:
        tokens: ids of tokens whose logits are reported, beside the likeliest.
        watched: names of features, active on the prompt, that are among ``moved`` whether they
            moved or not; they come first.
        kept: how many others are, those that moved most.

    Raises:
        ValueError: the plans are of several prompts or freezes, or generate text.
        InterventionError, EmptyPromptError, PromptTooLongError, Cancelled: as ``run_plan``.
    """
    if not plans:
        return ()
    first = plans[0]
    if any((p.prompt, p.freeze, p.n_tokens) != (first.prompt, first.freeze, 0) for p in plans):
        raise ValueError("plans that run together share prompt and freeze and generate no text")
    ctx, started = ctx or WorkContext(), time.perf_counter()
    bound = Interventions(replacement, first.prompt, ctx)
    ctx.check()
    cases = [plan.intervention for plan in plans]
    outcomes = bound.run(cases, first.freeze, tokens, newly_active=kept, ctx=ctx)
    seconds = (time.perf_counter() - started) / len(plans)
    return tuple(
        _record(bound, plan, outcome, None, seconds, frozenset(watched), kept)
        for plan, outcome in zip(plans, outcomes, strict=True)
    )


def _record(
    bound: Interventions,
    plan: InterventionPlan,
    outcome: Outcome,
    generation: Optional[Generation],
    seconds: float,
    watched: frozenset[str] = frozenset(),
    kept: int = KEPT_FEATURES,
) -> InterventionRun:
    replacement = bound.replacement
    info, edited = replacement.loaded.info, _changes(outcome.edited, range(len(outcome.edited)))
    named = {change.feature for change in edited}
    strongest = outcome.features.strongest(kept + len(edited) + len(watched)).tolist()
    moved = [c for c in _changes(outcome.features, strongest) if c.feature not in named]
    first: tuple[FeatureChange, ...] = ()
    if watched:
        everything = _changes(outcome.features, range(len(outcome.features)))
        first = tuple(c for c in everything if c.feature in watched and c.feature not in named)
        moved = [change for change in moved if change.feature not in watched]
    return InterventionRun(
        plan=plan,
        model_name=info.name,
        model_hash=info.weights_hash,
        crm_name=replacement.name,
        tokens=tuple(replacement.loaded.token_strings(bound.local.ids)),
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
        next_tokens=outcome.tokens,
        divergence=outcome.divergence,
        edited=edited,
        moved=(*first, *moved[:kept]),
        n_moved=int((outcome.features.change != 0).sum()),
        newly_active=_changes(outcome.newly_active, range(len(outcome.newly_active))),
        generation=generation,
    )


def _changes(effects: FeatureEffects, rows: Iterable[int]) -> tuple[FeatureChange, ...]:
    return tuple(
        FeatureChange(
            str(
                FeatureName(
                    Site.of_number(int(effects.site[i])),
                    int(effects.position[i]),
                    int(effects.index[i]),
                )
            ),
            float(effects.pre_before[i]),
            float(effects.pre_after[i]),
            float(effects.activation_before[i]),
            float(effects.activation_after[i]),
        )
        for i in rows
    )
