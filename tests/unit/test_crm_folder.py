"""CRM folders: what is written is what is read, and nothing else is."""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import safetensors.torch
import torch

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder, CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.crm_folder import (
    CRMFormatError,
    CRMMismatchError,
    TrainingRecord,
    load_crm,
    load_manifest,
    save_crm,
)
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder import (
    Transcoder,
    TranscoderConfig,
    UnfoldedDictionaryError,
)
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.model_records import ModelInfo
from attention_studio.core.sites import Site, mlp_sites
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
    save_crm(folder, DictionarySet({0: transcoder(seed=0), 2: transcoder(seed=2)}), INFO)
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
    save_crm(tmp_path / "crm", DictionarySet({1: original}), INFO)
    assert not original.is_folded  # saving folds a copy
    loaded = load_crm(tmp_path / "crm", INFO)
    assert list(loaded.dictionaries.transcoders) == [1]
    found = loaded.dictionaries.transcoders[1]
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
    )
    measured: dict[str, Optional[float]] = {"fvu": 0.25, "loss_recovered": None}
    one = DictionarySet({0: transcoder()})
    save_crm(tmp_path, one, INFO, record, {Site(0, "mlp"): measured})
    manifest = load_manifest(tmp_path)
    assert manifest.training == record
    assert manifest.layers_of("mlp") == (0,)
    assert manifest.dictionaries["mlp_00"].metrics == measured
    assert manifest.model.weights_hash == INFO.weights_hash
    assert manifest.model.start_token == INFO.start_token
    assert set(manifest.versions) == {"attention_studio", "torch", "transformers"}
    line = f"mlp_00.safetensors {manifest.dictionaries['mlp_00'].sha256}\n"
    assert manifest.fingerprint == hashlib.sha256(line.encode()).hexdigest()


def test_some_layers_only(crm: Path) -> None:
    assert list(load_crm(crm, sites=[Site(2, "mlp")]).dictionaries.transcoders) == [2]


def test_saving_again_replaces(crm: Path) -> None:
    save_crm(crm, DictionarySet({1: transcoder(seed=7)}), INFO)
    assert list(load_crm(crm).dictionaries.transcoders) == [1]
    assert sorted(p.name for p in crm.iterdir()) == ["manifest.json", "mlp_01.safetensors"]


def lorsa(seed: int) -> Lorsa:
    made = Lorsa(
        LorsaConfig(d_model=6, d_latent=8, n_qk_heads=2, d_qk=4, k=3, rotary_dim=4, score_scale=0.5)
    )
    g = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.copy_(torch.rand(parameter.shape, generator=g))
    made.output_scale.fill_(3.0)
    return made


def clt(layers: tuple[int, ...]) -> CrossLayerTranscoder:
    made = CrossLayerTranscoder(
        CrossLayerTranscoderConfig(d_model=6, layers=layers, d_latent=5, k=2)
    )
    g = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.copy_(torch.rand(parameter.shape, generator=g))
    made.output_scale.fill_(0.5)
    return made


def test_all_kinds_in_one_folder(tmp_path: Path) -> None:
    mixed = DictionarySet({0: transcoder()}, {0: lorsa(0), 3: lorsa(1)}, clt((1, 2)))
    x = torch.randn(7, 6)
    expected = mixed.lorsas[3](x)
    across = mixed.clt
    assert across is not None
    written = across({1: x, 2: -x})
    save_crm(tmp_path, mixed, INFO)
    crm = load_crm(tmp_path, INFO)
    assert crm.manifest.sites == mixed.sites
    assert crm.dictionaries.unfolded == ()
    torch.testing.assert_close(crm.dictionaries.lorsas[3](x), expected)
    found = crm.dictionaries.clt
    assert found is not None
    for layer, y in found({1: x, 2: -x}).items():
        torch.testing.assert_close(y, written[layer])
    part = load_crm(tmp_path, sites=[Site(3, "attention")]).dictionaries
    assert part.sites == (Site(3, "attention"),)


def test_a_cross_layer_transcoder_is_whole_or_refused(tmp_path: Path) -> None:
    save_crm(tmp_path, DictionarySet(clt=clt((1, 2))), INFO)
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["dictionaries"]["mlp_02"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CRMFormatError, match=r"must have layers \(1, 2\)"):
        load_crm(tmp_path)


def test_another_decoder_is_another_file(tmp_path: Path) -> None:
    save_crm(tmp_path, DictionarySet(clt=clt((1, 2))), INFO)
    path = tmp_path / "clt_01.safetensors"
    tensors = safetensors.torch.load_file(path)
    swapped = tensors["W_D"].flip(0).clone()
    assert not torch.equal(swapped, tensors["W_D"])
    safetensors.torch.save_file({**tensors, "W_D": swapped}, path)
    with pytest.raises(CRMFormatError, match=r"clt_01.*not the file that was saved"):
        load_crm(tmp_path)


def test_two_dictionaries_for_one_module() -> None:
    with pytest.raises(ValueError, match="two dictionaries"):
        DictionarySet({1: transcoder()}, clt=clt((1, 2)))


