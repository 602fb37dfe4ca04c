"""Growing a global circuit from a feature: what leads to it and what it leads to, over a text.

Best first (He et al. 2025, *Bridging the Attention Gap: Complete Replacement Models*, grow their
atlas likewise): a latent's *relevance* is that of the one that it joined by, times the share that
their connection has of all that its target reads. Shares are comparable where activations are not.
What is reached upwards of the stream is followed upwards, what is reached downwards downwards.

Numpy and networkx only, as ``core.global_weights``.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from attention_studio.core.global_weights import (
    Direction,
    Doubles,
    Floats,
    GlobalWeights,
    GlobalWeightsError,
    Ints,
)
from attention_studio.utils.files import atomic_write, write_json_atomic

SUFFIXES = (".json", ".graphml")


@dataclass(frozen=True)
class GrowthSettings:
    """How far a circuit grows.

    Attributes:
        nodes: at most so many latents, those that it grows from included.
        direction: what leads to them, what they lead to, or both.
        least_relevance: latents below are left out.
        least_share: edges with a smaller share of what their target reads are left out, and not
            grown along.
        most_frequent: latents that are active at a larger share of the positions do not join: some
            are nearly always on and connected to everything.

    Raises:
        GlobalWeightsError: a setting with which nothing can be grown.
    """

    nodes: int = 30
    direction: Literal["upstream", "downstream", "both"] = "both"
    least_relevance: float = 1e-4
    least_share: float = 0.01
    most_frequent: float = 1.0

    def __post_init__(self) -> None:
        for name, usable in (
            ("nodes", self.nodes >= 1),
            ("direction", self.direction in ("upstream", "downstream", "both")),
            ("least_relevance", 0 <= self.least_relevance <= 1),
            ("least_share", 0 <= self.least_share <= 1),
            ("most_frequent", 0 < self.most_frequent <= 1),
        ):
            if not usable:
                raise GlobalWeightsError(
                    f"{name} = {getattr(self, name)} cannot be used to grow a circuit",
                    "shares lie between 0 and 1, and a circuit has a node",
                    "correct it or leave it out",
                )


@dataclass(frozen=True)
class GlobalCircuit:
    """A part of the atlas: n latents in the order in which they joined, m edges between them.

    Attributes:
        names: as ``LatentTable.name``.
        latents: [n] their numbers.
        site: [n] ``Site.number``; index: [n] within their own dictionary.
        relevance: [n]; 1 for those that it was grown from.
        joined_by: [n] the node that each joined by; -1 for those that it was grown from.
        side: [n] -1 upstream, 1 downstream, 0 for those that it was grown from.
        activation: [n] mean where active; frequency: [n] share of the positions.
        covered: [n] share of all that a node reads that comes from the other nodes.
        promoted: tokens that each promotes most.
        edge_source, edge_target: [m] nodes.
        effect, share, virtual, count: [m] of the edges, as in ``Connections``.
    """

    names: tuple[str, ...]
    latents: Ints
    site: Ints
    index: Ints
    relevance: Doubles
    joined_by: Ints
    side: NDArray[np.int8]
    activation: Doubles
    frequency: Doubles
    covered: Doubles
    promoted: tuple[tuple[str, ...], ...]
    edge_source: Ints
    edge_target: Ints
    effect: Doubles
    share: Doubles
    virtual: Floats
    count: Floats

    def to_networkx(self) -> nx.DiGraph:
        """For networkx, nodes by their names."""
        graph = nx.DiGraph()
        for node in self.as_record()["nodes"]:
            name, words = node.pop("name"), node.pop("promoted")
            graph.add_node(name, **node, promoted=" ".join(map(_shown, words)))
        for edge in self.as_record()["edges"]:
            graph.add_edge(edge.pop("source"), edge.pop("target"), **edge)
        return graph

    def as_record(self) -> dict[str, Any]:
        """As JSON holds it: a list of nodes and a list of edges."""
        return {
            "nodes": [
                {
                    "name": name,
                    "layer": int(self.site[i]) // 2,
                    "module": "mlp" if self.site[i] % 2 else "attention",
                    "latent": int(self.index[i]),
                    "relevance": float(self.relevance[i]),
                    "joined_by": self.names[self.joined_by[i]] if self.joined_by[i] >= 0 else "",
                    "side": ("upstream", "start", "downstream")[int(self.side[i]) + 1],
                    "activation": float(self.activation[i]),
                    "frequency": float(self.frequency[i]),
                    "covered": float(self.covered[i]),
                    "promoted": list(self.promoted[i]),
                }
                for i, name in enumerate(self.names)
            ],
            "edges": [
                {
                    "source": self.names[source],
                    "target": self.names[target],
                    "effect": float(self.effect[i]),
                    "share": float(self.share[i]),
                    "virtual": float(self.virtual[i]),
                    "count": float(self.count[i]),
                }
                for i, (source, target) in enumerate(
                    zip(self.edge_source, self.edge_target, strict=True)
                )
            ],
        }

    def save(self, path: Path) -> None:
        """Write it; the suffix decides the format, one of ``SUFFIXES``.

        Raises:
            GlobalWeightsError: it is another.
            FileWriteError: the file cannot be written.
        """
        if path.suffix == ".json":
            write_json_atomic(path, self.as_record())
        elif path.suffix == ".graphml":
            with atomic_write(path) as temporary:
                nx.write_graphml_xml(self.to_networkx(), temporary)
        else:
            raise GlobalWeightsError(
                f"A circuit cannot be written to {path.name}", "", f"end it in {SUFFIXES}"
            )


def grow(
    weights: GlobalWeights, start: Sequence[int], settings: Optional[GrowthSettings] = None
) -> GlobalCircuit:
    """Grow a circuit from some latents (by their numbers).

    Raises:
        GlobalWeightsError: there is no such latent, or none was named.
    """
    settings = settings or GrowthSettings()
    if not start:
        raise GlobalWeightsError("There is nothing to grow from", "", "name a feature")
    joined = _joined(weights, list(dict.fromkeys(start)), settings)
    latents = np.array([latent for latent, _, _, _ in joined], dtype=np.int64)
    place = {int(latent): i for i, latent in enumerate(latents)}
    pairs, sources, targets = weights.between(latents)
    shares = weights.shares(pairs, targets)
    covered = np.zeros(len(latents))
    node_of = np.full(len(weights.table), -1, dtype=np.int64)
    node_of[latents] = np.arange(len(latents))
    np.add.at(covered, node_of[targets], np.abs(shares))
    used = (np.abs(shares) >= settings.least_share) & (shares != 0)
    pairs, sources, targets, shares = (column[used] for column in (pairs, sources, targets, shares))
    order = np.argsort(-np.abs(shares), kind="stable")
    pairs, sources, targets, shares = (
        column[order] for column in (pairs, sources, targets, shares)
    )
    table = weights.table
    return GlobalCircuit(
        names=tuple(table.name(int(latent)) for latent in latents),
        latents=latents,
        site=np.array([table.site_of(int(x)).number for x in latents], dtype=np.int64),
        index=np.array([table.index_of(int(x)) for x in latents], dtype=np.int64),
        relevance=np.array([relevance for _, relevance, _, _ in joined]),
        joined_by=np.array([place.get(by, -1) for _, _, by, _ in joined], dtype=np.int64),
        side=np.array([side for _, _, _, side in joined], dtype=np.int8),
        activation=np.array([weights.mean_activation(int(x)) for x in latents]),
        frequency=np.array([weights.frequency(int(x)) for x in latents]),
        covered=covered,
        promoted=tuple(weights.promotes(int(x)) for x in latents),
        edge_source=node_of[sources],
        edge_target=node_of[targets],
        effect=weights.effects(pairs, targets),
        share=shares,
        virtual=weights.virtual[pairs],
        count=weights.count[pairs],
    )


def _joined(
    weights: GlobalWeights, start: list[int], settings: GrowthSettings
) -> list[tuple[int, float, int, int]]:
    """(latent, relevance, the latent that it joined by, side), in the order of joining."""
    # Ties go to the smaller number, so that the same statistics grow the same circuit.
    waiting: list[tuple[float, int, int, int]] = [(-1.0, latent, -1, 0) for latent in start]
    heapq.heapify(waiting)
    found: dict[int, tuple[int, float, int, int]] = {}
    directions: dict[int, tuple[Direction, ...]] = {-1: ("upstream",), 1: ("downstream",)}
    directions[0] = (
        ("upstream", "downstream") if settings.direction == "both" else (settings.direction,)
    )
    while waiting and len(found) < settings.nodes:
        negative, latent, by, side = heapq.heappop(waiting)
        if latent in found:
            continue
        found[latent] = (latent, -negative, by, side)
        for direction in directions[side]:
            near = weights.upstream if direction == "upstream" else weights.downstream
            # Of some that may not join, as many again would have to be asked for.
            links = near(latent, settings.nodes if settings.most_frequent == 1 else None)
            for other, share in zip(links.others.tolist(), links.share.tolist(), strict=True):
                relevance = -negative * abs(share)
                if (
                    abs(share) >= settings.least_share
                    and relevance >= settings.least_relevance
                    and other not in found
                    and weights.frequency(other) <= settings.most_frequent
                ):
                    step = -1 if direction == "upstream" else 1
                    heapq.heappush(waiting, (-relevance, other, latent, step))
    return list(found.values())


def _shown(word: str) -> str:
    """A token as XML may hold it."""
    return word.strip() if word.strip().isprintable() and word.strip() else json.dumps(word)
