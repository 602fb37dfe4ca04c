"""JSON for others: the value that was given, in ASCII, whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from attention_studio.core.interchange import json_writing
from attention_studio.core.interchange.json_writing import (
    PIECE,
    JsonWritingError,
    ascii_json,
    write_ascii_json,
)

VALUES: list[Any] = [
    None,
    [],
    {},
    {"": []},
    'größe \U0001f600 \u2028 \x7f "\\ \x00',
    "\ud800 half",
    {"\ud83d": ["\ude00"], "größe": 1},
    2**53 + 1,
    -(2**63),
    2**200,
    [0.1, -0.0, 1e-320, 1.7976931348623157e308, 123456789.123456789],
    {"links": [{"source": f"{n}_é", "weight": n / 7} for n in range(2 * PIECE + 3)], "after": 1},
    {"nodes": [[n] for n in range(PIECE)], "links": [2**70, *range(PIECE)]},
    list(range(PIECE + 1)),
    {1: "a key that is no text"},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_is_read_is_what_was_written(value: Any) -> None:
    text = b"".join(ascii_json(value)).decode("ascii")
    assert text.endswith("\n")
    # The slow encoder of the language says which value that is; it makes text of all keys.
    assert json.loads(text) == json.loads(json.dumps(value))


def test_floats_keep_every_bit() -> None:
    values = [0.1 + 0.2, 5e-324, -0.0, 1 / 3, float.fromhex("0x1.fffffffffffffp+1023")]
    again = json.loads(b"".join(ascii_json(values)))
    assert [value.hex() for value in again] == [value.hex() for value in values]


def test_what_is_no_number_is_null() -> None:
    assert json.loads(b"".join(ascii_json([math.nan, math.inf, 1.5]))) == [None, None, 1.5]


def test_long_lists_are_written_in_pieces() -> None:
    pieces = list(ascii_json({"links": list(range(10 * PIECE)), "metadata": {}}))
    assert max(map(len, pieces)) < 8 * PIECE


def test_a_value_that_json_has_not_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_ascii_json(path, ["old"])
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    monkeypatch.setattr(json_writing, "PIECE", 1)
    for value in (deep, {"links": [1, 2, deep]}, {"links": [1, object()]}):
        with pytest.raises(JsonWritingError, match="cannot be written"):
            write_ascii_json(path, value)
    assert json.loads(path.read_text()) == ["old"]
    assert list(tmp_path.iterdir()) == [path]
