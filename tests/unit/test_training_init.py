"""Where training starts, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.training_init import initial_transcoder, layer_statistics

D, S, N = 8, 64, 3000


def data(noise: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with a mean and a shape of their own, outputs affine in them plus noise."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(D, D, generator=g)
    x = torch.randn(N, D, generator=g) @ mix * 3 + 5
    affine = torch.randn(D, D, generator=g)
    y = x @ affine - 2 + noise * torch.randn(N, D, generator=g)
    return x, y, affine


def fvu(prediction: Tensor, y: Tensor) -> float:
    return ((prediction - y).square().sum() / (y - y.mean(0)).square().sum()).item()


def config(kind: ActivationKind = "topk", skip: bool = False, k: int = 8) -> TranscoderConfig:
    return TranscoderConfig(d_model=D, d_latent=S, activation=kind, k=k, skip=skip)


def test_statistics() -> None:
    x, y, affine = data()
    found = layer_statistics(x, y)
    torch.testing.assert_close(found.input_mean.float(), x.mean(0))
    torch.testing.assert_close(found.output_mean.float(), y.mean(0))
    for values, scale in ((x, found.input_scale), (y, found.output_scale)):
        assert (values * scale).var(0, unbiased=False).mean().item() == pytest.approx(1.0, rel=1e-4)
    # Directions with little input variance are held back by the ridge; the map as a whole is not.
    assert (found.affine.float() - affine).norm() / affine.norm() < 0.2
    assert fvu(found.predict_affine(x), y) == pytest.approx(fvu(x @ affine - 2, y), abs=2e-3)


def test_statistics_of_bfloat16_blocks() -> None:
    x, y, _ = data()
    found, exact = layer_statistics(x.bfloat16(), y.bfloat16()), layer_statistics(x, y)
    assert found.input_scale == pytest.approx(exact.input_scale, rel=1e-2)
    assert fvu(found.predict_affine(x), y) < fvu(exact.predict_affine(x), y) + 1e-2


def test_constant_activations_have_a_scale() -> None:
    found = layer_statistics(torch.ones(10, D), torch.zeros(10, D))
    assert (found.input_scale, found.output_scale) == (1.0, 1.0)
    assert torch.isfinite(found.affine).all()


def test_the_encoder() -> None:
    x, y, _ = data()
    t = initial_transcoder(config(), layer_statistics(x, y), x, y, "zero", 0, 3)
    torch.testing.assert_close(t.W_E.norm(dim=1), torch.ones(S))
    # Centred: every latent is as often on as off before selection.
    torch.testing.assert_close(t.pre_activations(x).mean(0), torch.zeros(S), atol=1e-4, rtol=0)
    again = initial_transcoder(config(), layer_statistics(x, y), x, y, "zero", 0, 3)
    assert torch.equal(t.W_E, again.W_E)
    other = initial_transcoder(config(), layer_statistics(x, y), x, y, "zero", 0, 4)
    assert not torch.equal(t.W_E, other.W_E)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_a_zero_decoder_predicts_the_mean(kind: ActivationKind) -> None:
    x, y, _ = data()
    t = initial_transcoder(config(kind), layer_statistics(x, y), x, y, "zero", 0, 0)
    assert (t.W_D == 0).all()
    torch.testing.assert_close(t(x), y.mean(0).expand_as(y), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("init", ["zero", "response"])
def test_the_skip_is_the_affine_map(init: str) -> None:
    x, y, _ = data()
    statistics = layer_statistics(x, y)
    t = initial_transcoder(config(skip=True), statistics, x, y, init, 0, 0)  # type: ignore[arg-type]
    torch.testing.assert_close(t(x), statistics.predict_affine(x), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_a_responding_decoder_has_the_best_scale(kind: ActivationKind) -> None:
    x, y, _ = data()
    x, y = x[:2000], y[:2000]
    t = initial_transcoder(config(kind), layer_statistics(x, y), x, y, "response", 0, 0)
    best = fvu(t(x), y)
    assert best < 0.9
    for factor in (0.9, 1.1):
        changed = initial_transcoder(config(kind), layer_statistics(x, y), x, y, "response", 0, 0)
        mean = (changed.encode(x) @ changed.W_D).mean(0)
        changed.W_D.mul_(factor)
        changed.b_D.sub_(mean * (factor - 1))
        assert fvu(changed(x), y) > best


def test_jumprelu_begins_at_the_wanted_l0() -> None:
    x, y, _ = data()
    t = initial_transcoder(config("jumprelu", k=8), layer_statistics(x, y), x, y, "zero", 0, 0)
    assert t.threshold is not None
    assert (t.threshold >= 0).all()
    assert (t.encode(x) > 0).float().sum(1).mean().item() == pytest.approx(8, rel=0.1)
