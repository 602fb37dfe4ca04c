"""Asynchronous work run to its end on the calling thread, with a watch on whether it is wanted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from attention_studio.agents.backends.records import BackendUnreachableError
from attention_studio.utils.progress import WorkContext

_POLL_SECONDS = 0.1

T = TypeVar("T")


def run_watched(work: Coroutine[Any, Any, T], ctx: WorkContext, seconds: float, host: str) -> T:
    """Run ``work`` on an event loop of its own, until it is done, cancelled or out of time.

    Raises:
        Cancelled: through ``ctx``, within a tenth of a second, wherever the work stands.
        BackendUnreachableError: it took more than ``seconds``; ``host`` is who was asked.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_watched(work, ctx, seconds, host))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        # Not the loop's threads: one may hang in a name lookup, which nothing can interrupt.
        loop.close()


async def _watched(work: Coroutine[Any, Any, T], ctx: WorkContext, seconds: float, host: str) -> T:
    task = asyncio.ensure_future(work)
    ends = time.monotonic() + seconds
    while True:
        done, _ = await asyncio.wait({task}, timeout=_POLL_SECONDS)
        if done:
            return task.result()
        ctx.check()
        if time.monotonic() > ends:
            raise BackendUnreachableError(
                f"{host} did not end its answer",
                f"it was given up after {seconds:,.0f} s",
                "Ask for fewer tokens, or try again",
            )
