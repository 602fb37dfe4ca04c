"""Holds the stories of the demo's standard prompts against what its grammar knows of them.

    python scripts/score_stories.py [--prompts N] [--backend local --seconds 600] [--json FILE]

A step of an answer that stands in the text is named if a sentence that stands speaks of the token
at its very place. The answer is named if the story's answer is one that the grammar allows. A step
that no text says (a region, a gender, ...) is named if a sentence that stands calls a supernode by
the step's own word, or says that a supernode raises words of which two thirds, and at least two,
are of that step (``_unsaid_words``); a name to avoid, if one says that a supernode lowers it.
Beside it stands in how many stories another region, gender or number is named by the same rule, and
beside the share of steps in the text what as many tokens drawn at random would reach.

Lies are made of every story that stands: the direction turned round, the answer exchanged, evidence
that is not there, evidence of something else, another word that attention is said to match, words
that say the contrary. All are to be struck.
With ``--lying``, a scripted model proposes the contrary of what was measured, for each prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from attention_studio.agents.backends.local_chat import LocalChat
from attention_studio.agents.backends.scripted import ScriptedBackend
from attention_studio.agents.budget import Budget, Meter
from attention_studio.agents.circuit_agent import CircuitAgent
from attention_studio.agents.circuit_parts import CircuitSettings
from attention_studio.agents.circuit_story import Claim, Link, Sentence, Story
from attention_studio.agents.circuit_writer import tell_story
from attention_studio.agents.story_checks import EvidenceBook
from attention_studio.agents.story_words import shown
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.known_features import word_kinds
from attention_studio.demo.text import DemoText
from attention_studio.utils.config import load_settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import write_json_atomic
from attention_studio.utils.paths import DEMO_ASSETS, crm_folder

_LEAST_WORDS, _LEAST_PART = 2, 2 / 3
_RIVALS: dict[str, tuple[str, ...]] = {
    "region": tuple(DemoText(0).world.named),
    "gender": ("woman", "man"),
    "number": ("plural", "singular"),
}
_PRONOUNS = {"she": ("she", "her"), "he": ("he", "his")}


def main() -> int:
    """Score, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, help="so many, spread over all")
    parser.add_argument("--crm", default="demo", help="demo, demo-clt or a folder")
    parser.add_argument("--supernodes", type=int, default=10)
    parser.add_argument("--backend", choices=("none", "local"), default="none")
    parser.add_argument("--lying", action="store_true", help="have a scripted model lie, too")
    parser.add_argument("--seconds", type=float, default=600.0, help="for a model, each story")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = _score(arguments)
    except StudioError as error:
        print(f"score_stories.py: {error}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        write_json_atomic(arguments.json, found)
    return 0


def _score(arguments: argparse.Namespace) -> dict[str, Any]:
    loaded = ModelManager().load_model_sync(ModelConfig(name="demo", device="cpu"))
    crm = CompleteReplacementModel.from_folder(loaded, crm_folder(arguments.crm))
    prompts = json.loads((DEMO_ASSETS / "prompts.json").read_text(encoding="utf-8"))
    if arguments.prompts is not None and arguments.prompts < len(prompts):
        chosen = np.linspace(0, len(prompts) - 1, arguments.prompts).round().astype(int)
        prompts = [prompts[place] for place in dict.fromkeys(chosen.tolist())]
    settings = CircuitSettings(supernodes=arguments.supernodes)
    backend = LocalChat.from_settings(load_settings()) if arguments.backend == "local" else None
    kinds = {name: {w.casefold() for w in words} for name, (words, _) in
             word_kinds(DemoText(0).world).items()}  # fmt: skip
    builder = GraphBuilder(crm)
    rows: list[dict[str, Any]] = []
    lies: dict[str, list[bool]] = defaultdict(list)
    seconds = 0.0
    for number, record in enumerate(prompts, 1):
        graph = builder.build(record["prompt"])
        started = time.process_time()
        if backend is None:
            story = tell_story(graph, crm, settings)
        else:
            meter = Meter(Budget(max_seconds=arguments.seconds))
            story = CircuitAgent(backend, settings, meter=meter).tell(graph, crm)
        seconds += time.process_time() - started
        rows.append(_row(record, story, graph, kinds))
        book = EvidenceBook(graph, story.supernodes, story.runs, story.examples, story.looks)
        for kind, lie in _lies(story, graph):
            lies[kind].append(book.problem(lie) is not None)
        if arguments.lying:
            lies["proposed by a model"] += _lied(story, graph, crm, settings)
        if number % 10 == 0:
            print(f"{number} of {len(prompts)}", file=sys.stderr, flush=True)
    found = _summary(rows)
    found["cpu_seconds_each"] = seconds / max(len(rows), 1)
    found["lies"] = {kind: [sum(struck), len(struck)] for kind, struck in lies.items()}
    found["prompts"] = rows
    _print(found)
    return found


# ---- steps -------------------------------------------------------------------------------------


def _row(
    record: dict[str, Any], story: Story, graph: AttributionGraph, kinds: dict[str, set[str]]
) -> dict[str, Any]:
    answer = record["answer"]
    spoken = _tokens_spoken_of(story)
    steps = []
    for step in answer["steps"]:
        if step["position"] == answer["position"]:
            kind, named = "answer", story.answer_text in answer["allowed"]
        elif step["position"] is not None:
            kind, named = "said", step["position"] in spoken
        else:
            words = _unsaid_words(step["role"], step["value"], record, kinds)
            kind, named = "unsaid", _unsaid(story, step["role"], step["value"], words)
        rivals = [
            value
            for value in _RIVALS.get(step["role"], ())
            if kind == "unsaid"
            and value != step["value"]
            and _unsaid(
                story, step["role"], value, _unsaid_words(step["role"], value, record, kinds)
            )
        ]
        steps.append({**step, "kind": kind, "named": named, "rivals": rivals})
    verdicts: dict[str, int] = defaultdict(int)
    for one in story.struck:
        refuted = "refutes" in one.reason
        verdicts["refuted" if refuted else "no more than others" if "no more than" in one.reason
                 else "other"] += 1  # fmt: skip
    measured = sum(one.support == "measured" for one in story.sentences)
    return {
        "task": record["task"],
        "prompt": record["prompt"],
        "says": story.answer_text,
        "steps": steps,
        "tokens_spoken_of": len(spoken),
        "tokens": len(graph.tokens) - 1,
        "distractors": sum(one["position"] in spoken for one in answer["distractors"]),
        "sentences": len(story.sentences),
        "measured": measured,
        "struck": dict(verdicts),
        "notes": list(story.notes),
    }


def _tokens_spoken_of(story: Story) -> set[int]:
    """Positions of tokens that sentences which stand speak of as such."""
    return {
        int(claim.subject.split("/")[0][1:])
        for sentence in story.sentences
        for claim in sentence.claims
        if claim.kind == "token"
    }


def _unsaid_words(
    role: str, value: str, record: dict[str, Any], kinds: dict[str, set[str]]
) -> set[str]:
    """Words that are of an unsaid step, without those that the prompt says; of a region also
    without the answer, which is one of its words."""
    if role == "region":
        words = set(kinds[f"words of {value}"])
    elif role == "number":
        words = kinds[f"{value} verbs"] | kinds[f"{value} nouns"]
    elif role == "gender":
        female = value == "woman"
        words = kinds["women" if female else "men"] | set(_PRONOUNS["she" if female else "he"])
    else:
        words = set()
    said = {token.strip().casefold() for token in record["tokens"]}
    if role == "region":
        said |= {token.strip().casefold() for token in record["answer"]["allowed"]}
    return words - said


def _unsaid(story: Story, role: str, value: str, words: set[str]) -> bool:
    """Whether a sentence that stands names an unsaid step."""
    if role == "name to avoid":
        return any(
            (claim.kind, claim.direction, claim.object.strip()) == ("writes", "lowers", value)
            for sentence in story.sentences
            for claim in sentence.claims
        )
    for sentence in story.sentences:
        for group in (story.supernode(claim.subject) for claim in sentence.claims):
            if group is None or _from_place(group.name):
                continue
            if value.casefold() in group.name.casefold().replace("/", " ").split():
                return True
        written = {
            claim.object.strip().casefold()
            for claim in sentence.claims
            if (claim.kind, claim.direction) == ("writes", "raises")
        }
        hit = len(words & written)
        if hit >= _LEAST_WORDS and hit >= _LEAST_PART * len(written):
            return True
    return False


def _from_place(name: str) -> bool:
    """Whether a name says only from which token a supernode hears."""
    return name.startswith("from ")


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    by_task: dict[str, list[bool]] = defaultdict(list)
    unsaid: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        for step in row["steps"]:
            by_kind[step["kind"]].append(step["named"])
            by_task[row["task"]].append(step["named"])
            if step["kind"] == "unsaid":
                unsaid[step["role"]].append(step["named"])
    rivals: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        for step in row["steps"]:
            if step["role"] in _RIVALS and step["kind"] == "unsaid":
                rivals[step["role"]].append(bool(step["rivals"]))
    struck: dict[str, int] = defaultdict(int)
    for row in rows:
        for reason, count in row["struck"].items():
            struck[reason] += count
    # As many tokens at random: the share of the prompt's tokens that a story speaks of.
    chance = [
        row["tokens_spoken_of"] / row["tokens"]
        for row in rows
        for step in row["steps"]
        if step["kind"] == "said"
    ]
    return {
        "stories": len(rows),
        "steps": {kind: [sum(named), len(named)] for kind, named in by_kind.items()},
        "unsaid": {role: [sum(named), len(named)] for role, named in unsaid.items()},
        "another named": {role: [sum(named), len(named)] for role, named in rivals.items()},
        "tasks": {task: [sum(named), len(named)] for task, named in by_task.items()},
        "chance of a said step": float(np.mean(chance)) if chance else None,
        "sentences": sum(row["sentences"] for row in rows),
        "measured": sum(row["measured"] for row in rows),
        "struck": dict(struck),
    }


# ---- lies --------------------------------------------------------------------------------------


def _lies(story: Story, graph: AttributionGraph) -> Iterator[tuple[str, Sentence]]:
    """Lies of every sort, made of sentences that stand."""
    other = next(t for t in graph.tokens[1:] if t != story.answer_text)
    groups = [one.key for one in story.supernodes]
    for one in story.sentences:
        claims = one.claims
        yield "no evidence", replace(one, evidence=())
        gone = tuple(replace(link, reference=f"{link.reference}0000") for link in one.evidence)
        yield "evidence that is not there", replace(one, evidence=gone)
        if claims[0].kind == "answer":
            lie = Claim("answer", claims[0].subject, other)
            text = one.text.replace(shown(story.answer_text), shown(other))
            yield "another answer", replace(one, claims=(lie,), text=text)
        if any(claim.kind in ("feeds", "effect") for claim in claims):
            turned = tuple(_turned(claim) for claim in claims)
            yield "the contrary", replace(one, claims=turned, text=_contrary(one.text))
            yield "words that say the contrary", replace(one, text=_contrary(one.text))
        if claims[0].kind == "looks":
            found = _other_word(one, graph)
            if found is not None:
                yield "another word that attention matches", found
        if claims[0].kind == "effect":
            subject = claims[0].subject
            wrong = next((key for key in groups if key not in (subject, claims[0].object)), None)
            if wrong is not None:
                links = tuple(
                    Link("supernode", wrong) if link.reference == subject else link
                    for link in one.evidence
                )
                lie = replace(claims[0], subject=wrong)
                text = one.text.replace(subject, wrong)
                yield (
                    "measured of something else",
                    replace(one, claims=(lie,), evidence=links, text=text),
                )


def _other_word(sentence: Sentence, graph: AttributionGraph) -> Optional[Sentence]:
    """A sentence about where attention looks with another token for the one that is matched there,
    in claims, evidence and words alike; None: there is no token that it does not speak of."""
    looks, matches = sentence.claims[:2]
    told = {link.reference for link in sentence.evidence}
    places = range(1, len(graph.tokens))
    other = next((n for n in places if f"P{n}/token" not in told), None)
    if other is None:
        return None
    name = f"P{other}/token"
    before, _, after = sentence.text.rpartition(" with ")
    figure = after.rpartition(", ")[2]
    return replace(
        sentence,
        claims=(looks, replace(matches, object=name), Claim("token", name, graph.tokens[other])),
        evidence=(*sentence.evidence, Link("node", name)),
        text=f"{before} with “{shown(graph.tokens[other])}” ({name}), {figure}",
    )


def _turned(claim: Claim) -> Claim:
    if claim.direction is None:
        return claim
    return replace(claim, direction="lowers" if claim.direction == "raises" else "raises")


def _contrary(text: str) -> str:
    pairs = (("raises", "lowers"), ("falls", "rises"))
    for one, two in pairs:
        text = text.replace(one, "\x00").replace(two, one).replace("\x00", two)
    return text


def _lied(
    story: Story,
    graph: AttributionGraph,
    crm: CompleteReplacementModel,
    settings: CircuitSettings,
) -> list[bool]:
    """Of each lie that a scripted model proposes, whether it is missing in what stands."""
    wrong = [
        (claim.subject, claim.object, _turned(claim).direction)
        for sentence in story.sentences
        for claim in sentence.claims
        if claim.kind == "effect"
    ][: settings.proposals]
    proposals = [
        {
            "cause": cause,
            "effect": "answer" if effect == story.answer else effect,
            "direction": way,
            "says": f"{cause} {way} {effect}.",
        }
        for cause, effect, way in wrong
    ]
    backend = ScriptedBackend(
        [json.dumps({"names": []}), json.dumps({"proposals": proposals}),
         json.dumps({"sentences": []})]
    )  # fmt: skip
    told = CircuitAgent(backend, settings).tell(graph, crm)
    standing: set[tuple[str, str, Optional[str]]] = {
        (claim.subject, claim.object, claim.direction)
        for sentence in told.sentences
        for claim in sentence.claims
    }
    return [lie not in standing for lie in wrong]


def _print(found: dict[str, Any]) -> None:
    for kind, (named, n) in found["steps"].items():
        print(f"{kind} steps named: {named} of {n}")
    print(f"as many tokens at random would name {found['chance of a said step']:.2f} of the said")
    for role, (named, n) in found["unsaid"].items():
        print(f"  unsaid, {role}: {named} of {n}")
    for role, (named, n) in found["another named"].items():
        print(f"  another {role} is named, too: {named} of {n}")
    for task, (named, n) in found["tasks"].items():
        print(f"  {task}: {named} of {n}")
    print(f"{found['sentences']} sentences stand, {found['measured']} measured")
    print(f"struck: {found['struck']}")
    for kind, (struck, n) in found["lies"].items():
        print(f"lies, {kind}: {struck} of {n} struck")
    print(f"processor seconds a story: {found['cpu_seconds_each']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
