"""The demo's standard prompts: the field's classics and some held-out samples of every task."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attention_studio.demo.samples import Sample
from attention_studio.demo.text import TASKS, DemoText

PER_TASK = 8

CLASSICS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("two_step", (("Dallas", "capital"), "relation first")),
    ("facts", ("of a region", "Texas", "capital", "is")),
    ("indirect_object", ("When", "Mary", "John", "store", "John", "gave", "drink")),
    ("sequences", (4, "stone", "river", "apple", "music", 2)),
    ("repeated_names", ("Mary", "Stone", "John", "Baker", ("Mary", "Stone"))),
    ("greater_than", ("war", 17, 32)),
    ("agreement", ("key", "cabinet", "plural", "phrase", "near", "cabinet")),
    ("sums", ("in figures", 12, 7)),
    ("recall", ("colour", "hat", "cup", "red", "blue", "Tom", "Mary", "cup")),
    ("brackets", ("nested", "[", "(", "Mary", "born in", "Dallas")),
    ("pronouns", ("Mary", "because", "lost", "key")),
)
"""What the grammar is to say: the examples that papers about circuits use, in this world."""


def standard_prompts(text: DemoText) -> list[dict[str, Any]]:
    """Prompts with their ground truth, as ``prompts.json`` holds them.

    Each has its ``task``, whether it is ``classic`` and ``held_out``, the ``prompt``, its
    ``tokens`` (position 0, the start token, left out), ``says`` (what the grammar says next) and
    the ``answer``: a record as ``samples.Answer``, with the tokens that are ``allowed``, the
    ``marks``, ``distractors`` and ``steps``. A sample with several answers is asked for its last.
    """
    chosen: list[tuple[Sample, bool]] = [
        (text.sample_of(task, wanted), True) for task, wanted in CLASSICS
    ]
    for task in TASKS:
        chosen += [(sample, False) for sample in text.samples(task, PER_TASK, held_out=True)]
    return [_record(sample, classic) for sample, classic in chosen]


def _record(sample: Sample, classic: bool) -> dict[str, Any]:
    answer = sample.answers[-1]
    return {
        "task": sample.task,
        "classic": classic,
        "held_out": sample.held_out,
        "prompt": sample.prompt(answer),
        "tokens": list(sample.pieces[: answer.position - 1]),
        "says": sample.piece_at(answer.position),
        "answer": asdict(answer),
    }
