"""One view of any supported decoder.

Everything that knows how a model family names and wires its parts is in this file. The rest of the
core sees layers that read the residual stream through a norm, write to it, and end in a linear
unembedding. For that view to be exact, two facts must hold for every family (and are tested):

- embedding + every attention write + every MLP write = the final residual stream;
- with attention patterns and norm denominators frozen, every write is linear in what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional, cast

import torch
import torch.nn as nn
from torch import Tensor

from attention_studio.utils.errors import StudioError

HOOK_CONVENTION = "mlp-norm-out -> residual-write"
"""What a dictionary reads and predicts: the MLP's input after its norm (gain and bias applied), and
what the MLP adds to the residual stream (after a post-MLP norm, where the family has one)."""

MlpReplacement = Callable[[Tensor, Tensor], Tensor]


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


class OffloadedWeightsError(StudioError):
    """Weights are needed that were left in main memory because the GPUs are full."""


@dataclass(frozen=True)
class _Family:
    """How one family names its parts. Dotted paths start at the model, or at one layer."""

    base: str
    embedding: str
    layers: str
    final_norm: str
    attention_norm: str
    attention: str
    mlp_norm: str
    mlp: str
    fused_values: str = ""
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    gain_offset: float = 0.0
    centred_norms: bool = False


_LLAMA = _Family(
    base="model",
    embedding="model.embed_tokens",
    layers="model.layers",
    final_norm="model.norm",
    attention_norm="input_layernorm",
    attention="self_attn",
    mlp_norm="post_attention_layernorm",
    mlp="mlp",
)

_GEMMA = _Family(
    base="model",
    embedding="model.embed_tokens",
    layers="model.layers",
    final_norm="model.norm",
    attention_norm="input_layernorm",
    attention="self_attn",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp="mlp",
    mlp_post_norm="post_feedforward_layernorm",
    gain_offset=1.0,
)

_FAMILIES: dict[str, _Family] = {
    "gpt2": _Family(
        base="transformer",
        embedding="transformer.wte",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention_norm="ln_1",
        attention="attn",
        fused_values="c_attn",
        mlp_norm="ln_2",
        mlp="mlp",
        centred_norms=True,
    ),
    "gpt_neox": _Family(
        base="gpt_neox",
        embedding="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention_norm="input_layernorm",
        attention="attention",
        fused_values="query_key_value",
        mlp_norm="post_attention_layernorm",
        mlp="mlp",
        centred_norms=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
}

SUPPORTED_FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


@dataclass(frozen=True)
class FrozenNorm:
    """An RMSNorm or LayerNorm whose denominator is given, which makes it an affine map.

    ``gain`` [d]; ``bias`` [d] or None; ``centred`` is True for LayerNorm, which takes the mean out.
    """

    gain: Tensor
    bias: Optional[Tensor]
    centred: bool
    eps: float

    def scale(self, x: Tensor) -> Tensor:
        """The inverse denominator for inputs ``x`` [..., d], shape [...]."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.pow(2).mean(-1) + self.eps)

    def apply(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm's output [..., d] for ``x`` [..., d] under the inverse denominator [...]."""
        y = self.push(x, scale)
        return y if self.bias is None else y + self.bias

    def push(self, x: Tensor, scale: Tensor) -> Tensor:
        """The linear part of ``apply``: what a change ``x`` of the input does to the output."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * scale.unsqueeze(-1) * self.gain

    def pull(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """The transpose of ``push``: from a gradient at the output to one at the input."""
        gradient = gradient * self.gain
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient * scale.unsqueeze(-1)


@dataclass(frozen=True)
class ValueOutputWeights:
    """The linear part of an attention block once its pattern is frozen.

    ``value`` [d, n_kv * d_head] and ``value_bias`` take the normed input to the values; ``output``
    [n_heads * d_head, d] and ``output_bias`` take the mixed values to the block's output. Query
    head h uses key/value head ``h // (n_heads / n_kv)``.
    """

    value: Tensor
    value_bias: Optional[Tensor]
    output: Tensor
    output_bias: Optional[Tensor]
    n_heads: int
    n_kv_heads: int

    @property
    def d_head(self) -> int:
        """Width of one head's value."""
        return self.output.shape[0] // self.n_heads

    def push(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Output change [..., T, d] for a change ``x`` [..., T, d] of the normed input.

        ``pattern`` [n_heads, T, T] is held fixed; biases play no part in a change.
        """
        return self._mix(x @ self.value, pattern)

    def apply(self, x: Tensor, pattern: Tensor) -> Tensor:
        """The block's output [..., T, d] for the normed input ``x`` [..., T, d]."""
        values = x @ self.value
        if self.value_bias is not None:
            values = values + self.value_bias
        mixed = self._mix(values, pattern)
        return mixed if self.output_bias is None else mixed + self.output_bias

    def _mix(self, values: Tensor, pattern: Tensor) -> Tensor:
        heads = values.view(*values.shape[:-1], self.n_kv_heads, self.d_head)
        heads = heads.repeat_interleave(self.n_heads // self.n_kv_heads, dim=-2)
        mixed = torch.einsum("hts,...shd->...thd", pattern, heads)
        return mixed.flatten(-2) @ self.output

    def pull_to_values(self, gradient: Tensor, pattern: Tensor) -> Tensor:
        """From a gradient at the output [n, T, d] to one at the values [n, T, n_kv * d_head]."""
        n, length, _ = gradient.shape
        heads = (gradient @ self.output.T).view(n, length, self.n_heads, self.d_head)
        per_head = heads.permute(2, 0, 3, 1).reshape(self.n_heads, n * self.d_head, length)
        at_source = torch.bmm(per_head, pattern)
        group = self.n_heads // self.n_kv_heads
        at_source = at_source.view(self.n_kv_heads, group, n, self.d_head, length).sum(1)
        return at_source.permute(1, 3, 0, 2).reshape(n, length, -1)


@dataclass(frozen=True)
class MlpActivations:
    """What a dictionary reads and predicts at one layer: ``inputs`` and ``outputs`` [..., d]."""

    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class ForwardRecord:
    """One forward pass over one prompt of T tokens, with everything that a local model freezes.

    ``embedding`` [T, d] (positions included), ``resid_pre`` [L, T, d], ``attention_raw`` and
    ``attention_out`` [L, T, d] (before and after a post-attention norm), ``mlp_in`` and ``mlp_out``
    [L, T, d] (see ``HOOK_CONVENTION``), ``patterns`` [L, H, T, T], ``attention_scale``,
    ``attention_post_scale``, ``mlp_scale`` [L, T] and ``final_scale`` [T] (inverse norm
    denominators), ``resid_final`` [T, d], ``logits`` [T, V].
    """

    embedding: Tensor
    resid_pre: Tensor
    attention_raw: Tensor
    attention_out: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    patterns: Tensor
    attention_scale: Tensor
    attention_post_scale: Tensor
    mlp_scale: Tensor
    resid_final: Tensor
    final_scale: Tensor
    logits: Tensor


class _StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Raised from a hook once everything that is wanted has been seen."""


class ModelAdapter:
    """The uniform view. Build one with ``ModelAdapter.for_model``.

    The model is put into evaluation mode, its parameters stop requiring gradients, and attention
    scores that are capped (Gemma 2) are so in every pass; apart from that it is left as it was
    found: every hook is removed again, also after an error.
    """

    def __init__(self, model: Any, family: str) -> None:
        self.model = model
        self.family = family
        self._spec = _FAMILIES[family]
        config = model.config
        self._layers = list(_part(model, self._spec.layers))
        self.n_layers = len(self._layers)
        self.d_model = int(_part(model, self._spec.embedding).weight.shape[1])
        self.vocab_size = int(_part(model, self._spec.embedding).weight.shape[0])
        self.n_heads = int(config.num_attention_heads)
        self.n_kv_heads = int(getattr(config, "num_key_value_heads", None) or self.n_heads)
        self.d_head = int(getattr(config, "head_dim", None) or self.d_model // self.n_heads)
        self.d_mlp = int(
            getattr(config, "intermediate_size", None)
            or getattr(config, "n_inner", None)
            or 4 * self.d_model
        )
        self.context_length = int(config.max_position_embeddings)
        self.parallel = bool(family == "gpt_neox" and config.use_parallel_residual)
        model.eval()
        model.requires_grad_(False)

    @classmethod
    def for_model(cls, model: Any) -> ModelAdapter:
        """The adapter for a transformers causal language model.

        Raises:
            UnsupportedModelError: the family is unknown; the message names the known ones.
        """
        family = str(getattr(model.config, "model_type", "unknown"))
        if family not in _FAMILIES:
            raise UnsupportedModelError.of(family)
        return cls(model, family)

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and so where inputs go."""
        return cast(torch.device, _part(self.model, self._spec.embedding).weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return cast(torch.dtype, _part(self.model, self._spec.embedding).weight.dtype)

    # ---- weights -------------------------------------------------------------------------------

    def attention_norm(self, layer: int) -> FrozenNorm:
        """The norm that layer ``layer``'s attention reads through."""
        return self._norm(_part(self._layers[layer], self._spec.attention_norm))

    def attention_post_norm(self, layer: int) -> Optional[FrozenNorm]:
        """The norm between attention and residual stream (Gemma), or None."""
        name = self._spec.attention_post_norm
        return self._norm(_part(self._layers[layer], name)) if name else None

    def mlp_norm(self, layer: int) -> FrozenNorm:
        """The norm that layer ``layer``'s MLP reads through."""
        return self._norm(_part(self._layers[layer], self._spec.mlp_norm))

    def final_norm(self) -> FrozenNorm:
        """The norm before the unembedding."""
        return self._norm(_part(self.model, self._spec.final_norm))

    def unembedding(self) -> tuple[Tensor, Optional[Tensor]]:
        """The unembedding's weight [V, d] and bias [V] (or None), on the adapter's device."""
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return self._here(head.weight), None if bias is None else self._here(bias)

    def value_output(self, layer: int) -> ValueOutputWeights:
        """The value and output maps of layer ``layer``'s attention, in one layout."""
        attention = _part(self._layers[layer], self._spec.attention)
        d, width = self.d_model, self.d_head
        if self.family == "gpt2":
            value = attention.c_attn.weight[:, 2 * d :]
            value_bias = attention.c_attn.bias[2 * d :]
            output, output_bias = attention.c_proj.weight, attention.c_proj.bias
        elif self.family == "gpt_neox":
            # Rows are grouped by head, and within a head by query, key, value.
            fused = attention.query_key_value
            value = fused.weight.view(self.n_heads, 3, width, d)[:, 2].reshape(-1, d).T
            value_bias = (
                None if fused.bias is None else fused.bias.view(self.n_heads, 3, width)[:, 2]
            )
            value_bias = None if value_bias is None else value_bias.reshape(-1)
            output, output_bias = attention.dense.weight.T, attention.dense.bias
        else:
            value, value_bias = attention.v_proj.weight.T, attention.v_proj.bias
            output, output_bias = attention.o_proj.weight.T, attention.o_proj.bias
        return ValueOutputWeights(
            value=self._here(value),
            value_bias=None if value_bias is None else self._here(value_bias),
            output=self._here(output),
            output_bias=None if output_bias is None else self._here(output_bias),
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
        )

    def count_parameters(self, layer: int) -> tuple[int, int, int]:
        """Parameters of layer ``layer``: all, attention's, MLP's."""
        module = self._layers[layer]
        parts = (
            module,
            _part(module, self._spec.attention),
            _part(module, self._spec.mlp),
        )
        total, attention, mlp = (sum(p.numel() for p in part.parameters()) for part in parts)
        return total, attention, mlp

    def _here(self, weight: Tensor) -> Tensor:
        """A weight on the adapter's device."""
        if weight.is_meta:
            raise OffloadedWeightsError(
                "A part of the model was left in main memory, and its weights are needed",
                "the model does not fit the GPUs as a whole",
                "load it with device=cpu, or with dtype=bfloat16 if it then fits",
            )
        return weight.to(self.device)

    def _norm(self, module: Any) -> FrozenNorm:
        eps = next(
            float(getattr(module, name))
            for name in ("variance_epsilon", "eps")
            if hasattr(module, name)
        )
        gain = self._here(module.weight)
        bias = getattr(module, "bias", None)
        return FrozenNorm(
            gain=gain + self._spec.gain_offset if self._spec.gain_offset else gain,
            bias=None if bias is None else self._here(bias),
            centred=self._spec.centred_norms,
            eps=eps,
        )

    # ---- passes --------------------------------------------------------------------------------

    def _call(self, ids: Tensor | Sequence[int]) -> dict[str, Any]:
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        tokens = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens
        # Without a mask, transformers takes a start token that is also the padding for padding.
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "use_cache": False,
        }

    @torch.no_grad()
    def logits(self, ids: Tensor | Sequence[int]) -> Tensor:
        """The model's own logits [B, S, V] for token ids [B, S] (or [S])."""
        return cast(Tensor, self.model(**self._call(ids)).logits)

    @torch.no_grad()
    def final_normed(self, ids: Tensor | Sequence[int]) -> Tensor:
        """The final norm's output [B, S, d], which the unembedding reads, for ids [B, S]."""
        base = _part(self.model, self._spec.base)
        return cast(Tensor, base(**self._call(ids)).last_hidden_state.to(self.device))

    @torch.no_grad()
    def harvest(
        self, ids: Tensor | Sequence[int], layers: Sequence[int]
    ) -> dict[int, MlpActivations]:
        """MLP inputs and residual writes [B, S, d] of the chosen layers, from one forward pass.

        The pass stops after the last layer that is asked for, and the unembedding is never run.
        Layers may lie on several devices; what is returned lies on the adapter's.
        """
        wanted = set(layers)
        last = max(wanted)
        inputs: dict[int, Tensor] = {}
        found: dict[int, MlpActivations] = {}

        def see_input(layer: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                inputs[layer] = output

            return hook

        def see_output(layer: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                found[layer] = MlpActivations(
                    inputs.pop(layer).to(self.device), output.to(self.device)
                )
                if layer == last:
                    raise _StopForward

            return hook

        with self._hooks() as add:
            for layer in wanted:
                add(self._mlp_norm_module(layer), see_input(layer))
                add(self._mlp_write_module(layer), see_output(layer))
            with suppress(_StopForward):
                _part(self.model, self._spec.base)(**self._call(ids))
        return found

    @contextmanager
    def replaced_mlps(self, replacements: Mapping[int, MlpReplacement]) -> Iterator[None]:
        """Within the block, the residual writes of some layers' MLPs are what a function says.

        Args:
            replacements: layer -> function of the MLP's input and its own write (both [B, S, d],
                on the adapter's device) that returns the write to use instead.
        """
        inputs: dict[int, Tensor] = {}

        def see_input(layer: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                inputs[layer] = output

            return hook

        def replace(layer: int, function: MlpReplacement) -> Callable[..., Tensor]:
            def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
                write = function(inputs.pop(layer).to(self.device), output.to(self.device))
                return write.to(output.device, output.dtype)

            return hook

        with self._hooks() as add:
            for layer, function in replacements.items():
                add(self._mlp_norm_module(layer), see_input(layer))
                add(self._mlp_write_module(layer), replace(layer, function))
            yield

    @torch.no_grad()
    def record(self, ids: Tensor | Sequence[int]) -> ForwardRecord:
        """Run one prompt (ids [T]) and keep what a local linear model freezes."""
        seen: dict[str, list[Tensor]] = {
            name: []
            for name in ("resid_pre", "attn_raw", "attn_out", "pattern", "mid", "mlp_in", "mlp_out")
        }
        final: list[Tensor] = []

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                seen[name].append(_first(output)[0])

            return hook

        def keep_attention(_module: Any, _args: Any, output: Any) -> None:
            seen["attn_raw"].append(output[0][0])
            seen["pattern"].append(output[1][0])

        def keep_input(_module: Any, args: Any) -> None:
            seen["resid_pre"].append(_first(args)[0])

        def keep_mid(_module: Any, args: Any) -> None:
            seen["mid"].append(_first(args)[0])

        def keep_final(_module: Any, args: Any) -> None:
            final.append(_first(args)[0])

        with self._eager_attention(), self._hooks() as add:
            for index, module in enumerate(self._layers):
                add(module, keep_input, before=True)
                add(_part(module, self._spec.attention), keep_attention)
                if self._spec.attention_post_norm:
                    add(_part(module, self._spec.attention_post_norm), keep("attn_out"))
                add(self._mlp_norm_module(index), keep_mid, before=True)
                add(self._mlp_norm_module(index), keep("mlp_in"))
                add(self._mlp_write_module(index), keep("mlp_out"))
            add(_part(self.model, self._spec.final_norm), keep_final, before=True)
            logits = self.model(**self._call(ids)).logits[0]

        device = self.device
        stack = {
            name: torch.stack([value.to(device) for value in values])
            for name, values in seen.items()
            if values
        }
        attention_scale = torch.stack(
            [self.attention_norm(i).scale(x) for i, x in enumerate(stack["resid_pre"])]
        )
        mlp_scale = torch.stack([self.mlp_norm(i).scale(x) for i, x in enumerate(stack["mid"])])
        post_scale = torch.ones_like(attention_scale)
        for index, raw in enumerate(stack["attn_raw"]):
            post = self.attention_post_norm(index)
            if post is not None:
                post_scale[index] = post.scale(raw)
        resid_final = final[0].to(device)
        return ForwardRecord(
            embedding=stack["resid_pre"][0],
            resid_pre=stack["resid_pre"],
            attention_raw=stack["attn_raw"],
            attention_out=stack.get("attn_out", stack["attn_raw"]),
            mlp_in=stack["mlp_in"],
            mlp_out=stack["mlp_out"],
            patterns=stack["pattern"],
            attention_scale=attention_scale,
            attention_post_scale=post_scale,
            mlp_scale=mlp_scale,
            resid_final=resid_final,
            final_scale=self.final_norm().scale(resid_final),
            logits=logits.to(device),
        )

    # ---- hooks ---------------------------------------------------------------------------------

    def _mlp_norm_module(self, layer: int) -> Any:
        return _part(self._layers[layer], self._spec.mlp_norm)

    def _mlp_write_module(self, layer: int) -> Any:
        return _part(self._layers[layer], self._spec.mlp_post_norm or self._spec.mlp)

    @contextmanager
    def _hooks(self) -> Iterator[Callable[..., None]]:
        """Gives a function that adds hooks; they are all gone when the block ends."""
        handles: list[Any] = []

        def add(module: nn.Module, function: Callable[..., Any], before: bool = False) -> None:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            handles.append(register(function))

        try:
            yield add
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _eager_attention(self) -> Iterator[None]:
        """Attention that returns its pattern, which the fused kernels do not."""
        before = self.model.config._attn_implementation
        if before == "eager":
            yield
            return
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)


def _part(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _first(value: Any) -> Tensor:
    return cast(Tensor, value[0] if isinstance(value, tuple) else value)
