"""Which positions, and which nodes, of two graphs stand for each other."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from attention_studio.core import position_map
from attention_studio.core.attribution_graph import AttributionGraph, NodeKind
from attention_studio.core.graph_alignment import CommonNodes
from attention_studio.core.graph_comparison import compare_graphs
from attention_studio.core.position_map import AlignmentError, PositionMap
from tests.hand_graphs import hand_graph


def changes(first: str, second: str, places: tuple[int, ...]) -> int:
    """How many changes an alignment needs: what is replaced, left out and put in."""
    replaced = sum(p >= 0 and first[i] != second[p] for i, p in enumerate(places))
    paired = sum(p >= 0 for p in places)
    return replaced + len(first) - paired + len(second) - paired


def all_alignments(n: int, m: int) -> list[tuple[int, ...]]:
    found = []
    for size in range(min(n, m) + 1):
        for a in itertools.combinations(range(n), size):
            for b in itertools.combinations(range(m), size):
                places = [-1] * n
                for i, j in zip(a, b, strict=True):
                    places[i] = j
                found.append(tuple(places))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_tokens_are_aligned_with_the_fewest_changes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = ("".join(generator.choice(list("abc"), generator.integers(0, 6)))
                     for _ in range(2))  # fmt: skip
    found = PositionMap.by_tokens(first, second).second
    paired = [place for place in found if place >= 0]
    assert paired == sorted(paired)
    least = min(changes(first, second, a) for a in all_alignments(len(first), len(second)))
    assert changes(first, second, found) == least


def test_a_name_stands_for_the_end_of_a_longer_name() -> None:
    dallas = ("<s>", "The", " city", " Dallas", " is")
    oakland = ("<s>", "The", " city", " Oak", "land", " is")
    assert PositionMap.by_tokens(dallas, oakland).second == (0, 1, 2, 4, 5)
    assert PositionMap.by_tokens(oakland, dallas).second == (0, 1, 2, -1, 3, 4)
    same = PositionMap.by_tokens(dallas, dallas)
    assert same.plain
    assert same == PositionMap.same(5, 5)
    assert not PositionMap.by_tokens(dallas, oakland).plain


@pytest.mark.parametrize(
    ("first", "second", "places"),
    [
        ("sab", "sabab", (0, 3, 4)),
        ("sabab", "sab", (0, -1, -1, 1, 2)),
        ("say", "saaz", (0, 2, 3)),
        ("sabx", "sababz", (0, 3, 4, 5)),
        ("sa", "saaab", (0, 3)),
        ("aa", "aaa", (0, 2)),
        ("sxay", "sxayay", (0, 1, 4, 5)),
    ],
)
def test_of_equal_tokens_the_later_ones_stand_for_each_other_and_first_ones_for_first(
    first: str, second: str, places: tuple[int, ...]
) -> None:
    assert PositionMap.by_tokens(first, second).second == places


def test_long_prompts_keep_their_common_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PositionMap.by_tokens("sabcdx", "sabcdddy").second == (0, 1, 2, 3, 6, 7)
    monkeypatch.setattr(position_map, "MAX_CELLS", 3)
    assert PositionMap.by_tokens("sabcdx", "sabcdddy").second == (0, 1, 2, 3, 4, 7)


def test_prompts_without_end_are_aligned_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_map, "MAX_CELLS", 5)
    assert PositionMap.by_tokens("xabcy", "xdefgy").second == (0, 1, 2, 3, 5)


def test_other_ways_to_begin() -> None:
    assert PositionMap.same(4, 3).second == (0, 1, 2, -1)
    assert PositionMap.same(2, 3).second == (0, 1)
    assert PositionMap.from_end(4, 6).second == (0, 3, 4, 5)
    assert PositionMap.from_end(5, 3).second == (0, -1, -1, 1, 2)
    assert PositionMap.from_end(3, 3).second == (0, 1, 2)
    assert PositionMap.from_end(0, 3).second == ()


def test_a_person_can_pair_positions() -> None:
    places = PositionMap.same(3, 4).paired(1, 2)
    assert places.second == (0, 2, -1)
    assert places.first().tolist() == [0, -1, 1, -1]
    assert (places.n_first, places.n_second, places.n_pairs) == (3, 4, 2)
    assert places.inverse == PositionMap((0, -1, 1, -1), 3)
    assert places.inverse.inverse == places
    assert places.paired(1, -1).second == (0, -1, -1)
    for first, second in ((3, 0), (-1, 0), (0, 4), (0, -2)):
        with pytest.raises(AlignmentError):
            places.paired(first, second)
    with pytest.raises(AlignmentError, match="stands for two"):
        PositionMap((1, 1), 3)


def moved(graph: AttributionGraph, order: list[int]) -> AttributionGraph:
    """The same graph with its positions elsewhere."""
    places = np.array(order, dtype=np.int32)
    return replace(graph, nodes=replace(graph.nodes, position=places[graph.nodes.position]))


def test_nodes_are_found_again_at_the_positions_that_stand_for_theirs() -> None:
    graph = hand_graph()
    other = moved(graph, [0, 2, 1, 3])
    apart = CommonNodes(graph, other)
    assert len(apart.only[0]) > 0
    together = CommonNodes(graph, other, PositionMap((0, 2, 1, 3), 4))
    assert together.n == len(graph.nodes)
    assert [len(only) for only in together.only] == [0, 0]
    assert np.array_equal(together.node_of[0], together.node_of[1])
    assert compare_graphs(graph, other, positions=PositionMap((0, 2, 1, 3), 4)).edges_moved == 0
    assert not compare_graphs(graph, other).same


def test_what_stands_for_nothing_is_only_in_its_own_graph() -> None:
    graph = hand_graph()
    common = CommonNodes(graph, graph, PositionMap((0, 1, -1, 3), 4))
    at_two = np.flatnonzero(graph.nodes.position == 2)
    for only in common.only:
        assert np.array_equal(np.sort(only), at_two)


def test_outputs_are_compared_wherever_they_come() -> None:
    """A longer prompt ends later, and its next token is still what is explained."""
    graph = hand_graph()
    longer = replace(graph, tokens=(*graph.tokens, "!"), token_ids=(*graph.token_ids, 5))
    common = CommonNodes(graph, moved(longer, [0, 1, 2, 4]), PositionMap.same(4, 5))
    outputs = np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)
    assert not set(outputs.tolist()) & set(common.only[0].tolist())
    with pytest.raises(AlignmentError, match="4 and 4 tokens"):
        CommonNodes(graph, longer, PositionMap.same(4, 4))


def test_outputs_of_another_model_go_by_their_text() -> None:
    graph = hand_graph()
    outputs = np.flatnonzero(graph.nodes.kind == NodeKind.LOGIT)
    index = graph.nodes.index.copy()
    index[outputs] = (900, 901)
    texts = {**graph.node_tokens, int(outputs[1]): "another"}
    other = replace(
        graph, nodes=replace(graph.nodes, index=index), node_tokens=texts, model_hash="cd" * 32
    )
    only = CommonNodes(graph, other, PositionMap.same(4, 4)).only
    assert [set(o.tolist()) & set(outputs.tolist()) for o in only] == [{int(outputs[1])}] * 2
    twice = replace(other, node_tokens={**texts, int(outputs[1]): texts[int(outputs[0])]})
    ambiguous = CommonNodes(graph, twice, PositionMap.same(4, 4)).only
    assert len(set(ambiguous[1].tolist()) & set(outputs.tolist())) == 2
    same_model = replace(other, model_hash=graph.model_hash)
    by_number = CommonNodes(graph, same_model, PositionMap.same(4, 4)).only
    assert len(set(by_number[0].tolist()) & set(outputs.tolist())) == 2
