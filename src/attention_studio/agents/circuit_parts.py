"""Finds the parts of a circuit in a graph, without any language model: supernodes, what they are
called, and the ways from tokens over them to the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.agents.circuit_story import StoryError, StoryExample, StorySupernode, Way
from attention_studio.agents.deterministic_explainer import (
    example_reference,
    explain_page,
    page_examples,
)
from attention_studio.agents.explanations import DETERMINISTIC
from attention_studio.agents.story_words import plain_name, shown
from attention_studio.core.attribution_graph import NodeKind, contrasted
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import PERSON
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.graph_pruning import TINY
from attention_studio.core.path_search import Path
from attention_studio.core.supernode_suggestions import (
    SuggestionConfig,
    name_for,
    suggest_supernodes,
)
from attention_studio.core.trace_circumstances import dictionaries_of
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.feature_records import FeaturePage
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.replacement_model import CompleteReplacementModel

_EXAMPLES = 3
"""Examples of each supernode that the story shows."""
_LEAST_HEARD = 0.1


@dataclass(frozen=True)
class CircuitSettings:
    """What is told, and how it is tested.

    Attributes:
        node_threshold, edge_threshold: what the graph is pruned to before features are grouped.
        paths: so many of the strongest paths are followed.
        supernodes: at most so many are told, those through which most strength passes.
        ways: at most so many are told.
        words: tokens that a supernode writes, and that it suppresses.
        least_share: edges that give less of a supernode's input are not told.
        looks: of so many supernodes of attention it is told why they look where they look; 0: of
            none.
        controls: draws of other features for each intervention.
        proposals: interventions that a language model may propose.
        seed: of the draws.
        suggestions: how features are grouped.
    """

    node_threshold: float = 0.8
    edge_threshold: float = 0.98
    paths: int = 400
    supernodes: int = 10
    ways: int = 5
    words: int = 8
    least_share: float = 0.03
    looks: int = 10
    controls: int = 3
    proposals: int = 6
    seed: int = 0
    suggestions: SuggestionConfig = field(
        default_factory=lambda: SuggestionConfig(most_suggestions=24)
    )


@dataclass(frozen=True)
class CircuitParts:
    """What a graph is taken to consist of.

    Attributes:
        answer: name of the output.
        supernodes: in order of the forward pass.
        tokens: names of the tokens' nodes from which the ways begin, by position.
        ways: the strongest first.
        examples: of the supernodes' features.
    """

    answer: str
    supernodes: tuple[StorySupernode, ...]
    tokens: tuple[str, ...]
    ways: tuple[Way, ...]
    examples: tuple[StoryExample, ...] = ()


def find_parts(
    graph: AttributionGraph,
    settings: Optional[CircuitSettings] = None,
    *,
    pruned: Optional[PrunedGraph] = None,
    notes: Optional[GraphNotes] = None,
    replacement: Optional[CompleteReplacementModel] = None,
    store: Optional[FeatureStore] = None,
    ctx: Optional[WorkContext] = None,
) -> CircuitParts:
    """Take a graph apart.

    Args:
        graph: the whole graph.
        settings: what is wanted.
        pruned: the part whose features are grouped; None: by the thresholds of ``settings``.
        notes: what a person has made of it; their supernodes and labels come first.
        replacement: says what supernodes write; without it captions of the graph do.
        store: dashboards: examples and labels.
        ctx: progress and cancellation.

    Raises:
        StoryError: the graph explains no next token.
        Cancelled: through ``ctx``.
    """
    ctx, notes = ctx or WorkContext(), notes or GraphNotes()
    settings = settings or CircuitSettings()
    answer = _answer(graph)
    if pruned is None:
        pruned = graph.prune(settings.node_threshold, settings.edge_threshold)
    found = suggest_supernodes(
        graph, pruned, notes, replacement, settings.suggestions, ctx=ctx
    ).found
    groups = [tuple(map(graph.find, _there(graph, one.nodes))) for one in notes.supernodes]
    given = {n: one.name for n, one in enumerate(notes.supernodes) if one.name}
    groups += [tuple(map(graph.find, one.nodes)) for one in found]
    box = {node: number for number, group in enumerate(groups) for node in group}
    # Not from the first token, where attention rests.
    tokens = np.flatnonzero((graph.nodes.kind == NodeKind.EMBEDDING) & (graph.nodes.position > 0))
    paths = graph.strongest_paths(tokens.tolist(), answer, settings.paths, pruned, ctx).paths
    for path in paths:
        for node in path.nodes[1:-1]:
            if node not in box:  # a feature that goes with no other
                box[node] = len(groups)
                groups.append((node,))
    chains = _chains(paths, box)
    through: dict[int, float] = defaultdict(float)
    for stops, (strength, _, _) in chains.items():
        for stop in stops[1:-1]:
            through[stop] += strength
    chosen = sorted(through, key=lambda number: (-through[number], number))
    chosen = chosen[: settings.supernodes]
    depth = graph.nodes.depth
    chosen.sort(key=lambda n: (float(np.mean([depth[node] for node in groups[n]])), n))
    key = {number: f"S{place}" for place, number in enumerate(chosen, 1)}
    ways = []
    for stops, (strength, net, n_paths) in chains.items():
        if all(stop in key for stop in stops[1:-1]):
            names = (graph.node_name(stops[0]), *(key[stop] for stop in stops[1:-1]))
            ways.append(Way((*names, graph.node_name(answer)), strength, net, n_paths))
    ways.sort(key=lambda way: (-way.strength, way.stops))
    ctx.check()
    ctx.progress(0, None, "Naming supernodes")
    writes = _written(graph, [groups[n] for n in chosen], settings.words, replacement)
    pages = _pages(graph, [groups[n] for n in chosen], store)
    supernodes, examples = [], []
    for number, words in zip(chosen, writes, strict=True):
        made, shown_of_it = _supernode(
            graph, notes, key[number], groups[number], words, pages, given.get(number, "")
        )
        supernodes.append(made)
        examples += shown_of_it
    begins = {graph.find(way.stops[0]) for way in ways}
    in_order = sorted(begins, key=lambda node: int(graph.nodes.position[node]))
    return CircuitParts(
        answer=graph.node_name(answer),
        supernodes=tuple(supernodes),
        tokens=tuple(map(graph.node_name, in_order)),
        ways=tuple(ways),
        examples=tuple(examples),
    )


def _answer(graph: AttributionGraph) -> int:
    """The likeliest output."""
    logits = graph.nodes.kind == NodeKind.LOGIT
    single = np.array(
        [bool(logit) and contrasted(int(index)) is None
         for logit, index in zip(logits, graph.nodes.index, strict=True)]
    )  # fmt: skip
    weight = np.where(single, graph.start, -1.0)
    if not single.any() or weight.max() <= 0:
        raise StoryError(
            "This graph explains no next token",
            "its outputs are contrasts or features",
            "Trace the prompt for its likeliest next tokens",
        )
    return int(weight.argmax())


def _there(graph: AttributionGraph, names: Sequence[str]) -> list[str]:
    return [name for name in names if graph.has(name)]


def _chains(
    paths: Sequence[Path], box: Mapping[int, int]
) -> dict[tuple[int, ...], tuple[float, float, int]]:
    """Paths by the boxes that they lead over: strength, net strength, and number of paths.

    The first stop is the token's node, the last the output's, those between are numbers of boxes.
    """
    found: dict[tuple[int, ...], tuple[float, float, int]] = {}
    for path in paths:
        between: list[int] = []
        for node in path.nodes[1:-1]:
            if not between or between[-1] != box[node]:
                between.append(box[node])
        stops = (path.nodes[0], *between, path.nodes[-1])
        strength, net, number = found.get(stops, (0.0, 0.0, 0))
        found[stops] = (
            strength + path.strength,
            net + path.sign * path.strength,
            number + 1,
        )
    return found


def _written(
    graph: AttributionGraph,
    groups: Sequence[tuple[int, ...]],
    n_words: int,
    replacement: Optional[CompleteReplacementModel],
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The tokens that each group raises and lowers most, by all that it writes on this prompt."""
    if replacement is None:
        found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for group in groups:
            words = [w for node in group for w in graph.captions.get(node, "").split(", ") if w]
            found.append((tuple(dict.fromkeys(words))[:n_words], ()))
        return found
    import torch

    from attention_studio.core.feature_extractor import promoted_and_suppressed
    from attention_studio.core.site_latents import SiteLatents

    rows = []
    with torch.no_grad():
        for group in groups:
            row = torch.zeros(replacement.loaded.info.d_model)
            for node in group:
                site = graph.nodes.site(node)
                assert site is not None  # groups hold features
                latents = SiteLatents(replacement.dictionaries, site)
                index = torch.tensor([int(graph.nodes.index[node])])
                written = latents.written(index.to(next(iter(latents.decoders.values())).device))
                row += float(graph.nodes.activation[node]) * written[0].float().cpu()
            rows.append(row)
        if not rows:
            return []
        adapter = replacement.adapter
        stacked = torch.stack(rows).to(adapter.device)
        k = min(n_words, adapter.vocab_size)
        sides = promoted_and_suppressed(adapter, stacked, k)
    texts = [replacement.loaded.token_strings(side.tokens.flatten().tolist()) for side in sides]
    return [
        (tuple(texts[0][n * k : n * k + k]), tuple(texts[1][n * k : n * k + k]))
        for n in range(len(groups))
    ]


