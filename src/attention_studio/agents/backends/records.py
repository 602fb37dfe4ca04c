"""What goes to a chat model and what comes back, whatever stands behind it. No torch, no network.

The roles, tool calls and reasons to finish are those of the chat completions protocol that most
endpoints speak (https://platform.openai.com/docs/api-reference/chat), so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional, Protocol, runtime_checkable

from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

Role = Literal["system", "user", "assistant", "tool"]
OnText = Callable[[str], None]


class BackendError(StudioError):
    """A chat model could not be asked, or what it answered cannot be used."""


class BackendOfflineError(BackendError):
    """The studio is set to work offline, so the endpoint is not asked."""


class BackendUnreachableError(BackendError):
    """The endpoint cannot be reached, fell silent, or broke off in the middle of an answer."""


class BackendBusyError(BackendError):
    """The endpoint has too much to do (429) or failed by itself (5xx), also when asked again."""


class BackendAccessError(BackendError):
    """The key is missing, wrong, or not allowed to do this (401, 403), or the account is empty."""


class BackendNotFoundError(BackendError):
    """There is no such model, or no chat endpoint at this address (404)."""


class BackendRequestError(BackendError):
    """The endpoint refuses the question as it is: too long, or something that it does not know."""


class BackendAnswerError(BackendError):
    """What came back is no answer: not JSON, of another type, or far larger than was asked for."""


@dataclass(frozen=True)
class ToolCall:
    """A model asks for a tool.

    Attributes:
        id: what the result is to be sent back under.
        name: of the tool, as the model wrote it; there need not be such a tool.
        arguments_json: as the model wrote them; need not be JSON.
    """

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        content: what is said.
        tool_calls: what an assistant asks for.
        tool_call_id: of a tool's turn: which call this is the result of.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: Optional[str] = None


@dataclass(frozen=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Price:
    """What tokens cost, per million, in the currency of whoever set it."""

    per_million_in: float
    per_million_out: float

    def of(self, usage: Usage) -> float:
        """What ``usage`` costs."""
        read = usage.prompt_tokens * self.per_million_in
        return (read + usage.completion_tokens * self.per_million_out) / 1e6


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        message: the assistant's turn.
        usage: tokens read and written; estimated where the endpoint does not say.
        finish_reason: ``stop``, ``length`` (``max_tokens`` were not enough), ``tool_calls``, or
            whatever else the endpoint says.
    """

    message: Message
    usage: Usage
    finish_reason: str


@dataclass(frozen=True)
class Choice:
    """How likely a model holds each of the answers that it was given.

    Attributes:
        probabilities: in the order of the answers; they add up to 1. A model that can only write
            is sure of what it wrote.
        usage: tokens read and written.
    """

    probabilities: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True)
class ToolSpec:
    """What a model is told of a tool: its name, what it is for, the schema of its arguments."""

    name: str
    help: str
    schema: Mapping[str, Any]


@runtime_checkable
class Backend(Protocol):
    """A chat model. It may be asked from several threads at once."""

    @property
    def name(self) -> str:
        """The model, as a person knows it."""

    @property
    def price(self) -> Optional[Price]:
        """What tokens cost; None: nothing, or unknown."""

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        max_tokens: int,
        temperature: float = 0.0,
        json_schema: Optional[Mapping[str, Any]] = None,
        seed: Optional[int] = None,
        ctx: WorkContext,
        on_text: Optional[OnText] = None,
    ) -> Reply:
        """The model's next turn.

        Args:
            messages: the conversation so far.
            tools: what the model may ask for.
            max_tokens: of the answer, at most.
            temperature: 0: the likeliest tokens; higher: drawn.
            json_schema: the answer is to be one JSON value of this schema. Backends ask for it as
                well as they can; whoever reads the answer checks it (``json_answers``).
            seed: of the draws, where the backend has such a thing.
            ctx: cancellation, also in the middle of the answer.
            on_text: hears the answer's text piece by piece, on the calling thread.

        Raises:
            BackendError: no answer.
            Cancelled: through ``ctx``.
        """

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """Which of some answers the model would give.

        Args:
            messages: the conversation so far; the answers are told behind it.
            options: two or more short answers, no two alike.
            ctx: cancellation.

        Raises:
            JsonAnswerError: the model, which can only write, wrote something else.
            BackendError: no answer.
            Cancelled: through ``ctx``.
        """
