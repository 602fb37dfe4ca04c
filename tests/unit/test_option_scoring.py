"""Options weighed by a model's own probabilities, against a whole pass for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.option_scoring import OptionError, OptionScorer
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import tiny_loaded

TEXT = "the cat sat on the mat and"


def slowly(loaded: LoadedModel, ids: Sequence[int], begin: int) -> float:
    """The log-probability of ``ids[begin:]`` behind the others: one pass, no cache, one row."""
    logits = loaded.model(torch.tensor([list(ids)])).logits[0].double()
    return sum(float(logits[at - 1].log_softmax(-1)[ids[at]]) for at in range(begin, len(ids)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_options_are_weighed_as_whole_passes_say(family: str) -> None:
    loaded = tiny_loaded(family)
    scorer, options = OptionScorer(loaded), (" dog", " the king saw", " a river .")
    # One text after the other: with more, with less and with nothing in common with the last one.
    for text in (TEXT, f"{TEXT} the bird", f"{TEXT} the", "she saw", TEXT):
        found = scorer.score(text, options, WorkContext())
        begin = len(loaded.text_ids(text))
        slow = [slowly(loaded, loaded.text_ids(text + one), begin) for one in options]
        assert found.log_probs == pytest.approx(slow, abs=2e-4)
        total = math.fsum(map(math.exp, slow))
        assert found.probabilities == pytest.approx([math.exp(one) / total for one in slow], 1e-3)


def test_what_texts_have_in_common_is_read_once() -> None:
    scorer = OptionScorer(tiny_loaded())
    first = scorer.score(TEXT, (" dog", " cat"), WorkContext()).n_read
    again = scorer.score(f"{TEXT} the", (" dog", " cat"), WorkContext()).n_read
    assert (first, again) == (7, 2)


def test_a_token_may_cross_the_border_between_text_and_option() -> None:
    """The text ends within a word: " riv" and "er" are one token together and others apart."""
    loaded = tiny_loaded()
    options = ("er", "er king")
    whole = [loaded.text_ids("the cat saw a riv" + one) for one in options]
    assert len(whole[0]) == len(loaded.text_ids("the cat saw a")) + 1
    end = loaded.tokenizer.eos_token_id
    loaded.model.generation_config.eos_token_id = end
    found = OptionScorer(loaded).score("the cat saw a riv", options, WorkContext())
    # One begins with all of the other, so the end of the answer belongs to both.
    slow = [slowly(loaded, [*ids, end], 4) for ids in whole]
    assert found.log_probs == pytest.approx(slow, abs=2e-4)


def test_where_one_begins_with_all_of_another_answers_need_an_end() -> None:
    loaded = tiny_loaded()
    loaded.model.generation_config.eos_token_id = None
    with pytest.raises(OptionError, match="cannot be told apart"):
        OptionScorer(loaded).score(TEXT, (" dog", " dog ran"), WorkContext())


@pytest.mark.parametrize("options", [(" dog",), (" dog", " dog"), (" dog", ""), ("xx", "yy")])
def test_options_that_are_none_are_refused(options: tuple[str, ...]) -> None:
    """The last two are both unknown words: the same token."""
    with pytest.raises(OptionError, match="cannot be told apart"):
        OptionScorer(tiny_loaded()).score(TEXT, options, WorkContext())


def test_the_context_bounds_what_is_asked() -> None:
    with pytest.raises(OptionError, match="takes at most 64"):
        OptionScorer(tiny_loaded()).score("cat " * 99, (" dog", " cat"), WorkContext())


def test_a_stop_leaves_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while the text is read, it goes on with the next question as if nothing had been."""
    monkeypatch.setattr("attention_studio.core.option_scoring._CHUNK", 2)

    class Stops(WorkContext):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 3:
                self.cancel()
            super().check()

    loaded = tiny_loaded()
    scorer = OptionScorer(loaded)
    with pytest.raises(Cancelled):
        scorer.score(TEXT, (" dog", " cat"), Stops())
    assert scorer.score(TEXT, (" dog", " cat"), WorkContext()).log_probs == pytest.approx(
        OptionScorer(loaded).score(TEXT, (" dog", " cat"), WorkContext()).log_probs, abs=1e-5
    )
