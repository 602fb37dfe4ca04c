"""Our graphs against recorded ones of circuit-tracer (``python -m tests.circuit_tracer``)."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph
from tests.circuit_tracer import (
    RECORDED,
    RECORDS,
    Theirs,
    as_theirs,
    compare_edges,
    compare_nodes,
    compare_scores,
    graph_of,
)

Both = tuple[AttributionGraph, Theirs]


@pytest.fixture(scope="module", params=RECORDED)
def both(request: pytest.FixtureRequest) -> Both:
    place = RECORDS / request.param
    return graph_of(place), Theirs.read(place)


def test_nodes(both: Both) -> None:
    compare_nodes(*both)


def test_edges(both: Both) -> None:
    graph, theirs = both
    compare_edges(as_theirs(graph), theirs)


def test_scores_and_pruning(both: Both) -> None:
    graph, theirs = both
    compare_scores(as_theirs(graph), theirs)


def test_rows_sum_only_with_what_circuit_tracer_leaves_out(both: Both) -> None:
    """Ours sum to what each target reads; its edges alone miss by far."""
    graph, theirs = both
    assert graph.identity_errors.max() < 1e-4
    rows = theirs.matrix(len(graph.nodes))[graph.targets]
    gap = np.abs(rows.sum(1) - graph.values) / np.abs(rows).sum(1)
    assert np.median(gap) > 1e-3
    assert gap.max() > 1e-2
