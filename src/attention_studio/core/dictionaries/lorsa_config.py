"""Shape and kind of a Lorsa. No torch here, so that the window can use it freely."""

from __future__ import annotations

from typing import Optional

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attention_studio.core.dictionaries.transcoder_config import (
    MAX_D_LATENT,
    MAX_D_MODEL,
    ActivationKind,
    check_selection,
)

MAX_QK_HEADS = 1 << 12
MAX_D_QK = 1 << 12


class LorsaConfig(BaseModel):
    """Shape, activation function and attention of a Lorsa (low-rank sparse attention).

    Attributes:
        d_model: width d of the residual stream.
        d_latent: number s of latents, each one rank-one OV head.
        n_qk_heads: number of QK heads; s / n_qk_heads neighbouring latents share each.
        d_qk: width of a QK head.
        activation, k, norm_aware: as in ``TranscoderConfig``.
        rotary_dim: leading coordinates of each QK head that are rotated by the position, in
            halves; even; 0 where positions are part of the input already.
        rotary_scaling: multiplies cosine and sine of the rotation.
        qk_norm: whether queries and keys go through an RMSNorm of their own.
        qk_norm_eps: of that norm.
        score_scale: multiplies q·k.
        score_cap: cap c of scores, ``c·tanh(score/c)``, or None.
        window: how many positions a query sees, its own included, or None for all before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(ge=1, le=MAX_D_MODEL)
    d_latent: int = Field(ge=1, le=MAX_D_LATENT)
    n_qk_heads: int = Field(ge=1, le=MAX_QK_HEADS)
    d_qk: int = Field(ge=1, le=MAX_D_QK)
    activation: ActivationKind = "topk"
    k: int = Field(default=32, ge=1)
    norm_aware: bool = False
    rotary_dim: int = Field(default=0, ge=0)
    rotary_scaling: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    qk_norm: bool = False
    qk_norm_eps: float = Field(default=1e-6, ge=0, allow_inf_nan=False)
    score_scale: float = Field(gt=0, allow_inf_nan=False)
    score_cap: Optional[float] = Field(default=None, gt=0, allow_inf_nan=False)
    window: Optional[int] = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> LorsaConfig:
        if self.d_latent % self.n_qk_heads:
            raise ValueError(
                f"d_latent = {self.d_latent} is not a multiple of n_qk_heads = {self.n_qk_heads}"
            )
        check_selection(self.activation, self.k, self.d_latent, self.norm_aware)
        if self.rotary_dim % 2 or self.rotary_dim > self.d_qk:
            raise ValueError(f"rotary_dim = {self.rotary_dim} is odd or exceeds d_qk = {self.d_qk}")
        return self

    @property
    def group_size(self) -> int:
        """Latents that share one QK head: latent i uses head ``i // group_size``."""
        return self.d_latent // self.n_qk_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a Lorsa of this kind."""
        shapes: dict[str, tuple[int, ...]] = {
            "W_Q": (self.n_qk_heads, self.d_model, self.d_qk),
            "W_K": (self.n_qk_heads, self.d_model, self.d_qk),
            "b_Q": (self.n_qk_heads, self.d_qk),
            "b_K": (self.n_qk_heads, self.d_qk),
            "W_V": (self.d_latent, self.d_model),
            "b_V": (self.d_latent,),
            "W_O": (self.d_latent, self.d_model),
            "b_D": (self.d_model,),
            "input_scale": (),
            "output_scale": (),
        }
        if self.qk_norm:
            shapes["q_gain"] = shapes["k_gain"] = (self.n_qk_heads, self.d_qk)
        if self.rotary_dim:
            shapes["inv_freq"] = (self.rotary_dim // 2,)
        if self.activation == "jumprelu":
            shapes["threshold"] = (self.d_latent,)
        elif self.activation == "batchtopk":
            shapes["threshold"] = ()
        return shapes
