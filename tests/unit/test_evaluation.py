"""Held-out metrics against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_studio.core import evaluation
from attention_studio.core.activations import ActivationSource
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.dictionary_set import DictionarySet, reconstruct
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.evaluation import (
    DownstreamMeter,
    DownstreamQuality,
    Evaluator,
    FvuSums,
)
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site, mlp_sites
from attention_studio.core.training_events import DENSITY_EDGES
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture(scope="module")
def corpus(loaded: LoadedModel) -> TokenCorpus:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, loaded.info.vocab_size, (20, 10)).astype(np.int32)
    tokens[:, 0] = 0
    lengths = np.full(20, 10, dtype=np.int32)
    lengths[-1] = 4
    return TokenCorpus.of(tokens, lengths, 0)


def transcoder(seed: int = 0, k: int = 5) -> Transcoder:
    g = torch.Generator().manual_seed(seed)
    t = Transcoder(TranscoderConfig(d_model=32, d_latent=40, k=k))
    for parameter in t.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.2)
    t.b_E[7] = -1e6  # never fires
    return t


def evaluator(loaded: LoadedModel, corpus: TokenCorpus, downstream: int = 1000) -> Evaluator:
    source = ActivationSource(loaded.adapter, corpus, mlp_sites((0, 2)), 100, 0)
    return Evaluator(source, loaded.adapter, 10_000, downstream)


def test_fvu_sums() -> None:
    g = torch.Generator().manual_seed(0)
    y, p = torch.randn(100, 7, generator=g) + 30, torch.randn(100, 7, generator=g) + 30
    sums = FvuSums()
    for part in range(0, 100, 33):
        sums.add(y[part : part + 33], p[part : part + 33])
    expected = (y - p).square().sum() / (y - y.mean(0)).square().sum()
    assert sums.fvu == pytest.approx(expected.item(), rel=1e-5)
    mean = FvuSums()
    mean.add(y, y.mean(0).expand_as(y))
    assert mean.fvu == pytest.approx(1.0)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_sums_are_in_float64_also_where_the_device_has_none(device: str) -> None:
    with FakeTensorMode():  # knows devices that are not here
        wide = evaluation._double(torch.empty(3, device=device))
    assert wide.dtype == torch.float64
    assert wide.device.type == ("cpu" if device == "mps" else device)


def test_reconstruct_is_the_transcoder(loaded: LoadedModel) -> None:
    t, x = transcoder(), torch.randn(1100, 32)
    prediction, counts = reconstruct(t, x)
    torch.testing.assert_close(prediction, t(x), rtol=1e-5, atol=1e-5)
    assert counts.tolist() == (t.encode(x) > 0).sum(0).tolist()


def test_layer_quality(loaded: LoadedModel, corpus: TokenCorpus) -> None:
    transcoders = {0: transcoder(0), 2: transcoder(2, k=9)}
    found = evaluator(loaded, corpus).evaluate(DictionarySet(transcoders))
    assert found.n_tokens == corpus.n_kept
    ids = torch.from_numpy(corpus.tokens.astype(np.int64))
    keep = torch.from_numpy(corpus.kept())
    activations = loaded.adapter.harvest(ids, mlp_sites((0, 2)))
    for layer, t in transcoders.items():
        found_here = activations[Site(layer, "mlp")]
        x, y = found_here.inputs[keep], found_here.outputs[keep]
        f = t.encode(x)
        quality = found.sites[Site(layer, "mlp")]
        fvu = (y - t(x)).square().sum() / (y - y.mean(0)).square().sum()
        assert quality.fvu == pytest.approx(fvu.item(), rel=1e-4)
        assert quality.l0 == pytest.approx((f > 0).float().sum(1).mean().item(), rel=1e-5)
        dead = (f > 0).sum(0) == 0
        assert dead[7]
        assert quality.dead_fraction == pytest.approx(dead.float().mean().item())
        assert sum(quality.density) == int((~dead).sum())
        assert len(quality.density) == len(DENSITY_EDGES) - 1
        frequent = ((f > 0).double().mean(0) > 10**-0.25).sum()  # the last bin: above −0.25
        assert quality.density[-1] == int(frequent)


def scored_ce(loaded: LoadedModel, corpus: TokenCorpus, logits: torch.Tensor) -> float:
    total, n = 0.0, 0
    logp = logits.log_softmax(-1)
    for row in range(corpus.n_sequences):
        for t in range(1, int(corpus.lengths[row]) - 1):
            if corpus.tokens[row, t] != 0:
                total -= logp[row, t, int(corpus.tokens[row, t + 1])].item()
                n += 1
    return total / n


def test_downstream_losses_are_those_of_the_spliced_model(
    loaded: LoadedModel, corpus: TokenCorpus
) -> None:
    transcoders = {0: transcoder(0), 2: transcoder(2)}
    meter = DownstreamMeter(loaded.adapter, corpus, 10_000)
    per_layer, all_layers = meter.measure(DictionarySet(transcoders))
    ids = torch.from_numpy(corpus.tokens.astype(np.int64))
    keep = torch.from_numpy(corpus.kept()).unsqueeze(-1)

    def spliced(layers: list[int], zero: bool = False) -> float:
        def use(t: Transcoder):  # type: ignore[no-untyped-def]
            return lambda x, y: torch.where(keep, torch.zeros_like(y) if zero else t(x), y)

        with loaded.adapter.replaced(
            {Site(layer, "mlp"): use(transcoders[layer]) for layer in layers}
        ):
            return scored_ce(loaded, corpus, loaded.adapter.logits(ids))

    original = scored_ce(loaded, corpus, loaded.adapter.logits(ids))
    for found, layers in (
        (per_layer[Site(0, "mlp")], [0]),
        (per_layer[Site(2, "mlp")], [2]),
        (all_layers, [0, 2]),
    ):
        assert found.ce_original == pytest.approx(original, rel=1e-5)
        assert found.ce_spliced == pytest.approx(spliced(layers), rel=1e-5)
        assert found.ce_zero == pytest.approx(spliced(layers, zero=True), rel=1e-5)
        assert found.kl > 0
    # Measured again with what was remembered, the numbers are the same.
    assert meter.measure(DictionarySet(transcoders))[1] == all_layers


def test_where_zeros_do_no_harm_there_is_nothing_to_recover(corpus: TokenCorpus) -> None:
    """An MLP that writes zeros, replaced by a silent dictionary: nothing changes."""
    model = tiny_loaded("llama", seed=1)
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight.zero_()
    nothing = Transcoder(TranscoderConfig(d_model=32, d_latent=4, k=1))
    nothing.b_E.fill_(-1.0)
    found, _ = DownstreamMeter(model.adapter, corpus, 100).measure(DictionarySet({1: nothing}))
    assert found[Site(1, "mlp")].kl == pytest.approx(0.0, abs=1e-6)
    assert found[Site(1, "mlp")].ce_spliced == pytest.approx(
        found[Site(1, "mlp")].ce_original, abs=1e-6
    )
    assert found[Site(1, "mlp")].loss_recovered is None


def test_a_perfect_stand_in_recovers_everything(corpus: TokenCorpus) -> None:
    """A skip connection is exact where the MLP is linear: here, its activation is the identity."""
    model = tiny_loaded("gpt_neox", seed=2)
    mlp = model.model.gpt_neox.layers[1].mlp
    mlp.act = torch.nn.Identity()
    exact = Transcoder(TranscoderConfig(d_model=32, d_latent=4, k=1, skip=True))
    exact.b_E.fill_(-1.0)
    into, out = mlp.dense_h_to_4h, mlp.dense_4h_to_h
    assert exact.W_skip is not None
    exact.W_skip.copy_(into.weight.T @ out.weight.T)
    exact.b_D.copy_(into.bias @ out.weight.T + out.bias)
    found, _ = DownstreamMeter(model.adapter, corpus, 100).measure(DictionarySet({1: exact}))
    assert found[Site(1, "mlp")].loss_recovered == pytest.approx(1.0, abs=1e-3)
    assert found[Site(1, "mlp")].kl == pytest.approx(0.0, abs=1e-6)


def test_loss_recovered() -> None:
    assert DownstreamQuality(2.0, 2.5, 4.0, 0.1).loss_recovered == pytest.approx(0.75)
    assert DownstreamQuality(2.0, 2.0, 4.0, 0.0).loss_recovered == 1.0
    assert DownstreamQuality(2.0, 5.0, 4.0, 0.1).loss_recovered == pytest.approx(-0.5)
    assert DownstreamQuality(2.0, 2.5, 1.9, 0.1).loss_recovered is None


def test_downstream_can_be_left_out(loaded: LoadedModel, corpus: TokenCorpus) -> None:
    found = evaluator(loaded, corpus, downstream=0).evaluate(
        DictionarySet({0: transcoder(), 2: transcoder()})
    )
    assert found.together is None
    assert found.sites[Site(0, "mlp")].downstream is None


def test_the_model_is_left_as_it_was(loaded: LoadedModel, corpus: TokenCorpus) -> None:
    ids = torch.from_numpy(corpus.tokens.astype(np.int64))
    before = loaded.adapter.logits(ids)
    evaluator(loaded, corpus).evaluate(DictionarySet({0: transcoder(), 2: transcoder()}))
    assert torch.equal(loaded.adapter.logits(ids), before)


def test_fvu_of_any_function(loaded: LoadedModel, corpus: TokenCorpus) -> None:
    zero, huge = mlp_sites((0, 2))
    found = evaluator(loaded, corpus).fvu_of({zero: torch.zeros_like, huge: lambda x: x * 1e3})
    assert found[zero] >= 1.0
    assert found[huge] > 1e3


def test_cancel(loaded: LoadedModel, corpus: TokenCorpus) -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        evaluator(loaded, corpus).evaluate(DictionarySet({0: transcoder()}), ctx)
