"""Predicted against measured: ablations the slow way, reports that are kept, and their picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_studio.core import intervention_effects, replacement_model, validation
from attention_studio.core.attribution import Targets
from attention_studio.core.intervention_edits import EditTable
from attention_studio.core.intervention_specs import (
    Edit,
    FeatureAt,
    Intervention,
    InterventionError,
    supernode,
)
from attention_studio.core.sites import Site
from attention_studio.core.validation import ablate_together, measure, validate
from attention_studio.core.validation_plot import save_plot, ticks, validation_svg
from attention_studio.core.validation_report import (
    Agreement,
    ValidationFormatError,
    ValidationReport,
)
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete, replacement
from tests.tiny import PROMPT


@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS], ids=["complete", "cross"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_features_of_every_kind_are_ablated(family: str, dictionaries: dict[str, Any]) -> None:
    model = complete(family, dictionaries)
    report = validate(model, PROMPT, samples=48)
    assert {check.kind for check in report.checks} == {"attention", "mlp"}
    assert report.largest_freeze_gap < 1e-4
    assert abs(report.control.correlation) < abs(report.logits.correlation)


def test_what_does_not_fit_memory_is_refused_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "free_bytes", lambda _device: 48 * 9 * 100)
    with pytest.raises(InterventionError, match="do not fit"):
        validate(replacement(), PROMPT, samples=9)


def test_the_other_prompt_of_a_group_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = replacement(), []
    localize = model.localize

    def counted(ids: Any) -> Any:
        runs.append(ids)
        return localize(ids)

    monkeypatch.setattr(model, "localize", counted)
    everywhere = FeatureAt(Site(1, "mlp"), None, 3)
    other = PROMPT.replace("dog", "queen")
    swap = Intervention((Edit((everywhere,), "swap", from_prompt=other),), "swapped")
    report = validate(model, PROMPT, samples=2, groups=[swap])
    assert [group.name for group in report.groups] == ["swapped"]
    assert len(runs) == 2


def test_an_ablation_is_what_the_model_does_without_the_feature() -> None:
    """The slow way: the module's output with the feature's write taken out, one at a time."""
    model = complete(dictionaries={"clt": {}, "attention": {}})
    adapter, ids = model.adapter, model.loaded.encode(PROMPT)
    local = model.localize(ids)
    features = local.features
    chosen = torch.tensor([3, len(features) // 3, len(features) // 2])
    directions, bias = local.logit_directions([4, 7])
    targets = Targets(directions, bias, torch.tensor([10, 10]), chosen[:0])
    changes = local.feature_changes(chosen, -1.0)
    found = measure(local, targets, EditTable.empty(local, len(chosen)), changes, WorkContext())
    moved, pre = found.logits, found.features
    clt, lorsas = model.dictionaries.clt, model.dictionaries.lorsas
    assert clt is not None
    sites = [Site.of_number(int(features.site[i])) for i in chosen]
    assert {site.kind for site in sites} == {"attention", "mlp"}
    plain = adapter.logits(ids)[0, -1]
    for case, (i, site) in enumerate(zip(chosen.tolist(), sites, strict=True)):
        index, position = int(features.index[i]), int(features.position[i])
        edits: dict[Site, Tensor] = {}
        if site.kind == "attention":
            edits[site] = lorsas[site.layer].W_O[index]
        else:
            for step in range(3 - site.layer):
                edits[Site(site.layer + step, "mlp")] = clt.W_D[site.layer][step, index]
        seen: dict[Site, Tensor] = {}

        def edit(at: Site, row: Optional[Tensor]) -> Any:
            def function(inputs: Tensor, outputs: Tensor) -> Tensor:
                seen[at] = inputs[0]  # noqa: B023 - called within this turn of the loop
                changed = outputs.clone()
                if row is not None:
                    changed[0, position] -= features.activation[i] * row  # noqa: B023
                return changed

            return function

        with adapter.replaced({at: edit(at, edits.get(at)) for at in local.errors}):
            without = adapter.logits(ids)[0, -1]
        change = without - plain
        expected = change[[4, 7]] - change.mean()
        assert torch.allclose(moved[case], expected, atol=1e-4)
        for at in (Site(2, "attention"), Site(2, "mlp")):
            here = features.of(at)
            dense = (
                lorsas[2].pre_activations(seen[at])
                if at.kind == "attention"
                else clt.pre_activations(2, seen[at])
            )
            own = dense[features.position[here], features.index[here]]
            # Active features' activations are their pre-activations in the untouched model.
            expected = own - features.activation[here]
            assert torch.allclose(pre[case, here], expected, atol=1e-4)


def test_features_that_are_ablated_together_are_all_gone() -> None:
    """The slow way: one module's output less the sum of what the features write there."""
    model = replacement()
    adapter, ids = model.adapter, model.loaded.encode(PROMPT)
    local = model.localize(ids)
    features, transcoders = local.features, model.transcoders
    directions, bias = local.logit_directions([4, 7])
    last = torch.tensor([len(ids) - 1] * 2)
    targets = Targets(directions, bias, last, last[:0])
    here = features.of(Site(1, "mlp"))
    group = torch.arange(here.start, here.stop)[::3]
    changed = ablate_together(local, targets, [group, group[:1], group[:0]])
    assert changed[2].abs().max() == 0.0

    def without(count: int) -> Tensor:
        def edit(_inputs: Tensor, outputs: Tensor) -> Tensor:
            left = outputs.clone()
            for i in group[:count].tolist():
                row = transcoders[1].W_D[features.index[i]]
                left[0, features.position[i]] -= features.activation[i] * row
            return left

        with adapter.replaced({Site(1, "mlp"): edit}):
            return adapter.logits(ids)[0, -1]

    moved = torch.stack([without(len(group)), without(1)]) - adapter.logits(ids)[0, -1]
    moved = (moved - moved.mean(-1, keepdim=True))[:, [4, 7]]
    torch.testing.assert_close(changed[:2], moved, rtol=1e-3, atol=1e-4)
    assert moved.abs().max() > 1e-2


