"""How the families of decoders name and wire their parts, a row of one table for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.sites import SiteKind
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

    Linear = tuple[Tensor, Optional[Tensor]]


class UnsupportedModelError(StudioError):
    """The model's family is not one that the adapter knows."""

    @classmethod
    def of(cls, family: str) -> UnsupportedModelError:
        """The error for an unknown family; it names the known ones."""
        return cls(
            f"Models of the family '{family}' cannot be opened",
            "the studio must know where a family keeps its norms, attention and MLPs",
            f"choose a model of one of these families: {', '.join(SUPPORTED_FAMILIES)}",
        )


@dataclass(frozen=True)
class Family:
    """One family. Dotted paths start at the model, or at one layer, or at its attention.

    Attributes:
        base: the model without its unembedding.
        embedding, layers, final_norm: of the model.
        attention_norm, attention, mlp_norm, mlp: of a layer.
        attention_post_norm, mlp_post_norm: between a module and the residual stream, or empty.
        fused: of the attention, where one map makes queries, keys and values; else empty.
        fused_by_head: whether its rows are grouped by head, and within a head by query, key,
            value, instead of the other way round.
        attention_output: of the attention.
        transposed: whether maps are stored as ``[inputs, outputs]``.
        gain_offset: what is added to a norm's weight to give its gain.
        centred_norms: whether norms subtract the mean.
        can_be_parallel: whether attention and MLP may read the same residual stream.
        capped_scores: whether the model's settings say how attention's scores are capped.
        same_window: whether all layers have the sliding window of the model's settings; if not,
            each attention has its own, or none.
    """

    base: str
    embedding: str
    layers: str
    final_norm: str
    attention_norm: str
    attention: str
    mlp_norm: str
    mlp: str = "mlp"
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    fused: str = ""
    fused_by_head: bool = False
    attention_output: str = "o_proj"
    transposed: bool = False
    gain_offset: float = 0.0
    centred_norms: bool = False
    can_be_parallel: bool = False
    capped_scores: bool = False
    same_window: bool = False

    def query_key_value(self, attention: Any, n_heads: int) -> tuple[Linear, Linear, Linear]:
        """Weight ``[heads * d_head, d]`` and bias of the maps to queries, keys and values."""
        if not self.fused:
            separate = (attention.q_proj, attention.k_proj, attention.v_proj)
            query, key, value = ((part.weight, part.bias) for part in separate)
            return query, key, value
        weight, bias = self._linear(getattr(attention, self.fused))
        shape = (n_heads, 3, -1) if self.fused_by_head else (3, -1)
        weights = weight.view(*shape, weight.shape[1]).movedim(-3, 0)
        biases = [None] * 3 if bias is None else bias.view(shape).movedim(-2, 0)
        query, key, value = (
            (part.reshape(-1, weight.shape[1]), None if one is None else one.reshape(-1))
            for part, one in zip(weights, biases, strict=True)
        )
        return query, key, value

    def output(self, attention: Any) -> Linear:
        """Weight ``[d, heads * d_head]`` and bias of the map from values to the residual stream."""
        return self._linear(getattr(attention, self.attention_output))

    def _linear(self, module: Any) -> Linear:
        return module.weight.T if self.transposed else module.weight, module.bias


_LLAMA = Family(
    base="model",
    embedding="model.embed_tokens",
    layers="model.layers",
    final_norm="model.norm",
    attention_norm="input_layernorm",
    attention="self_attn",
    mlp_norm="post_attention_layernorm",
)

_GEMMA = replace(
    _LLAMA,
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    gain_offset=1.0,
)

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        base="transformer",
        embedding="transformer.wte",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention_norm="ln_1",
        attention="attn",
        mlp_norm="ln_2",
        fused="c_attn",
        attention_output="c_proj",
        transposed=True,
        centred_norms=True,
    ),
    "gpt_neox": Family(
        base="gpt_neox",
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention_norm="input_layernorm",
        attention="attention",
        mlp_norm="post_attention_layernorm",
        fused="query_key_value",
        fused_by_head=True,
        attention_output="dense",
        centred_norms=True,
        can_be_parallel=True,
    ),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, same_window=True),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": replace(_GEMMA, capped_scores=True),
    "gemma3_text": _GEMMA,
}

SUPPORTED_FAMILIES: tuple[str, ...] = tuple(FAMILIES)


def has_post_norm(family: str, kind: SiteKind) -> bool:
    """Whether a norm stands between such modules and the residual stream."""
    spec = FAMILIES[family]
    return bool(spec.mlp_post_norm if kind == "mlp" else spec.attention_post_norm)


def mlp_name(family: str, layer: int) -> str:
    """What the base model calls an MLP: ``layers.3.mlp``."""
    spec = FAMILIES[family]
    return f"{spec.layers.removeprefix(spec.base + '.')}.{layer}.{spec.mlp}"
