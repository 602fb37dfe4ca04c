"""The query language: what it means, against predicates that are asked node by node; what is wrong
with a query and where; what can be typed next."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import pytest

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, PrunedGraph
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.node_export import as_tsv
from attention_studio.core.node_query import NodeView, evaluate, find_nodes
from attention_studio.core.node_table import NodeTable, TableEdges
from attention_studio.core.query_completion import EXAMPLES, Known, complete
from attention_studio.core.query_language import (
    FIELDS,
    FLAGS,
    FUNCTIONS,
    QueryError,
    quoted_value,
    tokens_of,
)
from attention_studio.core.query_parsing import MAX_LENGTH, parse
from tests.hand_graphs import hand_graph

GRAPH = hand_graph(seed=3)
PRUNED = GRAPH.prune(0.9, 0.9)
WORDS = ("feature", "error", "token", "output")


@dataclass(frozen=True)
class Node:
    """A node as somebody without numpy would describe it."""

    name: str
    title: str
    kind: str
    module: Optional[str]
    layer: Optional[int]
    pos: int
    token: str
    index: Optional[int]
    activation: Optional[float]
    probability: Optional[float]
    influence: float
    density: Optional[float]
    label: str
    remark: str
    group: str
    pinned: bool
    chosen: bool
    selected: bool
    shown: bool


Test = Callable[[Node], bool]


def marks(graph: AttributionGraph) -> GraphNotes:
    names = [graph.node_name(node) for node in range(len(graph.nodes))]
    notes, _ = GraphNotes().with_pinned(names[:3]).grouped(names[2:5], "Big Cities")
    index = graph.nodes.index
    notes = notes.labelled(f"A0/F{index[0]}", "the Capital of").labelled(f"A0/F{index[1]}", "x=1")
    return notes.remarked(names[7], "odd; look again").remarked(names[-1], "the answer")


NOTES = marks(GRAPH)
CHOSEN = (GRAPH.node_name(4), GRAPH.node_name(30), "not in this graph")
DENSITY = np.where(
    GRAPH.nodes.kind == NodeKind.FEATURE, np.linspace(0.0, 0.2, len(GRAPH.nodes)), np.nan
)
DENSITY[5] = np.nan


def described(node: int) -> Node:
    site = GRAPH.nodes.site(node)
    kind = WORDS[GRAPH.nodes.kind[node]]
    feature = kind == "feature"
    name, position = GRAPH.node_name(node), int(GRAPH.nodes.position[node])
    index = int(GRAPH.nodes.index[node])
    group = next((g.name for g in NOTES.supernodes if name in g.nodes), "")
    return Node(
        name=name,
        title=GRAPH.label(node).lower(),
        kind=kind,
        module=None if site is None else site.kind,
        layer=None if site is None else site.layer,
        pos=position,
        token=GRAPH.tokens[position].strip().lower(),
        index=index if feature else None,
        activation=float(GRAPH.nodes.activation[node]) if feature else None,
        probability=float(GRAPH.nodes.probability[node]) if kind == "output" else None,
        influence=float(GRAPH.influence[node]),
        density=None if np.isnan(DENSITY[node]) else float(DENSITY[node]),
        label=NOTES.labels.get(f"{site.label}/F{index}", "").lower() if site and feature else "",
        remark=NOTES.remarks.get(name, "").lower(),
        group=group.lower(),
        pinned=name in NOTES.pinned,
        chosen=name in CHOSEN,
        selected=name == GRAPH.node_name(9),
        shown=node in PRUNED.node_ids,
    )


NODES = [described(node) for node in range(len(GRAPH.nodes))]


def view(pruned: Optional[PrunedGraph] = PRUNED) -> NodeView:
    shown = np.zeros(len(GRAPH.nodes), dtype=bool)
    shown[PRUNED.node_ids] = True
    return NodeView(
        table=NodeTable.of(GRAPH),
        edges=TableEdges(GRAPH, pruned),
        shown=shown,
        notes=NOTES,
        chosen=CHOSEN,
        selected=GRAPH.node_name(9),
        density=DENSITY,
    )


VIEW = view()


def found(text: str, where: NodeView = VIEW) -> list[str]:
    fits = evaluate(parse(text), where)
    assert fits.dtype == bool and fits.shape == (len(NODES),)
    return [NODES[node].name for node in np.flatnonzero(fits).tolist()]


def expected(test: Test) -> list[str]:
    return [node.name for node in NODES if test(node)]


FIRST = int(GRAPH.nodes.index[0])
ATOMS: tuple[tuple[str, Test], ...] = (
    ("layer>1", lambda n: n.layer is not None and n.layer > 1),
    ("layer >= 1", lambda n: n.layer is not None and n.layer >= 1),
    ("layer<1", lambda n: n.layer is not None and n.layer < 1),
    ("layer<=1", lambda n: n.layer is not None and n.layer <= 1),
    ("layer=1", lambda n: n.layer == 1),
    ("layer!=1", lambda n: n.layer != 1),
    ("layer=0,2", lambda n: n.layer in (0, 2)),
    ("LAYER == 1..2", lambda n: n.layer in (1, 2)),
    ("layer!=1..", lambda n: n.layer is None or n.layer < 1),
    ("layer=..0", lambda n: n.layer == 0),
    ("pos=2", lambda n: n.pos == 2),
    ("pos=-1", lambda n: n.pos == 3),
    ("pos>-2", lambda n: n.pos > 2),
    ("pos=1..2", lambda n: n.pos in (1, 2)),
    ("pos=-2..", lambda n: n.pos >= 2),
    ("pos=cat", lambda n: n.token == "cat"),
    ('pos="CAT"', lambda n: n.token == "cat"),
    ("pos=ca", lambda n: False),
    ('pos="2"', lambda n: False),
    ("token~a", lambda n: "a" in n.token),
    ("position!~a", lambda n: "a" not in n.token),
    ("pos=the,3", lambda n: n.token == "the" or n.pos == 3),
    ("kind=feature", lambda n: n.kind == "feature"),
    ("kind!=Feature,error", lambda n: n.kind in ("token", "output")),
    ("module=attention", lambda n: n.module == "attention"),
    ("module!=mlp", lambda n: n.module != "mlp"),
    (f"#{FIRST}", lambda n: n.index == FIRST),
    ("index<20", lambda n: n.index is not None and n.index < 20),
    ("A1", lambda n: n.layer == 1 and n.module == "attention"),
    ("l2", lambda n: n.layer == 2 and n.module == "mlp"),
    (
        f"A0/F{FIRST}",
        lambda n: n.kind == "feature" and n.name.startswith("A0/") and n.index == FIRST,
    ),
    ("L1/*/*", lambda n: n.kind == "feature" and n.layer == 1 and n.module == "mlp"),
    (
        "A2/P3/*",
        lambda n: n.name.startswith("A2/P3/F"),
    ),
    (NODES[8].name, lambda n: n.name == NODES[8].name),
    ("l1/p2/ERROR", lambda n: n.name == "L1/P2/error"),
    ("P2/token", lambda n: n.name == "P2/token"),
    ("P3/logit/11", lambda n: n.name == "P3/logit/11"),
    ("activation>1.5", lambda n: n.activation is not None and n.activation > 1.5),
    ("act<=15e-1", lambda n: n.activation is not None and n.activation <= 1.5),
    ("influence>=2%", lambda n: n.influence >= 0.02),
    ("influence<.02", lambda n: n.influence < 0.02),
    ("influence=1%..5%", lambda n: 0.01 <= n.influence <= 0.05),
    ("probability>50%", lambda n: n.probability is not None and n.probability > 0.5),
    ("prob!=0..1", lambda n: n.probability is None),
    ("density<10%", lambda n: n.density is not None and n.density < 0.1),
    ("density>=0.1", lambda n: n.density is not None and n.density >= 0.1),
    ("label~CAPITAL", lambda n: "capital" in n.label or "capital" in n.title),
    ('label="the capital of"', lambda n: n.label == "the capital of"),
    ('label="x=1"', lambda n: n.label == "x=1"),
    ("label~#", lambda n: "#" in n.title),
    ("label!~output,error", lambda n: not any(w in n.title for w in ("output", "error"))),
    ("group~city,CITIES", lambda n: "cities" in n.group),
    ("group!=S1", lambda n: n.group == ""),
    ("remark~look", lambda n: "look" in n.remark),
    ("name~p2/", lambda n: "p2/" in n.name.lower()),
    ("pinned", lambda n: n.pinned),
    ("Chosen", lambda n: n.chosen),
    ("selected", lambda n: n.selected),
    ("shown", lambda n: n.shown),
    ("labelled", lambda n: n.label != ""),
    ("remarked", lambda n: n.remark != ""),
    ("grouped", lambda n: n.group != ""),
    (
        "cat",
        lambda n: any("cat" in text for text in (n.token, n.title, n.label, n.remark, n.group)),
    ),
    ('"big cit"', lambda n: "big cit" in n.group),
    ("“the answer”", lambda n: n.remark == "the answer"),
    ("", lambda n: True),
)


@pytest.mark.parametrize(("text", "test"), ATOMS, ids=[text or "nothing" for text, _ in ATOMS])
def test_each_part_means_what_it_says(text: str, test: Test) -> None:
    assert found(text) == expected(test)


def test_the_parts_of_the_test_tell_nodes_apart() -> None:
    sizes = {text: len(expected(test)) for text, test in ATOMS}
    empty = {text for text, size in sizes.items() if not size}
    assert empty == {"pos=ca", 'pos="2"'}
    assert {text for text, size in sizes.items() if size == len(NODES)} == {""}


def edges(pruned: Optional[PrunedGraph]) -> list[tuple[str, str, float]]:
    """All edges with their |share|, one node at a time."""
    if pruned is not None:
        return [
            (NODES[source].name, NODES[target].name, abs(float(share)))
            for source, target, share in zip(
                pruned.edge_source, pruned.edge_target, pruned.edge_share, strict=True
            )
        ]
    listed = []
    for target in range(len(NODES)):
        into = GRAPH.inputs(target)
        for source, share in zip(into.nodes.tolist(), into.shares.tolist(), strict=True):
            listed.append((NODES[source].name, NODES[target].name, abs(share)))
    return listed


@pytest.mark.parametrize("pruned", [PRUNED, None], ids=["shown", "all"])
def test_links_are_followed(pruned: Optional[PrunedGraph]) -> None:
    where, listed = view(pruned), edges(pruned)
    ends = {name for name, node in ((n.name, n) for n in NODES) if node.kind == "output"}
    low = {name for name, node in ((n.name, n) for n in NODES) if node.layer == 0}

    def named(names: set[str]) -> list[str]:
        return expected(lambda node: node.name in names)

    assert found("in(kind=output)", where) == named({s for s, t, _ in listed if t in ends})
    assert found("out(layer=0)", where) == named({t for s, t, _ in listed if s in low})
    strongest: dict[str, float] = {}
    for source, target, share in listed:
        if target in ends:
            strongest[source] = max(share, strongest.get(source, 0.0))
    strong = {name for name, share in strongest.items() if share > 0.04}
    assert 0 < len(strong) < len(strongest)
    assert found("in(kind=output)>4%", where) == named(strong)
    assert found("in(kind=output)<=.04", where) == named(set(strongest) - strong)
    n_in = {node.name: sum(t == node.name for _, t, _ in listed) for node in NODES}
    n_out = {node.name: sum(s == node.name for s, _, _ in listed) for node in NODES}
    assert found("inputs>5", where) == expected(lambda node: n_in[node.name] > 5)
    assert found("outputs=1..4", where) == expected(lambda node: 1 <= n_out[node.name] <= 4)
    begin, lead = NODES[20].name, set[str]()
    for _ in NODES:  # one step after the other, as often as there could be steps
        lead |= {t for s, t, _ in listed if s == begin or s in lead}
    assert found(f"downstream({begin})", where) == named(lead)
    back = set[str]()
    for _ in NODES:
        back |= {s for s, t, _ in listed if t == begin or t in back}
    assert found(f"upstream({begin})", where) == named(back)


def test_parts_combine_as_logic_does() -> None:
    chance = random.Random(0)
    listed = edges(PRUNED)

    def made(depth: int) -> tuple[str, Test]:
        kind = chance.choice(["atom", "and", "or", "not", "in", "out"]) if depth else "atom"
        if kind == "atom":
            text, test = chance.choice(ATOMS[:-1])
            return text, test
        first, one = made(depth - 1)
        if kind == "not":
            sign = chance.choice(["not ", "!", "NOT not !"])
            return f"{sign}({first})", lambda n: not one(n)
        if kind in ("in", "out"):
            names = {node.name for node in NODES if one(node)}
            ends = {s for s, t, _ in listed if t in names}
            starts = {t for s, t, _ in listed if s in names}
            linked = ends if kind == "in" else starts
            return f"{kind}({first})", lambda n: n.name in linked
        second, two = made(depth - 1)
        if kind == "or":
            return f"({first} or {second})", lambda n: one(n) or two(n)
        sign = chance.choice([" ", " and ", "  AND "])
        return f"({first}){sign}({second})", lambda n: one(n) and two(n)

    for _ in range(250):
        text, test = made(3)
        assert found(text) == expected(test), text


def test_or_binds_less_than_standing_side_by_side() -> None:
    assert found("L0 pinned or L2 not shown") == expected(
        lambda n: (
            (n.layer == 0 and n.module == "mlp" and n.pinned)
            or (n.layer == 2 and n.module == "mlp" and not n.shown)
        )
    )
    assert found("not pinned pos=1") == expected(lambda n: not n.pinned and n.pos == 1)


def test_what_was_not_measured_fits_nothing() -> None:
    blind = replace(VIEW, density=None)
    assert found("density<1", blind) == []
    assert found("not density<1", blind) == [node.name for node in NODES]
    assert parse("pos=1 in(density<1%)").asks("density") and not parse("layer=1").asks("density")


def test_found_by_one_call_the_most_influential_first() -> None:
    asked = find_nodes(GRAPH, "kind=feature layer<2", PRUNED, NOTES)
    wanted = [node for node in NODES if node.kind == "feature" and node.layer in (0, 1)]
    shown = sorted((n for n in wanted if n.shown), key=lambda n: -n.influence)
    assert list(asked) == [node.name for node in shown]
    everywhere = find_nodes(GRAPH, "labelled", notes=NOTES)
    assert sorted(everywhere) == sorted(expected(lambda node: node.label != ""))
    with pytest.raises(QueryError):
        find_nodes(GRAPH, "lyer>1")


def test_rows_for_a_spreadsheet_stay_on_their_lines() -> None:
    odd = replace(VIEW, notes=NOTES.remarked(NODES[3].name, "a\tb\r\nc\u2028d"))
    rows = range(len(NODES))
    lines = as_tsv(odd, rows).split("\n")
    assert lines[-1] == "" and len(lines) == len(NODES) + 2
    heads = lines[0].split("\t")
    cells = [dict(zip(heads, line.split("\t"), strict=True)) for line in lines[1:-1]]
    assert [cell["name"] for cell in cells] == [node.name for node in NODES]
    assert cells[3]["remark"] == "a b c d"
    for cell, node in zip(cells, NODES, strict=True):
        assert cell["kind"] == node.kind and cell["position"] == str(node.pos)
        assert float(cell["influence"]) == pytest.approx(node.influence, rel=1e-4)
        known = node.activation
        assert (cell["activation"] == "") == (known is None)
        assert known is None or float(cell["activation"]) == pytest.approx(known, rel=1e-4)


# ---- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start", "end", "says"),
    [
        ("lyer>3", 0, 4, "layer"),
        ("pos=1 densty<1%", 6, 12, "density"),
        ("layer>", 5, 6, "needs a value"),
        ("layer>many", 6, 10, "no number"),
        ("layer>3,4", 8, 9, "one number"),
        ("layer~3", 5, 6, "cannot be asked"),
        ("label>3", 5, 6, "cannot be asked"),
        ("layer=5%", 6, 8, "Leave out the %"),
        ("layer=8..3", 6, 10, "Nothing lies"),
        ('layer="3"', 6, 9, "no number"),
        ("layer=1e999", 6, 11, "too large"),
        ("kind=featur", 5, 11, "Choose one of"),
        ("pos>Dallas", 4, 10, "compares numbers"),
        ("label~", 5, 6, "needs a value"),
        ('label~""', 6, 8, "no text"),
        ("#x", 0, 2, "#1043"),
        (">3", 0, 1, "nothing before it"),
        ("(layer=1", 0, 1, "not closed"),
        ("in(", 3, 4, "missing"),
        ("in()", 3, 4, "missing"),
        ("layer=1)", 7, 8, "nothing to close"),
        ("layer=1 or", 10, 11, "missing"),
        ("or layer=1", 0, 2, "missing"),
        ("not", 3, 4, "missing"),
        ('pos="Dal', 4, 8, "no partner"),
        ("in(#1)=3", 6, 7, "cannot follow"),
        ("upstream(#1)>3", 12, 13, "cannot follow"),
        ("in(#1)>", 6, 7, "needs a value"),
        ("in(#1)>x", 7, 8, "no number"),
        (", 3", 0, 1, "nothing before it"),
        ("(" * 60 + "L1" + ")" * 60, 40, 41, "too deep"),
        ("in(" * 60 + "L1" + ")" * 60, 122, 123, "too deep"),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH, MAX_LENGTH + 1, "too long"),
    ],
)
def test_an_error_says_what_and_where(text: str, start: int, end: int, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert (caught.value.start, caught.value.end) == (start, end)
    assert caught.value.column == start + 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.start, again.end) == (str(caught.value), start, end)


def test_no_text_makes_it_fail_in_another_way_or_take_long() -> None:
    chance = random.Random(1)
    pieces = [*FLAGS, *FUNCTIONS, *(entry.name for entry in FIELDS), *'()<>=~!,#"“”\\ %.-\x00\n*']
    pieces += ["..", "3", "1e5", "Dallas", "L3", "A1/F2", "or", "and", "not", "\U0001f600", "İ"]
    pieces += ["\ud800", "9" * 40, "!=", "P1/token"]
    worst = 0.0
    for _ in range(4000):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(14)))
        began = time.process_time()
        try:
            query = parse(text)
        except QueryError as error:
            assert 0 <= error.start < error.end and error.what and error.todo
        else:
            found(query.text)
        complete(text, chance.randrange(len(text) + 1), Known(GRAPH.tokens))
        worst = max(worst, time.process_time() - began)
    assert worst < 1.0, "of 4000 small queries none may take as long as a big one"
    for text in ("not " * 500 + "L1", "!" * 2000, "L1 or " * 333 + "L1", "L1 " * 660, '"' * 2000):
        try:
            evaluate(parse(text), VIEW)
        except QueryError:
            continue


# ---- typing -------------------------------------------------------------------------------------


def options(text: str, cursor: Optional[int] = None) -> list[str]:
    known = Known(GRAPH.tokens, ("a capital", "in"), ("Big Cities",))
    at = len(text) if cursor is None else cursor
    return [option.text for option in complete(text, at, known).options]


def test_fields_flags_and_functions_are_offered_first_those_that_begin_alike() -> None:
    assert options("")[0] == "layer" and "pinned" in options("") and "in(" in options("")
    assert options("lay") == ["layer"]
    assert options("lab")[:2] == ["label", "labelled"]
    assert options("layer>1 den") == ["density"]
    assert options("in(pin")[0] == "pinned"
    assert options("zzz") == []
    assert options("density") == ["=", "!=", "<", "<=", ">", ">="]
    assert options("den layer=3", cursor=3) == ["density"]


def test_values_are_offered_as_they_have_to_be_typed() -> None:
    assert options("kind=") == ["feature", "error", "token", "output"]
    assert options("kind=feature, o") == ["output", "error", "token"]
    assert options("module!=a") == ["attention"]
    assert options("pos=") == [quoted_value("<s>"), "the", "cat"]
    assert options('pos="c') == ["cat"]
    assert options("label~") == ['"a capital"', '"in"']
    assert options('group="big') == ['"Big Cities"']
    assert options("layer>") == [] and options("nothing=") == []
    known = Known(GRAPH.tokens)
    done = complete('layer=1 pos="c', 14, known)
    assert (done.start, done.end) == (12, 14)


@pytest.mark.parametrize(
    "text", ["Dallas", "New York", 'a "b" \\', "3", "-x", "in", "<s>", "", "“"]
)
def test_a_quoted_value_is_read_as_the_text_it_was(text: str) -> None:
    (token,) = tokens_of(quoted_value(text))
    assert token.text == text and token.closed
    if text.strip():
        (words,) = list(parse(f"label~{quoted_value(text)}").parts())
        assert words.values == (text,)  # type: ignore[union-attr]


def test_all_examples_can_be_read() -> None:
    for text, meaning in EXAMPLES:
        assert not parse(text).everything and meaning
