"""Training the demo's model from nothing: one pass over text that never repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F

from attention_studio.demo.muon import Muon
from attention_studio.demo.rows import pack
from attention_studio.demo.text import DemoText
from attention_studio.utils.progress import WorkContext

_LOWEST_RATE = 0.02


@dataclass(frozen=True)
class ModelRecipe:
    """The model's shape and how it is trained. All of it decides the weights.

    Attributes:
        d_model, n_layers, n_heads, d_mlp: the shape; embedding and unembedding are ``tied`` or not.
        row_length: tokens of a row; also the model's context.
        rows: rows of a step.
        short_length: tokens of the shorter rows that training begins with: with few texts in a row,
            attention finds its own text sooner. A step then has as many more rows.
        short_share: the share of the steps with short rows.
        steps: steps in all.
        learning_rate: the highest; reached after ``warm_up`` steps, it then falls as a cosine.
        weight_decay: of matrices; gains are left alone.
        answer_weight: how much more than other tokens those count that follow from what was said.
    """

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 384
    tied: bool = True
    row_length: int = 128
    rows: int = 10
    short_length: int = 32
    short_share: float = 0.7
    steps: int = 3200
    learning_rate: float = 5e-3
    weight_decay: float = 0.2
    warm_up: int = 100
    answer_weight: float = 5.0


def new_model(recipe: ModelRecipe, vocab_size: int, seed: int) -> Any:
    """A random model of the Llama family (RMSNorm, rotary positions, gated MLPs)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.d_model,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            num_key_value_heads=recipe.n_heads,
            intermediate_size=recipe.d_mlp,
            max_position_embeddings=recipe.row_length,
            tie_word_embeddings=recipe.tied,
            # Queries and keys with a part of their own can tell positions apart whatever the words
            # are; heads that look at the token before, and so induction, form sooner.
            attention_bias=True,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=0.04,
        )
    )


def train_model(
    text: DemoText,
    ids: Mapping[str, int],
    start: int,
    recipe: ModelRecipe,
    ctx: Optional[WorkContext] = None,
    watch: Optional[Callable[[int, float, Any], None]] = None,
) -> Any:
    """Train on the stream of training samples and return the model.

    At the end the weights are rounded to what float16 holds, so that half the bytes store them
    exactly.

    Args:
        text: the samples.
        ids: the id of each piece.
        start: the start token's id.
        recipe: shape and training.
        ctx: progress and cancellation.
        watch: called after each step with its number, its loss and the model.

    Raises:
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    model = new_model(recipe, len(ids), text.seed)
    optimizers = _optimizers(model, recipe)
    samples = text.stream(held_out=False)
    model.train()
    for step in range(recipe.steps):
        ctx.check()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
        short = step < recipe.short_share * recipe.steps
        length = recipe.short_length if short else recipe.row_length
        n_rows = recipe.rows * recipe.row_length // length
        rows = pack(samples, ids, start, n_rows, length)
        loss = _loss(
            model,
            torch.from_numpy(rows.tokens),
            torch.from_numpy(rows.is_answer),
            recipe.answer_weight,
        )
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ctx.progress(step + 1, recipe.steps, "Training the demo's model")
        if watch is not None:
            watch(step, float(loss.detach()), model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return model.eval()


def _optimizers(model: Any, recipe: ModelRecipe) -> list[torch.optim.Optimizer]:
    embedding = model.get_input_embeddings().weight
    inner = [p for p in model.model.layers.parameters() if p.dim() == 2]
    inner_ids = {id(p) for p in inner}
    outer = [p for p in model.parameters() if p.dim() == 2 and id(p) not in inner_ids]
    assert any(p is embedding for p in outer)
    groups: list[dict[str, Any]] = [
        {"params": outer},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return [
        Muon(inner, rate, weight_decay=decay),
        torch.optim.AdamW(groups, rate, betas=(0.9, 0.98), weight_decay=decay, fused=True),
    ]


def learning_rate(recipe: ModelRecipe, step: int) -> float:
    """The learning rate of a step (0 is the first)."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * warm * (_LOWEST_RATE + (1 - _LOWEST_RATE) * cosine)


def _loss(
    model: Any, tokens: torch.Tensor, is_answer: torch.Tensor, answer_weight: float
) -> torch.Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = torch.where(is_answer[:, 1:].flatten(), answer_weight, 1.0)
    return (losses * weights).sum() / weights.sum()
