"""Short stories: the tasks in one text, about the same people."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from attention_studio.demo import words
from attention_studio.demo.grammar import Grammar, GrammarError, gender, pronoun
from attention_studio.demo.samples import Line
from attention_studio.demo.tasks import (
    again_full_name,
    draw_looks,
    draw_pair,
    make_look,
    tell_indirect_object,
    tell_pronoun,
    tell_sum,
    tell_two_step,
    wish_looks,
)


def tell_story(g: Grammar, line: Line) -> None:
    """Somebody from somewhere, with wishes; then a gift, a name, a look, a fact, a sum."""
    hero, surname, friend = _draw_cast(g)
    city = g.pick(tuple(sorted({city for city, _ in g.world.two_step_pairs(g.held_out)})))
    hero_at = line.say(hero)
    line.say(surname)
    line.say("lived in")
    city_at = line.say(city)
    line.say(".")
    who = pronoun(hero).capitalize()
    line.answer(
        "pronouns",
        who,
        [(hero_at, "name")],
        [("name", hero, hero_at), ("gender", gender(hero), None)],
        role="pronoun",
    )
    seen = wish_looks(line, *draw_looks(g, "colour"))
    pair = (
        (hero, friend) if g.pick(("hero first", "friend first")) == "hero first" else (friend, hero)
    )
    parts: tuple[Callable[[], None], ...] = (
        lambda: tell_indirect_object(g, line, pair),
        lambda: again_full_name(g, line, hero, surname, hero_at),
        lambda: make_look(g, line, "colour", friend, seen),
        lambda: tell_two_step(g, line, (hero, city, city_at)),
        lambda: tell_sum(g, line, hero),
        lambda: tell_pronoun(g, line, friend),
    )
    for part in g.some(parts, g.pick((2, 3, 4))):
        part()


def _draw_cast(g: Grammar) -> tuple[str, str, str]:
    while True:
        hero, friend = draw_pair(g)
        # In some worlds there are people none of whose full names lie on the one side.
        with suppress(GrammarError):
            return hero, _draw_surname(g, hero), friend


def _draw_surname(g: Grammar, name: str) -> str:
    return g.draw(lambda: g.pick(words.SURNAMES), lambda made: (name, made))
