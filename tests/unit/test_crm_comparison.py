"""Comparing CRMs: what is reported is what was measured, and what is bad is called so."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attention_studio.core.corpus import build_corpus
from attention_studio.core.crm_comparison import compare_crms
from attention_studio.core.crm_quality import (
    CRMComparison,
    EvaluationRequest,
    coverage,
    defects,
)
from attention_studio.core.dictionaries.crm_folder import CRMMismatchError, save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.evaluation import DownstreamMeter
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.core.training_events import DENSITY_EDGES, ERROR_EDGES, SiteMetrics
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import PROMPT, WORDS, random_lorsas, random_transcoders, tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def request_(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> EvaluationRequest:
    """Two CRMs: one of two MLPs, one of every module."""
    base = tmp_path_factory.mktemp("crms")
    (base / "text.txt").write_text(" ".join(WORDS * 40))
    two = DictionarySet(random_transcoders(loaded.adapter, layers=(0, 2)))
    every = DictionarySet(random_transcoders(loaded.adapter, seed=3), random_lorsas(loaded.adapter))
    save_crm(
        base / "two", two, loaded.info, metrics={Site(0, "mlp"): {"affine_fvu": 0.25}}
    )  # fmt: skip
    save_crm(base / "every", every, loaded.info)
    return EvaluationRequest(
        folders=(base / "two", base / "every"),
        sources=(str(base / "text.txt"),),
        prompts=(PROMPT,),
        tokens=200,
        downstream_tokens=60,
        seq_len=16,
    )


class Listener(WorkContext):
    """Notes what is reported, and may stop the work at some point of it."""

    def __init__(self, stop_at: str = "\0") -> None:
        super().__init__()
        self.texts: list[str] = []
        self._stop_at = stop_at

    def progress(self, done: float, total: Any, text: str = "") -> None:
        self.texts.append(text)
        if self._stop_at in text:
            self.cancel()


@pytest.fixture(scope="module")
def compared(loaded: LoadedModel, request_: EvaluationRequest) -> CRMComparison:
    return compare_crms(loaded, request_)


def test_what_is_reported_is_what_was_measured(
    loaded: LoadedModel, request_: EvaluationRequest, compared: CRMComparison
) -> None:
    two, every = compared.crms
    assert [found.site.name for found in two.modules] == ["mlp_00", "mlp_02"]
    assert len(every.modules) == 6 and two.tokens == every.tokens == 200
    assert [found.affine_fvu for found in two.modules] == [0.25, None]
    for crm in compared.crms:
        for found in crm.modules:
            assert sum(found.errors) == 200
            assert sum(found.density) == round(24 * (1 - found.dead_fraction))
    # The loss and the graph, measured once more by themselves.
    crm = CompleteReplacementModel.from_folder(loaded, request_.folders[0])
    corpus = build_corpus(loaded, request_.sources, 16, max_tokens=400)
    _, together = DownstreamMeter(loaded.adapter, corpus, 60).measure(crm.dictionaries)
    assert two.together["kl"] == pytest.approx(together.kl)
    scores = GraphBuilder(crm).build(PROMPT).scores
    assert two.prompts[0].replacement == pytest.approx(scores.replacement, rel=1e-4)
    assert two.mean("fvu") == pytest.approx((two.modules[0].fvu + two.modules[1].fvu) / 2)
    assert two.mean("affine_fvu") == 0.25
    assert two.coverage == "2 of 3 MLPs"
    assert every.coverage == "3 of 3 MLPs, 3 of 3 attention blocks"


def test_it_is_saved_whole_as_json_and_as_a_table(compared: CRMComparison, tmp_path: Path) -> None:
    compared.save(tmp_path / "all.json")
    compared.save(tmp_path / "all.csv")
    stored = json.loads((tmp_path / "all.json").read_text())
    first = stored["crms"][0]
    assert first["density_edges"] == list(DENSITY_EDGES)
    assert first["error_edges"] == list(ERROR_EDGES)
    assert first["metrics"]["mlp_02"]["fvu"] == compared.crms[0].modules[1].fvu
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["module"] for row in rows[:3]] == ["all", "mlp_00", "mlp_02"]
    assert len(rows) == 2 + 2 + 6
    assert float(rows[0]["mean_fvu"]) == compared.crms[0].mean("fvu")
    assert float(rows[0]["kl"]) == compared.crms[0].together["kl"]
    assert float(rows[1]["kl"]) == compared.crms[0].modules[0].kl
    assert rows[2]["affine_fvu"] == "" and rows[1]["mean_fvu"] == ""


def test_what_was_not_measured_is_none_and_not_zero(
    loaded: LoadedModel, request_: EvaluationRequest
) -> None:
    bare = replace(request_, folders=request_.folders[:1], prompts=(), downstream_tokens=0)
    (crm,) = compare_crms(loaded, bare).crms
    summary = crm.summary()
    assert summary["kl"] is summary["loss_recovered"] is summary["replacement"] is None
    assert crm.modules[0].kl is None and summary["mean_fvu"] is not None


def test_progress_names_the_crm_and_it_can_be_cancelled(
    loaded: LoadedModel, request_: EvaluationRequest
) -> None:
    listener = Listener(stop_at="every (2 of 2): Measuring the model's loss")
    with pytest.raises(Cancelled):
        compare_crms(loaded, request_, listener)
    assert any(text.startswith("two (1 of 2): ") for text in listener.texts)


def test_a_crm_of_another_model_is_refused(request_: EvaluationRequest) -> None:
    with pytest.raises(CRMMismatchError):
        compare_crms(tiny_loaded("gpt2"), request_)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, set()),
        ({"fvu": 0.31}, {"fvu"}),
        ({"fvu": 0.31, "affine_fvu": None}, set()),
        ({"dead_fraction": 0.11}, {"dead_fraction"}),
        ({"dense_fraction": 0.06}, {"dense_fraction"}),
        ({"dead_fraction": 0.10, "dense_fraction": 0.05, "fvu": 0.3}, set()),
    ],
)
def test_what_is_bad_is_called_so(change: dict[str, Any], wrong: set[str]) -> None:
    good = SiteMetrics(1, Site(0, "mlp"), 0.2, 0.3, 8.0, 0.0, (), (), 0.0, 0.9, 0.1)
    assert set(defects(replace(good, **change))) == wrong


def test_coverage_names_only_what_there_is() -> None:
    assert coverage(30, 30, 30) == "30 of 30 MLPs, 30 of 30 attention blocks"
    assert coverage(0, 2, 3) == "2 of 3 attention blocks"
    assert coverage(1, 0, 3) == "1 of 3 MLPs"
