"""One text continued: the tokens that transformers itself would write."""

from __future__ import annotations

import pytest
import torch

from attention_studio.core.continuation import continue_tokens
from attention_studio.core.generation import end_tokens
from attention_studio.core.generation_records import Sampling
from attention_studio.core.intervention_specs import InterventionError
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, PROMPT, tiny_loaded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [256, 3])
def test_greedy_tokens_are_those_of_transformers(
    family: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_studio.core.continuation._CHUNK", chunk)
    loaded = tiny_loaded(family)
    ids = loaded.encode(PROMPT)
    whole = loaded.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    expected = whole[0, len(ids) :].tolist()
    ends = end_tokens(loaded)
    expected = expected[: next((i for i, one in enumerate(expected) if one in ends), 20)]
    assert continue_tokens(loaded, ids, 20) == expected


def test_draws_follow_the_seed_and_the_model() -> None:
    loaded = tiny_loaded()
    ids = loaded.encode(PROMPT)
    one = continue_tokens(loaded, ids, 12, Sampling(1.0, 1))
    assert continue_tokens(loaded, ids, 12, Sampling(1.0, 1)) == one
    assert continue_tokens(loaded, ids, 12, Sampling(1.0, 2)) != one
    logits = loaded.adapter.logits(torch.tensor([ids]))[0, -1].float()
    expected = (logits / 2.0).softmax(-1)
    drawn = [continue_tokens(loaded, ids, 1, Sampling(2.0, seed)) for seed in range(400)]
    tokens = [row[0] if row else next(iter(end_tokens(loaded))) for row in drawn]
    best = int(expected.argmax())
    share, p = tokens.count(best) / 400, float(expected[best])
    assert abs(share - p) < 4 * (p * (1 - p) / 400) ** 0.5


def test_it_ends_where_it_is_told_to() -> None:
    loaded = tiny_loaded()
    ids = loaded.encode(PROMPT)
    all_of_them = continue_tokens(loaded, ids, 12)
    heard: list[int] = []

    def listen(token: int) -> bool:
        heard.append(token)
        return len(heard) == 4

    assert continue_tokens(loaded, ids, 12, on_token=listen) == all_of_them[:4] == heard


def test_a_cancel_works_while_reading_and_between_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attention_studio.core.continuation._CHUNK", 2)
    loaded, heard, ctx = tiny_loaded(), list[int](), WorkContext()
    ids = loaded.encode(PROMPT)

    def listen(token: int) -> bool:
        heard.append(token)
        ctx.cancel()
        return False

    with pytest.raises(Cancelled):
        continue_tokens(loaded, ids, 12, on_token=listen, ctx=ctx)
    assert len(heard) == 1
    with pytest.raises(Cancelled):
        continue_tokens(loaded, ids, 12, on_token=listen, ctx=ctx)
    assert len(heard) == 1


def test_there_has_to_be_room() -> None:
    loaded = tiny_loaded()
    with pytest.raises(InterventionError, match="at most 64"):
        continue_tokens(loaded, loaded.encode(PROMPT), 64)
    with pytest.raises(InterventionError, match="0 tokens"):
        continue_tokens(loaded, loaded.encode(PROMPT), 0)
