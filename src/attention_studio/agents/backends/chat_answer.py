"""Answers in the chat completions protocol: streams of events or one document, read with bounds.

Everything here comes from elsewhere. What is not of the expected type is an error that says so, and
never a crash; unknown fields are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Optional

from attention_studio.agents.backends.records import (
    BackendAnswerError,
    Message,
    Reply,
    ToolCall,
    Usage,
)
from attention_studio.utils.logging import redact

MAX_TOOL_CALLS = 32
_CHARACTERS_PER_TOKEN = 4  # about that in English, for endpoints that do not count
_MOST_TOKENS = 1_000_000_000
_SHOWN = 300


class EventLines:
    """The data of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)
    as their bytes come in, in whatever pieces.

    Args:
        max_bytes: of one line; longer ones are refused.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting = bytearray()
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that ``piece`` completes.

        Raises:
            BackendAnswerError: a line is too long or no UTF-8.
        """
        self._waiting += piece
        *lines, self._waiting = self._waiting.split(b"\n")
        found: list[str] = []
        for line in lines:
            self._take(bytes(line).removesuffix(b"\r"), found)
        if len(self._waiting) > self._max_bytes:
            raise _no_answer(f"one line has more than {self._max_bytes:,} bytes")
        return found

    def end(self) -> list[str]:
        """The data of a last event that no empty line ended."""
        found: list[str] = []
        self._take(bytes(self._waiting), found)
        self._take(b"", found)
        self._waiting.clear()
        return found

    def _take(self, line: bytes, found: list[str]) -> None:
        if not line:
            if self._data:
                found.append("\n".join(self._data))
                self._data = []
        elif line.startswith(b"data:"):
            try:
                text = line[5:].decode("utf-8")
            except UnicodeDecodeError as error:
                raise _no_answer(f"it is no UTF-8 text: {error.reason}") from None
            self._data.append(text.removeprefix(" "))


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Answer:
    """An answer as it comes in.

    Attributes:
        finish: why it ended; None while it has not.
        complaint: what the endpoint says went wrong in the middle.
    """

    finish: Optional[str] = None
    complaint: Optional[str] = None
    _text: list[str] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _usage: Optional[Usage] = None

    def take(self, document: str, whole: bool = False) -> str:
        """Take in one event of a stream, or (``whole``) an answer that came as one document.

        Returns:
            The text that it adds.

        Raises:
            BackendAnswerError: it is not JSON, or not of the protocol.
        """
        try:
            event = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise _no_answer(f"it is not JSON: {shown(document)} ({shown(str(error))})") from None
        if not isinstance(event, dict):
            raise _no_answer(f"it is no JSON object: {shown(document)}")
        if event.get("error"):
            self.complaint = complaint_of(document)
            return ""
        self._count(event.get("usage"))
        choices = event.get("choices")
        if choices is None and not whole:
            return ""  # some endpoints send events of their own
        if not isinstance(choices, list) or (whole and not choices):
            raise _no_answer(f"it has no choices: {shown(document)}")
        if not choices:
            return ""
        first = choices[0]
        turn = first.get("message" if whole else "delta") if isinstance(first, dict) else None
        if not isinstance(first, dict) or (turn is not None and not isinstance(turn, dict)):
            raise _no_answer(f"its choice is of another kind: {shown(document)}")
        reason = first.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish = reason[:40]
        return self._turn(turn or {}, document)

    def _turn(self, turn: dict[str, Any], document: str) -> str:
        added = ""
        for name in ("content", "refusal"):
            text = turn.get(name)
            if text is not None and not isinstance(text, str):
                raise _no_answer(f"its {name} is no text: {shown(document)}")
            added += whole_characters(text or "")
        self._text.append(added)
        calls = turn.get("tool_calls") or []
        if not isinstance(calls, list):
            raise _no_answer(f"its tool calls are no list: {shown(document)}")
        for number, call in enumerate(calls):
            self._call(number, call, document)
        return added

    def _call(self, number: int, call: Any, document: str) -> None:
        function = call.get("function", {}) if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise _no_answer(f"a tool call is of another kind: {shown(document)}")
        index = call.get("index", number)
        if not isinstance(index, int) or not 0 <= index < MAX_TOOL_CALLS:
            raise _no_answer(f"it asks for more than {MAX_TOOL_CALLS} tools at once")
        known = self._calls.setdefault(index, _Call())
        known.id = known.id or _text_of(call.get("id"))
        known.name = known.name or _text_of(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # as Ollama sends them
            arguments = json.dumps(arguments, ensure_ascii=False)
        known.arguments += _text_of(arguments)

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int):
            self._usage = Usage(min(max(read, 0), _MOST_TOKENS), min(max(written, 0), _MOST_TOKENS))

    def reply(self, prompt_characters: int) -> Reply:
        """The answer as it is now; ``prompt_characters`` is for endpoints that do not count."""
        text = "".join(self._text)
        calls = tuple(
            ToolCall(call.id or f"call_{index}", call.name, call.arguments)
            for index, call in sorted(self._calls.items())
        )
        written = len(text) + sum(len(call.name) + len(call.arguments_json) for call in calls)
        usage = self._usage or Usage(about_tokens(prompt_characters), about_tokens(written))
        message = Message("assistant", text, calls)
        return Reply(message, usage, self.finish or ("tool_calls" if calls else "stop"))


def about_tokens(characters: int) -> int:
    """How many tokens a text of so many characters has, about."""
    return -(-characters // _CHARACTERS_PER_TOKEN)


def whole_characters(text: str) -> str:
    """``text`` without halves of characters, which JSON can carry and no file can."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def complaint_of(body: str) -> str:
    """What an endpoint's error says, as one short line; empty if it says nothing readable."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "" if "<html" in body[:2000].lower() else shown(body)
    for name in ("error", "detail", "message"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
            if isinstance(value, dict) and value.get("message"):
                value = value["message"]
            break
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def shown(text: str) -> str:
    """Text from elsewhere as one short line that a person can be shown, without known secrets."""
    plain = "".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN])
    line = redact(" ".join(plain.split()))
    return line[:_SHOWN] + "…" if len(line) > _SHOWN else line


def _text_of(value: Any) -> str:
    return whole_characters(value) if isinstance(value, str) else ""


def _no_answer(why: str) -> BackendAnswerError:
    return BackendAnswerError(
        "The endpoint's answer cannot be read",
        why,
        "Check that ATTENTION_STUDIO_AGENT_URL is that of an endpoint of the OpenAI protocol",
    )
