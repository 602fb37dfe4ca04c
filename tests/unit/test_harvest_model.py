"""The model as it is run for harvesting: what is left out of it must not be missed."""

from __future__ import annotations

import copy
import ctypes
import platform

import pytest
import torch
import torch.nn.functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attention_studio.core.harvest_model import (
    ATTENTION_NAME,
    harvest_adapter,
    short_causal_attention,
)
from attention_studio.core.host_memory import reuse_freed_memory
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site
from tests.tiny import FAMILIES, tiny_loaded

SITES = (Site(0, "attention"), Site(1, "mlp"))


def ids_of(loaded: LoadedModel, length: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, loaded.info.vocab_size, (3, length), generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shorter_copy_harvests_the_same(family: str) -> None:
    """Exactly so in the model's own type, sliding windows and capped scores included."""
    loaded = tiny_loaded(family)
    ids = ids_of(loaded)
    short = loaded.copy_in(torch.float32, layers=2)
    expected, found = loaded.adapter.harvest(ids, SITES), short.harvest(ids, SITES)
    for site in SITES:
        assert torch.equal(found[site].inputs, expected[site].inputs)
        assert torch.equal(found[site].outputs, expected[site].outputs)
    held = sum(p.numel() for p in short.model.parameters())
    beyond = loaded.adapter.count_parameters(2)[0]
    assert held <= loaded.info.n_parameters - beyond
    # The original has lost nothing.
    assert loaded.adapter.logits(ids).shape[-1] == loaded.info.vocab_size


@pytest.mark.parametrize("family", FAMILIES)
def test_harvests_are_the_models_own(family: str) -> None:
    """In bfloat16, with the attention that a harvest has; in float32 it is the model itself."""
    loaded = tiny_loaded(family)
    assert harvest_adapter(loaded, torch.float32, SITES) is loaded.adapter
    adapter = harvest_adapter(loaded, torch.bfloat16, SITES)
    assert adapter.dtype is torch.bfloat16
    implementation = adapter.model.config._attn_implementation
    capped = getattr(loaded.model.config, "attn_logit_softcapping", None) is not None
    assert implementation == ("eager" if capped else ATTENTION_NAME)
    assert loaded.model.config._attn_implementation != ATTENTION_NAME
    ids = ids_of(loaded)
    expected, found = loaded.adapter.harvest(ids, SITES), adapter.harvest(ids, SITES)
    for site in SITES:
        for ours, theirs in (
            (found[site].inputs, expected[site].inputs),
            (found[site].outputs, expected[site].outputs),
        ):
            error = (ours.float() - theirs).square().sum()
            assert float(error / (theirs - theirs.mean((0, 1))).square().sum()) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_is_exact_in_float32(family: str) -> None:
    loaded = tiny_loaded(family)
    twin = loaded.copy_in(torch.float32)
    if twin.model.config._attn_implementation != "sdpa":
        pytest.skip("scores are capped, and attention stays as it is")
    twin.model.set_attn_implementation(ATTENTION_NAME)
    ids = ids_of(loaded)
    torch.testing.assert_close(twin.logits(ids), loaded.adapter.logits(ids), rtol=1e-4, atol=1e-5)


class _Module(torch.nn.Module):
    is_causal = True


@pytest.mark.parametrize("shared", [1, 3])
def test_short_causal_attention(shared: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(2, 6, 17, 8, generator=generator)
    k, v = (torch.randn(2, 6 // shared, 17, 8, generator=generator) for _ in range(2))
    found, _ = short_causal_attention(_Module(), q, k, v, None, scaling=0.3)
    keys, values = (t.repeat_interleave(shared, 1) for t in (k, v))
    expected = F.scaled_dot_product_attention(q, keys, values, is_causal=True, scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["mask", "long", "cached", "both ways"])
def test_what_is_not_plain_goes_to_the_fused_attention(case: str) -> None:
    length, mask, module = 17, None, _Module()
    if case == "long":
        length = 2100
    keys = length + 3 if case == "cached" else length
    q, k, v = (torch.randn(1, 1, n, 4) for n in (length, keys, keys))
    if case == "mask":
        mask = torch.ones(length, keys, dtype=torch.bool).tril().triu(-2)[None, None]
    if case == "both ways":
        module = copy.copy(module)
        module.is_causal = False
    module.num_key_value_groups = 1
    found, _ = short_causal_attention(module, q, k, v, mask)
    expected, _ = sdpa_attention_forward(module, q, k, v, mask)
    assert torch.equal(found, expected)


def test_freed_memory_is_kept_where_the_c_library_is_known() -> None:
    known = platform.libc_ver()[0] == "glibc" and hasattr(ctypes.CDLL(None), "mallopt")
    assert reuse_freed_memory() is known
