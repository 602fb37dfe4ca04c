"""Influence, scores and pruning against a slow, obvious implementation on dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attention_studio.core.graph_edges import GraphEdges
from attention_studio.core.graph_pruning import (
    completeness_score,
    input_totals,
    node_influence,
    prune,
    replacement_score,
    share_threshold,
)

N_FEATURES, N_ERRORS, N_TOKENS, N_LOGITS = 12, 5, 4, 3
N = N_FEATURES + N_ERRORS + N_TOKENS + N_LOGITS
N_SOURCES = N - N_LOGITS
Array = NDArray[Any]


class Random:
    """A random acyclic graph: features in four levels, each fed by lower ones and the leaves."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        level = np.sort(rng.integers(0, 4, N_FEATURES))
        self.dense = np.zeros((N, N), dtype=np.float32)
        leaves = np.arange(N_FEATURES, N_SOURCES)
        for target in range(N_FEATURES):
            lower = np.flatnonzero(level < level[target])
            sources = np.concatenate([lower, leaves])
            self.dense[target, sources] = rng.normal(size=len(sources)) ** 3
        self.dense[N_SOURCES:, :N_SOURCES] = rng.normal(size=(N_LOGITS, N_SOURCES)) ** 3
        self.start = np.zeros(N, dtype=np.float32)
        self.start[N_SOURCES:] = rng.dirichlet(np.ones(N_LOGITS))
        depth = np.full(N, -1)
        depth[:N_FEATURES], depth[N_SOURCES:] = level, 9
        target, source = np.nonzero(self.dense)
        edges = GraphEdges.from_links(N_SOURCES, depth, source, target, self.dense[target, source])
        self.blocks = list(edges.blocks())
        self.totals = input_totals(self.blocks, N)
        self.untraced = np.zeros(N, dtype=bool)
        kinds = np.repeat([0, 1, 2, 3], [N_FEATURES, N_ERRORS, N_TOKENS, N_LOGITS])
        self.features, self.errors, self.tokens, self.logits = (kinds == k for k in range(4))


def rows_to_one(dense: Array) -> Array:
    absolute = np.abs(dense)
    return absolute / np.maximum(absolute.sum(1, keepdims=True), 1e-10)


def power_series(a: Array, start: Array) -> Array:
    total, term = np.zeros(len(a)), start.astype(np.float64)
    for _ in range(len(a)):
        term = term @ a
        total += term
    return total


@pytest.mark.parametrize("seed", range(5))
def test_influence_is_the_power_series(seed: int) -> None:
    graph = Random(seed)
    expected = power_series(rows_to_one(graph.dense), graph.start)
    assert np.allclose(node_influence(graph.blocks, graph.totals, graph.start), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scores_follow_their_definitions(seed: int) -> None:
    graph = Random(seed)
    a = rows_to_one(graph.dense)
    influence = power_series(a, graph.start)
    expected_replacement = influence[graph.tokens].sum() / (
        influence[graph.tokens].sum() + influence[graph.errors].sum()
    )
    weight = influence + graph.start
    explained = 1 - a[:, graph.errors].sum(1)
    found = node_influence(graph.blocks, graph.totals, graph.start)
    assert replacement_score(found, graph.tokens, graph.errors) == pytest.approx(
        expected_replacement, abs=1e-5
    )
    completeness = completeness_score(
        graph.blocks, graph.totals, found, graph.start, graph.errors, graph.untraced
    )
    assert completeness == pytest.approx((explained * weight).sum() / weight.sum(), abs=1e-5)


def test_all_influence_that_leaves_the_logits_arrives_at_the_leaves() -> None:
    graph = Random(3)
    influence = node_influence(graph.blocks, graph.totals, graph.start)
    assert influence[graph.tokens | graph.errors].sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("node_share", "edge_share"), [(0.5, 0.8), (0.8, 0.98), (1.0, 1.0)])
