"""A backend that answers what it was told to: for tests, and for trying agents without a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from attention_studio.agents.backends.chat_answer import about_tokens
from attention_studio.agents.backends.choosing import choose_in_writing
from attention_studio.agents.backends.records import (
    BackendError,
    Choice,
    Message,
    OnText,
    Price,
    Reply,
    ToolCall,
    ToolSpec,
    Usage,
)
from attention_studio.utils.progress import WorkContext

# What is answered: a text, a turn, calls of tools, an error to raise, or what makes one of these.
Answer = Union[str, Message, Reply, Exception, Sequence[ToolCall]]
Script = Union[Answer, Callable[[Sequence[Message]], Answer]]


class ScriptedBackend:
    """Answers from a list, in order.

    ``asked`` keeps the messages of every question.

    Args:
        script: one entry per question; functions get the messages.
        otherwise: what is answered when the list is used up; None: that is an error.
        price: what tokens cost.
    """

    def __init__(
        self,
        script: Iterable[Script] = (),
        otherwise: Optional[Script] = None,
        *,
        price: Optional[Price] = None,
        name: str = "scripted",
    ) -> None:
        self._script, self._otherwise = list(script), otherwise
        self._price, self._name = price, name
        self._lock = threading.Lock()
        self.asked: list[tuple[Message, ...]] = []
        self.offered: list[tuple[str, ...]] = []

    @property
    def name(self) -> str:
        """``scripted``, or what it was named."""
        return self._name

    @property
    def price(self) -> Optional[Price]:
        """As it was told."""
        return self._price

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        max_tokens: int,
        temperature: float = 0.0,
        json_schema: Optional[Mapping[str, Any]] = None,
        seed: Optional[int] = None,
        ctx: WorkContext,
        on_text: Optional[OnText] = None,
    ) -> Reply:
        """The next entry of the script; see ``Backend.complete``.

        Raises:
            BackendError: the script is used up; and whatever it says.
            Cancelled: through ``ctx``.
        """
        ctx.check()
        with self._lock:
            self.asked.append(tuple(messages))
            self.offered.append(tuple(tool.name for tool in tools))
            entry = self._script.pop(0) if self._script else self._otherwise
        if entry is None:
            raise BackendError("The script is used up", f"question {len(self.asked)} is not in it")
        answer = entry(messages) if callable(entry) else entry
        if isinstance(answer, Exception):
            raise answer
        reply = _reply(answer, messages)
        if on_text is not None and reply.message.content:
            on_text(reply.message.content)
        return reply

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """The next entry of the script: what an endpoint would write; see ``Backend.choose``."""
        return choose_in_writing(self, messages, options, ctx)


def calling(name: str, number: int = 0, /, **arguments: Any) -> ToolCall:
    """A call of a tool, for scripts; ``number`` tells calls of one turn apart."""
    return ToolCall(f"call_{number}", name, json.dumps(arguments))


def _reply(answer: Answer, messages: Sequence[Message]) -> Reply:
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, str):
        answer = Message("assistant", answer)
    elif not isinstance(answer, Message):
        assert not isinstance(answer, Exception)
        answer = Message("assistant", "", tuple(answer))
    read = sum(len(message.content) for message in messages)
    written = len(answer.content) + sum(len(call.arguments_json) for call in answer.tool_calls)
    usage = Usage(about_tokens(read), about_tokens(written))
    return Reply(answer, usage, "tool_calls" if answer.tool_calls else "stop")
