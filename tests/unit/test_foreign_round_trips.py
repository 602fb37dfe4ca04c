"""What is written for another tool and read again computes what it did."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign import circuit_tracer
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.foreign.found import Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.foreign.weights import plain, plain_layer
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.sites import Site, mlp_sites
from tests.foreign import inputs, random_clt, random_lorsa, random_transcoder, written

TRANSCODERS: list[tuple[Tool, ActivationKind, bool, bool]] = [
    *[("circuit-tracer", a, s, False) for a in ("relu", "jumprelu") for s in (False, True)],
    *[("circuit-tracer", "batchtopk", s, n) for s in (False, True) for n in (False, True)],
    *[("saelens", a, s, False) for a in ("relu", "jumprelu", "batchtopk") for s in (False, True)],
    *[("saelens", "topk", False, n) for n in (False, True)],
    *[("sparsify", "topk", s, n) for s in (False, True) for n in (False, True)],
    *[("sparsify", "relu", s, False) for s in (False, True)],
    *[("llamascopium", a, False, False) for a in ("relu", "topk", "jumprelu", "batchtopk")],
    *[("llamascopium", a, False, True) for a in ("topk", "batchtopk")],
]


@pytest.mark.parametrize(("tool", "activation", "skip", "norm_aware"), TRANSCODERS)
def test_transcoders(
    tmp_path: Path, tool: Tool, activation: ActivationKind, skip: bool, norm_aware: bool
) -> None:
    originals = {i: random_transcoder(activation, skip, norm_aware, seed=i) for i in range(3)}
    found = open_foreign(written(tool, tmp_path / "out", DictionarySet(originals)))
    assert found.tool == tool
    assert found.sites == mlp_sites((0, 1, 2))
    x = inputs()
    for item in found.dictionaries:
        loaded = item.load()
        assert isinstance(loaded, Transcoder)
        original = originals[item.sites[0].layer]
        assert loaded.is_folded
        assert loaded.config.skip == skip
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        expected = original.double()(x)
        assert (original.encode(x) > 0).any()
        torch.testing.assert_close(loaded.double()(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "batchtopk"])
@pytest.mark.parametrize(
    "special",
    [
        {},
        {"rotary_dim": 0},
        {"rotary_dim": 6, "rotary_scaling": 1.25},
        {"qk_norm": True, "qk_norm_eps": 1e-5},
    ],
)
def test_lorsas(tmp_path: Path, activation: ActivationKind, special: dict[str, float]) -> None:
    original = random_lorsa(activation, **special)
    folder = written("llamascopium", tmp_path / "out", DictionarySet(lorsas={3: original}))
    (item,) = open_foreign(folder).dictionaries
    assert item.sites == (Site(3, "attention"),)
    loaded = item.load()
    assert isinstance(loaded, Lorsa)
    x = inputs(30)
    expected = original.double()(x)
    torch.testing.assert_close(loaded.double()(x), expected, rtol=0, atol=1e-6)
    assert loaded.config.rotary_scaling == pytest.approx(original.config.rotary_scaling, rel=1e-6)


def test_a_lorsa_that_ranks_by_norm(tmp_path: Path) -> None:
    original = random_lorsa("topk", norm_aware=True)
    folder = written("llamascopium", tmp_path / "out", DictionarySet(lorsas={0: original}))
    loaded = open_foreign(folder).dictionaries[0].load()
    assert isinstance(loaded, Lorsa)
    x = inputs(30)
    expected = original.double()(x)
    assert (expected - random_lorsa("topk").double()(x)).abs().max() > 0.01
    torch.testing.assert_close(loaded.double()(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tool", "activation", "norm_aware"),
    [
        *[("circuit-tracer", a, False) for a in ("relu", "jumprelu", "batchtopk")],
        *[("llamascopium", a, False) for a in ("relu", "topk", "jumprelu", "batchtopk")],
        ("circuit-tracer", "batchtopk", True),
        ("llamascopium", "topk", True),
        ("llamascopium", "batchtopk", True),
    ],
)
def test_cross_layer_transcoders(
    tmp_path: Path, tool: Tool, activation: ActivationKind, norm_aware: bool
) -> None:
    original = random_clt(activation, norm_aware=norm_aware)
    (item,) = open_foreign(
        written(tool, tmp_path / "out", DictionarySet(clt=original))
    ).dictionaries
    assert item.sites == mlp_sites((0, 1, 2))
    loaded = item.load()
    assert isinstance(loaded, CrossLayerTranscoder)
    x = {layer: inputs(seed=layer) for layer in range(3)}
    expected = original.double()(x)
    # Norms that are taken into the encoder round its rows and the decoder's once more.
    close = 2e-6 if norm_aware else 1e-6
    for layer, y in loaded.double()(x).items():
        torch.testing.assert_close(y, expected[layer], rtol=0, atol=close)
    if norm_aware:
        other = random_clt(activation).double()(x)
        assert all((other[layer] - y).abs().max() > 0.01 for layer, y in expected.items())


@pytest.mark.parametrize("tool", ["circuit-tracer", "llamascopium"])
def test_a_cross_layer_transcoder_with_scales(tmp_path: Path, tool: Tool) -> None:
    original = random_clt("batchtopk", norm_aware=True)
    original.input_scale.copy_(torch.tensor([0.5, 2.0, 3.0]))
    original.output_scale.copy_(torch.tensor([1.5, 0.7, 4.0]))
    (item,) = open_foreign(
        written(tool, tmp_path / "out", DictionarySet(clt=original))
    ).dictionaries
    loaded = item.load()
    assert isinstance(loaded, CrossLayerTranscoder)
    assert not original.is_folded
    x = {layer: inputs(seed=layer) for layer in range(3)}
    expected = original.double()(x)
    for layer, y in loaded.double()(x).items():
        torch.testing.assert_close(y, expected[layer], rtol=1e-5, atol=1e-5)


def test_no_more_than_one_layer_s_decoders_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be files that memory cannot hold."""
    clt = random_clt("batchtopk", norm_aware=True, d=13)
    sizes = {tensor.numel() for tensor in clt.W_D}
    own = {tensor.data_ptr() for tensor in clt.W_D}
    kinds = (Tensor, torch.nn.Parameter)
    copies: list[int] = []
    save = circuit_tracer.save_tensors

    def look(path: Path, tensors: Mapping[str, Tensor]) -> None:
        alive = [t for t in gc.get_objects() if type(t) in kinds and t.dim() == 3]
        copies.append(len({t.data_ptr() for t in alive if t.numel() in sizes} - own))
        save(path, tensors)

    monkeypatch.setattr(circuit_tracer, "save_tensors", look)
    written("circuit-tracer", tmp_path / "out", DictionarySet(clt=clt))
    assert copies == [1] * 6


