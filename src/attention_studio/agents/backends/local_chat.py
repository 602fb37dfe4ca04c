"""A chat model in this process: needs no network and no key.

One answer is written at a time; others wait for it, and can be cancelled while they wait.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from jinja2 import TemplateError

from attention_studio.agents.backends.choosing import ask_to_choose
from attention_studio.agents.backends.json_answers import end_of_object, json_objects
from attention_studio.agents.backends.json_forms import ask_to_fill_in, beginning_of
from attention_studio.agents.backends.records import (
    BackendError,
    BackendRequestError,
    Choice,
    Message,
    OnText,
    Price,
    Reply,
    ToolCall,
    ToolSpec,
    Usage,
)
from attention_studio.core.continuation import continue_tokens
from attention_studio.core.generation_records import Sampling
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.option_scoring import OptionScorer
from attention_studio.utils.config import Settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

_POLL_SECONDS = 0.1
_HALF = "\ufffd"  # what decoders print for half a character

Turns = list[dict[str, str]]


class LocalChat:
    """A chat model of ``ModelManager``.

    Args:
        name: the model, as a person knows it.
        load: gives the model; called at the first question.
        stop: texts before which an answer ends.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[WorkContext], LoadedModel],
        stop: Sequence[str] = (),
    ) -> None:
        self._name, self._load, self._stop = name, load, tuple(stop)
        self._lock = threading.Lock()
        self._loaded: Optional[LoadedModel] = None
        self._scorer: Optional[OptionScorer] = None

    @classmethod
    def from_settings(cls, settings: Settings, loaded: Optional[LoadedModel] = None) -> LocalChat:
        """The chat model that the settings name.

        Args:
            settings: which model, and where models are.
            loaded: a model that is in memory; it is used if it is the one, and left to its owner.
        """
        name = settings.agent_local_model
        if loaded is not None and loaded.info.name == name and not loaded.released:
            shared = loaded
            return cls(name, lambda ctx: shared)
        # A manager of its own: that of the window holds the model that is looked into.
        manager = ModelManager(settings=settings)

        def load(ctx: WorkContext) -> LoadedModel:
            try:
                return manager.load_model_sync(name, ctx)
            except StudioError as error:
                raise BackendError(
                    f"There is no chat model to ask: {name} cannot be loaded",
                    f"{error.what}. {error.why}" if error.why else error.what,
                    "Set ATTENTION_STUDIO_AGENT_URL to an endpoint, or fetch a model with "
                    "attention-studio models fetch",
                ) from error

        return cls(name, load)

    @property
    def name(self) -> str:
        """The model."""
        return self._name

    @property
    def price(self) -> Optional[Price]:
        """It costs nothing."""
        return None

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
        """See ``Backend.complete``. An answer ends early where the context is full.

        Tools are told in words, schemas as forms to fill in. Where an object is asked for, its
        first words are already there when the model begins, and the brace that closes it ends it.

        Raises:
            BackendError: the model cannot be had, is no chat model, or the messages are too long.
            Cancelled: through ``ctx``, between two tokens.
        """
        asked = tuple(messages)
        if tools:
            asked = _tell_tools(asked, tools)
        begin = ""
        if json_schema is not None:
            asked = ask_to_fill_in(asked, json_schema)
            begin = beginning_of(json_schema)
        with self._alone(ctx):
            loaded = self._model(ctx)
            ids = loaded.text_ids(_prompt(loaded, asked) + begin)
            room = loaded.info.context_length - len(ids)
            if room < 1:
                raise BackendRequestError(
                    f"The question has {len(ids):,} tokens",
                    f"{self._name} takes at most {loaded.info.context_length:,}",
                    "Ask for less at once, or use a model with a longer context",
                )
            writer = _Writer(loaded, begin, self._stop, json_schema is not None, on_text)
            sampling = Sampling(temperature, seed or 0)
            n_tokens = min(max_tokens, room)
            try:
                found = continue_tokens(loaded, ids, n_tokens, sampling, writer.take, ctx)
            except StudioError as error:
                raise BackendRequestError(error.what, error.why, error.todo) from error
        text = writer.end()
        full = len(found) == n_tokens and not writer.over
        calls = _calls(text) if tools else ()
        finish = "tool_calls" if calls else "length" if full else "stop"
        message = Message("assistant", "" if calls else text, calls)
        return Reply(message, Usage(len(ids), len(found)), finish)

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """See ``Backend.choose``. Nothing is written: the answers are weighed by the model's own
        probabilities of them, as the beginning of its turn.

        Raises:
            BackendError: as ``complete``, and where the answers cannot be told apart.
            Cancelled: through ``ctx``.
        """
        with self._alone(ctx):
            loaded = self._model(ctx)
            text = _prompt(loaded, ask_to_choose(messages, options))
            if self._scorer is None:
                self._scorer = OptionScorer(loaded)
            try:
                found = self._scorer.score(text, options, ctx)
            except StudioError as error:
                raise BackendRequestError(error.what, error.why, error.todo) from error
        return Choice(found.probabilities, Usage(found.n_read, 0))

    @contextmanager
    def _alone(self, ctx: WorkContext) -> Iterator[None]:
        while not self._lock.acquire(timeout=_POLL_SECONDS):
            ctx.check()
        try:
            yield
        finally:
            self._lock.release()

    def _model(self, ctx: WorkContext) -> LoadedModel:
        if self._loaded is None or self._loaded.released:
            try:
                self._loaded, self._scorer = self._load(ctx), None
            except StudioError as error:
                raise BackendError(error.what, error.why, error.todo) from error
        return self._loaded


