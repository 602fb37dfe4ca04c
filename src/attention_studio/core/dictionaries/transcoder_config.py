"""Shape and kind of a transcoder. No torch here, so that the window can use it freely."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ActivationKind = Literal["relu", "topk", "batchtopk", "jumprelu"]

MAX_D_MODEL = 1 << 16
MAX_D_LATENT = 1 << 22


def check_selection(activation: ActivationKind, k: int, d_latent: int, norm_aware: bool) -> None:
    """Check that a dictionary can select its latents like this.

    Raises:
        ValueError: says what does not fit.
    """
    ranks = activation in ("topk", "batchtopk")
    if ranks and k > d_latent:
        raise ValueError(f"k = {k} exceeds d_latent = {d_latent}")
    if norm_aware and not ranks:
        raise ValueError(f"norm_aware is for topk and batchtopk, and {activation} ranks nothing")


class TranscoderConfig(BaseModel):
    """Shape and activation function of a transcoder.

    Attributes:
        d_model: width d of the residual stream.
        d_latent: number s of latents.
        activation: sparse activation function.
        k: latents kept per token (TopK) or on average (BatchTopK). For ReLU and JumpReLU it is
            what the trainer starts from, and has no part in the function itself.
        skip: whether ``x·W_skip`` is added to the prediction.
        norm_aware: TopK and BatchTopK only. Latents are ranked by pre-activation times decoder
            norm (``activation_functions.selection_weight``) instead of by pre-activation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(ge=1, le=MAX_D_MODEL)
    d_latent: int = Field(ge=1, le=MAX_D_LATENT)
    activation: ActivationKind = "topk"
    k: int = Field(default=32, ge=1)
    skip: bool = False
    norm_aware: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> TranscoderConfig:
        check_selection(self.activation, self.k, self.d_latent, self.norm_aware)
        return self

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a transcoder of this kind."""
        shapes: dict[str, tuple[int, ...]] = {
            "W_E": (self.d_latent, self.d_model),
            "b_E": (self.d_latent,),
            "W_D": (self.d_latent, self.d_model),
            "b_D": (self.d_model,),
            "input_scale": (),
            "output_scale": (),
        }
        if self.skip:
            shapes["W_skip"] = (self.d_model, self.d_model)
        if self.activation == "jumprelu":
            shapes["threshold"] = (self.d_latent,)
        elif self.activation == "batchtopk":
            shapes["threshold"] = ()
        return shapes
