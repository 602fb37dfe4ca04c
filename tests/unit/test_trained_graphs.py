"""From the trainer's folder to a graph: what is trained, saved and opened again can be traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attention_studio.core.feature_extractor import FeatureExtractor
from attention_studio.core.graph_builder import GraphBuilder, NodeKind
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.validation import validate
from tests.tiny import PROMPT, tiny_loaded
from tests.training import make_trainer, run_to_end

ATTENTION: dict[str, Any] = {"attention_latents": 64, "attention_k": 8}
LONGER: dict[str, Any] = {"layers": (0, 1, 2), "k": 8, "k_start": 16, "tokens": 100 * 64}
RUNS: dict[str, dict[str, Any]] = {
    "transcoders and Lorsas": {**LONGER, **ATTENTION, "attention_layers": (0, 1, 2)},
    "cross-layer and Lorsas": {
        **LONGER,
        **ATTENTION,
        "mlp": "clt",
        "skip": False,
        "attention_layers": (0, 2),
    },
}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS.keys())
def trained(
    request: pytest.FixtureRequest, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> CompleteReplacementModel:
    out: Path = tmp_path_factory.mktemp("trained") / "crm"
    run_to_end(make_trainer(loaded, out, **{**request.param, "checkpoint_every": 1000}))
    return CompleteReplacementModel.from_folder(loaded, out)


def test_its_graph_sums_and_shows_both_kinds(trained: CompleteReplacementModel) -> None:
    graph = GraphBuilder(trained).build(PROMPT)
    assert graph.scores.max_identity_error < 1e-4
    features = graph.nodes.kind == NodeKind.FEATURE
    for kind in (0, 1):
        assert (features & (graph.nodes.site_kind == kind)).sum() > 0
    # What is trained leaves less unexplained than what is silent, which leaves everything.
    local = trained.localize(graph.token_ids)
    for site in trained.sites:
        record = local.record
        write = (record.attention_out if site.kind == "attention" else record.mlp_out)[site.layer]
        assert torch.equal(local.errors[site][0], write[0])
        assert local.errors[site][1:].norm() < 0.9 * write[1:].norm()
    assert 0 < graph.scores.replacement < 1
    assert graph.captions
    assert any(graph.label(node).startswith("A") for node in graph.captions)


def test_its_ablations_agree_with_the_model_better_than_chance(
    trained: CompleteReplacementModel,
) -> None:
    report = validate(trained, PROMPT, samples=24)
    assert report.largest_freeze_gap < 1e-4
    assert {check.kind for check in report.checks} == {"attention", "mlp"}
    assert report.logits.correlation > 0.7
    assert report.features.correlation > 0.7
    assert abs(report.control.correlation) < 0.4


def test_its_features_are_listed_with_their_kind(trained: CompleteReplacementModel) -> None:
    report = FeatureExtractor(trained).extract_features(PROMPT)
    listed = [record for records in report.by_position for record in records]
    assert {record.kind for record in listed} == {"attention", "mlp"}
    for record in listed[:20]:
        fires = report.activations(record.site, record.index)
        assert fires[record.position] == pytest.approx(record.activation)
