"""The window as console statements see it, from their own thread.

Reading gives what there is. Methods that change something run on the main thread, where everything
of the window lives, while the statement waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, Optional

from PySide6.QtCore import QObject, Qt, Signal, Slot

from attention_studio.ui.session import Session
from attention_studio.utils.progress import WorkContext

_PATIENCE_S = 0.05


@dataclass
class _Call:
    function: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    error: Optional[BaseException] = None


class MainThreadCalls(QObject):
    """Carries calls from other threads to the main one and their values back."""

    _asked = Signal()

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._waiting: deque[_Call] = deque()
        self._asked.connect(self._answer, Qt.ConnectionType.QueuedConnection)

    def call(self, ctx: WorkContext, function: Callable[[], Any]) -> Any:
        """Call a function on the main thread and wait for what it gives.

        Raises:
            Cancelled: through ``ctx``, while it waits.
            Exception: whatever the function raises.
        """
        call = _Call(function)
        self._waiting.append(call)
        self._asked.emit()
        # Not for ever: the main thread may be waiting for this one to end.
        while not call.done.wait(_PATIENCE_S):
            ctx.check()
        if call.error is not None:
            raise call.error
        return call.value

    @Slot()
    def _answer(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            try:
                call.value = call.function()
            except Exception as error:
                call.error = error  # it belongs to whoever called
            call.done.set()


class SessionView:
    """The session: its parts to read, its methods to call. Made for one statement."""

    def __init__(self, session: Session, calls: MainThreadCalls, ctx: WorkContext) -> None:
        self.__dict__.update(_session=session, _calls=calls, _ctx=ctx)

    def __getattr__(self, name: str) -> Any:
        if name not in _parts():
            raise AttributeError(f"the session has no {name!r}; dir(session) lists what it has")
        value = getattr(self._session, name)
        if not isinstance(vars(Session)[name], FunctionType):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            return self._calls.call(self._ctx, partial(value, *arguments, **named))

        call.__name__, call.__doc__ = name, value.__doc__
        return call

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(f"set it by a method, such as session.set_{name}(…)")

    def __dir__(self) -> list[str]:
        return sorted(_parts())

    def __repr__(self) -> str:
        return f"<session: {', '.join(name for name in dir(self) if not name.startswith('set_'))}>"


def _parts() -> frozenset[str]:
    """Names of the session's own parts and methods; nothing of Qt's."""
    return frozenset(
        name
        for name, value in vars(Session).items()
        if not name.startswith("_")
        and not isinstance(value, Signal)
        and (isinstance(value, (FunctionType, property)) or name in Session.__annotations__)
    )
