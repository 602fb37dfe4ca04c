"""Scores of graphs against the truth: closed forms on graphs made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.core.attribution_graph import (
    AttributionGraph,
    GraphNodes,
    GraphSettings,
    NodeKind,
)
from attention_studio.core.graph_edges import GraphEdges
from attention_studio.demo.truth import (
    answer_flow,
    area,
    carried_from,
    chance_of,
    score_marks,
    telling_latents,
    token_values,
)

FEATURE, ERROR, TOKEN, LOGIT = NodeKind


# What the logit reads: g 3, the error 1.
ANSWER = np.array([0.0, 3.0, 1.0, 0.0, 0.0, 0.0], dtype=np.float32)


def chain() -> AttributionGraph:
    """Tokens 0, 1, 2; feature f (MLP 0 at 1) reads tokens 1 and 2, g (MLP 1 at 2) reads f and 2.

    Sources are f, g, an error, then the tokens; the logit is last.
    """
    kinds = [FEATURE, FEATURE, ERROR, TOKEN, TOKEN, TOKEN, LOGIT]
    nodes = GraphNodes(
        kind=np.array(kinds, dtype=np.int8),
        site_kind=np.array([1, 1, 1, -1, -1, -1, -1], dtype=np.int8),
        layer=np.array([0, 1, 1, -1, -1, -1, 2], dtype=np.int16),
        position=np.array([1, 2, 2, 0, 1, 2, 2], dtype=np.int32),
        index=np.array([5, 6, -1, 1, 2, 3, 9], dtype=np.int64),
        activation=np.array([2.0, 4.0, 1, 1, 1, 1, 1], dtype=np.float32),
        probability=np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32),
    )
    weights = np.array(
        [
            ANSWER,
            [0.0, 0.0, 0.0, 0.0, 3.0, -1.0],  # f, 2 = 3 - 1
            [2.0, 0.0, 0.0, 0.0, 0.0, 2.0],  # g, 4 = 2 + 2
        ],
        dtype=np.float32,
    )
    edges, order = GraphEdges.from_matrix(weights, np.array([6, 0, 1]), nodes.depth)
    return AttributionGraph(
        prompt="a b",
        tokens=("<s>", " a", " b"),
        token_ids=(1, 2, 3),
        model_name="by hand",
        model_hash="",
        crm_name="by hand",
        n_layers=2,
        nodes=nodes,
        node_tokens={},
        edges=edges,
        biases=np.zeros(3, dtype=np.float32),
        values=np.array([4.0, 2.0, 4.0], dtype=np.float32)[order],
        settings=GraphSettings(),
        seconds=0.0,
    )


def test_influence_is_handed_down_in_shares() -> None:
    graph = chain()
    flow = answer_flow(graph, ANSWER)
    # g 3/4, half of it through f, of which token 1 has 3/4.
    assert flow.influence == pytest.approx([0.375, 0.75, 0.25, 0, 0.28125, 0.46875])
    assert token_values(graph, flow.influence) == pytest.approx([0, 0.28125, 0.46875])
    assert flow.influence[:6] == pytest.approx(graph.influence[:6])


def test_effects_of_the_leaves_sum_to_the_answer() -> None:
    graph = chain()
    flow = answer_flow(graph, ANSWER)
    # Of g's 3, f has 3 * 2/4; of f's 1.5 token 1 has 3/2 and token 2 has -1/2.
    assert flow.effect == pytest.approx([1.5, 3.0, 1.0, 0, 2.25, 0.75])
    assert flow.effect[2:].sum() == pytest.approx(graph.values[0])


def test_effects_are_linear_in_what_is_read() -> None:
    graph = chain()
    other = np.array([1.0, -2.0, 0.0, 0.5, 0.0, 0.0], dtype=np.float32)
    both = answer_flow(graph, ANSWER + other).effect
    parts = answer_flow(graph, ANSWER).effect + answer_flow(graph, other).effect
    assert both == pytest.approx(parts)


def test_a_feature_without_a_row_passes_nothing_on() -> None:
    full = chain()
    fields = {name: getattr(full, name) for name in full.__dataclass_fields__}
    rows = np.flatnonzero(full.targets != 0)
    fields["edges"], _ = GraphEdges.from_matrix(
        full.edges.dense()[rows], full.targets[rows], full.nodes.depth
    )
    for name in ("biases", "values"):
        fields[name] = fields[name][rows]
    flow = answer_flow(AttributionGraph(**fields), ANSWER)
    assert flow.influence == pytest.approx([0.375, 0.75, 0.25, 0, 0, 0.375])
    assert flow.effect == pytest.approx([1.5, 3.0, 1.0, 0, 0, 1.5])


def test_what_is_carried_from_a_token_is_its_effect_at_every_cut() -> None:
    graph = chain()
    flow = answer_flow(graph, ANSWER)
    # Of f's 2 token 1 gives 3, so f carries 1.5 * 3/2; of g's 4 f gives 2, so g has 3 * 2/4 * 3/2.
    assert carried_from(graph, flow, [1]) == pytest.approx([2.25, 2.25, 0, 0, 2.25, 0])
    # Of token 2: f 1.5 * -1/2, g the direct 2/4 and through f -1/4.
    assert carried_from(graph, flow, [2]) == pytest.approx([-0.75, 0.75, 0, 0, 0, 0.75])


def test_area_counts_pairs_and_halves_ties() -> None:
    assert area(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx(2.5 / 4)
    assert area(np.array([5.0]), np.array([1.0, 2.0])) == 1.0
    assert area(np.array([0.0]), np.array([1.0])) == 0.0


def test_marks_leave_the_start_token_out_and_sizes_count() -> None:
    # Shares of the words: 0.4, 0.1, 0.3, 0.2; the start token's 7 is no word's.
    score = score_marks(np.array([7.0, 4.0, 1.0, -3.0, 2.0]), [1, 4], [3])
    assert score.share == pytest.approx(0.6)
    assert score.uniform == 0.5
    assert score.auc == pytest.approx(3 / 4)  # 0.4 above both, 0.2 above one
    assert score.nearness == pytest.approx(2 / 4)  # the last above both, the first above none
    assert score.found == 0.5
    assert score.per_mark == pytest.approx(0.3)
    assert score.per_distractor == pytest.approx(0.3)
    assert score_marks(np.array([0.0, 1.0, 2.0]), [1], []).per_distractor is None


def test_chance_is_what_all_orders_of_the_values_give() -> None:
    # One mark among four words that has the most: one order in four is as good.
    prompt = (np.array([0.0, 9.0, 1.0, 2.0, 3.0]), [1])
    draws = 4000
    assert chance_of([prompt], draws) == pytest.approx(1 / 4, abs=0.03)
    # Both of two prompts: one in sixteen.
    assert chance_of([prompt, prompt], draws) == pytest.approx(1 / 16, abs=0.02)
    # The least: every draw is at least as good.
    assert chance_of([(prompt[0], [2])], 100) == 1.0


def test_telling_latents_are_on_with_their_value_alone() -> None:
    values = ["Texas"] * 2 + ["Ohio"] * 2 + ["Spain"]
    active = np.array(
        [
            # Texas, Texas, Ohio, Ohio, Spain: by columns
            [1, 1, 1, 0],
            [1, 1, 0, 0],
            [0, 1, 0, 1],
            [0, 1, 0, 1],
            [0, 1, 0, 0],
        ],
        dtype=bool,
    )
    telling = telling_latents(active, values, np.ones(5, dtype=bool))
    assert set(telling) == {"Texas", "Ohio"}  # one prompt of Spain says nothing
    assert telling["Texas"].tolist() == [True, False, True, False]
    assert telling["Ohio"].tolist() == [False, False, False, True]
    # Without the first prompt there is only one of Texas left.
    assert set(telling_latents(active, values, np.arange(5) > 0)) == {"Ohio"}
