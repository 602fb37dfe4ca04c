"""A run of an agent that is shown, and what it came to, read once. Knows no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.agents.answers import Answer
    from attention_studio.agents.circuit_story import Story
    from attention_studio.agents.explanations import FeatureVerdict


class ShownRun:
    """A run, or none.

    Attributes:
        record: as the workspace keeps it.
        verdict, story, answer: what it came to; None: to something else, to nothing, or it is not
            read yet, or cannot be.
        problem: why it cannot be read.
    """

    def __init__(self, record: Optional[dict[str, Any]] = None, result: Any = None) -> None:
        """``result``: what it came to, where that is known; else small ones are read here."""
        self.record = record
        self.verdict: Optional[FeatureVerdict] = None
        self.story: Optional[Story] = None
        self.answer: Optional[Answer] = None
        self.problem: Optional[StudioError] = None
        if record is None:
            return
        try:
            if record.get("verdict") is not None:
                self.verdict = result or _verdict(record)
            elif record.get("answer") is not None:
                self.answer = result or _answer(record)
            elif record.get("story") is not None:
                self.story = result
        except StudioError as error:
            self.problem = error

    @property
    def what(self) -> str:
        """``explain``, ``score``, ``describe``, ``ask``, or ""."""
        return str((self.record or {}).get("what", ""))

    @property
    def feature(self) -> str:
        """The feature that it is about, or ""."""
        return str((self.record or {}).get("feature", ""))

    @property
    def unread(self) -> bool:
        """Whether a story is still to be read, which may take a while."""
        record = self.record
        return record is not None and record.get("story") is not None and self.story is None

    @property
    def transcript(self) -> Optional[dict[str, Any]]:
        """What was said; None: no model was asked."""
        found = (self.record or {}).get("transcript")
        return found if isinstance(found, dict) else None


def _verdict(record: dict[str, Any]) -> FeatureVerdict:
    from attention_studio.agents.explanations import read_verdict

    return read_verdict(record["verdict"])


def _answer(record: dict[str, Any]) -> Answer:
    from attention_studio.agents.answers import read_answer

    return read_answer(record["answer"])
