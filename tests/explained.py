"""Features made by hand, whose truth is a rule, for the tests of explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

from attention_studio.agents.feature_texts import ScoringExamples
from attention_studio.agents.firing_rules import FiringRule
from attention_studio.core.feature_records import Example, ExampleGroup, FeaturePage, Histogram
from attention_studio.core.sites import Site

WORDS = tuple(
    f" {word}"
    for word in (
        "red blue green stone river apple table horse paper music winter silver pencil kitchen "
        "the of and to in Dallas Houston Waco Austin Paris Lyon"
    ).split()
)


def random_text(rng: np.random.Generator) -> tuple[str, ...]:
    """Words that say nothing about each other, from a start token on; short texts and long."""
    length = int(rng.integers(5, 24))
    return ("<|endoftext|>", *(WORDS[place] for place in rng.integers(len(WORDS), size=length)))


def example(rule: FiringRule, tokens: tuple[str, ...], sequence: int, scale: float) -> Example:
    """A text with the activations that a rule says."""
    values = rule.activations(tokens) * np.float32(scale)
    return Example(tokens, values, int(values.argmax()), sequence=sequence)


def made_texts(
    rule: FiringRule, count: int, seed: int, scale: float = 5.0
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """``count`` texts on which a rule's feature fires, and as many on which it does not."""
    rng = np.random.default_rng(seed)
    fires: list[Example] = []
    silent: list[Example] = []
    for sequence in range(100_000):
        made = example(rule, random_text(rng), sequence, scale)
        into = fires if made.values.any() else silent
        if len(into) < count:
            into.append(made)
        if len(fires) == len(silent) == count:
            return tuple(fires), tuple(silent)
    raise AssertionError("the rule holds nearly always or never")


def made_page(
    fires: Sequence[Example],
    promoted: tuple[tuple[str, float], ...] = (),
    n_fired: Optional[int] = None,
) -> FeaturePage:
    """The page of a feature with these examples."""
    top = max((float(one.values.max()) for one in fires), default=0.0)
    return FeaturePage(
        site=Site(2, "mlp"),
        index=7,
        n_fired=len(fires) if n_fired is None else n_fired,
        n_tokens=1000,
        max_activation=top,
        histogram=Histogram(np.array([0.0, 1.0]), np.array([len(fires)])),
        groups=(ExampleGroup("Strongest", None, None, tuple(fires)),) if fires else (),
        promoted=promoted,
    )


def scoring(rule: FiringRule, count: int = 20, seed: int = 1) -> ScoringExamples:
    """Held-out examples of a rule's feature."""
    fires, silent = made_texts(rule, count, seed)
    return ScoringExamples(fires, silent[: count // 2], silent[count // 2 :], 5.0)
