"""Whether an attribution graph agrees with what is known of a prompt by construction.

Influence is that of Ameisen et al. 2025 ("Circuit Tracing"), see ``core.graph_pruning``: each
target's inputs are |edges| that sum to one. Effects are signed: what a node adds to the answer
through the local linear model, in logits; over the leaves, tokens and errors, they sum to the
answer's value less what biases add.

This file knows numpy only, so that the scores can be held against closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_edges import EdgeBlock
from attention_studio.core.graph_pruning import input_totals, node_influence

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class AnswerFlow:
    """What reaches an answer: ``influence`` and signed ``effect`` of each source [n_sources]."""

    influence: Doubles
    effect: Doubles


@dataclass(frozen=True)
class MarkScore:
    """How the influence of the tokens fits the marks of an answer.

    Attributes:
        share: of the influence of all tokens, what the marked ones have.
        uniform: what they would have, were it spread evenly.
        auc: how often a marked token has more than an unmarked one, ties half; 0.5 is chance.
        nearness: the same for a guess that knows nothing but that later tokens matter more.
        found: share of the marks among the strongest tokens, as many as there are marks.
        per_mark: mean share of a marked token.
        per_distractor: mean share of a token that must not decide; None: there is none.
    """

    share: float
    uniform: float
    auc: float
    nearness: float
    found: float
    per_mark: float
    per_distractor: Optional[float]


def answer_flow(graph: AttributionGraph, row: NDArray[np.float32]) -> AnswerFlow:
    """What reaches an answer whose edges from all sources are ``row`` [n_sources].

    The row may be that of one logit, or of any combination of logits: edges are linear in what is
    read. What reaches a feature is what ``graph`` has; a feature without a row passes nothing on.
    """
    n_sources = graph.edges.n_sources
    answer = EdgeBlock(np.array([n_sources]), np.arange(n_sources), row.astype(np.float32)[None])
    blocks = [answer, *_of_features(graph)]
    start = np.zeros(n_sources + 1, dtype=np.float32)
    start[-1] = 1.0
    totals = input_totals(blocks, n_sources + 1)
    influence = node_influence(blocks, totals, start)[:n_sources].astype(np.float64)
    effect = row.astype(np.float64)
    for block in _of_features(graph):
        passed = effect[block.targets] / graph.nodes.activation[block.targets]
        effect[block.columns] += passed @ block.weights
    return AnswerFlow(influence, effect)


def _of_features(graph: AttributionGraph) -> list[EdgeBlock]:
    """The edges into features, those of the greatest depth first."""
    feature = graph.nodes.kind == NodeKind.FEATURE
    return [block for block in graph.edges.blocks() if feature[block.targets].all()]


def carried_from(graph: AttributionGraph, flow: AnswerFlow, positions: Sequence[int]) -> Doubles:
    """What each source carries [n_sources] of the tokens at some positions to the answer.

    That is its ``effect`` times the share of what it reads that comes from those tokens, over all
    paths; of one of those tokens itself its whole effect. Signed, in logits.
    """
    tokens = graph.nodes.kind == NodeKind.EMBEDDING
    share = (tokens & np.isin(graph.nodes.position, positions)).astype(np.float64)
    share = share[: graph.edges.n_sources]
    for block in reversed(_of_features(graph)):
        activation = graph.nodes.activation[block.targets]
        share[block.targets] = (block.weights @ share[block.columns]) / activation
    carried: Doubles = flow.effect * share
    return carried


def token_values(graph: AttributionGraph, values: Doubles) -> Doubles:
    """Of values by source [n_sources], those of the tokens [T], by position."""
    tokens = np.flatnonzero(graph.nodes.kind == NodeKind.EMBEDDING)
    by_position = np.zeros(len(graph.tokens))
    by_position[graph.nodes.position[tokens]] = values[tokens]
    return by_position


def area(positive: Doubles, negative: Doubles) -> float:
    """How often one of ``positive`` is above one of ``negative``, ties half (the area under the
    ROC curve, by Mann and Whitney's count). Both have at least one value."""
    gap = positive[:, None] - negative[None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def score_marks(tokens: Doubles, marks: Sequence[int], distractors: Sequence[int]) -> MarkScore:
    """Score what the tokens of a prompt have [T] against an answer's marks (positions).

    The start token at position 0 is no word of the text and left out. Sizes count, not signs.
    """
    sizes = np.abs(tokens[1:])
    shares = sizes / max(float(sizes.sum()), 1e-30)
    marked = np.zeros(len(shares), dtype=bool)
    marked[[mark - 1 for mark in marks]] = True
    place = np.arange(len(shares), dtype=np.float64)
    strongest = np.argsort(-shares, kind="stable")[: int(marked.sum())]
    misled = [shares[position - 1] for position in distractors]
    return MarkScore(
        share=float(shares[marked].sum()),
        uniform=float(marked.mean()),
        auc=area(shares[marked], shares[~marked]),
        nearness=area(place[marked], place[~marked]),
        found=float(marked[strongest].mean()),
        per_mark=float(shares[marked].mean()),
        per_distractor=float(np.mean(misled)) if misled else None,
    )


def chance_of(
    prompts: Sequence[tuple[Doubles, Sequence[int]]], draws: int = 1000, seed: int = 0
) -> float:
    """How probable a mean ``auc`` as good as that of ``prompts`` is by chance.

    ``prompts``: tokens' values [T] and marks of each. Chance is that the same values stood at other
    positions: they are permuted within each prompt, ``draws`` times. The prompts as they are count
    as one draw, so that the least answer is 1 / (draws + 1).
    """
    rng = np.random.default_rng(seed)
    reached = np.mean([score_marks(tokens, marks, ()).auc for tokens, marks in prompts])
    drawn = np.zeros(draws)
    for tokens, marks in prompts:
        sizes = np.abs(tokens[1:])
        ranks = np.array([(sizes < size).sum() + 0.5 * (sizes == size).sum() for size in sizes])
        n = len(marks)
        for draw in range(draws):
            # Mann and Whitney: the count follows from the ranks of the marked ones alone.
            count = rng.permutation(ranks)[:n].sum() - 0.5 * n * n
            drawn[draw] += count / (n * (len(sizes) - n)) / len(prompts)
    return float((1 + (drawn >= reached - 1e-9).sum()) / (1 + draws))


def telling_latents(
    active: NDArray[np.bool_],
    values: Sequence[str],
    usable: NDArray[np.bool_],
    often: float = 0.5,
    rarely: float = 0.1,
) -> dict[str, NDArray[np.bool_]]:
    """Which latents tell a value: active where it holds, silent where another does.

    Args:
        active: [n_prompts, n_latents] what is active on each of some prompts.
        values: of each prompt.
        usable: [n_prompts] the prompts that may be asked.
        often: least share of a value's prompts that such a latent is active on.
        rarely: largest share of the other prompts that it is.

    Returns:
        By value a mask [n_latents]; only values with at least two usable prompts.
    """
    named = np.asarray(values)
    telling = {}
    for value in sorted(set(values)):
        own, other = usable & (named == value), usable & (named != value)
        if own.sum() >= 2 and other.any():
            on = active[own].mean(0) >= often
            telling[value] = on & (active[other].mean(0) <= rarely)
    return telling
