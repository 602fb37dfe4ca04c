"""Texts that a model writes itself: training text for those who have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

import torch

from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel


def sample_texts(
    loaded: LoadedModel,
    count: int,
    length: int = 128,
    batch: int = 32,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> Iterator[str]:
    """``count`` texts of up to ``length`` tokens, drawn at temperature 1 after the start token.

    A text ends early where the model writes its end-of-text token. A model without a start token
    begins with a random one. The same seed gives the same texts.

    Raises:
        Cancelled: through ``ctx``, between two tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    length = min(length, loaded.info.context_length)
    start, end = loaded.start_token_id, loaded.tokenizer.eos_token_id
    for done in range(0, count, batch):
        n = min(batch, count - done)
        if start is not None:
            first = torch.full((n,), start)
        else:
            first = torch.randint(loaded.info.vocab_size, (n,), generator=generator)
        if ctx is not None:
            ctx.progress(done, count, "Writing sample texts")
        for row in _continue(loaded, first, length, generator, ctx)[:, 1:].tolist():
            ids = row[: row.index(end)] if end in row else row
            yield loaded.tokenizer.decode(ids)


@torch.no_grad()
def _continue(
    loaded: LoadedModel,
    first: torch.Tensor,
    length: int,
    generator: torch.Generator,
    ctx: Optional[WorkContext],
) -> torch.Tensor:
    """Token ids ``[n, length]`` that start with ``first [n]``."""
    from attention_studio.core.generation import next_logits  # which knows corpora itself

    tokens, cache = [first], None
    for start in range(length - 1):
        if ctx is not None:
            ctx.check()
        logits, cache = next_logits(loaded.adapter, tokens[-1].unsqueeze(1), cache, start)
        # Drawn on the CPU in float32, so that the texts do not depend on the device's generator;
        # row by row, where ``choose_tokens`` gives all rows the same luck.
        chances = logits.softmax(-1).cpu()
        tokens.append(torch.multinomial(chances, 1, generator=generator).squeeze(1))
    return torch.stack(tokens, 1)
