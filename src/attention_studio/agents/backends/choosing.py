"""Choices among given answers: how they are told to a model, and read where it writes one.

A model in this process weighs the answers by its own probabilities and writes nothing. An
endpoint is asked to write one of them, by schema where it takes one; nothing else counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attention_studio.agents.backends.json_answers import JsonAnswerError, json_objects
from attention_studio.agents.backends.records import Backend, Choice, Message
from attention_studio.utils.progress import WorkContext

_ANSWER_TOKENS = 48
_AROUND = " \t\n\"'`.,:;!*()"


def ask_to_choose(messages: Sequence[Message], options: Sequence[str]) -> tuple[Message, ...]:
    """``messages`` with the answers that there are told at the end of the last one."""
    *before, last = messages
    told = f"Answer with one of these and nothing else: {', '.join(options)}"
    return (*before, Message(last.role, f"{last.content}\n\n{told}"))


def choice_schema(options: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer that is one of ``options``."""
    return {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(options)}},
        "required": ["answer"],
        "additionalProperties": False,
    }


def choose_in_writing(
    backend: Backend, messages: Sequence[Message], options: Sequence[str], ctx: WorkContext
) -> Choice:
    """Have a model write one of ``options``, and be sure of that one.

    Raises:
        JsonAnswerError: it wrote something else.
        BackendError, Cancelled: as ``Backend.complete``.
    """
    reply = backend.complete(
        ask_to_choose(messages, options),
        max_tokens=_ANSWER_TOKENS,
        json_schema=choice_schema(options),
        ctx=ctx,
    )
    chosen = chosen_option(reply.message.content, options)
    sure = tuple(float(place == chosen) for place in range(len(options)))
    return Choice(sure, reply.usage)


def chosen_option(text: str, options: Sequence[str]) -> int:
    """Which of ``options`` is written: as JSON, or in words with nothing else.

    Raises:
        JsonAnswerError: none of them.
    """
    values = [value.get("answer") for value in json_objects(text)] or [text]
    said = str(values[0]).strip(_AROUND).casefold()
    for place, option in enumerate(options):
        if option.strip(_AROUND).casefold() == said:
            return place
    raise JsonAnswerError(
        "The model did not choose one of the answers that there are",
        f"it answered: {said[:120] or 'nothing'}",
        "Try again, or use a stronger model",
    )


def choice_text(choice: Choice) -> str:
    """A choice as transcripts keep it: what ``read_choice`` reads."""
    return json.dumps({"probabilities": list(choice.probabilities)})


def read_choice(value: Mapping[str, Any], n_options: int) -> tuple[float, ...]:
    """The probabilities out of a transcript's answer.

    Raises:
        JsonAnswerError: they are not so many numbers.
    """
    found = value.get("probabilities")
    if not isinstance(found, list) or len(found) != n_options:
        raise JsonAnswerError("The transcript has no such choice", "it was damaged")
    return tuple(float(one) for one in found)
