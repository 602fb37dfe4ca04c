"""Interventions under every freeze, against graph edges and against hooks written here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Optional

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core import intervention_effects
from attention_studio.core.attribution import Targets, edges_into
from attention_studio.core.intervention_outcomes import Outcome
from attention_studio.core.intervention_specs import (
    Action,
    Edit,
    FeatureAt,
    Freeze,
    Intervention,
    InterventionError,
    parse_edit,
    supernode,
)
from attention_studio.core.interventions import Interventions
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete
from tests.tiny import FAMILIES, PROMPT, random_dictionaries, tiny_loaded

KEPT: dict[str, Any] = {"mlp": {}}
MIXED: dict[str, Any] = {
    "mlp": {"layers": (1,)},
    "attention": {"layers": (0, 2)},
    "clt": {"layers": (0, 2)},
}
JUMPY: dict[str, Any] = {
    "mlp": {"activation": "jumprelu"},
    "attention": {"activation": "relu"},
}
MIXES = [
    *((family, COMPLETE) for family in FAMILIES),
    *((family, KEPT) for family in ("llama", "gpt_neox", "gemma2")),
    *((family, CROSS) for family in ("llama", "gpt_neox", "gemma2", "gpt2")),
    *((family, MIXED) for family in ("llama", "gpt_neox", "gemma3_text", "mistral")),
    ("llama", JUMPY),
    ("llama", {"mlp": {"norm_aware": True}, "attention": {"norm_aware": True}}),
    ("gpt2", {"mlp": {"activation": "batchtopk"}}),
]
mixes = pytest.mark.parametrize(
    ("family", "dictionaries"),
    MIXES,
    ids=[f"{family}-{'+'.join(kinds)}-{i}" for i, (family, kinds) in enumerate(MIXES)],
)
FREEZES = [
    Freeze(),
    Freeze("attention"),
    Freeze("attention", first_layer=1),
    Freeze("attention", last_layer=1),
    Freeze("all"),
    Freeze("all", features_respond=False),
]
freezes = pytest.mark.parametrize("freeze", FREEZES, ids=lambda f: f"{f.mode}-{f.first_layer}")


def at(local: LocalModel, feature: int) -> FeatureAt:
    features = local.features
    return FeatureAt(
        Site.of_number(int(features.site[feature])),
        int(features.position[feature]),
        int(features.index[feature]),
    )


def one(action: Action, feature: FeatureAt, value: float = 0.0) -> Intervention:
    return supernode([feature], action, value)


def some(local: LocalModel) -> list[int]:
    """Features of every module that has any."""
    offsets = local.features.offsets
    return [(a + b) // 2 for a, b in pairwise(offsets) if b > a]


def logits_after(outcome: Outcome, ids: list[int]) -> np.ndarray:
    return np.array([outcome.token(i).logit_after for i in ids])


@mixes
def test_doubling_with_everything_frozen_moves_every_target_by_its_edge(
    family: str, dictionaries: dict[str, Any]
) -> None:
    bound = Interventions(complete(family, dictionaries), PROMPT)
    local = bound.local
    sources = some(local)
    tokens = [4, 11, 30]
    outcomes = bound.run(
        [one("scale", at(local, i), 2.0) for i in sources],
        Freeze("all", features_respond=False),
        tokens=tokens,
        top_k=local.adapter.vocab_size,
    )
    directions, bias = local.logit_directions(tokens)
    targets = Targets(
        directions,
        bias,
        torch.full((3,), len(local.ids) - 1),
        torch.arange(len(local.features)),
    )
    edges = edges_into(local, targets).weights[:, sources].numpy()
    for column, outcome in enumerate(outcomes):
        moved = outcome.features.pre_after - outcome.features.pre_before
        scale = np.abs(edges).max()
        assert np.abs(moved - edges[3:, column]).max() < 1e-5 * scale
        # Activations stay, but the doubled one's.
        assert np.flatnonzero(outcome.features.change).tolist() == [sources[column]]
        assert outcome.features.change[sources[column]] == pytest.approx(
            float(local.features.activation[sources[column]])
        )
        before, after = _uncapped(local, outcome)
        change = after - before
        expected = edges[:3, column]
        assert np.abs((change - change.mean())[tokens] - expected).max() < 2e-4 * max(1, scale)


def _uncapped(local: LocalModel, outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the whole vocabulary before the cap."""
    effects = sorted(outcome.tokens, key=lambda effect: effect.token_id)
    both = np.array([[e.logit_before, e.logit_after] for e in effects])
    cap = local.adapter.logit_cap
    if cap is not None:
        both = cap * np.arctanh(both / cap)
    return both[:, 0], both[:, 1]


