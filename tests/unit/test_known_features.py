"""What the demo's features are known to be: concepts by construction, and what names them."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.core.corpus import TokenCorpus
from attention_studio.demo.known_features import (
    FAMILIES,
    KNOWN_FIT,
    Concept,
    Truth,
    agreement,
    concepts_of,
    known_feature,
    word_kinds,
)
from attention_studio.demo.text import DemoText

TEXT = DemoText(0)
KINDS = word_kinds(TEXT.world)


def held(task: str, wanted: tuple[object, ...]) -> dict[tuple[str, str], list[int]]:
    """Of one sample the places of all concepts."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, key, concept in concepts_of(TEXT.sample_of(task, wanted), KINDS):
        assert key == (concept.family, concept.name)
        assert concept.family in FAMILIES
        found.setdefault(key, []).append(index)
    return found


def test_a_two_step_fact_by_hand() -> None:
    sample = TEXT.sample_of("two_step", (("Dallas", "capital"), "relation first"))
    assert sample.text == "The capital of the state containing Dallas is Austin."
    found = held("two_step", (("Dallas", "capital"), "relation first"))
    assert found["token", "' Dallas'"] == [6]
    assert found["kind of word", "cities of Texas"] == [6]
    assert found["kind of word", "words of Texas"] == [6, 8]
    assert found["after a token", "after ' Dallas'"] == [7]
    assert found["said before", "cities of Texas before"] == [7, 8, 9]
    assert found["unsaid", "region Texas"] == [7]
    assert found["the word that follows", "' Austin' follows"] == [7]
    assert found["what must follow", "a capital must follow (two_step)"] == [7]
    assert found["task", "two_step"] == list(range(10))
    assert ("said again", "a word said before") not in found


def test_brackets_are_followed_in_and_out() -> None:
    for sample in TEXT.samples("brackets", 40, held_out=False):
        inside = {
            index: key[1].removeprefix("inside ")
            for index, key, _ in concepts_of(sample, KINDS)
            if key[0] == "inside signs"
        }
        innermost = sample.answers[0]
        assert inside[innermost.position - 2] == innermost.steps[0].value
        # A closing sign is still inside; what comes after the last one is not.
        assert inside[sample.answers[-1].position - 1] == sample.answers[-1].steps[0].value
        assert sample.answers[-1].position not in inside
        assert len(sample.pieces) - 1 not in inside


def test_agreement_by_hand() -> None:
    assert agreement(np.array([1, 2, 3]), np.array([2, 3, 4, 5])) == pytest.approx(4 / 7)
    assert agreement(np.array([1, 2]), np.array([1, 2])) == 1.0
    assert agreement(np.array([], dtype=np.int64), np.array([], dtype=np.int64)) == 0.0


def test_a_feature_is_what_it_fires_at_and_nothing_else() -> None:
    corpus = TokenCorpus.of(
        np.zeros((4, 100), dtype=np.int32), np.full(4, 100, dtype=np.int32), None
    )
    one, other = np.arange(0, 100, 2), np.arange(200, 300)
    concepts = tuple(Concept("token", name, frozenset([name])) for name in ("a", "b"))
    truth = Truth(corpus, concepts, (one, other))
    exact = known_feature(truth, one)
    assert exact is not None
    assert (exact.concept, exact.fit) == (0, 1.0)
    most = known_feature(truth, other[:80])
    assert most is not None
    assert most.fit == pytest.approx(agreement(other[:80], other))
    assert most.fit >= KNOWN_FIT
    assert known_feature(truth, np.concatenate([one, other[:50]])) is None
    assert known_feature(truth, one[:10]) is None


class TestNaming:
    CITIES = Concept(
        "kind of word",
        "cities of Texas",
        frozenset(TEXT.world.named["Texas"].cities),
        words=("city", "Texas"),
    )

    def test_by_its_words(self) -> None:
        assert self.CITIES.named("Fires on any city in Texas.", ())
        assert not self.CITIES.named("Fires on cities.", ())

    def test_by_its_tokens(self) -> None:
        assert self.CITIES.named("", (" Dallas", " Waco", " Houston"))
        assert not self.CITIES.named("", (" Dallas", " Waco"))
        others = (" Paris", " Rome", " Lyon")
        assert not self.CITIES.named("", (" Dallas", " Waco", " Houston", *others))

    def test_only_in_its_place(self) -> None:
        after = Concept("after a token", "after ' of'", frozenset([" of"]), frozenset(["after"]))
        assert after.named("Fires right after 'of'.", (" of",))
        assert not after.named("Fires on 'of'.", (" of",))
