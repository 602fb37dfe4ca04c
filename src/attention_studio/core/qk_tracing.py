"""Why a head looks where it looks: its score, split over pairs of sources.

The score of a query at t and a key at j is bilinear in the residual streams there (Elhage et al.
2021, *A Mathematical Framework for Transformer Circuits*, section "QK circuit"). Under the freezes
of the local linear model both streams are sums over the sources of a graph, so with ``Q_a`` and
``K_b`` what sources a and b add to query and key,

    score = Σ_a Σ_b scale * Q_a·K_b

biases being one source more (that attention between pairs of features explains a score: Kamath et
al. 2025, *Tracing Attention Computation Through Feature Interactions*). What comes to t or j
through attention that was kept counts for the sources it comes from, as in an edge; where a Lorsa
stands in, its features at t and j are sources themselves. The denominators of all norms are frozen,
those of queries and keys too. In a family that caps its scores this is the score before the cap.

A term that is the same for all keys moves no attention, so the mean over the visible keys is
subtracted from every pair, or what the pair adds to another key ("why here and not there").

Pairs are never all written down: ``Q`` [n, k] and ``K`` [n, k] have the width k of a head, sums
over either side are products with a sum, and the strongest pairs are found block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Optional, Union

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.attribution_sweep import KeptAttentions
from attention_studio.core.qk_heads import QKHead, QKSide
from attention_studio.core.qk_records import (
    BIAS,
    AttentionTraceError,
    FeatureLook,
    FeatureTrace,
    Floats,
    HeadName,
    KeyTrace,
    QKTrace,
)
from attention_studio.core.replacement_model import LocalModel
from attention_studio.core.sites import Site
from attention_studio.core.stream_sweep import Reading, owed_to_sources, source_names
from attention_studio.utils.progress import WorkContext

Baseline = Union[Literal["mean", "none"], int]
"""What is subtracted from every key: the mean of all visible ones, nothing, or another key."""

DEFAULT_KEYS = 3
DEFAULT_PAIRS = 20
_PAIRS_AT_ONCE = 1 << 22
_ROWS_AT_ONCE = 256
"""Of the pairs among which the strongest are looked for."""


@torch.no_grad()
def trace_head(
    local: LocalModel,
    head: HeadName,
    query: int,
    keys: Optional[Sequence[int]] = None,
    top_k: int = DEFAULT_PAIRS,
    baseline: Baseline = "mean",
    follow_features: bool = False,
    ctx: Optional[WorkContext] = None,
) -> QKTrace:
    """Why ``head`` looks from position ``query`` at each of ``keys``.

    Args:
        local: the prompt.
        head: one of the model's heads, or a QK head of a Lorsa.
        query: the position it looks from; negative counts from the end.
        keys: positions that it looks at, negative ones likewise; None: the three that get most.
        top_k: pairs that are kept of each key.
        baseline: what is subtracted. The mean is over all visible keys, the traced one among
            them, so that the values of all of them add up to 0.
        follow_features: whether features are followed down to what they read, with the same ones
            active, so that the sources are tokens and errors alone: which words meet in the score.
        ctx: progress and cancellation.

    Raises:
        AttentionTraceError: there is no such head, a position is not in the prompt or not visible
            from ``query``, ``top_k`` is not positive, or features that are followed make too much
            of one another for numbers to hold.
        Cancelled: ``ctx`` was cancelled.
    """
    ctx = ctx or WorkContext()
    if top_k < 1:
        raise AttentionTraceError(f"{top_k} pairs cannot be listed", "", "ask for 1 or more")
    found = QKHead(local, head)
    query = _position(query, len(local.ids))
    visible = found.visible(query)
    scores = found.scores(query)
    probabilities = found.probabilities(scores)
    if keys is None:
        best = probabilities.topk(min(DEFAULT_KEYS, len(visible))).indices
        keys = [visible[i] for i in best.tolist()]
    chosen = list(dict.fromkeys(_seen(found, key, query, len(local.ids)) for key in keys))
    split = _Split(local, found, follow_features)
    ctx.progress(0, len(chosen) + 2, "Splitting the query")
    of_query = split("query", {query: 1.0})
    ctx.check()
    ctx.progress(1, len(chosen) + 2, "Splitting the keys")
    subtracted, of_baseline, said = 0.0, None, str(baseline)
    if baseline == "mean":
        subtracted = float(scores.mean())
        of_baseline = split("key", dict.fromkeys(visible, 1 / len(visible)))
    elif baseline != "none":
        other = _seen(found, baseline, query, len(local.ids))
        subtracted, said = float(scores[other - visible.start]), f"P{other}"
        of_baseline = split("key", {other: 1.0})
    traced = []
    for done, key in enumerate(chosen):
        ctx.check()
        ctx.progress(2 + done, len(chosen) + 2, "Splitting the keys")
        of_key = split("key", {key: 1.0})
        if of_baseline is not None:
            of_key -= of_baseline
        place = key - visible.start
        traced.append(
            _key_trace(
                of_query * found.score_scale,
                of_key,
                key,
                (float(probabilities[place]), float(scores[place]), subtracted),
                top_k,
            )
        )
    return QKTrace(
        head=head,
        query=query,
        names=(*source_names(local), BIAS),
        visible=np.arange(visible.start, visible.stop, dtype=np.int64),
        scores=_floats(scores),
        probabilities=_floats(probabilities),
        baseline=said,
        score_cap=found.score_cap,
        keys=tuple(traced),
    )


@torch.no_grad()
def feature_look(local: LocalModel, name: str) -> FeatureLook:
    """Where a Lorsa's feature, named like ``A12/P5/F1043``, took its activation from.

    Raises:
        AttentionTraceError: it is no feature of a Lorsa that is active here.
    """
    names = source_names(local)[: len(local.features)]
    if name not in names or int(local.features.kind[names.index(name)]) != 0:
        raise AttentionTraceError(
            f"{name} is no active feature of a Lorsa on this prompt",
            "such features are named like A12/P5/F1043: layer, position, latent",
            "copy a name from the graph or from the features command",
        )
    feature = names.index(name)
    features = local.features
    site = Site.of_number(int(features.site[feature]))
    norm, scale = local.norm_at(site)
    inputs = norm.apply(local.record.resid_pre[site.layer], scale)
    pattern = local.reading_weights(site, slice(feature, feature + 1))[0]
    values = inputs @ features.encoder[feature] + features.encoder_bias[feature]
    group = local.dictionaries.lorsas[site.layer].config.group_size
    return FeatureLook(
        name=name,
        head=HeadName("lorsa", site.layer, int(features.index[feature]) // group),
        position=int(features.position[feature]),
        activation=float(features.activation[feature]),
        pattern=_floats(pattern),
        z_pattern=_floats(pattern * values),
    )


def trace_feature(
    local: LocalModel,
    name: str,
    keys: Optional[Sequence[int]] = None,
    top_k: int = DEFAULT_PAIRS,
    baseline: Baseline = "mean",
    follow_features: bool = False,
    ctx: Optional[WorkContext] = None,
) -> FeatureTrace:
    """Where a Lorsa's feature looked, and why: its QK head, traced at the positions of the largest
    |z-pattern| (or at ``keys``). The other arguments and errors are those of ``trace_head``."""
    look = feature_look(local, name)
    if keys is None:
        seen = np.abs(look.z_pattern[: look.position + 1])
        order = np.argsort(-seen, kind="stable")[:DEFAULT_KEYS]
        keys = [int(key) for key in order if look.pattern[key] > 0]
    head, query = look.head, look.position
    return FeatureTrace(
        look, trace_head(local, head, query, keys, top_k, baseline, follow_features, ctx)
    )


class _Split:
    """What each source adds to weighted sums of one head's queries or keys."""

    def __init__(self, local: LocalModel, head: QKHead, follow_features: bool) -> None:
        self._local, self._head, self._follow_features = local, head, follow_features
        self._attentions = KeptAttentions(local)

    def __call__(self, side: QKSide, weights: dict[int, float]) -> Tensor:
        """[n_sources + 1, k]; ``weights`` by position, in order."""
        rows, constant = [], self._head.inputs.new_zeros(())
        for position, weight in weights.items():
            matrix, bias = self._head.linear(side, position)
            rows.append(matrix.T * weight)
            constant = constant + bias * weight
        positions = torch.tensor(list(weights), device=self._head.inputs.device)
        reading = Reading(self._head.site, positions, torch.stack(rows, 1))
        owed = owed_to_sources(
            self._local, reading, self._follow_features, attentions=self._attentions
        )
        factors = owed.with_bias.T.contiguous()
        factors[-1] += constant
        return factors


