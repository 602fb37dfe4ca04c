"""The adapter's view adds up to the model, for every family, and leaves the model alone."""

from __future__ import annotations

import pytest
import torch

from attention_studio.core.model_adapter import ModelAdapter, OffloadedWeightsError
from attention_studio.core.model_families import SUPPORTED_FAMILIES, UnsupportedModelError
from attention_studio.core.sites import Site, SiteKind
from tests.tiny import FAMILIES, tiny_model

IDS = [0, 5, 9, 14, 3, 21, 8, 30, 2, 11]
VARIANTS = [*((family, {}) for family in FAMILIES), ("gpt_neox", {"use_parallel_residual": False})]
variants = pytest.mark.parametrize(("family", "overrides"), VARIANTS)


@variants
def test_writes_add_up_to_the_final_residual_stream(family: str, overrides: dict) -> None:
    record = ModelAdapter.for_model(tiny_model(family, **overrides)).record(IDS)
    total = record.embedding + record.attention_out.sum(0) + record.mlp_out.sum(0)
    assert torch.allclose(total, record.resid_final, atol=1e-5, rtol=0)


@variants
def test_the_frozen_unembedding_gives_the_models_own_logits(family: str, overrides: dict) -> None:
    model = tiny_model(family, **overrides)
    adapter = ModelAdapter.for_model(model)
    record = adapter.record(IDS)
    weight, bias = adapter.unembedding()
    logits = adapter.final_norm().apply(record.resid_final, record.final_scale) @ weight.T
    logits = logits if bias is None else logits + bias
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    own = model(torch.tensor([IDS])).logits[0]
    assert torch.allclose(logits, own, atol=1e-5, rtol=1e-5)
    assert torch.allclose(record.logits, own, atol=1e-5, rtol=1e-5)


@variants
def test_frozen_attention_is_linear_and_equals_the_models_own(family: str, overrides: dict) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family, **overrides))
    record = adapter.record(IDS)
    for layer in range(adapter.n_layers):
        normed = adapter.attention_norm(layer).apply(
            record.resid_pre[layer], record.attention_scale[layer]
        )
        weights = adapter.value_output(layer)
        out = weights.apply(normed, record.patterns[layer])
        assert torch.allclose(out, record.attention_raw[layer], atol=1e-5)
        post = adapter.attention_post_norm(layer)
        if post is not None:
            out = post.apply(out, record.attention_post_scale[layer])
        assert torch.allclose(out, record.attention_out[layer], atol=1e-5)


@variants
def test_pulling_a_gradient_back_is_the_transpose_of_pushing_a_change(
    family: str, overrides: dict
) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family, **overrides))
    record = adapter.record(IDS)
    generator = torch.Generator().manual_seed(1)
    change, gradient = torch.randn(2, len(IDS), adapter.d_model, generator=generator)
    norm, scale = adapter.mlp_norm(1), record.mlp_scale[1]
    assert torch.allclose(
        (norm.push(change, scale) * gradient).sum(),
        (norm.pull(gradient, scale) * change).sum(),
        rtol=1e-4,
    )


@variants
def test_harvest_equals_the_record_and_stops_early(family: str, overrides: dict) -> None:
    model = tiny_model(family, **overrides)
    adapter = ModelAdapter.for_model(model)
    record = adapter.record(IDS)
    ran: list[str] = []
    handle = adapter._layers[2].register_forward_hook(lambda *_: ran.append("layer 2"))
    sites = [Site(layer, kind) for layer in (0, 1) for kind in ("attention", "mlp")]
    found = adapter.harvest(torch.tensor([IDS, IDS]), sites)
    handle.remove()
    assert sorted(found) == sites
    assert ran == []
    for layer in (0, 1):
        mlp, attention = found[Site(layer, "mlp")], found[Site(layer, "attention")]
        assert mlp.inputs.shape == (2, len(IDS), adapter.d_model)
        assert torch.allclose(mlp.inputs[1], record.mlp_in[layer], atol=1e-5)
        assert torch.allclose(mlp.outputs[0], record.mlp_out[layer], atol=1e-5)
        assert torch.allclose(attention.outputs[0], record.attention_out[layer], atol=1e-5)
        norm = adapter.attention_norm(layer)
        read = norm.apply(record.resid_pre[layer], record.attention_scale[layer])
        assert torch.allclose(attention.inputs[1], read, atol=1e-5)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
