"""Interventions in words: what is understood, and what is refused."""

from __future__ import annotations

import pytest

from attention_studio.core.intervention_specs import (
    Action,
    FeatureAt,
    InterventionError,
    parse_edit,
)
from attention_studio.core.sites import Site


@pytest.mark.parametrize(
    ("action", "words", "says"),
    [
        ("set", "L1/5/3=nan", "no value"),
        ("set", "L1/5/3=inf", "no value"),
        ("set", "L1/5/3=1e16", "no value"),
        ("set", "L1/5/3", "says no value"),
        ("scale", "L1/5/3=much", "says no value"),
        ("set", "L1/5/*=1", "cannot be set to one value"),
        ("ablate", "L1/5/3=1", "ablated is 0"),
        ("ablate", "L1-5-3", "names no feature"),
        ("ablate", "B1/5/3", "names no feature"),
        ("ablate", "L1/F3", "names no feature"),
        ("ablate", f"L1/{'9' * 5000}/3", "names no feature"),
        ("ablate", "L1/5/3,", "names no feature"),
        ("swap", "L1/5/3=-1", "no position"),
        ("swap", "L1/*/3=4", "one position"),
    ],
)
def test_words_that_mean_nothing_are_refused(action: Action, words: str, says: str) -> None:
    with pytest.raises(InterventionError, match=says):
        parse_edit(action, words, "another" if action == "swap" else None)


def test_words_are_read_as_they_are_written() -> None:
    feature = FeatureAt(Site(12, "mlp"), 5, 1043)
    for words in ("L12/P5/F1043", "12/5/1043", "l12/p5/f1043"):
        assert FeatureAt.parse(words) == feature
    assert str(feature) == "L12/P5/F1043"
    attention = parse_edit("scale", "A3/*/F7,A3/2/*=-0.5")
    assert attention.features == (
        FeatureAt(Site(3, "attention"), None, 7),
        FeatureAt(Site(3, "attention"), 2, None),
    )
    assert attention.value == -0.5
    swap = parse_edit("swap", "L1/5/3=P4", "another prompt")
    assert (swap.from_prompt, swap.from_position) == ("another prompt", 4)
    with pytest.raises(InterventionError, match="another prompt"):
        parse_edit("swap", "L1/5/3")
