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
from attention_studio.core.training_config import EncoderInit

_RIDGE = 1e-3
_CHUNK = 2048
_SAMPLE = 2048
_SCATTER = 0.3
_FAR = 256.0
_CENTRINGS = 3


@dataclass(frozen=True)
class LayerStatistics:
    """What one block says about a layer, on raw activations, float64.

    Attributes:
        input_mean, output_mean: ``[d]``.
        output_centre: ``[d]``, the mean output without the pull of far tokens (``_centre``).
        input_scale, output_scale: factors that give centred activations unit variance per
            coordinate on average; of outputs, far tokens count as if they were nearer.
        affine: ``[d, d]``; the ridge regression ``y − ȳ ≈ (x − x̄) @ affine``.
    """

    input_mean: Tensor
    output_mean: Tensor
    output_centre: Tensor
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

    Some layers write outputs a hundred times as long as usual at a few tokens (Sun et al. 2024,
    *Massive Activations in Large Language Models*). They may hold nearly all of the variance; a
    scale that they decide would leave all other tokens with errors too small to be learnt from at
    the learning rate that suits unit variance. So they have no such say in the outputs' scale.
    """
    n, d = inputs.shape
    mean_x, mean_y = _mean(inputs), _mean(outputs)
    shift_x, shift_y = mean_x.float(), mean_y.float()
    xx = torch.zeros(d, d, dtype=torch.float64, device=inputs.device)
    xy = torch.zeros_like(xx)
    for lo in range(0, n, _CHUNK):
        # Centred before they are multiplied, so that float32 products lose nothing to the means.
        # What is subtracted is the mean in float32: that the rest has a mean of half a rounding
        # error adds its square to the products, which they have no room for.
        x = inputs[lo : lo + _CHUNK].to(torch.float32, copy=True).sub_(shift_x)
        y = outputs[lo : lo + _CHUNK].to(torch.float32, copy=True).sub_(shift_y)
        xx += x.t() @ x
        xy += x.t() @ y
    variance_x = float(xx.diagonal().sum()) / n
    ridge = _RIDGE * float(xx.diagonal().mean()) + 1e-30
    affine = torch.linalg.solve(xx + ridge * torch.eye(d, dtype=xx.dtype, device=xx.device), xy)
    centre, variance_y = _centre(outputs, mean_y)
    return LayerStatistics(
        input_mean=mean_x,
        output_mean=mean_y,
        output_centre=centre,
        input_scale=_unit_scale(variance_x, d),
        output_scale=_unit_scale(variance_y, d),
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
    encoder_init: EncoderInit = "samples",
) -> Transcoder:
    """An unfolded transcoder, ready to be trained.

    Encoder rows are unit vectors and ``b_E = −W_E·mean(x)``, so that every latent begins at the
    middle of what it sees. ``b_D`` is the outputs' centre. JumpReLU thresholds let each latent
    fire on the share k/s of the tokens. With a skip connection, that holds the affine map and the
    decoder is zero; else the decoder is zero or each latent's mean linear response
    ``γ·w_i @ affine`` with the γ that leaves the least error.

    Args:
        inputs, outputs: raw activations ``[n, d]`` of the block that ``statistics`` are of.
        seed, layer: decide the encoder directions.
        encoder_init: where those come from. ``random``: anywhere. ``samples``: each is that of one
            of the ``inputs``, seen from their mean, so that every latent begins with something
            that occurs; latents beyond the number of inputs get random ones.
    """
    t = Transcoder(config)
    device = inputs.device
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    directions = torch.randn(config.d_latent, config.d_model, generator=generator)
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    if encoder_init == "samples":
        _point_at_samples(directions, inputs, statistics.input_mean, generator)
    a, c = statistics.input_scale, statistics.output_scale
    t.input_scale.fill_(a)
    t.output_scale.fill_(c)
    t.W_E.copy_(directions)
    t = t.to(device)
    mean_x = (statistics.input_mean * a).float()
    t.b_E.copy_(-(t.W_E @ mean_x))
    t.b_D.copy_(statistics.output_centre * c)
    affine = (statistics.affine * (c / a)).float()
    sample = inputs[:_SAMPLE].float()
    if config.activation == "jumprelu":
        assert t.threshold is not None  # JumpReLU is built with one
        pre = t.pre_activations(sample)
        share = min(config.k / config.d_latent, 1.0)
        rank = max(1, round(share * pre.shape[0]))
        t.threshold.copy_(torch.topk(pre, rank, dim=0).values[-1].clamp_min(0.0))
    if t.W_skip is not None:
        t.W_skip.copy_(affine)
        t.b_D.sub_(mean_x @ affine)
    elif init == "response":
        _respond(t, affine, t.pre_activations(sample), (outputs[:_SAMPLE].double() * c).float())
    return t


def _point_at_samples(
    directions: Tensor, inputs: Tensor, mean: Tensor, generator: torch.Generator
) -> None:
    """Turn random unit vectors ``[s, d]`` towards as many inputs, or all there are.

    A share of the random vector stays. Without it, latents that begin with equal inputs, which
    repetitive text has many of, would stay equal for good.
    """
    chosen = torch.randperm(inputs.shape[0], generator=generator)[: directions.shape[0]]
    samples = (inputs[chosen.to(inputs.device)].double() - mean).float().to(directions.device)
    lengths = torch.linalg.vector_norm(samples, dim=1, keepdim=True)
    # An input at the mean has no direction.
    samples = torch.where(lengths > 0, samples / lengths, 0.0)
    part = directions[: samples.shape[0]].mul_(_SCATTER).add_(samples)
    part /= torch.linalg.vector_norm(part, dim=1, keepdim=True)


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


def _centre(rows: Tensor, mean: Tensor) -> tuple[Tensor, float]:
    """Centre ``[d]`` and mean squared distance from it of ``rows [n, d]``, both with far rows held
    back: of a row at more than 16 times the median distance, its pull on the centre and its squared
    distance count as those of a row at 16 times (Huber 1981, *Robust Statistics*). Where
    no row is that far, they are the mean and the variance. Starts from the ``mean``, float64.
    """
    centre, far = mean, _squared_distances(rows, mean)
    for _ in range(_CENTRINGS):
        limit = _FAR * far.median()
        if limit == 0 or far.max() <= limit:
            break
        weight = (limit / far).sqrt_().clamp_(max=1.0)
        total = torch.zeros_like(mean)
        for lo in range(0, rows.shape[0], _CHUNK):
            total += weight[lo : lo + _CHUNK] @ rows[lo : lo + _CHUNK].double()
        centre = total / weight.sum()
        far = _squared_distances(rows, centre)
    limit = _FAR * far.median()
    return centre, float((far.clamp(max=limit) if limit > 0 else far).mean())


def _squared_distances(rows: Tensor, centre: Tensor) -> Tensor:
    """``[n]``, float64, of ``rows [n, d]`` from ``centre [d]``."""
    shift = centre.float()
    return torch.cat(
        [
            torch.linalg.vector_norm(
                rows[lo : lo + _CHUNK].float() - shift, dim=1, dtype=torch.float64
            ).square()
            for lo in range(0, rows.shape[0], _CHUNK)
        ]
    )


def _mean(rows: Tensor) -> Tensor:
    """The mean of ``[n, d]`` in float64, without all of them in float64 at once."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for lo in range(0, rows.shape[0], _CHUNK):
        total += rows[lo : lo + _CHUNK].double().sum(0)
    return total / rows.shape[0]


def _unit_scale(variance: float, d: int) -> float:
    # Activations that never vary (an ablated layer) have no scale of their own.
    return (d / variance) ** 0.5 if variance > 0 else 1.0
