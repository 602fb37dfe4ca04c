"""How likely a model holds each of some texts to come next: a choice without writing anything.

The texts are scored by the log-probabilities of their own tokens (as in Brown et al. 2020, section
2.4), so a model that would answer something else still says which of them it holds likelier.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attention_studio.core.generation import end_tokens
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

_CHUNK = 256  # tokens of the text that are read between two looks at whether to stop


class OptionError(StudioError):
    """These options cannot be told apart, or do not fit behind the text."""


@dataclass(frozen=True)
class OptionScores:
    """
    Attributes:
        log_probs: of each option's tokens behind the text, in natural logarithms.
        n_read: tokens that the model read for it.
    """

    log_probs: tuple[float, ...]
    n_read: int

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Those of the options, if it has to be one of them."""
        scores = torch.tensor(self.log_probs, dtype=torch.float64)
        return tuple(scores.softmax(0).tolist())


class OptionScorer:
    """Scores options behind texts, one text after the other. What a text has in common with the one
    before is not read again. One thread at a time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._ids: list[int] = []
        self._cache: Any = None

    @torch.no_grad()
    def score(self, text: str, options: Sequence[str], ctx: WorkContext) -> OptionScores:
        """How likely each option is to follow ``text``.

        Text and option are read by the tokenizer as one text, since a token may cross the border
        between them; what is scored begins where the options' tokens part from the text's. Where
        one option begins with all of another (1 and 10), the token that ends an answer is scored
        behind each of them.

        Raises:
            OptionError: two options have the same tokens or one has none, the model's answers have
                no end where that is needed, or they do not fit into its context.
            Cancelled: through ``ctx``, between two stretches of the text.
        """
        ctx.check()
        read, tails = self._parted(text, options)
        limit = self._loaded.info.context_length
        longest = len(read) + max(map(len, tails))
        if longest > limit:
            raise OptionError(
                f"The question has {longest:,} tokens",
                f"{self._loaded.info.name} takes at most {limit:,}",
                "Ask for less at once, or use a model with a longer context",
            )
        n_new = self._read(read[:-1], ctx)
        # Rows that say the same are one row: options of one token each need no more than the text.
        row_of = [(read[-1], *tail[:-1]) for tail in tails]
        rows = list(dict.fromkeys(row_of))
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows])
        cache = copy.deepcopy(self._cache)
        if cache is not None and len(rows) > 1:
            cache.batch_repeat_interleave(len(rows))
        adapter = self._loaded.adapter
        length = len(read) - 1 + width
        normed, _ = adapter.final_normed_next(ids.to(adapter.device), cache, length)
        found = adapter.unembed(normed).float().log_softmax(-1)
        log_probs = []
        for row, tail in zip(row_of, tails, strict=True):
            here = found[rows.index(row)]
            log_probs.append(sum(float(here[at, token]) for at, token in enumerate(tail)))
        return OptionScores(tuple(log_probs), n_new + sum(map(len, rows)))

    def _parted(self, text: str, options: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The tokens that all have in common, and those of each option behind them."""
        loaded = self._loaded
        wholes = [loaded.text_ids(text + option) for option in options]
        shared = _common(loaded.text_ids(text), *wholes)
        tails = [whole[shared:] for whole in wholes]
        if not shared or not all(tails) or len(set(map(tuple, tails))) < max(len(tails), 2):
            raise OptionError(
                "These options cannot be told apart",
                "the tokenizer makes the same tokens of some of them, or none",
                "Offer other words",
            )
        begun = any(
            one is not other and other[: len(one)] == one for one in tails for other in tails
        )
        if begun:
            end = min(end_tokens(loaded), default=None)
            if end is None:
                raise OptionError(
                    "These options cannot be told apart",
                    "one begins with all of another, and the model has no token that ends answers",
                    "Offer other words",
                )
            tails = [[*tail, end] for tail in tails]
        return wholes[0][:shared], tails

    def _read(self, ids: list[int], ctx: WorkContext) -> int:
        """Have the cache hold these tokens and no others; how many were read anew."""
        kept = _common(self._ids, ids)
        if kept < len(self._ids):
            layers = getattr(self._cache, "layers", ())
            # Layers that look back so far and no further have forgotten what was before.
            if not kept or not layers or any(getattr(x, "is_sliding", False) for x in layers):
                kept, self._cache = 0, None
            else:
                self._cache.crop(kept - len(self._ids))  # less than 0: so many fewer
            self._ids = self._ids[:kept]
        adapter = self._loaded.adapter
        for start in range(kept, len(ids), _CHUNK):
            ctx.check()
            some = ids[start : start + _CHUNK]
            new = torch.tensor([some], device=adapter.device)
            _, self._cache = adapter.final_normed_next(new, self._cache, start + len(some))
            self._ids = ids[: start + len(some)]
        return len(ids) - kept


def _common(first: Sequence[int], *others: Sequence[int]) -> int:
    """How many tokens all begin with."""
    count = 0
    for tokens in zip(first, *others, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