def test_pruning_equals_the_slow_way(seed: int, node_share: float, edge_share: float) -> None:
    graph = Random(seed)
    influence = power_series(rows_to_one(graph.dense), graph.start)
    keep = influence >= _threshold(influence, node_share)
    keep |= graph.tokens | graph.logits
    pruned = graph.dense * keep[:, None] * keep[None, :]
    a = rows_to_one(pruned)
    scores = a * (power_series(a, graph.start) + graph.start)[:, None]
    edges = (scores >= _threshold(scores.ravel(), edge_share) - 1e-9) & (pruned != 0)
    while True:
        before = keep.copy()
        keep &= edges.any(0) | graph.tokens | graph.logits
        keep &= edges.any(1) | ~graph.features
        edges &= keep[:, None] & keep[None, :]
        if np.array_equal(before, keep):
            break
    kept = prune(
        graph.blocks,
        node_influence(graph.blocks, graph.totals, graph.start),
        graph.start,
        graph.tokens | graph.logits,
        graph.features,
        node_share,
        edge_share,
    )
    assert set(kept.nodes) == set(np.flatnonzero(keep))
    found = set(zip(kept.target.tolist(), kept.source.tolist(), strict=True))
    assert found == set(zip(*(axis.tolist() for axis in np.nonzero(edges)), strict=True))
    assert np.allclose(kept.weight, graph.dense[kept.target, kept.source])


def _threshold(scores: Array, share: float) -> float:
    if share == 1.0:
        return 0.0
    total, best = 0.0, float(scores.min())
    for score in sorted(scores.tolist(), reverse=True):
        total += score
        if total >= share * scores.sum() * (1 - 1e-7):
            best = score
            break
    return best


def test_the_threshold_keeps_the_smallest_set_that_reaches_the_share() -> None:
    scores = np.array([0.5, 0.1, 0.3, 0.1], dtype=np.float32)
    assert share_threshold(scores, 0.49) == pytest.approx(0.5)
    assert share_threshold(scores, 0.6) == pytest.approx(0.3)
    assert share_threshold(scores, 0.85) == pytest.approx(0.1)
    assert share_threshold(scores, 1.0) == 0.0
    assert share_threshold(scores, 0.0) == pytest.approx(0.5)
    assert share_threshold(np.zeros(3, dtype=np.float32), 0.8) == 0.0


def test_raising_a_threshold_never_drops_a_node() -> None:
    graph = Random(1)
    influence = node_influence(graph.blocks, graph.totals, graph.start)
    sizes = [
        len(
            prune(
                graph.blocks,
                influence,
                graph.start,
                graph.tokens | graph.logits,
                graph.features,
                share,
                1.0,
            ).nodes
        )
        for share in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.98, 0.9999])
def test_the_threshold_of_many_scores_is_that_of_sorting_them(share: float) -> None:
    scores = (np.random.default_rng(4).normal(size=40_000) ** 6).astype(np.float32)
    ordered = np.sort(scores)[::-1]
    place = np.searchsorted(np.cumsum(ordered, dtype=np.float64) / ordered.sum(dtype=float), share)
    found = share_threshold(scores, share)
    kept = scores[scores >= found].sum(dtype=float) / scores.sum(dtype=float)
    assert abs(int((scores >= found).sum()) - (place + 1)) <= 1
    assert kept == pytest.approx(share, abs=1e-3) and kept >= share - 1e-6


def test_what_was_not_traced_counts_as_not_explained() -> None:
    graph = Random(2)
    untraced = int(graph.blocks[-1].targets[0])
    blocks = [block for block in graph.blocks if untraced not in block.targets]
    totals = input_totals(blocks, N)
    influence = node_influence(blocks, totals, graph.start)
    mark = np.arange(N) == untraced
    full = completeness_score(blocks, totals, influence, graph.start, graph.errors, graph.untraced)
    less = completeness_score(blocks, totals, influence, graph.start, graph.errors, mark)
    weight = influence.astype(float) + graph.start
    assert influence[untraced] > 0
    assert full - less == pytest.approx(float(influence[untraced]) / weight.sum(), abs=1e-6)
