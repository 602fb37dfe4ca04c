"""The hand-written training step against autograd on the loss as one would write it down."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.training_adam import norm_of
from attention_studio.core.training_config import (
    StepSettings,
    TrainConfig,
    k_at,
    learning_rate_at,
)
from attention_studio.core.training_gradients import BatchGradients
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_step import (
    TranscoderState,
    training_step,
)
from tests.slow_loss import activations, whole_loss
from tests.steps import KINDS, SETTINGS, HasAll, HasNothing, finish

N, D, S = 50, 12, 40
K, CHUNK = SETTINGS.k, SETTINGS.token_chunk


def make_state(
    kind: ActivationKind, skip: bool, seed: int = 0, norm_aware: bool = False
) -> TranscoderState:
    """A random double-precision transcoder with scales, some of its latents dead."""
    g = torch.Generator().manual_seed(seed)
    t = Transcoder(
        TranscoderConfig(
            d_model=D, d_latent=S, activation=kind, k=K, skip=skip, norm_aware=norm_aware
        )
    )
    for parameter in t.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.4)
    t.W_D[3] = 0.0  # a row without a direction must not give NaN
    if kind == "jumprelu":
        assert t.threshold is not None
        t.threshold.copy_(torch.rand(S, generator=g) * 0.5)
    t.input_scale.fill_(0.7)
    t.output_scale.fill_(1.9)
    state = TranscoderState.new(t.double())
    state.tokens_since_fired[::3] = 1000
    return state


def make_batch(seed: int = 1, n: int = N) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    draw = [torch.randn(n, D, generator=g, dtype=torch.float64) for _ in range(2)]
    return draw[0], draw[1]


def autograd_twin(
    t: Transcoder, inputs: Tensor, outputs: Tensor, dead: Tensor, settings: StepSettings
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, dense and slow."""
    p = {name: v.detach().clone().requires_grad_() for name, v in t.named_parameters()}
    x, y = inputs * t.input_scale, outputs * t.output_scale
    pre = x @ p["W_E"].T + p["b_E"]
    kind, threshold = t.config.activation, p.get("threshold")
    groups = [len(part) for part in pre.split(settings.token_chunk)]
    weight = None
    if t.config.norm_aware:
        norms = t.W_D.norm(dim=1)
        weight = (norms / norms.mean()).clamp_min(0.1)
    f = activations(kind, pre, threshold, settings, groups, weight)
    prediction = f @ p["W_D"] + p["b_D"]
    if "W_skip" in p:
        prediction = prediction + x @ p["W_skip"]
    loss = whole_loss(kind, pre, f, prediction, y, p["W_D"], threshold, dead, settings)
    loss.backward()
    return loss.item(), {name: v.grad for name, v in p.items() if v.grad is not None}


def scratch_for(state: TranscoderState, n: int = N) -> StepScratch:
    return StepScratch(
        state.dictionary.config, n, CHUNK, torch.device("cpu"), state.dictionary.W_E.dtype
    )


