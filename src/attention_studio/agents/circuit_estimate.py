"""About what the story of a circuit takes, before anybody is asked.

The questions are made and counted, and answered with nothing; an intervention is run and timed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.agents.backends.chat_answer import about_tokens
from attention_studio.agents.backends.records import (
    Choice,
    Message,
    OnText,
    Price,
    Reply,
    ToolSpec,
    Usage,
)
from attention_studio.agents.circuit_agent import CircuitAgent
from attention_studio.agents.circuit_parts import CircuitSettings
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.agents.circuit_story import Story
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.replacement_model import CompleteReplacementModel

_NAME_TOKENS, _PROPOSAL_TOKENS, _SENTENCE_TOKENS = 20, 70, 30
"""Of usual answers, JSON included."""
_TIMED = 8
"""Interventions that are run to time one."""


@dataclass(frozen=True)
class StoryEstimate:
    """About what a story takes.

    Attributes:
        calls: questions; answers that have to be asked for again come on top.
        tokens_in, tokens_out: read and written.
        cost: in the currency of the price; None: no price is known.
        interventions: that are run, controls and what the graph foretells among them.
        seconds: of computing here, without what a model takes to answer.
    """

    calls: int
    tokens_in: int
    tokens_out: int
    cost: Optional[float]
    interventions: int
    seconds: float


def estimate_story(
    graph: AttributionGraph,
    replacement: Optional[CompleteReplacementModel] = None,
    *,
    settings: Optional[CircuitSettings] = None,
    pruned: Optional[PrunedGraph] = None,
    notes: Optional[GraphNotes] = None,
    store: Optional[FeatureStore] = None,
    price: Optional[Price] = None,
    ctx: Optional[WorkContext] = None,
) -> StoryEstimate:
    """Count and measure about what ``CircuitAgent.tell`` takes. Arguments as there.

    Raises:
        StoryError: the graph explains no next token, or is of another model.
        Cancelled: through ``ctx``.
    """
    ctx, settings = ctx or WorkContext(), settings or CircuitSettings()
    began = time.perf_counter()
    counting = _Counting()
    # Without a replacement model nothing is measured, and no proposals are asked for: what the
    # graph alone says is enough to count by.
    story = CircuitAgent(counting, settings, ctx=ctx).tell(
        graph, pruned=pruned, notes=notes, store=store
    )
    seconds = time.perf_counter() - began
    read, calls, interventions = sum(counting.read), len(counting.read), 0
    groups = len(story.supernodes)
    written = groups * _NAME_TOKENS + len(story.sentences) * _SENTENCE_TOKENS
    if replacement is not None:
        # Proposals: shown is what the other questions show together.
        read, calls = 2 * read, calls + 1
        written += settings.proposals * _PROPOSAL_TOKENS
        interventions = (groups + settings.proposals) * (2 + settings.controls)
        seconds += interventions * _seconds_of_one(graph, replacement, story, ctx)
    cost = None if price is None else price.of(Usage(read, written))
    return StoryEstimate(calls, read, written, cost, interventions, seconds)


def _seconds_of_one(
    graph: AttributionGraph,
    replacement: CompleteReplacementModel,
    story: Story,
    ctx: WorkContext,
) -> float:
    """What an intervention takes on this graph's prompt, run together with others."""
    from attention_studio.core.intervention_running import run_plans
    from attention_studio.core.intervention_runs import InterventionPlan
    from attention_studio.core.intervention_specs import Edit, FeatureAt
    from attention_studio.core.trace_circumstances import made_by

    if not story.supernodes or not made_by(graph, replacement):
        return 0.0
    features = tuple(map(FeatureAt.parse, story.supernodes[0].nodes))
    plan = InterventionPlan(graph.prompt, (Edit(features, "ablate"),))
    began = time.perf_counter()
    run_plans(replacement, [plan] * _TIMED, ctx=ctx)
    return (time.perf_counter() - began) / _TIMED


@dataclass
class _Counting:
    """A model that is never asked: it counts what it would have to read, and says nothing."""

    name: str = "nobody"
    price: Optional[Price] = None
    read: list[int] = field(default_factory=list)

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
        """An answer in which nothing is."""
        ctx.check()
        schema = json_schema or {}
        asked = sum(len(message.content) for message in messages) + len(json.dumps(schema))
        self.read.append(about_tokens(asked))
        nothing: dict[str, list[Any]] = {name: [] for name in schema.get("required", ())}
        return Reply(Message("assistant", json.dumps(nothing)), Usage(), "stop")

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """The first answer."""
        ctx.check()
        self.read.append(about_tokens(sum(len(message.content) for message in messages)))
        return Choice(tuple(float(not place) for place in range(len(options))), Usage())
