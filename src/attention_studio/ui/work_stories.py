"""What lanes run for stories of circuits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.ui.work_talking import (
    AgentRequest,
    AgentRun,
    Outlook,
    Spoken,
    asking,
    common,
)

if TYPE_CHECKING:
    from attention_studio.agents.circuit_story import Story
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext
    from attention_studio.utils.turns import Turn


@dataclass(frozen=True)
class CircuitAsked:
    """The graph that a story is about: its key in the workspace ("": none), and its prompt."""

    key: str
    prompt: str

    def record(
        self, request: AgentRequest, spoken: Spoken, story: Optional[Story] = None
    ) -> dict[str, Any]:
        """The run as the workspace keeps it; ``story`` None: it was stopped."""
        from attention_studio.agents.circuit_story import story_record

        return {
            **common("describe", request, spoken),
            "graph": self.key,
            "prompt": self.prompt,
            "story": None if story is None else story_record(story),
        }


@dataclass(frozen=True)
class Circuit:
    """A graph with all that a story of it is told from.

    ``crm`` and ``store`` are what is open; they count where they are what the graph was made with.
    """

    graph: AttributionGraph
    pruned: Optional[PrunedGraph]
    notes: GraphNotes
    crm: Optional[CompleteReplacementModel]
    store: Optional[FeatureStore]

    @property
    def options(self) -> dict[str, Any]:
        """What ``tell_story`` and ``CircuitAgent.tell`` get beside the graph."""
        from attention_studio.core.trace_circumstances import made_by

        mine = self.crm is not None and made_by(self.graph, self.crm)
        return {
            "replacement": self.crm if mine else None,
            "pruned": self.pruned,
            "notes": self.notes,
            "store": self.store if mine else None,
        }


def describe_circuit(
    ctx: WorkContext,
    turn: Turn,
    circuit: Circuit,
    asked: CircuitAsked,
    request: AgentRequest,
    spoken: Spoken,
) -> AgentRun:
    """Tell the story of a graph's circuit. Where the replacement model that made the graph is open,
    what the story says is measured.

    Raises:
        StudioError: the graph explains no next token, or there is nobody to ask.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.circuit_agent import CircuitAgent
    from attention_studio.agents.circuit_writer import tell_story

    with turn.held(ctx):
        if request.who == "none":
            story = tell_story(circuit.graph, **circuit.options, ctx=ctx)
        else:
            loaded = None if circuit.crm is None else circuit.crm.loaded
            options = asking(ctx, turn, loaded, request, spoken, "describe")
            agent = CircuitAgent(options.pop("backend"), **options)
            story = agent.tell(circuit.graph, **circuit.options)
    return AgentRun(asked.record(request, spoken, story), story)


def estimate_describing(
    ctx: WorkContext, turn: Turn, circuit: Circuit, request: AgentRequest
) -> Outlook:
    """Count and measure about what describing a circuit takes; nobody is asked.

    Raises:
        StudioError: the graph explains no next token, or there is nobody to ask.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.circuit_estimate import estimate_story
    from attention_studio.agents.circuit_parts import CircuitSettings
    from attention_studio.ui.agent_words import story_outlook

    with turn.held(ctx):
        # Nobody proposes anything where nobody is asked.
        price, settings = None, CircuitSettings(proposals=0)
        if request.who != "none":
            loaded = None if circuit.crm is None else circuit.crm.loaded
            price = asking(ctx, turn, loaded, request, Spoken(), "estimate")["backend"].price
            settings = CircuitSettings()
        found = estimate_story(
            circuit.graph, **circuit.options, settings=settings, price=price, ctx=ctx
        )
    return Outlook(circuit.graph, story_outlook(found, request.who))


def read_story_record(ctx: WorkContext, record: dict[str, Any]) -> AgentRun:
    """A story out of a run that the workspace kept.

    Raises:
        StudioError: it is none.
    """
    from attention_studio.agents.circuit_story import story_from

    ctx.check()
    return AgentRun(record, story_from(record["story"]))