@variants
def test_replacing_a_module_by_itself_changes_nothing_and_by_zero_something(
    family: str, overrides: dict, kind: SiteKind
) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family, **overrides))
    site = Site(1, kind)
    before = adapter.logits(IDS)
    with adapter.replaced({site: lambda _x, y: y}):
        same = adapter.logits(IDS)
    with adapter.replaced({site: lambda _x, y: torch.zeros_like(y)}):
        other = adapter.logits(IDS)
    assert torch.equal(before, same)
    assert (before - other).abs().max() > 1e-3
    assert torch.equal(before, adapter.logits(IDS))


@variants
def test_hooks_leave_the_model_as_they_found_it(family: str, overrides: dict) -> None:
    model = tiny_model(family, **overrides)
    adapter = ModelAdapter.for_model(model)
    implementation = model.config._attn_implementation
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter.record(IDS)
    adapter.harvest(IDS, [Site(1, "attention"), Site(1, "mlp")])
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        adapter.replaced({Site(0, "mlp"): _fail}),
    ):
        adapter.logits(IDS)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_attention_with_capped_scores_is_never_computed_without_the_cap() -> None:
    model = tiny_model("gemma2")
    model.set_attn_implementation("eager")
    capped = model(torch.tensor([IDS])).logits[0]
    model.config._attn_implementation = "sdpa"  # what transformers 5.20 chooses by itself
    assert torch.allclose(ModelAdapter.for_model(model).logits(IDS), capped, atol=1e-5, rtol=0)


def _fail(_inputs: torch.Tensor, _outputs: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("in the middle")


def test_what_hooks_hand_out_lies_on_the_adapters_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model spread over devices has layers elsewhere; here the adapter itself is elsewhere."""
    adapter = ModelAdapter.for_model(tiny_model("llama"))
    call = adapter._call(IDS)
    monkeypatch.setattr(adapter, "_call", lambda _: call)
    monkeypatch.setattr(ModelAdapter, "device", property(lambda _: torch.device("meta")))
    site = Site(1, "mlp")
    found = adapter.harvest(IDS, [site])[site]
    assert (found.inputs.device.type, found.outputs.device.type) == ("meta", "meta")
    seen: list[str] = []

    def replace(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        seen.extend([inputs.device.type, outputs.device.type])
        return torch.zeros(outputs.shape)

    with adapter.replaced({site: replace}):
        assert adapter.logits(IDS).device.type == "cpu"
    assert seen == ["meta", "meta"]


def test_an_unknown_family_gets_an_error_that_names_the_known_ones() -> None:
    model = tiny_model("llama")
    model.config.model_type = "mamba"
    with pytest.raises(UnsupportedModelError) as caught:
        ModelAdapter.for_model(model)
    assert "mamba" in str(caught.value)
    assert all(family in str(caught.value) for family in SUPPORTED_FAMILIES)


def test_weights_that_were_left_in_main_memory_are_asked_for_in_words() -> None:
    model = tiny_model("llama")
    adapter = ModelAdapter.for_model(model)
    norm = model.model.layers[1].input_layernorm
    norm.weight = torch.nn.Parameter(norm.weight.to("meta"), requires_grad=False)
    with pytest.raises(OffloadedWeightsError, match="main memory"):
        adapter.attention_norm(1)


@variants
def test_the_final_normed_stream_is_what_the_unembedding_reads(
    family: str, overrides: dict
) -> None:
    adapter = ModelAdapter.for_model(tiny_model(family, **overrides))
    record = adapter.record(IDS)
    expected = adapter.final_norm().apply(record.resid_final, record.final_scale)
    assert torch.allclose(adapter.final_normed(IDS)[0], expected, atol=1e-5)
