"""What a graph explains can be chosen, and how much of it is traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attention_studio.core.attribution import Targets, trace
from attention_studio.core.attribution_cost import estimate_trace
from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, contrasted
from attention_studio.core.attribution_plan import plan_trace
from attention_studio.core.graph_builder import (
    GraphBudgetError,
    GraphBuilder,
    GraphError,
    GraphSettings,
)
from tests.crms import CROSS, complete, replacement
from tests.operations import IN_PLACE
from tests.tiny import PROMPT, WORDS

MODELS = {"kept": replacement, "complete": complete, "cross": lambda: complete("llama", CROSS)}
both = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def build(make: Any, **settings: Any) -> AttributionGraph:
    return GraphBuilder(make()).build(PROMPT, GraphSettings(**settings))


def row(graph: AttributionGraph, node: int) -> np.ndarray[Any, Any]:
    dense: np.ndarray[Any, Any] = graph.edges.dense()[graph.edges.row(node)]
    return dense


def outputs(graph: AttributionGraph) -> list[int]:
    return np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT).tolist()


@both
def test_a_contrast_is_the_difference_of_two_logits(make: Any) -> None:
    single = build(make, tokens=(" cat", " dog"))
    cat, dog = outputs(single)
    pair = build(make, contrast=(" cat", " dog"))
    (node,) = outputs(pair)
    assert np.allclose(row(pair, node), row(single, cat) - row(single, dog), atol=1e-5)
    assert pair.nodes.activation[node] == pytest.approx(
        single.nodes.activation[cat] - single.nodes.activation[dog], abs=1e-5
    )
    assert contrasted(int(pair.nodes.index[node])) == (
        single.nodes.index[cat],
        single.nodes.index[dog],
    )
    assert pair.start[node] == 1.0 and pair.label(node) == "Output cat over dog"
    assert pair.find(pair.node_name(node)) == node
    assert pair.scores.max_identity_error < 1e-4


@both
def test_chosen_tokens_have_the_edges_that_they_have_as_salient_ones(make: Any) -> None:
    salient = build(make)
    first, second = outputs(salient)[:2]
    ids = [int(salient.nodes.index[node]) for node in (second, first)]
    chosen = build(make, tokens=tuple(ids))
    assert [int(chosen.nodes.index[node]) for node in outputs(chosen)] == ids
    for ours, theirs in zip(outputs(chosen), (second, first), strict=True):
        assert np.allclose(row(chosen, ours), row(salient, theirs), atol=1e-6)
        assert chosen.nodes.probability[ours] == pytest.approx(salient.nodes.probability[theirs])
    assert chosen.start[outputs(chosen)] == pytest.approx([0.5, 0.5])


@both
def test_a_feature_can_be_what_is_explained(make: Any) -> None:
    whole = build(make)
    nodes = whole.nodes
    high = int(np.flatnonzero((nodes.kind == NodeKind.FEATURE) & (nodes.layer == 1))[-1])
    name = whole.node_name(high)
    graph = build(make, features=(name,))
    assert outputs(graph) == [] and graph.start[high] == 1.0
    assert np.allclose(row(graph, high), row(whole, high), atol=1e-6)
    traced = graph.targets[graph.targets != high]
    assert (nodes.depth[traced] < nodes.depth[high]).all()
    assert (nodes.position[traced] <= nodes.position[high]).all()
    # What it starts with arrives at the leaves, and nothing arrives elsewhere.
    leaves = graph.nodes.kind != NodeKind.FEATURE
    assert graph.influence[leaves].sum() == pytest.approx(1.0, abs=1e-4)
    assert high in graph.prune(0.1, 0.5).node_ids
    assert graph.scores.max_identity_error < 1e-4


@both
def test_several_positions_are_explained_at_once(make: Any) -> None:
    graph = build(make, tokens=(" cat",), positions=(-1, 3))
    last, early = outputs(graph)
    assert graph.nodes.position[[last, early]].tolist() == [len(graph.tokens) - 1, 3]
    model = make()
    logits = model.adapter.logits(list(graph.token_ids))[0]
    token = int(graph.nodes.index[early])
    for node in (last, early):
        own = logits[graph.nodes.position[node]]
        assert graph.nodes.activation[node] == pytest.approx(
            float(own[token] - own.mean()), abs=1e-4
        )
    assert graph.scores.max_identity_error < 1e-4
    later = graph.nodes.position > 3
    assert not row(graph, early)[later[: graph.edges.n_sources]].any()


@both
def test_the_first_position_can_be_explained_beside_others(make: Any) -> None:
    for batch in (None, 7):
        graph = build(make, tokens=(" cat",), positions=(-1, 0), batch=batch)
        assert graph.scores.max_identity_error < 1e-4
        first = outputs(graph)[1]
        assert graph.nodes.position[first] == 0
        columns, weights = graph.edges.into(first)
        assert (graph.nodes.position[columns[weights != 0]] == 0).all()


@both
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 1.0])
def test_tracing_to_a_share_of_the_influence_reaches_it(
    make: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attention_studio.core import graph_tracing

    monkeypatch.setattr(graph_tracing, "_FEWEST", 4)  # so that there are several rounds
    whole, part = build(make), build(make, influence=share)
    features = part.nodes.kind == NodeKind.FEATURE
    held = part.influence[features & ~part.untraced].sum() / part.influence[features].sum()
    assert held >= share - 1e-5
    if share < 0.9:
        assert len(part.targets) < len(whole.targets)
    for node in part.targets.tolist():
        assert np.allclose(row(part, node), row(whole, node), atol=1e-5)
    depth = part.nodes.depth[part.targets]
    assert (np.diff(depth) <= 0).all()
    # Nothing is claimed of what was not traced.
    assert part.scores.replacement <= whole.scores.replacement + 1e-4
    assert part.scores.completeness <= whole.scores.completeness + 1e-4
    assert part.scores.max_identity_error < 1e-4


@both
def test_the_estimate_is_what_is_done(make: Any) -> None:
    """Against torch's own count of the operations of matrix products."""
    model = make()
    local = model.localize(model.loaded.encode(PROMPT))
    for transcoder in local.dictionaries.transcoders.values():
        transcoder.W_skip = None  # their products are not counted
    directions, bias = local.logit_directions([4, 5, 6])
    last = torch.full((3,), len(local.ids) - 1)
    targets = Targets(directions, bias, last, torch.arange(len(local.features)))
    plan = plan_trace(local, targets)
    told = estimate_trace(local, plan)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counted:
        edges = trace(local, targets, plan=plan).edges
    assert told.n_edges == edges.layout.size == len(edges.data)
    assert told.n_targets == len(targets)
    assert told.gigabytes >= 4 * told.n_edges / 1e9
    # Tiny blocks: biases and the products of one row that are not counted weigh more than usual,
    # and a cross-layer transcoder's features are multiplied once for each place that they write to.
    most = 1.7 if make is MODELS["cross"] else 1.35
    assert 0.7 < counted.get_total_flops() / told.operations < most
    builder_told = GraphBuilder(model).estimate(PROMPT)
    assert builder_told.n_targets == len(build(make).targets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokens": ("cat sat",)}, "not one token"),
        ({"tokens": ("",)}, "not one token"),
        ({"tokens": (10**6,)}, "no token"),
        ({"contrast": (" cat",)}, "contrast"),
        ({"contrast": (" cat", " cat")}, "contrast"),
        ({"contrast": (" cat", 4 + len(WORDS) + WORDS.index("cat"))}, "the same token"),
        ({"tokens": "cat"}, "tokens"),
        ({"tokens": (True,)}, "tokens"),
        ({"features": (3,)}, "features"),
        ({"positions": (1.5,)}, "positions"),
        ({"max_logits": 2.5}, "max_logits"),
        ({"max_features": 2.5}, "max_features"),
        ({"max_gigabytes": float("inf")}, "max_gigabytes"),
        ({"features": ("L9/P1/F1",)}, "not active"),
        ({"features": ("feature 7",)}, "names no feature"),
        ({"features": ("L1/*/F1",)}, "names no feature"),
        ({"features": ("L1/F1",)}, "names no feature"),
        ({"positions": (40,)}, "no position 40"),
        ({"positions": ()}, "positions"),
        ({"influence": 0.0}, "influence"),
        ({"influence": 1.5}, "influence"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_words(settings: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        build(replacement, **settings)


@both
def test_what_is_asked_for_twice_is_explained_once(make: Any) -> None:
    once = build(make, tokens=(5, 6), positions=(-1, 3))
    twice = build(make, tokens=(5, 6, 5), positions=(-1, 10, 3))
    assert [twice.node_name(node) for node in outputs(twice)] == [
        once.node_name(node) for node in outputs(once)
    ]
    assert np.array_equal(twice.start, once.start)


def test_a_contrast_with_the_first_token_of_all_is_one() -> None:
    graph = build(replacement, contrast=(0, 5))
    (node,) = outputs(graph)
    assert graph.node_name(node) == f"P{len(graph.tokens) - 1}/logit/0-5"
    assert "over" in graph.label(node) and "%" not in graph.label(node)


@pytest.mark.parametrize("part", [0.6, 0.9])
def test_what_is_offered_in_a_later_round_counts_all_rounds(
    part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attention_studio.core import graph_tracing

    monkeypatch.setattr(graph_tracing, "_FEWEST", 20)  # so that there are several rounds
    share = build(replacement, influence=0.999)
    room = part * 4e-9 * share.edges.layout.size
    with pytest.raises(GraphBudgetError) as refused:
        build(replacement, influence=0.999, max_gigabytes=room)
    smaller = refused.value.smaller
    assert smaller is not None and smaller.max_features is not None
    offered = GraphBuilder(replacement()).build(PROMPT, smaller)
    assert offered.edges.layout.size > 0.5 * part * share.edges.layout.size


def test_an_offer_leaves_room_for_the_features_that_are_explained() -> None:
    whole = build(replacement)
    features = whole.targets[whole.nodes.kind[whole.targets] == NodeKind.FEATURE]
    names = tuple(map(whole.node_name, features[:40].tolist()))  # the highest ones
    room = 0.5 * 4e-9 * whole.edges.layout.size
    with pytest.raises(GraphBudgetError) as refused:
        build(replacement, features=names, max_gigabytes=room)
    assert refused.value.smaller is not None
    GraphBuilder(replacement()).build(PROMPT, refused.value.smaller)


def test_no_bound_is_too_large_to_count_with() -> None:
    assert build(replacement, max_gigabytes=1e300).n_edges > 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("settings", [{"influence": 0.9}, {"max_features": 5}])
def test_effects_beyond_all_numbers_are_told_and_not_ranked(settings: Any) -> None:
    model = replacement()
    for transcoder in model.transcoders.values():
        transcoder.W_D.data.mul_(1e38)
        transcoder.W_skip = None
    with pytest.raises(GraphError, match="cannot be ranked"):
        GraphBuilder(model).build(PROMPT, GraphSettings(**settings))
