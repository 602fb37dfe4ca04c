"""What the dictionaries of a single module have in common: scales, thresholds, activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Optional, Union

import torch
from torch import Tensor, nn

from attention_studio.core.dictionaries import activation_functions
from attention_studio.core.dictionaries.lorsa_config import LorsaConfig
from attention_studio.core.dictionaries.transcoder_config import TranscoderConfig


class SparseDictionary(nn.Module, ABC):
    """A dictionary of s latents, each of which writes one row to the residual stream.

    Parameters are what gradient descent changes, buffers are what it does not.

    Attributes:
        config: its shape.
        b_D: ``[d]``, what is written whatever the latents do.
        threshold: ``[s]`` for JumpReLU, a scalar for BatchTopK (the running mean of the least
            that training selected, in units of what it ranks by), else None.
        input_scale, output_scale: scalars by which ``x`` and ``y`` were multiplied in training;
            1 once folded. ``forward`` takes and returns raw activations either way.
    """

    config: Union[TranscoderConfig, LorsaConfig]
    b_D: nn.Parameter  # noqa: N815
    threshold: Optional[Tensor]
    input_scale: Tensor
    output_scale: Tensor

    @property
    @abstractmethod
    def decoder(self) -> Tensor:
        """``[s, d]``, one row per latent: what it writes at activation 1, times the scale."""

    @property
    def is_folded(self) -> bool:
        """Whether the weights work on raw activations without the training scales."""
        return self.input_scale.item() == 1.0 and self.output_scale.item() == 1.0

    def activate(self, pre: Tensor) -> Tensor:
        """The activation function alone: pre-activations ``[..., s]`` → activations."""
        config, weight = self.config, None
        if config.norm_aware:
            weight = activation_functions.selection_weight(self.decoder_norms())
        return activation_functions.activate(
            config.activation, pre, config.k, self.threshold, weight
        )

    def decoder_norms(self) -> Tensor:
        """Length of what each latent writes at activation 1, ``[s]``, in raw units."""
        norms: Tensor = torch.linalg.vector_norm(self.decoder, dim=1) / self.output_scale
        return norms

    def _start_threshold_and_scales(self) -> None:
        """Thresholds of zero, of the kind that ``config`` asks for, and scales of one."""
        if self.config.activation == "jumprelu":
            self.threshold = fixed(torch.zeros(self.config.d_latent))
        elif self.config.activation == "batchtopk":
            self.register_buffer("threshold", torch.zeros(()))
        else:
            self.threshold = None
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()))

    def _fold_outputs(self) -> None:
        """The last part of folding: scales go into what is written, and are 1 from then on."""
        for weight in (self.decoder, self.b_D):
            weight.div_(self.output_scale)
        self.input_scale.fill_(1.0)
        self.output_scale.fill_(1.0)


def fixed(start: Tensor) -> nn.Parameter:
    """A parameter that autograd leaves alone: gradients are written out by hand."""
    return nn.Parameter(start, requires_grad=False)