def test_sixteen_bit_files_are_read_as_float32(crm: Path) -> None:
    before = load_crm(crm).dictionaries.transcoders[0].W_D
    rewrite(crm, lambda t: t.update(W_D=t["W_D"].half()))
    after = load_crm(crm).dictionaries.transcoders[0].W_D
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_a_full_disk_leaves_the_old_crm(crm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_crm(crm).dictionaries.transcoders[0].W_E.clone()

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(FileWriteError, match="disk is full"):
        save_crm(crm, DictionarySet({0: transcoder(seed=9)}), INFO)
    assert torch.equal(load_crm(crm).dictionaries.transcoders[0].W_E, before)
    assert sorted(p.name for p in crm.iterdir()) == [
        "manifest.json",
        "mlp_00.safetensors",
        "mlp_02.safetensors",
    ]


def test_missing_layers(crm: Path) -> None:
    with pytest.raises(CRMMismatchError, match=r"mlp 1, mlp 3.*mlp 0, 2"):
        load_crm(crm, INFO, sites=mlp_sites((0, 1, 2, 3)))


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
    assert load_crm(
        crm, replace(INFO, name="elsewhere", source="a folder")
    ).dictionaries.transcoders


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
            (lambda m: m.update(format_version=3), "format_version 3 is newer"),
            (lambda m: m.update(surprise=1), "surprise"),
            (lambda m: m.update(dictionaries={}), "dictionaries"),
            (lambda m: m["dictionaries"]["mlp_00"].update(layer=1), "mlp_01 goes by the name"),
            (lambda m: m["dictionaries"]["mlp_00"].update(kind="lorsa"), "config"),
            (lambda m: m["model"].update(n_layers=2), "layers must lie within"),
            (lambda m: m["model"].update(d_model=7), "d_model of mlp_00"),
            (lambda m: m["model"].update(d_model="wide"), r"model\.d_model"),
            (lambda m: m["dictionaries"]["mlp_00"].update(file="../../passwd"), "file"),
            (
                lambda m: m["dictionaries"]["mlp_00"].update(file="mlp_02.safetensors"),
                "the file of mlp_00",
            ),
            (lambda m: m["dictionaries"]["mlp_00"].update(sha256="x"), "sha256"),
            (lambda m: m["dictionaries"]["mlp_00"]["config"].update(d_latent=10**15), "d_latent"),
            (
                lambda m: m["dictionaries"]["mlp_00"]["config"].update(activation="gelu"),
                "activation",
            ),
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
    path = crm / "mlp_00.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    bless(crm)


def bless(crm: Path) -> None:
    content = json.loads((crm / "manifest.json").read_text())
    content["dictionaries"]["mlp_00"]["sha256"] = sha256_file(crm / "mlp_00.safetensors")
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
            (lambda t: t.update(W_D=t["W_D"].double()), "W_D has type 'F64'"),
            (lambda t: t.update(b_E=torch.zeros(9, dtype=torch.int32)), "b_E has type 'I32'"),
            (lambda t: t["W_D"][1].fill_(float("nan")), "W_D holds values that are not finite"),
            (lambda t: t["b_D"].fill_(float("inf")), "b_D holds values that are not finite"),
            (lambda t: t["threshold"].fill_(-1.0), "threshold holds negative"),
        ],
    )
    def test_tensors(self, crm: Path, change: Callable[[Any], Any], message: str) -> None:
        rewrite(crm, change)
        with pytest.raises(CRMFormatError, match=rf"mlp_00\.safetensors.*{message}"):
            load_crm(crm)

    @pytest.mark.parametrize("scale", ["input_scale", "output_scale"])
    def test_unfolded(self, crm: Path, scale: str) -> None:
        rewrite(crm, lambda t: t[scale].fill_(0.5))
        with pytest.raises(UnfoldedDictionaryError, match=rf"mlp_00.*{scale}"):
            load_crm(crm)

    def test_missing(self, crm: Path) -> None:
        (crm / "mlp_02.safetensors").unlink()
        with pytest.raises(CRMFormatError, match=r"mlp_02\.safetensors is missing"):
            load_crm(crm)

    def test_changed(self, crm: Path) -> None:
        path = crm / "mlp_00.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(CRMFormatError, match=r"mlp_00.*sha256"):
            load_crm(crm)

    @pytest.mark.parametrize("blessed", [False, True])
    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_cut_short(self, crm: Path, keep: int, blessed: bool) -> None:
        path = crm / "mlp_00.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        if blessed:
            bless(crm)
        with pytest.raises(CRMFormatError, match=r"mlp_00\.safetensors"):
            load_crm(crm)

    def test_appended(self, crm: Path) -> None:
        path = crm / "mlp_00.safetensors"
        path.write_bytes(path.read_bytes() + b"more")
        bless(crm)
        with pytest.raises(CRMFormatError, match=r"mlp_00.*appended"):
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
        (crm / "mlp_00.safetensors").write_bytes(header)
        bless(crm)
        with pytest.raises(CRMFormatError, match=rf"mlp_00\.safetensors.*({message})"):
            load_crm(crm)

    @pytest.mark.parametrize(
        "offsets", [[0, 10**18], [-4, 0], [8, 4], ["0", "4"], [0], None, [True, 4]]
    )
    def test_hostile_offsets(self, crm: Path, offsets: Any) -> None:
        path = crm / "mlp_00.safetensors"
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header["b_E"]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        bless(crm)
        with pytest.raises(CRMFormatError, match=r"mlp_00\.safetensors.*data_offsets"):
            load_crm(crm)
