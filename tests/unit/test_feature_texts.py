"""Which stretches of text explanations are made from, and which they are scored on."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import numpy as np
import pytest

from attention_studio.agents.feature_texts import FeatureTextError, FeatureTexts, TextSettings
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_activations import Firings
from attention_studio.core.feature_records import Neighbour
from attention_studio.core.sites import Site

SITE = Site(1, "mlp")
N_ROWS, LENGTH, WORDS = 120, 64, 30


def texts(density: float = 0.01, settings: Optional[TextSettings] = None) -> FeatureTexts:
    """Random words; feature 0 fires on half of the occurrences of word 3, or at random tokens;
    feature 1 on word 5."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, WORDS, (N_ROWS, LENGTH)).astype(np.int32)
    tokens[:, 0] = 0
    corpus = TokenCorpus.of(tokens, np.full(N_ROWS, LENGTH, dtype=np.int32), 0)
    flat = tokens.ravel()
    if density > 0.05:
        where = np.flatnonzero((rng.random(flat.size) < density) & (flat > 0))
    else:
        where = np.flatnonzero((flat == 3) & (rng.random(flat.size) < 0.5))
    values = rng.random(len(where)).astype(np.float32) + 0.1
    other = np.flatnonzero(flat == 5)
    firings = {
        (SITE, 0): Firings(where, values),
        (SITE, 1): Firings(other, np.ones(len(other), dtype=np.float32)),
        (SITE, 2): Firings(other[:0], values[:0]),
    }
    pieces = {number: f" w{number}" if number else "<|endoftext|>" for number in range(WORDS)}
    return FeatureTexts(corpus, pieces, firings, settings)


def test_no_row_is_shown_and_scored_on() -> None:
    made = texts()
    page = made.page(SITE, 0)
    fires, silent = made.shown(SITE, 0)
    scoring = made.scoring(page)
    shown = {one.sequence for one in (*fires, *silent, *page.groups[0].examples)}
    held_out = {one.sequence for one in (*scoring.fires, *scoring.quiet)}
    assert shown
    assert held_out
    assert not shown & held_out


def test_examples_have_the_activations_of_the_text() -> None:
    made = texts()
    tokens = made.corpus.tokens
    scoring = made.scoring(made.page(SITE, 0))
    assert len(scoring.fires) == 20
    assert all(one.values[one.peak] > 0 for one in scoring.fires)
    assert not any(one.values.any() for one in scoring.quiet)
    for one in (*scoring.fires, *scoring.quiet):
        row = tokens[one.sequence, one.start : one.start + len(one.tokens)]
        assert one.tokens == tuple(f" w{n}" if n else "<|endoftext|>" for n in row.tolist())
        # It fires on that word alone, though not always.
        assert all(token == " w3" for token, v in zip(one.tokens, one.values, strict=True) if v)


def test_near_misses_have_its_tokens_or_fire_what_is_like_it() -> None:
    made = texts()
    page = made.page(SITE, 0)
    assert all(" w3" in one.tokens for one in made.scoring(page).near)
    like = replace(page, near_by_decoder=(Neighbour(SITE, 1, 0.9),))
    near = made.scoring(like).near
    assert len(near) == 10
    assert all(one.tokens[one.peak] in (" w3", " w5") for one in near)
    assert any(one.tokens[one.peak] == " w5" for one in near)


def test_all_strengths_are_drawn() -> None:
    strengths = sorted(one.value for one in texts().scoring(texts().page(SITE, 0)).fires)
    assert strengths[0] < 0.35
    assert strengths[-1] > 0.85


def test_features_that_fire_often_get_shorter_stretches() -> None:
    made = texts(density=0.12)
    scoring = made.scoring(made.page(SITE, 0))
    assert scoring.silent
    assert not any(one.values.any() for one in scoring.silent)
    assert max(len(one.tokens) for one in scoring.silent) < 25


def test_the_same_is_drawn_again() -> None:
    first, second = (texts().scoring(texts().page(SITE, 0)) for _ in range(2))
    assert [one.start for one in first.fires] == [one.start for one in second.fires]


def test_a_dead_feature_has_an_empty_page() -> None:
    page = texts().page(SITE, 2)
    assert page.dead
    assert not page.groups[0].examples


def test_what_was_not_read_is_said() -> None:
    with pytest.raises(FeatureTextError, match="not read"):
        texts().shown(SITE, 9)
