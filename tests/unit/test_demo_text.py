"""The demo's text: same seed, same text; held out is held out; the ground truth is the truth."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from attention_studio.demo import words
from attention_studio.demo.grammar import GrammarError
from attention_studio.demo.prompts import CLASSICS, standard_prompts
from attention_studio.demo.rows import pack
from attention_studio.demo.samples import Answer, Sample
from attention_studio.demo.text import TASKS, DemoText
from attention_studio.demo.tokenizer import START, UNKNOWN, build_tokenizer, piece_ids
from attention_studio.demo.world import RELATIONS, World, build_world

SEED = 0
COUNT = 150


@pytest.fixture(scope="module")
def text() -> DemoText:
    return DemoText(SEED)


@pytest.fixture(scope="module")
def training_text(text: DemoText) -> list[Sample]:
    """What a short training run sees."""
    return list(itertools.islice(text.stream(held_out=False), 6000))


def held_out_and_not(text: DemoText, task: str) -> list[Sample]:
    return text.samples(task, COUNT, True) + text.samples(task, COUNT, False)


# ---- the seed ------------------------------------------------------------------------------------


def test_same_seed_same_text(text: DemoText) -> None:
    again = DemoText(SEED)
    assert again.world == text.world
    for task in TASKS:
        assert again.samples(task, 20, True) == text.samples(task, 20, True)
    first = list(itertools.islice(again.stream(False), 200))
    assert first == list(itertools.islice(text.stream(False), 200))
    assert first != list(itertools.islice(text.stream(False, part=1), 200))
    assert first != list(itertools.islice(DemoText(SEED + 1).stream(False), 200))


def test_stream_has_every_task_in_its_share(training_text: list[Sample]) -> None:
    counts = Counter(sample.task for sample in training_text)
    total = sum(share for _, share in TASKS.values())
    for task, (_, share) in TASKS.items():
        assert counts[task] == pytest.approx(len(training_text) * share / total, rel=0.25)


# ---- the world -----------------------------------------------------------------------------------


def test_world_has_room_for_two_steps(text: DemoText) -> None:
    world = text.world
    assert {region.kind for region in world.regions} == {"state", "country", "land"}
    names = [region.name for region in world.regions] + list(world.cities)
    names += [region.facts["capital"] for region in world.regions]
    assert len(set(names)) == len(names)
    for region in world.regions:
        assert set(region.facts) <= set(RELATIONS)
        assert len(region.facts) >= 5
        assert len(region.cities) == 6


def test_held_out_pairs_follow_from_what_is_seen(text: DemoText) -> None:
    world = text.world
    seen = set(world.two_step_pairs(False))
    held_out = set(world.two_step_pairs(True))
    assert not seen & held_out
    assert 0.12 < len(held_out) / (len(seen) + len(held_out)) < 0.18
    for city, relation in held_out:
        region = world.region_of[city]
        assert sum((city, other) in seen for other in region.facts) >= 4
        assert sum((other, relation) in seen for other in region.cities) >= 3


def test_worlds_of_other_seeds_are_made_up_anew() -> None:
    one, other = build_world(1), build_world(2)
    assert one.regions[:18] == other.regions[:18]
    assert {r.name for r in one.regions[18:]}.isdisjoint(r.name for r in other.regions[18:])
    assert one.held_out != other.held_out


# ---- held out is held out ------------------------------------------------------------------------


def two_step_pairs_in(world: World, sample: Sample) -> set[tuple[str, str]]:
    """The pairs that the words of a text ask for, whatever its grammar says of them."""
    found = set()
    for sentence in re.findall(r"[^.]*\.", sample.text):
        relation = next((r for r in RELATIONS if re.search(rf"\b{r}\b", sentence)), None)
        if relation is None or re.search(r"\b(state|country|land)\b", sentence) is None:
            continue
        city = next((c for c in world.cities if re.search(rf"\b{c}\b", sentence)), None)
        city = city or next(c for c in world.cities if re.search(rf"in {c}\.", sample.text))
        found.add((city, relation))
    return found


def test_training_text_asks_no_held_out_pair(text: DemoText, training_text: list[Sample]) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    for sample in training_text:
        asked.update(two_step_pairs_in(text.world, sample))
    assert len(asked) > 500, "the search finds two-step questions"
    assert not set(asked) & text.world.held_out
    for sample in text.samples("two_step", COUNT, True) + text.samples("stories", COUNT, True):
        assert two_step_pairs_in(text.world, sample) <= text.world.held_out


def test_no_held_out_question_occurs_in_training(
    text: DemoText, training_text: list[Sample]
) -> None:
    def questions(samples: list[Sample]) -> set[str]:
        # What stands in one sentence with the answer decides it in these tasks.
        return {
            re.split(r"(?<=\.) ", sample.prompt(answer))[-1]
            for sample in samples
            for answer in sample.answers
            if answer.task in ("facts", "two_step", "indirect_object", "greater_than", "sums")
            and not re.match(r"^The \w+ of (her|his)", re.split(r"(?<=\.) ", sample.text)[-1])
        }

    seen = questions([s for s in training_text if s.task != "stories"])
    for task in ("facts", "two_step", "indirect_object", "greater_than", "sums"):
        asked = questions(text.samples(task, COUNT, True))
        assert asked
        assert not asked & seen, task


def test_no_held_out_sum_occurs_in_training(text: DemoText, training_text: list[Sample]) -> None:
    def sums(samples: list[Sample]) -> set[tuple[str, str, str]]:
        asked = (s.prompt(a) for s in samples for a in s.answers if a.task == "sums")
        pattern = r"(\d+) (\+) (\d+) =$|had (\d+) \w+ and (found) (\d+) more, so now \w+ has$"
        found = [re.search(pattern, prompt) for prompt in asked]
        assert all(found)
        return {tuple(filter(None, match.groups())) for match in found if match}  # type: ignore[misc]

    seen = sums(training_text)
    held_out = sums(text.samples("sums", 500, True) + text.samples("stories", COUNT, True))
    assert len(seen) > 200
    assert len(held_out) > 30
    assert not seen & held_out


# ---- the answers are right -----------------------------------------------------------------------


def facts_of(world: World) -> dict[tuple[str, str], str]:
    facts = {(city, "region"): region.name for city, region in world.region_of.items()}
    for region in world.regions:
        facts.update({(region.name, r): value for r, value in region.facts.items()})
    return facts


def right_answers(world: World, task: str, prompt: str) -> set[str]:
    """What may follow ``prompt``: worked out from its words alone, by rules of its own."""
    said = prompt.split()
    plain = [word.strip('.,()[]{}"') for word in said]
    facts = facts_of(world)
    if task == "facts":
        subject = next(word for word in plain if any(word == key[0] for key in facts))
        relation = next((r for r in RELATIONS if r in plain), "region")
        return {facts[subject, relation]}
    if task == "two_step":
        last = [r for r in RELATIONS if r in plain[-9:]][-1]
        city = next(word for word in plain if word in world.region_of)
        return {facts[facts[city, "region"], last]}
    if task == "pronouns":
        named = [word for word in plain if word in words.PEOPLE][-1]
        she = named in words.WOMEN
        if plain[-1] == "wore":
            return {"her" if she else "his"}
        right = "she" if she else "he"
        return {right if plain[-1] == "because" else right.capitalize()}
    if task == "indirect_object":
        start = max(i for i, word in enumerate(plain) if word in ("When", "After", "While"))
        named = [word for word in plain[start:] if word in words.PEOPLE]
        assert len(named) == 3
        return {name for name in named if named.count(name) == 1}
    if task in ("repeated_names", "sequences"):
        before = max(i for i in range(len(plain) - 1) if plain[i] == plain[-1])
        if task == "repeated_names":
            before = plain.index(plain[-1])
        return {plain[before + 1]}
    if task == "agreement":
        many = plain[1] in words.PLURALS.values()
        return set(words.PLURAL_VERBS if many else words.SINGULAR_VERBS)
    if task == "brackets":
        open_signs: list[str] = []
        for sign in re.findall(r"[()\[\]{}\"]", prompt):
            if open_signs and sign in {"(": ")", "[": "]", "{": "}", '"': '"'}[open_signs[-1]]:
                open_signs.pop()
            else:
                open_signs.append(sign)
        return {{"(": ")", "[": "]", "{": "}", '"': '"'}[open_signs[-1]]}
    if task == "greater_than":
        start_year = re.search(r"from the year (\d\d)(\d\d) to the year \1$", prompt)
        assert start_year is not None
        return {f"{year:02d}" for year in range(int(start_year[2]) + 1, 100)}
    if task == "sums":
        last = [word for word in plain if word.isdigit()][-2:]
        return {str(sum(map(int, last)))}
    assert task == "recall"
    verb, thing = plain[-3], plain[-1]
    look = plain[plain.index(thing) + 1]
    assert look in {"painted": words.COLOURS, "made": words.SIZES}[verb]
    return {look}


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_right(text: DemoText, task: str) -> None:
    seen = 0
    for sample in held_out_and_not(text, task):
        assert sample.answers, sample.text
        for answer in sample.answers:
            allowed = {piece.strip() for piece in answer.allowed}
            assert right_answers(text.world, answer.task, sample.prompt(answer)) == allowed, sample
            assert sample.piece_at(answer.position) in answer.allowed
            seen += 1
    assert seen >= 2 * COUNT


# ---- and for the reasons given -------------------------------------------------------------------

WHAT_MARKS_SAY = {
    "city": lambda world, said: said in world.region_of,
    "region": lambda world, said: said in world.named,
    "relation": lambda world, said: said in RELATIONS,
    "name": lambda world, said: said in words.PEOPLE,
    "receiver": lambda world, said: said in words.PEOPLE,
    "giver": lambda world, said: said in words.PEOPLE,
    "giver again": lambda world, said: said in words.PEOPLE,
    "name again": lambda world, said: said in words.PEOPLE,
    "name before": lambda world, said: said in words.PEOPLE,
    "surname before": lambda world, said: said in words.SURNAMES,
    "word again": lambda world, said: said in words.SEQUENCE_WORDS,
    "word before": lambda world, said: said in words.SEQUENCE_WORDS,
    "word after it": lambda world, said: said in words.SEQUENCE_WORDS,
    "subject": lambda world, said: said in {*words.SUBJECTS, *words.PLURALS.values()},
    "noun in between": lambda world, said: (
        said in {*words.ATTRACTORS, *words.PLURALS.values(), *words.AGENTS}
    ),
    "opening sign": lambda world, said: said in '([{"',
    "other opening sign": lambda world, said: said in '([{"',
    "start year": lambda world, said: said.isdigit() and len(said) == 2,
    "number": lambda world, said: said.isdigit(),
    "thing": lambda world, said: said in words.THINGS,
    "thing again": lambda world, said: said in words.THINGS,
    "colour": lambda world, said: said in words.COLOURS,
    "size": lambda world, said: said in words.SIZES,
    "other colour": lambda world, said: said in words.COLOURS,
    "other size": lambda world, said: said in words.SIZES,
}


def check_truth(world: World, sample: Sample, answer: Answer) -> None:
    for mark in (*answer.marks, *answer.distractors):
        said = sample.piece_at(mark.position).strip()
        assert 1 <= mark.position < answer.position, sample
        assert WHAT_MARKS_SAY[mark.role](world, said), (mark, said, sample)
    *before, last = answer.steps
    assert last.position == answer.position
    assert last.value == sample.piece_at(answer.position).strip()
    assert before
    for step in before:
        if step.position is not None:
            assert sample.piece_at(step.position).strip() == step.value, sample
            assert step.position < answer.position


@pytest.mark.parametrize("task", TASKS)
def test_positions_point_at_the_tokens_they_name(text: DemoText, task: str) -> None:
    for sample in held_out_and_not(text, task):
        for answer in sample.answers:
            check_truth(text.world, sample, answer)


def test_what_is_unsaid_is_the_region_between(text: DemoText) -> None:
    for sample in text.samples("two_step", COUNT, True):
        city, region, value = sample.answers[0].steps
        assert region.position is None
        assert text.world.region_of[city.value].name == region.value
        assert text.world.named[region.value].facts[value.role] == value.value
        assert region.value not in sample.text


def test_taking_the_marks_apart_changes_the_answer(text: DemoText) -> None:
    """The marked tokens decide: with another number marked, the sum is another."""
    for sample in text.samples("sums", COUNT, True):
        (answer,) = sample.answers
        pieces = list(sample.pieces)
        changed = pieces[answer.marks[0].position - 1] = " 1"
        other = Sample(sample.task, True, tuple(pieces), sample.answers)
        if changed not in sample.pieces:
            right = right_answers(text.world, "sums", other.prompt(answer))
            assert right != {answer.allowed[0].strip()}


# ---- what is wanted ------------------------------------------------------------------------------


def test_the_classics_can_be_said(text: DemoText) -> None:
    said = {task: text.sample_of(task, wanted).text for task, wanted in CLASSICS}
    assert said["two_step"] == "The capital of the state containing Dallas is Austin."
    assert said["indirect_object"].startswith(
        "When Mary and John went to the store, John gave a drink to Mary"
    )
    assert said["greater_than"].startswith("The war lasted from the year 1732 to the year 17")
    assert said["agreement"].startswith("The keys near the cabinet")


def test_what_the_grammar_does_not_say_is_refused(text: DemoText) -> None:
    with pytest.raises(GrammarError, match="Atlantis"):
        text.sample_of("facts", ("Atlantis",))


def test_standard_prompts_hold_their_truth(text: DemoText) -> None:
    prompts = standard_prompts(text)
    assert {prompt["task"] for prompt in prompts} == set(TASKS)
    assert sum(prompt["classic"] for prompt in prompts) == len(CLASSICS)
    for prompt in prompts:
        answer = prompt["answer"]
        assert "".join(prompt["tokens"])[1:] == prompt["prompt"]
        assert answer["position"] == len(prompt["tokens"]) + 1
        assert prompt["says"] in answer["allowed"]
        right = right_answers(text.world, answer["task"], prompt["prompt"])
        assert {piece.strip() for piece in answer["allowed"]} == right


# ---- tokens --------------------------------------------------------------------------------------


def test_tokens_are_the_pieces(text: DemoText) -> None:
    tokenizer = build_tokenizer(text)
    ids = piece_ids(tokenizer)
    assert 500 < len(ids) < 2000
    for task in TASKS:
        for sample in held_out_and_not(text, task):
            found = tokenizer(sample.text, add_special_tokens=False)["input_ids"]
            assert found == [ids[piece] for piece in sample.pieces]
            assert tokenizer.decode(found) == sample.text


def test_words_from_elsewhere_are_unknown_and_white_space_is_one(text: DemoText) -> None:
    tokenizer = build_tokenizer(text)
    ids = piece_ids(tokenizer)
    found = tokenizer("Dallas \n zyx", add_special_tokens=False)["input_ids"]
    assert found == [ids[" Dallas"], ids[UNKNOWN]]


def test_rows_begin_with_the_start_token_and_know_their_answers(text: DemoText) -> None:
    ids = piece_ids(build_tokenizer(text))
    pieces = {index: piece for piece, index in ids.items()}
    rows = pack(text.stream(False), ids, ids[START], n_rows=6, length=64)
    assert rows.tokens.shape == rows.is_answer.shape == (6, 64)
    assert (rows.tokens[:, 0] == ids[START]).all()
    stream = text.stream(False)
    for row, is_answer in zip(rows.tokens, rows.is_answer, strict=True):
        at = 0
        while at < 63:
            sample = next(stream)
            length = min(len(sample.pieces), 63 - at)
            got = [pieces[token] for token in row[at + 1 : at + 1 + length].tolist()]
            assert got == list(sample.pieces[:length])
            expected = {a.position for a in sample.answers if a.position <= length}
            marked = is_answer[at + 1 : at + 1 + length].nonzero()[0] + 1
            assert expected == set(marked.tolist())
            at += 1 + len(sample.pieces)
