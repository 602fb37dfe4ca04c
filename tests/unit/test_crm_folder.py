"""CRM folders: what is written is what is read, and nothing else is."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from attention_studio.core.dictionaries.crm_folder import (
    CRMFormatError,
    CRMMismatchError,
    TrainingRecord,
    load_crm,
    load_manifest,
    save_crm,
)
from attention_studio.core.dictionaries.transcoder import (
    Transcoder,
    TranscoderConfig,
    UnfoldedDictionaryError,
)
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.model_records import ModelInfo
from attention_studio.utils.files import FileWriteError, sha256_file

INFO = ModelInfo(
    name="toy",
    source="in memory",
    family="llama",
    n_layers=4,
    d_model=6,
    n_heads=2,
    n_kv_heads=1,
    d_head=3,
    d_mlp=12,
    vocab_size=50,
    context_length=64,
    n_parameters=1000,
    dtype="float32",
    device="cpu",
    memory_bytes=4000,
    weights_hash="ab" * 32,
    start_token="<|endoftext|>",
)


def transcoder(kind: ActivationKind = "jumprelu", skip: bool = True, seed: int = 0) -> Transcoder:
    g = torch.Generator().manual_seed(seed)
    t = Transcoder(TranscoderConfig(d_model=6, d_latent=9, activation=kind, k=3, skip=skip))
    for parameter in t.parameters():
        parameter.copy_(torch.rand(parameter.shape, generator=g))
    t.input_scale.fill_(0.5)
    t.output_scale.fill_(3.0)
    return t


@pytest.fixture
def crm(tmp_path: Path) -> Path:
    folder = tmp_path / "crm"
    save_crm(folder, {0: transcoder(seed=0), 2: transcoder(seed=2)}, INFO)
    return folder


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_round_trip(tmp_path: Path, kind: ActivationKind, skip: bool) -> None:
    original = transcoder(kind, skip)
    if kind == "batchtopk":
        assert original.threshold is not None
        original.threshold.fill_(1.3)
    x = torch.randn(20, 6)
    expected = original(x)
    save_crm(tmp_path / "crm", {1: original}, INFO)
    assert not original.is_folded  # saving folds a copy
    loaded = load_crm(tmp_path / "crm", INFO)
    assert list(loaded.transcoders) == [1]
    found = loaded.transcoders[1]
    assert found.is_folded
    assert found.config == original.config
    assert not any(p.requires_grad for p in found.parameters())
    torch.testing.assert_close(found(x), expected, rtol=1e-6, atol=1e-6)


def test_the_manifest_tells_where_the_weights_come_from(tmp_path: Path) -> None:
    record = TrainingRecord(
        text_hash="t",
        tokens_trained=123,
        seed=4,
        settings={"k": 3},
        metrics={"kl": 0.1},
        layer_metrics={0: {"fvu": 0.25, "loss_recovered": None}},
    )
    save_crm(tmp_path, {0: transcoder()}, INFO, record)
    manifest = load_manifest(tmp_path)
    assert manifest.training == record
    assert manifest.layers == (0,)
    assert manifest.dictionaries[0].metrics == {"fvu": 0.25, "loss_recovered": None}
    assert manifest.model.weights_hash == INFO.weights_hash
    assert manifest.model.start_token == INFO.start_token
    assert set(manifest.versions) == {"attention_studio", "torch", "transformers"}


def test_some_layers_only(crm: Path) -> None:
    assert list(load_crm(crm, layers=[2]).transcoders) == [2]


def test_saving_again_replaces(crm: Path) -> None:
    save_crm(crm, {1: transcoder(seed=7)}, INFO)
    assert list(load_crm(crm).transcoders) == [1]


def test_a_full_disk_leaves_the_old_crm(crm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_crm(crm).transcoders[0].W_E.clone()

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(FileWriteError, match="disk is full"):
        save_crm(crm, {0: transcoder(seed=9)}, INFO)
    assert torch.equal(load_crm(crm).transcoders[0].W_E, before)
    assert sorted(p.name for p in crm.iterdir()) == [
        "layer_00.safetensors",
        "layer_02.safetensors",
        "manifest.json",
    ]


def test_missing_layers(crm: Path) -> None:
    with pytest.raises(CRMMismatchError, match=r"layers 1, 3.*layers 0, 2"):
        load_crm(crm, INFO, layers=range(4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_hash", "cd" * 32),
        ("d_model", 8),
        ("n_layers", 5),
        ("family", "gpt2"),
        ("start_token", None),
    ],
)
def test_another_model(crm: Path, field: str, value: Any) -> None:
    with pytest.raises(CRMMismatchError, match=rf"toy.*{field}"):
        load_crm(crm, replace(INFO, **{field: value}))


def test_the_same_model_under_another_name(crm: Path) -> None:
    assert load_crm(crm, replace(INFO, name="elsewhere", source="a folder")).transcoders


class TestManifest:
    """A damaged manifest is refused with the name of the field."""

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(CRMFormatError, match=r"manifest\.json"):
            load_crm(tmp_path)

    def test_cut_short(self, crm: Path) -> None:
        path = crm / "manifest.json"
        path.write_text(path.read_text()[:-20])
        with pytest.raises(CRMFormatError, match=r"manifest\.json.*not valid JSON"):
            load_crm(crm)

    def test_not_utf8(self, crm: Path) -> None:
        (crm / "manifest.json").write_bytes(b"\xff\xfe{}")
        with pytest.raises(CRMFormatError, match=r"manifest\.json"):
            load_crm(crm)

    def test_a_list(self, crm: Path) -> None:
        (crm / "manifest.json").write_text("[]")
        with pytest.raises(CRMFormatError, match=r"manifest\.json"):
            load_crm(crm)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.pop("model"), "model"),
            (lambda m: m.update(format_version=2), "format_version 2 is newer"),
            (lambda m: m.update(surprise=1), "surprise"),
            (lambda m: m.update(layers=[0]), "different layers"),
            (lambda m: m.update(layers=[2, 0]), "ascending"),
            (lambda m: m["model"].update(n_layers=2), "layers must lie within"),
            (lambda m: m["model"].update(d_model=7), "d_model of layer 0"),
            (lambda m: m["model"].update(d_model="wide"), r"model\.d_model"),
            (lambda m: m["dictionaries"]["0"].update(file="../../passwd"), "file"),
            (lambda m: m["dictionaries"]["0"].update(file="layer_02.safetensors"), "layer 0"),
            (lambda m: m["dictionaries"]["0"].update(sha256="x"), "sha256"),
            (lambda m: m["dictionaries"]["0"]["config"].update(d_latent=10**15), "d_latent"),
            (lambda m: m["dictionaries"]["0"]["config"].update(activation="gelu"), "activation"),
        ],
    )
    def test_fields(self, crm: Path, change: Callable[[Any], Any], message: str) -> None:
        content = json.loads((crm / "manifest.json").read_text())
        change(content)
        (crm / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(CRMFormatError, match=rf"(?s)manifest\.json.*{message}"):
            load_crm(crm)

    def test_another_hook_convention(self, crm: Path) -> None:
        content = json.loads((crm / "manifest.json").read_text())
        content["hook_convention"] = "somewhere -> elsewhere"
        (crm / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(CRMMismatchError, match="hook_convention"):
            load_crm(crm, INFO)


def rewrite(crm: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a layer's tensors and make the manifest's hash fit, as an attacker would."""
    path = crm / "layer_00.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    bless(crm)


