"""The headless command that tells the story of a circuit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.cli.budget_words import add_budget_words, meter_of
from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    not_negative,
    open_crm,
    positive,
)
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.agents.circuit_agent import CircuitAgent
    from attention_studio.agents.circuit_parts import CircuitSettings
    from attention_studio.agents.circuit_story import Story
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.replacement_model import CompleteReplacementModel


def describe(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Tell how a prompt's next token comes about, every sentence checked in the model."""
    from attention_studio.agents.circuit_parts import CircuitSettings
    from attention_studio.agents.circuit_story import save_story, story_record
    from attention_studio.agents.circuit_writer import tell_story
    from attention_studio.core.feature_store import FeatureStore

    if (arguments.prompt is None) == (arguments.graph is None):
        raise UsageError("It is not clear what to describe", "", "give --prompt or --graph")
    loaded = load_model(arguments, settings, ctx)
    crm = open_crm(arguments, loaded, ctx)
    graph = _graph(arguments, crm, ctx)
    store = None if arguments.store is None else FeatureStore.open(Path(arguments.store))
    wanted = CircuitSettings(
        supernodes=arguments.supernodes, controls=arguments.controls, seed=arguments.seed
    )
    agent = _agent(arguments, settings, wanted, loaded, ctx)
    try:
        if agent is None:
            story = tell_story(graph, crm, wanted, store=store, ctx=ctx)
        else:
            story = agent.tell(graph, crm, store=store)
    finally:
        if agent is not None and arguments.transcript is not None:
            agent.transcript.save(Path(arguments.transcript))
    lines = _lines(story)
    data: dict[str, Any] = {"story": story_record(story), "out": arguments.out}
    if agent is not None:
        spent = agent.meter.spending
        data["spent"] = {
            "calls": spent.calls,
            "tokens": spent.usage.total,
            "seconds": spent.seconds,
            "cost": spent.cost,
        }
        lines.append(f"{spent.calls:,} questions, {spent.usage.total:,} tokens")
    if arguments.out is not None:
        save_story(story, Path(arguments.out))
        lines.append(f"Saved in {arguments.out}")
    return Report(data, lines)


def add_describe_words(sub: argparse.ArgumentParser) -> None:
    """What ``describe`` can be told."""
    sub.add_argument("--prompt", help="the text whose next token is described")
    sub.add_argument("--graph", help="a graph of it instead (.safetensors)")
    sub.add_argument(
        "--backend",
        choices=("none", "local", "endpoint"),
        default="none",
        help="who names, proposes and words: no model (if left out), the local chat model, or the "
        "endpoint of the settings; what they say is checked like everything else",
    )
    sub.add_argument("--store", help="examples and labels from these dashboards")
    sub.add_argument("--supernodes", type=positive, default=10, help="at most so many are told")
    sub.add_argument(
        "--controls", type=not_negative, default=3, help="draws of other features per intervention"
    )
    sub.add_argument("--seed", type=not_negative, default=0, help="of the draws")
    sub.add_argument("--out", help="story.json")
    sub.add_argument("--transcript", help="everything that was asked and answered, as JSON")
    add_budget_words(sub)


def _graph(
    arguments: argparse.Namespace, crm: CompleteReplacementModel, ctx: ConsoleContext
) -> AttributionGraph:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.graph_builder import GraphBuilder

    if arguments.graph is not None:
        return AttributionGraph.load(Path(arguments.graph))
    return GraphBuilder(crm).build(arguments.prompt, ctx=ctx)


def _agent(
    arguments: argparse.Namespace,
    settings: Settings,
    wanted: CircuitSettings,
    loaded: LoadedModel,
    ctx: ConsoleContext,
) -> Optional[CircuitAgent]:
    """The agent that is asked for; None: no model."""
    if arguments.backend == "none":
        return None
    from attention_studio.agents.backends.choice import choose_backend
    from attention_studio.agents.circuit_agent import CircuitAgent

    backend = choose_backend(settings, arguments.backend, loaded)
    meter = meter_of(arguments, settings, backend)
    return CircuitAgent(backend, wanted, meter=meter, ctx=ctx)


_SUPPORT = {"measured": "measured", "graph": "by the graph", "shown": "there to see"}


def _lines(story: Story) -> list[str]:
    """A story for people."""
    lines = [f"{story.prompt!r} -> {story.answer_text!r} {100 * story.probability:.1f}%"]
    if story.ways:
        lines.append("Strongest ways:")
        lines += [
            f"  {100 * way.strength:6.2f}%  {' -> '.join(way.stops)} ({way.n_paths} paths)"
            for way in story.ways
        ]
    lines.append("Story:")
    for sentence in story.sentences:
        rests = ", ".join(link.reference for link in sentence.evidence)
        lines.append(f"  {sentence.text}")
        lines.append(f"    {_SUPPORT[sentence.support]}, by {sentence.author}: {rests}")
    if story.struck:
        lines.append("Struck:")
    for one in story.struck:
        lines += [f"  {one.sentence.text}", f"    {one.reason}"]
    return [*lines, *story.notes]
