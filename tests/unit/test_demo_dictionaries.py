"""The demo's replacement models are made by the same trainer, from text of the right side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.building import MODEL_FOLDER, PROMPTS_FILE, build_model
from attention_studio.demo.dictionaries import (
    CRM_FOLDERS,
    CRMRecipe,
    NotMeasuredError,
    build_crm,
    demo_corpus,
    report,
)
from attention_studio.demo.model_training import ModelRecipe
from attention_studio.demo.text import DemoText
from attention_studio.demo.tokenizer import build_tokenizer, piece_ids

SMALL = {
    "d_latent": 32,
    "k": 4,
    "attention_latents": 16,
    "attention_k": 4,
    "tokens": 1024,
    "batch_tokens": 256,
    "block_tokens": 512,
    "heldout_tokens": 256,
    "downstream_tokens": 128,
}


def test_rows_are_of_the_side_that_is_asked_for() -> None:
    text = DemoText(0)
    ids = piece_ids(build_tokenizer(text))
    seen = demo_corpus(text, ids, 20, 64, held_out=False)
    unseen = demo_corpus(text, ids, 20, 64, held_out=True)
    again = demo_corpus(text, ids, 20, 64, held_out=False)
    assert np.array_equal(seen.tokens, again.tokens)
    assert seen.text_hash != unseen.text_hash
    # A start token parts the texts of a row, and no dictionary sees it.
    assert (seen.tokens[:, 0] == seen.start_id).all()
    assert not seen.kept()[seen.tokens == seen.start_id].any()


@pytest.mark.parametrize("name", CRM_FOLDERS)
def test_both_kinds_are_built_and_measured(tmp_path: Path, name: str) -> None:
    shape = ModelRecipe(d_model=32, n_layers=2, n_heads=2, d_mlp=48, row_length=64, rows=4, steps=3)
    build_model(0, tmp_path, replace(shape, short_length=32), scored_samples=5)
    recipe = CRMRecipe(row_length=64, rows=40, settings={**CRMRecipe().settings, **SMALL})
    found = build_crm(0, tmp_path, name, recipe)
    folder = tmp_path / name
    stored = json.loads((folder / "manifest.json").read_text())
    entries = stored["dictionaries"]
    assert {n: entry["kind"] for n, entry in entries.items()} == {
        "mlp_00": "clt" if name == "clt" else "transcoder",
        "mlp_01": "clt" if name == "clt" else "transcoder",
        "attention_00": "lorsa",
        "attention_01": "lorsa",
    }

    # The report says what the manifest says.
    def pair(kind: str, metric: str) -> list[float]:
        return [entries[f"{kind}_{layer:02}"]["metrics"][metric] for layer in (0, 1)]

    dead = [*pair("mlp", "dead_fraction"), *pair("attention", "dead_fraction")]
    assert found.fvu_mlp == pytest.approx(sum(pair("mlp", "fvu")) / 2)
    assert found.fvu_attention == pytest.approx(sum(pair("attention", "fvu")) / 2)
    assert found.fvu_mlp != pytest.approx(found.fvu_attention)
    assert (found.dead, found.worst_dead) == (pytest.approx(sum(dead) / 4), max(dead))
    together = stored["training"]["metrics"]
    assert (found.recovered, found.kl) == (together["loss_recovered"], together["kl"])
    assert found.n_bytes == sum(file.stat().st_size for file in folder.glob("*"))

    # The graphs' scores are those of the standard prompts.
    config = ModelConfig("demo", tmp_path / MODEL_FOLDER, "cpu")
    loaded = ModelManager().load_model_sync(config)
    prompts = json.loads((tmp_path / PROMPTS_FILE).read_text())
    builder = GraphBuilder(CompleteReplacementModel.from_folder(loaded, folder))
    scores = [builder.build(prompt["prompt"]).scores for prompt in prompts]
    for metric in ("replacement", "completeness"):
        each = [getattr(score, metric) for score in scores]
        assert getattr(found, metric) == pytest.approx(sum(each) / len(prompts), rel=1e-4)
        assert min(each) > 0 and max(each) < 1

    # What is missing is no zero, which would be perfect.
    with pytest.raises(NotMeasuredError, match="replacement of this"):
        report(loaded, folder, [])
    for metric, metrics in (
        ("fvu", entries["attention_01"]["metrics"]),
        ("dead_fraction", entries["mlp_00"]["metrics"]),
        ("loss_recovered", together),
        ("kl", together),
    ):
        kept = metrics[metric]
        metrics[metric] = None
        (folder / "manifest.json").write_text(json.dumps(stored))
        with pytest.raises(NotMeasuredError, match=f"^{metric} of this"):
            report(loaded, folder, prompts[:1])
        metrics[metric] = kept
    stored["training"]["metrics"] = {}
    (folder / "manifest.json").write_text(json.dumps(stored))
    with pytest.raises(NotMeasuredError, match=r"^loss_recovered of this"):
        report(loaded, folder, prompts[:1])