def test_predictions_hold_exactly_under_the_freezes_and_roughly_without() -> None:
    report = validate(replacement(), PROMPT, samples=16)
    assert report.n_samples == 16
    assert report.largest_freeze_gap < 1e-4
    assert abs(report.control.correlation) < abs(report.logits.correlation)
    with pytest.raises(InterventionError):
        validate(replacement(), PROMPT, samples=0)
    with pytest.raises(InterventionError, match="No feature is active"):
        validate(replacement(layers=()), PROMPT)


def test_validation_measures_the_same_in_passes_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = replacement()
    whole = validate(model, PROMPT, samples=9)
    sizes: list[int] = []
    final_normed = model.adapter.final_normed

    def watched(ids: Any) -> Any:
        sizes.append(len(ids))
        return final_normed(ids)

    n_tokens = len(model.loaded.encode(PROMPT))
    monkeypatch.setattr(model.adapter, "final_normed", watched)
    monkeypatch.setattr(intervention_effects, "VALUES_PER_PASS", 5 * n_tokens * model.adapter.d_mlp)
    parts = validate(model, PROMPT, samples=9)
    assert sizes == 2 * [5, 5, 2]
    monkeypatch.setattr(replacement_model, "_PIECE_VALUES", 1)  # a feature at a time
    one_by_one = validate(model, PROMPT, samples=9)
    for name in ("predicted", "measured", "control"):
        values = [getattr(report.feature_pairs, name) for report in (whole, parts, one_by_one)]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values[0], values[2], rtol=1e-4, atol=1e-5)
    measured = [[check.measured for check in report.checks] for report in (whole, parts)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-5)
    assert parts.features.correlation == pytest.approx(whole.features.correlation, abs=1e-4)


def test_dictionaries_that_write_nothing_cannot_be_validated() -> None:
    model = replacement(skip=False)
    for transcoder in model.transcoders.values():
        transcoder.W_D.data.zero_()
    with pytest.raises(InterventionError, match="has an effect"):
        validate(model, PROMPT)


def test_agreement_of_a_line_with_itself() -> None:
    x = np.array([1.0, -2.0, 3.0])
    same, half, none = Agreement.of(x, x), Agreement.of(x, x / 2), Agreement.of(x[:0], x[:0])
    assert (same.slope, same.correlation, same.relative_error) == pytest.approx((1, 1, 0))
    assert half.slope == pytest.approx(0.5)
    assert half.relative_error == pytest.approx(1.0)
    assert (none.n, none.slope, none.correlation) == (0, 0.0, 0.0)
    assert Agreement.of(np.zeros(3), x).correlation == 0.0


@pytest.fixture(scope="module")
def report() -> ValidationReport:
    model = complete(dictionaries=CROSS)
    features = model.localize(model.loaded.encode(PROMPT)).features
    group = [
        FeatureAt(
            Site.of_number(int(features.site[i])),
            int(features.position[i]),
            int(features.index[i]),
        )
        for i in (2, 40, 90)
    ]
    groups = [replace(supernode(group, "ablate"), name="three"), supernode(group[:1], "ablate")]
    return validate(model, PROMPT, samples=24, groups=groups)


def test_a_supernode_is_ablated_as_a_whole(report: ValidationReport) -> None:
    three, one = report.groups
    assert (three.name, len(three.features)) == ("three", 3)
    assert one.name == one.features[0].join(["ablate ", ""])
    model = complete(dictionaries=CROSS)
    local = model.localize(model.loaded.encode(PROMPT))
    token = model.loaded.token_strings(range(model.adapter.vocab_size)).index(one.token)
    directions, bias = local.logit_directions([token])
    last = torch.tensor([len(local.ids) - 1])
    gone = ablate_together(local, Targets(directions, bias, last, last[:0]), [torch.tensor([2])])
    assert one.measured == pytest.approx(float(gone[0, 0]), abs=1e-5)
    # A group's pairs are kept, but are no part of the figures of the sampled features.
    assert set(report.logit_pairs.sample.tolist()) == set(range(report.n_samples + 2))
    assert report.logits.n == 5 * report.n_samples