@mixes
def test_with_nothing_frozen_it_is_a_plain_hook_on_the_module(
    family: str, dictionaries: dict[str, Any]
) -> None:
    """The independent way: PyTorch's own forward hooks on the module whose output is added to."""
    bound = Interventions(complete(family, dictionaries), PROMPT)
    local = bound.local
    tokens = [4, 11, 30]
    sources = some(local)
    outcomes = bound.run([one("set", at(local, i), 1.5) for i in sources], tokens=tokens, top_k=1)
    for source, outcome in zip(sources, outcomes, strict=True):
        feature = at(local, source)
        delta = 1.5 - float(local.features.activation[source])
        expected = _hooked(local, _decoder_rows(local, feature), feature.position, delta)
        assert np.allclose(logits_after(outcome, tokens), expected[tokens], atol=2e-4)
        assert outcome.edited.activation_after.tolist() == [1.5]


def _decoder_rows(local: LocalModel, feature: FeatureAt) -> dict[Site, Tensor]:
    held, site = local.dictionaries, feature.site
    assert feature.latent is not None
    if site.kind == "attention":
        return {site: held.lorsas[site.layer].W_O[feature.latent]}
    if site.layer in held.transcoders:
        return {site: held.transcoders[site.layer].W_D[feature.latent]}
    clt = held.clt
    assert clt is not None
    i = clt.position(site.layer)
    return {
        Site(layer, "mlp"): clt.W_D[i][step, feature.latent]
        for step, layer in enumerate(clt.config.layers[i:])
    }


