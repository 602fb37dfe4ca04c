"""Text generated from a prompt on, with and without interventions, side by side.

All texts are rows of one batch with one cache of keys and values. Edits at positions of the prompt
are made once, when the prompt is read: the cache holds what they did. Edits at every position are
made at each new token too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from attention_studio.core.changed_pass import ChangedPass
from attention_studio.core.generation_records import (
    Continuation,
    GeneratedToken,
    Generation,
    GenerationStep,
    Sampling,
)
from attention_studio.core.host_memory import GIB
from attention_studio.core.intervention_specs import Freeze, Intervention, InterventionError
from attention_studio.core.interventions import Interventions
from attention_studio.core.loaded_model import LoadedModel, free_bytes
from attention_studio.core.memory import shape_of, working_bytes
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_records import TokenProbability
from attention_studio.utils.progress import WorkContext


@torch.no_grad()
def generate(
    bound: Interventions,
    cases: Sequence[Intervention],
    n_tokens: int,
    freeze: Optional[Freeze] = None,
    sampling: Optional[Sampling] = None,
    top_k: int = 5,
    ctx: Optional[WorkContext] = None,
) -> Generation:
    """Generate at most ``n_tokens`` tokens from the prompt on, as it is and with each intervention.

    Args:
        bound: the prompt.
        cases: the interventions.
        n_tokens: a text ends before where the model ends it.
        freeze: ``none`` (if left out) or ``attention``, which freezes the prompt's tokens only.
        sampling: how tokens are chosen; None: the likeliest.
        top_k: how many candidates are kept of each token.
        ctx: cancellation, progress per token, and each step as a ``GenerationStep``.

    Raises:
        InterventionError: an edit that there is not, everything frozen (the linear model says
            nothing of further tokens), more tokens than the context or memory has room for, or the
            model's output is no longer finite.
        Cancelled: ``ctx`` was cancelled.
    """
    freeze, sampling, ctx = freeze or Freeze(), sampling or Sampling(), ctx or WorkContext()
    loaded, local = bound.replacement.loaded, bound.local
    adapter, length = local.adapter, len(local.ids)
    if top_k < 1:
        raise InterventionError(f"{top_k} candidates cannot be shown", "", "ask for one or more")
    _check_room(loaded, length, n_tokens, len(cases) + 1, freeze)
    table = bound.table(cases)
    generator = torch.Generator().manual_seed(sampling.seed)
    ends = torch.tensor(sorted(end_tokens(loaded)), dtype=torch.long, device=adapter.device)
    rows = len(cases) + 1
    found: list[list[GeneratedToken]] = [[] for _ in range(rows)]
    running = [True] * rows
    changed = ChangedPass(local, table, freeze, cached=True)
    cache, start = None, 0
    ids = torch.tensor([local.ids] * rows, device=adapter.device)
    with changed.active():
        for number in range(n_tokens):
            ctx.check()
            ctx.progress(number, n_tokens, "Generating")
            changed.begin(start)
            logits, cache = next_logits(adapter, ids, cache, start)
            start += ids.shape[1]
            if not bool(logits.isfinite().all()):
                raise InterventionError(
                    "The model's output is no longer finite",
                    "the change is too large for its number type",
                    "choose smaller values",
                )
            chosen = choose_tokens(logits, sampling, generator)
            step = _tokens(loaded, logits, chosen, top_k)
            shown = tuple(token if on else None for token, on in zip(step, running, strict=True))
            for row, token in enumerate(shown):
                if token is not None:
                    found[row].append(token)
            # The untouched text is the batch's last row, and the first that is shown.
            ctx.partial(GenerationStep(number, (shown[-1], *shown[:-1])))
            over = torch.isin(chosen, ends).tolist()
            running = [on and not end for on, end in zip(running, over, strict=True)]
            if not any(running):
                break
            ids = chosen.unsqueeze(1)
    ctx.progress(n_tokens, n_tokens, "Generating")
    whole = [
        _continuation(loaded, tokens, intervention, not on)
        for tokens, intervention, on in zip(found, (*cases, None), running, strict=True)
    ]
    return Generation(bound.prompt, freeze, sampling, whole[-1], tuple(whole[:-1]))


def end_tokens(loaded: LoadedModel) -> set[int]:
    """The tokens with which the model ends a text, as transformers' ``generate`` knows them."""
    config = getattr(loaded.model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return set()
    return {int(i) for i in ids} if isinstance(ids, (list, tuple)) else {int(ids)}


def next_logits(adapter: ModelAdapter, ids: Tensor, cache: Any, start: int) -> tuple[Tensor, Any]:
    """What the model expects after ``ids`` [rows, S], which follow ``start`` tokens in ``cache``.

    Returns:
        float32 logits [rows, V], and the cache that holds these tokens too.
    """
    normed, cache = adapter.final_normed_next(ids, cache, start + ids.shape[1])
    return adapter.unembed(normed[:, -1]).float(), cache


def choose_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """The next token of each row of logits [rows, V]; the generator is one of the CPU."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # argmax(logit + Gumbel noise) is a draw from the softmax (Gumbel 1954).
    uniform = torch.rand(logits.shape[-1], generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    # Less the largest, which changes no draw: the coldest temperatures make all others infinite.
    logits = logits.double()
    cold = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    return (cold + noise.to(logits.device)).argmax(-1)


def _tokens(
    loaded: LoadedModel, logits: Tensor, chosen: Tensor, top_k: int
) -> list[GeneratedToken]:
    probabilities = logits.softmax(-1)
    best = probabilities.topk(min(top_k, probabilities.shape[-1]), dim=-1)
    found = []
    for row, token in enumerate(chosen.tolist()):
        ids = best.indices[row].tolist()
        text, *names = loaded.token_strings([token, *ids])
        found.append(
            GeneratedToken(
                token,
                text,
                float(probabilities[row, token]),
                tuple(map(TokenProbability, ids, names, best.values[row].tolist())),
            )
        )
    return found


def _continuation(
    loaded: LoadedModel,
    tokens: Sequence[GeneratedToken],
    intervention: Optional[Intervention],
    ended: bool,
) -> Continuation:
    ids = [token.token_id for token in tokens]
    text = str(loaded.tokenizer.decode(ids[:-1] if ended else ids))
    return Continuation(intervention, tuple(tokens), text, ended)


def _check_room(loaded: LoadedModel, length: int, n_tokens: int, rows: int, freeze: Freeze) -> None:
    if freeze.mode == "all":
        raise InterventionError(
            "No text can be generated with everything frozen",
            "the linear model holds for the tokens of its prompt only",
            "freeze the attention or nothing",
        )
    check_room(loaded, length, n_tokens, rows)


def check_room(loaded: LoadedModel, length: int, n_tokens: int, rows: int = 1) -> None:
    """Refuse early what context or memory have no room for.

    Raises:
        InterventionError: ``rows`` texts of ``length`` tokens cannot have ``n_tokens`` more.
    """
    if n_tokens < 1:
        raise InterventionError(f"{n_tokens} tokens cannot be generated", "", "ask for one or more")
    limit = loaded.info.context_length
    if length + n_tokens > limit:
        raise InterventionError(
            f"{n_tokens:,} tokens cannot be generated after {length:,}",
            f"{loaded.info.name} takes at most {limit:,} in all",
            f"ask for at most {max(0, limit - length):,}",
        )
    shape = shape_of(loaded.model.config, loaded.info.n_parameters)
    needed = rows * working_bytes(shape, length + n_tokens, torch.float32.itemsize)
    free = free_bytes(loaded.adapter.device)
    if needed > free:
        raise InterventionError(
            f"{rows} texts of {length + n_tokens:,} tokens do not fit",
            f"they need {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
            "ask for fewer tokens or interventions",
        )