class _Writer:
    """An answer as its tokens come.

    Attributes:
        over: whether the answer is complete, though the model might go on.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        begin: str,
        stop: tuple[str, ...],
        json_wanted: bool,
        on_text: Optional[OnText],
    ) -> None:
        self._tokenizer, self._begin, self._stop = loaded.tokenizer, begin, stop
        self._json_wanted, self._on_text = json_wanted, on_text
        self._held_back = max((len(one) for one in stop), default=1) - 1
        self._ids: list[int] = []
        self._text, self._told = begin, 0
        self.over = False

    def take(self, token: int) -> bool:
        """Add a token; whether the answer ends with it."""
        self._ids.append(token)
        decoded = self._tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self._text = self._begin + decoded
        cuts = [at for one in self._stop if (at := self._text.find(one)) >= 0]
        if self._json_wanted and "}" in self._text:
            end = end_of_object(self._text)
            cuts += [] if end is None else [end]
        if cuts:
            self._text, self.over = self._text[: min(cuts)], True
        elif not self._text.endswith(_HALF):
            self._tell(len(self._text) - self._held_back)
        return self.over

    def end(self) -> str:
        """The whole text."""
        self._tell(len(self._text))
        return self._text

    def _tell(self, end: int) -> None:
        if end > self._told:
            if self._on_text is not None:
                self._on_text(self._text[self._told : end])
            self._told = end


def _prompt(loaded: LoadedModel, messages: Sequence[Message]) -> str:
    """The conversation as the model was trained to read it.

    Raises:
        BackendError: the model has no template, or one that does not take the conversation.
    """
    tokenizer = loaded.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise BackendError(
            f"{loaded.info.name} is no chat model",
            "its tokenizer has no chat template",
            "Set ATTENTION_STUDIO_AGENT_LOCAL_MODEL to one that was trained for chat, "
            "such as smollm2-135m",
        )
    turns = _turns(messages, _special_tokens(tokenizer))
    try:
        return _templated(tokenizer, turns)
    except TemplateError:
        pass  # some families know no system turn
    try:
        return _templated(tokenizer, _without_system(turns))
    except TemplateError as error:
        raise BackendError(
            f"{loaded.info.name} does not take this conversation", f"its template says: {error}"
        ) from error


def _templated(tokenizer: Any, turns: Turns) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _special_tokens(tokenizer: Any) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted((name for name in names if len(name) > 1), key=len, reverse=True)


def _turns(messages: Sequence[Message], special: Sequence[str]) -> Turns:
    """Messages with roles that all templates know, neighbours of one role as one turn."""
    turns: Turns = []
    names: dict[str, str] = {}
    for message in messages:
        role, text = str(message.role), message.content
        if message.role == "tool":
            name = names.get(message.tool_call_id or "", "the tool")
            role, text = "user", f"Result of {name}:\n{text}"
        elif message.tool_calls:
            names.update((call.id, call.name) for call in message.tool_calls)
            text = "\n".join([text, *map(_as_json, message.tool_calls)]).strip()
        text = _plain(text, special)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return turns


def _plain(text: str, special: Sequence[str]) -> str:
    # Texts from elsewhere may hold the marks that begin and end turns. Written apart, they are
    # ordinary text, and nobody can speak in another's name.
    for name in special:
        text = text.replace(name, f"{name[0]} {name[1:]}")
    return text


def _without_system(turns: Turns) -> Turns:
    if not turns or turns[0]["role"] != "system":
        return turns
    first, *rest = turns
    if rest and rest[0]["role"] == "user":
        user = {"role": "user", "content": f"{first['content']}\n\n{rest[0]['content']}"}
        return [user, *rest[1:]]
    return [{"role": "user", "content": first["content"]}, *rest]


def _tell_tools(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
    lines = [
        "You can call tools. To call one, answer with one JSON object and nothing else:",
        '{"tool": "its name", "arguments": {}}',
        "Tools:",
        *(
            f"- {tool.name}: {tool.help} Arguments: {json.dumps(tool.schema, ensure_ascii=False)}"
            for tool in tools
        ),
    ]
    return (Message("system", "\n".join(lines)), *messages)


def _as_json(call: ToolCall) -> str:
    try:
        arguments = json.loads(call.arguments_json)
    except (ValueError, RecursionError):
        arguments = {}
    return json.dumps({"tool": call.name, "arguments": arguments}, ensure_ascii=False)


def _calls(text: str) -> tuple[ToolCall, ...]:
    found: list[ToolCall] = []
    for value in json_objects(text):
        name = value.get("tool", value.get("name"))
        arguments = value.get("arguments", {})
        if isinstance(name, str) and isinstance(arguments, dict) and len(value) <= 2:
            made = json.dumps(arguments, ensure_ascii=False)
            found.append(ToolCall(f"call_{len(found)}", name, made))
    return tuple(found)
