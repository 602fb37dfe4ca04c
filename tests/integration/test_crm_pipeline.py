"""Text → activations → transcoders → folder → transcoders again, on a tiny and on a real model."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from attention_studio.core.corpus import TokenCorpus, build_corpus, split_corpus
from attention_studio.core.crm_trainer import (
    CRMTrainer,
    Evaluated,
    TrainConfig,
    TrainEvent,
    run_to_end,
)
from attention_studio.core.dictionaries.crm_folder import CRMMismatchError, load_crm
from attention_studio.core.evaluation import DownstreamMeter
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site, mlp_sites
from tests.tiny import FAMILIES, WORDS, tiny_loaded

pytestmark = pytest.mark.integration


def texts(loaded: LoadedModel, folder: Path, text: str, seq_len: int) -> tuple[TokenCorpus, ...]:
    file = folder / "text.txt"
    file.write_text(text, encoding="utf-8")
    return split_corpus(build_corpus(loaded, [str(file)], seq_len=seq_len), 2000)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_reloads(family: str, tmp_path: Path) -> None:
    loaded = tiny_loaded(family)
    words = np.random.default_rng(0).choice(WORDS, 12_000)
    corpus, heldout = texts(loaded, tmp_path, " ".join(words), seq_len=32)
    config = TrainConfig(
        layers=tuple(range(loaded.info.n_layers)),
        d_latent=256,
        k=8,
        skip=True,
        tokens=80 * 256,
        batch_tokens=256,
        block_tokens=2048,
        seq_len=32,
        heldout_tokens=2000,
        learning_rate=1e-2,
        harvest_dtype="float32",
    )
    trainer = CRMTrainer(loaded, corpus, heldout, config, tmp_path / "crm")
    run_to_end(trainer)
    newest = trainer.history[-len(config.layers) :]
    for row in newest:
        assert row.fvu < row.affine_fvu, row

    crm = load_crm(tmp_path / "crm", loaded.info)
    assert list(crm.dictionaries.transcoders) == list(config.layers)
    # The folder's weights do what was measured when they were trained.
    _, overall = DownstreamMeter(loaded.adapter, heldout, config.downstream_tokens).measure(
        crm.dictionaries
    )
    recorded = crm.manifest.training.metrics
    assert overall.ce_spliced == pytest.approx(recorded["ce_spliced"], rel=1e-5)
    assert overall.kl == pytest.approx(recorded["kl"], rel=1e-3, abs=1e-6)

    other = tiny_loaded(family, seed=5)
    with pytest.raises(CRMMismatchError, match="weights_hash"):
        load_crm(tmp_path / "crm", other.info)


@pytest.mark.slow
def test_two_layers_of_smollm2(smollm2: LoadedModel, tmp_path: Path) -> None:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    corpus, heldout = texts(smollm2, tmp_path, text, seq_len=128)
    config = TrainConfig(
        layers=(1, 4),
        d_latent=1152,
        tokens=16 * 1024,
        batch_tokens=1024,
        block_tokens=8192,
        heldout_tokens=2000,
        downstream_tokens=256,
        eval_every=8,
    )
    seen: list[Evaluated] = []

    def note(event: TrainEvent) -> None:
        if isinstance(event, Evaluated):
            seen.append(event)

    trainer = CRMTrainer(smollm2, corpus, heldout, config, tmp_path / "crm")
    run_to_end(trainer, on_event=note)
    half, whole = seen
    for early, late in zip(half.metrics, whole.metrics, strict=True):
        assert late.fvu < early.fvu
        assert late.fvu < 0.85
        assert late.dead_fraction < 0.5
        assert late.loss_recovered is not None
        assert late.loss_recovered > 0.3
    assert whole.kl is not None
    assert half.kl is not None
    assert whole.kl < half.kl

    assert not trainer.dictionaries.sites  # a finished run has given its memory back
    crm = load_crm(tmp_path / "crm", smollm2.info)
    ids = torch.from_numpy(heldout.tokens[:4].astype(np.int64))
    found = smollm2.adapter.harvest(ids, mlp_sites((1, 4)))
    keep = torch.from_numpy(heldout.kept()[:4])
    for layer, t in crm.dictionaries.transcoders.items():
        site = Site(layer, "mlp")
        x, y = found[site].inputs[keep], found[site].outputs[keep]
        assert (t.encode(x) > 0).sum(1).max() <= config.k
        fvu = (t(x) - y).square().sum() / (y - y.mean(0)).square().sum()
        assert fvu < 1.0
