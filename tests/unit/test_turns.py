"""One at a time, in order, and stoppable while it waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Optional

import pytest

from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.turns import Turn, TurnError

LONG = 30.0


class Watched(WorkContext):
    """Says when its work begins to wait, and what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.got = threading.Event(), threading.Event()
        self.error: Optional[BaseException] = None

    def check(self) -> None:
        super().check()
        self.waits.set()


def begun(
    turn: Turn, then: Callable[[], object] = lambda: None
) -> tuple[Watched, threading.Thread]:
    """A thread that wants the turn and by now waits for it."""
    ctx = Watched()

    def work() -> None:
        try:
            with turn.held(ctx):
                ctx.got.set()
                then()
        except (Cancelled, TurnError) as error:
            ctx.error = error

    thread = threading.Thread(target=work)
    thread.start()
    assert ctx.waits.wait(LONG)
    return ctx, thread


def test_turns_come_one_by_one_in_the_order_of_arrival() -> None:
    turn, came = Turn(), list[str]()
    turn.take(WorkContext())
    turn.take(WorkContext())  # a thread may take its own turn again
    waiting = [begun(turn, lambda name=name: came.append(name)) for name in "abc"]  # type: ignore[misc]
    turn.give()
    assert not any(ctx.got.is_set() for ctx, _ in waiting)
    turn.give()
    for _, thread in waiting:
        thread.join(LONG)
    assert came == ["a", "b", "c"]
    with pytest.raises(RuntimeError):
        turn.give()


def test_who_waits_can_be_stopped_and_refused() -> None:
    turn = Turn()
    with turn.held(WorkContext()):
        stopped, one = begun(turn)
        stopped.cancel()
        one.join(LONG)
        assert isinstance(stopped.error, Cancelled)
        refused, other = begun(turn)
        turn.close("it trains", "stop that")
        other.join(LONG)
        assert isinstance(refused.error, TurnError) and refused.error.why == "it trains"
        with turn.held(WorkContext()):  # who holds it goes on
            pass
    with pytest.raises(TurnError):
        turn.take(WorkContext())
    with turn.held(WorkContext(), may_always=True):
        pass
    turn.open()
    with turn.held(WorkContext()):
        pass


def test_a_turn_is_lent_and_comes_back_also_after_an_error() -> None:
    turn, ctx = Turn(), WorkContext()
    with turn.lent(ctx):  # nobody holds it: nothing to lend
        pass
    with turn.held(ctx):
        other, thread = begun(turn)
        with pytest.raises(ValueError, match="broken"), turn.lent(ctx):
            assert other.got.wait(LONG)
            raise ValueError("broken")
        thread.join(LONG)
        late, last = begun(turn)
        assert not late.got.is_set()
    last.join(LONG)
    assert late.got.is_set()


def test_who_is_stopped_while_it_lends_has_nothing_to_give_back() -> None:
    turn, ctx = Turn(), WorkContext()
    with pytest.raises(Cancelled), turn.held(ctx), turn.lent(ctx):
        ctx.cancel()
    with turn.held(WorkContext()):
        pass
