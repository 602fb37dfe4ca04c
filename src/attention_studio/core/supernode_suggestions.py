"""Supernodes that a graph itself suggests: features that hear the same, say the same and write in
the same direction.

How alike two features are is the mean of what is known of them, each a cosine:

- *inputs*: their rows of A, the shares of their inputs (Ameisen et al. 2025, row-normalised edges);
- *outputs*: their columns of A, each target weighted by its influence on the outputs;
- *decoders*: what they write to the residual stream, where a replacement model is open.

Features are joined by average linkage (Sokal and Michener 1958) as long as the mean likeness of two
clusters' members is at least a threshold. Each suggestion comes with the scores that the subgraph
would have if it were accepted, since it may bring in nodes that are not pinned yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.graph_pruning import TINY, GraphScores, restricted
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import made_by
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.replacement_model import CompleteReplacementModel

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SuggestionConfig:
    """What is suggested.

    Attributes:
        likeness: least mean likeness within a suggestion, a cosine.
        one_position: whether a suggestion's features are at one token.
        pinned_only: whether only pinned features are grouped, or others of the pruned graph too.
        most_features: so many of the features with the greatest influence are compared.
        most_members: features of one suggestion.
        most_suggestions: how many are made.
    """

    likeness: float = 0.6
    one_position: bool = True
    pinned_only: bool = False
    most_features: int = 300
    most_members: int = 10
    most_suggestions: int = 12


@dataclass(frozen=True)
class SupernodeSuggestion:
    """Features that might be one supernode.

    Attributes:
        name: what it might be called.
        nodes: names of the features, lowest layer first.
        new: those of them that are not pinned yet.
        likeness: mean likeness of all pairs.
        inputs, outputs: mean cosine of inputs and of outputs.
        decoders: mean cosine of decoders; None where no replacement model was asked.
        influence: sum of the features' influence on the outputs.
        scores: of the subgraph once this is accepted.
    """

    name: str
    nodes: tuple[str, ...]
    new: tuple[str, ...]
    likeness: float
    inputs: float
    outputs: float
    decoders: Optional[float]
    influence: float
    scores: GraphScores


@dataclass(frozen=True)
class Suggestions:
    """What was suggested, best first, and the scores of the subgraph as it is."""

    now: GraphScores
    found: tuple[SupernodeSuggestion, ...]


def suggest_supernodes(
    graph: AttributionGraph,
    pruned: PrunedGraph,
    notes: GraphNotes,
    crm: Optional[CompleteReplacementModel] = None,
    config: SuggestionConfig = SuggestionConfig(),
    rejected: Iterable[frozenset[str]] = (),
    ctx: Optional[WorkContext] = None,
) -> Suggestions:
    """Look for supernodes among the features that are not in one yet.

    Args:
        graph: the whole graph.
        pruned: the part of it that is looked at.
        notes: what is pinned and grouped.
        crm: whose decoders are compared, if the graph was traced with it; None: edges alone decide.
        config: what is suggested.
        rejected: sets of nodes that are not to be suggested again.
        ctx: asked now and then whether to go on, and told how far it is.

    Raises:
        Cancelled: somebody asked ``ctx`` to stop.
    """
    ctx = ctx or WorkContext()
    features = _candidates(graph, pruned, notes, config)
    ctx.progress(0, None, "Comparing features")
    inputs, outputs = edge_likeness(graph, pruned, features)
    ctx.check()
    # Decoders of other dictionaries than those that the graph was traced with say nothing of it.
    asked = crm if crm is not None and made_by(graph, crm) else None
    decoders = None if asked is None else decoder_likeness(graph, features, asked)
    ctx.check()
    kinds = [part for part in (inputs, outputs, decoders) if part is not None]
    likeness = _mean_known(kinds)
    apart = np.zeros(likeness.shape, dtype=bool)
    if config.one_position:
        position = graph.nodes.position[features]
        apart = position[:, None] != position
    clusters = average_linkage(
        np.where(apart, -np.inf, likeness), config.likeness, config.most_members
    )
    ctx.check()
    refused = set(rejected)
    pinned = set(notes.pinned)
    made: list[SupernodeSuggestion] = []
    now = _scores_with(graph, notes, ())
    for cluster in clusters:
        members = features[cluster][
            np.lexsort((features[cluster], graph.nodes.depth[features[cluster]]))
        ]
        names = tuple(graph.node_name(int(node)) for node in members)
        if frozenset(names) in refused:
            continue
        made.append(
            SupernodeSuggestion(
                name=name_for(graph, notes, members.tolist()),
                nodes=names,
                new=tuple(name for name in names if name not in pinned),
                likeness=_mean_pair(likeness, cluster),
                inputs=_mean_pair(inputs, cluster),
                outputs=_mean_pair(outputs, cluster),
                decoders=None if decoders is None else _mean_pair(decoders, cluster),
                influence=float(graph.influence[members].sum()),
                scores=now,
            )
        )
    # What matters to the output and belongs together clearly comes first.
    made.sort(
        key=lambda suggestion: (-suggestion.influence * suggestion.likeness, suggestion.nodes)
    )
    found = []
    for number, suggestion in enumerate(made[: config.most_suggestions]):
        ctx.check()
        ctx.progress(number, len(made), "Scoring suggestions")
        found.append(replace(suggestion, scores=_scores_with(graph, notes, suggestion.nodes)))
    return Suggestions(now, tuple(found))


def rescored(
    graph: AttributionGraph,
    notes: GraphNotes,
    suggestions: Sequence[SupernodeSuggestion],
    ctx: Optional[WorkContext] = None,
) -> Suggestions:
    """The same suggestions with what their scores would be now, and without those whose features
    have gone into supernodes since.

    Raises:
        Cancelled: somebody asked ``ctx`` to stop.
    """
    grouped = {name for group in notes.supernodes for name in group.nodes}
    pinned = set(notes.pinned)
    left = []
    for suggestion in suggestions:
        if ctx is not None:
            ctx.check()
        if not grouped.intersection(suggestion.nodes):
            left.append(
                replace(
                    suggestion,
                    new=tuple(name for name in suggestion.nodes if name not in pinned),
                    scores=_scores_with(graph, notes, suggestion.nodes),
                )
            )
    return Suggestions(_scores_with(graph, notes, ()), tuple(left))


def _candidates(
    graph: AttributionGraph, pruned: PrunedGraph, notes: GraphNotes, config: SuggestionConfig
) -> Ints:
    """The features that are compared: pinned ones first, then by influence."""
    from attention_studio.core.attribution_graph import NodeKind

    grouped = {name for group in notes.supernodes for name in group.nodes}
    pinned = [graph.find(name) for name in notes.pinned if name not in grouped and graph.has(name)]
    others = [] if config.pinned_only else pruned.node_ids.tolist()
    taken = {graph.find(name) for name in grouped if graph.has(name)}
    rest = sorted(set(others) - set(pinned) - taken, key=lambda node: -graph.influence[node])
    nodes = np.array([*pinned, *rest], dtype=np.int64)
    features: Ints = nodes[graph.nodes.kind[nodes] == NodeKind.FEATURE]
    return features[: config.most_features]


def edge_likeness(
    graph: AttributionGraph, pruned: PrunedGraph, features: Ints
) -> tuple[Floats, Floats]:
    """Cosines of the inputs, and of the outputs, of some features [k, k] each.

    Edges among the pruned graph's nodes and the features count. A feature without edges on one
    side is like nothing there: nan.
    """
    keep = np.zeros(len(graph.nodes), dtype=bool)
    keep[pruned.node_ids], keep[features] = True, True
    place = np.full(len(keep), -1, dtype=np.int64)
    place[features] = np.arange(len(features))
    column = np.cumsum(keep) - 1
    weight = graph.influence + graph.start
    inputs = np.zeros((len(features), int(keep.sum())), dtype=np.float32)
    outputs = np.zeros_like(inputs)
    for block in restricted(graph.edges.blocks(), keep):
        shares = block.weights / np.maximum(graph.totals[block.targets], TINY)[:, None]
        mine = np.flatnonzero(place[block.targets] >= 0)
        inputs[np.ix_(place[block.targets[mine]], column[block.columns])] = shares[mine]
        mine = np.flatnonzero(place[block.columns] >= 0)
        rows = np.ix_(place[block.columns[mine]], column[block.targets])
        outputs[rows] = (shares[:, mine] * weight[block.targets][:, None]).T
    return _cosines(inputs), _cosines(outputs)


def decoder_likeness(
    graph: AttributionGraph, features: Ints, crm: CompleteReplacementModel
) -> Floats:
    """Cosines of what features write to the residual stream in all [k, k]; nan for features of
    modules that the replacement model has no dictionary for."""
    import torch

    from attention_studio.core.site_latents import SiteLatents

    sites = [graph.nodes.site(int(node)) for node in features]
    written = np.zeros((len(features), crm.loaded.info.d_model), dtype=np.float32)
    known: set[Site] = set(crm.sites)
    for site in {site for site in sites if site is not None and site in known}:
        mine = np.array([number for number, other in enumerate(sites) if other == site])
        latents = SiteLatents(crm.dictionaries, site)
        index = torch.as_tensor(graph.nodes.index[features[mine]])
        if int(index.max()) >= latents.n:
            continue  # a graph of other dictionaries: nothing can be said
        with torch.no_grad():
            for decoder in latents.decoders.values():
                rows = decoder[index.to(decoder.device)]
                written[mine] += rows.to("cpu", torch.float32).numpy()
    return _cosines(written)


def _cosines(rows: NDArray[np.float32]) -> Floats:
    """Cosines of all pairs of rows [k, k]; nan where a row is zero."""
    norm = np.sqrt((rows.astype(np.float64) ** 2).sum(1))
    unit = rows / np.where(norm > 0, norm, np.nan)[:, None]
    with np.errstate(invalid="ignore"):
        cosines: Floats = np.clip(unit @ unit.T, -1.0, 1.0)
    return cosines


def _mean_known(parts: Sequence[Floats]) -> Floats:
    """Mean of matrices, entry by entry, of those that are known there; 0 where none is."""
    stacked = np.stack(parts)
    known = ~np.isnan(stacked)
    summed = np.where(known, stacked, 0.0).sum(0)
    return np.asarray(summed / np.maximum(known.sum(0), 1))


def _mean_pair(matrix: Floats, members: Sequence[int]) -> float:
    """Mean over all pairs of different members of what is known; 0 where nothing is."""
    part = matrix[np.ix_(members, members)][np.triu_indices(len(members), 1)]
    known = part[~np.isnan(part)]
    return float(known.mean()) if len(known) else 0.0


def average_linkage(likeness: Floats, least: float, most_members: int) -> list[list[int]]:
    """Clusters of at least two by average linkage, the first members in order.

    The two clusters whose members are most alike on average are joined, again and again, while that
    mean is at least ``least`` and the cluster stays within ``most_members``. Equal means: the
    clusters that come first.

    Args:
        likeness: [k, k], symmetric; -inf for two that may never be together.
        least: the mean at which joining ends.
        most_members: of one cluster.
    """
    count = len(likeness)
    mean = np.array(likeness, dtype=np.float64)
    np.fill_diagonal(mean, -np.inf)
    members: list[list[int]] = [[number] for number in range(count)]
    size = np.ones(count)
    while count:
        best = int(np.argmax(mean))
        first, second = divmod(best, count)
        if mean[first, second] < least:
            break
        if size[first] + size[second] > most_members:
            mean[first, second] = mean[second, first] = -np.inf
            continue
        # Lance and Williams 1967: the mean to a union is the mean of the means, by size.
        joined = size[first] * mean[first] + size[second] * mean[second]
        joined = joined / (size[first] + size[second])
        joined[[first, second]] = -np.inf
        mean[first], mean[:, first] = joined, joined
        mean[second], mean[:, second] = -np.inf, -np.inf
        members[first] = sorted(members[first] + members[second])
        members[second] = []
        size[first] += size[second]
    return [cluster for cluster in members if len(cluster) > 1]


def name_for(graph: AttributionGraph, notes: GraphNotes, nodes: Sequence[int]) -> str:
    """A name for some features: the label that most of them have, else the tokens that most of
    them promote, else where they are."""
    labels = Counter(
        label for node in nodes if (label := notes.label_of(graph.node_name(node)).strip())
    )
    if labels:
        return labels.most_common(1)[0][0]
    promoted: Counter[str] = Counter()
    for node in nodes:
        words = [word.strip() for word in graph.captions.get(node, "").split(",")]
        promoted.update(list(dict.fromkeys(word for word in words if word)))
    common = [word for word, times in promoted.most_common(3) if times >= min(2, len(nodes))]
    if common:
        return " / ".join(common[:2])
    sites = [graph.nodes.site(node) for node in nodes]
    labels_of_sites = [site.label for site in sites if site is not None]
    first, last = (labels_of_sites or [""])[0], (labels_of_sites or [""])[-1]
    where = first if first == last else f"{first}\N{EN DASH}{last}"
    tokens = {graph.tokens[int(graph.nodes.position[node])].strip() for node in nodes}
    at = f" at \N{LEFT DOUBLE QUOTATION MARK}{tokens.pop()}\N{RIGHT DOUBLE QUOTATION MARK}"
    return where if tokens else where + at


def _scores_with(graph: AttributionGraph, notes: GraphNotes, more: Iterable[str]) -> GraphScores:
    """Scores of the subgraph of what is pinned and ``more``."""
    kept = {graph.find(name) for name in (*notes.pinned, *more) if graph.has(name)}
    return graph.subgraph_scores(sorted(kept))