def test_figures_by_module_are_those_of_its_pairs(report: ValidationReport) -> None:
    assert sum(site.n_samples for site in report.sites) == report.n_samples == len(report.checks)
    assert sum(site.logits.n for site in report.sites) == report.logits.n
    assert [site.label for site in report.sites] == sorted(
        (site.label for site in report.sites), key=lambda label: (label[1:], label)
    )
    one = max(report.sites, key=lambda site: site.n_samples)
    mine = [
        i
        for i, check in enumerate(report.checks)
        if (check.kind, check.layer) == (one.kind, one.layer)
    ]
    pairs = report.logit_pairs.of_samples(mine)
    assert np.corrcoef(pairs.predicted, pairs.measured)[0, 1] == pytest.approx(
        one.logits.correlation
    )


def test_a_report_survives_being_stored(report: ValidationReport) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    # What is kept in memory is what comes out of a file.
    assert json.loads(text) == report.to_json()
    assert ValidationReport.from_json(report.to_json()).to_json() == report.to_json()
    again = ValidationReport.from_json(json.loads(text))
    assert again.to_json() == report.to_json()
    assert (again.logits, again.checks, again.groups) == (
        report.logits,
        report.checks,
        report.groups,
    )
    np.testing.assert_array_equal(again.feature_pairs.measured, report.feature_pairs.measured)


def _without(data: dict[str, Any], name: str) -> None:
    del data[name]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data.update(format="other"), "no stored validation"),
        (lambda data: _without(data, "logits"), "logits"),
        (lambda data: data["logits"].update(slope=float("nan")), "slope"),
        (lambda data: data["checks"][0].update(kind="head"), "kind"),
        (lambda data: data["logit_pairs"]["sample"].pop(), "different lengths"),
        (lambda data: data["logit_pairs"].update(sample=[0] * 20_001), "sample"),
    ],
)
def test_a_damaged_report_is_refused(
    report: ValidationReport, spoil: Callable[[dict[str, Any]], Any], says: str
) -> None:
    data = json.loads(json.dumps(report.to_json()))
    spoil(data)
    with pytest.raises(ValidationFormatError, match=says):
        ValidationReport.from_json(data)


def test_the_picture_shows_every_pair_and_module(report: ValidationReport, tmp_path: Path) -> None:
    save_plot(replace(report, prompt='a <b> & "c"\x07'), tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    texts = ["".join(element.itertext()) for element in root.iter(f"{svg}text")]
    assert 'a <b> & "c" ' in texts[0] and report.crm_name in texts[0]
    for site in report.sites:
        assert f"{site.label} ({site.n_samples})" in texts
    drawn = {
        (group[0].text, len(group) - 1)
        for group in root.iter(f"{svg}g")
        if group[0].text == "supernodes" or group[0].text == "ablations"
    }
    assert drawn == {
        ("ablations", report.logits.n),
        ("supernodes", 2 * 5),
        ("ablations", min(report.features.n, 1500)),
        ("supernodes", 0),
    }
    # Every mark lies within the picture, and equal changes lie on the dashed line.
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for circle in root.iter(f"{svg}circle"):
        assert 0 < float(circle.get("cx", -1)) < width and 0 < float(circle.get("cy", -1)) < height
    pairs = report.logit_pairs
    same = replace(pairs, measured=pairs.predicted, control=pairs.predicted)
    root = ElementTree.fromstring(validation_svg(replace(report, logit_pairs=same)))
    (one, *_) = [g for g in root.iter(f"{svg}g") if g[0].text == "ablations"]
    sums = {
        round(float(circle.get("cx", 0)) - 62 + float(circle.get("cy", 0)) - 62)
        for circle in one[1:]
    }
    assert sums <= {249, 250, 251}


def test_nothing_to_draw_is_an_empty_picture(report: ValidationReport) -> None:
    none = report.logit_pairs.of_samples([])
    empty = replace(report, logit_pairs=none, feature_pairs=none, sites=(), groups=())
    root = ElementTree.fromstring(validation_svg(empty))
    assert not [e for e in root.iter("{http://www.w3.org/2000/svg}g") if len(e) > 1]


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-29.3, 29.3) == pytest.approx([-20, 0, 20])
    assert ticks(-3e-7, 3e-7) == pytest.approx([-2e-7, 0, 2e-7])
    assert ticks(2, 2) == [2]
    for low, high in ((-0.3, 17), (0, 99.9), (-1e6, 3)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 8 and low <= min(found) and max(found) <= high + 1e-9
