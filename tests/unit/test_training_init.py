"""Where training starts, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.training_config import EncoderInit
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


def test_few_far_outputs_do_not_decide_scale_and_centre() -> None:
    """Three of 3000 tokens, hundreds of times as far as the others, hold most of the variance."""
    x, y, _ = data()
    plain = layer_statistics(x, y)
    torch.testing.assert_close(plain.output_centre, plain.output_mean)
    far = y.clone()
    far[::1000] += 1000 * y.std() * torch.eye(D)[0]
    assert (far - far.mean(0)).square().sum() > 4 * (y - y.mean(0)).square().sum()
    found = layer_statistics(x, far)
    assert found.output_scale == pytest.approx(plain.output_scale, rel=0.15)
    spread = y.std(0).norm()
    assert (found.output_centre.float() - y.mean(0)).norm() < 0.05 * spread
    torch.testing.assert_close(found.output_mean.float(), far.mean(0))
    assert (found.output_mean.float() - y.mean(0)).norm() > 0.1 * spread
    start = initial_transcoder(config(), found, x, far, "zero", 0, 0)
    torch.testing.assert_close(start.b_D, (found.output_centre * found.output_scale).float())


def test_centre_and_scale_are_those_of_the_tokens_with_far_ones_drawn_near() -> None:
    """The fixed point, token by token: far rows moved to 16 times the median distance."""
    x, y, _ = data()
    y[:40] *= 500
    found = layer_statistics(x, y)
    away = y.double() - found.output_centre
    lengths = away.norm(dim=1)
    near = away * (16 * lengths.median() / lengths).clamp(max=1.0)[:, None]
    assert near.mean(0).norm() < 1e-2 * near.norm(dim=1).mean()
    assert (near * found.output_scale).square().mean().item() == pytest.approx(1.0, rel=1e-3)


def test_outputs_that_are_mostly_at_their_mean_keep_their_variance() -> None:
    """The median distance is zero and can be no measure."""
    y = torch.zeros(10, D)
    y[0], y[1] = 1.0, -1.0
    found = layer_statistics(torch.ones(10, D), y)
    assert not found.output_centre.any()
    assert found.output_scale == pytest.approx((1 / 0.2) ** 0.5)


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


def encoder(x: Tensor, encoder_init: EncoderInit) -> Tensor:
    """The encoder rows that a transcoder starts with for inputs ``x``."""
    y = torch.zeros_like(x)
    start = initial_transcoder(
        config(), layer_statistics(x, y), x, y, "zero", 0, 0, encoder_init=encoder_init
    )
    return start.W_E


def nearest(rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of each row with an input seen from the mean, and that input's index."""
    seen = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    found = (rows @ seen.t()).max(1)
    return found.values, found.indices


def test_an_encoder_of_samples_looks_at_inputs_that_occur() -> None:
    # Inputs in few directions, among many that do not occur.
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(0))
    x[:, 2:] *= 0.01
    rows = encoder(x, "samples")
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(S))
    cosines, which = nearest(rows, x)
    assert cosines.min() > 0.85
    assert len(which.unique()) > S // 2
    assert nearest(encoder(x, "random"), x)[0].min() < 0.5


def test_an_encoder_of_samples_has_no_two_rows_alike_where_the_text_repeats_itself() -> None:
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(0)).repeat(50, 1)
    rows = encoder(x, "samples")
    assert ((rows @ rows.t()).fill_diagonal_(0) < 0.9999).all()


def test_an_encoder_of_samples_with_fewer_inputs_than_latents() -> None:
    x = torch.randn(10, D, generator=torch.Generator().manual_seed(0))
    rows, random = encoder(x, "samples"), encoder(x, "random")
    assert nearest(rows[:10], x)[0].min() > 0.85
    assert sorted(nearest(rows[:10], x)[1].tolist()) == list(range(10))
    assert torch.equal(rows[10:], random[10:])


def test_inputs_without_a_direction_leave_the_encoder_random() -> None:
    x = torch.full((100, D), 0.5)
    torch.testing.assert_close(encoder(x, "samples"), encoder(x, "random"))


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
