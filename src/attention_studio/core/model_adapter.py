"""One view of any supported decoder.

How a family names and wires its parts is in ``core.model_families``, and this file alone reaches
into models with it. The rest of the core sees layers that read the residual stream through a norm,
write to it, and end in a linear unembedding. For that view to be exact, two facts must hold for
every family (and are tested):

- embedding + every attention write + every MLP write = the final residual stream;
- with attention patterns and norm denominators frozen, every write is linear in what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Optional, cast

import torch
import torch.nn as nn
from torch import Tensor

from attention_studio.core.linear_parts import (
    FrozenNorm,
    QueryKeyWeights,
    ValueOutputWeights,
)
from attention_studio.core.model_families import FAMILIES, UnsupportedModelError
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

HOOK_CONVENTION = "norm-out -> residual-write"
"""What a dictionary reads and predicts: the module's input after its norm (gain and bias applied),
and what the module adds to the residual stream (after its post-norm, where the family has one)."""

LayerPart = Literal["attention_norm", "attention", "attention_post_norm", "mlp_norm"]
"""Parts of a layer that a local model freezes."""

Replacement = Callable[[Tensor, Tensor], Tensor]
"""A module's input and its own write (both ``[B, S, d]``) to the write that is used instead."""


class OffloadedWeightsError(StudioError):
    """Weights are needed that were left in main memory because the GPUs are full."""


