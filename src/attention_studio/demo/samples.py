"""What a sample of the demo's text is: words, and the truth about them.

Positions count tokens as the model sees them: position 0 is the start token that goes before every
prompt, and ``pieces[0]`` stands at position 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Optional

PIECE_PATTERN = r" ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]"
"""What becomes one token: a word, two digits, or a sign, each with the space before it."""

_PIECES = re.compile(PIECE_PATTERN)


@dataclass(frozen=True)
class Mark:
    """A token that a prediction depends on: where it stands and what part it plays."""

    position: int
    role: str


@dataclass(frozen=True)
class Step:
    """One link of the way from the text to an answer.

    ``position`` is where the text says it; None for what the model must work out unsaid (the
    "Texas" between "Dallas" and "Austin").
    """

    role: str
    value: str
    position: Optional[int]


@dataclass(frozen=True)
class Answer:
    """A token that follows from the text before it.

    Attributes:
        task: the task whose rule decides it.
        position: where the answer stands; it is predicted at ``position - 1``.
        allowed: every piece that would be right there; the text has one of them.
        marks: the tokens that decide it.
        distractors: tokens that suggest something else and must not decide it.
        steps: the way to the answer, in order; the answer itself comes last.
    """

    task: str
    position: int
    allowed: tuple[str, ...]
    marks: tuple[Mark, ...]
    steps: tuple[Step, ...]
    distractors: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A text of one task and its ground truth.

    Attributes:
        task: name of the task.
        held_out: whether what it asks never occurs in training text.
        pieces: the text cut into tokens; ``"".join(pieces)`` starts with a space.
        answers: what can be predicted in it, in the order of the text.
    """

    task: str
    held_out: bool
    pieces: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def text(self) -> str:
        """The text as one reads it."""
        return "".join(self.pieces)[1:]

    def piece_at(self, position: int) -> str:
        """The piece at a position (1 is the first)."""
        return self.pieces[position - 1]

    def prompt(self, answer: Answer) -> str:
        """The text before an answer."""
        return "".join(self.pieces[: answer.position - 1])[1:]


class Line:
    """A text in the making: says pieces, remembers where they stand, notes what follows."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.answers: list[Answer] = []

    @property
    def here(self) -> int:
        """The position of the last piece."""
        return len(self.pieces)

    def say(self, text: str) -> int:
        """Go on with ``text`` (a space before its first word unless it starts with ``^`` or is a
        sign that leans on the word before) and return the position of its last piece."""
        self.pieces.extend(split_pieces(text))
        return len(self.pieces)

    def answer(
        self,
        task: str,
        text: str,
        marks: list[tuple[int, str]],
        steps: list[tuple[str, str, Optional[int]]],
        allowed: tuple[str, ...] = (),
        distractors: tuple[tuple[int, str], ...] = (),
        role: str = "answer",
    ) -> int:
        """Say ``text``, one piece that follows from what was said, and note why.

        ``allowed`` defaults to that piece alone; the answer is added to ``steps`` as the last.
        """
        position = self.say(text)
        piece = self.pieces[-1]
        self.answers.append(
            Answer(
                task=task,
                position=position,
                allowed=allowed or (piece,),
                marks=tuple(Mark(*mark) for mark in marks),
                steps=(*(Step(*step) for step in steps), Step(role, piece.strip(), position)),
                distractors=tuple(Mark(*mark) for mark in distractors),
            )
        )
        return position

    def sample(self, task: str, held_out: bool) -> Sample:
        """The finished text."""
        return Sample(task, held_out, tuple(self.pieces), tuple(self.answers))


@lru_cache(maxsize=8192)
def split_pieces(text: str) -> tuple[str, ...]:
    """Cut ``text`` into pieces, as the tokenizer does when ``text`` goes on with a sentence."""
    if text.startswith("^"):
        text = text[1:]
    elif text[0].isalnum():
        text = " " + text
    return tuple(_PIECES.findall(text))
