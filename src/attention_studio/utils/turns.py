"""One at a time, in the order of arrival: for what several threads use and only one may.

Hooks on a model are global to it, and so is what libraries patch while they load one. Whoever
computes holds the turn; whoever waits can be stopped while it waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext


class TurnError(StudioError):
    """Nobody gets a turn at the moment."""


class Turn:
    """Who may compute. Safe from any thread; a thread that holds it may take it again."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder = 0
        self._depth = 0
        self._closed: tuple[str, str] = ("", "")

    def close(self, why: str, todo: str = "") -> None:
        """Refuse the turn to all but those who ``may_always``, those who wait among them; whoever
        holds it keeps it."""
        with self._ready:
            self._closed = (why, todo)
            self._ready.notify_all()

    def open(self) -> None:
        """Give turns again."""
        self.close("")

    def take(self, ctx: WorkContext, may_always: bool = False) -> None:
        """Wait until it is this thread's turn.

        Args:
            ctx: whose work it is; stopping it ends the wait.
            may_always: whether a closed turn is given all the same.

        Raises:
            TurnError: it is closed.
            Cancelled: through ``ctx``.
        """
        me, ticket = threading.get_ident(), object()
        if self._holder == me:  # nobody else could have made it so
            self._depth += 1
            return
        ctx.tell_cancel(self._wake)
        try:
            with self._ready:
                self._waiting.append(ticket)
                try:
                    while True:
                        ctx.check()
                        why, todo = self._closed
                        if why and not may_always:
                            raise TurnError("Nothing can be computed now", why, todo)
                        if not self._holder and self._waiting[0] is ticket:
                            break
                        self._ready.wait()
                    self._holder, self._depth = me, 1
                finally:
                    self._waiting.remove(ticket)
                    self._ready.notify_all()
        finally:
            ctx.tell_cancel(None)

    def give(self) -> None:
        """Let the next one have it.

        Raises:
            RuntimeError: this thread has not got it.
        """
        if self._holder != threading.get_ident():
            raise RuntimeError("the turn is somebody else's")
        with self._ready:
            self._depth -= 1
            if not self._depth:
                self._holder = 0
                self._ready.notify_all()

    @contextmanager
    def held(self, ctx: WorkContext, may_always: bool = False) -> Iterator[None]:
        """Hold it for as long as the block runs. Raises as ``take``."""
        self.take(ctx, may_always)
        try:
            yield
        finally:
            if self._holder == threading.get_ident():
                self.give()

    @contextmanager
    def lent(self, ctx: WorkContext) -> Iterator[None]:
        """Let others have it while the block runs, and wait for it again; where this thread has
        not got it, nothing happens. Raises as ``take``: then ``held`` has nothing to give."""
        if self._holder != threading.get_ident():
            yield
            return
        depth, self._depth = self._depth, 1
        self.give()
        try:
            yield
        finally:
            # Also after an error: whoever catches it goes on computing.
            self.take(ctx)
            self._depth = depth

    def _wake(self) -> None:
        with self._ready:
            self._ready.notify_all()
