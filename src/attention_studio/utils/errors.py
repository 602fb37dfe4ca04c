"""The exception types that the whole package shares.

Every error that a person can cause says what happened, why, and what to do next. The three parts
are kept apart so that the window can show the first line and fold the rest away, and the command
line can print one line.
"""

from __future__ import annotations


class StudioError(Exception):
    """Something a person can understand and act on.

    Args:
        what: what happened, one short sentence.
        why: the reason, where it is known.
        todo: what the person can do about it.
    """

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        self.what = what.rstrip(". ")
        self.why = why.rstrip(". ")
        self.todo = todo.rstrip(". ")
        # Reasons are written as clauses or as sentences, and come from the system, too.
        clause = self.what and self.why[:1].islower()
        told = f"{self.what}: {self.why}" if clause else _joined(self.what, self.why)
        super().__init__(_joined(told, _as_sentence(self.todo)) + ".")

    def __reduce__(self) -> tuple[type[StudioError], tuple[object, ...]]:
        return (type(self), (self.what, self.why, self.todo))


def _joined(*parts: str) -> str:
    return ". ".join(part for part in parts if part)


def _as_sentence(text: str) -> str:
    """``text`` with a capital, where it begins with a word and not with a name from code."""
    return text[:1].upper() + text[1:] if text.split(" ", 1)[0].isalpha() else text


class Cancelled(Exception):  # noqa: N818 - the field's word for it, and it is not an error
    """The person asked to stop. Raised by ``WorkContext.check``."""
