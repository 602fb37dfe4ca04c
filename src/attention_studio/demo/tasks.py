"""The tasks: each says a sentence or two with something in it that follows from what came before.

A task is a function of a grammar and a line; what it needs may be given (a story has its own
people), else it is drawn. It notes for every answer which tokens decide it and through what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

from attention_studio.demo import words
from attention_studio.demo.grammar import Grammar, gender, possessive, pronoun
from attention_studio.demo.samples import Line
from attention_studio.demo.world import WITH_ARTICLE, Region


def tell_fact(g: Grammar, line: Line) -> None:
    """A one-step fact: the region of a city, or a relation of a region.

    What is held out is a fact in one wording; it is told in others.
    """

    def of_city() -> tuple[str, str, str]:
        wordings = ("is in", "is a city in", "can be found in")
        return (g.pick(g.world.cities), "region", g.pick(wordings))

    def of_region() -> tuple[str, str, str]:
        name = g.pick(tuple(g.world.named))
        return (name, g.pick(tuple(g.world.named[name].facts)), g.pick(("is", "called")))

    kind = g.pick(("of a city", "of a region"))
    make = of_city if kind == "of a city" else of_region
    subject, relation, wording = g.draw(make, lambda fact: fact)
    if kind == "of a city":
        start = line.say(subject)
        line.say(wording)
        region = g.world.region_of[subject]
        line.answer(
            "facts", region.name, [(start, "city")], [("city", subject, start)], role="region"
        )
    else:
        region = g.world.named[subject]
        if wording == "is":
            asked = line.say(f"The {relation}")
            start = line.say(f"of {subject}")
        else:
            start = line.say(subject)
            asked = line.say(f"has a {relation}")
        line.say(wording)
        _tell_value(line, "facts", region, relation, start, asked, [("region", subject, start)])
    line.say(".")


def _tell_value(
    line: Line,
    task: str,
    region: Region,
    relation: str,
    subject_at: int,
    relation_at: int,
    steps: list[tuple[str, str, Optional[int]]],
    more: tuple[tuple[int, str], ...] = (),
) -> None:
    if relation in WITH_ARTICLE:
        line.say("the")
    line.answer(
        task,
        region.facts[relation],
        [(subject_at, steps[0][0]), (relation_at, "relation"), *more],
        steps,
        role=relation,
    )


def tell_two_step(g: Grammar, line: Line, home: Optional[tuple[str, str, int]] = None) -> None:
    """A two-step fact: from a city over its region, which is not said, to a fact of the region.

    With a ``home`` (who lives in which city, and where the text said so) the question is about
    that; else it brings its own city. Held out: see ``World.held_out``.
    """
    if home is None:
        city, relation = g.pick(g.world.two_step_pairs(g.held_out))
        region = g.world.region_of[city]
    else:
        city = home[1]
        region = g.world.region_of[city]
        relation = g.pick(
            [r for r in region.facts if ((city, r) in g.world.held_out) is g.held_out]
        )
    wording = "somebody's" if home else g.pick(("relation first", "city first", "somebody's"))
    if wording == "somebody's":
        if home is None:
            person = g.pick(words.PEOPLE)
            line.say(f"{person} lives in")
            start = line.say(city)
            line.say(".")
        else:
            person, _, start = home
        asked = line.say(f"The {relation}")
        line.say(f"of {possessive(person)} {region.kind} is")
    elif wording == "relation first":
        asked = line.say(f"The {relation}")
        line.say(f"of the {region.kind} containing")
        start = line.say(city)
        line.say("is")
    else:
        start = line.say(city)
        asked = line.say(f"lies in a {region.kind} whose {relation}")
        line.say("is")
    steps: list[tuple[str, str, Optional[int]]] = [
        ("city", city, start),
        ("region", region.name, None),
    ]
    _tell_value(line, "two_step", region, relation, start, asked, steps)
    line.say(".")


def tell_pronoun(g: Grammar, line: Line, name: Optional[str] = None) -> None:
    """A pronoun that agrees with the name before it. Held out: a name with a verb and a thing."""

    def make() -> tuple[str, str, str]:
        who = name or g.pick(words.PEOPLE)
        if g.pick(("because", "because", "wore")) == "wore":
            return (who, "wore", g.pick(words.WEARABLES))
        return (who, g.pick(words.LOSE_VERBS), g.pick(words.THINGS))

    who, verb, thing = g.draw(make, lambda made: made)
    wearing = verb == "wore"
    start = line.say(who)
    line.say(verb if wearing else f"{verb} the {thing} because")
    line.answer(
        "pronouns",
        possessive(who) if wearing else pronoun(who),
        [(start, "name")],
        [("name", who, start), ("gender", gender(who), None)],
        role="pronoun",
    )
    line.say(f"{thing}." if wearing else f"was {g.pick(words.MOODS)}.")


def tell_indirect_object(
    g: Grammar, line: Line, pair: Optional[tuple[str, str]] = None, place: Optional[str] = None
) -> None:
    """Two names, one of them again as the giver: the other receives. Held out: pairs of names."""
    if pair is None:
        pair = draw_pair(g)
    first, second = pair
    place = place or g.pick(words.PLACES)
    opening = g.pick(("When", "After", "While"))
    line.say(opening)
    at = {first: line.say(first)}
    line.say("and")
    at[second] = line.say(second)
    went = {"When": "went to", "After": "met at", "While": "were at"}[opening]
    line.say(f"{went} the {place},")
    giver, receiver = g.some((first, second), 2)
    again = line.say(giver)
    line.say(f"{g.pick(words.GIVE_VERBS)} a {g.pick(words.GIFTS)} to")
    line.answer(
        "indirect_object",
        receiver,
        [(at[receiver], "receiver"), (at[giver], "giver"), (again, "giver again")],
        [
            ("repeated name", giver, again),
            ("name to avoid", giver, None),
            ("name left over", receiver, at[receiver]),
        ],
        role="receiver",
    )
    line.say(".")


def draw_pair(g: Grammar) -> tuple[str, str]:
    """Two people. Held out: the two, whatever their order."""

    def make() -> tuple[str, str]:
        first, second = g.some(words.PEOPLE, 2)
        return first, second

    return g.draw(make, lambda made: ("names", *sorted(made)))


def tell_full_name(g: Grammar, line: Line) -> None:
    """Full names, then a first name again: its surname follows. Held out: full names."""

    def make() -> tuple[str, str]:
        return (g.pick(words.PEOPLE), g.pick(words.SURNAMES))

    first = g.draw(make, lambda made: made)
    second = g.draw(make, lambda made: made)
    while second[0] == first[0] or second[1] == first[1]:
        second = g.draw(make, lambda made: made)
    at = {}
    for index, (name, surname) in enumerate((first, second)):
        at[name] = line.say(name)
        line.say(surname)
        line.say("met" if index == 0 else f"at the {g.pick(words.PLACES)}.")
    name, surname = g.pick((first, second))
    again_full_name(g, line, name, surname, at[name])


def again_full_name(g: Grammar, line: Line, name: str, surname: str, earlier: int) -> None:
    """Say a name again whose surname stood after position ``earlier``."""
    line.say("Then")
    again = line.say(name)
    line.answer(
        "repeated_names",
        surname,
        [(again, "name again"), (earlier, "name before"), (earlier + 1, "surname before")],
        [("name", name, again), ("name before", name, earlier), ("after it", surname, earlier + 1)],
        role="surname",
    )
    line.say(f"was {g.pick(words.MOODS)}.")


def tell_sequence(g: Grammar, line: Line) -> None:
    """A random sequence of words, said again. Held out: sequences."""
    length = g.pick(range(3, 9))
    sequence = g.draw(lambda: tuple(g.some(words.SEQUENCE_WORDS, length)), lambda made: made)
    start = line.here
    for word in sequence:
        line.say(word)
    for repeat in range(1, g.pick((2, 3))):
        line.say(sequence[0])
        for index in range(1, length):
            here, before = line.here, start + length * (repeat - 1) + index
            line.answer(
                "sequences",
                sequence[index],
                [(here, "word again"), (before, "word before"), (before + 1, "word after it")],
                [
                    ("word", sequence[index - 1], here),
                    ("word before", sequence[index - 1], before),
                    ("after it", sequence[index], before + 1),
                ],
            )
    line.say(".")


def tell_agreement(g: Grammar, line: Line) -> None:
    """A verb that agrees with its subject across another noun. Held out: pairs of nouns."""
    noun, other = g.draw(
        lambda: (g.pick(words.SUBJECTS), g.pick(words.ATTRACTORS)), lambda made: made
    )
    plural = g.pick(("plural", "singular")) == "plural"
    shown = words.PLURALS[noun] if plural else noun
    start = line.say(f"The {shown}")
    if g.pick(("phrase", "phrase", "clause")) == "phrase":
        line.say(f"{g.pick(words.LINKS)} the")
        misleading = line.say(g.pick((other, words.PLURALS[other])))
    else:
        line.say("that the")
        misleading = line.say(g.pick(words.AGENTS))
        line.say(g.pick(words.ACTIONS))
    forms = words.PLURAL_VERBS if plural else words.SINGULAR_VERBS
    verb = g.pick(forms)
    line.answer(
        "agreement",
        verb,
        [(start, "subject")],
        [("subject", shown, start), ("number", "plural" if plural else "singular", None)],
        allowed=tuple(f" {form}" for form in forms),
        distractors=((misleading, "noun in between"),),
        role="verb",
    )
    line.say(f"{g.pick(words.AFTER_HAVE if verb in ('has', 'have') else words.AFTER_BE)}.")


LEAST_YEARS = 5
"""What lasts in this world lasts that long; a shorter time would still be right."""


def tell_greater_than(g: Grammar, line: Line) -> None:
    """A span of years within a century: it ends later than it starts, by some years.

    Held out: start years.
    """
    century, start_year = g.draw(
        lambda: (g.pick(range(11, 20)), g.pick(range(2, 91))), lambda made: made
    )
    line.say(f"The {g.pick(words.EVENTS)} lasted from the year")
    century_at = line.say(str(century))
    start = line.say(f"^{start_year:02d}")
    line.say("to the year")
    line.say(str(century))
    end_year = g.pick(range(start_year + LEAST_YEARS, 100))
    line.answer(
        "greater_than",
        f"^{end_year:02d}",
        [(start, "start year")],
        [("century", str(century), century_at), ("start year", f"{start_year:02d}", start)],
        allowed=tuple(f"{year:02d}" for year in range(start_year + 1, 100)),
        role="later year",
    )
    line.say(".")


MOST_ADDED = 12
"""The largest number that is added."""


def tell_sum(g: Grammar, line: Line, name: Optional[str] = None) -> None:
    """A sum in figures, or in a little story about things counted.

    Held out: two numbers in their order in one of the wordings; the other order or the other
    wording may be told.
    """
    wording = g.pick(("in figures", "in words")) if name is None else "in words"
    in_words = wording == "in words"
    least = 1 if in_words else 0
    a, b = g.draw(
        lambda: (g.pick(range(least, MOST_ADDED + 1)), g.pick(range(least, MOST_ADDED + 1))),
        lambda made: (wording, *made),
    )
    if in_words:
        name = name or g.pick(words.PEOPLE)
        line.say(f"{name} had")
        first = line.say(str(a))
        line.say(f"{g.pick(words.COUNTED)} and found")
        second = line.say(str(b))
        line.say(f"more, so now {pronoun(name)} has")
    else:
        first = line.say(str(a))
        line.say(" +")
        second = line.say(str(b))
        line.say(" =")
    line.answer(
        "sums",
        str(a + b),
        [(first, "number"), (second, "number")],
        [("number", str(a), first), ("number", str(b), second)],
        role="sum",
    )
    line.say(".")


def tell_recall(g: Grammar, line: Line) -> None:
    """Colours or sizes that two things are to have; then one of them gets its own.

    Held out: things with their looks.
    """
    kind = g.pick(tuple(LOOKS))
    things, looks = draw_looks(g, kind)
    wisher, maker = g.some(words.PEOPLE, 2)
    line.say(wisher)
    seen = wish_looks(line, things, looks)
    make_look(g, line, kind, maker, seen)


LOOKS = {"colour": ("painted", words.COLOURS), "size": ("made", words.SIZES)}
"""The kinds of looks: the verb that gives them, and what there is."""


def draw_looks(g: Grammar, kind: str) -> tuple[list[str], list[str]]:
    """Two things, and a look for each."""

    def make() -> tuple[list[str], list[str]]:
        return g.some(words.THINGS, 2), g.some(LOOKS[kind][1], 2)

    return g.draw(make, lambda made: ("recall", *made[0], *made[1]))


class Seen(NamedTuple):
    """A thing that a text told of, and its look, with their positions."""

    thing: str
    thing_at: int
    look: str
    look_at: int


def wish_looks(line: Line, things: list[str], looks: list[str]) -> list[Seen]:
    """Say of somebody, who was named, what the things are to look like."""
    line.say("wanted")
    seen = []
    for index, (thing, look) in enumerate(zip(things, looks, strict=True)):
        thing_at = line.say(f"{'and ' if index else ''}the {thing}")
        seen.append(Seen(thing, thing_at, look, line.say(look)))
    line.say(".")
    return seen


def make_look(g: Grammar, line: Line, kind: str, maker: str, seen: list[Seen]) -> None:
    """Somebody gives one of the things the look that was wanted."""
    made = g.pick([one.thing for one in seen])
    chosen = next(one for one in seen if one.thing == made)
    line.say(f"So {maker} {LOOKS[kind][0]}")
    again = line.say(f"the {chosen.thing}")
    line.answer(
        "recall",
        chosen.look,
        [(again, "thing again"), (chosen.thing_at, "thing"), (chosen.look_at, kind)],
        [
            ("thing", chosen.thing, again),
            ("thing before", chosen.thing, chosen.thing_at),
            (kind, chosen.look, chosen.look_at),
        ],
        distractors=tuple((one.look_at, f"other {kind}") for one in seen if one is not chosen),
        role=kind,
    )
    line.say(".")


OPENERS = {"(": ")", "[": "]", "{": "}", '"': '"'}


def tell_brackets(g: Grammar, line: Line) -> None:
    """Quotes and brackets, one or one within another: each closes as it opened, inner ones first.

    Held out: what is inside, together with the kinds of signs.
    """
    kinds = g.some(tuple(OPENERS), {"single": 1, "nested": 2}[g.pick(("single", "nested"))])
    who = g.pick(words.PEOPLE)
    content = _draw_content(g, kinds)
    line.say(who)
    opened = []
    if len(kinds) == 2:
        opened.append(line.say(f" {kinds[0]}"))
        line.say(g.pick(("^as in", "^or so says", "^a friend of")))
        line.say(g.pick(words.PEOPLE))
    opened.append(line.say(f" {kinds[-1]}"))
    line.say("^" + content)
    for index in reversed(range(len(kinds))):
        line.answer(
            "brackets",
            OPENERS[kinds[index]],
            [(opened[index], "opening sign")],
            [("opening sign", kinds[index], opened[index])],
            distractors=tuple(
                (place, "other opening sign") for place in opened if place != opened[index]
            ),
            role="closing sign",
        )
    line.say(f"{g.pick(('left', 'stayed', 'came', 'slept'))}.")


def _draw_content(g: Grammar, kinds: list[str]) -> str:
    def make() -> str:
        start = g.pick(("see page", "born in", "always at the", "with a", "the"))
        rest = {
            "see page": range(1, 100),
            "born in": g.world.cities,
            "always at the": words.PLACES,
            "with a": words.WEARABLES,
            "the": words.THINGS,
        }[start]
        content = f"{start} {g.pick(rest)}"
        return f"{content} is {g.pick(words.COLOURS)}" if start == "the" else content

    return g.draw(make, lambda made: (*kinds, made))


Tell = Callable[[Grammar, Line], None]
