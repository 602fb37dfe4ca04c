"""The hand-written step of a Lorsa against autograd on the loss as one would write it down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.lorsa_training import (
    LorsaScratch,
    LorsaState,
    as_transcoder,
    lorsa_training_step,
)
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_gradients import BatchGradients
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_step import StepResult, TranscoderState, training_step
from tests.slow_loss import activations, whole_loss
from tests.steps import KINDS, HasAll, HasNothing, finish
from tests.steps import SETTINGS as STEP

B, T, D, HEADS, WIDTH, S, CHUNK = 5, 9, 8, 3, 4, 36, 18
CPU = torch.device("cpu")
FULL: dict[str, Any] = {"rotary_dim": 2, "qk_norm": True, "score_cap": 3.0, "window": 5}

SETTINGS = replace(STEP, token_chunk=CHUNK, qk_rate=0.25)


def make_state(kind: ActivationKind, seed: int = 0, **overrides: Any) -> LorsaState:
    """A random double-precision Lorsa with scales, some of its latents dead."""
    g = torch.Generator().manual_seed(seed)
    shape = {"n_qk_heads": HEADS, "d_qk": WIDTH, "k": SETTINGS.k, "score_scale": 0.8, **overrides}
    lorsa = Lorsa(LorsaConfig(d_model=D, d_latent=S, activation=kind, **shape))
    for parameter in lorsa.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
    if kind == "jumprelu":
        assert lorsa.threshold is not None
        lorsa.threshold.abs_()
    if lorsa.inv_freq is not None:
        lorsa.inv_freq.copy_(torch.rand(lorsa.inv_freq.shape, generator=g))
    lorsa.input_scale.fill_(0.7)
    lorsa.output_scale.fill_(1.9)
    state = LorsaState.new(lorsa.double())
    state.tokens_since_fired[::3] = 1000
    return state


def make_batch(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(B, T, D, generator=g, dtype=torch.float64) for _ in range(2))
    kept = torch.ones(B, T, dtype=torch.bool)
    kept[:, 0] = False
    kept[1, 6:] = False
    kept[3] = False
    return x, y, kept


def autograd_twin(
    lorsa: Lorsa, x: Tensor, y: Tensor, kept: Tensor, dead: Tensor, settings: StepSettings
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of everything, dense and slow."""
    twin = Lorsa(lorsa.config).double()
    twin.load_state_dict(lorsa.state_dict())
    twin.requires_grad_(True)
    pre = twin.pre_activations(x)[kept]
    per = max(1, settings.token_chunk // T)
    groups = []
    for sequences in kept.split(per):
        tokens = torch.zeros(int(sequences.sum()))
        groups += [len(part) for part in tokens.split(settings.token_chunk) if len(part)]
    weight = None
    if lorsa.config.norm_aware:
        norms = lorsa.W_O.norm(dim=1)
        weight = (norms / norms.mean()).clamp_min(0.1)
    kind = lorsa.config.activation
    f = activations(kind, pre, twin.threshold, settings, groups, weight)
    target = y[kept] * lorsa.output_scale
    prediction = f @ twin.W_O + twin.b_D
    loss = whole_loss(kind, pre, f, prediction, target, twin.W_O, twin.threshold, dead, settings)
    loss.backward()
    found = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    return loss.item(), found


def run(
    state: LorsaState, settings: StepSettings, seed: int = 1
) -> tuple[StepResult, LorsaScratch]:
    scratch = LorsaScratch(
        state.dictionary.config, B * T, settings.token_chunk, CPU, state.dictionary.W_V.dtype
    )
    x, y, kept = make_batch(seed)
    x, y = x.to(state.dictionary.W_V.dtype), y.to(state.dictionary.W_V.dtype)
    return finish(lorsa_training_step(state, scratch, x, y, kept, settings)), scratch


def gradients_of(scratch: LorsaScratch) -> dict[str, Tensor]:
    found = dict(scratch.query_key)
    names = {"W_E": "W_V", "b_E": "b_V", "W_D": "W_O"}
    found.update({names.get(name, name): g for name, g in scratch.latents.gradients.items()})
    return found


CASES = [
    *((kind, {}, 4) for kind in KINDS),
    *((kind, FULL, 999) for kind in KINDS),
    ("topk", {"norm_aware": True}, 4),
    ("batchtopk", {"norm_aware": True}, 4),
]


@pytest.mark.parametrize("chunk", [CHUNK, 4, 1000])
@pytest.mark.parametrize(("kind", "shape", "auxk"), CASES)
def test_every_gradient_equals_autograd(
    kind: ActivationKind, shape: dict[str, Any], auxk: int, chunk: int
) -> None:
    """Two sequences at a time, one sequence in several chunks, and all in one."""
    state = make_state(kind, **shape)
    settings = replace(SETTINGS, auxk=auxk, token_chunk=chunk)
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    loss, expected = autograd_twin(state.dictionary, *make_batch(), dead, settings)
    before = {name: t.clone() for name, t in state.tensors().items()}
    result, scratch = run(state, settings)
    assert result.loss == pytest.approx(loss, rel=1e-10)
    found = gradients_of(scratch)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        if name != "b_K" or "qk_norm" in shape or "rotary_dim" in shape:
            assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11)
        assert name == "b_K" or not torch.equal(before[name], getattr(state.dictionary, name))


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_close_to_autograd(kind: ActivationKind) -> None:
    state = make_state(kind, **FULL)
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    _, expected = autograd_twin(state.dictionary, *make_batch(), dead, SETTINGS)
    single = LorsaState.new(state.dictionary.float())
    single.tokens_since_fired.copy_(state.tokens_since_fired)
    _, scratch = run(single, SETTINGS)
    for name, gradient in expected.items():
        error = (gradients_of(scratch)[name].double() - gradient).norm() / gradient.norm()
        assert error < 1e-4, name


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_ranked_in_low_precision_the_selection_is_nearly_the_same(kind: ActivationKind) -> None:
    state = make_state(kind)
    x, y, kept = make_batch()
    dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
    _, expected = autograd_twin(state.dictionary, x, y, kept, dead, SETTINGS)
    single = LorsaState.new(state.dictionary.float())
    single.tokens_since_fired.copy_(state.tokens_since_fired)
    scratch = LorsaScratch(
        state.dictionary.config, B * T, CHUNK, CPU, selection_dtype=torch.bfloat16
    )
    finish(lorsa_training_step(single, scratch, x.float(), y.float(), kept, SETTINGS))
    for name in ("W_V", "W_O", "W_Q"):
        error = (gradients_of(scratch)[name].double() - expected[name]).norm()
        assert error / expected[name].norm() < 0.1, name


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_update_is_torch_adam_with_a_slower_rate_for_queries_and_keys(
    clip: float | None,
) -> None:
    # Of which there is none here.
    settings = replace(SETTINGS, clip_norm=clip, weight_decay=2.0)
    state, twin = make_state("topk", **FULL), make_state("topk", **FULL).dictionary
    slow = [p for name, p in twin.named_parameters() if name[-1] in "QK" or "gain" in name]
    rest = [p for name, p in twin.named_parameters() if not (name[-1] in "QK" or "gain" in name)]
    assert (len(slow), len(rest)) == (6, 4)
    rate = settings.learning_rate
    adam = torch.optim.Adam([{"params": rest}, {"params": slow, "lr": rate * 0.25}], lr=rate)
    for step in range(3):
        dead = (state.tokens_since_fired >= 100).nonzero().squeeze(1)
        _, gradients = autograd_twin(twin, *make_batch(step), dead, settings)
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(True)
            parameter.grad = gradients[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), clip or 1e9)
        adam.step()
        twin.requires_grad_(False)
        result, _ = run(state, settings, seed=step)
        assert result.gradient_norm == pytest.approx(norm.item(), rel=1e-9)
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(
                getattr(state.dictionary, name), parameter, rtol=1e-6, atol=1e-9
            )


