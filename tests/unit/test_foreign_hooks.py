"""A dictionary reads what it was trained on, wherever the tool hooked in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Optional

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    UnsupportedDictionaryError,
)
from attention_studio.core.dictionaries.foreign.hooks import NormalizedHook, hook_pair, module_pair
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.sites import Site
from tests.foreign import edit_json, random_clt, random_lorsa, random_transcoder, written
from tests.tiny import FAMILIES, tiny_model

CENTRED = ("gpt2", "gpt_neox")


@lru_cache
def adapter_of(family: str) -> ModelAdapter:
    return ModelAdapter.for_model(tiny_model(family, hidden_size=40, num_attention_heads=4))


def rows(adapter: ModelAdapter, site: Site) -> tuple[Tensor, Tensor]:
    """Random inputs of a module in two places: before the gain of its norm, and as we read them."""
    norm = (
        adapter.mlp_norm(site.layer) if site.kind == "mlp" else adapter.attention_norm(site.layer)
    )
    x = torch.randn(30, adapter.d_model, generator=torch.Generator().manual_seed(5))
    if norm.centred:
        x = x - x.mean(-1, keepdim=True)
    before = x * norm.scale(x).unsqueeze(-1)
    after = before * norm.gain if norm.bias is None else before * norm.gain + norm.bias
    return before, after


def rehook(folder: Path, old: str, new: str) -> None:
    """Change a hook's name in every configuration below ``folder``."""
    for path in [*folder.rglob("c*.json"), *folder.rglob("config.yaml")]:
        path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skip", [False, True])
