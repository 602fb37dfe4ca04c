"""Planned interventions: the same numbers as the calls below them, and records that come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attention_studio.core.generation import generate
from attention_studio.core.generation_records import Sampling
from attention_studio.core.intervention_running import run_plan, time_pass
from attention_studio.core.intervention_runs import (
    InterventionPlan,
    InterventionRun,
    RunFormatError,
    at_positions,
)
from attention_studio.core.intervention_specs import (
    Edit,
    FeatureAt,
    Freeze,
    InterventionError,
)
from attention_studio.core.interventions import Interventions
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.ranges import RangeError
from tests.crms import complete
from tests.tiny import PROMPT

OTHER = PROMPT.replace("dog", "queen")


def plan(**changes: Any) -> InterventionPlan:
    features = (FeatureAt(Site(0, "mlp"), 3, 5), FeatureAt(Site(1, "attention"), None, 2))
    edits = (
        Edit(features, "scale", 3.0),
        Edit((FeatureAt(Site(1, "mlp"), 4, None),), "swap", from_prompt=OTHER, from_position=5),
        Edit((FeatureAt(Site(2, "mlp"), 6, 1),), "set", 2.5),
    )
    kept: dict[str, Any] = {"prompt": PROMPT, "edits": edits, "n_tokens": 3, **changes}
    return InterventionPlan(**kept)


@pytest.mark.parametrize("mode", ["none", "attention", "all"])
def test_a_plan_gives_what_the_calls_give(mode: Any) -> None:
    model = complete()
    asked = plan(freeze=Freeze(mode), n_tokens=0 if mode == "all" else 3)
    run = run_plan(model, asked)
    bound = Interventions(model, PROMPT)
    (outcome,) = bound.run([asked.intervention], asked.freeze)
    assert run.next_tokens == outcome.tokens
    assert run.divergence == outcome.divergence
    assert run.n_moved == int((outcome.features.change != 0).sum())
    assert [c.feature for c in run.edited] == [
        row["feature"] for row in outcome.edited.rows(range(len(outcome.edited)))
    ]
    rows = outcome.features.rows(outcome.features.strongest(400).tolist())
    expected = {row["feature"]: row["activation_after"] for row in rows}
    assert len(run.moved) > 5
    assert {c.feature for c in run.moved}.isdisjoint(c.feature for c in run.edited)
    assert all(expected[c.feature] == c.activation_after for c in run.moved)
    sizes = [abs(c.change) for c in run.moved]
    assert sizes == sorted(sizes, reverse=True)
    if mode == "all":
        assert run.generation is None
    else:
        texts = generate(bound, [asked.intervention], 3, asked.freeze)
        assert run.generation is not None
        assert run.generation.original == texts.original
        assert run.generation.changed[0].tokens == texts.changed[0].tokens
        # What is generated first is the likeliest next token.
        assert texts.changed[0].tokens[0].token_id == run.top(after=True)[0].token_id
    best = run.top(after=False, n=2)
    assert best[0].probability >= best[1].probability
    assert best[0].token_id == outcome.top_before.token_id


def test_a_run_comes_back_from_a_file() -> None:
    run = run_plan(complete(), plan(sampling=Sampling(0.7, 3), name="three at once"))
    again = InterventionRun.from_json(json.loads(json.dumps(run.to_json())))
    assert again == run
    assert InterventionRun.from_json(run.to_json()) == run


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "another"),
        (("version",), 2),
        (("plan", "edits"), []),
        (("plan", "edits", 0, "action"), "explode"),
        (("plan", "edits", 0, "features"), ["nonsense"]),
        (("plan", "edits", 0, "value"), float("inf")),
        (("plan", "freeze", "mode"), "all"),
        (("plan", "sampling", "temperature"), -1.0),
        (("next_tokens", 0, "token"), 7),
        (("moved", 0, "activation_after"), "much"),
        (("generation", "changed", "tokens", 0, "probability"), None),
        (("tokens",), "abc"),
    ],
)
def test_a_damaged_run_is_refused(path: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(_good().to_json()))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(RunFormatError):
        InterventionRun.from_json(data)


def _good() -> InterventionRun:
    if not _RUNS:
        _RUNS.append(run_plan(complete(), plan()))
    return _RUNS[0]


_RUNS: list[InterventionRun] = []


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(InterventionError, match="Nothing"):
        plan(edits=())
    with pytest.raises(InterventionError, match="frozen"):
        plan(freeze=Freeze("all"))
    with pytest.raises(RunFormatError):
        InterventionRun.from_json([])
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        run_plan(complete(), plan(), ctx=ctx)


def test_features_are_put_at_other_positions() -> None:
    one, two = FeatureAt(Site(0, "mlp"), 3, 5), FeatureAt(Site(0, "mlp"), 4, 5)
    assert at_positions([one, two], " ") == (one, two)
    assert at_positions([one, two], "*") == (one._replace(position=None),)
    assert at_positions([one], "2, 4-5", 6) == tuple(
        one._replace(position=position) for position in (2, 4, 5)
    )
    with pytest.raises(RangeError):
        at_positions([one], "6", 6)
    with pytest.raises(RangeError):
        at_positions([one], "here")


def test_a_pass_is_timed() -> None:
    model = complete()
    cost = time_pass(model, PROMPT)
    assert cost.n_tokens == len(model.loaded.encode(PROMPT))
    assert 0 < cost.seconds < 5
    assert 0 < cost.batched < 5
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        time_pass(model, PROMPT, ctx)