def bless(crm: Path) -> None:
    content = json.loads((crm / "manifest.json").read_text())
    content["dictionaries"]["0"]["sha256"] = sha256_file(crm / "layer_00.safetensors")
    (crm / "manifest.json").write_text(json.dumps(content))


class TestLayerFiles:
    """Damaged and hostile layer files are refused with the names of file and tensor."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("b_E"), "b_E is missing"),
            (lambda t: t.pop("W_skip"), "W_skip is missing"),
            (lambda t: t.update(W_new=torch.zeros(2)), "'W_new' does not belong"),
            (lambda t: t.update(W_E=t["W_E"].T), r"W_E has shape \[6, 9\]"),
            (lambda t: t.update(W_D=t["W_D"].half()), "W_D has type 'F16'"),
            (lambda t: t.update(b_E=torch.zeros(9, dtype=torch.int32)), "b_E has type 'I32'"),
            (lambda t: t["W_D"][1].fill_(float("nan")), "W_D holds values that are not finite"),
            (lambda t: t["b_D"].fill_(float("inf")), "b_D holds values that are not finite"),
            (lambda t: t["threshold"].fill_(-1.0), "threshold holds negative"),
        ],
    )
    def test_tensors(self, crm: Path, change: Callable[[Any], Any], message: str) -> None:
        rewrite(crm, change)
        with pytest.raises(CRMFormatError, match=rf"layer_00\.safetensors.*{message}"):
            load_crm(crm)

    @pytest.mark.parametrize("scale", ["input_scale", "output_scale"])
    def test_unfolded(self, crm: Path, scale: str) -> None:
        rewrite(crm, lambda t: t[scale].fill_(0.5))
        with pytest.raises(UnfoldedDictionaryError, match=rf"layer_00.*{scale}"):
            load_crm(crm)

    def test_missing(self, crm: Path) -> None:
        (crm / "layer_02.safetensors").unlink()
        with pytest.raises(CRMFormatError, match=r"layer_02\.safetensors is missing"):
            load_crm(crm)

    def test_changed(self, crm: Path) -> None:
        path = crm / "layer_00.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(CRMFormatError, match=r"layer_00.*sha256"):
            load_crm(crm)

    @pytest.mark.parametrize("blessed", [False, True])
    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_cut_short(self, crm: Path, keep: int, blessed: bool) -> None:
        path = crm / "layer_00.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        if blessed:
            bless(crm)
        with pytest.raises(CRMFormatError, match=r"layer_00\.safetensors"):
            load_crm(crm)

    def test_appended(self, crm: Path) -> None:
        path = crm / "layer_00.safetensors"
        path.write_bytes(path.read_bytes() + b"more")
        bless(crm)
        with pytest.raises(CRMFormatError, match=r"layer_00.*appended"):
            load_crm(crm)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (struct.pack("<Q", 1 << 62), "declares a header"),
            (struct.pack("<Q", 2 << 20) + b" " * (3 << 20), "declares a header"),
            (struct.pack("<Q", 2) + b"[]", "not a table"),
            (struct.pack("<Q", 4) + b"\xff\xff\xff\xff", "not valid JSON"),
            (struct.pack("<Q", 60_000) + b"[" * 60_000, "not valid JSON"),
            (struct.pack("<Q", 2) + b"{}", "b_D|W_E is missing"),
        ],
    )
    def test_hostile_headers(self, crm: Path, header: bytes, message: str) -> None:
        (crm / "layer_00.safetensors").write_bytes(header)
        bless(crm)
        with pytest.raises(CRMFormatError, match=rf"layer_00\.safetensors.*({message})"):
            load_crm(crm)

    @pytest.mark.parametrize(
        "offsets", [[0, 10**18], [-4, 0], [8, 4], ["0", "4"], [0], None, [True, 4]]
    )
    def test_hostile_offsets(self, crm: Path, offsets: Any) -> None:
        path = crm / "layer_00.safetensors"
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header["b_E"]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        bless(crm)
        with pytest.raises(CRMFormatError, match=r"layer_00\.safetensors.*data_offsets"):
            load_crm(crm)
