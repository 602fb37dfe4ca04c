"""Writing large JSON files for others: fast, in ASCII, atomically, and in small pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import atomic_write

PIECE = 4096
"""Elements of a list that are written at a time. An encoder in C lets no other thread run until it
is done; the window has to stay alive beside it."""
_NOT_ASCII = re.compile("[^\x00-\x7f]")


class JsonWritingError(StudioError):
    """A value is not what JSON can hold."""


def write_ascii_json(path: Path, value: Any) -> None:
    """Write what ``ascii_json`` gives, atomically.

    Raises:
        FileWriteError: it cannot be written.
        JsonWritingError: as ``ascii_json``.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(ascii_json(value))


def ascii_json(value: Any) -> Iterator[bytes]:
    """JSON without a space too many, in ASCII, with a line's end; in pieces.

    A reader that takes the system's encoding for the file's (circuit-tracer's index does) reads
    it right, and half of a surrogate pair, which UTF-8 cannot hold, survives. Numbers that are none
    (NaN, infinities) become ``null``, for JSON has no others.

    Raises:
        JsonWritingError: it is nested deeper than JSON is written, or no value of JSON.
    """
    yield from _pieces(value)
    yield b"\n"


def _pieces(value: Any) -> Iterator[bytes]:
    """The text of a value, long lists within an object or a list in parts."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        yield b"{"
        for number, (key, part) in enumerate(value.items()):
            yield (b"," if number else b"") + _encoded(key) + b":"
            yield from _pieces(part) if isinstance(part, list) else (_encoded(part),)
        yield b"}"
    elif isinstance(value, list) and len(value) > PIECE:
        for begin in range(0, len(value), PIECE):
            yield b"," if begin else b"["
            yield _encoded(value[begin : begin + PIECE])[1:-1]
        yield b"]"
    else:
        yield _encoded(value)


def _encoded(value: Any) -> bytes:
    """The text of a value, at once."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        # Whole numbers beyond 64 bits, halves of surrogate pairs: the slow encoder knows them.
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        except (RecursionError, TypeError, ValueError) as error:
            raise JsonWritingError(
                "The file cannot be written", "it is nested too deep or has what JSON has not"
            ) from error
    # Outside of strings JSON is ASCII, so whatever is not stands in one and may be escaped there.
    return text if text.isascii() else _NOT_ASCII.sub(_escaped, text.decode()).encode("ascii")


def _escaped(found: re.Match[str]) -> str:
    """One character as ``\\uXXXX``, beyond the first plane as a surrogate pair."""
    return json.dumps(found.group())[1:-1]