def _pages(
    graph: AttributionGraph, groups: Sequence[tuple[int, ...]], store: Optional[FeatureStore]
) -> dict[int, FeaturePage]:
    """What dashboards know of the features; nothing if they are of another model or CRM."""
    found: dict[int, FeaturePage] = {}
    if store is None or not store.about.fits(graph.model_hash, dictionaries_of(graph)):
        return found
    for group in groups:
        for node in group:
            site = graph.nodes.site(node)
            assert site is not None  # groups hold features
            try:
                found[node] = store.page(site, int(graph.nodes.index[node]))
            except StudioError:
                continue  # dashboards of some modules alone
    return found


def _supernode(
    graph: AttributionGraph,
    notes: GraphNotes,
    key: str,
    group: Sequence[int],
    words: tuple[tuple[str, ...], tuple[str, ...]],
    pages: Mapping[int, FeaturePage],
    given: str,
) -> tuple[StorySupernode, list[StoryExample]]:
    nodes = tuple(graph.node_name(node) for node in group)
    places = sorted({int(graph.nodes.position[node]) for node in group})
    hears = _hears(graph, group)
    labels = [notes.label_of(name) for name in nodes if notes.label_of(name)]
    labels += [page.label.text for node in group if (page := pages.get(node)) and page.label]
    name, by = given or (labels[0] if labels else ""), PERSON if given or labels else DETERMINISTIC
    if not name and len(group) == 1 and group[0] in pages:
        name = explain_page(pages[group[0]]).label
    if not name:
        name = _name(graph, notes, group, words[0], hears)
    examples = [
        StoryExample(
            str(FeatureName(page.site, None, page.index)),
            example_reference(one),
            tuple(one.tokens),
            one.peak,
            one.value,
        )
        for node in group
        if (page := pages.get(node)) is not None
        for one in page_examples(page)[:1]
        if one.value > 0
    ]
    made = StorySupernode(
        key=key,
        name=plain_name(name),
        named_by=by,
        nodes=nodes,
        at=tuple(graph.tokens[place] for place in places),
        writes=words[0],
        suppresses=words[1],
        hears=hears,
    )
    return made, examples[:_EXAMPLES]