def _hooked(
    local: LocalModel, rows: dict[Site, Tensor], position: Optional[int], delta: float
) -> np.ndarray:
    adapter = local.adapter
    handles = []

    def hook(row: Tensor) -> Callable[..., Any]:
        def function(_module: Any, _args: Any, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            changed = own.clone()
            changed[0, position] += delta * row
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return function

    for site, row in rows.items():
        module = _module_of(adapter.model, adapter.family, site)
        handles.append(module.register_forward_hook(hook(row)))
    try:
        logits: np.ndarray = adapter.logits(local.ids)[0, -1].numpy()
        return logits
    finally:
        for handle in handles:
            handle.remove()


def _module_of(model: Any, family: str, site: Site) -> Any:
    """The module whose output a layer adds to the stream, spelled out here once more."""
    if family == "gpt2":
        layer = model.transformer.h[site.layer]
        return layer.attn if site.kind == "attention" else layer.mlp
    if family == "gpt_neox":
        layer = model.gpt_neox.layers[site.layer]
        return layer.attention if site.kind == "attention" else layer.mlp
    layer = model.model.layers[site.layer]
    if family.startswith("gemma"):
        attention = site.kind == "attention"
        return layer.post_attention_layernorm if attention else layer.post_feedforward_layernorm
    return layer.self_attn if site.kind == "attention" else layer.mlp


@mixes
def test_a_feature_set_to_what_it_is_changes_nothing(
    family: str, dictionaries: dict[str, Any]
) -> None:
    bound = Interventions(complete(family, dictionaries), PROMPT)
    local = bound.local
    cases = [one("set", at(local, i), float(local.features.activation[i])) for i in some(local)]
    cases += [one("scale", at(local, some(local)[0])._replace(position=None), 1.0)]
    cases += [one("add", at(local, some(local)[-1]), 0.0), Intervention(())]
    for freeze in FREEZES:
        for outcome in bound.run(cases, freeze, top_k=8):
            change = [e.logit_after - e.logit_before for e in outcome.tokens]
            largest = max(abs(e.logit_before) for e in outcome.tokens)
            assert np.abs(change).max() < 2e-6 * max(1.0, largest)
            assert outcome.divergence < 1e-9
            assert np.abs(outcome.features.change).max() < 1e-5


@freezes
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_a_batch_is_each_one_alone(family: str, freeze: Freeze) -> None:
    bound = Interventions(complete(family, MIXED), PROMPT)
    local = bound.local
    cases = [one("ablate", at(local, i)) for i in some(local)]
    cases.append(supernode([at(local, i) for i in some(local)], "scale", -1.0))
    cases.append(one("add", FeatureAt(Site(0, "mlp"), None, 3), 2.0))
    together = bound.run(cases, freeze, tokens=[4, 11])
    for case, outcome in zip(cases, together, strict=True):
        (alone,) = bound.run([case], freeze, tokens=[4, 11])
        assert np.allclose(logits_after(alone, [4, 11]), logits_after(outcome, [4, 11]), atol=1e-4)
        assert np.allclose(
            alone.features.activation_after, outcome.features.activation_after, atol=1e-4
        )


def test_batches_of_bounded_size_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Interventions(complete("llama", CROSS), PROMPT)
    cases = [one("ablate", at(bound.local, i)) for i in some(bound.local)]
    whole = bound.run(cases, tokens=[4])
    sizes: list[int] = []
    final_normed = bound.local.adapter.final_normed

    def watched(ids: Any) -> Any:
        sizes.append(len(ids))
        return final_normed(ids)

    monkeypatch.setattr(bound.local.adapter, "final_normed", watched)
    per_case = len(bound.local.ids) * bound.local.adapter.d_mlp
    monkeypatch.setattr(intervention_effects, "VALUES_PER_PASS", 3 * per_case)
    parts = bound.run(cases, tokens=[4])
    assert sizes == [3, 3, 2]
    for one_, other in zip(whole, parts, strict=True):
        assert other.token(4).logit_after == pytest.approx(one_.token(4).logit_after, abs=1e-5)


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS, MIXED], ids=["c", "x", "m"])
def test_ablating_and_giving_back_is_the_untouched_model(dictionaries: dict[str, Any]) -> None:
    """A feature's write taken out, and put back by hand at the very same modules."""
    bound = Interventions(complete("llama", dictionaries), PROMPT)
    local = bound.local
    source = some(local)[1]
    feature, own = at(local, source), float(local.features.activation[source])
    (gone,) = bound.run([one("ablate", feature)], tokens=[4, 11])
    table = bound.table([one("ablate", feature)])
    from attention_studio.core.changed_pass import ChangedPass

    changed = ChangedPass(local, table, Freeze())
    with changed.active():
        changed.begin(0)
        back = _hooked(local, _decoder_rows(local, feature), feature.position, own)
    plain = local.adapter.logits(local.ids)[0, -1].numpy()
    assert np.allclose(back, plain, atol=1e-5)
    assert np.abs(logits_after(gone, [4, 11]) - plain[[4, 11]]).max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_attention_is_a_forward_pass_with_given_patterns_and_denominators(
    family: str,
) -> None:
    """The independent way: the layers spelled out, with the adapter's frozen parts and the model's
    own MLPs."""
    bound = Interventions(complete(family, COMPLETE), PROMPT)
    local = bound.local
    source = int(local.features.offsets[1])  # the first feature of the first MLP
    feature = at(local, source)
    (outcome,) = bound.run(
        [one("scale", feature, 3.0)], Freeze("attention"), tokens=[4, 11], top_k=1
    )
    adapter, record = local.adapter, local.record
    own_mlps: dict[Site, Tensor] = {}
    resid = record.embedding.clone()
    for layer in range(adapter.n_layers):
        before = resid
        inputs = adapter.attention_norm(layer).apply(resid, record.attention_scale[layer])
        attended = adapter.value_output(layer).apply(inputs, record.patterns[layer])
        post = adapter.attention_post_norm(layer)
        if post is not None:
            attended = post.apply(attended, record.attention_post_scale[layer])
        resid = resid + attended
        read = before if adapter.parallel else resid
        mlp_in = adapter.mlp_norm(layer).apply(read, record.mlp_scale[layer])
        mlp_out = _mlp(adapter.model, family, layer, mlp_in)
        own_mlps[Site(layer, "mlp")] = mlp_out
        if feature.site == Site(layer, "mlp"):
            row = _decoder_rows(local, feature)[feature.site]
            mlp_out[feature.position] += 2.0 * float(local.features.activation[source]) * row
        resid = resid + mlp_out
    normed = adapter.final_norm().apply(resid, record.final_scale)
    expected = adapter.unembed(normed[-1])[[4, 11]].numpy()
    assert np.allclose(logits_after(outcome, [4, 11]), expected, atol=2e-4)
    assert np.abs(expected - record.logits[-1, [4, 11]].numpy()).max() > 1e-3


