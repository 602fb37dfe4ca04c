"""Text generated under interventions: with a cache as without, and as transformers does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from attention_studio.core.changed_pass import ChangedPass
from attention_studio.core.generation import end_tokens, generate
from attention_studio.core.generation_records import (
    Continuation,
    GeneratedToken,
    Generation,
    GenerationStep,
    Sampling,
)
from attention_studio.core.intervention_specs import (
    Edit,
    FeatureAt,
    Freeze,
    Intervention,
    InterventionError,
    supernode,
)
from attention_studio.core.interventions import Interventions
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete
from tests.tiny import FAMILIES, PROMPT

EVERYWHERE = Intervention(
    (
        Edit((FeatureAt(Site(0, "mlp"), None, 3),), "add", 2.0),
        Edit((FeatureAt(Site(1, "mlp"), None, None),), "scale", 0.5),
        Edit((FeatureAt(Site(2, "mlp"), None, 5),), "set", 4.0),
    )
)
LORSA = Intervention(
    (
        Edit((FeatureAt(Site(0, "attention"), None, 3),), "set", 3.0),
        Edit((FeatureAt(Site(2, "attention"), None, None),), "scale", -1.5),
        Edit((FeatureAt(Site(1, "mlp"), None, None),), "ablate"),
    )
)
FIXED = Intervention(
    (
        Edit((FeatureAt(Site(0, "mlp"), 4, None),), "scale", -2.0),
        Edit((FeatureAt(Site(1, "mlp"), 10, 7),), "set", 6.0),
    )
)
CASES = (EVERYWHERE, LORSA, FIXED)


class Collector(WorkContext):
    """Keeps what is reported."""

    def __init__(self, cancel_after: Optional[int] = None) -> None:
        super().__init__()
        self.steps: list[GenerationStep] = []
        self.done: list[float] = []
        self._cancel_after = cancel_after

    def partial(self, value: Any) -> None:
        self.steps.append(value)
        if len(self.steps) == self._cancel_after:
            self.cancel()

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        self.done.append(done)


def without_cache(
    bound: Interventions, cases: Sequence[Intervention], n: int, freeze: Freeze
) -> tuple[list[list[int]], Tensor]:
    """The slow way: every token from a pass over all that came before. Tokens of each case, and
    the probabilities of the two likeliest [n, cases, 2]."""
    adapter = bound.local.adapter
    ids = torch.tensor([bound.local.ids] * len(cases))
    changed = ChangedPass(bound.local, bound.table(cases), freeze)
    best = []
    with changed.active():
        for _ in range(n):
            changed.begin(0)
            logits = adapter.unembed(adapter.final_normed(ids)[:, -1])
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            best.append(logits.softmax(-1).topk(2).values)
    return ids[:, len(bound.local.ids) :].tolist(), torch.stack(best)


@pytest.mark.parametrize("freeze", [Freeze(), Freeze("attention")], ids=["none", "attention"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_cache_it_is_what_it_is_without(family: str, freeze: Freeze) -> None:
    model = complete(family, CROSS if family == "gpt2" else COMPLETE)
    model.loaded.model.generation_config.eos_token_id = None
    bound = Interventions(model, PROMPT)
    found = generate(bound, CASES, 10, freeze)
    expected, best = without_cache(bound, [*CASES, Intervention(())], 10, freeze)
    assert (best[..., 0] - best[..., 1]).min() > 2e-6  # else rounding decides
    for case, continuation in enumerate((*found.changed, found.original)):
        assert list(continuation.token_ids) == expected[case]
        probabilities = torch.tensor([token.probability for token in continuation.tokens])
        torch.testing.assert_close(probabilities, best[:, case, 0], rtol=1e-3, atol=1e-5)
    # Every case does something of its own.
    assert len({f"{float(p):.3g}" for p in best[0, :, 1]}) == len(CASES) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_untouched_it_is_what_transformers_generates(family: str) -> None:
    bound = Interventions(complete(family), PROMPT)
    found = generate(bound, [Intervention(())], 12)
    model = bound.replacement.loaded.model
    ids = torch.tensor([bound.local.ids])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )[0, ids.shape[1] :].tolist()
    assert list(found.original.token_ids) == theirs
    assert found.changed[0].token_ids == found.original.token_ids
    assert found.first_difference(0) is None
    assert found.original.text == bound.replacement.loaded.tokenizer.decode(theirs)


def test_the_first_token_is_the_likeliest_after_the_intervention() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    outcomes = bound.run(CASES)
    found = generate(bound, CASES, 2)
    for outcome, continuation in zip(outcomes, found.changed, strict=True):
        assert continuation.tokens[0].token_id == outcome.top_after.token_id
        assert continuation.tokens[0].probability == pytest.approx(
            outcome.top_after.probability_after, abs=1e-5
        )
        assert continuation.tokens[0].candidates[0].token_id == outcome.top_after.token_id
        assert len(continuation.tokens[0].candidates) == 5


def test_edits_at_all_positions_are_kept_up_and_others_are_not() -> None:
    """The same edit at every position of the prompt alone parts ways once tokens are new."""
    bound = Interventions(complete("llama"), PROMPT)
    site, length = Site(2, "mlp"), len(bound.local.ids)
    kept_up = supernode([FeatureAt(site, None, 5)], "set", 8.0)
    once = supernode([FeatureAt(site, p, 5) for p in range(1, length)], "set", 8.0)
    found = generate(bound, [kept_up, once], 12)
    steady, fading = found.changed
    assert steady.tokens[0].probability == pytest.approx(fading.tokens[0].probability, abs=1e-6)
    assert steady.token_ids != fading.token_ids


def test_swaps_leave_new_tokens_alone() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    other, length = PROMPT.replace("dog", "queen"), len(bound.local.ids)
    site = Site(1, "mlp")
    everywhere = Intervention((Edit((FeatureAt(site, None, None),), "swap", from_prompt=other),))
    spelled_out = tuple(FeatureAt(site, p, None) for p in range(1, length))
    each = Intervention((Edit(spelled_out, "swap", from_prompt=other),))
    found = generate(bound, [everywhere, each], 8)
    assert found.changed[0].token_ids == found.changed[1].token_ids


def test_draws_are_repeated_by_their_seed_and_shared_by_the_rows() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    nothing = Intervention(())
    texts = {
        seed: generate(bound, [nothing], 10, sampling=Sampling(1.0, seed)) for seed in range(4)
    }
    again = generate(bound, [nothing], 10, sampling=Sampling(1.0, 2))
    assert again.original.token_ids == texts[2].original.token_ids
    assert len({found.original.token_ids for found in texts.values()}) > 1
    for found in texts.values():
        assert found.changed[0].token_ids == found.original.token_ids
    for temperature in (1e-4, 1e-310):
        cold = generate(bound, [], 10, sampling=Sampling(temperature, 1)).original
        assert cold.token_ids == generate(bound, [], 10).original.token_ids


def test_draws_follow_the_probabilities() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    (expected,) = bound.run([Intervention(())], top_k=1)
    best = expected.top_after
    temperature = 0.5
    logits = bound.local.record.logits[-1].double() / temperature
    p = float(logits.softmax(-1)[best.token_id])
    n = 300
    hits = sum(
        generate(bound, [], 1, sampling=Sampling(temperature, seed)).original.token_ids[0]
        == best.token_id
        for seed in range(n)
    )
    assert abs(hits / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_tokens_are_reported_as_they_come() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    ctx = Collector()
    found = generate(bound, CASES[:2], 6, ctx=ctx)
    assert [step.number for step in ctx.steps] == list(range(len(ctx.steps)))
    rows = list(zip(*(step.tokens for step in ctx.steps), strict=True))
    texts = (found.original, *found.changed)
    for row, continuation in zip(rows, texts, strict=True):
        assert tuple(token for token in row if token is not None) == continuation.tokens
    assert ctx.done == sorted(ctx.done) and ctx.done[-1] == 6
    stopped = Collector(cancel_after=2)
    with pytest.raises(Cancelled):
        generate(bound, CASES[:2], 6, ctx=stopped)
    assert len(stopped.steps) == 2
    # Nothing is left hooked into the model.
    again = generate(bound, CASES[:2], 6)
    assert again == found


def test_a_text_ends_where_the_model_ends_it() -> None:
    bound = Interventions(complete("llama"), PROMPT)
    whole = generate(bound, [EVERYWHERE], 8)
    ids = whole.original.token_ids
    end = next(i for i in ids[1:] if i not in ids[:1])
    model = bound.replacement.loaded.model
    model.generation_config.eos_token_id = [end, 10_000]
    assert end_tokens(bound.replacement.loaded) == {end, 10_000}
    found = generate(bound, [EVERYWHERE], 8)
    assert found.original.ended
    assert found.original.token_ids == ids[: ids.index(end) + 1]
    tokenizer = bound.replacement.loaded.tokenizer
    assert found.original.text == tokenizer.decode(list(ids[: ids.index(end)]))
    changed = found.changed[0].token_ids
    assert changed == whole.changed[0].token_ids[: len(changed)]


@pytest.mark.parametrize(
    ("n", "freeze", "says"),
    [
        (0, Freeze(), "one or more"),
        (60, Freeze(), "at most 64"),
        (3, Freeze("all"), "everything frozen"),
        (3, Freeze("attention", first_layer=9), "no layer 9"),
    ],
)
def test_what_cannot_be_generated_is_said(n: int, freeze: Freeze, says: str) -> None:
    bound = Interventions(complete("llama"), PROMPT)
    with pytest.raises(InterventionError, match=says):
        generate(bound, [], n, freeze)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(InterventionError, match="no temperature"):
            Sampling(temperature)


@pytest.mark.parametrize(
    ("original", "changed", "rows"),
    [
        ("ab.", "ab.", [(0, 0), (1, 1), (2, 2)]),
        ("ab.", "ax.", [(0, 0), (1, 1), (2, 2)]),
        # A longer name, and what comes after it stands beside itself again.
        ("ab.cd", "axyz.cd", [(0, 0), (1, 1), (None, 2), (None, 3), (2, 4), (3, 5), (4, 6)]),
        ("axy.", "az.", [(0, 0), (1, 1), (2, None), (3, 2)]),
        # What both say is one beginning, also where it could have been aligned later.
        ("aab", "aaab", [(0, 0), (1, 1), (2, 2), (None, 3)]),
        ("ab", "abcd", [(0, 0), (1, 1), (None, 2), (None, 3)]),
        ("abc", "", [(0, None), (1, None), (2, None)]),
    ],
)
def test_texts_are_aligned_behind_their_common_beginning(
    original: str, changed: str, rows: list[tuple[Optional[int], Optional[int]]]
) -> None:
    one, other = (
        Continuation(None, tuple(GeneratedToken(ord(c), c, 1.0, ()) for c in text), text, True)
        for text in (original, changed)
    )
    found = Generation("p", Freeze(), Sampling(), one, (other,))
    assert list(found.aligned(0)) == rows
    first = found.first_difference(0)
    if original == changed:
        assert first is None
    else:
        # The row of that number is the first that does not say the same twice.
        assert first is not None
        texts = [(None if a is None else original[a], None if b is None else changed[b])
                 for a, b in rows]  # fmt: skip
        assert [a == b for a, b in texts[: first + 1]] == [True] * first + [False]
