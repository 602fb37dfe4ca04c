"""JSON schemas as small models understand them: as a form to fill in.

A small model that is shown a schema answers with the schema. Shown an object with a hint in each
place, and with the first place already begun, it fills in what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attention_studio.agents.backends.records import Message

_MAX_DEPTH = 6


def ask_to_fill_in(messages: Sequence[Message], schema: Mapping[str, Any]) -> tuple[Message, ...]:
    """``messages`` with the form told at the end of the last one, where small models look."""
    form = json.dumps(form_of(schema), ensure_ascii=False)
    told = f"Answer with JSON of exactly this form, with your own values, and nothing else:\n{form}"
    if messages and messages[-1].role == "user":
        last = messages[-1]
        return (*messages[:-1], Message("user", f"{last.content}\n\n{told}"))
    return (*messages, Message("user", told))


def form_of(schema: Mapping[str, Any]) -> Any:
    """A value of the schema's kind with hints for values."""
    return _form(schema, schema, 0)


def beginning_of(schema: Mapping[str, Any]) -> str:
    """How every answer begins: the brace, the first name, and the quote of a text."""
    fields = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(fields, Mapping) or not fields:
        return "{" if schema.get("type") == "object" else ""
    name, kind = next(iter(fields.items()))
    form = _form(kind, schema, 1)
    opening = '"' if isinstance(form, str) else "[" if isinstance(form, list) else ""
    return f"{{{json.dumps(name, ensure_ascii=False)}: {opening}".rstrip()


def _form(part: Any, whole: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(part, Mapping) or depth > _MAX_DEPTH:
        return "..."
    reference = part.get("$ref")
    if isinstance(reference, str):
        return _form(whole.get("$defs", {}).get(reference.rpartition("/")[2]), whole, depth + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        choices = [one for one in part.get(name, ()) if one.get("type") != "null"]
        if choices:
            return _form({**part, name: (), **choices[0]}, whole, depth + 1)
    if "const" in part:
        return part["const"]
    if part.get("enum"):
        return " | ".join(map(str, part["enum"]))
    kind = part.get("type")
    if kind == "object":
        fields = part.get("properties", {})
        return {name: _form(one, whole, depth + 1) for name, one in fields.items()}
    if kind == "array":
        return [_form(part.get("items"), whole, depth + 1)]
    if kind in ("integer", "number"):
        return part.get("minimum", 0)
    if kind == "boolean":
        return True
    return str(part.get("description") or "...")