def _mlp(model: Any, family: str, layer: int, inputs: Tensor) -> Tensor:
    module = _module_of(
        model, "llama" if family.startswith("gemma") else family, Site(layer, "mlp")
    )
    out = module(inputs.unsqueeze(0))[0]
    if family.startswith("gemma"):
        out = model.model.layers[layer].post_feedforward_layernorm(out)
    result: Tensor = out.clone()
    return result


def test_layers_that_are_not_frozen_move_and_frozen_ones_do_not() -> None:
    bound = Interventions(complete("llama", KEPT), PROMPT)
    local = bound.local
    case = one("scale", at(local, int(local.features.offsets[1])), 4.0)
    found = {}
    for freeze in FREEZES[:4]:
        (outcome,) = bound.run([case], freeze, tokens=[4])
        found[freeze] = outcome.token(4).logit_after
    none, every, from_first, up_to_first = (found[freeze] for freeze in FREEZES[:4])
    # Nothing of layer 0 that can be frozen comes after its MLP.
    assert every == pytest.approx(from_first, abs=1e-6)
    assert len({round(value, 5) for value in (none, every, up_to_first)}) == 3


def test_features_held_together_are_held_whatever_the_lower_ones_do() -> None:
    """The upper feature reads another input once the lower one is gone, and is still set."""
    bound = Interventions(complete("llama", {"mlp": {"activation": "relu"}}), PROMPT)
    local = bound.local
    offsets = local.features.offsets
    last = len(local.ids) - 1
    of_last = [i for i in range(offsets[5], offsets[6]) if local.features.position[i] == last]
    lower = [at(local, i) for i in range(offsets[1], offsets[2])]
    upper = at(local, of_last[0])
    case = Intervention((Edit(tuple(lower), "ablate"), Edit((upper,), "set", 2.0)))
    for freeze in (Freeze(), Freeze("attention"), Freeze("all")):
        (outcome,) = bound.run([case], freeze)
        row = of_last[0]
        assert outcome.features.activation_after[row] == pytest.approx(2.0)
        assert abs(outcome.features.pre_after[row] - outcome.features.pre_before[row]) > 1e-3


def test_later_edits_of_the_same_feature_count() -> None:
    bound = Interventions(complete("llama", COMPLETE), PROMPT)
    everywhere, here = FeatureAt(Site(1, "mlp"), None, 3), FeatureAt(Site(1, "mlp"), 4, 3)
    all_latents = FeatureAt(Site(1, "mlp"), 4, None)

    def edited(*edits: Edit) -> dict[int, float]:
        (outcome,) = bound.run([Intervention(edits)])
        rows = outcome.edited
        mine = rows.index == 3
        return dict(
            zip(rows.position[mine].tolist(), rows.activation_after[mine].tolist(), strict=True)
        )

    all_then_one = edited(Edit((everywhere,), "set", 1.0), Edit((here,), "set", 2.0))
    assert all_then_one == {p: 2.0 if p == 4 else 1.0 for p in range(1, len(bound.local.ids))}
    one_then_all = edited(Edit((here,), "set", 2.0), Edit((everywhere,), "set", 1.0))
    assert set(one_then_all.values()) == {1.0}
    assert edited(Edit((all_latents,), "ablate"), Edit((here,), "set", 2.0)) == {4: 2.0}
    assert edited(Edit((here,), "set", 2.0), Edit((all_latents,), "ablate")).get(4, 0.0) == 0.0


