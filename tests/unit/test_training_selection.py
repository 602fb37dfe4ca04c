"""Ranking latents in low precision: what may differ from the exact step, and by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention_studio.core.batch_statistics import BatchStatistics
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.training_config import StepSettings, TrainConfig
from attention_studio.core.training_gradients import BatchGradients
from attention_studio.core.training_products import products_at
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_selection import (
    Ranking,
    choose_selection_dtype,
    largest_positive,
)

N, D, S, K, CHUNK = 96, 48, 640, 8, 32


class TestLargestPositive:
    """Against a full sort."""

    @pytest.mark.parametrize(
        ("s", "k"), [(1, 1), (7, 7), (40, 5), (41, 5), (97, 3), (640, 8), (641, 8), (1000, 500)]
    )
    def test_the_largest_are_found(self, s: int, k: int) -> None:
        scores = torch.randn(50, s, generator=torch.Generator().manual_seed(s)).bfloat16()
        scores[0].abs_()
        scores[1] = 1.0  # nothing but ties
        found = largest_positive(scores, k)
        assert found.shape == (50, k)
        assert all(row.unique().numel() == k for row in found)
        values = scores.gather(1, found).float().relu().sort(1, descending=True).values
        expected = scores.float().sort(1, descending=True).values[:, :k].relu()
        torch.testing.assert_close(values, expected, rtol=0, atol=0)

    def test_few_or_no_positive_scores(self) -> None:
        scores = -torch.rand(3, 100).bfloat16() - 0.1
        scores[1, 99] = 2.0
        scores[2, [4, 50]] = 1.0
        found = largest_positive(scores, 6)
        assert all(row.unique().numel() == 6 for row in found)
        assert 99 in found[1]
        assert {4, 50} <= set(found[2].tolist())


def test_products_at_some_places() -> None:
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 5, generator=g), torch.randn(9, 5, generator=g)
    offsets, latent = torch.tensor([0, 2, 2, 5]), torch.tensor([8, 1, 0, 3, 2])
    product = left @ right.T
    expected = product[torch.tensor([0, 0, 2, 2, 2]), latent]
    torch.testing.assert_close(products_at(offsets, latent, left, right), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_encoder_is_made_ready_some_rows_at_a_time(weighted: bool) -> None:
    g = torch.Generator().manual_seed(0)
    encoder, bias, weight = (torch.randn(40, 5, generator=g) for _ in range(3))
    given = weight[:, 0] if weighted else None
    low = torch.empty(40, 5, dtype=torch.bfloat16)
    micro_steps = list(Ranking("topk", encoder, bias[:, 0], low=low).prepare(given, 7))
    assert len(micro_steps) == 6
    assert torch.equal(low, (encoder * weight[:, :1] if weighted else encoder).bfloat16())


def settings(**changes: float) -> StepSettings:
    config = TrainConfig(layers=(0,), d_latent=S, k=K, token_chunk=CHUNK, row_chunk=100)
    return replace(config.step_settings(10, D), **changes)  # type: ignore[arg-type]


def make(kind: ActivationKind) -> tuple[Transcoder, Tensor, Tensor]:
    """A transcoder and a batch with a mean far from zero, as activations of models have."""
    g = torch.Generator().manual_seed(3)
    t = Transcoder(TranscoderConfig(d_model=D, d_latent=S, activation=kind, k=K))
    mean = torch.randn(D, generator=g)
    x = torch.randn(N, D, generator=g) + mean
    t.W_E.copy_(torch.randn(S, D, generator=g) / D**0.5)
    t.W_D.copy_(torch.randn(S, D, generator=g) / D**0.5)
    t.b_E.copy_(-(t.W_E @ mean))
    return t, x, torch.randn(N, D, generator=g)


def run(
    t: Transcoder, x: Tensor, y: Tensor, how: StepSettings, dead: Tensor, low: bool
) -> tuple[BatchStatistics, dict[str, Tensor], BatchGradients]:
    scratch = StepScratch(
        t.config,
        N,
        CHUNK,
        x.device,
        selection_dtype=torch.bfloat16 if low else None,
    )
    batch = BatchGradients(t, scratch, how, dead, threshold_seen=False)
    found = list(batch.run(x, y))[-1]
    assert found is not None
    return found, scratch.gradients, batch


NONE = torch.tensor([], dtype=torch.int64)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_values_are_exact_and_gradients_those_of_the_selection(kind: ActivationKind) -> None:
    """Whatever is selected, loss and gradients are autograd's of exactly these latents."""
    t, x, y = make(kind)
    dead = torch.arange(0, S, 9)
    how = settings(auxk_coefficient=1 / 32, auxk=5)
    stats, gradients, batch = run(t, x, y, how, dead, low=True)
    p = {name: v.detach().clone().requires_grad_() for name, v in t.named_parameters()}
    pre = x @ p["W_E"].T + p["b_E"]
    mask = torch.zeros(N, S)
    for part in batch._road._active:
        mask[part.token, part.latent] = 1.0
        exact = pre[part.token, part.latent].relu().detach()
        torch.testing.assert_close(part.value, exact, rtol=1e-5, atol=1e-6)
    error = (pre.relu() * mask) @ p["W_D"] + p["b_D"] - y
    z = pre[:, dead].relu()
    kept = torch.zeros_like(z).scatter(1, z.topk(5, dim=1).indices, 1.0)
    residual = (z * kept) @ p["W_D"][dead] + error.detach()
    loss = (error.square().sum() + residual.square().sum() / 32) / N
    loss.backward()  # type: ignore[no-untyped-call]
    assert stats.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in gradients.items():
        expected = p[name].grad
        assert expected is not None
        assert (gradient - expected).norm() < 1e-5 * expected.norm(), name


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_only_near_ties_are_ranked_otherwise(kind: ActivationKind) -> None:
    t, x, y = make(kind)
    _, _, batch = run(t, x, y, settings(), NONE, low=True)
    pre = t.pre_activations(x).relu()
    mask = torch.zeros(N, S, dtype=torch.bool)
    for part in batch._road._active:
        mask[part.token, part.latent] = True
    groups = [pre, mask] if kind == "topk" else [pre.view(-1, CHUNK * S), mask.view(-1, CHUNK * S)]
    budget = K if kind == "topk" else K * CHUNK
    best = groups[0].topk(budget, dim=1).values
    taken = (groups[0] * groups[1]).sort(1, descending=True).values[:, :budget]
    # Rank by rank, what was taken is as large as what an exact ranking takes, up to roundings of
    # products of three terms of the size of x·w: 2⁻⁸ each.
    size = (x.norm(dim=1).max() * t.W_E.norm(dim=1).max()).item()
    assert (best - taken).min() >= -1e-5
    assert (best - taken).max() < 3 * 2**-8 * size
    assert taken.sum() > 0.999 * best.sum()
    exact = groups[0] >= best[:, -1:]
    assert (exact & groups[1]).sum() > 0.95 * exact.sum()


