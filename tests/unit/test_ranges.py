"""Lists of numbers as people type them."""

from __future__ import annotations

import pytest

from attention_studio.utils.ranges import RangeError, parse_ranges, show_ranges


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("", (0, 1, 2, 3, 4, 5)),
        ("0-2", (0, 1, 2)),
        ("5, 1,1 ; 3-4", (1, 3, 4, 5)),
        (" 2 \N{EN DASH} 3 ", (2, 3)),
        ("4-4,", (4,)),
    ],
)
def test_what_is_understood(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_ranges(text, 6) == numbers
    assert parse_ranges(show_ranges(numbers), 6) == numbers


@pytest.mark.parametrize("text", ["6", "0-6", "3-1", "x", "1-", "-1", "1--2", ",", "1.5"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(RangeError):
        parse_ranges(text, 6)


def test_ranges_are_shown_as_short_as_can_be() -> None:
    assert show_ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert show_ranges(()) == ""