@freezes
@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS], ids=["complete", "cross"])
def test_all_latents_of_a_place_are_each_of_them(
    dictionaries: dict[str, Any], freeze: Freeze
) -> None:
    bound = Interventions(complete("llama", dictionaries), PROMPT)
    local = bound.local
    for site in (Site(0, "attention"), Site(0, "mlp")):
        here = local.features.of(site)
        position = local.features.position[here] == 5
        mine = (torch.nonzero(position).squeeze(-1) + here.start).tolist()
        assert mine
        whole = Intervention((Edit((FeatureAt(site, 5, None),), "ablate"),))
        each = supernode([at(local, i) for i in mine], "ablate")
        a, b = bound.run([whole, each], freeze, tokens=[4, 11])
        assert np.allclose(logits_after(a, [4, 11]), logits_after(b, [4, 11]), atol=1e-5)


@freezes
@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS], ids=["complete", "cross"])
def test_swapping_takes_activations_from_another_prompt(
    dictionaries: dict[str, Any], freeze: Freeze
) -> None:
    model = complete("llama", dictionaries)
    other_prompt = PROMPT.replace("dog", "queen")
    bound = Interventions(model, PROMPT)
    other = model.localize(model.loaded.encode(other_prompt))
    site, last = Site(1, "mlp"), len(other.ids) - 1
    here = other.features.of(site)
    mine = [i for i in range(here.start, here.stop) if other.features.position[i] == last]
    whole = Intervention((Edit((FeatureAt(site, last, None),), "swap", from_prompt=other_prompt),))
    by_hand = Intervention(
        (
            Edit((FeatureAt(site, last, None),), "ablate"),
            *(Edit((at(other, i),), "set", float(other.features.activation[i])) for i in mine),
        )
    )
    single = Intervention((Edit((at(other, mine[0]),), "swap", from_prompt=other_prompt),))
    single_by_hand = one("set", at(other, mine[0]), float(other.features.activation[mine[0]]))
    a, b, c, d = bound.run([whole, by_hand, single, single_by_hand], freeze, tokens=[4, 11])
    assert np.allclose(logits_after(a, [4, 11]), logits_after(b, [4, 11]), atol=1e-5)
    assert np.allclose(logits_after(c, [4, 11]), logits_after(d, [4, 11]), atol=1e-5)
    assert a.token(4).logit_before != pytest.approx(a.token(4).logit_after, abs=1e-4)


def test_swapping_everything_everywhere_between_equal_prompts_changes_nothing() -> None:
    bound = Interventions(complete("llama", COMPLETE), PROMPT)
    sites = bound.local.dictionaries.sites
    case = Intervention(
        tuple(Edit((FeatureAt(s, None, None),), "swap", from_prompt=PROMPT) for s in sites)
    )
    for freeze in FREEZES:
        (outcome,) = bound.run([case], freeze)
        assert outcome.divergence < 1e-9


def test_latents_that_fire_only_now_are_named() -> None:
    model = complete("llama", COMPLETE)
    bound = Interventions(model, PROMPT)
    local = bound.local
    site = Site(0, "mlp")
    case = one("add", FeatureAt(site, 5, 3), 20.0)
    (outcome,) = bound.run([case], newly_active=1000)
    rows = outcome.newly_active
    assert len(rows) and (rows.activation_before == 0).all() and (rows.activation_after > 0).all()
    assert (rows.position >= 5).all() and (rows.site > site.number).all()
    assert (np.diff(rows.activation_after) <= 0).all()
    # The slow way, at the next MLP.
    seen: dict[str, Tensor] = {}

    def look(inputs: Tensor, outputs: Tensor) -> Tensor:
        seen["inputs"] = inputs[0]
        return outputs

    now = outcome.edited.activation_after[0] - outcome.edited.activation_before[0]
    rows_of = _decoder_rows(local, FeatureAt(site, 5, 3))
    with local.adapter.replaced({Site(1, "mlp"): look}):
        _hooked(local, rows_of, 5, float(now))
    after = local.dictionaries.transcoders[1].encode(seen["inputs"])
    before = local.dictionaries.transcoders[1].encode(local.record.mlp_in[1])
    fresh = ((after > 0) & (before == 0))[1:].nonzero()
    mine = rows.site == Site(1, "mlp").number
    found = set(zip(rows.position[mine].tolist(), rows.index[mine].tolist(), strict=True))
    assert found == {(int(p) + 1, int(i)) for p, i in fresh}
    (few,) = bound.run([case], newly_active=2)
    assert few.newly_active.activation_after.tolist() == rows.activation_after[:2].tolist()
    (linear,) = bound.run([case], Freeze("all"))
    assert len(linear.newly_active) == 0