@pytest.mark.parametrize("auxk", [4, 999])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_equals_autograd(kind: ActivationKind, skip: bool, auxk: int) -> None:
    state, (x, y) = make_state(kind, skip), make_batch()
    settings = replace(SETTINGS, auxk=auxk)
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    loss, expected = autograd_twin(state.dictionary, x, y, dead, settings)
    scratch = scratch_for(state)
    batch = BatchGradients(state.dictionary, scratch, settings, dead, threshold_seen=False)
    stats = [found for found in batch.run(x, y) if found is not None]
    assert len(stats) == 1
    assert stats[0].loss == pytest.approx(loss, rel=1e-10)
    assert set(scratch.gradients) == set(expected)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(scratch.gradients[name], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_gradients_of_latents_that_are_ranked_by_norm(kind: ActivationKind) -> None:
    state, (x, y) = make_state(kind, skip=False, norm_aware=True), make_batch()
    state.dictionary.W_D[::4] *= 4.0
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    loss, expected = autograd_twin(state.dictionary, x, y, dead, SETTINGS)
    scratch = scratch_for(state)
    batch = BatchGradients(state.dictionary, scratch, SETTINGS, dead, threshold_seen=False)
    stats = list(batch.run(x, y))[-1]
    assert stats is not None
    assert stats.loss == pytest.approx(loss, rel=1e-10)
    for name, gradient in expected.items():
        torch.testing.assert_close(scratch.gradients[name], gradient, rtol=1e-9, atol=1e-11)
    plain = make_state(kind, skip=False)
    plain.dictionary.W_D[::4] *= 4.0
    other, _ = autograd_twin(plain.dictionary, x, y, dead, SETTINGS)
    assert other != pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_close_to_autograd(kind: ActivationKind) -> None:
    state, (x, y) = make_state(kind, skip=True), make_batch()
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    _, expected = autograd_twin(state.dictionary, x, y, dead, SETTINGS)
    state = TranscoderState.new(state.dictionary.float())
    scratch = scratch_for(state)
    batch = BatchGradients(state.dictionary, scratch, SETTINGS, dead, threshold_seen=False)
    list(batch.run(x.float(), y.float()))
    for name, gradient in expected.items():
        error = (scratch.gradients[name].double() - gradient).norm() / gradient.norm()
        assert error < 1e-5, name


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_dead_latents_reach_the_encoder(kind: ActivationKind) -> None:
    """AuxK gives the encoder a gradient even when a dead latent is silent in the main path."""
    state, (x, y) = make_state(kind, skip=False), make_batch()
    dead = torch.tensor([6])
    if kind == "jumprelu":
        assert state.dictionary.threshold is not None
        state.dictionary.threshold[6] = 1e6
    # Weak but positive: never among the selected, always a candidate for AuxK.
    state.dictionary.W_E[6] = 0.0
    state.dictionary.b_E[6] = 1e-4
    with_aux, without = scratch_for(state), scratch_for(state)
    for scratch, coefficient in ((with_aux, 1.0), (without, 0.0)):
        settings = replace(SETTINGS, auxk_coefficient=coefficient, k=1)
        list(BatchGradients(state.dictionary, scratch, settings, dead, False).run(x, y))
    assert without.gradients["W_E"][6].abs().max() == 0
    assert with_aux.gradients["W_E"][6].abs().max() > 0
    assert with_aux.gradients["b_E"][6] != 0


@pytest.mark.parametrize(("clip", "decay"), [(None, 0.0), (0.5, 0.0), (0.5, 2.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_torch_adamw_with_global_clipping(
    kind: ActivationKind, clip: float | None, decay: float
) -> None:
    """Weight decay is for encoder and decoder, not for biases, skip and thresholds."""
    state = make_state(kind, skip=True)
    settings = replace(SETTINGS, clip_norm=clip, weight_decay=decay)
    scratch = scratch_for(state)
    twin = Transcoder(state.dictionary.config).double()
    twin.load_state_dict(state.dictionary.state_dict())
    decays = [twin.W_E, twin.W_D]
    stays = [p for name, p in twin.named_parameters() if name not in ("W_E", "W_D")]
    adam = torch.optim.AdamW(
        [{"params": decays, "weight_decay": decay}, {"params": stays, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )
    for step in range(4):
        x, y = make_batch(seed=step)
        dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
        _, gradients = autograd_twin(twin, x, y, dead, settings)
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(True)
            parameter.grad = gradients[name].clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
        adam.step()
        if kind == "jumprelu":
            with torch.no_grad():
                assert twin.threshold is not None
                twin.threshold.clamp_(min=0.0)
        result = finish(training_step(state, scratch, x, y, settings))
        total = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt().item()
        assert result.gradient_norm == pytest.approx(total, rel=1e-9)
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(
                getattr(state.dictionary, name).detach(), parameter.detach(), rtol=1e-7, atol=1e-9
            )


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_rows_makes_the_same_step(kind: ActivationKind, dead: bool) -> None:
    x, y = make_batch()
    all_of_it = HasAll()
    ends = []
    for n, peers in ((N, all_of_it), (0, None)):
        state = make_state(kind, skip=True, norm_aware=kind in ("topk", "batchtopk"))
        state.tokens_since_fired *= dead
        others = peers or HasNothing(all_of_it)
        result = finish(training_step(state, scratch_for(state), x[:n], y[:n], SETTINGS, others))
        ends.append((result, state.tensors()))
    assert isinstance(others, HasNothing) and not others.left
    assert ends[0][0] == ends[1][0]
    for name, tensor in ends[0][1].items():
        assert torch.equal(tensor, ends[1][1][name]), name


def test_weight_decay_is_counted_by_the_run() -> None:
    for steps in (10, 1000):
        config = TrainConfig(
            layers=(0,), tokens=steps * 8, batch_tokens=8, learning_rate=5e-3, decay=0.7
        )
        decay = config.step_settings(steps // 2, 16).weight_decay
        left = (1 - config.learning_rate * decay) ** steps
        assert left == pytest.approx(math.exp(-0.7), rel=0.05)
    for kind in ("relu", "jumprelu"):
        other = TrainConfig(layers=(0,), activation=kind)
        assert other.step_settings(0, 16).weight_decay == 0.0


def test_rows_without_a_gradient_still_coast_on_their_momentum() -> None:
    """Dense Adam: a latent that did not fire moves by what it has in its moments."""
    state = make_state("topk", skip=False)
    state.tokens_since_fired.zero_()
    state.dictionary.W_E[7] = 0.0
    state.dictionary.b_E[7] = -5.0
    state.first["W_D"][7] = 1.0
    state.second["W_D"][7] = 1.0
    before = state.dictionary.W_D[7].clone()
    finish(training_step(state, scratch_for(state), *make_batch(), SETTINGS))
    assert (state.dictionary.W_D[7] < before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_sizes_do_not_change_the_gradients(kind: ActivationKind) -> None:
    """Row chunks never do; token chunks only where they are BatchTopK's selection group."""
    state, (x, y) = make_state(kind, skip=True), make_batch()
    dead = torch.arange(0, S, 3)
    found = []
    for row_chunk, token_chunk in (
        (7, CHUNK),
        (S, CHUNK),
        (1, CHUNK if kind == "batchtopk" else N),
    ):
        settings = replace(SETTINGS, row_chunk=row_chunk, token_chunk=token_chunk)
        scratch = StepScratch(
            state.dictionary.config, N, token_chunk, torch.device("cpu"), torch.float64
        )
        list(BatchGradients(state.dictionary, scratch, settings, dead, True).run(x, y))
        found.append({name: g.clone() for name, g in scratch.gradients.items()})
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-10, atol=1e-13)


def test_statistics_of_a_batch() -> None:
    state, (x, y) = make_state("topk", skip=False), make_batch()
    t = state.dictionary
    f = t.encode(x)
    error = t(x) - y
    expected_fvu = error.square().sum() / (y - y.mean(0)).square().sum()
    state.tokens_since_fired.fill_(60)
    result = finish(training_step(state, scratch_for(state), x, y, SETTINGS))
    assert result.fvu == pytest.approx(expected_fvu.item(), rel=1e-9)
    assert result.l0 == pytest.approx((f > 0).double().sum(1).mean().item())
    silent = ~(f > 0).any(0)
    assert silent.any()
    torch.testing.assert_close(
        state.tokens_since_fired[silent], torch.full_like(state.tokens_since_fired[silent], 60 + N)
    )
    assert (state.tokens_since_fired[~silent] == 0).all()
    assert result.dead == int(silent.sum())


@pytest.mark.parametrize("silent", [False, True])
def test_batchtopk_keeps_a_running_threshold(silent: bool) -> None:
    """It starts with the first chunk that selects anything."""
    state, (x, y) = make_state("batchtopk", skip=False), make_batch()
    threshold = state.dictionary.threshold
    assert threshold is not None
    expected = None
    if silent:
        x[:CHUNK] = 0.0
        state.dictionary.b_E.zero_()
    pre = state.dictionary.pre_activations(x)
    for group in pre.split(CHUNK)[silent:]:
        least = group.flatten().topk(K * len(group)).values[-1].item()
        expected = least if expected is None else 0.99 * expected + 0.01 * least
    scratch = scratch_for(state)
    list(
        BatchGradients(
            state.dictionary,
            scratch,
            SETTINGS,
            torch.tensor([], dtype=torch.int64),
            threshold_seen=False,
        ).run(x, y)
    )
    assert threshold.item() == pytest.approx(expected)


def test_the_last_result_is_statistics_and_micro_steps_come_before() -> None:
    state, (x, y) = make_state("topk", skip=False), make_batch()
    dead = torch.tensor([0, 3])
    found = list(
        BatchGradients(state.dictionary, scratch_for(state), SETTINGS, dead, True).run(x, y)
    )
    assert isinstance(found[-1], BatchStatistics)
    assert found[:-1] == [None] * (len(found) - 1)
    assert len(found) > 2 * (N // CHUNK) + S // SETTINGS.row_chunk


def test_gradient_norm_is_over_all_parameters() -> None:
    scratch = scratch_for(make_state("topk", skip=True))
    for gradient in scratch.gradients.values():
        gradient.fill_(2.0)
    count = sum(gradient.numel() for gradient in scratch.gradients.values())
    assert norm_of(scratch.gradients.values()) == pytest.approx(2.0 * count**0.5)


class TestSchedules:
    """Against the closed forms."""

    config = TrainConfig(
        layers=(0,),
        tokens=100 * 64,
        batch_tokens=64,
        block_tokens=64,
        learning_rate=1.0,
        warmup_steps=10,
        cooldown_fraction=0.2,
        k=8,
        k_start=108,
        k_anneal_fraction=0.5,
        sparsity_warmup_fraction=0.25,
        l0_coefficient=0.01,
        l1_coefficient=0.1,
        d_latent=256,
    )

    def test_learning_rate(self) -> None:
        rates = [learning_rate_at(self.config, step) for step in range(100)]
        assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
        assert rates[10:80] == pytest.approx([1.0] * 70)
        assert rates[80:] == pytest.approx([(20 - i) / 20 for i in range(20)])

    def test_no_warm_up_and_no_cool_down(self) -> None:
        config = self.config.model_copy(update={"warmup_steps": 0, "cooldown_fraction": 0.0})
        assert [learning_rate_at(config, step) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]

    def test_k(self) -> None:
        ks = [k_at(self.config, step) for step in range(100)]
        assert ks[:50] == [round(108 - 2 * step) for step in range(50)]
        assert ks[50:] == [8] * 50

    def test_sparsity(self) -> None:
        at = [self.config.step_settings(step, d_model=16) for step in (0, 5, 25, 99)]
        assert [s.l0 for s in at] == pytest.approx([0.0, 0.16 * 0.2, 0.16, 0.16])
        assert [s.l1 for s in at] == pytest.approx([0.0, 0.4 * 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": (2, 1)}, "layers"),
        ({"layers": (1, 1)}, "layers"),
        ({"layers": (-1,)}, "layers"),
        ({"k": 5000}, "k = 5000"),
        ({"tokens": 10}, "tokens"),
        ({"block_tokens": 10}, "block_tokens"),
        ({"decay": 2.0, "tokens": 5000}, "decay = 2 is not less than the run's 2 steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{"layers": (0,), **change})


def test_token_chunks_shrink_for_wide_dictionaries() -> None:
    narrow, wide = (TrainConfig(layers=(0,), d_latent=s) for s in (4608, 65_536))
    assert narrow.chunk_tokens == 256
    assert wide.chunk_tokens == 16
