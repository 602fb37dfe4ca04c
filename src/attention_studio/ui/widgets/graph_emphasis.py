"""A ``Highlight`` in the terms of a scene: which of its nodes and edges are drawn. Knows no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.widgets.graph_scene import Bools, GraphScene, Ints


@dataclass(frozen=True)
class Emphasis:
    """What of a highlight a scene can show.

    Attributes:
        nodes: [k] local indices, and ``node_roles`` [k] of them.
        sources, targets: [e] local indices of the ends of edges, and ``edge_roles`` [e]. They need
            not be edges of the scene, whose thresholds may have left them out.
        dim: whether everything else steps back.
    """

    nodes: Ints
    node_roles: tuple[Role, ...]
    sources: Ints
    targets: Ints
    edge_roles: tuple[Role, ...]
    dim: bool

    @classmethod
    def of(cls, highlight: Optional[Highlight], scene: GraphScene) -> Optional[Emphasis]:
        """What a scene can show of a highlight; None for none."""
        if highlight is None:
            return None
        nodes = [
            (local, role)
            for name, role in highlight.nodes.items()
            if (local := scene.local(name)) is not None
        ]
        edges = [
            (source, target, role)
            for (start, end), role in highlight.edges.items()
            if (source := scene.local(start)) is not None
            and (target := scene.local(end)) is not None
        ]
        return cls(
            nodes=np.array([local for local, _ in nodes], dtype=np.int64),
            node_roles=tuple(role for _, role in nodes),
            sources=np.array([source for source, _, _ in edges], dtype=np.int64),
            targets=np.array([target for _, target, _ in edges], dtype=np.int64),
            edge_roles=tuple(role for _, _, role in edges),
            dim=highlight.dim_rest,
        )

    def touched(self, n_nodes: int) -> Bools:
        """[n_nodes] which nodes are emphasised, or are ends of edges that are."""
        touched = np.zeros(n_nodes, dtype=bool)
        for part in (self.nodes, self.sources, self.targets):
            touched[part] = True
        return touched

    def edges_in(self, role: Role) -> tuple[Ints, Ints]:
        """Both ends of the edges of one role."""
        mine = np.array([other is role for other in self.edge_roles], dtype=bool)
        return self.sources[mine], self.targets[mine]
