"""JumpReLU and its count as autograd sees them, for slow twins of hand-written gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class JumpReLU(torch.autograd.Function):
    """Rajamanoharan et al. 2024, equations 10 and 11, as autograd sees them."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, theta: Tensor, width: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.width = width
        return a * (a > theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        a, theta = ctx.saved_tensors
        kernel = (((a - theta) / ctx.width).abs() < 0.5).to(a.dtype)
        return grad * (a > theta), -(theta / ctx.width) * kernel * grad, None


class Step(torch.autograd.Function):
    """The Heaviside step with the rectangle kernel for a derivative in the threshold."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, theta: Tensor, width: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.width = width
        return (a > theta).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        a, theta = ctx.saved_tensors
        kernel = (((a - theta) / ctx.width).abs() < 0.5).to(a.dtype)
        return None, -(1 / ctx.width) * kernel * grad, None
