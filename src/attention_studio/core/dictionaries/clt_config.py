"""Shape and kind of a cross-layer transcoder. No torch here, so that the window can use it."""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attention_studio.core.dictionaries.transcoder_config import (
    MAX_D_LATENT,
    MAX_D_MODEL,
    ActivationKind,
    check_selection,
)

MAX_LAYERS = 1024


class CrossLayerTranscoderConfig(BaseModel):
    """Shape and activation function of a cross-layer transcoder.

    Layers go by their *position* i in ``layers``: position i reads the MLP input of layer
    ``layers[i]`` and writes to the outputs at positions i, i + 1, …, n − 1.

    Attributes:
        d_model: width d of the residual stream.
        layers: the layers whose MLPs it replaces, ascending.
        d_latent: number s of latents per layer.
        activation: sparse activation function.
        k: latents kept per token and layer, as in ``TranscoderConfig``.
        norm_aware: as in ``TranscoderConfig``; a latent's norm is that of its decoder rows to all
            targets together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(ge=1, le=MAX_D_MODEL)
    layers: tuple[int, ...] = Field(min_length=1, max_length=MAX_LAYERS)
    d_latent: int = Field(ge=1, le=MAX_D_LATENT)
    activation: ActivationKind = "topk"
    k: int = Field(default=32, ge=1)
    norm_aware: bool = False

    @field_validator("layers")
    @classmethod
    def _layers_ascend(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if layers[0] < 0 or any(a >= b for a, b in pairwise(layers)):
            raise ValueError("layers must be ascending, each named once, and not negative")
        return layers

    @model_validator(mode="after")
    def _fits_together(self) -> CrossLayerTranscoderConfig:
        check_selection(self.activation, self.k, self.d_latent, self.norm_aware)
        return self

    @property
    def n_pairs(self) -> int:
        """Pairs of a source and a target position, a decoder ``[s, d]`` each."""
        n = len(self.layers)
        return n * (n + 1) // 2

    def n_targets(self, i: int) -> int:
        """Number of positions that position ``i`` writes to, its own included."""
        return len(self.layers) - i

    def tensor_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of position ``i``."""
        shapes: dict[str, tuple[int, ...]] = {
            "W_E": (self.d_latent, self.d_model),
            "b_E": (self.d_latent,),
            "W_D": (self.n_targets(i), self.d_latent, self.d_model),
            "b_D": (self.d_model,),
            "input_scale": (),
            "output_scale": (),
        }
        if self.activation == "jumprelu":
            shapes["threshold"] = (self.d_latent,)
        elif self.activation == "batchtopk":
            shapes["threshold"] = ()
        if self.norm_aware:
            shapes["selection_norm"] = (self.d_latent,)
        return shapes
