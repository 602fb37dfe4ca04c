#!/usr/bin/env python3
"""What it takes to ask a chat model: the one in this process, and an endpoint on this machine.

python benchmarks/chat_models.py [--skip-local]

CPU seconds are those of this process, so other programs on the machine change them little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from attention_studio.agents.backends.local_chat import LocalChat
from attention_studio.agents.backends.openai_compatible import OpenAICompatible
from attention_studio.agents.backends.records import Message
from attention_studio.utils.config import load_settings
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.logging import stop_logging
from attention_studio.utils.progress import WorkContext
from tests.chat_server import falls_silent_after, never_ends, serve_chat

QUESTION = (Message("system", "You answer briefly."), Message("user", "What is a river? " * 40))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds that ``work`` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def local() -> dict[str, float]:
    """The chat model in this process, in tokens a CPU second."""
    chat = LocalChat.from_settings(load_settings())
    load = timed(lambda: chat.complete(QUESTION[1:], max_tokens=1, ctx=WorkContext()))
    replies = []

    def ask(max_tokens: int) -> None:
        replies.append(chat.complete(QUESTION, max_tokens=max_tokens, ctx=WorkContext()))

    read = timed(lambda: ask(1))
    written = timed(lambda: ask(60))
    more = replies[1].usage.completion_tokens - 1
    return {
        "first answer, with loading (CPU s)": load[1],
        "question (tokens)": replies[0].usage.prompt_tokens,
        "read (tokens / CPU s)": replies[0].usage.prompt_tokens / read[1],
        "written (tokens / CPU s)": more / (written[1] - read[1]),
    }


def endpoint() -> dict[str, float]:
    """An endpoint that answers at once: what is left is the studio's own time."""
    found = {}
    with serve_chat() as server:
        server.answer = "It is water that flows. " * 10
        one = OpenAICompatible(server.url, "m")
        ctx = WorkContext()
        times = [timed(lambda: one.complete(QUESTION, max_tokens=99, ctx=ctx)) for _ in range(40)]
        found["question (ms)"] = 1e3 * statistics.median(wall for wall, _ in times)
        with ThreadPoolExecutor(8) as pool:
            wall, _ = timed(
                lambda: list(
                    pool.map(lambda _: one.complete(QUESTION, max_tokens=99, ctx=ctx), range(80))
                )
            )
        found["80 questions on 8 threads (ms each)"] = 1e3 * wall / 80
    late = []
    for turn in (falls_silent_after(""), never_ends()) * 5:
        with serve_chat(turn) as server:
            late.append(cancelled(OpenAICompatible(server.url, "m")))
    found["from a stop to its end, worst of 10 (ms)"] = 1e3 * max(late)
    return found


def cancelled(one: OpenAICompatible) -> float:
    """Seconds between a cancel and the end of the question."""
    ctx, when = WorkContext(), []

    def stop() -> None:
        when.append(time.perf_counter())
        ctx.cancel()

    timer = threading.Timer(0.35, stop)
    timer.start()
    with suppress(Cancelled):
        one.complete(QUESTION, max_tokens=99, ctx=ctx)
    return time.perf_counter() - when[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-local", action="store_true", help="measure the endpoint only")
    arguments = parser.parse_args()
    stop_logging()
    found = {"endpoint": endpoint()}
    if not arguments.skip_local:
        found["local"] = local()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
