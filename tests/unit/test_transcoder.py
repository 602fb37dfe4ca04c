"""Activation functions and the transcoder module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.activation_functions import (
    batchtopk_entries,
    jumprelu,
    relu,
    selection_weight,
    topk,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind

KINDS: tuple[ActivationKind, ...] = ("relu", "topk", "batchtopk", "jumprelu")


def random_transcoder(kind: ActivationKind, skip: bool = False, seed: int = 0) -> Transcoder:
    """A transcoder with random weights and training scales."""
    g = torch.Generator().manual_seed(seed)
    t = Transcoder(TranscoderConfig(d_model=10, d_latent=30, activation=kind, k=4, skip=skip))
    for parameter in t.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
    if t.threshold is not None:
        t.threshold.copy_(torch.rand(t.threshold.shape, generator=g) + 0.1)
    t.input_scale.fill_(0.37)
    t.output_scale.fill_(5.1)
    return t


def inputs(n: int = 25, seed: int = 5) -> Tensor:
    return torch.randn(n, 10, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def test_relu() -> None:
    assert relu(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [0.0, 0.0, 2.0]


def test_topk_keeps_the_largest_and_only_positive_ones() -> None:
    pre = torch.tensor([[1.0, 5.0, -3.0, 4.0], [-1.0, -2.0, 0.5, -4.0]])
    assert topk(pre, 2).tolist() == [[0, 5.0, 0, 4.0], [0, 0, 0.5, 0]]
    assert topk(pre, 9).tolist() == relu(pre).tolist()


def test_selection_weights_are_norms_in_units_of_their_mean_with_a_floor() -> None:
    norms = torch.tensor([4.0, 1.0, 0.0, 3.0])
    assert selection_weight(norms).tolist() == [2.0, 0.5, pytest.approx(0.1), 1.5]
    assert torch.equal(selection_weight(norms * 8), selection_weight(norms))
    assert selection_weight(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_weights_rank_but_do_not_change_activations() -> None:
    pre, weight = torch.tensor([[1.0, 5.0, -3.0, 4.0]]), torch.tensor([9.0, 1.0, 9.0, 1.0])
    assert topk(pre, 2, weight).tolist() == [[1.0, 5.0, 0, 0]]
    assert jumprelu(pre, torch.tensor(4.5), weight).tolist() == [[1.0, 5.0, 0, 0]]


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_norm_aware_transcoder_selects_by_norm_folded_or_not(kind: ActivationKind) -> None:
    plain, x = random_transcoder(kind), inputs()
    t = Transcoder(TranscoderConfig(**{**plain.config.model_dump(), "norm_aware": True}))
    t.load_state_dict(plain.state_dict())
    t.W_D[::4] *= 6.0
    pre = t.pre_activations(x)
    keys = pre * selection_weight(t.W_D.norm(dim=1))
    assert t.threshold is not None or kind == "topk"
    if kind == "topk":
        kept = torch.zeros_like(pre).scatter(1, keys.topk(4, dim=1).indices, 1.0)
    else:
        kept = (keys > t.threshold).float()
    expected = pre.relu() * kept
    torch.testing.assert_close(t.encode(x), expected)
    assert not torch.equal(plain.encode(x) > 0, expected > 0)
    t.fold()
    torch.testing.assert_close(t.encode(x), expected)


def test_jumprelu_needs_more_than_the_threshold() -> None:
    pre = torch.tensor([[1.0, 1.0, 1.0]])
    assert jumprelu(pre, torch.tensor([0.5, 1.0, 1.5])).tolist() == [[1.0, 0, 0]]


@pytest.mark.parametrize("hint", [0.0, 0.3, 1.4, 99.0])
def test_batchtopk_takes_the_largest_of_the_group_whatever_the_hint(hint: float) -> None:
    pre = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    positions, values = batchtopk_entries(pre, 3, hint)
    expected = pre.flatten().topk(18)
    assert positions.tolist() == sorted(expected.indices.tolist())
    assert torch.equal(values, pre.flatten()[positions])


@pytest.mark.parametrize("hint", [0.0, 0.5, 1.0, 2.5])
def test_batchtopk_takes_the_first_of_equals_whatever_the_hint(hint: float) -> None:
    pre = torch.randint(-1, 4, (8, 50), generator=torch.Generator().manual_seed(0)).bfloat16()
    positions, _ = batchtopk_entries(pre, 5, hint)
    first = pre.flatten().sort(descending=True, stable=True).indices[:40]
    assert positions.tolist() == sorted(first.tolist())


def test_batchtopk_never_takes_what_is_not_positive() -> None:
    pre = -torch.ones(4, 5)
    pre[2, 3] = 2.0
    positions, values = batchtopk_entries(pre, 3)
    assert positions.tolist() == [13]
    assert values.tolist() == [2.0]


def test_transcoder_forward() -> None:
    """The formula, written out."""
    t = random_transcoder("topk", skip=True)
    t.fold()
    x = inputs()
    f = topk(x @ t.W_E.T + t.b_E, 4)
    assert t.W_skip is not None
    torch.testing.assert_close(t(x), f @ t.W_D + t.b_D + x @ t.W_skip)
    assert (t.encode(x) > 0).sum(1).max() <= 4


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_no_output(kind: ActivationKind, skip: bool) -> None:
    t = random_transcoder(kind, skip).double()
    x = inputs().double()
    before, latents = t(x), t.encode(x)
    assert not t.is_folded
    t.fold()
    assert t.is_folded
    torch.testing.assert_close(t(x), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(t.encode(x), latents, rtol=1e-12, atol=1e-12)
    weights = t.W_D.clone()
    t.fold()
    assert torch.equal(t.W_D, weights)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_in_single_precision(kind: ActivationKind, skip: bool) -> None:
    t, x = random_transcoder(kind, skip), inputs()
    before = t(x)
    t.fold()
    assert ((t(x) - before).abs().max() / before.abs().max()).item() < 1e-6


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_equals_dense(kind: ActivationKind, folded: bool) -> None:
    t, x = random_transcoder(kind, skip=True), inputs()
    if folded:
        t.fold()
    f = t.encode(x)
    sparse = t.encode_sparse(x)
    dense = torch.zeros_like(f)
    dense[sparse.token, sparse.latent] = sparse.value
    assert torch.equal(dense, f)
    assert (sparse.value > 0).all()
    order = sparse.token * 1000 + sparse.latent
    assert (order.diff() > 0).all()
    torch.testing.assert_close(t.decode_sparse(sparse, len(x), x), t(x))


def test_tokens_without_active_latents_decode_to_the_bias() -> None:
    t, x = random_transcoder("relu"), inputs(3)
    t.b_E.fill_(-1e6)
    t.fold()
    sparse = t.encode_sparse(x)
    assert sparse.token.numel() == 0
    torch.testing.assert_close(t.decode_sparse(sparse, 3), t.b_D.expand(3, -1))


def test_batch_independence_of_batchtopk() -> None:
    """At inference a token's latents do not depend on its neighbours."""
    t, x = random_transcoder("batchtopk"), inputs()
    torch.testing.assert_close(t.encode(x)[3:4], t.encode(x[3:4]))


def test_any_leading_shape() -> None:
    t, x = random_transcoder("topk", skip=True), inputs(24)
    torch.testing.assert_close(t(x.view(2, 3, 4, 10)), t(x).view(2, 3, 4, 10))


def test_skip_needs_the_input() -> None:
    t = random_transcoder("relu", skip=True)
    with pytest.raises(ValueError, match="skip"):
        t.decode(torch.zeros(1, 30))


@pytest.mark.parametrize(
    "bad",
    [
        {"k": 31},
        {"d_model": 0},
        {"d_latent": 1 << 40},
        {"activation": "gelu"},
        {"colour": 1},
        {"k": 0},
    ],
)
def test_configurations_that_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TranscoderConfig(**{"d_model": 10, "d_latent": 30, "k": 3, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_declared_shapes_are_the_real_ones(kind: ActivationKind) -> None:
    t = random_transcoder(kind, skip=True)
    assert {n: tuple(v.shape) for n, v in t.state_dict().items()} == t.config.tensor_shapes()
