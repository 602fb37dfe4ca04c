"""What was said in a run of an agent: kept as JSON, and enough to run it again without a model.

Every question is kept with its messages, each message once, and with what was answered. A replay
answers the same questions the same way. It runs the tools anew: if one of them gives something else
than it gave then, the next question differs, and the replay says so instead of going on.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from pydantic import TypeAdapter, ValidationError

from attention_studio import __version__
from attention_studio.agents.backends.chat_answer import shown
from attention_studio.agents.backends.choosing import choice_schema, read_choice
from attention_studio.agents.backends.json_answers import object_or_none
from attention_studio.agents.backends.records import (
    BackendError,
    Choice,
    Message,
    OnText,
    Price,
    Reply,
    ToolSpec,
)
from attention_studio.agents.budget import Spending
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import atomic_write, read_text
from attention_studio.utils.progress import WorkContext

FORMAT, VERSION = "attention-studio transcript", 1
_MAX_BYTES = 256 << 20


class TranscriptError(StudioError):
    """A file is no transcript, or is damaged."""


class ReplayError(BackendError):
    """A replayed run asks what was not asked in the run that it replays."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    Attributes:
        messages: numbers of the messages, in the transcript's list.
        key: hash of the question: messages, tools, schema, temperature and seed.
        max_tokens: what the answer was allowed; a budget may allow another length each time.
        reply: what was answered; None: nothing, because of ``error``.
        error: what went wrong.
    """

    messages: tuple[int, ...]
    key: str
    max_tokens: int
    reply: Optional[Reply]
    error: str = ""


@dataclass(frozen=True)
class ToolRun:
    """A tool that was asked for, and what it gave.

    Attributes:
        name: as the model wrote it.
        arguments_json: as the model wrote them.
        result: what the model was told.
        failed: whether that was an error.
    """

    name: str
    arguments_json: str
    result: str
    failed: bool


@dataclass(frozen=True)
class Record:
    """A transcript as it is kept."""

    format: str
    version: int
    studio: str
    started: str
    backend: str
    purpose: str
    messages: tuple[Message, ...]
    exchanges: tuple[Exchange, ...]
    tools: tuple[ToolRun, ...]
    spending: Spending


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


class Transcript:
    """Takes down what is said. Safe from any thread.

    Args:
        backend: the model's name.
        purpose: what the run is for, in words.
    """

    def __init__(self, backend: str = "", purpose: str = "") -> None:
        self._backend, self._purpose = backend, purpose
        self._started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._lock = threading.Lock()
        self._numbers: dict[Message, int] = {}
        self._exchanges: list[Exchange] = []
        self._tools: list[ToolRun] = []
        self.spending = Spending()

    def add_exchange(
        self,
        messages: Sequence[Message],
        key: str,
        max_tokens: int,
        reply: Optional[Reply],
        error: str = "",
    ) -> None:
        """Take down a question and its answer."""
        with self._lock:
            numbers = tuple(self._numbers.setdefault(m, len(self._numbers)) for m in messages)
            self._exchanges.append(Exchange(numbers, key, max_tokens, reply, error))

    def add_tool(self, run: ToolRun) -> None:
        """Take down what a tool gave."""
        with self._lock:
            self._tools.append(run)

    @property
    def record(self) -> Record:
        """The transcript as it is now."""
        with self._lock:
            return Record(
                FORMAT,
                VERSION,
                __version__,
                self._started,
                self._backend,
                self._purpose,
                tuple(self._numbers),
                tuple(self._exchanges),
                tuple(self._tools),
                self.spending,
            )

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            FileWriteError: it cannot be written.
        """
        save_record(self.record, path)


def save_record(record: Record, path: Path) -> None:
    """Write a transcript, whole or not at all.

    Raises:
        FileWriteError: it cannot be written.
    """
    data = _RECORD.dump_json(record, indent=1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data + b"\n")


def record_value(record: Record) -> dict[str, Any]:
    """A transcript as a JSON value: what its file holds."""
    value: dict[str, Any] = _RECORD.dump_python(record, mode="json")
    return value


def read_record(path: Path) -> Record:
    """Read a transcript.

    Raises:
        FileReadError: it cannot be read.
        TranscriptError: it is none, or one that does not hold together.
    """
    text = read_text(path, _MAX_BYTES)
    try:
        record = _RECORD.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise TranscriptError(f"{path} is no transcript", f"{place}: {first['msg']}") from None
    if (record.format, record.version) != (FORMAT, VERSION):
        raise TranscriptError(
            f"{path} is no transcript that can be read here",
            f"it is {shown(record.format)}, version {record.version}",
        )
    known = len(record.messages)
    if any(not 0 <= number < known for one in record.exchanges for number in one.messages):
        raise TranscriptError(f"{path} is damaged", "a question names a message that is not there")
    return record


def question_key(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    temperature: float,
    json_schema: Optional[Mapping[str, Any]],
    seed: Optional[int],
) -> str:
    """A hash of everything about a question that its answer may depend on, but its length."""
    said = [dataclasses.astuple(message) for message in messages]
    offered = [[tool.name, tool.help, tool.schema] for tool in tools]
    whole = json.dumps([said, offered, temperature, json_schema, seed], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def choice_key(messages: Sequence[Message], options: Sequence[str]) -> str:
    """The hash of a question that is answered by a choice."""
    return question_key(messages, (), 0.0, choice_schema(options), None)


class ReplayBackend:
    """Answers the questions of a transcript as they were answered then, in any order.

    Questions that were asked several times get their answers in the order of then.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._left: dict[str, list[Exchange]] = {}
        for exchange in record.exchanges:
            self._left.setdefault(exchange.key, []).append(exchange)

    @property
    def name(self) -> str:
        """The model of then."""
        return self._record.backend

    @property
    def price(self) -> Optional[Price]:
        """Nothing: nobody is asked."""
        return None

    @property
    def left(self) -> int:
        """How many answers of the transcript were not asked for."""
        with self._lock:
            return sum(len(exchanges) for exchanges in self._left.values())

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
        """The answer of then; see ``Backend.complete``.

        Raises:
            ReplayError: this was not asked then. The error says what differs.
            BackendError: the question failed then.
            Cancelled: through ``ctx``.
        """
        ctx.check()
        key = question_key(messages, tools, temperature, json_schema, seed)
        reply = self._answer(key, messages)
        if on_text is not None and reply.message.content:
            on_text(reply.message.content)
        return reply

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """The choice of then; see ``Backend.choose``.

        Raises:
            ReplayError, BackendError, Cancelled: as ``complete``.
        """
        ctx.check()
        reply = self._answer(choice_key(messages, options), messages)
        told = object_or_none(reply.message.content) or {}
        return Choice(read_choice(told, len(options)), reply.usage)

    def _answer(self, key: str, messages: Sequence[Message]) -> Reply:
        with self._lock:
            waiting = self._left.get(key)
            exchange = waiting.pop(0) if waiting else None
        if exchange is None:
            raise ReplayError(
                "The run is not the one of the transcript",
                self._difference(messages),
                "Replay it with the model, files and version of the studio that it was made with",
            )
        if exchange.reply is None:
            raise BackendError(f"The model gave no answer in this run either: {exchange.error}")
        return exchange.reply

    def _difference(self, messages: Sequence[Message]) -> str:
        known = set(self._record.messages)
        for message in messages:
            if message not in known:
                return f"this was not said then ({message.role}): {shown(message.content)}"
        return "it asks with other settings, or more often"