def test_before_the_gain(tmp_path: Path, family: str, skip: bool) -> None:
    adapter = adapter_of(family)
    original = random_transcoder("jumprelu", skip=skip, d=40)
    folder = written("saelens", tmp_path / "x", DictionarySet({1: original}))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    (item,) = open_foreign(folder).dictionaries
    before, after = rows(adapter, Site(1, "mlp"))
    said: Optional[NormalizedHook] = "before gain" if family in CENTRED else None
    loaded = item.load(adapter, said)
    assert isinstance(loaded, Transcoder)
    expected = original.double()(before.double())
    torch.testing.assert_close(loaded.double()(after.double()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lorsa_before_the_gain(tmp_path: Path, family: str) -> None:
    adapter = adapter_of(family)
    original = random_lorsa("relu", d_model=40, qk_norm=True)
    folder = written("llamascopium", tmp_path / "x", DictionarySet(lorsas={1: original}))
    rehook(folder, "attn.hook_in", "ln1.hook_normalized")
    (item,) = open_foreign(folder).dictionaries
    before, after = rows(adapter, Site(1, "attention"))
    loaded = item.load(adapter, "before gain")
    assert isinstance(loaded, Lorsa)
    expected = original.double()(before.double())
    torch.testing.assert_close(loaded.double()(after.double()), expected, rtol=1e-4, atol=1e-4)


def test_a_cross_layer_transcoder_before_the_gain(tmp_path: Path) -> None:
    adapter = adapter_of("llama")
    wide = random_clt("jumprelu", d=40)
    folder = written("circuit-tracer", tmp_path / "x", DictionarySet(clt=wide))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    (item,) = open_foreign(folder).dictionaries
    pairs = {layer: rows(adapter, Site(layer, "mlp")) for layer in range(3)}
    loaded = item.load(adapter)
    expected = wide({layer: before for layer, (before, _) in pairs.items()})
    for layer, y in loaded({layer: after for layer, (_, after) in pairs.items()}).items():
        torch.testing.assert_close(y, expected[layer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", CENTRED)
def test_a_layer_norm_that_was_hooked_after_the_gain(tmp_path: Path, family: str) -> None:
    original = random_transcoder(d=40)
    folder = written("saelens", tmp_path / "x", DictionarySet({1: original}))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    loaded = open_foreign(folder).dictionaries[0].load(adapter_of(family), "after gain")
    assert isinstance(loaded, Transcoder)
    assert torch.equal(loaded.W_E, original.W_E)


@pytest.mark.parametrize("family", CENTRED)
def test_a_layer_norm_does_not_tell(tmp_path: Path, family: str) -> None:
    folder = written("saelens", tmp_path / "x", DictionarySet({1: random_transcoder(d=40)}))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    with pytest.raises(UnsupportedDictionaryError, match="before or after the gain"):
        open_foreign(folder).dictionaries[0].load(adapter_of(family))


def test_the_gain_is_the_models(tmp_path: Path) -> None:
    folder = written("circuit-tracer", tmp_path / "x", DictionarySet({0: random_transcoder()}))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    with pytest.raises(UnsupportedDictionaryError, match=r"layer_0.*Load the model first"):
        open_foreign(folder).dictionaries[0].load()


def test_a_gain_of_zero_loses_what_was_read(tmp_path: Path) -> None:
    adapter = adapter_of.__wrapped__("llama")
    with torch.no_grad():
        adapter.model.model.layers[1].post_attention_layernorm.weight[3] = 0.0
    folder = written("saelens", tmp_path / "x", DictionarySet({1: random_transcoder(d=40)}))
    rehook(folder, "mlp.hook_in", "ln2.hook_normalized")
    with pytest.raises(UnsupportedDictionaryError, match="gain is zero"):
        open_foreign(folder).dictionaries[0].load(adapter)


def test_another_width_is_another_model(tmp_path: Path) -> None:
    folder = written("saelens", tmp_path / "x", DictionarySet({1: random_transcoder(d=10)}))
    with pytest.raises(UnsupportedDictionaryError, match=r"another model.*10.*40"):
        open_foreign(folder).dictionaries[0].load(adapter_of("llama"))


@pytest.mark.parametrize(
    ("family", "refused"), [("gemma2", True), ("gemma3_text", True), ("llama", False)]
)
def test_an_mlps_own_output_comes_before_a_post_norm(
    tmp_path: Path, family: str, refused: bool
) -> None:
    folder = written("saelens", tmp_path / "x", DictionarySet({1: random_transcoder(d=40)}))
    rehook(folder, "hook_mlp_out", "mlp.hook_out")
    (item,) = open_foreign(folder).dictionaries
    if refused:
        with pytest.raises(UnsupportedDictionaryError, match=f"in {family} a norm follows"):
            item.load(adapter_of(family))
    else:
        item.load(adapter_of(family))


@pytest.mark.parametrize(
    ("reads", "writes", "words"),
    [
        ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "before the norm"),
        ("blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out", "before the norm"),
        ("blocks.1.mlp.hook_in", "blocks.2.hook_mlp_out", "layer 1 and writes to layer 2"),
        ("blocks.1.mlp.hook_in", "blocks.1.hook_attn_out", "two modules"),
        ("blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out", "autoencoder"),
        ("blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out", "not one that"),
        ("blocks.1.mlp.hook_in", "blocks.1.hook_resid_post", "not one that"),
    ],
)
def test_hooks_that_cannot_be_used(reads: str, writes: str, words: str) -> None:
    with pytest.raises(UnsupportedDictionaryError, match=f"here.json.*{words}"):
        hook_pair(Path("here.json"), reads, writes)


@pytest.mark.parametrize(
    "name", ["mlp.hook_in", "blocks.x.mlp.hook_in", "blocks.99999.mlp.hook_in", ""]
)
def test_hooks_without_a_layer(name: str) -> None:
    with pytest.raises(ForeignFormatError, match="names no layer"):
        hook_pair(Path("here.json"), name, "blocks.1.hook_mlp_out")


@pytest.mark.parametrize(
    "name", ["layers.3", "layers.3.self_attn", "../layers.3.mlp", "layers.03.mlp"]
)
def test_modules_that_are_no_mlp(name: str) -> None:
    with pytest.raises(UnsupportedDictionaryError, match="name of no MLP"):
        module_pair(Path("here.json"), name)


@pytest.mark.parametrize(
    "name", ["layers.3.mlp", "h.3.mlp", "model.layers.3.mlp", "gpt_neox.layers.3.mlp"]
)
def test_modules_that_are_mlps(name: str) -> None:
    assert module_pair(Path("here.json"), name).site == Site(3, "mlp")


def test_the_metadata_may_lack_the_hooks(tmp_path: Path) -> None:
    folder = written("saelens", tmp_path / "x", DictionarySet({1: random_transcoder()}))
    edit_json(folder / "mlp_01/cfg.json", lambda c: c["metadata"].pop("hook_name_out"))
    with pytest.raises(ForeignFormatError, match=r"metadata\.hook_name_out is missing"):
        open_foreign(folder)
