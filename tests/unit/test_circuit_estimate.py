"""What a story is said to take, against what it takes."""

from __future__ import annotations

from attention_studio.agents.backends.records import Price
from attention_studio.agents.backends.scripted import ScriptedBackend
from attention_studio.agents.circuit_agent import CircuitAgent
from attention_studio.agents.circuit_estimate import estimate_story
from tests.hand_graphs import hand_graph


def test_the_questions_are_those_that_are_asked() -> None:
    graph = hand_graph()
    found = estimate_story(graph, price=Price(1.0, 2.0))
    asked = ScriptedBackend(otherwise='{"names": [], "sentences": []}')
    story = CircuitAgent(asked).tell(graph)
    assert found.calls == len(asked.asked) > 0 and story.sentences
    characters = sum(len(message.content) for one in asked.asked for message in one)
    # With the forms that are sent along, and four characters to a token.
    assert characters / 4 < found.tokens_in < characters / 4 + 400 * found.calls
    assert found.cost == (found.tokens_in + 2 * found.tokens_out) / 1e6
    assert found.interventions == 0 and found.seconds > 0