def test_nothing_is_copied_to_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionaries = DictionarySet(clt=random_clt("topk", norm_aware=True))

    def copied(*_: object) -> None:
        raise AssertionError("a copy")

    monkeypatch.setattr(Tensor, "clone", copied)
    monkeypatch.setattr(Tensor, "__deepcopy__", copied)
    with pytest.raises(UnsupportedDictionaryError, match="no TopK"):
        written("circuit-tracer", tmp_path / "no", dictionaries)


def test_a_cross_layer_transcoder_of_some_layers(tmp_path: Path) -> None:
    dictionaries = DictionarySet(clt=random_clt(layers=(1, 4, 5)))
    found = open_foreign(written("llamascopium", tmp_path / "out", dictionaries))
    assert found.sites == mlp_sites((1, 4, 5))


def test_kinds_together(tmp_path: Path) -> None:
    dictionaries = DictionarySet({1: random_transcoder()}, {1: random_lorsa(), 2: random_lorsa()})
    found = open_foreign(written("llamascopium", tmp_path / "out", dictionaries))
    assert [str(site) for site in found.sites] == ["attention 1", "mlp 1", "attention 2"]


@pytest.mark.parametrize(
    ("tool", "dictionaries", "words"),
    [
        ("circuit-tracer", DictionarySet({0: random_transcoder("topk")}), "no TopK"),
        ("circuit-tracer", DictionarySet({1: random_transcoder()}), "every layer from 0 on"),
        ("circuit-tracer", DictionarySet(lorsas={0: random_lorsa()}), "no dictionaries for att"),
        ("circuit-tracer", DictionarySet(clt=random_clt("topk")), "no TopK"),
        ("circuit-tracer", DictionarySet(clt=random_clt(layers=(1, 2))), "every layer from 0"),
        ("saelens", DictionarySet({0: random_transcoder("topk", skip=True)}), "skip connection"),
        ("saelens", DictionarySet(lorsas={0: random_lorsa()}), "no place for attention"),
        ("saelens", DictionarySet(clt=random_clt()), "no place for cross-layer"),
        ("sparsify", DictionarySet({0: random_transcoder("jumprelu")}), "no thresholds"),
        ("sparsify", DictionarySet({0: random_transcoder("batchtopk")}), "no thresholds"),
        ("sparsify", DictionarySet(clt=random_clt()), "no place for cross-layer"),
        ("llamascopium", DictionarySet({0: random_transcoder(skip=True)}), "skip connection"),
        ("llamascopium", DictionarySet(lorsas={0: random_lorsa(window=8)}), "a window"),
        ("llamascopium", DictionarySet(lorsas={0: random_lorsa(score_cap=50.0)}), "a cap"),
    ],
)
def test_what_a_tool_cannot_hold(
    tmp_path: Path, tool: Tool, dictionaries: DictionarySet, words: str
) -> None:
    with pytest.raises(UnsupportedDictionaryError, match=words):
        written(tool, tmp_path / "out", dictionaries)


