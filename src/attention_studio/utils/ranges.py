"""Lists of numbers as people type them: ``"all"``, ``"0-5"``, ``"0-5, 12, 20-22"``."""

from __future__ import annotations

from attention_studio.utils.errors import StudioError


class RangeError(StudioError):
    """The text is no list of numbers, or names one that does not exist."""


def parse_ranges(text: str, limit: int, what: str = "layer") -> tuple[int, ...]:
    """The numbers that ``text`` names, ascending, each once, within 0 … ``limit`` − 1.

    ``all`` and the empty text name every number.

    Raises:
        RangeError: it cannot be understood or names a number that there is not.
    """
    cleaned = text.strip().lower()
    if cleaned in ("", "all", "*"):
        return tuple(range(limit))
    found: set[int] = set()
    for part in cleaned.replace(";", ",").split(","):
        piece = part.strip().replace("\N{EN DASH}", "-").replace("…", "-")
        if not piece:
            continue
        first, dash, last = (side.strip() for side in piece.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise RangeError(
                f"“{part.strip()}” is no {what}", "", "Write numbers and ranges such as 0-5, 12"
            )
        low, high = int(first), int(last) if dash else int(first)
        if low > high or high >= limit:
            raise RangeError(
                f"There is no {what} {max(low, high)}" if high >= limit else f"{piece} is empty",
                f"They run from 0 to {limit - 1}",
            )
        found.update(range(low, high + 1))
    if not found:
        raise RangeError(f"No {what} is named", "", "Write numbers and ranges such as 0-5, 12")
    return tuple(sorted(found))


def show_ranges(numbers: tuple[int, ...]) -> str:
    """The shortest text that ``parse_ranges`` reads back, for ascending numbers."""
    parts: list[str] = []
    start = previous = None
    for number in (*numbers, None):
        if start is not None and number != (previous or 0) + 1:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = None
        if number is not None and start is None:
            start = number
        previous = number
    return ", ".join(parts)
