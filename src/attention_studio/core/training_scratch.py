"""Working memory of a training step, and which tensors it trains."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import TranscoderConfig


class StepScratch:
    """Working memory of a step. Layers are trained one after the other, so they share it.

    Args:
        config: shape of the transcoders.
        batch_tokens: tokens per batch (N), or the most that a batch may have.
        token_chunk: tokens per micro-step.
        dtype: of weights and gradients.
        selection_dtype: in which latents are ranked; other than ``dtype`` for TopK and BatchTopK
            only.
        groups: number G of inputs per token; the latents come in as many equal groups, and group g
            reads input g.

    Attributes:
        x: ``[N, G, d]``, scaled inputs of the batch.
    """

    def __init__(
        self,
        config: TranscoderConfig,
        batch_tokens: int,
        token_chunk: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        selection_dtype: Optional[torch.dtype] = None,
        groups: int = 1,
    ) -> None:
        s, d = config.d_latent, config.d_model
        self.groups = groups
        self.dense = config.activation in ("relu", "jumprelu")
        self.x = torch.empty(batch_tokens, groups, d, device=device, dtype=dtype)
        self.error_gradient = torch.empty(batch_tokens, d, device=device, dtype=dtype)
        rows = batch_tokens if self.dense else token_chunk
        ranked_in = selection_dtype or dtype
        self.activations = torch.empty(rows, s, device=device, dtype=ranked_in)
        self.low_encoder: Optional[Tensor] = None
        if ranked_in != dtype:
            self.low_encoder = torch.empty(s, d, device=device, dtype=ranked_in)
        self.latent_gradient = torch.empty_like(self.activations) if self.dense else None
        self.gradients = {
            name: torch.zeros(shape, device=device, dtype=dtype)
            for name, shape in trained_shapes(config).items()
        }


def trained_shapes(config: TranscoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors that gradient descent changes."""
    return {
        name: shape
        for name, shape in config.tensor_shapes().items()
        if not name.endswith("_scale")
        and not (name == "threshold" and config.activation == "batchtopk")
    }
