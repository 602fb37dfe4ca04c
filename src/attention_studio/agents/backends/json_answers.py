"""JSON from chat models: asking for it in words, and reading it out of what they write.

Small models put JSON between fences and friendly sentences. What is read is the first value that
can be read, and it counts only if the answer's own type accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional, TypeVar

from pydantic import BaseModel, ValidationError

from attention_studio.agents.backends.chat_answer import whole_characters
from attention_studio.agents.backends.records import BackendAnswerError, Message

_MAX_CHARS = 1_000_000
_MAX_STARTS = 64
_SHOWN = 120

T = TypeVar("T", bound=BaseModel)


class JsonAnswerError(BackendAnswerError):
    """A model was asked for JSON of a certain kind and answered something else."""


def ask_for_json(messages: Sequence[Message], schema: Mapping[str, Any]) -> tuple[Message, ...]:
    """``messages`` with the schema told in the first one, for models that have no JSON mode."""
    told = (
        "Answer with one JSON value and nothing else: no explanation, no code fence. "
        f"It has to follow this JSON schema: {json.dumps(schema, ensure_ascii=False)}"
    )
    if messages and messages[0].role == "system":
        first = Message("system", f"{messages[0].content}\n\n{told}")
        return (first, *messages[1:])
    return (Message("system", told), *messages)


def read_json_answer(text: str, kind: type[T]) -> T:
    """The first JSON object in ``text`` that ``kind`` accepts.

    Raises:
        JsonAnswerError: there is none. The error says what is wrong with the first that there is.
    """
    problem = ""
    for value in json_objects(text):
        try:
            # JSON can spell halves of characters, which no file and no tokenizer takes.
            whole = json.loads(whole_characters(json.dumps(value, ensure_ascii=False)))
            return kind.model_validate(whole)
        except RecursionError:
            problem = problem or "it is nested too deeply"
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            problem = problem or f"{place}: {first['msg']}".removeprefix(": ")
    shown = " ".join(text.split())
    shown = shown[:_SHOWN] + "…" if len(shown) > _SHOWN else shown
    raise JsonAnswerError(
        "The model did not answer with the JSON that it was asked for",
        problem or f"it answered: {shown or 'nothing'}",
        "Try again, or use a stronger model",
    )


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in ``text``, in order, without those within others; at most a few dozen.

    Where there is none, one that breaks off is closed where it does.
    """
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    text, at = text[:_MAX_CHARS], 0
    for _ in range(_MAX_STARTS):
        at = text.find("{", at)
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if isinstance(value, dict):
            found.append(value)
        at = end
    first = text.find("{")
    if not found and first >= 0:
        mended = object_or_none(_closed(text[first:]))
        found += [] if mended is None else [mended]
    return found


def _closed(text: str) -> str:
    """``text``, which begins with a brace and breaks off, with all that is open in it closed."""
    open_ones: list[str] = []
    quoted = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = character == "\\", character != '"'
        elif character == '"':
            quoted = True
        elif character in "{[":
            open_ones.append("}" if character == "{" else "]")
        elif character in "}]" and open_ones:
            open_ones.pop()
    whole = text[:-1] if escaped else text
    whole = f'{whole}"' if quoted else whole.rstrip().removesuffix(",")
    return whole + "".join(reversed(open_ones))


def end_of_object(text: str) -> Optional[int]:
    """Where the object that ``text`` begins with is complete; None: it is not yet."""
    begins = text.find("{")
    if begins < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(text, begins)[1]
    except (ValueError, RecursionError):
        return None


def object_or_none(text: str) -> Optional[dict[str, Any]]:
    """``text`` as a JSON object, or None if it is no such thing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
