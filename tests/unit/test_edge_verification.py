"""Edges tested in the model: against hooks written here, and reports that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.edge_checks import EdgeReport, Verdict
from attention_studio.core.edge_choice import EdgeChoice, EdgeChoiceError, choose_edges
from attention_studio.core.edge_verification import verify_edges
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.graph_settings import GraphSettings
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.core.validation_report import ValidationFormatError
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete
from tests.tiny import PROMPT

KEPT: dict[str, Any] = {"mlp": {}}


def traced(
    family: str = "llama", dictionaries: Any = None, **settings: Any
) -> tuple[CompleteReplacementModel, AttributionGraph]:
    model = complete(family, dictionaries)
    return model, GraphBuilder(model).build(PROMPT, GraphSettings(**settings))


def everything(graph: AttributionGraph, max_features: int = 12) -> EdgeChoice:
    return choose_edges(graph, graph.prune(1.0, 1.0), max_features=max_features)


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS, KEPT], ids=["complete", "cross", "kept"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_what_is_predicted_directly_is_the_edge(family: str, dictionaries: dict[str, Any]) -> None:
    model, graph = traced(family, dictionaries)
    choice = everything(graph)
    report = verify_edges(model, graph, choice, "direct", controls=1)
    scale = np.abs(choice.weight).max()
    assert len(report) == len(choice) > 50
    assert np.abs(report.predicted + report.weight).max() < 1e-5 * scale
    assert report.source == tuple(map(graph.node_name, choice.source.tolist()))
    # The model agrees with its own linear form better than with noise.
    assert report.agreement.correlation > 0.5
    assert (report.control > 0).mean() > 0.5


def test_a_contrast_is_verified_like_any_output() -> None:
    model, graph = traced(contrast=(4, 7))
    choice = everything(graph)
    outputs = graph.nodes.kind[choice.target] == NodeKind.LOGIT
    report = verify_edges(model, graph, choice, "direct", controls=0)
    assert outputs.any()
    assert np.allclose(report.predicted[outputs], -choice.weight[outputs], atol=1e-5)
    assert (report.control == 0).all()


@pytest.mark.parametrize("reach", ["total", "direct"])
@pytest.mark.parametrize("dictionaries", [COMPLETE, KEPT], ids=["complete", "kept"])
def test_what_is_measured_is_what_hooks_show(reach: Any, dictionaries: dict[str, Any]) -> None:
    """The slow way: one feature at a time, other modules put back by hand."""
    model, graph = traced("llama", dictionaries)
    adapter, ids = model.adapter, list(graph.token_ids)
    local = model.localize(ids)
    features, found = local.features, model.dictionaries
    choice = everything(graph, 4)
    report = verify_edges(model, graph, choice, reach, controls=0)
    untouched: dict[Site, tuple[Tensor, Tensor]] = {}

    def keep(at: Site) -> Any:
        def function(inputs: Tensor, outputs: Tensor) -> Tensor:
            untouched[at] = inputs[0].clone(), outputs.clone()
            return outputs

        return function

    def reads(at: Site, inputs: Tensor) -> Tensor:
        if at.kind == "attention":
            return found.lorsas[at.layer].pre_activations(inputs)
        return found.transcoders[at.layer].pre_activations(inputs)

    with adapter.replaced({at: keep(at) for at in local.errors}):
        plain = adapter.logits(ids)[0, -1]
    for source in choice.sources.tolist():
        site = graph.nodes.site(source)
        assert site is not None
        position, index = int(graph.nodes.position[source]), int(graph.nodes.index[source])
        decoder = (
            found.lorsas[site.layer].W_O
            if site.kind == "attention"
            else found.transcoders[site.layer].W_D
        )
        here = (features.site == site.number) & (features.position == position)
        (number,) = (here & (features.index == index)).nonzero().flatten().tolist()
        write = features.activation[number] * decoder[index]
        seen: dict[Site, Tensor] = {}

        def change(at: Site) -> Any:
            def function(inputs: Tensor, outputs: Tensor) -> Tensor:
                seen[at] = inputs[0]  # noqa: B023 - called within this turn of the loop
                left = outputs.clone()
                if reach == "direct":
                    before, left = untouched[at][0], untouched[at][1].clone()
                    skip = found.transcoders[at.layer].W_skip if at.kind == "mlp" else None
                    if skip is not None:
                        left[0, 1:] += ((inputs[0] - before) @ skip)[1:]
                if at == site:  # noqa: B023
                    left[0, position] -= write  # noqa: B023
                return left

            return function

        with adapter.replaced({at: change(at) for at in local.errors}):
            moved = adapter.logits(ids)[0, -1] - plain
        for edge in np.flatnonzero(choice.source == source).tolist():
            target = int(choice.target[edge])
            column = int(graph.nodes.index[target])
            if graph.nodes.kind[target] == NodeKind.LOGIT:
                expected = float(moved[column] - moved.mean())
            else:
                at = graph.nodes.site(target)
                assert at is not None
                place = int(graph.nodes.position[target]), column
                now, before = reads(at, seen[at])[place], reads(at, untouched[at][0])[place]
                expected = float(now - before)
            assert report.measured[edge] == pytest.approx(expected, abs=2e-4)


def test_edges_are_chosen_by_what_flows_over_them() -> None:
    _, graph = traced()
    pruned = graph.prune(0.9, 0.95)
    shown = choose_edges(graph, pruned, max_features=10_000)
    feature = graph.nodes.kind[pruned.edge_source] == NodeKind.FEATURE
    assert len(shown) == int(feature.sum())
    assert shown.n_tokens == int((~feature).sum()) > 0
    assert shown.n_weaker == 0
    few = choose_edges(graph, pruned, max_features=3)
    assert len(few.sources) == 3
    assert len(few) + few.n_weaker == len(shown)
    # The slow way: what each feature sends on, edge by edge.
    sent: dict[int, float] = {}
    flows: list[float] = []
    for source, target, weight in zip(shown.source, shown.target, shown.weight, strict=True):
        _, inputs = graph.edges.into(int(target))
        weighs = graph.influence[target] + graph.start[target]
        carried = abs(weight) / np.abs(inputs).sum() * weighs
        sent[int(source)] = sent.get(int(source), 0.0) + float(carried)
        flows.append(float(carried))
    assert flows == sorted(flows, reverse=True)
    best = sorted(sent, key=lambda node: -sent[node])[:3]
    assert set(best) == set(few.sources.tolist())
    one = graph.node_name(best[0])
    at = choose_edges(graph, pruned, "selected", [one, "L99/P1/F1"], 10_000)
    names = {one}
    assert len(at) > 0
    for source, target in zip(at.source, at.target, strict=True):
        assert names & {graph.node_name(int(source)), graph.node_name(int(target))}


def test_edges_between_pinned_nodes_need_not_be_shown() -> None:
    _, graph = traced()
    output = int(np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)[0])
    features = graph.inputs(output).nodes
    features = features[graph.nodes.kind[features] == NodeKind.FEATURE][:20].tolist()
    chosen = {output, *features}
    pins = [graph.node_name(node) for node in (*chosen, graph.find("P2/token"))]
    found = choose_edges(graph, graph.prune(0.1, 0.1), "pinned", pins, 100)
    wanted = set()
    for target in chosen:
        nodes, weights = graph.edges.into(target)
        wanted |= {
            (int(node), target)
            for node, weight in zip(nodes, weights, strict=True)
            if weight and int(node) in chosen
        }
    assert set(zip(found.source.tolist(), found.target.tolist(), strict=True)) == wanted
    assert len(wanted) > 20
    assert len(choose_edges(graph, graph.prune(), "pinned", (), 100)) == 0


def report(predicted: list[float], measured: list[float], control: list[float]) -> EdgeReport:
    n = len(predicted)
    columns = [np.array(c, dtype=np.float32) for c in (predicted, predicted, measured, control)]
    names = tuple(f"L0/P1/F{i}" for i in range(n))
    return EdgeReport(PROMPT, "hash", "crm", "total", 0, 3, names, names[::-1], *columns)


def test_a_verdict_follows_from_prediction_measurement_and_noise() -> None:
    found = report(
        [1.0, 1.0, 1.0, -1.0, 1.0, 0.1], [1.4, 1.6, -1.0, -0.6, 0.0, 0.1], [0.1] * 5 + [0.2]
    )
    confirmed, refuted, unclear = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNCLEAR
    assert found.verdicts(0.5) == (confirmed, refuted, refuted, confirmed, refuted, unclear)
    assert found.verdicts(0.3) == (refuted, refuted, refuted, refuted, refuted, unclear)
    assert found.verdicts(1.0) == (confirmed, confirmed, refuted, confirmed, confirmed, unclear)


def test_a_report_comes_back_from_a_file() -> None:
    model, graph = traced()
    first = verify_edges(model, graph, everything(graph), controls=1)
    again = EdgeReport.from_json(json.loads(json.dumps(first.to_json())))
    for name in ("weight", "predicted", "measured", "control"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert (again.source, again.target) == (first.source, first.target)
    assert again.to_json() == first.to_json()
    assert again.belongs_to(graph)
    assert not again.belongs_to(None)
    assert not again.belongs_to(replace(graph, crm_name="another"))
    known = replace(first, crm_fingerprint="a")
    again = EdgeReport.from_json(json.loads(json.dumps(known.to_json())))
    assert again.crm_fingerprint == "a"
    assert again.belongs_to(replace(graph, made_with={"dictionaries": "a"}))
    assert not again.belongs_to(replace(graph, made_with={"dictionaries": "b"}))
    older = {name: part for name, part in first.to_json().items() if name != "crm_fingerprint"}
    assert EdgeReport.from_json(older).belongs_to(graph)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 2},
        {"reach": "far"},
        {"source": ["a"]},
        {"measured": [float("nan")] * 2},
        {"weight": "many"},
        {"prompt": None},
    ],
)
def test_a_damaged_report_is_refused(change: dict[str, Any]) -> None:
    good = report([1.0, 2.0], [1.0, 2.0], [0.0, 0.0]).to_json()
    assert len(EdgeReport.from_json(good)) == 2
    with pytest.raises(ValidationFormatError):
        EdgeReport.from_json({**good, **change})
    with pytest.raises(ValidationFormatError):
        EdgeReport.from_json([good])


def test_what_cannot_be_verified_is_refused() -> None:
    model, graph = traced()
    choice = everything(graph)
    with pytest.raises(EdgeChoiceError, match="no edges"):
        verify_edges(model, graph, choose_edges(graph, graph.prune(), "pinned"))
    with pytest.raises(EdgeChoiceError, match="what is open"):
        verify_edges(model, replace(graph, model_hash="another"), choice)
    nodes = replace(graph.nodes, index=graph.nodes.index + 1)
    with pytest.raises(EdgeChoiceError, match="not active"):
        verify_edges(model, replace(graph, nodes=nodes), choice)
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        verify_edges(model, graph, choice, ctx=ctx)


def test_the_same_seed_gives_the_same_report() -> None:
    model, graph = traced()
    choice = everything(graph)
    first, again, other = (
        verify_edges(model, graph, choice, controls=2, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.from_numpy(first.control), torch.from_numpy(again.control))
    assert not np.array_equal(first.control, other.control)
    assert np.array_equal(first.measured, other.measured)
