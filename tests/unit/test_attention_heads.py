"""Where heads look and what kind they are: closed forms, slow second roads, every family."""

from __future__ import annotations

import tracemalloc
from typing import Any, Optional

import numpy as np
import pytest
import torch

from attention_studio.core.attention_heads import induction_probe, view_attention
from attention_studio.core.attention_records import THUMBNAIL_SIDE, AttentionView, thumbnails_of
from attention_studio.core.head_metrics import METRICS, head_metrics, repeated_share, value_text
from attention_studio.core.loaded_model import PromptTooLongError
from attention_studio.core.qk_records import HeadName
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, PROMPT, random_dictionaries, tiny_loaded

IDS = (0, 7, 8, 9, 7, 8, 5)
"""7 8 comes twice."""


def causal(length: int, rule: Any) -> np.ndarray[Any, Any]:
    """A pattern that puts everything on ``rule(t)``."""
    pattern = np.zeros((length, length), dtype=np.float32)
    for t in range(length):
        pattern[t, rule(t)] = 1.0
    return pattern


def metric(pattern: np.ndarray[Any, Any], name: str, ids: tuple[int, ...] = IDS) -> float:
    return float(head_metrics(pattern, ids)[name])


# ---- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (lambda t: max(0, t - 1), "previous"),
        (lambda t: t, "current"),
        (lambda t: 0, "first"),
    ],
)
def test_a_head_that_does_one_thing_does_it_wholly(rule: Any, name: str) -> None:
    pattern = causal(len(IDS), rule)
    assert metric(pattern, name) == 1.0
    others = {"previous", "current", "first"} - {name}
    # From position 1 the token before is the sink.
    assert all(metric(pattern, other) < 0.17 for other in others)
    assert metric(pattern, "entropy") == 0.0


def test_looking_back_at_the_same_token_and_behind_it() -> None:
    again = {4: 1, 5: 2}
    duplicate = causal(len(IDS), lambda t: again.get(t, t))
    assert metric(duplicate, "duplicate") == 1.0
    assert metric(duplicate, "induction") == 0.0
    behind = causal(len(IDS), lambda t: again[t] + 1 if t in again else t)
    assert metric(behind, "induction") == 1.0
    assert metric(behind, "duplicate") == 0.0
    half = (duplicate + behind) / 2
    assert metric(half, "induction") == metric(half, "duplicate") == 0.5


def test_a_token_right_behind_itself_is_no_induction() -> None:
    pattern = causal(4, lambda t: t)
    assert np.isnan(metric(pattern, "induction", (0, 5, 5, 6)))
    # The third 5 sees the second behind the first.
    assert metric(causal(4, lambda t: max(0, t - 1)), "induction", (0, 5, 5, 5)) == 1.0


def test_the_start_token_said_again_is_no_duplicate() -> None:
    assert np.isnan(metric(causal(3, lambda t: 0), "duplicate", (0, 5, 0)))


def test_uniform_attention_has_the_entropy_and_distance_of_uniform() -> None:
    length = len(IDS)
    uniform = np.tril(np.ones((length, length), dtype=np.float32))
    uniform /= uniform.sum(-1, keepdims=True)
    visible = np.arange(2, length + 1)
    assert metric(uniform, "entropy") == pytest.approx(np.log(visible).mean(), rel=1e-6)
    assert metric(uniform, "distance") == pytest.approx(((visible - 1) / 2).mean(), rel=1e-6)
    assert metric(uniform, "first") == pytest.approx((1 / visible).mean(), rel=1e-6)


def test_where_nothing_can_be_read_there_is_no_figure() -> None:
    one = np.ones((2, 3, 1, 1), dtype=np.float32)
    found = head_metrics(one, (4,))
    assert all(values.shape == (2, 3) and np.isnan(values).all() for values in found.values())
    assert set(found) == set(METRICS) - {"induction_probe"}
    assert value_text("entropy", float("nan")) == "—" == value_text("first", None)
    assert value_text("entropy", 1.25) == "1.2 nats"
    assert value_text("first", 0.876) == "0.88"


def test_figures_agree_with_loops_over_queries_and_keys() -> None:
    generator = np.random.default_rng(0)
    ids = tuple(int(i) for i in generator.integers(0, 5, 20))
    raw = np.tril(generator.random((3, 20, 20))).astype(np.float32)
    patterns = raw / raw.sum(-1, keepdims=True)
    found = head_metrics(patterns, ids)
    for head in range(3):
        duplicates, inductions = [], []
        for t in range(20):
            earlier = [j for j in range(1, t) if ids[j] == ids[t]]
            behind = [j + 1 for j in earlier if j + 1 < t]
            if earlier:
                duplicates.append(sum(patterns[head, t, j] for j in earlier))
            if behind:
                inductions.append(sum(patterns[head, t, j] for j in behind))
        assert found["duplicate"][head] == pytest.approx(np.mean(duplicates), rel=1e-5)
        assert found["induction"][head] == pytest.approx(np.mean(inductions), rel=1e-5)


