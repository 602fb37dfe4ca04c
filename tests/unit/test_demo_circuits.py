"""The demo's graphs are scored by the rules, and the clearest circuits stand in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention_studio.core.attribution import Targets, edges_into, total_effects
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.circuits import CircuitScorer, as_record, summarise
from attention_studio.demo.text import DemoText
from attention_studio.demo.truth import answer_flow
from attention_studio.utils.files import read_json
from attention_studio.utils.paths import BUILT_IN_CRMS, DEMO_ASSETS
from attention_studio.utils.progress import WorkContext
from tests.tiny import PROMPT, random_dictionaries, tiny_loaded


@pytest.mark.parametrize(
    "dictionaries", [{"mlp": {}, "attention": {}}, {"clt": {}, "attention": {"layers": (0, 2)}}]
)
def test_effects_through_the_graph_are_those_of_the_local_model(
    dictionaries: dict[str, Any],
) -> None:
    loaded = tiny_loaded()
    crm = CompleteReplacementModel(loaded, random_dictionaries(loaded.adapter, **dictionaries))
    graph = GraphBuilder(crm).build(PROMPT)
    local = crm.localize(graph.token_ids)
    directions, bias = local.logit_directions([4, 7])
    last = torch.tensor([len(local.ids) - 1] * 2)
    targets = Targets(directions, bias, last, last[:0])
    effects = total_effects(local, targets, WorkContext())
    for row, expected in zip(edges_into(local, targets).weights, effects, strict=True):
        flow = answer_flow(graph, row.numpy())
        got = flow.effect[: len(local.features)]
        scale = float(expected.abs().max())
        assert got == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4 * scale)


@pytest.fixture(scope="module")
def scorer() -> CircuitScorer:
    loaded = ModelManager().load_model_sync("demo")
    crm = CompleteReplacementModel.from_folder(loaded, BUILT_IN_CRMS["demo"])
    return CircuitScorer(crm, DemoText(0), references=240)


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    listed = read_json(DEMO_ASSETS / "prompts.json")
    return {record["task"]: record for record in listed if record["classic"]}


def test_the_two_step_fact_is_found_with_its_unsaid_state(
    scorer: CircuitScorer, records: dict[str, dict[str, Any]]
) -> None:
    score = scorer.score(records["two_step"])
    assert score.says == " Austin"
    assert score.probability > 0.9
    # Dallas and capital, of eight words, have most of the influence.
    assert score.by_contrast.auc == 1.0
    assert score.by_contrast.share > 0.5
    assert score.step is not None
    assert score.step.value == "Texas"
    assert score.step.read
    assert score.step.among > 10


def test_means_and_records_hold_what_was_scored(
    scorer: CircuitScorer, records: dict[str, dict[str, Any]]
) -> None:
    scores = [scorer.score(records[task]) for task in ("brackets", "sums", "brackets")]
    brackets, sums = summarise(scores)
    assert (brackets.task, brackets.prompts) == ("brackets", 2)
    assert brackets.share == pytest.approx(scores[0].by_contrast.share)
    assert brackets.per_distractor == pytest.approx(scores[0].by_contrast.per_distractor)
    assert sums.per_distractor is None
    assert sums.read is None
    assert sums.share == pytest.approx(scores[1].by_contrast.share)
    record = as_record(scores)
    assert [prompt["task"] for prompt in record["prompts"]] == ["brackets", "sums", "brackets"]
    for score in scores:
        assert len(score.shares) == len(records[score.task]["tokens"]) + 1
        assert np.sum(score.shares) <= 1 + 1e-5
