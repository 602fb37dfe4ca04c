"""Where training starts. How far a small budget gets is decided here.

The first block of activations gives each layer its scales, means and the best affine map from
input to output. That map is what a dictionary without latents would reach, and so the baseline
that stands beside every FVU; it also starts the skip connection or the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attention_studio.core.dictionaries.activation_functions import jumprelu, relu, topk
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig

_RIDGE = 1e-3
_CHUNK = 2048
_SAMPLE = 2048


@dataclass(frozen=True)
class LayerStatistics:
    """What one block says about a layer, on raw activations, float64.

    Attributes:
        input_mean, output_mean: ``[d]``.
        input_scale, output_scale: factors that give centred activations unit variance per
            coordinate on average.
        affine: ``[d, d]``; the ridge regression ``y − ȳ ≈ (x − x̄) @ affine``.
    """

    input_mean: Tensor
    output_mean: Tensor
    input_scale: float
    output_scale: float
    affine: Tensor

    def predict_affine(self, x: Tensor) -> Tensor:
        """The best affine guess at the output, for raw ``x [n, d]``."""
        affine = self.affine.to(x.dtype)
        shift = self.output_mean - self.input_mean @ self.affine
        return x @ affine + shift.to(x.dtype)


def layer_statistics(inputs: Tensor, outputs: Tensor) -> LayerStatistics:
    """Means, scales and the best affine map of activations ``[n, d]``.

    The ridge is a thousandth of the mean input variance: enough for directions that a block
    barely visits, too little to show in the FVU.
    """
    n, d = inputs.shape
    mean_x, mean_y = inputs.double().mean(0), outputs.double().mean(0)
    xx = torch.zeros(d, d, dtype=torch.float64, device=inputs.device)
    xy = torch.zeros_like(xx)
    variance_y = torch.zeros((), dtype=torch.float64, device=inputs.device)
    for lo in range(0, n, _CHUNK):
        # Centred before they are multiplied, so that float32 products lose nothing to the means.
        x = (inputs[lo : lo + _CHUNK].double() - mean_x).float()
        y = (outputs[lo : lo + _CHUNK].double() - mean_y).float()
        xx += x.t() @ x
        xy += x.t() @ y
        variance_y += y.double().square().sum()
    variance_x = float(xx.diagonal().sum()) / n
    ridge = _RIDGE * float(xx.diagonal().mean()) + 1e-30
    affine = torch.linalg.solve(xx + ridge * torch.eye(d, dtype=xx.dtype, device=xx.device), xy)
    return LayerStatistics(
        input_mean=mean_x,
        output_mean=mean_y,
        input_scale=_unit_scale(variance_x, d),
        output_scale=_unit_scale(float(variance_y) / n, d),
        affine=affine,
    )


def initial_transcoder(
    config: TranscoderConfig,
    statistics: LayerStatistics,
    inputs: Tensor,
    outputs: Tensor,
    init: Literal["zero", "response"],
    seed: int,
    layer: int,
) -> Transcoder:
    """An unfolded transcoder, ready to be trained.

    Encoder rows are random unit vectors and ``b_E = −W_E·mean(x)``, so that every latent begins
    at the middle of what it sees. ``b_D`` is the mean output. JumpReLU thresholds let each latent
    fire on the share k/s of the tokens. With a skip connection, that holds the affine map and the
    decoder is zero; else the decoder is zero or each latent's mean linear response
    ``γ·w_i @ affine`` with the γ that leaves the least error.

    Args:
        inputs, outputs: raw activations ``[n, d]`` of the block that ``statistics`` are of.
        seed, layer: decide the encoder directions.
    """
    t = Transcoder(config)
    device = inputs.device
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    directions = torch.randn(config.d_latent, config.d_model, generator=generator)
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    a, c = statistics.input_scale, statistics.output_scale
    t.input_scale.fill_(a)
    t.output_scale.fill_(c)
    t.W_E.copy_(directions)
    t = t.to(device)
    mean_x = (statistics.input_mean * a).float()
    t.b_E.copy_(-(t.W_E @ mean_x))
    t.b_D.copy_(statistics.output_mean * c)
    affine = (statistics.affine * (c / a)).float()
    pre = t.pre_activations(inputs[:_SAMPLE].float())
    if config.activation == "jumprelu":
        assert t.threshold is not None  # JumpReLU is built with one
        share = min(config.k / config.d_latent, 1.0)
        rank = max(1, round(share * pre.shape[0]))
        t.threshold.copy_(torch.topk(pre, rank, dim=0).values[-1].clamp_min(0.0))
    if t.W_skip is not None:
        t.W_skip.copy_(affine)
        t.b_D.sub_(mean_x @ affine)
    elif init == "response":
        _respond(t, affine, pre, (outputs[:_SAMPLE].double() * c).float())
    return t


def _respond(t: Transcoder, affine: Tensor, pre: Tensor, y: Tensor) -> None:
    if t.config.activation == "jumprelu":
        assert t.threshold is not None  # JumpReLU is built with one
        f = jumprelu(pre, t.threshold)
    elif t.config.activation == "relu":
        f = relu(pre)
    else:
        f = topk(pre, t.config.k)
    t.W_D.copy_(t.W_E @ affine)
    response = f @ t.W_D
    mean = response.mean(0)
    centred = response - mean
    gamma = (centred * (y - y.mean(0))).sum() / centred.square().sum().clamp_min(1e-30)
    t.W_D.mul_(gamma)
    t.b_D.sub_(gamma * mean)


def _unit_scale(variance: float, d: int) -> float:
    # Activations that never vary (an ablated layer) have no scale of their own.
    return (d / variance) ** 0.5 if variance > 0 else 1.0
