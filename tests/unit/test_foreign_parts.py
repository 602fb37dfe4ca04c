"""Scales, thresholds, attention and several layers: what only some tools and kinds have can be
wrong in ways of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    UnsupportedDictionaryError,
)
from attention_studio.core.dictionaries.foreign.found import Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import UnfoldedDictionaryError
from attention_studio.utils.errors import StudioError
from tests.foreign import (
    WEIGHTS,
    edit_json,
    edit_tensors,
    inputs,
    load,
    random_clt,
    random_lorsa,
    random_transcoder,
    refused,
    written,
)


class TestScales:
    def test_saelens_without_its_scale(self, tmp_path: Path) -> None:
        folder = written("saelens", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        path = folder / "mlp_00/cfg.json"
        edit_json(path, lambda c: c.update(normalize_activations="expected_average_only_in"))
        refused(folder, "not folded", UnfoldedDictionaryError)

    @pytest.mark.parametrize(
        "dictionaries",
        [
            DictionarySet({0: random_transcoder()}),
            DictionarySet(lorsas={0: random_lorsa()}),
            DictionarySet(clt=random_clt()),
        ],
    )
    def test_llamascopium_without_its_averages(
        self, tmp_path: Path, dictionaries: DictionarySet
    ) -> None:
        folder = written("llamascopium", tmp_path / "x", dictionaries)
        (path,) = folder.rglob("config.json")
        edit_json(path, lambda c: c.update(norm_activation="dataset-wise"))
        refused(folder, "not folded.*missing", UnfoldedDictionaryError)

    @pytest.mark.parametrize("average", [0.0, -2.0])
    def test_averages_that_make_no_sense(self, tmp_path: Path, average: float) -> None:
        folder = written("llamascopium", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        edit_json(folder / "mlp_00/config.json", lambda c: c.update(norm_activation="dataset-wise"))
        name = "dataset_average_activation_norm.blocks.0.mlp.hook_in"
        path = folder / "mlp_00/sae_weights.safetensors"
        edit_tensors(path, lambda t: t.update({name: torch.tensor(average)}))
        refused(folder, f"not folded.*{average}", UnfoldedDictionaryError)

    def test_averages_that_nobody_wrote_are_not_used(self, tmp_path: Path) -> None:
        folder = written("llamascopium", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        name = "dataset_average_activation_norm.blocks.0.mlp.hook_in"
        path = folder / "mlp_00/sae_weights.safetensors"
        edit_tensors(path, lambda t: t.update({name: torch.tensor(float("nan"))}))
        x = inputs()
        torch.testing.assert_close(load(folder).double()(x), random_transcoder().double()(x))


class TestThresholds:
    @pytest.mark.parametrize(
        ("which", "name"),
        [("circuit-tracer", "activation_function.threshold")],
    )
    def test_negative_ones(self, tmp_path: Path, which: Tool, name: str) -> None:
        folder = written(which, tmp_path / "x", DictionarySet({0: random_transcoder("jumprelu")}))
        edit_tensors(folder / WEIGHTS[which], lambda t: t[name].mul_(-1))
        refused(folder, f"{name} holds negative")

    def test_saelens_rectifies_first(self, tmp_path: Path) -> None:
        original = random_transcoder("jumprelu")
        folder = written("saelens", tmp_path / "x", DictionarySet({0: original}))
        edit_tensors(folder / WEIGHTS["saelens"], lambda t: t["threshold"].mul_(-1))
        x = inputs()
        pre = original.double().pre_activations(x)
        torch.testing.assert_close(load(folder).double().encode(x), pre.relu())

    def test_a_logarithm_of_zero(self, tmp_path: Path) -> None:
        original = random_transcoder("jumprelu")
        folder = written("llamascopium", tmp_path / "x", DictionarySet({0: original}))
        name = "activation_function.log_jumprelu_threshold"
        edit_tensors(folder / WEIGHTS["llamascopium"], lambda t: t[name][:5].fill_(-torch.inf))
        threshold = load(folder).threshold
        assert threshold is not None
        assert threshold[:5].tolist() == [0.0] * 5

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0])
    def test_logarithms_of_nothing_finite(self, tmp_path: Path, value: float) -> None:
        dictionaries = DictionarySet({0: random_transcoder("jumprelu")})
        folder = written("llamascopium", tmp_path / "x", dictionaries)
        name = "activation_function.log_jumprelu_threshold"
        edit_tensors(folder / WEIGHTS["llamascopium"], lambda t: t[name][:5].fill_(value))
        refused(folder, f"{name} holds values that are not finite")


class TestLorsas:
    @pytest.fixture
    def lorsa(self, tmp_path: Path) -> Path:
        lorsa = random_lorsa(qk_norm=True)
        return written("llamascopium", tmp_path / "x", DictionarySet(lorsas={0: lorsa}))

    @pytest.mark.parametrize(
        ("change", "kind", "words"),
        [
            (lambda t: t.pop("W_Q"), ForeignFormatError, "tensor W_Q is missing"),
            (lambda t: t.update(W_K=t["W_K"].transpose(0, 2)), ForeignFormatError, "transposed"),
            (
                lambda t: t.update({"ln_q.w": t["ln_q.w"][0]}),
                ForeignFormatError,
                "ln_q.w has shape",
            ),
            (lambda t: t["rotary_sin"][7].mul_(-1), ForeignFormatError, "no table of angles"),
            (lambda t: t["rotary_cos"].zero_(), ForeignFormatError, "no table of angles"),
            (lambda t: t["rotary_sin"][0].fill_(1), ForeignFormatError, "no table of angles"),
            (lambda t: t["rotary_sin"][:, 0].zero_(), ForeignFormatError, "no table of angles"),
            (lambda t: t.pop("rotary_cos"), ForeignFormatError, "rotary_cos is missing"),
        ],
    )
    def test_tensors(
        self,
        lorsa: Path,
        change: Callable[[dict[str, Tensor]], Any],
        kind: type[StudioError],
        words: str,
    ) -> None:
        edit_tensors(lorsa / "attention_00/sae_weights.safetensors", change)
        refused(lorsa, words, kind)

    def test_every_head_has_gains_of_its_own(self, lorsa: Path) -> None:
        path = lorsa / "attention_00/sae_weights.safetensors"
        edit_tensors(path, lambda t: (t["ln_q.w"][1].mul_(2), t["ln_k.w"][0].mul_(3)))
        (item,) = open_foreign(lorsa).dictionaries
        loaded, told = item.load(), safetensors.torch.load_file(path)
        assert isinstance(loaded, Lorsa)
        for gain, name in ((loaded.q_gain, "ln_q.w"), (loaded.k_gain, "ln_k.w")):
            assert gain is not None
            assert not torch.equal(told[name][0], told[name][1])
            # Coordinates may come in another order, the same in all heads.
            assert torch.equal(gain.sort().values, told[name].sort().values)

    @pytest.mark.parametrize(
        ("field", "value", "kind", "words"),
        [
            ("n_qk_heads", 5, ForeignFormatError, "do not fit together"),
            ("n_qk_heads", 0, ForeignFormatError, "do not fit together"),
            ("d_qk_head", -1, ForeignFormatError, "do not fit together"),
            ("rotary_dim", 3, ForeignFormatError, "do not fit together"),
            ("attn_scale", 0.0, ForeignFormatError, "attn_scale"),
            ("attn_scale", float("nan"), ForeignFormatError, "attn_scale|not valid JSON"),
            ("n_ctx", 1 << 40, ForeignFormatError, "n_ctx"),
            ("rotary_scale", 2, UnsupportedDictionaryError, "rotary_scale"),
            ("normalization_type", "LN", UnsupportedDictionaryError, "'LN'"),
            ("positional_embedding_type", "alibi", UnsupportedDictionaryError, "'alibi'"),
            ("hook_point_out", "blocks.0.hook_mlp_out", UnsupportedDictionaryError, "two modules"),
        ],
    )
    def test_settings(
        self, lorsa: Path, field: str, value: Any, kind: type[StudioError], words: str
    ) -> None:
        edit_json(lorsa / "attention_00/config.json", lambda c: c.update({field: value}))
        refused(lorsa, words, kind)

    def test_without_tables_the_settings_tell_the_angles(self, tmp_path: Path) -> None:
        original = random_lorsa()
        folder = written("llamascopium", tmp_path / "x", DictionarySet(lorsas={0: original}))

        def without(tensors: dict[str, Tensor]) -> None:
            for name in ("rotary_sin", "rotary_cos", "mask", "IGNORE"):
                tensors.pop(name)

        edit_tensors(folder / "attention_00/sae_weights.safetensors", without)
        loaded = open_foreign(folder).dictionaries[0].load()
        assert original.inv_freq is not None
        torch.testing.assert_close(loaded.inv_freq, original.inv_freq)
        path = folder / "attention_00/config.json"
        edit_json(path, lambda c: c.update(use_NTK_by_parts_rope=True))
        refused(folder, "rotary_sin is missing")


class TestCrossLayer:
    @pytest.mark.parametrize(
        ("name", "change", "words"),
        [
            ("W_dec_1", lambda t: t.update(W_dec_1=t["W_dec_1"].transpose(0, 2)), "transposed"),
            ("W_dec_1", lambda t: t.pop("W_dec_1"), "W_dec_1 is missing"),
            ("W_enc_2", lambda t: t.pop("b_dec_2"), "b_dec_2 is missing"),
            ("W_enc_2", lambda t: t.update(W_skip=torch.zeros(2)), "'W_skip' does not belong"),
            ("W_enc_0", lambda t: t["threshold_0"].mul_(-1), "threshold_0 holds negative"),
        ],
    )
    def test_tensors(
        self, tmp_path: Path, name: str, change: Callable[[dict[str, Tensor]], Any], words: str
    ) -> None:
        dictionaries = DictionarySet(clt=random_clt("jumprelu"))
        folder = written("circuit-tracer", tmp_path / "x", dictionaries)
        path = folder / f"{name}.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        tensors = tensors or {"nothing": torch.zeros(1)}
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        refused(folder, rf"{name}\.safetensors.*{words}")

    def test_a_missing_layer(self, tmp_path: Path) -> None:
        folder = written("circuit-tracer", tmp_path / "x", DictionarySet(clt=random_clt()))
        (folder / "W_enc_1.safetensors").unlink()
        refused(folder, r"W_enc_1\.safetensors is missing")

    def test_a_missing_decoder(self, tmp_path: Path) -> None:
        folder = written("circuit-tracer", tmp_path / "x", DictionarySet(clt=random_clt()))
        (folder / "W_dec_1.safetensors").unlink()
        refused(folder, r"W_dec_1\.safetensors: cannot be read")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c["hook_points_in"].pop(), "2 places and hook_points_out 3"),
            (lambda c: c.update(hook_points_in=[], hook_points_out=[]), "0 places"),
            (lambda c: c["hook_points_in"].reverse() or c["hook_points_out"].reverse(), "ascend"),
            (lambda c: c.update(hook_points_in="blocks.0.mlp.hook_in"), "hook_points_in"),
        ],
    )
    def test_places(
        self, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
    ) -> None:
        folder = written("llamascopium", tmp_path / "x", DictionarySet(clt=random_clt()))
        edit_json(folder / "clt/config.json", change)
        refused(folder, words)