def _key_trace(
    of_query: Tensor, of_key: Tensor, key: int, facts: tuple[float, float, float], top_k: int
) -> KeyTrace:
    """From factors [n, k] of both sides, the scale within; ``facts``: probability, score, and what
    is subtracted from it."""
    query, total = of_query.sum(0), of_key.sum(0)
    by_query = of_query @ total
    if not bool(by_query.isfinite().all()):
        raise AttentionTraceError(
            "This head cannot be traced to words on this prompt",
            "what features make of one another grows from layer to layer beyond all numbers, which "
            "that of well trained dictionaries does not",
            "trace it to features instead",
        )
    values, first, second = _strongest_pairs(of_query, of_key, top_k)
    return KeyTrace(
        key=key,
        probability=facts[0],
        score=facts[1],
        baseline=facts[2],
        explained=float(query @ total),
        scale=float(by_query.abs().sum()),
        pair_query=first.cpu().numpy(),
        pair_key=second.cpu().numpy(),
        pair_value=_floats(values),
        by_query=_floats(by_query),
        by_key=_floats(of_key @ query),
    )


def _strongest_pairs(of_query: Tensor, of_key: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and the two sources of the pairs with the largest |Q_a·K_b|, the largest first.

    No product exceeds the product of the norms, so with both sides sorted by norm, what cannot be
    among the strongest any more is the end of each side, and is never multiplied.
    """
    norm_q, norm_k = of_query.norm(dim=1), of_key.norm(dim=1)
    rows = torch.argsort(norm_q, descending=True, stable=True)[: int((norm_q > 0).sum())]
    columns = torch.argsort(norm_k, descending=True, stable=True)[: int((norm_k > 0).sum())]
    values, first, second = of_query.new_zeros(0), rows.new_zeros(0), rows.new_zeros(0)
    left, right = of_query[rows], of_key[columns].T
    row_norms, column_norms = norm_q[rows], norm_k[columns]
    start = 0
    while start < len(rows):
        # Rounding may lift a product above its bound by a hair.
        least = 0.999 * float(values[-1].abs()) if len(values) == k else 0.0
        width = int((column_norms * row_norms[start] >= least).sum())
        if not width:
            break
        stop = start + max(1, min(_ROWS_AT_ONCE, _PAIRS_AT_ONCE // width))
        block = (left[start:stop] @ right[:, :width]).flatten()
        best = block.abs().topk(min(k, len(block))).indices
        values = torch.cat([values, block[best]])
        first = torch.cat([first, rows[start + best // width]])
        second = torch.cat([second, columns[best % width]])
        best = torch.argsort(values.abs(), descending=True, stable=True)[:k]
        values, first, second = values[best], first[best], second[best]
        start = stop
    real = values != 0
    return values[real], first[real], second[real]


def _position(position: int, length: int) -> int:
    counted = position + length if position < 0 else position
    if not 0 <= counted < length:
        raise AttentionTraceError(
            f"There is no position {position}",
            f"the prompt has {length} tokens, counted from 0, the start token included",
            "choose one of them",
        )
    return counted


def _seen(head: QKHead, key: int, query: int, length: int) -> int:
    key = _position(key, length)
    if key not in head.visible(query):
        seen = head.visible(query)
        raise AttentionTraceError(
            f"Head {head.name} does not see position {key} from position {query}",
            f"it sees {seen.start} to {seen.stop - 1}",
            "choose keys among these",
        )
    return key


def _floats(values: Tensor) -> Floats:
    return values.float().cpu().numpy()
