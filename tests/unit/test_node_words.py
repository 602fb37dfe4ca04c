"""Nodes in words."""

from __future__ import annotations

import pytest

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.node_words import node_words

TOKENS = ("<s>", " Dallas", "\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("L12/P1/F1043", "L12 #1043 at “Dallas”"),
        ("A2/P2/F7", "A2 #7 at position 2"),
        ("L2/P9/F7", "L2 #7 at position 9"),
        ("L3/P1/error", "L3 error at “Dallas”"),
        ("P1/token", "token “Dallas”"),
        ("P2/token", "token position 2"),
        ("P2/logit/42", "output 42"),
        ("P2/logit/42-17", "output 42-17"),
        ("S1", "S1"),
        ("L12/F1043", "L12/F1043"),
        ("", ""),
    ],
)
def test_a_name_is_put_into_words(name: str, words: str) -> None:
    assert node_words(name, GraphNotes(), TOKENS) == words


def test_a_label_comes_first() -> None:
    notes = GraphNotes().labelled("L12/F1043", "Texas")
    assert node_words("L12/P1/F1043", notes, TOKENS) == "Texas (L12 #1043 at “Dallas”)"
    assert node_words("L12/P2/F1043", notes) == "Texas (L12 #1043 at position 2)"
    assert node_words("A12/P1/F1043", notes, TOKENS) == "A12 #1043 at “Dallas”"
