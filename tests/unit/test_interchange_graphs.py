"""Other tools' graphs open as ours, ours are written as theirs, and neither says what is untrue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, contrast_index
from attention_studio.core.graph_settings import GraphSettings
from attention_studio.core.interchange.foreign_graph import (
    ForeignGraph,
    as_graph,
    everything,
    read_foreign_graph,
)
from attention_studio.core.interchange.graph_document import (
    DIALECTS,
    Dialect,
    GraphDocument,
    GraphDocumentError,
)
from attention_studio.core.interchange.graph_writing import (
    AttentionContributors,
    GraphLabels,
    GraphView,
    converted,
    cumulative_influence,
    graph_json,
    save_graph_json,
)
from attention_studio.core.interchange.node_facts import cantor_pair, cantor_unpair
from attention_studio.core.qk_records import KeyTrace
from attention_studio.core.sites import Site
from tests.foreign_graphs import circuit_tracer_value, llamascopium_value, neuronpedia_value
from tests.hand_graphs import N_LAYERS, hand_graph

VALUES: dict[Dialect, Callable[[], dict[str, Any]]] = {
    "circuit-tracer": circuit_tracer_value,
    "neuronpedia": neuronpedia_value,
    "llamascopium": llamascopium_value,
}


def opened(value: dict[str, Any]) -> ForeignGraph:
    return as_graph(GraphDocument.parse(json.dumps(value)))


def names(graph: AttributionGraph) -> list[str]:
    return [graph.node_name(node) for node in range(len(graph.nodes))]


def edges(graph: AttributionGraph) -> dict[tuple[str, str], float]:
    """All edges by the names of both ends."""
    part, name = everything(graph), names(graph)
    return {
        (name[a], name[b]): w
        for a, b, w in zip(
            part.edge_source.tolist(),
            part.edge_target.tolist(),
            part.edge_weight.tolist(),
            strict=True,
        )
    }


# ---- reading -----------------------------------------------------------------------------------


def test_a_graph_of_circuit_tracer_opens() -> None:
    foreign = opened(circuit_tracer_value())
    graph = foreign.graph
    assert sorted(names(graph)) == sorted(
        "L0/P2/F5 L20/P2/F93988 L5/P2/error L24/P1/error".split()
        + "P0/token P1/token P2/token P2/logit/8".split()
    )
    assert edges(graph) == {
        ("P2/token", "L0/P2/F5"): 9.75,
        ("P0/token", "L20/P2/F93988"): -2.0,
        ("L0/P2/F5", "L20/P2/F93988"): 1.5,
        # Of two links with one name, the feature's comes first.
        ("L0/P2/F5", "P2/logit/8"): 0.25,
        ("L5/P2/error", "P2/logit/8"): -0.125,
        ("L20/P2/F93988", "P2/logit/8"): 3.5,
        ("L24/P1/error", "P2/logit/8"): 0.640625,
    }
    assert graph.n_layers == 26
    assert graph.token_ids == (2, 235274, 235284)
    assert graph.model_name == "gemma-2-2b"
    assert graph.crm_name == "owner/set"
    assert (graph.settings.max_logits, graph.settings.logit_mass) == (5, 0.6)
    logit = graph.find("P2/logit/8")
    assert graph.node_tokens[logit] == "3"
    assert graph.nodes.probability[logit] == np.float32(0.2333984375)
    assert foreign.pinned == (*foreign.nodes_of("0_5_2"), logit)
    assert len(foreign.nodes_of("0_5_2")) == 2
    label, members = foreign.supernodes[0]
    assert label == "pair"
    assert graph.find("L20/P2/F93988") in members


@pytest.mark.parametrize("value", [neuronpedia_value, llamascopium_value])
def test_graphs_of_complete_models_open_alike(value: Callable[[], dict[str, Any]]) -> None:
    """Ids and layers differ, not what they mean. A bias is no node but adds to its target."""
    graph = opened(value()).graph
    assert sorted(names(graph)) == sorted(
        ["L0/P1/F4", "A1/P1/F9", "A1/P1/error", "P0/token", "P1/logit/33"]
    )
    assert edges(graph) == {
        ("P0/token", "L0/P1/F4"): 2.0,
        ("L0/P1/F4", "A1/P1/F9"): 0.5,
        ("A1/P1/F9", "P1/logit/33"): 1.25,
        ("A1/P1/error", "P1/logit/33"): -0.75,
    }
    assert graph.n_layers == 2
    assert graph.token_ids == (11, -1)
    assert graph.node_tokens[graph.find("P1/logit/33")] == " c"
    assert np.count_nonzero(graph.biases) == 1
    assert graph.biases.sum() == 0.0625
    # By hand: 5/8 of the output's input comes from the feature, the rest from the error.
    assert graph.scores.replacement == pytest.approx(1.25 / 2)


def test_what_the_file_does_not_tell_is_not_made_up() -> None:
    foreign = opened(neuronpedia_value())
    graph, said = foreign.graph, " ".join(foreign.notes)
    assert np.isnan(graph.values).all()
    assert graph.model_hash == ""
    assert "model's weights" in said
    assert "identity error" in said
    value = neuronpedia_value()
    for node in value["nodes"]:
        for key in ("activation", "token_prob", "clerp"):
            node.pop(key, None)
    value["nodes"].append({**value["nodes"][1], "node_id": "0_x_1", "feature_type": "odd"})
    foreign = opened(value)
    graph, said = foreign.graph, " ".join(foreign.notes)
    features = graph.nodes.kind == NodeKind.FEATURE
    assert np.isnan(graph.nodes.activation[features]).all()
    assert "2 features have no activation" in said
    assert "No output has a probability" in said
    assert "1 nodes of a kind that is not known here are left out: 'odd'" in said
    assert not graph.influence.any()


def test_features_are_found_by_number_where_ids_say_nothing() -> None:
    """Cantor pairs since version 1, ``layer * 100000 + latent`` before."""
    for version, number in ((1, cantor_pair(20, 93988)), (0, 2_093_988), (None, 2_093_988)):
        value = circuit_tracer_value()
        value["metadata"]["schema_version"] = version
        value["nodes"][1].update(node_id="somewhere", feature=number)
        value["links"] = []
        value["qParams"] = {}
        assert "L20/P2/F93988" in names(opened(value).graph)
    for version, number in ((1, 2_093_988), (0, 4418893024), (1, None), (1, -5), (1, "9")):
        value["metadata"]["schema_version"] = version
        value["nodes"][1]["feature"] = number
        with pytest.raises(GraphDocumentError, match="cannot be told"):
            opened(value)


def test_two_numbers_become_one_and_two_again() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (3, 7), (61, 262_143), (4096, 1 << 39)]
    for layer, index in pairs:
        assert cantor_unpair(cantor_pair(layer, index)) == (layer, index)
    assert cantor_pair(20, 93988) == 4418893024  # in a file of circuit-tracer


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda v: v["links"].append({**v["links"][0], "weight": 1}), "two links"),
    (lambda v: v["links"].append(_link("20_93988_2", "0_5_2")), "circle"),
    (lambda v: v["links"].append(_link("20_93988_2", "20_93988_2")), "circle"),
    (lambda v: v["links"].append(_link("27_8_2", "20_93988_2")), "circle"),
    (lambda v: v["links"].append(_link("0_5_2", "E_2_0")), "circle"),
    (lambda v: v["links"].append(_link("E_2_0", "24_-1_1")), "errors read nothing"),
    (lambda v: v["nodes"][1].update(layer="twenty"), "nodes.1.layer"),
    (lambda v: v["nodes"][1].update(layer="-1"), "nodes.1.layer"),
    (lambda v: v["nodes"][1].update(layer=10**9), "nodes.1.layer"),
    (lambda v: v["nodes"][7].update(layer="E"), "nodes.7.layer"),
    (lambda v: v["nodes"][7].update(feature="8", node_id="x"), "names no token"),
    (lambda v: v["nodes"].append({**v["nodes"][1], "node_id": "20_93988_02"}), "the same node"),
    (lambda v: v["nodes"].append({**v["nodes"][4], "node_id": "E_3_0"}), "the same node"),
]


def _link(source: str, target: str) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": 1.0}


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_a_sound_file_that_is_no_graph_is_refused(
    change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    value = circuit_tracer_value()
    change(value)
    if value["nodes"][7]["node_id"] == "x":
        value["links"] = [link for link in value["links"] if link["target"] != "27_8_2"]
    with pytest.raises(GraphDocumentError, match=says.replace(".", r"\.")):
        opened(value)


def test_a_module_of_the_wrong_kind_is_refused() -> None:
    value = llamascopium_value()
    value["nodes"][2]["layer"] = 3
    with pytest.raises(GraphDocumentError, match="even layers are attentions"):
        opened(value)


def test_a_long_chain_takes_no_time_and_a_long_circle_neither() -> None:
    """Also where nothing but the end of a very long way tells."""
    value = circuit_tracer_value()
    pattern = value["nodes"][1]
    value["nodes"] = [
        *(
            {**pattern, "node_id": f"{layer}_1_2", "layer": layer, "feature": None}
            for layer in range(4000)
        ),
        value["nodes"][-1],
    ]
    value["links"] = [_link(f"{i}_1_2", f"{i + 1}_1_2") for i in range(3999)]
    value["qParams"] = {}
    assert opened(value).graph.n_edges == 3999
    value["links"].append(_link("3999_1_2", "0_1_2"))
    with pytest.raises(GraphDocumentError, match="circle"):
        opened(value)


# ---- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("complete", [False, True])
def test_what_is_written_opens_as_what_it_was(dialect: Dialect, complete: bool) -> None:
    graph = hand_graph(complete)
    value = json.loads(json.dumps(graph_json(graph, everything(graph), dialect), allow_nan=False))
    document = GraphDocument.of(value)
    plain = dialect == "neuronpedia" and not complete
    assert document.dialect == ("circuit-tracer" if plain else dialect)
    again = as_graph(document).graph
    assert sorted(names(again)) == sorted(names(graph))
    assert edges(again) == edges(graph)
    assert again.n_layers == N_LAYERS
    assert (again.prompt, again.tokens) == (graph.prompt, graph.tokens)
    assert (again.token_ids, again.model_hash) == (graph.token_ids, graph.model_hash)
    assert again.crm_name == graph.crm_name
    assert again.scores.replacement == pytest.approx(graph.scores.replacement, abs=1e-6)
    for name in names(graph):
        old, new = graph.find(name), again.find(name)
        assert again.label(new) == graph.label(old)
        assert again.nodes.probability[new] == graph.nodes.probability[old]
        if graph.nodes.kind[old] == NodeKind.FEATURE:
            assert again.nodes.activation[new] == graph.nodes.activation[old]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("start", VALUES)
def test_every_dialect_becomes_every_other_and_keeps_unknown_fields(
    dialect: Dialect, start: Dialect
) -> None:
    value = VALUES[start]()
    value["nodes"][1]["unknown"] = {"a": [1]}
    value["metadata"]["unknown"] = "kept"
    value["unknown"] = 5
    value["links"][0] |= {"weight": 0.1, "unknown": [None]}
    foreign = opened(value)
    made = json.loads(json.dumps(converted(foreign, dialect), allow_nan=False))
    again = opened(made)
    assert edges(again.graph) == edges(foreign.graph)
    assert again.graph.n_layers == foreign.graph.n_layers
    assert made["metadata"]["unknown"] == "kept"
    assert made["unknown"] == 5
    assert [node["unknown"] for node in made["nodes"] if "unknown" in node] == [{"a": [1]}]
    # Links too keep what nobody knows, and all digits of their weights.
    first, *others = made["links"]
    assert (first["weight"], first["unknown"]) == (0.1, [None])
    colours = [[link.get("colour") for link in whole["links"]] for whole in (made, value)]
    assert sorted(filter(None, colours[0])) == sorted(filter(None, colours[1]))
    assert not any("unknown" in link for link in others)
    assert [again.graph.node_name(node) for node in again.pinned] == [
        foreign.graph.node_name(node) for node in foreign.pinned
    ]
    if start == dialect:
        assert made == value


def test_ids_in_traces_of_attention_are_translated() -> None:
    foreign = opened(neuronpedia_value())
    made = converted(foreign, "llamascopium")
    traced = next(node for node in made["nodes"] if node["feature_type"] == "lorsa")
    assert traced["node_id"] == "2_9_1"
    assert traced["qk_tracing_results"] == {
        "pair_wise_contributors": [["E_11_0", "1_4_1", 0.5], ["1_bias_lorsa_bQ_1", "9_x_0", 1]],
        "top_q_marginal_contributors": [["1_4_1", 0.25]],
        "top_k_marginal_contributors": [],
    }
    assert made["qk_only_nodes"] == neuronpedia_value()["qk_only_nodes"]


def test_what_was_pinned_and_grouped_is_written() -> None:
    graph = hand_graph()
    part = graph.prune(1.0, 1.0)
    pinned = part.node_ids[:3].tolist()
    view = GraphView(tuple(pinned), (("group", (pinned[0], pinned[2])), ("empty", ())), pinned[1])
    foreign = opened(graph_json(graph, part, "neuronpedia", view=view))
    named = [foreign.graph.node_name(node) for node in foreign.pinned]
    assert named == [graph.node_name(node) for node in pinned]
    ((label, members),) = foreign.supernodes
    assert (label, [foreign.graph.node_name(node) for node in members]) == (
        "group",
        [named[0], named[2]],
    )
    assert foreign.document.view.clickedId == foreign.document.pinned_ids[1]


def test_traces_of_attention_are_written() -> None:
    graph = hand_graph()
    part = graph.prune(1.0, 1.0)
    head = int(np.flatnonzero(graph.nodes.site_kind == 0)[0])
    token = graph.find("P1/token")
    found = AttentionContributors(((token, head, 0.5),), ((token, 0.25),), ())
    value = graph_json(graph, everything(graph), "neuronpedia", attention={head: found})
    ids = {graph.node_name(i): node["node_id"] for i, node in enumerate(value["nodes"])}
    assert len(part.node_ids) <= len(ids)
    traced = [node for node in value["nodes"] if "qk_tracing_results" in node]
    assert [node["node_id"] for node in traced] == [ids[graph.node_name(head)]]
    assert traced[0]["qk_tracing_results"]["pair_wise_contributors"] == [
        [ids["P1/token"], ids[graph.node_name(head)], 0.5]
    ]


def test_what_a_trace_names_need_not_be_shown() -> None:
    graph = hand_graph()
    head = int(np.flatnonzero(graph.nodes.site_kind == 0)[0])
    whole = everything(graph)
    part = replace(whole, node_ids=np.array([n for n in whole.node_ids if n == head]))
    hidden = next(n for n in whole.node_ids.tolist() if n != head)
    found = AttentionContributors((), ((hidden, 0.25),), ())
    empty = {name: getattr(whole, name)[:0] for name in ("edge_source", "edge_target")}
    empty |= {name: getattr(whole, name)[:0] for name in ("edge_weight", "edge_share")}
    value = graph_json(graph, replace(part, **empty), "neuronpedia", attention={head: found})
    (name, share), *_ = value["nodes"][0]["qk_tracing_results"]["top_q_marginal_contributors"]
    shown = graph_json(graph, whole, "neuronpedia")["nodes"]
    assert (name, share) == (shown[whole.node_ids.tolist().index(hidden)]["node_id"], 0.25)


def test_a_trace_of_attention_becomes_contributors() -> None:
    """The strongest first; the biases, which are the last source, are no node."""
    trace = KeyTrace(
        *(1, 0.5, 2.0, 0.0, 2.0, 4.0),
        pair_query=np.array([3, 0, 1]),
        pair_key=np.array([0, 2, 3]),
        pair_value=np.array([4.0, -2.0, 1.0], dtype=np.float32),
        by_query=np.array([0.5, -2.0, 0.0, 9.0], dtype=np.float32),
        by_key=np.array([1.0, 0.0, 0.25, 9.0], dtype=np.float32),
    )
    found = AttentionContributors.of(trace)
    assert found.pairs == ((0, 2, -2.0),)
    assert found.queries == ((1, -2.0), (0, 0.5))
    assert found.keys == ((0, 1.0), (2, 0.25))
    assert AttentionContributors.of(trace, 1).queries == ((1, -2.0),)


def test_how_a_graph_was_traced_survives() -> None:
    """In a file of ours all of it but the use of memory; what makes no sense falls back."""
    graph = hand_graph()
    chosen = GraphSettings(3, 0.5, 40, 1.0, 8, tokens=("sat", 7), positions=(1, -1), influence=0.9)
    value = graph_json(replace(graph, settings=chosen), graph.prune(), "neuronpedia")
    expected = replace(chosen, max_gigabytes=GraphSettings().max_gigabytes, batch=None)
    assert opened(value).graph.settings == expected
    value["metadata"]["attention_studio"]["settings"]["influence"] = -1
    plain = GraphSettings(max_logits=3, logit_mass=0.5, max_features=40)
    assert opened(value).graph.settings == plain
    value["metadata"]["attention_studio"]["settings"] = {"positions": "far"}
    assert opened(value).graph.settings == plain
    value["metadata"]["generation_settings"] = {"max_n_logits": "9", "desired_logit_prob": True}
    assert opened(value).graph.settings == GraphSettings()


def test_names_of_models_and_dictionaries_are_written() -> None:
    graph = hand_graph()
    labels = GraphLabels(
        "a-slug", "qwen3-1.7b", {"neuronpedia_source_set": "set"}, {Site(0, "attention"): "lorsa-0"}
    )
    value = graph_json(graph, graph.prune(), "llamascopium", labels)
    assert value["metadata"]["slug"] == "a-slug"
    assert value["metadata"]["scan"] == "qwen3-1.7b"
    assert value["metadata"]["feature_details"] == {"neuronpedia_source_set": "set"}
    named = {node.get("sae_name") for node in value["nodes"]}
    assert named <= {"lorsa-0", None}
    assert "lorsa-0" in named


@pytest.mark.parametrize("dialect", ["circuit-tracer", "neuronpedia"])
@pytest.mark.parametrize("complete", [False, True])
def test_viewers_find_what_they_look_for(dialect: Dialect, complete: bool) -> None:
    """What circuit-tracer's page does with words at outputs, and Neuronpedia's schema demands."""
    graph = hand_graph(complete)
    value = graph_json(graph, everything(graph), dialect)
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(value["metadata"])
    wanted = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp")
    for node in value["nodes"]:
        assert set(wanted) <= set(node)
        assert node["feature"] is None or type(node["feature"]) is int
        if node["feature_type"] == "logit":
            assert float(node["clerp"].split("(p=")[-1].split(")")[0]) == pytest.approx(
                node["token_prob"], abs=1e-3
            )
            assert node["clerp"].split('"')[1] is not None
    numbered = [
        (node["layer"], node["feature"], node["ctx_idx"])
        for node in value["nodes"]
        if node["feature_type"] in ("cross layer transcoder", "lorsa")
    ]
    assert len(numbered) == graph.n_features
    if dialect == "circuit-tracer":
        # It knows one dictionary per layer, so nothing else may tell two features apart.
        assert len(set(numbered)) == graph.n_features
        for layer, number, _ in numbered:
            assert cantor_unpair(number)[0] == int(layer)
    assert sum(node["is_target_logit"] for node in value["nodes"]) == 1


def test_influence_is_the_share_of_all_that_is_at_least_as_strong() -> None:
    shares = cumulative_influence(np.array([1.0, 4.0, 0.0, 3.0], dtype=np.float32))
    assert shares.tolist() == [1.0, 0.5, 1.0, 0.875]
    assert cumulative_influence(np.zeros(2, dtype=np.float32)).tolist() == [0.0, 0.0]


def test_a_contrast_and_chosen_outputs_survive(tmp_path: Path) -> None:
    """One logit minus another is one output with a number beyond all tokens."""
    graph = hand_graph()
    index = graph.nodes.index.copy()
    index[-1] = contrast_index(7, 11)
    weights = np.zeros(len(graph.nodes), dtype=np.float32)
    weights[[0, -1]] = (0.5, 1.0)
    graph = replace(graph, nodes=replace(graph.nodes, index=index), output_weights=weights)
    for dialect in DIALECTS:
        path = tmp_path / f"{dialect}.json"
        save_graph_json(graph, everything(graph), path, dialect)
        again = read_foreign_graph(path).graph
        contrast = again.find("P3/logit/7-11")
        feature = again.find(graph.node_name(0))
        assert again.output_weights is not None
        assert again.output_weights[[feature, contrast]].tolist() == [0.5, 1.0]
        assert again.output_weights.sum() == 1.5
        assert again.scores.replacement == pytest.approx(graph.scores.replacement, abs=1e-6)
