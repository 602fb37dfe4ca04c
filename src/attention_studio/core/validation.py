"""Predictions of the local linear model against measurements in the model itself.

A graph says what ablating a feature should do. ``validate`` does it: for sampled features, and for
the supernodes that are given, it compares the change that the local linear model predicts with the
change that the model itself shows when the feature's write is taken out of its module's output (of
every MLP's that it writes to, where it is one of a cross-layer transcoder), with nothing frozen. A
random direction of the same norm, written at the same place, is the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.attribution import Targets, edges_into, total_effects
from attention_studio.core.changed_pass import ChangedPass
from attention_studio.core.host_memory import GIB
from attention_studio.core.intervention_edits import EditTable, MovedLatents
from attention_studio.core.intervention_effects import batch_size, linear_edits
from attention_studio.core.intervention_specs import (
    Edit,
    FeatureAt,
    Freeze,
    Intervention,
    InterventionError,
)
from attention_studio.core.loaded_model import free_bytes
from attention_studio.core.replacement_model import (
    CompleteReplacementModel,
    LocalModel,
    StreamChange,
)
from attention_studio.core.sites import Site
from attention_studio.core.validation_report import (
    MAX_CHECKS,
    MAX_PAIRS,
    Agreement,
    FeatureCheck,
    GroupCheck,
    Pairs,
    SiteAgreement,
    ValidationReport,
)
from attention_studio.utils.progress import WorkContext

_TOKENS = 5
"""The likeliest next tokens, whose logits are compared."""
_PAIR_BYTES = 48
"""Of one experiment and one active feature: three changes, and whose they are, in the making."""


@dataclass(frozen=True)
class Changes:
    """Of n cases: ``logits`` [n, k] of the targets' directions, ``features`` [n, n_features] of
    pre-activations."""

    logits: Tensor
    features: Tensor


def validate(
    replacement: CompleteReplacementModel,
    prompt: str,
    samples: int = 32,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
    groups: Sequence[Intervention] = (),
) -> ValidationReport:
    """Ablate ``samples`` features of a prompt, one at a time, and compare with the prediction.

    Features are drawn with probability in proportion to the absolute effect that the local model
    predicts for the most probable logit, so that those which a graph shows are checked most.
    ``groups`` (supernodes; any intervention may stand in for one) are checked beside them and enter
    no figure but their own.

    Raises:
        InterventionError: nothing is active, nothing that is active has an effect, ``samples`` is
            not positive or too large, memory has no room for what is found, or a group cannot be
            carried out.
        Cancelled: ``ctx`` was cancelled.
    """
    if not 1 <= samples <= MAX_CHECKS:
        raise InterventionError(
            f"{samples} features cannot be checked",
            "",
            f"ask for one or more samples, at most {MAX_CHECKS:,}",
        )
    ctx = ctx or WorkContext()
    loaded = replacement.loaded
    ctx.progress(0, None, "Running the model")
    local = replacement.localize(loaded.encode(prompt))
    if not len(local.features):
        raise InterventionError(
            "No feature is active on this prompt",
            "the dictionaries are silent or cover no layer",
            "try a longer prompt or another CRM",
        )
    tokens = local.record.logits[-1].topk(min(_TOKENS, local.adapter.vocab_size)).indices.tolist()
    directions, bias = local.logit_directions(tokens)
    device = directions.device
    targets = Targets(
        directions=directions,
        direction_bias=bias,
        positions=torch.full((len(tokens),), len(local.ids) - 1, device=device),
        features=torch.zeros(0, dtype=torch.long, device=device),
    )
    check_room(local, samples + len(groups))
    generator = torch.Generator().manual_seed(seed)
    chosen = _sample(local, targets, samples, generator).to(device)

    @cache
    def other(text: str) -> LocalModel:
        return replacement.localize(loaded.encode(text))

    cases = [*(ablation(local, feature) for feature in chosen.tolist()), *groups]
    table = EditTable(local, cases, other)
    ctx.check()
    ctx.progress(1, 4, "Predicting")
    expected = predict(local, targets, table)
    ctx.check()
    ctx.progress(2, 4, f"Ablating {len(chosen)} features in the model")
    found = measure(local, targets, table, (), ctx)
    ctx.check()
    ctx.progress(3, 4, "Writing random directions of the same norm")
    noise = random_directions(local, table, generator)
    control = measure(local, targets, EditTable.empty(local, table.n), noise, ctx)
    ctx.progress(4, 4, "Comparing")
    changes = (expected, found, control)
    pairs = (_logit_pairs(*changes), _feature_pairs(local, chosen, *changes))
    n, names = len(chosen), loaded.token_strings(tokens)
    best = expected.logits.abs().argmax(1)
    rows = torch.arange(table.n, device=device)
    shown = [
        {
            "token": names[token],
            "predicted": float(p),
            "measured": float(m),
            "control": float(c),
        }
        for token, p, m, c in zip(
            best.tolist(), *(part.logits[rows, best].tolist() for part in changes), strict=True
        )
    ]
    single = pairs[0].of_samples(range(n))
    return ValidationReport(
        prompt=prompt,
        model_hash=loaded.info.weights_hash,
        crm_name=replacement.name,
        seed=seed,
        n_samples=n,
        logits=Agreement.of(single.predicted, single.measured),
        features=Agreement.of(pairs[1].predicted, pairs[1].measured),
        control=Agreement.of(single.predicted, single.control),
        largest_freeze_gap=_freeze_gap(local, targets, chosen),
        checks=tuple(
            FeatureCheck(
                kind=Site.of_number(int(local.features.site[feature])).kind,
                layer=int(local.features.layer[feature]),
                position=int(local.features.position[feature]),
                index=int(local.features.index[feature]),
                activation=float(local.features.activation[feature]),
                **values,
            )
            for feature, values in zip(chosen.tolist(), shown[:n], strict=True)
        ),
        groups=tuple(
            GroupCheck(
                name=str(group),
                features=tuple(str(at) for edit in group.edits for at in edit.features),
                **values,
            )
            for group, values in zip(groups, shown[n:], strict=True)
        ),
        sites=_by_site(local, chosen, single, pairs[1]),
        logit_pairs=pairs[0].thinned(MAX_PAIRS, seed),
        feature_pairs=pairs[1].thinned(MAX_PAIRS, seed),
        crm_fingerprint=replacement.fingerprint,
    )


@torch.no_grad()
def measure(
    local: LocalModel,
    targets: Targets,
    table: EditTable,
    changes: Sequence[StreamChange],
    ctx: WorkContext,
    held: bool = False,
) -> Changes:
    """What the model itself does, each of the table's n cases in a prompt of its own, with nothing
    frozen.

    Args:
        local: the prompt.
        targets: what is read at the end; only its directions are used.
        table: the cases' edits.
        changes: other things that are added to the stream.
        ctx: cancellation.
        held: whether all modules but kept attentions keep what they give on the untouched prompt
            (see ``ChangedPass``): what is left are direct paths, through norms and patterns as
            they are now.

    Returns:
        Change of the target logits (before the cap, in a family that caps them, as in the
        prediction) and of every active feature's pre-activation.
    """
    logits, features = [], []
    lorsas = local.dictionaries.lorsas.values()
    size = batch_size(local, max((lorsa.config.d_latent for lorsa in lorsas), default=0))
    for start in range(0, table.n, size):
        ctx.check()
        stop = min(start + size, table.n)
        part = [_cases(change, start, stop) for change in changes]
        found = _measure_pass(local, targets, table.part(start, stop), part, held)
        logits.append(found.logits)
        features.append(found.features)
    return Changes(torch.cat(logits), torch.cat(features))


def ablate_together(
    local: LocalModel,
    targets: Targets,
    groups: Sequence[Tensor],
    ctx: Optional[WorkContext] = None,
) -> Tensor:
    """Take what several active features write out of the model at once, with nothing frozen.

    Args:
        local: the prompt.
        targets: what is read at the end; only its directions are used.
        groups: numbers of active features, each group an experiment of its own.
        ctx: cancellation.

    Returns:
        [n_groups, k] how much each of the targets' directions changes.
    """
    changes = [
        replace(change, case=torch.full_like(change.case, case))
        for case, group in enumerate(groups)
        for change in local.feature_changes(group, -1.0)
    ]
    table = EditTable.empty(local, len(groups))
    return measure(local, targets, table, changes, ctx or WorkContext()).logits


# ---- parts -------------------------------------------------------------------------------------


def check_room(local: LocalModel, n: int) -> None:
    """Refuse ``n`` experiments whose findings memory has no room for.

    Raises:
        InterventionError: it has none.
    """
    needed = _PAIR_BYTES * n * len(local.features)
    free = free_bytes(local.adapter.device)
    if needed > free:
        raise InterventionError(
            f"{n:,} experiments with {len(local.features):,} active features do not fit",
            f"what they find takes about {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
            "ask for fewer samples or shorten the prompt",
        )


def _sample(
    local: LocalModel, targets: Targets, samples: int, generator: torch.Generator
) -> Tensor:
    first = Targets(
        targets.directions[:1], targets.direction_bias[:1], targets.positions[:1], targets.features
    )
    weight = total_effects(local, first, WorkContext())[0].abs().cpu()
    count = min(samples, int((weight > 0).sum()))
    if not count:
        raise InterventionError(
            "No active feature has an effect on the most probable token",
            "the dictionaries' decoders write nothing that reaches it",
            "train the CRM for longer or try another prompt",
        )
    return torch.multinomial(weight, count, generator=generator).sort().values


def ablation(local: LocalModel, feature: int) -> Intervention:
    """The intervention that takes one active feature out."""
    features = local.features
    at = FeatureAt(
        Site.of_number(int(features.site[feature])),
        int(features.position[feature]),
        int(features.index[feature]),
    )
    return Intervention((Edit((at,), "ablate"),))


def predict(
    local: LocalModel, targets: Targets, table: EditTable, features_respond: bool = True
) -> Changes:
    """What the local linear model says that the table's cases do: all paths, or (without
    ``features_respond``) the direct ones alone."""
    logits, features = [], []
    size = batch_size(local, 0)
    for start in range(0, table.n, size):
        part = table.part(start, min(start + size, table.n))
        held, silent = linear_edits(local, part)
        response = local.push(part.n, silent, features_respond, held)
        logits.append(_logit_changes(local, targets, response.resid_final))
        features.append(response.features)
    return Changes(torch.cat(logits), torch.cat(features))


def _logit_changes(local: LocalModel, targets: Targets, resid: Tensor) -> Tensor:
    """Change [n, k] of the target logits for a change of the final residual stream [n, T, d]."""
    normed = local.adapter.final_norm().push(resid, local.record.final_scale)
    return torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)


def random_directions(
    local: LocalModel, table: EditTable, generator: torch.Generator
) -> list[StreamChange]:
    """At every place that a case writes to, a random direction of the norm of what it writes on the
    untouched prompt."""
    held, silent = linear_edits(local, table)
    features = local.features
    own = features.activation[held.feature]
    delta = held.factor * own + held.added - own
    length, d = len(local.ids), local.adapter.d_model
    noise = []
    for site in sorted({*features.writes, *(c.site for c in silent if c.site is not None)}):
        written = [(c.case, c.position, c.rows) for c in silent if c.site == site]
        for write in features.writes.get(site, ()):
            mine = (held.feature >= write.features.start) & (held.feature < write.features.stop)
            feature = held.feature[mine]
            rows = write.rows[feature - write.features.start] * delta[mine].unsqueeze(1)
            written.append((held.case[mine], features.position[feature], rows))
        # Only the places that are written to: most cases write at one.
        keys = torch.cat([case * length + position for case, position, _ in written])
        places, at = torch.unique(keys, return_inverse=True)
        total = local.on.new_zeros(len(places), d)
        total.index_add_(0, at, torch.cat([rows for _, _, rows in written]))
        norms = total.norm(dim=-1)
        places, norms = places[norms > 0], norms[norms > 0]
        random = torch.randn(len(places), d, generator=generator).to(total)
        random *= (norms / random.norm(dim=-1)).unsqueeze(1)
        noise.append(StreamChange(site, places // length, places % length, random))
    return noise


def _cases(change: StreamChange, start: int, stop: int) -> StreamChange:
    """The part of a change that is about some of the cases, counted from the first of them."""
    mine = (change.case >= start) & (change.case < stop)
    return StreamChange(
        change.site, change.case[mine] - start, change.position[mine], change.rows[mine]
    )


def _measure_pass(
    local: LocalModel,
    targets: Targets,
    table: EditTable,
    changes: Sequence[StreamChange],
    held: bool,
) -> Changes:
    """``measure`` for as many cases as go into one batch."""
    adapter, features, n = local.adapter, local.features, table.n
    pre = local.on.new_zeros(n + 1, len(features))

    def watch(
        site: Site, inputs: Tensor, _pattern: Optional[Tensor], _moved: Optional[MovedLatents]
    ) -> None:
        here = features.of(site)
        if site.kind == "mlp":
            # Only what active features read: a dictionary may have a hundred times as many.
            pre[:, here] = local.read_by_features(site, inputs) + features.encoder_bias[here]
        else:
            # Nothing is frozen: the Lorsa looks where it looks on what it reads now.
            dense = local.dictionaries.lorsas[site.layer].pre_activations(inputs)
            pre[:, here] = dense[:, features.position[here], features.index[here]]

    # The last row of the batch is the untouched model, so that both sides round alike.
    batch = torch.tensor([local.ids] * (n + 1), device=adapter.device)
    watched = local.dictionaries.sites
    changed = ChangedPass(local, table, Freeze(), changes, watch=watch, watched=watched, held=held)
    with changed.active():
        changed.begin(0)
        normed = adapter.final_normed(batch)
    chosen = torch.einsum("nkd,kd->nk", normed[:, targets.positions], targets.directions)
    return Changes(chosen[:n] - chosen[n], pre[:n] - pre[n])


def _logit_pairs(predicted: Changes, measured: Changes, control: Changes) -> Pairs:
    n, k = predicted.logits.shape
    sample = np.repeat(np.arange(n, dtype=np.int64), k)
    return Pairs(sample, *(_flat(part.logits) for part in (predicted, measured, control)))


def _feature_pairs(
    local: LocalModel, chosen: Tensor, predicted: Changes, measured: Changes, control: Changes
) -> Pairs:
    """Of the sampled features and all active features downstream of them."""
    features = local.features
    # With parallel residual nothing of a layer reads what the same layer writes.
    depth = features.layer if local.adapter.parallel else features.site
    downstream = (depth[None, :] > depth[chosen, None]) & (
        features.position[None, :] >= features.position[chosen, None]
    )
    sample = downstream.nonzero(as_tuple=True)[0].cpu().numpy()
    parts = (part.features[: len(chosen)][downstream] for part in (predicted, measured, control))
    return Pairs(sample, *(_flat(part) for part in parts))


def _flat(values: Tensor) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = values.flatten().float().cpu().numpy()
    return flat


def _by_site(
    local: LocalModel, chosen: Tensor, logits: Pairs, features: Pairs
) -> tuple[SiteAgreement, ...]:
    sites = local.features.site[chosen].cpu().numpy()
    found = []
    for number in sorted(set(sites.tolist())):
        site = Site.of_number(number)
        samples = np.flatnonzero(sites == number).tolist()
        some, downstream = logits.of_samples(samples), features.of_samples(samples)
        found.append(
            SiteAgreement(
                kind=site.kind,
                layer=site.layer,
                n_samples=len(samples),
                logits=Agreement.of(some.predicted, some.measured),
                features=Agreement.of(downstream.predicted, downstream.measured),
                control=Agreement.of(some.predicted, some.control),
            )
        )
    return tuple(found)


def _freeze_gap(local: LocalModel, targets: Targets, chosen: Tensor) -> float:
    """Largest |edge - change under all freezes| of the chosen sources, over the largest edge."""
    response = local.push(len(chosen), local.feature_changes(chosen), features_respond=False)
    changes = torch.cat(
        [_logit_changes(local, targets, response.resid_final), response.features], 1
    )
    every = Targets(targets.directions, targets.direction_bias, targets.positions, chosen)
    edges = edges_into(local, every).weights[:, chosen].T
    columns = torch.cat(
        [torch.arange(len(targets.directions)), len(targets.directions) + chosen.cpu()]
    )
    gap = (edges - changes[:, columns.to(changes.device)]).abs().max()
    return float(gap / edges.abs().max().clamp_min(1e-30))
