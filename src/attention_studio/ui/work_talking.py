"""What all runs of agents on lanes have in common: who is asked, what that may take, what is kept.

Whoever talks with an endpoint runs on the lane for talking and holds the turn to compute but for
the time in which the endpoint is asked, so that a slow one holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Optional, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.agents.backends.records import (
        Backend,
        Choice,
        Message,
        OnText,
        Price,
        Reply,
        ToolSpec,
    )
    from attention_studio.agents.budget import Meter
    from attention_studio.agents.transcript import Transcript
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.ui.jobs import LaneName
    from attention_studio.utils.config import Settings
    from attention_studio.utils.progress import WorkContext
    from attention_studio.utils.turns import Turn

Who = Literal["none", "local", "endpoint"]
RUN = "agent_run"
"""Kind of the session's records that hold what agents did."""


@dataclass(frozen=True)
class AgentRequest:
    """Who is to say something, from which text, and what that may take.

    Attributes:
        who: ``none``: no language model; ``local``: the one in this process; ``endpoint``: that of
            the settings.
        max_tokens, max_calls, max_seconds, max_cost: the budget; ``max_cost`` None: no bound.
        sources: texts, as ``core.corpus.read_texts`` takes them; (): the demo's own text, or what
            the model writes itself.
        tokens: at most so many of it.
        settings: of the machine.
    """

    who: Who
    max_tokens: int
    max_calls: int
    max_seconds: float
    max_cost: Optional[float]
    sources: tuple[str, ...]
    tokens: int
    settings: Settings = field(repr=False)

    @property
    def lane(self) -> LaneName:
        """Where it runs: models in this process compute all the time."""
        return "talk" if self.who == "endpoint" else "compute"


class Asked(Protocol):
    """What an agent was asked for."""

    def record(self, request: AgentRequest, spoken: Spoken) -> dict[str, Any]:
        """The run as the workspace keeps it where it came to nothing: what it took, and all that
        was said until then."""


@dataclass(frozen=True)
class AgentRun:
    """A run that came to its end, as the workspace keeps it, and what it came to."""

    record: dict[str, Any]
    result: Any = None


@dataclass(frozen=True)
class Outlook:
    """About what something takes, in words; ``about`` is the feature or graph that is meant."""

    about: object
    words: str


class Spoken:
    """What was said in a run, for whoever stops it: filled on the lane as the run begins."""

    def __init__(self) -> None:
        self.transcript: Optional[Transcript] = None

    def value(self) -> Optional[dict[str, Any]]:
        """The transcript until now as a JSON value; None: no model was asked."""
        from attention_studio.agents.transcript import record_value

        if self.transcript is None or not self.transcript.record.exchanges:
            return None
        return record_value(self.transcript.record)

    def spent(self) -> Optional[dict[str, Any]]:
        """What it took until now; None: no model was asked."""
        if self.transcript is None:
            return None
        spent = self.transcript.spending
        return {
            "questions": spent.calls,
            "tokens": spent.usage.total,
            "seconds": spent.seconds,
            "cost": spent.cost,
        }


def common(what: str, request: AgentRequest, spoken: Spoken) -> dict[str, Any]:
    """What the workspace keeps of every run."""
    from attention_studio.agents.explanations import now

    return {
        "what": what,
        "who": request.who,
        "when": now(),
        "spent": spoken.spent(),
        "transcript": spoken.value(),
    }


def asking(
    ctx: WorkContext,
    turn: Turn,
    loaded: Optional[LoadedModel],
    request: AgentRequest,
    spoken: Spoken,
    purpose: str,
) -> dict[str, Any]:
    """What every agent is made with: the model, the budget, the transcript, the way to stop.

    Raises:
        BackendError: there is nobody to ask.
    """
    from attention_studio.agents.backends.choice import choose_backend
    from attention_studio.agents.budget import Budget, Meter
    from attention_studio.agents.transcript import Transcript

    kind: Literal["local", "endpoint"] = "local" if request.who == "local" else "endpoint"
    backend = choose_backend(request.settings, kind, loaded)
    if kind == "endpoint":
        backend = _Lending(backend, turn, ctx)
    budget = Budget(request.max_tokens, request.max_calls, request.max_seconds, request.max_cost)
    meter = Meter(budget, backend.price)
    spoken.transcript = Transcript(backend.name, purpose)
    return {
        "backend": backend,
        "meter": meter,
        "transcript": spoken.transcript,
        "ctx": ctx,
        "on_text": teller(ctx, meter),
    }


def teller(ctx: WorkContext, meter: Meter) -> Callable[[str], None]:
    """Tells a person how much was asked, of how much, while the model writes."""
    budget = meter.budget

    def heard(_piece: str) -> None:
        spent = meter.spending
        cost = f", {spent.cost:.4g} in money" if spent.cost else ""
        ctx.progress(
            spent.calls,
            None,
            f"{spent.calls:,} of {budget.max_calls or 0:,} questions, {spent.usage.total:,} of "
            f"{budget.max_tokens or 0:,} tokens{cost}",
        )

    return heard


def write_transcript(_ctx: WorkContext, transcript: dict[str, Any], path: Path) -> Path:
    """Write a run's transcript as a file.

    Raises:
        FileWriteError: it cannot be written.
    """
    from attention_studio.utils.files import write_json_atomic

    write_json_atomic(path, transcript)
    return path


class _Lending:
    """A model elsewhere: while it is asked, others may compute here."""

    def __init__(self, backend: Backend, turn: Turn, ctx: WorkContext) -> None:
        self._backend, self._turn, self._ctx = backend, turn, ctx

    @property
    def name(self) -> str:
        """As of the model."""
        return self._backend.name

    @property
    def price(self) -> Optional[Price]:
        """As of the model."""
        return self._backend.price

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
        """As of the model, and ``TurnError`` where nobody may compute any more."""
        with self._turn.lent(self._ctx):
            return self._backend.complete(
                messages, tools=tools, max_tokens=max_tokens, temperature=temperature,
                json_schema=json_schema, seed=seed, ctx=ctx, on_text=on_text,
            )  # fmt: skip

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """As of the model, and ``TurnError`` where nobody may compute any more."""
        with self._turn.lent(self._ctx):
            return self._backend.choose(messages, options, ctx=ctx)
