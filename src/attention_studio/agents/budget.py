"""What a run of an agent may use, and what it has used: tokens, questions, seconds, money.

A question reserves the most that it can use before it is asked, so that several threads together
stay within the budget; what it did not use is given back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from attention_studio.agents.backends.chat_answer import about_tokens
from attention_studio.agents.backends.records import Message, Price, Reply, ToolSpec, Usage
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import StudioError

_LEAST_ANSWER = 16  # tokens; with fewer left no question is worth asking
_TOKENS_PER_MESSAGE = 8  # what templates put around a message, about


class BudgetSpentError(StudioError):
    """A run has used up what it may use. What it has found so far stays."""


@dataclass(frozen=True)
class Budget:
    """What a run may use; None: as much as it wants.

    Attributes:
        max_tokens: read and written together.
        max_calls: questions to the model.
        max_seconds: from the first moment on.
        max_cost: in the currency of the price; without a price nothing costs anything.
    """

    max_tokens: Optional[int] = None
    max_calls: Optional[int] = None
    max_seconds: Optional[float] = None
    max_cost: Optional[float] = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Budget:
        """The budget that the settings give a run."""
        return cls(
            settings.agent_max_tokens,
            settings.agent_max_calls,
            settings.agent_max_seconds,
            settings.agent_max_cost,
        )


@dataclass(frozen=True)
class Spending:
    """What a run has used."""

    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    seconds: float = 0.0
    cost: float = 0.0


@dataclass
class Question:
    """A question that may be asked.

    Attributes:
        max_tokens: of its answer: what was wanted, or what is left.
        reply: to be set once it is answered.
    """

    max_tokens: int
    reply: Optional[Reply] = None


class Meter:
    """Counts what a run uses. Safe from any thread.

    Args:
        budget: what it may use.
        price: of the backend.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        budget: Optional[Budget] = None,
        price: Optional[Price] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget or Budget()
        self._price, self._clock = price, clock
        self._began = clock()
        self._lock = threading.Lock()
        self._used, self._held = Usage(), Usage()
        self._calls = 0

    @property
    def spending(self) -> Spending:
        """What has been used by now, without what running questions hold."""
        with self._lock:
            return Spending(self._used, self._calls, self._seconds(), self._cost(self._used))

    def check(self) -> None:
        """
        Raises:
            BudgetSpentError: the time is over.
        """
        limit, seconds = self.budget.max_seconds, self._seconds()
        if limit is not None and seconds > limit:
            raise _spent(f"{limit:,.0f} seconds", f"{seconds:,.0f} s have passed", "MAX_SECONDS")

    @contextmanager
    def question(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        max_tokens: int,
        json_schema: Optional[Mapping[str, Any]] = None,
    ) -> Iterator[Question]:
        """Reserve what a question with these messages can use, for as long as the block runs.

        The block sets ``reply``. If it ends without one, what was sent counts as used: endpoints
        count it, too.

        Raises:
            BudgetSpentError: too little is left.
        """
        characters = sum(
            len(one.content) + sum(len(call.arguments_json) for call in one.tool_calls)
            for one in messages
        )
        characters += sum(len(tool.help) + len(str(tool.schema)) for tool in tools)
        characters += 0 if json_schema is None else len(str(json_schema))
        read = about_tokens(characters) + _TOKENS_PER_MESSAGE * len(messages)
        with self._lock:
            self.check()
            question = Question(min(max_tokens, self._room(read)))
            held = Usage(read, question.max_tokens)
            self._held += held
            self._calls += 1
        used = Usage(read, 0)
        try:
            yield question
            if question.reply is not None:
                used = question.reply.usage
        finally:
            with self._lock:
                self._held = _less(self._held, held)
                self._used += used

    def _room(self, read: int) -> int:
        """How many tokens an answer to a question of ``read`` tokens may have."""
        budget, taken, room = self.budget, self._used + self._held, 1 << 30
        if budget.max_calls is not None and self._calls >= budget.max_calls:
            raise _spent(f"{budget.max_calls:,} questions", "all were asked", "MAX_CALLS")
        if budget.max_tokens is not None:
            room = budget.max_tokens - taken.total - read
            if room < _LEAST_ANSWER:
                raise _spent(
                    f"{budget.max_tokens:,} tokens",
                    f"{taken.total:,} are used or promised, and the next question has {read:,}",
                    "MAX_TOKENS",
                )
        price = self._price
        if budget.max_cost is not None and price is not None:
            left = budget.max_cost - self._cost(taken + Usage(read, 0))
            if left <= 0 or left < price.of(Usage(0, _LEAST_ANSWER)):
                raise _spent(
                    f"{budget.max_cost:g} in money",
                    f"{self._cost(taken):.4g} are used or promised",
                    "MAX_COST",
                )
            if price.per_million_out > 0:
                room = min(room, int(left * 1e6 / price.per_million_out))
        return room

    def _seconds(self) -> float:
        return self._clock() - self._began

    def _cost(self, usage: Usage) -> float:
        return 0.0 if self._price is None else self._price.of(usage)


def _less(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens - other.prompt_tokens, one.completion_tokens - other.completion_tokens
    )


def _spent(limit: str, why: str, setting: str) -> BudgetSpentError:
    return BudgetSpentError(
        f"The budget of {limit} is used up",
        why,
        f"What was found is kept; give more, or set ATTENTION_STUDIO_AGENT_{setting}",
    )
