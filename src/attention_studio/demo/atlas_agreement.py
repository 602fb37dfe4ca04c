"""Global weights against graphs of single prompts, and against what is true of the demo's world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.attribution import Targets, edges_into
from attention_studio.core.global_weights import GlobalWeights, LatentTable
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.demo.text import DemoText
from attention_studio.demo.truth import telling_latents
from attention_studio.utils.progress import WorkContext

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

TOP = 10
"""So many of a feature's strongest inputs are compared."""


@dataclass(frozen=True)
class PromptEffects:
    """What the exact edges of some prompts say of pairs of latents.

    ``effect`` [n, n] from source (column) to target (row): Σ a_j · edge / Σ a_j over the prompts;
    ``times`` [n] positions at which a latent was active.
    """

    effect: NDArray[np.float32]
    times: Ints


@dataclass(frozen=True)
class InputAgreement:
    """How well one ranking of features' inputs foretells another.

    Attributes:
        targets: features that were compared.
        pairs: pairs with an effect in what is foretold.
        correlation: Pearson's, over these pairs.
        rank_correlation: Spearman's, over their sizes, mean over the features.
        overlap: share of the ``TOP`` strongest inputs that are among the ``TOP`` foretold.
    """

    targets: int
    pairs: int
    correlation: float
    rank_correlation: float
    overlap: float


@dataclass(frozen=True)
class StepInputs:
    """Of features that tell an unsaid step's value: their ``TOP`` strongest inputs.

    Attributes:
        features: how many were asked.
        same: share of the inputs that tell the same value.
        other: share that tell another value.
        by_chance: share of all that they could read and that is ever active that tells the same.
    """

    features: int
    same: float
    other: float
    by_chance: float


def prompt_effects(
    replacement: CompleteReplacementModel,
    table: LatentTable,
    prompts: Sequence[str],
    ctx: Optional[WorkContext] = None,
) -> PromptEffects:
    """The exact edges between all features of some prompts, summed up by pair of latents."""
    n = len(table)
    weighted = np.zeros((n, n), dtype=np.float32)
    activation, times = np.zeros(n), np.zeros(n, dtype=np.int64)
    for i, prompt in enumerate(prompts):
        if ctx is not None:
            ctx.check()
            ctx.progress(i, len(prompts), "Tracing prompts")
        local = replacement.localize(replacement.loaded.encode(prompt))
        features = local.features
        every = torch.arange(len(features), device=features.position.device)
        directions, bias = local.logit_directions([0])
        targets = Targets(directions[:0], bias[:0], every[:0], every)
        edges = edges_into(local, targets).weights[:, : len(features)]
        values = features.activation.cpu().numpy()
        number = latents_of(local, table)
        times += np.bincount(number, minlength=n)
        activation += np.bincount(number, values, minlength=n)
        # A latent may be active at several positions: the sums by pair, rows then columns.
        latents, of = np.unique(number, return_inverse=True)
        place = np.zeros((len(latents), len(number)), dtype=np.float32)
        place[of, np.arange(len(number))] = 1.0
        sums = (place * values) @ edges.cpu().numpy() @ place.T
        weighted[np.ix_(latents, latents)] += sums
    effect = weighted / np.maximum(activation, 1e-30)[:, None]
    return PromptEffects(effect.astype(np.float32), times)


def latents_of(local: LocalModel, table: LatentTable) -> Ints:
    """The number of the latent of each active feature."""
    start = np.zeros(2 * local.adapter.n_layers, dtype=np.int64)
    for site, first in zip(table.sites, table.offsets, strict=False):
        start[site.number] = first
    numbers: Ints = (
        start[local.features.site.cpu().numpy()] + local.features.index.cpu().numpy()
    ).astype(np.int64)
    return numbers


def effect_matrix(weights: GlobalWeights, column: str = "effect") -> NDArray[np.float32]:
    """Expected effects of all pairs [n, n] (or the ``virtual`` weights of those that are listed),
    targets in rows."""
    n = len(weights.table)
    matrix = np.zeros((n, n), dtype=np.float32)
    target = np.repeat(np.arange(n), np.diff(weights.bounds))
    pairs = np.arange(weights.n_pairs)
    values = weights.virtual if column == "virtual" else weights.effects(pairs, target)
    matrix[target, weights.source] = values
    return matrix


def agreement(
    foretold: NDArray[np.float32], found: PromptEffects, least_times: int = 5
) -> InputAgreement:
    """How well effects [n, n] foretell those of prompts.

    Targets that were active less often than ``least_times``, or have fewer than ``2 · TOP`` inputs,
    are left out.
    """
    overlaps, ranks, pooled = [], [], []
    for target in np.flatnonzero(found.times >= least_times):
        met = np.flatnonzero(found.effect[target])
        if len(met) < 2 * TOP:
            continue
        true, guess = found.effect[target, met], foretold[target, met]
        strongest = np.argsort(-np.abs(true), kind="stable")[:TOP]
        # The guess is made among all sources, not only among those that these prompts have.
        chosen = np.argsort(-np.abs(foretold[target]), kind="stable")[:TOP]
        overlaps.append(np.isin(met[strongest], chosen).mean())
        ranks.append(np.corrcoef(_ranks(np.abs(true)), _ranks(np.abs(guess)))[0, 1])
        pooled.append(np.stack([true, guess]))
    together = np.concatenate(pooled, 1)
    return InputAgreement(
        targets=len(overlaps),
        pairs=together.shape[1],
        correlation=float(np.corrcoef(together)[0, 1]),
        rank_correlation=float(np.mean(ranks)),
        overlap=float(np.mean(overlaps)),
    )


def telling(
    replacement: CompleteReplacementModel,
    table: LatentTable,
    text: DemoText,
    samples: int = 480,
    ctx: Optional[WorkContext] = None,
) -> dict[str, NDArray[np.bool_]]:
    """The latents [n] that tell each region in two-step facts, where it is not said: active in at
    least half of the samples with it and at most a tenth of the others."""
    values = []
    active = np.zeros((samples, len(table)), dtype=bool)
    for row, sample in enumerate(text.samples("two_step", samples, held_out=False)):
        if ctx is not None:
            ctx.check()
            ctx.progress(row, samples, "Reading two-step facts")
        answer = sample.answers[-1]
        step = next(step for step in answer.steps if step.position is None)
        values.append(step.value)
        ids = replacement.loaded.encode(sample.prompt(answer))
        active[row, latents_of(replacement.localize(ids), table)] = True
    return telling_latents(active, values, np.ones(samples, dtype=bool))


def step_inputs(
    ranking: NDArray[np.float32],
    weights: GlobalWeights,
    told: dict[str, NDArray[np.bool_]],
) -> StepInputs:
    """Whether inputs of features that tell a value tell the same one.

    Asked are telling features above the first layer; their inputs are ranked by ``ranking`` [n, n].
    """
    table = weights.table
    any_value = np.any(list(told.values()), axis=0)
    ever = weights.times > 0
    same, other, chance = [], [], []
    for mask in told.values():
        for target in np.flatnonzero(mask & ever):
            site = table.site_of(int(target))
            if site.layer == 0:
                continue
            strongest = np.argsort(-np.abs(ranking[target]), kind="stable")[:TOP]
            same.append(mask[strongest].mean())
            other.append((any_value & ~mask)[strongest].mean())
            readable = slice(0, table.n_sources(site))
            chance.append(mask[readable][ever[readable]].mean())
    return StepInputs(len(same), *(float(np.mean(share)) for share in (same, other, chance)))


def _ranks(values: NDArray[np.float32]) -> Doubles:
    """Ranks from 0, in order of size; ties in order of place."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
