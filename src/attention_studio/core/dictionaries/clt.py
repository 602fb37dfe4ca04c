"""Cross-layer transcoders: one set of latents per layer that writes to all layers above it too.

Layer ℓ' reads its MLP's input once, ``f_ℓ' = σ(x_ℓ'·W_Eᵀ + b_E)``, and every MLP output at or above
it is a sum over the layers below: ``ŷ_ℓ = Σ_{ℓ'≤ℓ} f_ℓ'·W_D[ℓ'→ℓ] + b_D[ℓ]`` (Ameisen et al. 2025,
*Circuit Tracing*; Lindsey et al. 2024, *Sparse Crosscoders for Cross-Layer Features*).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Optional, Union

import torch
from torch import Tensor, nn

from attention_studio.core.dictionaries import activation_functions
from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.transcoder import SparseLatents, bag_offsets, bag_rows

__all__ = ["CrossLayerTranscoder", "CrossLayerTranscoderConfig"]


class CrossLayerTranscoder(nn.Module):
    """A cross-layer transcoder over n layers. Methods take positions i in ``config.layers``; only
    ``forward`` speaks of layers.

    Attributes:
        W_E: n encoders ``[s, d]``, one row per latent.
        b_E: n times ``[s]``.
        W_D: n decoders ``[n − i, s, d]``; ``W_D[i][t]`` writes from position i to i + t.
        b_D: n times ``[d]``.
        threshold: for JumpReLU n times ``[s]``, for BatchTopK ``[n]``, else None.
        selection_norm: ``[n, s]`` with ``norm_aware``, else None: ``decoder_norms`` as they were
            in training, by which latents are ranked (``selection_weight``). In training's units
            every layer's output has the same variance, so no layer has a greater say than others.
            Kept, for decoders are not all read to use some of their rows.
        input_scale, output_scale: ``[n]``, what ``x`` and ``y`` of each layer were multiplied by in
            training; 1 once folded. What ``forward`` takes and returns is raw either way.

    The decoders are nearly all of its size. They may be given as memory-mapped tensors, so that of
    them only what is in use takes memory; then never move or convert the module as a whole.
    Weights start at zero: ``core.clt_init`` gives a start, ``clt_files`` loads a trained one.

    Args:
        config: its shape.
        decoders: the tensors for ``W_D``, adopted as they are; None: zeros in memory.
    """

    selection_norm: Optional[Tensor]
    input_scale: Tensor
    output_scale: Tensor

    def __init__(
        self, config: CrossLayerTranscoderConfig, decoders: Optional[Sequence[Tensor]] = None
    ) -> None:
        super().__init__()
        self.config = config
        shapes = [config.tensor_shapes(i) for i in range(len(config.layers))]
        if decoders is None:
            decoders = [torch.zeros(shape["W_D"]) for shape in shapes]
        elif [tuple(decoder.shape) for decoder in decoders] != [shape["W_D"] for shape in shapes]:
            raise ValueError("the decoders' shapes are not those of the configuration")
        self.W_E = _frozen(torch.zeros(shape["W_E"]) for shape in shapes)
        self.b_E = _frozen(torch.zeros(shape["b_E"]) for shape in shapes)
        self.W_D = _frozen(decoders)
        self.b_D = _frozen(torch.zeros(shape["b_D"]) for shape in shapes)
        self.threshold: Union[nn.ParameterList, Tensor, None] = None
        if config.activation == "jumprelu":
            self.threshold = _frozen(torch.zeros(shape["threshold"]) for shape in shapes)
        elif config.activation == "batchtopk":
            self.threshold = nn.Parameter(torch.zeros(len(shapes)), requires_grad=False)
        if config.norm_aware:
            self.register_buffer("selection_norm", torch.zeros(len(shapes), config.d_latent))
        else:
            self.selection_norm = None
        self.register_buffer("input_scale", torch.ones(len(shapes)))
        self.register_buffer("output_scale", torch.ones(len(shapes)))

    @property
    def is_folded(self) -> bool:
        """Whether the weights work on raw activations without the training scales."""
        return bool((self.input_scale == 1.0).all() and (self.output_scale == 1.0).all())

    def position(self, layer: int) -> int:
        """The position of a layer of the model.

        Raises:
            ValueError: it has no part in this transcoder.
        """
        if layer not in self.config.layers:
            raise ValueError(f"layer {layer} is none of {self.config.layers}")
        return self.config.layers.index(layer)

    def tensors(self, i: int) -> dict[str, Tensor]:
        """Every tensor of position ``i`` by name, as views (see ``config.tensor_shapes``)."""
        found: dict[str, Tensor] = {
            "W_E": self.W_E[i],
            "b_E": self.b_E[i],
            "W_D": self.W_D[i],
            "b_D": self.b_D[i],
            "input_scale": self.input_scale[i],
            "output_scale": self.output_scale[i],
        }
        if self.threshold is not None:
            found["threshold"] = self.threshold[i]
        if self.selection_norm is not None:
            found["selection_norm"] = self.selection_norm[i]
        return {name: tensor.detach() for name, tensor in found.items()}

    def pre_activations(self, i: int, x: Tensor) -> Tensor:
        """``x [..., d]`` at position ``i`` → ``x·W_Eᵀ + b_E``, ``[..., s]``."""
        return nn.functional.linear(x * self.input_scale[i], self.W_E[i], self.b_E[i])

    def activate(self, i: int, pre: Tensor) -> Tensor:
        """The activation function alone: pre-activations ``[..., s]`` → activations."""
        threshold = None if self.threshold is None else self.threshold[i]
        return activation_functions.activate(
            self.config.activation, pre, self.config.k, threshold, self.selection_weight(i)
        )

    def selection_weight(self, i: int) -> Optional[Tensor]:
        """``[s]``: what pre-activations at position ``i`` are multiplied by before they are ranked
        (``activation_functions.selection_weight``); None: they are ranked as they are."""
        if self.selection_norm is None:
            return None
        return activation_functions.selection_weight(self.selection_norm[i])

    def encode(self, i: int, x: Tensor) -> Tensor:
        """``x [..., d]`` at position ``i`` → activations ``f [..., s]``."""
        return self.activate(i, self.pre_activations(i, x))

    def encode_sparse(self, i: int, x: Tensor) -> SparseLatents:
        """The active latents of ``x [n, d]`` at position ``i``."""
        return SparseLatents.of(self.encode(i, x))

    def decode_to(self, j: int, latents: Mapping[int, Tensor]) -> Tensor:
        """Activations ``{i: f_i [..., s]}`` → prediction at position ``j``, ``[..., d]``.

        Positions above ``j`` have no part in it; positions that are missing count as silent.

        Raises:
            ValueError: no position at or below ``j`` is given.
        """
        parts = [f @ self.W_D[i][j - i] for i, f in sorted(latents.items()) if i <= j]
        return self._finish(j, parts)

    def decode_to_sparse(self, j: int, latents: Mapping[int, SparseLatents], n: int) -> Tensor:
        """As ``decode_to``, from the active latents of ``n`` tokens: only their rows are read."""
        parts = [
            bag_rows(self.W_D[i][j - i], f.latent, bag_offsets(f.token, n), f.value)
            for i, f in sorted(latents.items())
            if i <= j
        ]
        return self._finish(j, parts)

    def forward(self, inputs: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Raw MLP inputs ``{layer: x [..., d]}`` → predicted MLP outputs ``{layer: ŷ [..., d]}``.

        Raises:
            ValueError: a layer is missing, or is none of this transcoder's.
        """
        if tuple(sorted(inputs)) != self.config.layers:
            raise ValueError(f"inputs of layers {self.config.layers} are needed")
        latents: dict[int, Tensor] = {}
        outputs = {}
        for i, layer in enumerate(self.config.layers):
            latents[i] = self.encode(i, inputs[layer])
            outputs[layer] = self.decode_to(i, latents)
        return outputs

    def decoder_norms(self, i: int) -> Tensor:
        """``[s]``: of position ``i``, the norm of each latent's rows to all targets together, in
        the units of the decoders as they are. Reads all of them."""
        squares = torch.zeros_like(self.b_E[i])
        for decoder in self.W_D[i]:
            squares += decoder.square().sum(1)
        return squares.sqrt_()

    @torch.no_grad()
    def fold(self) -> None:
        """Absorb the training scales into the weights, in place.

        With ``x_i·a_i`` and ``y_j·c_j`` seen in training: ``W_E[i] ← a_i·W_E[i]``,
        ``W_D[i→j] ← W_D[i→j]/c_j``, ``b_D[j] ← b_D[j]/c_j``. Pre-activations, and so thresholds,
        stay what they were, and so do the norms that latents are ranked by. Folding twice changes
        nothing.
        """
        if self.is_folded:
            return  # its decoders may be files that cannot be written to
        for i in range(len(self.config.layers)):
            self.W_E[i].mul_(self.input_scale[i])
            self.b_D[i].div_(self.output_scale[i])
            for t in range(self.config.n_targets(i)):
                self.W_D[i][t].div_(self.output_scale[i + t])
        self.input_scale.fill_(1.0)
        self.output_scale.fill_(1.0)

    def _finish(self, j: int, parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            raise ValueError(f"position {j} is written to from positions 0 … {j}; none is given")
        y: Tensor = sum(parts[1:], parts[0]) + self.b_D[j]
        return y / self.output_scale[j]


def _frozen(tensors: Iterable[Tensor]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in tensors)
