"""circuit-tracer itself traces what we trace, and finds the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.circuit_tracer import (
    PROMPT,
    Case,
    Theirs,
    as_theirs,
    compare_edges,
    compare_nodes,
    compare_scores,
    graph_of,
    let_trace,
)
from tests.tiny import tiny_loaded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CASES = {
    "gpt2-relu": Case("gpt2", {"activation": "relu", "skip": False}),
    "gpt2-jumprelu": Case("gpt2", {"activation": "jumprelu", "skip": False}, seed=1),
    "llama-relu": Case("llama", {"activation": "relu", "skip": False}),
    "llama-jumprelu": Case("llama", {"activation": "jumprelu", "skip": False}, seed=1),
    "gpt2-clt": Case("gpt2", clt={"activation": "relu"}),
    "llama-clt": Case("llama", clt={"activation": "jumprelu"}),
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, traced by one process: importing circuit-tracer takes longest."""
    place = tmp_path_factory.mktemp("circuit-tracer")
    for name, case in CASES.items():
        case.write(place / name)
    let_trace([place / name for name in CASES], tiny_loaded().encode(PROMPT))
    return place


@pytest.mark.parametrize("name", CASES)
def test_same_graph(traced: Path, name: str) -> None:
    graph, theirs = graph_of(traced / name), Theirs.read(traced / name)
    compare_nodes(graph, theirs)
    same = as_theirs(graph)
    compare_edges(same, theirs)
    compare_scores(same, theirs)
