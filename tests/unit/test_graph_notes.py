"""Notes on a graph: changed copies, and files that give back what was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attention_studio.core.graph_notes import GraphNotes, NotesError, SavedQuery

A, B, C = "L0/P1/F1", "L1/P2/F2", "L2/P2/F3"


def full() -> GraphNotes:
    notes, group = GraphNotes().with_pinned((A, B, C)).grouped((A, B), "Texas")
    notes = notes.labelled("L0/F1", " Dallas ").remarked("", "why?").remarked(group.key, "both")
    return notes.placed({C: (1.5, -2.0), group.key: (0.0, 3.0)}).with_queries(
        (SavedQuery("late", "layer>1"),)
    )


def test_a_file_gives_back_what_was_written() -> None:
    notes = full()
    assert not notes.empty
    assert GraphNotes.from_json(json.loads(json.dumps(notes.to_json()))) == notes
    assert GraphNotes.from_json({}) == GraphNotes() and GraphNotes().empty


def test_a_node_is_in_one_supernode_at_most_and_pinned() -> None:
    notes, first = GraphNotes().grouped((A, B), "one")
    notes, second = notes.grouped((B, C), "two")
    assert notes.pinned == (A, B, C)
    assert first.key != second.key
    assert [group.nodes for group in notes.supernodes] == [(A,), (B, C)]
    assert notes.supernode_of(B) == second and notes.supernode_of("E/P0") is None
    # The last node that leaves takes the supernode with it.
    notes, third = notes.grouped((A,), "three")
    assert [group.name for group in notes.supernodes] == ["two", "three"]
    assert notes.without_from_group((A,)).supernodes == (second,)
    assert third.key not in {group.key for group in notes.ungrouped(third.key).supernodes}


def test_what_is_unpinned_leaves_its_supernode() -> None:
    notes, group = GraphNotes().grouped((A, B), "one")
    assert notes.with_pinned((B,)).supernode(group.key).nodes == (B,)  # type: ignore[union-attr]
    assert notes.with_pinned(()).supernodes == ()


def test_ungrouping_leaves_pins_and_forgets_the_place_and_remark_of_the_group() -> None:
    notes = full()
    key = notes.supernodes[0].key
    left = notes.ungrouped(key)
    assert left.pinned == notes.pinned and left.supernodes == ()
    assert set(left.places) == {C} and set(left.remarks) == {""}


def test_an_empty_text_takes_a_label_away() -> None:
    notes = full()
    assert notes.labels == {"L0/F1": "Dallas"}
    assert not notes.labelled("L0/F1", "  ").labels
    assert not notes.unplaced().places


def test_the_supernode_that_is_meant() -> None:
    notes, group = GraphNotes().grouped((A, B), "pair")
    notes = notes.with_pinned((*notes.pinned, C))
    assert notes.focused_group(group.key) == group
    assert notes.focused_group(A) == group
    assert notes.focused_group(None, (A, B)) == group
    assert notes.focused_group(None, (A, C)) is None
    assert notes.focused_group(C, (A, B)) is None
    assert notes.focused_group(None) is None


def test_nothing_cannot_be_grouped() -> None:
    with pytest.raises(NotesError, match="Nothing to group"):
        GraphNotes().grouped((), "none")


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], {"pinned": "abc"}, {"pinned": [3]}, {"supernodes": [{"key": "a"}]},
        {"places": {"a": [1]}}, {"places": {"a": [1, float("nan")]}}, {"places": {"a": ["1", 2]}},
        {"labels": {"a": 1}}, {"labels": {"a": "x" * 30_000}}, {"queries": [{"name": "a"}]},
        {"pinned": ["a"] * 100_001},
    ],
)  # fmt: skip
def test_files_of_others_are_refused_in_words(value: Any) -> None:
    with pytest.raises(NotesError, match="cannot be read"):
        GraphNotes.from_json(value)
