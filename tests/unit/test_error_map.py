"""The map of errors against a plain loop over nodes, and against the replacement score."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.core.attribution_graph import NodeKind
from attention_studio.core.error_map import error_map
from attention_studio.core.sites import Site
from tests.hand_graphs import hand_graph


@pytest.mark.parametrize("complete", [True, False])
def test_every_error_node_is_in_its_place(complete: bool) -> None:
    graph = hand_graph(complete)
    found = error_map(graph)
    assert found.tokens == graph.tokens
    assert list(found.sites) == sorted(found.sites)
    seen = 0
    for node in range(len(graph.nodes)):
        if graph.nodes.kind[node] != NodeKind.ERROR:
            continue
        site = graph.nodes.site(node)
        assert site is not None
        place = found.sites.index(site), int(graph.nodes.position[node])
        assert found.nodes[place] == node
        assert found.influence[place] == pytest.approx(float(graph.influence[node]))
        assert found.size[place] == pytest.approx(float(graph.nodes.activation[node]))
        seen += 1
    assert seen == (found.nodes >= 0).sum() > 0
    assert not found.influence[found.nodes < 0].any()


@pytest.mark.parametrize("complete", [True, False])
def test_shares_are_what_the_replacement_score_leaves(complete: bool) -> None:
    graph = hand_graph(complete)
    found = error_map(graph)
    untraced = float(graph.influence[graph.untraced].sum()) / found.total
    assert found.share + untraced == pytest.approx(1 - graph.scores.replacement, abs=1e-5)
    ranked = found.by_module()
    assert sum(share for _, share in ranked) == pytest.approx(found.share)
    shares = [share for _, share in ranked]
    assert shares == sorted(shares, reverse=True)


def test_the_fewest_modules_that_hold_a_share() -> None:
    found = error_map(hand_graph())
    shares = dict(found.by_module())
    whole = sum(shares.values())
    for wanted in (0.1, 0.5, 0.9, 1.0):
        chosen = found.worst(wanted)
        held = sum(shares[site] for site in chosen)
        assert held >= wanted * whole - 1e-9
        # Without the least of them it would not be enough.
        assert held - min(shares[site] for site in chosen) < wanted * whole
        left = [share for site, share in shares.items() if site not in chosen]
        assert not left or min(shares[site] for site in chosen) >= max(left) - 1e-12
    assert found.worst(0.0) == ()


def test_without_influence_there_is_nothing_to_rank() -> None:
    graph = hand_graph()
    graph.influence[:] = 0
    found = error_map(graph)
    assert found.share == 0.0 and found.worst(0.5) == ()
    assert all(isinstance(site, Site) for site, _ in found.by_module())
    assert np.isfinite(found.size).all()