def test_repetition_is_found_on_tokens_said_twice() -> None:
    half, length = 5, 11
    pattern = causal(length, lambda t: t - half + 1 if half < t < 2 * half else t)
    ids = (0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5)
    assert repeated_share(pattern, half) == 1.0
    assert all(ids[t - half] == ids[t] for t in range(half + 1, length))
    # Those queries and the last one, whose token stands before the second saying, agree with the
    # figure for any prompt.
    last = pattern.copy()
    last[-1] = 0
    last[-1, half + 1] = 1
    assert metric(last, "induction", ids) == 1.0
    assert repeated_share(causal(length, lambda t: t), half) == 0.0


def test_a_thumbnail_keeps_what_is_thin() -> None:
    small = thumbnails_of(causal(10, lambda t: t)[None])
    assert small.shape == (1, 10, 10)
    assert (small[0] == 255 * np.eye(10)).all()
    long = causal(200, lambda t: 0)
    reduced = thumbnails_of(long)
    assert reduced.shape == (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert (reduced[:, 0] == 255).all() and (reduced[:, 1:] == 0).all()


# ---- the models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_those_of_the_model(family: str) -> None:
    """Against the pattern that transformers hands out by itself."""
    loaded = tiny_loaded(family)
    view = view_attention(loaded, PROMPT)
    ids = loaded.encode(PROMPT)
    assert view.token_ids == tuple(ids) and len(view.tokens) == len(ids)
    model = loaded.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        own = model(torch.tensor([ids]), output_attentions=True).attentions
    model.set_attn_implementation(before)
    expected = torch.stack([layer[0] for layer in own]).numpy()
    np.testing.assert_allclose(view.patterns, expected, atol=1e-6)
    np.testing.assert_allclose(view.patterns.sum(-1), 1, atol=1e-5)
    head = HeadName("model", 1, 2)
    assert (view.pattern(head) == view.patterns[1, 2]).all()
    mean = np.mean([view.patterns[1, 2, t, t - 1] for t in range(2, len(ids))])
    assert view.metric(head, "previous") == pytest.approx(mean, rel=1e-5)
    assert np.isfinite(view.metric(head, "induction_probe"))
    assert not view.lorsas and view.crm is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_and_features_of_lorsas_are_those_of_the_local_model(family: str) -> None:
    """Against ``localize``, and z-patterns against ``Lorsa.z_pattern``."""
    loaded = tiny_loaded(family)
    dictionaries = random_dictionaries(loaded.adapter, attention={"layers": (0, 2)})
    crm = CompleteReplacementModel(loaded, dictionaries, "mine")
    view = view_attention(loaded, PROMPT, crm)
    local = crm.localize(loaded.encode(PROMPT))
    assert set(view.lorsas) == {0, 2} and view.crm == DictionariesId("mine")
    assert len(view.heads) == view.n_layers * view.n_heads + sum(
        len(lorsa.patterns) for lorsa in view.lorsas.values()
    )
    for layer, heads in view.lorsas.items():
        lorsa = dictionaries.lorsas[layer]
        np.testing.assert_allclose(heads.patterns, local.lorsa_pattern(layer).numpy(), atol=1e-6)
        here = local.features.of(Site(layer, "attention"))
        dense = np.zeros((lorsa.config.d_latent, len(view.tokens)), dtype=np.float32)
        columns = (local.features.index[here], local.features.position[here])
        dense[tuple(column.numpy() for column in columns)] = local.features.activation[here]
        assert heads.n_active == (dense.max(1) > 0).sum() == len(heads.latents)
        np.testing.assert_allclose(heads.activations, dense[heads.latents], atol=1e-6)
        peaks = heads.activations.max(1)
        assert (np.diff(peaks) <= 0).all()
        norm, scale = local.norm_at(Site(layer, "attention"))
        inputs = norm.apply(local.record.resid_pre[layer], scale)
        for place in range(3):
            latent = int(heads.latents[place])
            expected = lorsa.z_pattern(inputs, latent, local.lorsa_pattern(layer)).numpy()
            np.testing.assert_allclose(heads.z_pattern(place), expected, atol=1e-5)
            feature = heads.feature(place)
            assert feature.latent == latent
            assert feature.position == heads.strongest_at(place)
            assert heads.activations[place, heads.strongest_at(place)] == peaks[place]
        shared = [heads.of_head(head) for head in range(len(heads.patterns))]
        assert sorted(np.concatenate(shared).tolist()) == list(range(len(heads.latents)))
        name = HeadName("lorsa", layer, 1)
        assert (view.pattern(name) == heads.patterns[1]).all()
        assert view.metric(name, "entropy") == heads.metrics["entropy"][1]
        # The probe is run with the model's own attention alone.
        assert np.isnan(view.metric(name, "induction_probe"))


@pytest.fixture(scope="module")
def view() -> AttentionView:
    loaded = tiny_loaded()
    dictionaries = random_dictionaries(loaded.adapter, attention={"layers": (1,)})
    return view_attention(loaded, PROMPT, CompleteReplacementModel(loaded, dictionaries))


def test_heads_are_ranked_by_a_figure(view: AttentionView) -> None:
    ranked = view.ranked("distance")
    values = [view.metric(head, "distance") for head in ranked]
    assert values == sorted(values, reverse=True) and len(ranked) == len(view.heads)
    assert view.largest("distance") == values[0]
    assert all(head.kind == "model" for head in view.ranked("induction_probe"))


def test_a_head_that_is_not_there_has_no_pattern(view: AttentionView) -> None:
    for name in (HeadName("model", 9, 0), HeadName("model", 0, 99), HeadName("lorsa", 0, 0)):
        with pytest.raises(KeyError, match=str(name)):
            view.pattern(name)


def test_the_probe_says_the_same_each_time_and_finds_a_head_that_copies() -> None:
    loaded = tiny_loaded()
    first, again = induction_probe(loaded), induction_probe(loaded)
    assert (first == again).all()
    assert (first != induction_probe(loaded, seed=1)).any()
    ids: list[list[int]] = []
    real = loaded.adapter.record

    def spy(tokens: list[int]) -> Any:
        ids.append(list(tokens))
        return real(tokens)

    loaded.adapter.record = spy  # type: ignore[method-assign, assignment]
    found = induction_probe(loaded)
    (tokens,) = ids
    half = len(tokens) // 2
    assert tokens[0] == loaded.start_token_id and tokens[1 : half + 1] == tokens[half + 1 :]
    assert loaded.start_token_id not in tokens[1:]
    own = real(tokens).patterns.numpy()
    by_hand = [own[2, 1, t, t - half + 1] for t in range(half + 1, 2 * half)]
    assert found[2, 1] == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_work_can_be_cancelled_and_long_prompts_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny_loaded()
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        view_attention(loaded, PROMPT, None, ctx)
    monkeypatch.setattr("attention_studio.core.attention_heads.free_bytes", lambda _device: 1000)
    with pytest.raises(PromptTooLongError, match="patterns of all heads"):
        view_attention(loaded, PROMPT)


@pytest.mark.parametrize(
    ("device", "main", "refused"),
    [
        (1 << 40, 1 << 40, None),
        (1000, 1 << 40, "GiB on cuda and 0.0 GiB are free"),
        (1 << 40, 1000, "GiB of main memory and 0.0 GiB are free"),
    ],
)
def test_patterns_on_a_gpu_need_room_there_and_in_main_memory(
    monkeypatch: pytest.MonkeyPatch, device: int, main: int, refused: Optional[str]
) -> None:
    loaded = tiny_loaded()
    dictionaries = random_dictionaries(loaded.adapter, attention={"layers": (1,)})
    crm = CompleteReplacementModel(loaded, dictionaries)
    heads = "attention_studio.core.attention_heads"
    gpu = torch.device("cuda")
    monkeypatch.setattr(type(loaded.adapter), "device", property(lambda _self: gpu))
    free = {"cuda": device, "cpu": main}
    monkeypatch.setattr(f"{heads}.free_bytes", lambda where: free[where.type])
    monkeypatch.setattr(f"{heads}.available_ram", lambda: main)
    # What one pass without patterns takes is the model's own question.
    whole = "attention_studio.core.loaded_model.free_bytes"
    monkeypatch.setattr(whole, lambda _where: 1 << 40)
    # There is no GPU here: whoever gets as far as the pass has been let through.
    ran: list[bool] = []

    def record(_self: Any, _ids: Any) -> Any:
        ran.append(True)
        raise Cancelled

    monkeypatch.setattr(type(loaded.adapter), "record", record)
    with pytest.raises(Cancelled if refused is None else PromptTooLongError, match=refused):
        view_attention(loaded, PROMPT, crm)
    assert bool(ran) == (refused is None)


def test_figures_take_no_more_room_than_a_few_heads() -> None:
    length = 256
    raw = np.tril(np.random.default_rng(0).random((6, 8, length, length), dtype=np.float32))
    patterns = raw / raw.sum(-1, keepdims=True)
    tracemalloc.start()
    head_metrics(patterns, tuple(i % 50 for i in range(length)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * length**2 + 100_000