def test_at_rate_zero_queries_and_keys_stay_as_they_are() -> None:
    state, free = make_state("topk"), make_state("topk")
    run(state, replace(SETTINGS, qk_rate=0.0))
    run(free, SETTINGS)
    for name in ("W_Q", "W_K", "b_Q"):
        assert torch.equal(
            getattr(state.dictionary, name), getattr(make_state("topk").dictionary, name)
        )
        assert not torch.equal(getattr(free.dictionary, name), getattr(state.dictionary, name))
    assert torch.equal(free.dictionary.W_V, state.dictionary.W_V)


def test_left_out_positions_are_seen_but_not_judged() -> None:
    """Their inputs matter to later positions, their outputs to nothing."""
    x, y, kept = make_batch()
    found = []
    for change in ("nothing", "outputs", "inputs"):
        state = make_state("topk")
        other_x, other_y = x.clone(), y.clone()
        if change == "outputs":
            other_y[~kept] += 5.0
        if change == "inputs":
            other_x[:, 0] += 1.0
        scratch = LorsaScratch(state.dictionary.config, B * T, CHUNK, CPU, torch.float64)
        result = finish(lorsa_training_step(state, scratch, other_x, other_y, kept, SETTINGS))
        found.append((result, state.dictionary.W_O.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[2][0].loss != found[0][0].loss


def test_one_group_of_inputs_is_a_transcoder() -> None:
    """A single head that sees only its own position: the step is the transcoder's own."""
    state = make_state("topk", n_qk_heads=1, window=1)
    x, y, kept = make_batch()
    twin = TranscoderState.new(as_transcoder(make_state("topk", n_qk_heads=1, window=1).dictionary))
    twin.tokens_since_fired.copy_(state.tokens_since_fired)
    scratch = StepScratch(twin.dictionary.config, B * T, CHUNK, CPU, torch.float64)
    settings = replace(SETTINGS, qk_rate=0.0)
    expected = finish(training_step(twin, scratch, x[kept], y[kept], settings))
    result, _ = run(state, settings)
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)
    torch.testing.assert_close(state.dictionary.W_V, twin.dictionary.W_E, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state.dictionary.W_O, twin.dictionary.W_D, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sequences", [B, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_rows_makes_the_same_step(kind: ActivationKind, sequences: int) -> None:
    """It has no sequences, or none of their positions counts."""
    x, y, kept = make_batch()
    nothing = torch.zeros_like(kept[:sequences])
    all_of_it = HasAll()
    ends = []
    for part in (kept, nothing):
        state, n = make_state(kind), len(part)
        scratch = LorsaScratch(state.dictionary.config, B * T, CHUNK, CPU, torch.float64)
        peers = all_of_it if part is kept else HasNothing(all_of_it)
        result = finish(lorsa_training_step(state, scratch, x[:n], y[:n], part, SETTINGS, peers))
        ends.append((result, state.tensors()))
    assert isinstance(peers, HasNothing) and not peers.left
    assert ends[0][0] == ends[1][0]
    for name, tensor in ends[0][1].items():
        assert torch.equal(tensor, ends[1][1][name]), name


def test_what_is_restored_goes_on_to_the_same_bits() -> None:
    settings = replace(SETTINGS, auxk=999)
    state = make_state("batchtopk", **FULL)
    run(state, settings)
    kept_back = {name: t.clone() for name, t in state.tensors().items()}
    run(state, settings, seed=2)
    again = make_state("batchtopk", seed=7, **FULL)
    again.steps = 1
    for name, tensor in again.tensors().items():
        tensor.copy_(kept_back[name])
    run(again, settings, seed=2)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


def test_several_inputs_and_a_skip_connection_do_not_go_together() -> None:
    transcoder = as_transcoder(make_state("topk").dictionary)
    transcoder.W_skip = torch.nn.Parameter(torch.zeros(D, D), requires_grad=False)
    scratch = StepScratch(transcoder.config, 4, 4, CPU, groups=HEADS)
    with pytest.raises(ValueError, match="skip"):
        BatchGradients(transcoder, scratch, SETTINGS, torch.tensor([], dtype=torch.int64), True)
