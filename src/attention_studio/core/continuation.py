"""A text continued token by token: what ``generation`` does, for one text and unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch

from attention_studio.core.generation import (
    check_room,
    choose_tokens,
    end_tokens,
    next_logits,
)
from attention_studio.core.generation_records import Sampling
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.utils.progress import WorkContext

_CHUNK = 256  # tokens of the text that are read between two looks at whether to stop


@torch.no_grad()
def continue_tokens(
    loaded: LoadedModel,
    ids: Sequence[int],
    n_tokens: int,
    sampling: Optional[Sampling] = None,
    on_token: Callable[[int], bool] = lambda token: False,
    ctx: Optional[WorkContext] = None,
) -> list[int]:
    """At most ``n_tokens`` tokens that follow ``ids``, without the one that ends the text.

    Args:
        loaded: the model.
        ids: the text so far, one token or more.
        n_tokens: how many more at most.
        sampling: how tokens are chosen; None: the likeliest.
        on_token: hears each token, and ends the text by returning True.
        ctx: cancellation, between tokens and while a long text is read.

    Raises:
        InterventionError: there is no room for so many tokens.
        Cancelled: through ``ctx``.
    """
    sampling, ctx = sampling or Sampling(), ctx or WorkContext()
    check_room(loaded, len(ids), n_tokens)
    adapter, ends = loaded.adapter, end_tokens(loaded)
    generator = torch.Generator().manual_seed(sampling.seed)
    new = torch.tensor([list(ids)], device=adapter.device)
    cache: Any = None
    start = 0
    while new.shape[1] > _CHUNK:
        ctx.check()
        start += _CHUNK
        _, cache = adapter.final_normed_next(new[:, :_CHUNK], cache, start)
        new = new[:, _CHUNK:]
    found: list[int] = []
    while True:
        ctx.check()
        logits, cache = next_logits(adapter, new, cache, start)
        start += new.shape[1]
        chosen = choose_tokens(logits, sampling, generator)
        token = int(chosen)
        if token in ends:
            return found
        found.append(token)
        if on_token(token) or len(found) == n_tokens:
            return found
        new = chosen.unsqueeze(1)
