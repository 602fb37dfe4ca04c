"""The facts of the demo's world: cities, the regions that they are in, and what is true of regions.

Two thirds of the regions are real (states of the USA, and countries), with facts that are true or
commonly told; a third is made up, from the seed. A *two-step* fact takes a city to its region,
which is not said, and on to one of the region's facts. Some two-step pairs (city, relation) are
held out: no training text holds them, but every city and every (region, relation) occurs in others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

RELATIONS = ("capital", "river", "bird", "flower", "tree", "language", "coin")
_STATE_RELATIONS = RELATIONS[:5]
WITH_ARTICLE = frozenset({"river", "bird", "flower", "tree", "coin"})
"""Relations whose values take "the": the bird of Texas is *the* mockingbird."""

N_LANDS = 6
_LAND_CITIES = 6
HELD_OUT_CITIES = 0.9
"""Share of the cities that have one of their relations held out (about 15% of the pairs)."""

_STATES = """
Texas: Austin Brazos mockingbird bluebonnet pecan
    Dallas Houston Lubbock Amarillo Laredo Waco
California: Sacramento Klamath quail poppy redwood
    Oakland Fresno Anaheim Berkeley Pasadena Burbank
Illinois: Springfield Kaskaskia cardinal violet oak
    Chicago Peoria Rockford Joliet Aurora Evanston
Ohio: Columbus Scioto cardinal carnation buckeye
    Cleveland Cincinnati Toledo Dayton Akron Canton
Georgia: Atlanta Altamaha thrasher azalea oak
    Savannah Macon Augusta Valdosta Marietta Dalton
Washington: Olympia Columbia goldfinch rhododendron hemlock
    Seattle Spokane Tacoma Yakima Bellevue Everett
Oregon: Salem Willamette meadowlark grape fir
    Portland Eugene Bend Medford Gresham Corvallis
Colorado: Denver Platte bunting columbine spruce
    Boulder Aspen Pueblo Greeley Durango Loveland
Arizona: Phoenix Gila wren saguaro paloverde
    Tucson Mesa Tempe Yuma Flagstaff Scottsdale
Tennessee: Nashville Cumberland mockingbird iris poplar
    Memphis Knoxville Chattanooga Clarksville Franklin Jackson
Massachusetts: Boston Charles chickadee mayflower elm
    Worcester Lowell Cambridge Quincy Salisbury Plymouth
Wisconsin: Madison Chippewa robin violet maple
    Milwaukee Oshkosh Racine Appleton Kenosha Waukesha
"""
_COUNTRIES = """
France: Paris Seine rooster lily yew French franc
    Lyon Marseille Nice Toulouse Nantes Bordeaux
Italy: Rome Tiber sparrow cyclamen olive Italian lira
    Milan Venice Naples Turin Bologna Florence
Germany: Berlin Rhine eagle cornflower oak German mark
    Munich Hamburg Cologne Dresden Leipzig Bremen
Spain: Madrid Ebro eagle carnation cork Spanish peseta
    Seville Valencia Bilbao Malaga Granada Murcia
Japan: Tokyo Shinano pheasant chrysanthemum cherry Japanese yen
    Osaka Kyoto Nagoya Sapporo Kobe Nara
Egypt: Cairo Nile ibis lotus sycamore Arabic pound
    Luxor Aswan Alexandria Suez Giza Tanta
"""


@dataclass(frozen=True)
class Region:
    """A state, country or land.

    ``facts`` maps each relation that the region has to its value; ``cities`` leaves the capital
    out.
    """

    name: str
    kind: str
    facts: dict[str, str]
    cities: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All facts, and which two-step pairs are held out.

    Attributes:
        regions: all of them, the made-up ones last.
        region_of: the region of each city.
        held_out: pairs (city, relation) that no training text holds.
    """

    regions: tuple[Region, ...]
    region_of: dict[str, Region]
    held_out: frozenset[tuple[str, str]]

    @cached_property
    def named(self) -> dict[str, Region]:
        """The regions by their names."""
        return {region.name: region for region in self.regions}

    @cached_property
    def cities(self) -> tuple[str, ...]:
        """All cities that are no capital."""
        return tuple(self.region_of)

    @cached_property
    def _pairs(self) -> dict[bool, tuple[tuple[str, str], ...]]:
        pairs = [(city, r) for city, region in self.region_of.items() for r in region.facts]
        return {
            side: tuple(pair for pair in pairs if (pair in self.held_out) is side)
            for side in (False, True)
        }

    def two_step_pairs(self, held_out: bool) -> tuple[tuple[str, str], ...]:
        """The pairs (city, relation) that are held out, or those that are not."""
        return self._pairs[held_out]


def build_world(seed: int) -> World:
    """The world of a seed: the real facts, invented lands, and the held-out two-step pairs."""
    rng = random.Random(f"world {seed}")
    regions = [*_listed(_STATES, "state"), *_listed(_COUNTRIES, "country")]
    taken = {word for region in regions for word in (region.name, *region.facts.values())}
    taken |= {city for region in regions for city in region.cities}
    regions += [_invent(rng, taken) for _ in range(N_LANDS)]
    region_of = {city: region for region in regions for city in region.cities}
    return World(tuple(regions), region_of, _hold_out(regions, rng))


def _listed(table: str, kind: str) -> list[Region]:
    relations = _STATE_RELATIONS if kind == "state" else RELATIONS
    regions = []
    lines = iter(table.strip().splitlines())
    for head, cities in zip(lines, lines, strict=True):
        name, _, values = head.partition(": ")
        facts = dict(zip(relations, values.split(), strict=True))
        regions.append(Region(name, kind, facts, tuple(cities.split())))
    return regions


def _invent(rng: random.Random, taken: set[str]) -> Region:
    def name(syllables: int, end: str, capital: bool = True) -> str:
        while True:
            body = "".join(
                rng.choice("b d f g k l m n p r s t v z br dr gl tr".split()) + rng.choice("aeiou")
                for _ in range(syllables)
            )
            word = body + end
            word = word.capitalize() if capital else word
            if word not in taken:
                taken.add(word)
                return word

    facts = {
        "capital": name(2, "burg"),
        "river": name(2, "n"),
        "bird": name(1, "rrow", capital=False),
        "flower": name(1, "lip", capital=False),
        "tree": name(1, "wood", capital=False),
        "language": name(2, "ish"),
        "coin": name(1, "mark", capital=False),
    }
    cities = tuple(name(2, rng.choice(("ton", "ville", "dam", "ra"))) for _ in range(_LAND_CITIES))
    return Region(name(2, "land"), "land", facts, cities)


def _hold_out(regions: list[Region], rng: random.Random) -> frozenset[tuple[str, str]]:
    # One relation per city at most, spread so that each (region, relation) keeps most of its
    # cities: what is held out must follow from what is seen.
    pairs = []
    for region in regions:
        spread = list(region.facts)
        rng.shuffle(spread)
        for index, city in enumerate(region.cities):
            if rng.random() < HELD_OUT_CITIES:
                pairs.append((city, spread[index % len(spread)]))
    return frozenset(pairs)
