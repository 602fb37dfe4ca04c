"""The optimizer of the demo's matrices.

Facts are learnt as many weak directions of a matrix. An update in proportion to the gradient (or
Adam's) follows the few strong ones first; Muon (Jordan et al. 2024) gives the momentum's singular
values all the same size, so that rare facts are learnt with the frequent ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic whose iteration takes singular values in (0, 1] to about one (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, with decoupled weight decay.

    The update of a ``[rows, columns]`` matrix is scaled by ``0.2 * sqrt(max(rows, columns))``:
    about the size of Adam's (Liu et al. 2025), so that both can share a learning rate.

    Args:
        matrices: what to train; two dimensions each.
        lr: the learning rate; may be changed in ``param_groups``.
        momentum: of the gradients, in Nesterov's form.
        weight_decay: per step, times the learning rate.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                # One call for all matrices of a shape: they are small.
                directions = torch.stack([self._direction(m, group) for m in matrices])
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonal(directions), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(update, alpha=scale)

    def _direction(self, matrix: Tensor, group: dict[str, float]) -> Tensor:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum"]
        assert matrix.grad is not None
        momentum.lerp_(matrix.grad, 1 - group["momentum"])
        return matrix.grad.lerp(momentum, group["momentum"])


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices ``[n, rows, columns]`` with their singular values brought near to one.

    By Newton and Schulz's iteration with a quintic: no decomposition, only products.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + _TINY)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x
