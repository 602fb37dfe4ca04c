"""The demo's text: samples by task, endless streams of them, and rows of tokens to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress

from attention_studio.demo.grammar import Grammar, GrammarError
from attention_studio.demo.samples import Line, Sample
from attention_studio.demo.stories import tell_story
from attention_studio.demo.tasks import (
    Tell,
    tell_agreement,
    tell_brackets,
    tell_fact,
    tell_full_name,
    tell_greater_than,
    tell_indirect_object,
    tell_pronoun,
    tell_recall,
    tell_sequence,
    tell_sum,
    tell_two_step,
)
from attention_studio.demo.world import World, build_world

TASKS: dict[str, tuple[Tell, float]] = {
    "facts": (tell_fact, 0.10),
    "two_step": (tell_two_step, 0.14),
    "pronouns": (tell_pronoun, 0.03),
    "indirect_object": (tell_indirect_object, 0.09),
    "repeated_names": (tell_full_name, 0.14),
    "sequences": (tell_sequence, 0.11),
    "agreement": (tell_agreement, 0.03),
    "brackets": (tell_brackets, 0.03),
    "greater_than": (tell_greater_than, 0.07),
    "sums": (tell_sum, 0.11),
    "recall": (tell_recall, 0.10),
    "stories": (tell_story, 0.05),
}
"""Each task and its share of the texts."""


class DemoText:
    """All text of one seed: same seed, same text, to the letter.

    Args:
        seed: of the world, the split and every sample.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world: World = build_world(seed)

    def samples(self, task: str, count: int, held_out: bool) -> list[Sample]:
        """The first ``count`` samples of a task on one side of the split.

        Raises:
            KeyError: there is no such task.
        """
        tell, _ = TASKS[task]
        grammar = self._grammar(f"{task} {held_out}", held_out)
        return [_sample(task, tell, grammar) for _ in range(count)]

    def stream(self, held_out: bool, part: int = 0) -> Iterator[Sample]:
        """Samples of all tasks in their shares, without end. Parts are streams of their own."""
        grammar = self._grammar(f"stream {part} {held_out}", held_out)
        names = list(TASKS)
        weights = [weight for _, weight in TASKS.values()]
        while True:
            for task in grammar.rng.choices(names, weights, k=1000):
                yield _sample(task, TASKS[task][0], grammar)

    def sample_of(self, task: str, wanted: Sequence[object]) -> Sample:
        """The sample of a task that has all that is ``wanted``, from whichever side of the split.

        Raises:
            GrammarError: the task does not say such a thing.
        """
        for held_out in (False, True):
            rng = random.Random(f"{self.seed} {task} {wanted}")
            grammar = Grammar(self.world, self.seed, rng, held_out, wanted)
            with suppress(GrammarError):
                sample = _sample(task, TASKS[task][0], grammar)
                if not grammar.wanted:
                    return sample
        raise GrammarError(f"No sample of {task} has {wanted}", "", "Ask for what the task draws")

    def _grammar(self, name: str, held_out: bool) -> Grammar:
        return Grammar(self.world, self.seed, random.Random(f"{self.seed} {name}"), held_out)


def _sample(task: str, tell: Tell, grammar: Grammar) -> Sample:
    line = Line()
    tell(grammar, line)
    return line.sample(task, grammar.held_out)
