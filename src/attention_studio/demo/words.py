"""The words of the demo's grammar that are no facts: people, things, verbs.

No word is in two lists where that would make an answer ambiguous: people are not called like a
place, and no thing is called like a bird, flower, tree or coin of the world.
"""

from __future__ import annotations

WOMEN = tuple(
    "Mary Anna Lucy Emma Alice Clara Nora Ella Ruth Jane Sarah Julia Laura Kate Grace Irene Martha "
    "Nina Olga Paula Rita Sofia Tina Vera Wendy Zoe Diana Eva Sylvia Judith".split()
)
MEN = tuple(
    "John Tom Paul Peter David Simon Henry George Frank Oscar Max Leo Hugo Felix Adam Ben Carl "
    "Daniel Eric Fred Gary Ivan Jack Kevin Luke Martin Neil Oliver Robert Sam".split()
)
PEOPLE = WOMEN + MEN
SURNAMES = tuple(
    "Stone Finch Baker Carter Fisher Hunter Miller Mason Porter Cooper Walker Turner Taylor Smith "
    "Brown Young Hill Wood Field Marsh Brook Lake Moore Banks Bishop Knight Abbott Potter Sharp "
    "Swift".split()
)

PLACES = tuple(
    "store park market school garden station library museum beach office harbour theatre".split()
)
GIFTS = tuple(
    "drink letter ring present sandwich ticket map photo blanket flute towel cake".split()
)
GIVE_VERBS = tuple("gave handed passed offered sent showed".split())

THINGS = tuple(
    "hat cup box ball book bag coat lamp chair kite drum vase door boat table bottle key cabinet "
    "picture window basket candle clock bell".split()
)
SUBJECTS = tuple(
    "key picture friend teacher door letter lamp guard chair child driver farmer singer book "
    "player doctor".split()
)
"""Nouns that lead a sentence of the agreement task; their plurals are in ``PLURALS``."""
ATTRACTORS = tuple(
    "cabinet house window garden table brother sister boat tower room king queen neighbour village "
    "bridge engine".split()
)
"""Nouns that stand between a subject and its verb."""
PLURALS = {noun: "children" if noun == "child" else noun + "s" for noun in (*SUBJECTS, *ATTRACTORS)}
LINKS = tuple("near behind beside by with from".split())
AGENTS = tuple("man woman boy girl boys girls".split())
ACTIONS = tuple("saw found liked knew wanted met".split())
SINGULAR_VERBS = tuple("is was has".split())
PLURAL_VERBS = tuple("are were have".split())
AFTER_BE = tuple("old new here gone late ready famous lost".split())
AFTER_HAVE = tuple("moved changed fallen arrived".split())

COLOURS = tuple("red blue green yellow black white brown pink grey purple".split())
SIZES = tuple("big small tiny huge long short wide narrow".split())

LOSE_VERBS = tuple("lost sold dropped broke forgot hid".split())
MOODS = tuple("tired happy sad angry hungry careless".split())
WEARABLES = tuple("scarf ring coat hat belt mask shirt cap".split())

EVENTS = tuple(
    "war reign siege drought journey strike peace trade feud famine building project".split()
)
COUNTED = tuple("apples pens coins eggs cards shells stamps marbles".split())

SEQUENCE_WORDS = tuple(
    "apple river stone cloud table horse paper music winter silver mountain pencil kitchen doctor "
    "garden bottle window candle shadow copper ladder mirror pocket rabbit saddle tunnel velvet "
    "wagon yellow anchor basket circle dragon engine feather guitar hammer island jacket kettle "
    "lemon magnet needle orange pepper quarter ribbon sailor timber umbrella valley whistle zebra "
    "bridge castle desert empire forest goblet harvest insect jungle".split()
)
"""What random sequences are made of: words that predict nothing about each other."""