def test_different_sizes_are_too_much_for_circuit_tracer(tmp_path: Path) -> None:
    wide = Transcoder(random_transcoder().config.model_copy(update={"d_latent": 30}))
    with pytest.raises(UnsupportedDictionaryError, match="same number of latents"):
        written(
            "circuit-tracer", tmp_path / "out", DictionarySet({0: random_transcoder(), 1: wide})
        )


def test_sparsify_predicts_what_comes_before_a_post_norm(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDictionaryError, match="gemma2"):
        written("sparsify", tmp_path / "x", DictionarySet({0: random_transcoder("topk")}), "gemma2")


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "h.1.mlp"), ("gpt_neox", "layers.1.mlp"), ("qwen3", "layers.1.mlp")],
)
def test_sparsify_calls_mlps_as_the_model_does(tmp_path: Path, family: str, name: str) -> None:
    folder = written("sparsify", tmp_path / "x", DictionarySet({1: random_transcoder()}), family)
    assert [entry.name for entry in folder.iterdir()] == [name]
    assert open_foreign(folder).sites == mlp_sites((1,))
    assert open_foreign(folder / name).sites == mlp_sites((1,))


def test_plain_leaves_what_is_plain_as_it_is() -> None:
    for dictionary in (random_transcoder("topk"), random_lorsa()):
        assert plain(dictionary) is dictionary
    clt = random_clt()
    for i in range(3):
        found = plain_layer(clt, i)
        assert all(t.data_ptr() == clt.tensors(i)[name].data_ptr() for name, t in found.items())


def test_plain_folds_a_copy() -> None:
    transcoder = random_transcoder("topk", skip=True)
    transcoder.input_scale.fill_(0.5)
    transcoder.output_scale.fill_(3.0)
    folded = plain(transcoder)
    assert folded.is_folded
    assert not transcoder.is_folded
    x = inputs()
    torch.testing.assert_close(folded.double()(x), transcoder.double()(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "hook"),
    [("llama", "mlp.hook_out"), ("gpt2", "mlp.hook_out"), ("gemma2", "hook_mlp_out")],
)
def test_circuit_tracer_is_told_where_the_prediction_goes(
    tmp_path: Path, family: str, hook: str
) -> None:
    ours = DictionarySet({0: random_transcoder()})
    (item,) = open_foreign(written("circuit-tracer", tmp_path / "x", ours, family)).dictionaries
    assert item.hooks[0].output_name == f"blocks.0.{hook}"
