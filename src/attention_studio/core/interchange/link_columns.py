"""The links of a large graph file as columns of numbers, without an object for every link.

Nearly all of a large file are its links, each with the same three plain fields. They are read in
stretches, by a parser that is told nothing about them, and of each stretch only numbers are kept:
that takes a tenth of the memory, and no single step holds up the threads beside it for more than
some milliseconds. Whatever is not as plain as that is left to the reader of whole documents, which
looks at every value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_STRETCH = 1 << 18
"""Characters that are parsed at once."""
_BEGIN = re.compile(r'"links"\s*:\s*\[')
_FIELDS = itemgetter("source", "target", "weight")
_LOOK = 8 << 20
"""Characters that are looked through at once."""
_QUOTES = 10
"""In a link of three names and two ids."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LinkText:
    """Where the links stand in the text of a file: ``begin`` behind the bracket, ``end`` before
    the other one."""

    text: str
    begin: int
    end: int

    @classmethod
    def find(cls, text: str) -> Optional[LinkText]:
        """The only list in a text that is called ``links``; None where there is not exactly one,
        or brackets stand within it.

        The caller makes sure that it is the document's: ``rest`` then has an empty list there.
        """
        found = _BEGIN.search(text)
        if found is None or _elsewhere(text, found):
            return None
        end = text.find("]", found.end())
        if end < 0 or any(text.find(sign, found.end(), end) >= 0 for sign in "[\\"):
            return None
        return cls(text, found.end(), end)

    @property
    def rest(self) -> str:
        """The text without them."""
        return self.text[: self.begin] + self.text[self.end :]

    def columns(
        self, places: Mapping[str, int], most: int
    ) -> Optional[tuple[Ints, Ints, NDArray[np.float64]]]:
        """Both ends of every link, as ``places`` has their ids, and the weights.

        None where any link is not plain: fields that are missing, further, named twice or of
        another type, an id that is not known, a number beyond float32, more than ``most`` links.
        """
        sources, targets, weights = [], [], []
        count = 0
        for stretch in self._stretches():
            try:
                links: Any = json.loads(f"[{stretch}]")
                start, end, weight = zip(*map(_FIELDS, links), strict=True)
                source = np.fromiter(map(places.__getitem__, start), np.int64, len(links))
                target = np.fromiter(map(places.__getitem__, end), np.int64, len(links))
                value = np.fromiter(weight, np.float64, len(links))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                return None
            count += len(links)
            plain = set(map(len, links)) == {3} and stretch.count('"') == _QUOTES * len(links)
            numbers = set(map(type, weight)) <= {float, int}
            # What is no number is not at most anything.
            bounded = bool((np.abs(value) <= _FLOAT32_MAX).all())
            if not plain or not numbers or not bounded or count > most:
                return None
            sources.append(source)
            targets.append(target)
            weights.append(value)
        nothing = np.zeros(0, dtype=np.int64)
        return (
            np.concatenate([nothing, *sources]),
            np.concatenate([nothing, *targets]),
            np.concatenate([np.zeros(0), *weights]),
        )

    def _stretches(self) -> Iterator[str]:
        """The links' text in parts that end behind a link; the commas between them left out."""
        at = self.begin
        while at < self.end:
            cut = self.end
            if self.end - at > _STRETCH:
                # Within a string or a nested object the part is no JSON, and is refused.
                cut = self.text.rfind("}", at, at + _STRETCH) + 1 or self.end
            part = self.text[at:cut].strip()
            if at > self.begin:
                if not part.startswith(","):
                    yield part and "}"
                    return
                part = part[1:].strip() or "}"
            if part:
                yield part
            at = cut


def _elsewhere(text: str, found: re.Match[str]) -> bool:
    """Whether the name stands at another place, too. Looked for in parts, between which other
    threads have their turn."""
    name = '"links"'
    at = text.find(name)
    if at != found.start():
        return True
    at += len(name)
    return any(
        text.find(name, begin, begin + _LOOK + len(name)) >= 0
        for begin in range(at, len(text), _LOOK)
    )