def test_a_silent_latent_is_steered_and_says_what_it_read() -> None:
    bound = Interventions(complete("llama", COMPLETE), PROMPT)
    local = bound.local
    active = {tuple(at(local, i)) for i in range(len(local.features))}
    for site in (Site(1, "mlp"), Site(1, "attention")):
        silent = next(FeatureAt(site, 4, i) for i in range(24) if (site, 4, i) not in active)
        real, linear = (
            bound.run([one("set", silent, 2.0)], freeze)[0] for freeze in (Freeze(), Freeze("all"))
        )
        for outcome in (real, linear):
            (row,) = outcome.edited.rows([0])
            assert (row["activation_before"], row["activation_after"]) == (0.0, 2.0)
            assert row["feature"] == str(silent)
        assert real.edited.pre_before[0] == pytest.approx(linear.edited.pre_before[0], abs=1e-4)
        assert real.divergence > 0 and linear.divergence > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("L9/5/3", "no layer 9"),
        ("L1/5/24", "run from 0 to 23"),
        ("L1/77/3", "at position 77"),
        ("L1/0/3", "dictionaries are off"),
        ("A1/5/3", "no dictionary"),
    ],
)
def test_what_is_not_there_is_said(words: str, says: str) -> None:
    bound = Interventions(complete("llama", KEPT), PROMPT)
    with pytest.raises(InterventionError, match=says):
        bound.run([Intervention((parse_edit("set", f"{words}=1"),))])


def test_impossible_interventions_are_refused() -> None:
    model = complete("llama", KEPT)
    bound = Interventions(model, PROMPT)
    here = FeatureAt(Site(1, "mlp"), 5, 3)
    fine = one("ablate", here)
    with pytest.raises(InterventionError, match="no token 100000"):
        bound.run([fine], tokens=[100_000])
    with pytest.raises(InterventionError, match="no layer 7 to freeze"):
        bound.run([fine], Freeze("attention", first_layer=7))
    with pytest.raises(InterventionError, match="Give the lower"):
        Freeze("attention", first_layer=2, last_layer=1)
    shorter = Edit((here,), "swap", from_prompt="the cat sat")
    with pytest.raises(InterventionError, match="cannot be swapped by position"):
        bound.run([Intervention((shorter,))])
    beyond = Edit((here,), "swap", from_prompt="the cat sat", from_position=9)
    with pytest.raises(InterventionError, match="from position 9"):
        bound.run([Intervention((beyond,))])
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        bound.run([fine], ctx=ctx)
    model.transcoders[1].W_D.data[3] = torch.inf
    with pytest.raises(InterventionError, match="no longer finite"):
        bound.run([one("set", here, 1.0)])


def test_a_model_in_another_number_type_is_changed_in_float32() -> None:
    loaded = tiny_loaded("llama")
    loaded.model.to(torch.bfloat16)
    held = random_dictionaries(loaded.adapter, mlp={})
    bound = Interventions(CompleteReplacementModel(loaded, held), PROMPT)
    source = some(bound.local)[0]
    (outcome,) = bound.run([one("ablate", at(bound.local, source))])
    assert bound.local.adapter.dtype == torch.float32
    assert outcome.features.activation_after[source] == 0.0
