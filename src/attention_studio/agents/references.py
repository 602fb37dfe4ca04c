"""Links in what a model writes: what they look like, and whether what they name is there.

A link stands in square brackets: ``[L12/P5/F1043]`` (a node of the open graph, or with its graph
``[G2 L12/P5/F1043]``), ``[G2]`` (a graph), ``[L12/F1043]`` (a feature), ``[L12/F1043 text 7:31]``
(an example of it: row of the text, and position), ``[run 2]`` (an intervention). Several may share
brackets, with commas between.

A model says what it likes. Whether a link leads somewhere is found out here, from the graph, the
dashboards and the records themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Optional, Protocol

from attention_studio.agents.backends.chat_answer import shown
from attention_studio.agents.workspace_tools import Workbench
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import Example
from attention_studio.utils.errors import StudioError

LINKS_HELP = (
    "Links are written in square brackets: [L12/P5/F1043] or [P4/token] a node of the open graph, "
    "[G2 L12/P5/F1043] a node of graph G2, [G2] a graph, [L12/F1043] a feature, "
    "[L12/F1043 text 7:31] one of its examples, [run 2] an intervention that was run."
)

ReferenceKind = Literal["graph", "node", "feature", "example", "run", "unknown"]

_BRACKETS = re.compile(r"\[([^\[\]\n]{1,400})\]")
_GRAPH = r"[GT][1-9][0-9]{0,7}"
_FEATURE = r"(?P<name>[LA][0-9]{1,4}/F[0-9]{1,9})"
_PLACE = r"P[0-9]{1,9}"
_NODE = (
    rf"(?:[LA][0-9]{{1,4}}/{_PLACE}/(?:F[0-9]{{1,9}}|error)"
    rf"|{_PLACE}/(?:token|logit/[0-9-]{{1,20}}))"
)
_FORMS: tuple[tuple[ReferenceKind, re.Pattern[str]], ...] = (
    ("graph", re.compile(rf"(?P<graph>{_GRAPH})")),
    ("node", re.compile(rf"(?:(?P<graph>{_GRAPH})[ :])?(?P<name>{_NODE})")),
    ("example", re.compile(rf"{_FEATURE} text (?P<number>[0-9]{{1,9}}):(?P<at>[0-9]{{1,9}})")),
    ("feature", re.compile(_FEATURE)),
    ("run", re.compile(r"run (?P<number>[0-9]{1,9})")),
)
_MEANT = re.compile(
    r"[0-9].*/|/.*[0-9]|\b(?:run|text|example|node|feature|graph) [0-9]|^[GTLAP][0-9]+\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reference:
    """What a text points at.

    Attributes:
        text: as it was written, without brackets.
        kind: ``unknown``: it is written like a link and names nothing.
        graph: of a node or graph: its key; "": the open graph.
        name: of a node or feature.
        number: of a run, counted from 1; of an example its row, and ``at`` the position there.
    """

    text: str
    kind: ReferenceKind
    graph: str = ""
    name: str = ""
    number: int = 0
    at: int = 0


class Sources(Protocol):
    """Where links lead."""

    def bench(self) -> Workbench:
        """What is open."""

    def graph(self, key: str) -> AttributionGraph:
        """A graph by its key.

        Raises:
            StudioError: there is none.
        """

    def n_runs(self) -> int:
        """How many interventions are known; they are numbered from 1."""


def links_in(text: str) -> tuple[Reference, ...]:
    """The links of a text, each once, in their order. Other words in brackets are none."""
    return tuple(dict.fromkeys(_links(text)))


def placed_links(text: str) -> tuple[tuple[int, int, Reference], ...]:
    """The links of a text with where each begins and ends, brackets left out; what names nothing is
    left out, too."""
    found, end = [], 0
    for brackets in _BRACKETS.finditer(text):
        end = brackets.start()
        for link in _links(brackets[0]):
            start = text.index(link.text, end)
            end = start + len(link.text)
            if link.kind != "unknown":
                found.append((start, end, link))
    return tuple(found)


def without_links(text: str) -> str:
    """A text without the links."""
    return _BRACKETS.sub(lambda found: "" if list(_links(found[0])) else found[0], text)


def missing(link: Reference, sources: Sources) -> str:
    """Why a link leads nowhere; "" where what it names is there."""
    try:
        return _missing(link, sources)
    except StudioError as error:
        return error.what


def _missing(link: Reference, sources: Sources) -> str:
    if link.kind == "unknown":
        return f"“{shown(link.text)}” names nothing"
    if link.kind == "run":
        known = sources.n_runs()
        return "" if 1 <= link.number <= known else f"there are {known} runs, and no {link.text}"
    if link.kind in ("graph", "node"):
        graph = sources.graph(link.graph) if link.graph else sources.bench().graph
        if graph is None:
            return "no graph is open"
        there = not link.name or graph.has(link.name)
        return "" if there else f"{link.graph or 'the open graph'} has no node {link.name}"
    return _missing_feature(link, sources.bench())


def _missing_feature(link: Reference, bench: Workbench) -> str:
    name = FeatureName.read(link.name)
    if name is None or not isinstance(name.latent, int):
        return f"{link.name} names no feature"
    if bench.store is not None:
        page = bench.the_store().page(name.site, name.latent)
        examples = (one for group in page.groups for one in group.examples)
        if link.kind == "feature" or any(_fires_there(one, link) for one in examples):
            return ""
        return f"{link.name} has no example at {link.number}:{link.at}"
    if link.kind == "example":
        return "no dashboards are open, so there are no examples"
    if bench.replacement is not None:
        sites = bench.replacement.sites
        if name.site not in sites:
            return f"{name.site.label} has no dictionary"
        width = bench.replacement.dictionaries.config_at(name.site)[0]
        return "" if name.latent < width else f"{name.site.label} has {width} features"
    if bench.graph is not None:
        # Without dashboards and dictionaries, a feature is known where the graph has it somewhere.
        places = range(len(bench.graph.tokens))
        names = (str(name._replace(position=place)) for place in places)
        if any(bench.graph.has(one) for one in names):
            return ""
    return f"nothing that is open has the feature {link.name}"


def _fires_there(example: Example, link: Reference) -> bool:
    place = link.at - example.start
    inside = example.sequence == link.number and 0 <= place < len(example.tokens)
    return inside and bool(example.values[place] > 0)


def _links(text: str) -> Iterator[Reference]:
    for found in _BRACKETS.finditer(text):
        whole = _read(found[1])
        if whole is not None:
            yield whole
            continue
        parts = [part.strip() for part in re.split(r"[,;]", found[1]) if part.strip()]
        for part in parts:
            link = _read(part)
            if link is not None:
                yield link
            elif _MEANT.search(part):
                yield Reference(part, "unknown")


def _read(text: str) -> Optional[Reference]:
    plain = text.strip()
    for kind, form in _FORMS:
        found = form.fullmatch(plain)
        if found is not None:
            said = found.groupdict()
            return Reference(
                plain,
                kind,
                said.get("graph") or "",
                said.get("name") or "",
                int(said.get("number") or 0),
                int(said.get("at") or 0),
            )
    return None
