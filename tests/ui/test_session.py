"""The observable state and its undo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication

from attention_studio.core.sites import Site
from attention_studio.ui.session import Session, SessionPart, feature_id


@pytest.fixture
def session(qapp: QApplication) -> Session:
    """An empty session."""
    return Session()


class Witness:
    """Notes changes."""

    def __init__(self, session: Session) -> None:
        self.seen: list[tuple[SessionPart, object]] = []
        session.changed.connect(self.note)

    def note(self, part: SessionPart, initiator: object) -> None:
        self.seen.append((part, initiator))

    @property
    def parts(self) -> list[SessionPart]:
        return [part for part, _ in self.seen]


def model(name: str = "m") -> Any:
    return SimpleNamespace(info=SimpleNamespace(name=name))


def test_a_change_says_what_and_who(session: Session) -> None:
    witness = Witness(session)
    me = object()
    session.set_prompt("The capital", me)
    session.set_prompt("The capital", me)
    assert witness.seen == [(SessionPart.PROMPT, me)]


def test_another_model_drops_what_the_old_one_made(session: Session) -> None:
    session.set_model(model("a"))
    session.set_crm(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    session.set_features(SimpleNamespace())  # type: ignore[arg-type]
    session.set_graph(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    session.set_pinned(["L1/2/3"])
    session.set_model(model("b"))
    assert session.crm is None and session.crm_info is None
    assert session.features is None and session.graph is None and session.pruned is None
    assert session.pinned == ()
    assert session.model_info is not None and session.model_info.name == "b"
    assert not session.undo_stack.canUndo()


def test_another_crm_drops_features_and_graph_but_not_the_prompt_view(session: Session) -> None:
    session.set_model(model())
    view = SimpleNamespace()
    session.set_prompt_view(view)  # type: ignore[arg-type]
    session.set_graph(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    session.set_crm(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert session.graph is None
    assert session.prompt_view is view


def test_pins_can_be_undone_and_redone(session: Session) -> None:
    session.toggle_pin("L1/2/3")
    session.toggle_pin("L4/5/6")
    session.toggle_pin("L1/2/3")
    assert session.pinned == ("L4/5/6",)
    stack = session.undo_stack
    assert [stack.text(i) for i in range(stack.count())] == [
        "Pin L1 #3 at position 2",
        "Pin L4 #6 at position 5",
        "Unpin L1 #3 at position 2",
    ]
    stack.undo()
    assert session.pinned == ("L1/2/3", "L4/5/6")
    stack.undo()
    stack.undo()
    assert session.pinned == ()
    stack.redo()
    assert session.pinned == ("L1/2/3",)


def test_undo_concerns_everybody_even_the_initiator(session: Session) -> None:
    me = object()
    session.toggle_pin("L1/2/3", me)
    witness = Witness(session)
    session.undo_stack.undo()
    session.undo_stack.redo()
    once = [(SessionPart.NOTES, None), (SessionPart.PINNED, None)]
    assert witness.seen == [*once, *once]


def test_a_drag_of_a_threshold_is_one_step(session: Session) -> None:
    before = session.thresholds
    for value in (0.7, 0.6, 0.5):
        session.set_thresholds(value, 0.98)
    assert session.undo_stack.count() == 1
    session.undo_stack.undo()
    assert session.thresholds == before
    session.undo_stack.redo()
    assert session.thresholds == (0.5, 0.98)


def test_thresholds_stay_within_their_range(session: Session) -> None:
    session.set_thresholds(1.7, -3)
    assert session.thresholds == (1.0, 0.0)


def test_pins_are_kept_once_and_in_order(session: Session) -> None:
    session.set_pinned(["b", "a", "b"])
    assert session.pinned == ("b", "a")
    session.clear_pins()
    assert session.pinned == ()


def test_a_new_graph_forgets_selection_pins_and_their_undo(session: Session) -> None:
    session.set_selection("L1/2/3")
    session.toggle_pin("L1/2/3")
    session.set_graph(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert session.selection is None and session.pinned == ()
    assert not session.undo_stack.canUndo()


def test_feature_ids_are_the_graphs(session: Session) -> None:
    assert feature_id(Site(12, "mlp"), 5, 1043) == "L12/P5/F1043"
    assert feature_id(Site(12, "attention"), 5, 1043) == "A12/P5/F1043"