@dataclass(frozen=True)
class ModuleActivations:
    """What a dictionary reads and predicts at one site: ``inputs`` and ``outputs`` [..., d]."""

    inputs: Tensor
    outputs: Tensor

    def part(self, where: slice | Tensor) -> ModuleActivations:
        """Both at an index into their leading dimensions."""
        return ModuleActivations(self.inputs[where], self.outputs[where])

    def to(self, device: torch.device) -> ModuleActivations:
        """Both on ``device``."""
        return ModuleActivations(self.inputs.to(device), self.outputs.to(device))

    def put(self, where: Tensor, other: ModuleActivations) -> None:
        """Copy ``other`` to the places ``where`` of the first dimension."""
        self.inputs.index_copy_(0, where, other.inputs)
        self.outputs.index_copy_(0, where, other.outputs)


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
        self._spec = FAMILIES[family]
        config = model.config
        self._layers: list[Any] = list(_part(model, self._spec.layers))
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
        self.parallel = self._spec.can_be_parallel and bool(config.use_parallel_residual)
        model.eval()
        model.requires_grad_(False)

    @classmethod
    def for_model(cls, model: Any) -> ModelAdapter:
        """The adapter for a transformers causal language model.

        A model that would leave out the cap on its attention's scores is set to apply it.

        Raises:
            UnsupportedModelError: the family is unknown; the message names the known ones.
        """
        family = str(getattr(model.config, "model_type", "unknown"))
        if family not in FAMILIES:
            raise UnsupportedModelError.of(family)
        # PyTorch's fused attention knows no cap. transformers 5.20 takes it for Gemma 2 all the
        # same, and then computes another model than the one that was trained.
        capped = getattr(model.config, "attn_logit_softcapping", None) is not None
        if capped and model.config._attn_implementation == "sdpa":
            model.set_attn_implementation("eager")
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

    @property
    def logit_cap(self) -> Optional[float]:
        """What logits are capped to, ``cap * tanh(logit / cap)`` (Gemma 2), or None."""
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return None if cap is None else float(cap)

    def unembed(self, normed: Tensor) -> Tensor:
        """The model's logits [..., V] for the final norm's output [..., d], capped as it caps."""
        weight, bias = self.unembedding()
        return self.capped(nn.functional.linear(normed, weight, bias))

    def capped(self, logits: Tensor) -> Tensor:
        """Logits under the model's cap, where it has one."""
        cap = self.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def value_output(self, layer: int) -> ValueOutputWeights:
        """The value and output maps of layer ``layer``'s attention, in one layout."""
        attention = _part(self._layers[layer], self._spec.attention)
        _, _, (value, value_bias) = self._spec.query_key_value(attention, self.n_heads)
        output, output_bias = self._spec.output(attention)
        return ValueOutputWeights(
            value=self._here(value.T),
            value_bias=None if value_bias is None else self._here(value_bias),
            output=self._here(output.T),
            output_bias=None if output_bias is None else self._here(output_bias),
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
        )

    def query_key(self, layer: int) -> QueryKeyWeights:
        """The query and key maps of layer ``layer``'s attention, one per head, in one layout.

        Rotary frequencies that a family changes with the length of the text ("dynamic" and
        "longrope") are those of the model's last pass.
        """
        attention = _part(self._layers[layer], self._spec.attention)
        maps = self._spec.query_key_value(attention, self.n_heads)[:2]
        shape = (self.n_heads, self.d_head)
        zero = torch.zeros(shape, dtype=self.dtype, device=self.device)
        weights, biases = [], []
        for weight, bias in maps:
            heads = self._here(weight).reshape(-1, self.d_head, self.d_model).transpose(1, 2)
            repeats = self.n_heads // heads.shape[0]
            weights.append(heads.repeat_interleave(repeats, dim=0))
            if bias is None:
                biases.append(zero)
            else:
                heads = self._here(bias).reshape(-1, self.d_head)
                biases.append(heads.repeat_interleave(repeats, dim=0))
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        frozen = [None if module is None else self._norm(module) for module in norms]
        rotary = getattr(_part(self.model, self._spec.base), "rotary_emb", None)
        inv_freq, rotary_scaling = None, 1.0
        if rotary is not None:
            # Gemma 3 keeps one set of frequencies for its local layers and one for its global.
            kind = f"{attention.layer_type}_" if hasattr(rotary, "layer_types") else ""
            inv_freq = self._here(getattr(rotary, f"{kind}inv_freq")).float()
            rotary_scaling = float(getattr(rotary, f"{kind}attention_scaling"))
        config = self.model.config
        cap = config.attn_logit_softcapping if self._spec.capped_scores else None
        windowed = config if self._spec.same_window else attention
        window = getattr(windowed, "sliding_window", None)
        return QueryKeyWeights(
            W_Q=weights[0],
            W_K=weights[1],
            b_Q=biases[0],
            b_K=biases[1],
            q_gain=None if frozen[0] is None else frozen[0].gain,
            k_gain=None if frozen[1] is None else frozen[1].gain,
            eps=0.0 if frozen[0] is None else frozen[0].eps,
            rotary_dim=0 if inv_freq is None else 2 * inv_freq.numel(),
            inv_freq=inv_freq,
            rotary_scaling=rotary_scaling,
            score_scale=float(attention.scaling),
            score_cap=None if cap is None else float(cap),
            window=None if window is None else int(window),
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

    def modules_beyond(self, layers: int) -> list[nn.Module]:
        """What a harvest from the first ``layers`` layers never runs: the others, and the
        unembedding."""
        return [*self._layers[layers:], self.model.get_output_embeddings()]

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
    def final_normed_next(self, ids: Tensor, cache: Any, length: int) -> tuple[Tensor, Any]:
        """``final_normed`` for tokens [B, S] that come after others that a cache remembers.

        Args:
            ids: the new tokens.
            cache: what the call before gave back; None: there are no tokens before.
            length: how many tokens there are with these.

        Returns:
            [B, S, d], and the cache that holds these too.
        """
        tokens = ids.to(self.device)
        output = _part(self.model, self._spec.base)(
            input_ids=tokens,
            attention_mask=tokens.new_ones(len(tokens), length),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state.to(self.device), output.past_key_values

    @torch.no_grad()
    def harvest(
        self, ids: Tensor | Sequence[int], sites: Iterable[Site]
    ) -> dict[Site, ModuleActivations]:
        """Inputs and residual writes [B, S, d] of the chosen modules, from one forward pass.

        The pass stops after the last module that is asked for, and the unembedding is never run.
        Layers may lie on several devices; what is returned lies on the adapter's.
        """
        wanted = set(sites)
        inputs: dict[Site, Tensor] = {}
        found: dict[Site, ModuleActivations] = {}

        def see_input(site: Site) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                inputs[site] = output

            return hook

        def see_output(site: Site) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                found[site] = ModuleActivations(
                    inputs.pop(site).to(self.device), _first(output).to(self.device)
                )
                if len(found) == len(wanted):
                    raise _StopForward

            return hook

        with self._hooks() as add:
            for site in wanted:
                add(self._norm_module(site), see_input(site))
                add(self._write_module(site), see_output(site))
            with suppress(_StopForward):
                _part(self.model, self._spec.base)(**self._call(ids))
        return found

    @contextmanager
    def replaced(self, replacements: Mapping[Site, Replacement]) -> Iterator[None]:
        """Within the block, the residual writes of some modules are what a function says.

        Args:
            replacements: site -> function of the module's input and its own write (both
                [B, S, d], on the adapter's device) that returns the write to use instead.
        """
        inputs: dict[Site, Tensor] = {}

        def see_input(site: Site) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                inputs[site] = output

            return hook

        def replace(site: Site, function: Replacement) -> Callable[..., Any]:
            def hook(_module: Any, _args: Any, output: Any) -> Any:
                own = _first(output)
                write = function(inputs.pop(site).to(self.device), own.to(self.device))
                write = write.to(own.device, own.dtype)
                return (write, *output[1:]) if isinstance(output, tuple) else write

            return hook

        with self._hooks() as add:
            for site, function in replacements.items():
                add(self._norm_module(site), see_input(site))
                add(self._write_module(site), replace(site, function))
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
                mlp = Site(index, "mlp")
                add(self._norm_module(mlp), keep_mid, before=True)
                add(self._norm_module(mlp), keep("mlp_in"))
                add(self._write_module(mlp), keep("mlp_out"))
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

    def layer_module(self, layer: int, part: LayerPart) -> Optional[nn.Module]:
        """A part of a layer, for hooks; None where the family has none."""
        path = getattr(self._spec, part)
        return cast(nn.Module, _part(self._layers[layer], path)) if path else None

    def final_norm_module(self) -> nn.Module:
        """The norm before the unembedding, for hooks."""
        return cast(nn.Module, _part(self.model, self._spec.final_norm))

    def stream_reader(self, depth: int) -> nn.Module:
        """The module that takes the whole residual stream as its first input after ``depth``
        layers, for hooks: the next layer, or the final norm."""
        last = depth == self.n_layers
        return self.final_norm_module() if last else cast(nn.Module, self._layers[depth])

    def _norm_module(self, site: Site) -> Any:
        spec = self._spec
        path = spec.mlp_norm if site.kind == "mlp" else spec.attention_norm
        return _part(self._layers[site.layer], path)

    def _write_module(self, site: Site) -> Any:
        """The module whose output is added to the residual stream."""
        spec = self._spec
        mlp, attention = spec.mlp_post_norm or spec.mlp, spec.attention_post_norm or spec.attention
        return _part(self._layers[site.layer], mlp if site.kind == "mlp" else attention)

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
