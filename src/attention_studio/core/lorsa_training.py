"""One optimizer step of a Lorsa, as a sequence of micro-steps.

Given its patterns a Lorsa is a transcoder whose latents read what their QK head sees, so everything
but the patterns goes through the transcoder's own step (``core.training_gradients``): a few
sequences at a time, the patterns are made and mix the inputs, the mixtures go in, and the loss's
gradient at the mixtures comes back. The gradient at a pattern is that times the inputs, and what
lies between pattern and queries and keys (norms, rotation, softmax) is left to autograd: it is a
small part of the work.

Positions that are not kept (the first token, padding) are attended to like all others, but have no
part in the loss.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig, QueryKeyTensors
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.distributed import Peers
from attention_studio.core.micro_steps import MICRO_STEP_FLOPS, slices
from attention_studio.core.training_adam import norm_of
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_gradients import BatchGradients, Portion
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_step import DictionaryState, StepResult, statistics_of

_QUERY_KEY = QueryKeyTensors._fields
_AS_TRANSCODER = {"W_E": "W_V", "b_E": "b_V", "W_D": "W_O", "b_D": "b_D", "threshold": "threshold"}


class LorsaState(DictionaryState[Lorsa]):
    """A Lorsa in training."""


class LorsaScratch:
    """Working memory of a step. Layers are trained one after the other, so they share it.

    The mixtures of the whole batch are nearly all of it: ``batch_tokens · n_qk_heads · d_model``.

    Args:
        config: shape of the Lorsas.
        batch_tokens: the most tokens that a batch keeps.
        token_chunk: tokens per micro-step.
        dtype, selection_dtype: as in ``StepScratch``.
    """

    def __init__(
        self,
        config: LorsaConfig,
        batch_tokens: int,
        token_chunk: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        selection_dtype: Optional[torch.dtype] = None,
    ) -> None:
        self.latents = StepScratch(
            _transcoder_config(config),
            batch_tokens,
            token_chunk,
            device,
            dtype,
            selection_dtype,
            groups=config.n_qk_heads,
        )
        shapes = config.tensor_shapes()
        self.query_key = {
            name: torch.zeros(shapes[name], device=device, dtype=dtype)
            for name in _query_key_names(config)
        }


def lorsa_training_step(
    state: LorsaState,
    scratch: LorsaScratch,
    inputs: Tensor,
    outputs: Tensor,
    kept: Tensor,
    settings: StepSettings,
    peers: Optional[Peers] = None,
) -> Generator[None, None, StepResult]:
    """Train ``state`` on one batch of raw activations; yields between micro-steps.

    QK heads learn at ``settings.qk_rate`` times the learning rate; at 0 they stay as they are.

    Args:
        inputs, outputs: ``[B, T, d]``, whole sequences.
        kept: bool ``[B, T]``, positions that count; at least one in the whole batch.
        peers: processes that have other sequences of the same batch.

    Returns:
        As ``training_step``. Abandoning the generator half-way leaves the state unusable: go on,
        or load a checkpoint.
    """
    batch = BatchGradients(
        as_transcoder(state.dictionary),
        scratch.latents,
        settings,
        state.dead(settings),
        state.steps > 0,
        peers,
    )
    for gradient in scratch.query_key.values():
        gradient.zero_()
    portions = _portions(state.dictionary, scratch, inputs, outputs, kept, settings)
    stats = yield from statistics_of(batch.run_portions(int(kept.sum()), portions))
    if peers is not None and settings.qk_rate > 0:
        peers.add_up(scratch.query_key.values())
        yield
    latents = {_AS_TRANSCODER[name]: g for name, g in scratch.latents.gradients.items()}
    looks = scratch.query_key if settings.qk_rate > 0 else {}
    norm = norm_of([*latents.values(), *looks.values()])
    yield
    state.steps += 1
    slow = replace(settings, learning_rate=settings.learning_rate * settings.qk_rate)
    yield from state.update(latents, settings, norm)
    yield from state.update(looks, slow, norm)
    return state.settle(stats, settings, norm)


def as_transcoder(lorsa: Lorsa) -> Transcoder:
    """The transcoder that a Lorsa is once its patterns are given. Its tensors are the Lorsa's own:
    what changes one changes the other."""
    with torch.device("meta"):
        transcoder = Transcoder(_transcoder_config(lorsa.config))
    for name in (*_AS_TRANSCODER, "input_scale", "output_scale"):
        setattr(transcoder, name, getattr(lorsa, _AS_TRANSCODER.get(name, name)))
    return transcoder


def _transcoder_config(config: LorsaConfig) -> TranscoderConfig:
    return TranscoderConfig(
        d_model=config.d_model,
        d_latent=config.d_latent,
        activation=config.activation,
        k=config.k,
        norm_aware=config.norm_aware,
    )


def _query_key_names(config: LorsaConfig) -> list[str]:
    return [name for name in _QUERY_KEY if name in config.tensor_shapes()]


class _Look(NamedTuple):
    """The patterns ``[b, h, T, T]`` of some heads, and the leaves that they were made from."""

    heads: slice
    leaves: dict[str, Tensor]
    pattern: Tensor


def _portions(
    lorsa: Lorsa,
    scratch: LorsaScratch,
    inputs: Tensor,
    outputs: Tensor,
    kept: Tensor,
    settings: StepSettings,
) -> Iterator[Optional[Portion]]:
    """What the heads see, a few sequences at a time; None between micro-steps.

    When a portion's gradient has come back, its share is added to ``scratch.query_key``.
    """
    config, dtype = lorsa.config, scratch.latents.x.dtype
    length = inputs.shape[1]
    for part in slices(inputs.shape[0], max(1, settings.token_chunk // length)):
        keep = kept[part]
        tokens = int(keep.sum())
        if tokens == 0:
            continue
        x = inputs[part].to(dtype)
        seen = x.new_empty(tokens, config.n_qk_heads, config.d_model)
        looks = []
        for heads in _head_slices(config, x.shape[0], length):
            look = _look(lorsa, x, heads)
            seen[:, heads] = _seen(look.pattern.detach(), x)[keep]
            looks.append(look)
            yield None
        gradient = torch.empty_like(seen) if settings.qk_rate > 0 else None
        yield Portion(seen, outputs[part][keep], gradient)
        if gradient is None:
            continue
        for look in looks:
            _follow_back(look, x, keep, gradient[:, look.heads], scratch.query_key)
            yield None


def _head_slices(config: LorsaConfig, sequences: int, length: int) -> Iterator[slice]:
    """QK heads by as many as fit a micro-step, on the way there and on the way back."""
    there = 4 * config.d_model * config.d_qk + 2 * length * config.d_model
    heads = max(1, int(MICRO_STEP_FLOPS / (2 * sequences * length * there)))
    return slices(config.n_qk_heads, heads)


@torch.enable_grad()
def _look(lorsa: Lorsa, x: Tensor, heads: slice) -> _Look:
    weights = lorsa.query_key(heads)
    leaves = {
        name: tensor.detach().requires_grad_()
        for name, tensor in zip(_QUERY_KEY, weights, strict=True)
        if tensor is not None
    }
    return _Look(heads, leaves, lorsa.pattern(x, weights._replace(**leaves)))


def _seen(pattern: Tensor, x: Tensor) -> Tensor:
    """What some heads see, ``[b, T, h, d]``: ``Lorsa.mixed`` in the order of the tokens, so that
    the patterns are turned around and not the mixtures, which are larger."""
    by_token = pattern.transpose(1, 2).flatten(1, 2)
    seen: Tensor = (by_token @ x).view(*x.shape[:2], pattern.shape[1], x.shape[2])
    return seen


def _follow_back(
    look: _Look, x: Tensor, keep: Tensor, gradient: Tensor, into: dict[str, Tensor]
) -> None:
    """From the gradient ``[n, h, d]`` at what heads saw at kept positions to their weights'."""
    at_seen = x.new_zeros(*keep.shape, *gradient.shape[1:])
    at_seen[keep] = gradient
    at_pattern = at_seen.flatten(1, 2) @ x.transpose(1, 2)
    at_pattern = at_pattern.view(*at_seen.shape[:3], x.shape[1]).transpose(1, 2)
    found = torch.autograd.grad(look.pattern, list(look.leaves.values()), at_pattern)
    for name, share in zip(look.leaves, found, strict=True):
        into[name][look.heads] += share
