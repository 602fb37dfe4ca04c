"""Typed tools: what an agent may ask the studio for.

A tool is a function over the core with pydantic arguments. What a model writes reaches the function
only if the arguments' own type accepts it, and only through a ``Toolbox`` that holds the tool: a
name that is not in the box leads nowhere, whoever wrote it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from attention_studio.agents.backends.chat_answer import whole_characters
from attention_studio.agents.backends.records import ToolCall, ToolSpec
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

MAX_ARGUMENT_CHARS = 64_000
MAX_RESULT_CHARS = 24_000
_MAX_PROBLEMS = 8


class ToolError(StudioError):
    """A tool cannot be called like this. The model is told why, so that it can do better."""


class ToolArguments(BaseModel):
    """Base of all arguments of tools: what is not asked for is refused, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


A = TypeVar("A", bound=ToolArguments)


@dataclass(frozen=True)
class Tool(Generic[A]):
    """A tool.

    Attributes:
        name: as models call it: lower case, digits and underscores.
        help: what it is for and what comes back, for a model that knows nothing else of it.
        arguments: the type of its arguments; field descriptions are part of what models are told.
        run: does it. What it returns is data: text, numbers, lists, dicts, dataclasses, pydantic
            models. A ``StudioError`` is told to the model.
        proposing: whether it proposes changes. Such tools are only in a box that allows proposals.
    """

    name: str
    help: str
    arguments: type[A]
    run: Callable[[A, WorkContext], Any]
    proposing: bool = False

    @property
    def spec(self) -> ToolSpec:
        """What a model is told of the tool."""
        return ToolSpec(self.name, self.help, self.arguments.model_json_schema())

    def call(self, arguments_json: str, ctx: WorkContext) -> str:
        """Run the tool with arguments as a model wrote them.

        Returns:
            The result as JSON text (text itself as it is), at most ``MAX_RESULT_CHARS`` long; what
            is cut off is said.

        Raises:
            ToolError: the arguments are none.
            StudioError: what the tool itself raises.
            Cancelled: through ``ctx``.
        """
        return _bounded(as_text(self.run(self.parse(arguments_json), ctx)))

    def parse(self, arguments_json: str) -> A:
        """The arguments that a model wrote.

        Raises:
            ToolError: they are not JSON, too long, or not what the tool takes.
        """
        if len(arguments_json) > MAX_ARGUMENT_CHARS:
            raise ToolError(
                f"The arguments of {self.name} are too long",
                f"they have {len(arguments_json):,} characters",
                f"Send at most {MAX_ARGUMENT_CHARS:,}",
            )
        try:
            # Models leave the arguments of tools without any empty.
            return self.arguments.model_validate_json(arguments_json.strip() or "{}")
        except ValidationError as error:
            raise ToolError(
                f"The arguments of {self.name} cannot be used",
                _problems(error),
                "Call it again with arguments of its schema",
            ) from None


@dataclass(frozen=True)
class ToolOutcome:
    """What came of a call: a result, or why there is none."""

    text: str
    failed: bool = False


class Toolbox:
    """The tools that one conversation may reach.

    Args:
        tools: all that there are.
        proposals: whether those that propose changes are among them.

    Raises:
        ValueError: two tools of one name.
    """

    def __init__(self, tools: Iterable[Tool[Any]], proposals: bool = False) -> None:
        self._tools: dict[str, Tool[Any]] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are called {tool.name}")
            if proposals or not tool.proposing:
                self._tools[tool.name] = tool

    def __iter__(self) -> Iterator[Tool[Any]]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What a model is told of the tools."""
        return tuple(tool.spec for tool in self)

    def call(self, call: ToolCall, ctx: WorkContext) -> ToolOutcome:
        """Carry out what a model asks for; mistakes are outcomes that the model reads.

        Raises:
            Cancelled: through ``ctx``.
        """
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            return ToolOutcome(f"There is no tool of this name. Tools: {known}.", failed=True)
        try:
            return ToolOutcome(tool.call(call.arguments_json, ctx))
        except StudioError as error:
            return ToolOutcome(_bounded(str(error)), failed=True)


def as_text(value: Any) -> str:
    """A tool's result as models read it: text as it is, everything else as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain, separators=(", ", ": "))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _bounded(text: str) -> str:
    text = whole_characters(text)
    if len(text) <= MAX_RESULT_CHARS:
        return text
    left_out = len(text) - MAX_RESULT_CHARS
    return f"{text[:MAX_RESULT_CHARS]}\n[{left_out:,} more characters were left out; ask for less]"


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}"
        for one in found[:_MAX_PROBLEMS]
    ]
    more = len(found) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
