"""How long work talks to whoever started it.

Core calls take a ``WorkContext``. Headless, it prints to the log or does nothing; in the window it
is a job on a lane (``ui.jobs``). The core never learns which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attention_studio.utils.errors import Cancelled


class WorkContext:
    """Progress, partial results and cancellation of one piece of work.

    The base class reports nowhere and is never cancelled unless ``cancel`` is called, which may
    happen from any thread.
    """

    def __init__(self) -> None:
        self._cancelled = False
        self._when_cancelled: Optional[Callable[[], object]] = None

    def cancel(self) -> None:
        """Ask the work to stop at its next ``check``. Safe from any thread."""
        self._cancelled = True
        told = self._when_cancelled
        if told is not None:
            told()

    def tell_cancel(self, told: Optional[Callable[[], object]]) -> None:
        """Have ``told`` called when the work is asked to stop, for work that cannot check; None: no
        more. It is called on the thread that cancels."""
        self._when_cancelled = told

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the work to stop."""
        return self._cancelled

    def check(self) -> None:
        """Raise ``Cancelled`` if somebody asked the work to stop."""
        if self._cancelled:
            raise Cancelled

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        """Report ``done`` of ``total`` units (None: unknown) and what is being done."""

    def partial(self, value: Any) -> None:
        """Hand over an intermediate result."""
