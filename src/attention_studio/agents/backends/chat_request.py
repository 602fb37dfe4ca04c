"""Questions in the chat completions protocol, in the dialect that an endpoint understands.

Endpoints differ in what they know: JSON of a schema, JSON at all, seeds, counts of tokens in
streams. Each is asked for the best first, and without what it complains about after that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Optional

from attention_studio.agents.backends.json_answers import ask_for_json, object_or_none
from attention_studio.agents.backends.records import Message, ToolSpec

_TOO_LONG = re.compile(r"context.{0,20}(length|window|size)|too (long|many tokens)|exceed", re.I)


@dataclass(frozen=True)
class Dialect:
    """What an endpoint is asked with.

    Attributes:
        json: how JSON is asked for beside the words: by schema, as any object, or not at all.
        stream_usage: ask for the count of tokens at the end of the stream.
        seed: send the seed.
        temperature: send the temperature; some models have only one.
        tokens_field: the name of the bound on the answer's tokens.
    """

    json: Literal["schema", "object", "words"] = "schema"
    stream_usage: bool = True
    seed: bool = True
    temperature: bool = True
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


@dataclass(frozen=True)
class Question:
    """What is asked, in no dialect yet; see ``Backend.complete``."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    max_tokens: int
    temperature: float
    json_schema: Optional[Mapping[str, Any]]
    seed: Optional[int]


def request_body(model: str, question: Question, dialect: Dialect) -> dict[str, Any]:
    """The body of the request."""
    messages: Sequence[Message] = question.messages
    body: dict[str, Any] = {"model": model, "stream": True}
    body[dialect.tokens_field] = question.max_tokens
    if dialect.temperature:
        body["temperature"] = question.temperature
    if dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if dialect.seed and question.seed is not None:
        body["seed"] = question.seed
    if question.tools:
        body["tools"] = [_tool(tool) for tool in question.tools]
    schema = question.json_schema
    if schema is not None:
        if dialect.json == "schema":
            wanted = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif dialect.json == "object":
            body["response_format"] = {"type": "json_object"}
        # In words as well: some endpoints pass over the schema, and others hold the model to it
        # without showing it.
        messages = ask_for_json(messages, schema)
    body["messages"] = [_message(message) for message in messages]
    return body


def simpler(dialect: Dialect, complaint: str, body: Mapping[str, Any]) -> Optional[Dialect]:
    """The dialect to try after the endpoint refused ``body``; None: nothing is left to leave out.

    ``complaint`` is text from elsewhere; the worst that it can do is to cost one more question.
    """
    said = complaint.lower()
    if "max_completion_tokens" in said and dialect.tokens_field == "max_tokens":
        return replace(dialect, tokens_field="max_completion_tokens")
    if "temperature" in said and "temperature" in body:
        return replace(dialect, temperature=False)
    if ("stream_options" in said or "include_usage" in said) and "stream_options" in body:
        return replace(dialect, stream_usage=False)
    if "seed" in said and "seed" in body:
        return replace(dialect, seed=False)
    if "response_format" in body and not _TOO_LONG.search(said):
        return replace(dialect, json="object" if dialect.json == "schema" else "words")
    return None


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps the rules of the strict mode: all objects are closed, and all their
    fields required (https://platform.openai.com/docs/guides/structured-outputs)."""
    if isinstance(schema, list):
        return all(is_strict(one) for one in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object":
        fields = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != fields:
            return False
    return all(is_strict(value) for value in schema.values())


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.help, "parameters": tool.schema}
    return {"type": "function", "function": function}


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    # Endpoints that put arguments into a template fail on what is not an object.
                    "arguments": (
                        "{}" if object_or_none(call.arguments_json) is None else call.arguments_json
                    ),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made
