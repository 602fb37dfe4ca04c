"""Reading JSON that others wrote: what JSON does not have, or what nobody means, is refused."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, Union

MAX_DEPTH = 32


class NotStrictJsonError(ValueError):
    """A text is no JSON, or has in it what nobody means: says what."""


def strict_json(text: Union[str, bytes], max_depth: int = MAX_DEPTH) -> Any:
    """The value of a text.

    Raises:
        NotStrictJsonError: it is no JSON, has numbers that are none (``NaN``) or beyond doubles,
            two fields of one name in an object, or is nested more than ``max_depth`` deep.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique_keys,
        )
    except (ValueError, RecursionError) as error:  # ValueError alone: thousands of digits, no UTF-8
        raise NotStrictJsonError(f"it is not valid JSON ({error})") from error
    _check_depth(value, max_depth)
    return value


def _check_depth(value: Any, max_depth: int) -> None:
    """Lists within lists beyond any sense exhaust the stack of whoever walks through them."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return
    raise NotStrictJsonError(f"it is nested more than {max_depth} deep")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return table
