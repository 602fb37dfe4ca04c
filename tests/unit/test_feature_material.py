"""What an explanation is scored on was not shown to whoever made it."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.agents.feature_material import without_shown
from attention_studio.agents.feature_texts import ScoringExamples
from attention_studio.core.feature_records import Example, ExampleGroup, FeaturePage, Histogram
from attention_studio.core.sites import Site

TEXT = tuple(f" w{place}" for place in range(200))


def cut(begin: int, end: int, row: int, start: int) -> Example:
    """A stretch of the one text, as a corpus of rows of some length has it."""
    values = np.zeros(end - begin, dtype=np.float32)
    values[-1] = 1.0
    return Example(TEXT[begin:end], values, end - begin - 1, row, start)


def page_of(*examples: Example) -> FeaturePage:
    nothing = Histogram(np.array([0.0, 1.0]), np.zeros(1, dtype=np.int64))
    groups = (ExampleGroup("Strongest", None, None, examples),)
    return FeaturePage(Site(0, "mlp"), 0, 1, 200, 1.0, nothing, groups)


@pytest.mark.parametrize("same_rows", [True, False])
def test_what_a_page_shows_is_not_scored_on(same_rows: bool) -> None:
    """The page has rows of 64 tokens. Rows of 32 have the same text under other numbers."""
    page = page_of(cut(70, 95, 1, 6))
    if same_rows:
        shown, other = cut(100, 125, 1, 36), cut(130, 155, 2, 2)
    else:
        shown, other = cut(75, 91, 2, 11), cut(34, 59, 1, 2)
    examples = ScoringExamples((shown, other), (other,), (shown,), 1.0)
    found = without_shown(examples, page, same_rows)
    assert (found.fires, found.silent, found.near) == ((other,), (other,), ())


def test_words_in_common_are_not_yet_the_same_text() -> None:
    page = page_of(cut(70, 95, 1, 6))
    touching = cut(87, 112, 2, 23)
    examples = ScoringExamples((touching,), (), (), 1.0)
    assert without_shown(examples, page, same_rows=False).fires == (touching,)
