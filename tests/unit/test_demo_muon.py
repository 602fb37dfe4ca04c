from __future__ import annotations

import pytest
import torch

from attention_studio.demo.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12)])
def test_singular_values_become_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    found = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    clear = values > 0.1 * values[:, :1]  # five iterations lift small ones only partly
    inner = left.mT @ found @ right.mT
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert (diagonal[clear] > 0.6).all()
    assert (diagonal < 1.3).all()
    off = inner - torch.diag_embed(diagonal)
    assert off.abs().max() < 1e-4


def test_a_step_is_momentum_made_orthogonal() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.nn.Parameter(torch.randn(6, 10, generator=generator))
    start = matrix.detach().clone()
    optimizer = Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, momentum = start, torch.zeros_like(start)
    for _ in range(3):
        gradient = torch.randn(6, 10, generator=generator)
        matrix.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = orthogonal((0.9 * momentum + 0.1 * gradient)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 10**0.5 * update
    torch.testing.assert_close(matrix.detach(), expected)


def test_it_finds_a_map_whose_directions_differ_in_strength() -> None:
    generator = torch.Generator().manual_seed(2)
    strength = torch.logspace(0, -2, 8)
    inputs = torch.randn(256, 8, generator=generator) * strength
    target = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    matrix = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([matrix], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        loss = ((inputs @ (matrix - target)) ** 2).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert (matrix.detach() - target).abs().max() < 0.05
