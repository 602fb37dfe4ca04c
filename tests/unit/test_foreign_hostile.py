"""Whatever is in a folder, one clear error says which file and which field."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import (
    MAX_CONFIG_BYTES,
    UnsupportedDictionaryError,
)
from attention_studio.core.dictionaries.foreign.found import TOOLS, Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from tests.foreign import (
    CONFIGS,
    ENCODER,
    WEIGHTS,
    edit_json,
    edit_tensors,
    load,
    random_transcoder,
    refused,
    written,
)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.param
    return found


@pytest.fixture
def folder(tool: Tool, tmp_path: Path) -> Path:
    """A sound folder of a ReLU transcoder for layer 0."""
    return written(tool, tmp_path / "theirs", DictionarySet({0: random_transcoder()}))


class TestTensors:
    def test_one_is_missing(self, tool: Tool, folder: Path) -> None:
        edit_tensors(folder / WEIGHTS[tool], lambda t: t.pop(ENCODER[tool]))
        refused(folder, rf"{WEIGHTS[tool]}: tensor {ENCODER[tool]} is missing")

    def test_one_is_too_many(self, tool: Tool, folder: Path) -> None:
        edit_tensors(folder / WEIGHTS[tool], lambda t: t.update(W_new=torch.zeros(2)))
        refused(folder, rf"{WEIGHTS[tool]}: tensor 'W_new' does not belong")

    def test_one_is_transposed(self, tool: Tool, folder: Path) -> None:
        edit_tensors(
            folder / WEIGHTS[tool], lambda t: t.update({ENCODER[tool]: t[ENCODER[tool]].t()})
        )
        refused(folder, rf"{ENCODER[tool]} has shape.*it is transposed")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_one_is_not_finite(self, tool: Tool, folder: Path, value: float) -> None:
        edit_tensors(folder / WEIGHTS[tool], lambda t: t[ENCODER[tool]][3].fill_(value))
        refused(folder, rf"{WEIGHTS[tool]}: {ENCODER[tool]} holds values that are not finite")

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool])
    def test_one_is_of_whole_numbers(self, tool: Tool, folder: Path, dtype: torch.dtype) -> None:
        edit_tensors(
            folder / WEIGHTS[tool], lambda t: t.update({ENCODER[tool]: t[ENCODER[tool]].to(dtype)})
        )
        refused(folder, rf"{ENCODER[tool]} has type (I32|I8|BOOL)")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_narrow_and_wide_numbers_are_converted(
        self, tool: Tool, folder: Path, dtype: torch.dtype
    ) -> None:
        path = folder / WEIGHTS[tool]
        edit_tensors(path, lambda t: t.update({name: v.to(dtype) for name, v in t.items()}))
        loaded, original = load(folder), random_transcoder()
        assert loaded.W_E.dtype == torch.float32
        assert torch.equal(loaded.W_E, original.W_E.to(dtype).float())

    def test_the_file_is_cut_short(self, tool: Tool, folder: Path) -> None:
        path = folder / WEIGHTS[tool]
        path.write_bytes(path.read_bytes()[:-7])
        refused(folder, rf"{WEIGHTS[tool]}: is cut short")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "not a safetensors file"),
            (b"\x80\x04]\x94.", "not a safetensors file"),
            (struct.pack("<Q", 1 << 62), "declares a header"),
            (struct.pack("<Q", 2 << 20) + b" " * (3 << 20), "declares a header"),
            (struct.pack("<Q", 2) + b"[]", "no table|not a table"),
            (struct.pack("<Q", 60_000) + b"[" * 60_000, "not valid JSON"),
            (struct.pack("<Q", 14) + b'{"a":1, "a":2}', "not valid JSON"),
        ],
    )
    def test_the_file_is_something_else(
        self, tool: Tool, folder: Path, content: bytes, words: str
    ) -> None:
        (folder / WEIGHTS[tool]).write_bytes(content)
        refused(folder, rf"{WEIGHTS[tool]}.*({words})")

    @pytest.mark.parametrize(
        "change",
        [
            {"shape": [1 << 40, 1 << 40]},
            {"shape": [-24, -10]},
            {"shape": [24.0, 10]},
            {"shape": "24"},
            {"shape": [True, 240]},
            {"data_offsets": [0, 1 << 60]},
            {"data_offsets": [960, 0]},
            {"data_offsets": None},
            {"dtype": "F4"},
            {"dtype": 3},
        ],
    )
    def test_the_header_lies(self, tool: Tool, folder: Path, change: dict[str, Any]) -> None:
        path = folder / WEIGHTS[tool]
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        header[ENCODER[tool]].update(change)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        refused(folder, rf"{WEIGHTS[tool]}.*{ENCODER[tool]}")

    def test_it_is_a_folder(self, tool: Tool, folder: Path) -> None:
        (folder / WEIGHTS[tool]).unlink()
        (folder / WEIGHTS[tool]).mkdir()
        refused(folder, str(folder))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
    def test_it_is_a_pipe(self, tmp_path: Path) -> None:
        ours = DictionarySet({0: random_transcoder()})
        folder = written("circuit-tracer", tmp_path / "x", ours)
        (folder / "layer_0.safetensors").unlink()
        os.mkfifo(folder / "layer_0.safetensors")
        refused(folder, r"layer_0\.safetensors: is no file")


class TestConfigurations:
    @pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "[1, 2"])
    def test_no_table(self, tool: Tool, folder: Path, content: str) -> None:
        (folder / CONFIGS[tool]).write_text(content)
        refused(folder, CONFIGS[tool])

    def test_not_text(self, tool: Tool, folder: Path) -> None:
        (folder / CONFIGS[tool]).write_bytes(b"\xff\xfe\x00")
        refused(folder, CONFIGS[tool])

    def test_too_large(self, tool: Tool, folder: Path) -> None:
        (folder / CONFIGS[tool]).write_text(" " * (MAX_CONFIG_BYTES + 1))
        refused(folder, rf"{CONFIGS[tool]} is too large")

    def test_deeper_than_any_sane_one(self, tool: Tool, folder: Path) -> None:
        (folder / CONFIGS[tool]).write_text("[" * 100_000)
        refused(folder, CONFIGS[tool])

    def test_a_number_without_end(self, tool: Tool, folder: Path) -> None:
        (folder / CONFIGS[tool]).write_text('{"d_in": ' + "9" * 10_000 + "}")
        refused(folder, CONFIGS[tool])

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("a: &a {x: 1}\nb: *a\n", "references"),
            ("a: [&a [1], *a]\n", "references"),
            ("a: &a {x: 1}\n? *a\n: 1\n", "references"),
            ("a: {<<: {x: 1}}\n", "merges"),
            ("<<: [{x: 1}, {y: 1}]\n", "merges"),
        ],
    )
    def test_what_multiplies(self, tmp_path: Path, content: str, words: str) -> None:
        folder = written("circuit-tracer", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        with (folder / "config.yaml").open("a") as stream:
            stream.write(content)
        refused(folder, rf"(?s)config\.yaml.*{words}")

    def test_merges_of_merges(self, tmp_path: Path) -> None:
        """Each line has ten times the entries of the one before it, all told in 400 bytes."""
        lines = ["a0: &a0 {x: 1}"]
        for i in range(1, 8):
            lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}")
        (tmp_path / "config.yaml").write_text("\n".join(lines))
        refused(tmp_path, r"(?s)config\.yaml.*references")

    @pytest.mark.parametrize(
        ("which", "field", "value"),
        [
            ("circuit-tracer", "feature_input_hook", 3),
            ("circuit-tracer", "model_kind", "sae"),
            ("circuit-tracer", "model_name", ["x"]),
            ("saelens", "d_in", "10"),
            ("saelens", "d_sae", 24.5),
            ("saelens", "metadata", []),
            ("saelens", "apply_b_dec_to_input", "no"),
            ("sparsify", "transcode", 1),
            ("sparsify", "k", None),
            ("sparsify", "d_in", True),
            ("llamascopium", "expansion_factor", "2"),
            ("llamascopium", "d_model", 10.5),
            ("llamascopium", "hook_point_in", None),
        ],
    )
    def test_wrong_types(self, tmp_path: Path, which: Tool, field: str, value: Any) -> None:
        folder = written(which, tmp_path / "x", DictionarySet({0: random_transcoder()}))
        self._set(folder / CONFIGS[which], field, value)
        refused(folder, rf"{CONFIGS[which]}: {field}")

    @pytest.mark.parametrize(
        ("which", "field", "value", "words"),
        [
            ("saelens", "d_sae", 25, "d_sae = 24.*25"),
            ("sparsify", "num_latents", 25, "num_latents = 24.*25"),
            ("sparsify", "d_in", 11, "d_in = 10.*11"),
            ("sparsify", "k", 0, "k = 0"),
            ("sparsify", "k", 25, "k = 25"),
            ("llamascopium", "expansion_factor", 1e300, "expansion_factor"),
            ("llamascopium", "expansion_factor", 3.0, r"W_E has shape \[10, 24\]"),
            ("llamascopium", "d_model", -1, "d_model"),
            ("llamascopium", "d_model", 1 << 40, "d_model"),
        ],
    )
    def test_sizes_that_do_not_fit(
        self, tmp_path: Path, which: Tool, field: str, value: Any, words: str
    ) -> None:
        folder = written(which, tmp_path / "x", DictionarySet({0: random_transcoder()}))
        self._set(folder / CONFIGS[which], field, value)
        refused(folder, words)

    @pytest.mark.parametrize(
        ("which", "field", "value", "words"),
        [
            ("saelens", "architecture", "gated", "architecture 'gated'"),
            ("saelens", "normalize_activations", "layer_norm", "normalize_activations"),
            ("saelens", "reshape_activations", "hook_z", "reshape_activations"),
            ("saelens", "d_out", 20, "d_out 20"),
            ("sparsify", "transcode", False, "autoencoder"),
            ("sparsify", "activation", "groupmax", "groupmax"),
            ("llamascopium", "sae_type", "molt", "sae_type 'molt'"),
            ("llamascopium", "act_fn", "batchtopk", "act_fn 'batchtopk'"),
            ("llamascopium", "use_glu_encoder", True, "gate"),
            ("llamascopium", "norm_activation", "token-wise", "norm_activation"),
            ("circuit-tracer", "transcoders", ["/etc/passwd"], "transcoders lists files"),
            ("circuit-tracer", "feature_input_hook", "hook_resid_mid", "before the norm"),
        ],
    )
    def test_what_cannot_be_used(
        self, tmp_path: Path, which: Tool, field: str, value: Any, words: str
    ) -> None:
        folder = written(which, tmp_path / "x", DictionarySet({0: random_transcoder()}))
        self._set(folder / CONFIGS[which], field, value)
        refused(folder, words, UnsupportedDictionaryError)

    def test_yaml_makes_no_objects(self, tmp_path: Path) -> None:
        folder = written("circuit-tracer", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        (folder / "config.yaml").write_text("model_kind: !!python/object/apply:os.getcwd []")
        refused(folder, r"config\.yaml is not valid YAML")

    def test_before_version_6(self, tmp_path: Path) -> None:
        folder = written("saelens", tmp_path / "x", DictionarySet({0: random_transcoder()}))
        edit_json(folder / "mlp_00/cfg.json", lambda c: c.pop("metadata"))
        refused(folder, "before version 6", UnsupportedDictionaryError)

    @staticmethod
    def _set(path: Path, field: str, value: Any) -> None:
        if path.suffix == ".json":
            edit_json(path, lambda content: content.update({field: value}))
        else:
            lines = [line for line in path.read_text().splitlines() if not line.startswith(field)]
            path.write_text("\n".join([*lines, f"{field}: {json.dumps(value)}"]))


class TestFolders:
    def test_nothing_there(self, tmp_path: Path) -> None:
        refused(tmp_path, "holds no dictionaries")
        refused(tmp_path / "nowhere", "is no folder")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        refused(tmp_path / "file", "is no folder")

    def test_pickles_only(self, tmp_path: Path) -> None:
        (tmp_path / "sae_weights.pt").write_bytes(b"\x80\x04]\x94.")
        (tmp_path / "config.json").write_text("{}")
        refused(tmp_path, r"\.pt\) are not read")

    def test_several_tools(self, tmp_path: Path) -> None:
        ours = DictionarySet({0: random_transcoder()})
        written("saelens", tmp_path / "a", ours)
        written("llamascopium", tmp_path / "b", ours)
        shutil.move(tmp_path / "a/mlp_00", tmp_path / "one")
        shutil.move(tmp_path / "b/mlp_00", tmp_path / "two")
        refused(tmp_path, "several tools.*llamascopium, saelens")

    def test_two_for_one_module(self, tmp_path: Path) -> None:
        folder = written("saelens", tmp_path / "a", DictionarySet({0: random_transcoder()}))
        shutil.copytree(folder / "mlp_00", folder / "mlp_01")
        refused(folder, "mlp 0 has a dictionary in .*mlp_00 already")

    def test_two_models(self, tmp_path: Path) -> None:
        ours = DictionarySet({i: random_transcoder() for i in range(2)})
        folder = written("saelens", tmp_path / "a", ours)
        edit_json(folder / "mlp_01/cfg.json", lambda c: c["metadata"].update(model_name="other"))
        refused(folder, "several models.*other, toy")

    def test_circuit_tracer_without_layers(self, tmp_path: Path) -> None:
        ours = DictionarySet({0: random_transcoder()})
        folder = written("circuit-tracer", tmp_path / "a", ours)
        (folder / "layer_0.safetensors").unlink()
        refused(folder, r"layer_0\.safetensors is missing")

    @pytest.mark.parametrize(
        "name", ["layer_00.safetensors", "layer_1e3.safetensors", "layer_.safetensors"]
    )
    def test_names_that_are_no_layers(self, tmp_path: Path, name: str) -> None:
        ours = DictionarySet({0: random_transcoder()})
        folder = written("circuit-tracer", tmp_path / "a", ours)
        (folder / name).write_bytes(b"anything")
        assert len(open_foreign(folder).dictionaries) == 1

    def test_a_hook_that_is_a_path(self, tmp_path: Path) -> None:
        ours = DictionarySet({0: random_transcoder()})
        folder = written("circuit-tracer", tmp_path / "a", ours)
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("mlp.hook_in", "../../etc/passwd"))
        refused(folder, "not one that", UnsupportedDictionaryError)