def test_batchtopk_threshold_is_that_of_the_exact_ranking() -> None:
    (low, x, y), (full, _, _) = make("batchtopk"), make("batchtopk")
    run(low, x, y, settings(), NONE, low=True)
    run(full, x, y, settings(), NONE, low=False)
    assert low.threshold is not None and full.threshold is not None
    assert full.threshold > 0
    assert low.threshold.item() == pytest.approx(full.threshold.item(), rel=0.02)


def test_low_precision_steps_are_reproducible() -> None:
    t, x, y = make("topk")
    first = {n: g.clone() for n, g in run(t, x, y, settings(), NONE, low=True)[1].items()}
    for name, gradient in run(t, x, y, settings(), NONE, low=True)[1].items():
        assert torch.equal(gradient, first[name]), name


def test_the_type_follows_from_settings_and_processor(tmp_path: Path) -> None:
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.write_text("flags\t: fpu avx512_bf16 amx_bf16\nFeatures\t: asimd bf16\n")
    slow.write_text("flags\t: fpu avx2\nFeatures\t: asimd\n")
    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    low, full = torch.bfloat16, torch.float32
    assert choose_selection_dtype("auto", cpu, "topk", fast) == low
    assert choose_selection_dtype("auto", cpu, "batchtopk", fast) == low
    assert choose_selection_dtype("auto", cpu, "topk", slow) == full
    assert choose_selection_dtype("auto", cuda, "topk", slow) == low
    assert choose_selection_dtype("auto", mps, "topk", slow) == full
    assert choose_selection_dtype("bfloat16", cpu, "topk", slow) == low
    assert choose_selection_dtype("float32", cuda, "topk", fast) == full
    for kind in ("relu", "jumprelu"):
        assert choose_selection_dtype("bfloat16", cpu, kind, fast) == full