def _name(
    graph: AttributionGraph,
    notes: GraphNotes,
    group: Sequence[int],
    writes: Sequence[str],
    hears: Sequence[tuple[str, float]],
) -> str:
    """A name: of attention features what they bring, of others what they write."""
    kinds = {int(graph.nodes.site_kind[node]) for node in group}
    if kinds == {0} and hears:
        return f"from {' and '.join(shown(token) for token, _ in hears[:2])}"
    words = [shown(word) for word in writes if word.strip()]
    if words:
        return " / ".join(dict.fromkeys(words[:3]))
    return name_for(graph, notes, group)


def _hears(graph: AttributionGraph, group: Sequence[int]) -> tuple[tuple[str, float], ...]:
    """The positions from which the group's input from outside comes, as their tokens with shares,
    the largest first; errors and the first token, where attention rests, count in the whole."""
    inside = set(group)
    by_place: dict[int, float] = defaultdict(float)
    whole = 0.0
    for node in group:
        nodes, weights = graph.edges.into(node)
        sizes = np.abs(weights.astype(np.float64)) / max(float(graph.totals[node]), float(TINY))
        mine = ~np.isin(nodes, list(inside))
        whole += float(sizes[mine].sum())
        usable = mine & (graph.nodes.kind[nodes] != NodeKind.ERROR)
        usable &= graph.nodes.position[nodes] > 0
        np_places = graph.nodes.position[nodes[usable]].tolist()
        for place, size in zip(np_places, sizes[usable].tolist(), strict=True):
            by_place[place] += size
    ordered = sorted(by_place, key=lambda place: (-by_place[place], place))
    return tuple(
        (graph.tokens[place], by_place[place] / whole)
        for place in ordered[:3]
        if whole > 0 and by_place[place] / whole >= _LEAST_HEARD
    )
