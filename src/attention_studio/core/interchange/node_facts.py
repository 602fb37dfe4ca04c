"""What a node of another tool's graph file is: its kind, its module, its latent or token."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Optional

from attention_studio.core.attribution_graph import CONTRAST_BASE, NodeKind
from attention_studio.core.interchange.graph_document import (
    DocumentNode,
    GraphDocument,
    GraphDocumentError,
    is_error,
)
from attention_studio.core.sites import Site, SiteKind

MAX_LAYERS = 4096
MAX_INDEX = 1 << 40
MAX_CONTRAST = 1 << 53
"""Contrasts are numbered by both their tokens, and viewers count in doubles."""
_FEATURE_WORDS: dict[str, SiteKind] = {
    "cross layer transcoder": "mlp",
    "unexplored node": "mlp",
    "lorsa": "attention",
}
_ID = re.compile(r"(?:E|-?\d{1,9})_(?:lor_|cro_)?(-?\d{1,17})_(\d{1,9})")


@dataclass(frozen=True, eq=False)
class NodeFact:
    """What a node of the file is.

    ``index`` is as in ``GraphNodes``, -1 where the file does not tell; ``place`` is the node's
    among the file's ``nodes``.
    """

    kind: NodeKind
    site: Optional[Site]
    index: int
    node: DocumentNode
    place: int

    @property
    def key(self) -> tuple[Any, ...]:
        """Two nodes with the same key are the same."""
        index = -1 if self.kind in (NodeKind.ERROR, NodeKind.EMBEDDING) else self.index
        return (self.kind, self.site, self.node.ctx_idx, index)


def fact_of(
    document: GraphDocument, node: DocumentNode, place: int, name: str
) -> Optional[NodeFact]:
    """What a node is; None for a kind that a graph here has no place for. ``name`` is the file's.

    Raises:
        GraphDocumentError: its layer, latent or token cannot be told.
    """
    word = node.feature_type
    if word == "embedding":
        return NodeFact(NodeKind.EMBEDDING, None, _index_of_id(node, -1), node, place)
    if word == "logit":
        plain = node.feature if type(node.feature) is int else -1
        index = _index_of_id(node, plain)
        contrast = bool(document.own) and CONTRAST_BASE <= index < MAX_CONTRAST
        if not contrast and not 0 <= index < CONTRAST_BASE:
            raise refused(name, f"nodes.{place} ({node.node_id!r}) names no token")
        _layer(node, place, name)
        return NodeFact(NodeKind.LOGIT, None, index, node, place)
    if is_error(node):
        module: SiteKind = "attention" if re.search("lorsa|attn|attention", word) else "mlp"
        return NodeFact(NodeKind.ERROR, _site(document, node, module, place, name), -1, node, place)
    if word not in _FEATURE_WORDS:
        return None
    site = _site(document, node, _FEATURE_WORDS[word], place, name)
    index = _latent(document, node)
    if not 0 <= index < MAX_INDEX:
        raise refused(
            name,
            f"nodes.{place} ({node.node_id!r}, feature {str(node.feature)[:40]}) is a feature "
            "whose number cannot be told",
        )
    return NodeFact(NodeKind.FEATURE, site, index, node, place)


def _layer(node: DocumentNode, place: int, name: str) -> int:
    layer = node.layer
    if isinstance(layer, str) and re.fullmatch(r"[0-9]{1,6}", layer):
        layer = int(layer)
    if not isinstance(layer, int) or not 0 <= layer <= 2 * MAX_LAYERS:
        raise refused(name, f"nodes.{place}.layer is {node.layer!r}")
    return layer


def _site(
    document: GraphDocument, node: DocumentNode, kind: SiteKind, place: int, name: str
) -> Site:
    layer = _layer(node, place, name)
    if not document.layers_are_sites:
        return Site(layer, kind)
    site = Site.of_number(layer)
    if document.dialect == "llamascopium" and site.kind != kind:
        raise refused(
            name,
            f"nodes.{place} ({node.node_id!r}) is a {node.feature_type} of layer {layer}, and "
            "even layers are attentions there and odd ones MLPs",
        )
    return site


def _index_of_id(node: DocumentNode, otherwise: int) -> int:
    found = _ID.fullmatch(node.node_id)
    if found is None or int(found[2]) != node.ctx_idx:
        return otherwise
    return int(found[1])


def _latent(document: GraphDocument, node: DocumentNode) -> int:
    """A feature's latent: from its id, else from its ``feature`` as the version has it."""
    found = _index_of_id(node, -1)
    if found >= 0:
        return found
    number = node.feature
    if type(number) is not int or not 0 <= number < MAX_INDEX:
        return -1
    layer = int(node.layer)
    if (document.metadata.schema_version or 0) >= 1:
        first, second = cantor_unpair(number)
        return second if first == layer else -1
    rest = number - layer * 100_000
    return rest if 0 <= rest < 100_000 else -1


def cantor_pair(layer: int, index: int) -> int:
    """One number for two (Cantor), as viewers number features: see ``cantor_unpair``."""
    return (layer + index) * (layer + index + 1) // 2 + index


def cantor_unpair(number: int) -> tuple[int, int]:
    """The two numbers that ``cantor_pair`` made one of."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def check_distinct(facts: list[NodeFact], name: str) -> None:
    """Refuse a file in which two nodes are the same.

    Raises:
        GraphDocumentError: names both.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for fact in facts:
        if fact.key in seen:
            other = seen[fact.key]
            raise refused(name, f"{other!r} and {fact.node.node_id!r} are the same node")
        seen[fact.key] = fact.node.node_id


def refused(name: str, why: str) -> GraphDocumentError:
    """The error of a sound file that is no graph to us."""
    return GraphDocumentError(f"{name} cannot be opened as a graph", why)
