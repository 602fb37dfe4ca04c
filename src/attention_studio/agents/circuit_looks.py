"""Why attention of a circuit looks where it looks, for its story: traced by ``core.qk_tracing``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from attention_studio.agents.circuit_story import StoryLook, StorySupernode
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.qk_records import FeatureTrace
    from attention_studio.core.replacement_model import CompleteReplacementModel

_LEAST_ATTENTION = 0.1
"""Where less of a head's attention goes is not told."""
_PAIRS = 256
"""Pairs that are looked through for the strongest one of two words."""


def find_looks(
    replacement: CompleteReplacementModel,
    graph: AttributionGraph,
    supernodes: Sequence[StorySupernode],
    most: int,
    ctx: Optional[WorkContext] = None,
) -> tuple[StoryLook, ...]:
    """Of the strongest attention feature of each supernode where it looked, and why.

    The first token, where attention rests, is passed over on both sides: as what is looked at, and
    in the pair of words. Dictionaries that cannot be followed down to words (see ``trace_head``)
    give no looks.

    Args:
        replacement: what the graph was traced with.
        most: supernodes at most, in their order.

    Raises:
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.qk_records import AttentionTraceError
    from attention_studio.core.qk_tracing import feature_look, trace_feature

    ctx = ctx or WorkContext()
    chosen = [(one.key, name) for one in supernodes if (name := _strongest(graph, one))][:most]
    if not chosen:
        return ()
    ctx.progress(0, len(chosen), "Tracing attention")
    local = replacement.localize(replacement.loaded.encode(graph.prompt))
    found = []
    for done, (key, name) in enumerate(chosen):
        ctx.check()
        try:
            seen = np.abs(feature_look(local, name).z_pattern)
            seen[0] = 0.0
            place = int(seen.argmax())
            if seen[place] > 0:
                trace = trace_feature(local, name, [place], _PAIRS, follow_features=True, ctx=ctx)
                found += [] if (look := _look(graph, trace, key)) is None else [look]
        except AttentionTraceError:
            break
        ctx.progress(done + 1, len(chosen), "Tracing attention")
    return tuple(found)


def _strongest(graph: AttributionGraph, group: StorySupernode) -> str:
    """The attention feature of a supernode that is most active; "" if it has none."""
    nodes = [(graph.find(name), name) for name in group.nodes if name.startswith("A")]
    activation = graph.nodes.activation
    return max(nodes, key=lambda one: float(activation[one[0]]), default=(0, ""))[1]


def _look(graph: AttributionGraph, found: FeatureTrace, supernode: str) -> Optional[StoryLook]:
    """What is told of a trace; None: little attention goes there, or no pair of words draws it."""
    trace = found.trace
    (there,) = trace.keys
    names = trace.names
    if there.probability < _LEAST_ATTENTION:
        return None
    for query, key, value in zip(
        there.pair_query.tolist(), there.pair_key.tolist(), there.pair_value.tolist(), strict=True
    ):
        words = (names[query], names[key])
        if value > 0 and all(name.endswith("/token") and name != "P0/token" for name in words):
            return StoryLook(
                feature=found.look.name,
                supernode=supernode,
                query=trace.query,
                key=there.key,
                attention=there.probability,
                query_word=words[0],
                key_word=words[1],
                value=value,
                score=there.score - there.baseline,
            )
    return None
