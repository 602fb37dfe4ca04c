"""Cross-layer transcoders and their files, against the formulas written out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import psutil
import pytest
import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.dictionaries import tensor_files
from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.clt_files import clt_file, load_clt, write_clt_layer
from attention_studio.core.dictionaries.tensor_files import CRMFormatError
from attention_studio.core.dictionaries.transcoder import UnfoldedDictionaryError
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.utils.files import sha256_file
from attention_studio.utils.progress import WorkContext

KINDS: tuple[ActivationKind, ...] = ("relu", "topk", "batchtopk", "jumprelu")
SELECTIONS: list[tuple[ActivationKind, bool]] = [
    *((kind, False) for kind in KINDS),
    ("topk", True),
    ("batchtopk", True),
]
LAYERS = (2, 3, 5)
D, S, K = 10, 30, 4


def random_clt(
    kind: ActivationKind, norm_aware: bool = False, seed: int = 0
) -> CrossLayerTranscoder:
    """Random weights, decoder rows of many lengths, and a scale of its own for every layer's input
    and output."""
    g = torch.Generator().manual_seed(seed)
    config = CrossLayerTranscoderConfig(
        d_model=D, layers=LAYERS, d_latent=S, activation=kind, k=K, norm_aware=norm_aware
    )
    clt = CrossLayerTranscoder(config)
    for name, parameter in clt.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
        if name.startswith("threshold"):
            parameter.abs_().add_(0.1)
    clt.input_scale.copy_(torch.tensor([0.37, 1.4, 2.0]))
    clt.output_scale.copy_(torch.tensor([5.1, 0.6, 1.3]))
    for i, decoder in enumerate(clt.W_D):
        decoder.mul_(torch.rand(S, 1, generator=g) * 2)
        decoder[:, :3] = 0.0  # shorter than the floor
        if clt.selection_norm is not None:
            clt.selection_norm[i] = clt.decoder_norms(i)
    return clt


def inputs(n: int = 25, seed: int = 5) -> dict[int, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(n, D, generator=g) * 3 + 1 for layer in LAYERS}


def one_by_one(clt: CrossLayerTranscoder, x: dict[int, Tensor]) -> dict[int, Tensor]:
    """The prediction in raw units, token by token and latent by latent, of one not folded yet."""
    kind = clt.config.activation
    weights = [[1.0] * S for _ in LAYERS]
    if clt.config.norm_aware:
        for i in range(len(LAYERS)):
            norms = [
                sum(float(v) ** 2 for decoder in clt.W_D[i] for v in decoder[m]) ** 0.5
                for m in range(S)
            ]
            weights[i] = [max(norm / (sum(norms) / S), 0.1) for norm in norms]
    found = {layer: torch.zeros_like(x[layer]) for layer in LAYERS}
    for token in range(len(x[LAYERS[0]])):
        for i, source in enumerate(LAYERS):
            row = x[source][token] * clt.input_scale[i]
            pre = [float(clt.W_E[i][m] @ row + clt.b_E[i][m]) for m in range(S)]
            keys = [value * weight for value, weight in zip(pre, weights[i], strict=True)]
            for m in range(S):
                threshold = 0.0
                if kind == "topk":
                    threshold = max(threshold, sorted(keys)[-K - 1])
                elif clt.threshold is not None:
                    limits = clt.threshold[i]
                    threshold = float(limits[m] if limits.dim() else limits)
                if keys[m] <= threshold:
                    continue
                for j in range(i, len(LAYERS)):
                    found[LAYERS[j]][token] += pre[m] * clt.W_D[i][j - i][m]
    return {
        layer: (found[layer] + clt.b_D[j]) / clt.output_scale[j] for j, layer in enumerate(LAYERS)
    }


@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_the_prediction_is_the_sum_over_all_layers_below(
    kind: ActivationKind, norm_aware: bool
) -> None:
    clt = random_clt(kind, norm_aware).double()
    x = {k: v.double() for k, v in inputs(7).items()}
    expected = one_by_one(clt, x)
    predicted = clt(x)
    assert list(predicted) == list(LAYERS)
    for layer in LAYERS:
        assert expected[layer].abs().max() > 0
        torch.testing.assert_close(predicted[layer], expected[layer], rtol=1e-10, atol=1e-10)
    if norm_aware:
        plain = random_clt(kind).double()(x)
        assert all((plain[layer] - predicted[layer]).abs().max() > 0.01 for layer in LAYERS)


@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_folding_changes_no_output(kind: ActivationKind, norm_aware: bool) -> None:
    clt = random_clt(kind, norm_aware).double()
    x = {k: v.double() for k, v in inputs().items()}
    before = clt(x)
    latents = [clt.encode(i, x[layer]) for i, layer in enumerate(LAYERS)]
    assert not clt.is_folded
    clt.fold()
    assert clt.is_folded
    for i, layer in enumerate(LAYERS):
        torch.testing.assert_close(clt(x)[layer], before[layer], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(clt.encode(i, x[layer]), latents[i], rtol=1e-12, atol=1e-12)
    weights = [decoder.clone() for decoder in clt.W_D]
    clt.fold()
    assert all(torch.equal(a, b) for a, b in zip(weights, clt.W_D, strict=True))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_sparse_equals_dense(kind: ActivationKind, norm_aware: bool, folded: bool) -> None:
    clt, x = random_clt(kind, norm_aware), inputs()
    if folded:
        clt.fold()
    dense = {i: clt.encode(i, x[layer]) for i, layer in enumerate(LAYERS)}
    sparse = {i: clt.encode_sparse(i, x[layer]) for i, layer in enumerate(LAYERS)}
    for i, latents in sparse.items():
        again = torch.zeros_like(dense[i])
        again[latents.token, latents.latent] = latents.value
        assert torch.equal(again, dense[i])
        assert (latents.value > 0).all()
    for j in range(len(LAYERS)):
        torch.testing.assert_close(
            clt.decode_to_sparse(j, sparse, 25), clt.decode_to(j, dense), rtol=1e-5, atol=1e-5
        )


def test_layers_above_have_no_part_and_missing_ones_are_silent() -> None:
    clt, x = random_clt("topk"), inputs()
    f = {i: clt.encode(i, x[layer]) for i, layer in enumerate(LAYERS)}
    assert torch.equal(clt.decode_to(1, f), clt.decode_to(1, {0: f[0], 1: f[1]}))
    silent = {0: torch.zeros_like(f[0]), 1: f[1]}
    torch.testing.assert_close(clt.decode_to(1, {1: f[1]}), clt.decode_to(1, silent))
    with pytest.raises(ValueError, match="position 0"):
        clt.decode_to(0, {1: f[1]})
    with pytest.raises(ValueError, match="layers"):
        clt({2: x[2], 3: x[3]})


def test_any_leading_shape() -> None:
    clt, x = random_clt("topk"), inputs(24)
    shaped = clt({layer: value.view(2, 3, 4, D) for layer, value in x.items()})
    for layer, flat in clt(x).items():
        torch.testing.assert_close(shaped[layer], flat.view(2, 3, 4, D))


def test_batch_independence_of_batchtopk() -> None:
    clt, x = random_clt("batchtopk"), inputs()
    for i, layer in enumerate(LAYERS):
        torch.testing.assert_close(clt.encode(i, x[layer])[3:4], clt.encode(i, x[layer][3:4]))


def test_decoder_norms_are_over_all_targets() -> None:
    clt = random_clt("relu")
    for i in range(len(LAYERS)):
        torch.testing.assert_close(
            clt.decoder_norms(i), clt.W_D[i].transpose(0, 1).flatten(1).norm(dim=1)
        )


def test_positions_and_layers() -> None:
    clt = random_clt("relu")
    assert [clt.position(layer) for layer in LAYERS] == [0, 1, 2]
    with pytest.raises(ValueError, match="layer 4"):
        clt.position(4)


def test_before_anything_is_written_latents_are_ranked_as_they_are() -> None:
    clt, plain, x = random_clt("topk", norm_aware=True), random_clt("topk"), inputs()
    assert clt.selection_norm is not None
    clt.selection_norm.zero_()
    for i, layer in enumerate(LAYERS):
        assert torch.equal(clt.encode(i, x[layer]), plain.encode(i, x[layer]))


@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_the_declared_shapes_are_the_real_ones(kind: ActivationKind, norm_aware: bool) -> None:
    clt = random_clt(kind, norm_aware)
    count = 0
    for i in range(len(LAYERS)):
        shapes = {name: tuple(tensor.shape) for name, tensor in clt.tensors(i).items()}
        assert shapes == clt.config.tensor_shapes(i)
        count += shapes["W_D"][0]
    assert clt.config.n_pairs == count == 6
    elements = sum(t.numel() for i in range(len(LAYERS)) for t in clt.tensors(i).values())
    assert elements == sum(t.numel() for t in clt.state_dict().values())


def test_tensors_are_views() -> None:
    clt = random_clt("batchtopk")
    for i in range(len(LAYERS)):
        for tensor in clt.tensors(i).values():
            tensor.fill_(0.25)
    assert all((tensor == 0.25).all() for tensor in clt.state_dict().values())


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": ()},
        {"layers": (3, 2)},
        {"layers": (2, 2)},
        {"layers": (-1, 2)},
        {"k": 31},
        {"k": 0},
        {"d_model": 0},
        {"d_latent": 1 << 40},
        {"activation": "gelu"},
        {"norm_aware": True, "activation": "relu"},
        {"colour": 1},
    ],
)
def test_configurations_that_cannot_be(bad: dict[str, object]) -> None:
    fields = {"d_model": D, "layers": LAYERS, "d_latent": S, "k": K, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        CrossLayerTranscoderConfig(**fields)  # type: ignore[arg-type]


def test_decoders_of_another_shape_are_refused() -> None:
    config = random_clt("relu").config
    with pytest.raises(ValueError, match="shapes"):
        CrossLayerTranscoder(config, [torch.zeros(1, S, D)] * 3)


# --- files ---------------------------------------------------------------------------------


def save(clt: CrossLayerTranscoder, folder: Path) -> dict[int, Path]:
    files = {layer: folder / clt_file(layer) for layer in clt.config.layers}
    for i, path in enumerate(files.values()):
        write_clt_layer(path, clt, i)
    return files


@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_what_is_written_is_the_folded_transcoder(
    kind: ActivationKind, norm_aware: bool, tmp_path: Path
) -> None:
    clt, x = random_clt(kind, norm_aware), inputs()
    before = {name: tensor.clone() for name, tensor in clt.state_dict().items()}
    files = save(clt, tmp_path)
    assert [path.name for path in files.values()] == [
        "clt_02.safetensors",
        "clt_03.safetensors",
        "clt_05.safetensors",
    ]
    for name, tensor in clt.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    clt.fold()
    for i, path in enumerate(files.values()):
        read = safetensors.torch.load_file(path)
        assert set(read) == set(clt.config.tensor_shapes(i))
        for name, tensor in clt.tensors(i).items():
            assert torch.equal(read[name], tensor), name
    loaded = load_clt(clt.config, files, hashes(files))
    assert loaded.is_folded
    for layer, y in clt(x).items():
        assert torch.equal(loaded(x)[layer], y)


def hashes(files: dict[int, Path]) -> dict[int, str]:
    """Of the files as they are, as an attacker's manifest would have them."""
    return {layer: sha256_file(path) for layer, path in files.items() if path.is_file()}


def resident(folder: Path) -> int:
    """Bytes of the folder's files that this process has in memory."""
    maps = psutil.Process().memory_maps()
    return sum(m.rss for m in maps if m.path.startswith(str(folder)))


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells which mapped bytes are resident")
def test_only_what_is_used_is_read(tmp_path: Path) -> None:
    config = CrossLayerTranscoderConfig(
        d_model=256, layers=(0, 1, 2, 3), d_latent=4096, activation="topk", k=4
    )
    files = save(CrossLayerTranscoder(config), tmp_path)
    clt = load_clt(config, files, hashes(files))
    pair = 4 * config.d_latent * config.d_model
    encoders = resident(tmp_path)
    assert encoders < (len(config.layers) + 1) * pair
    clt.W_D[0][2].sum()
    assert pair <= resident(tmp_path) - encoders < 2 * pair


def test_a_file_is_hashed_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clt, read = random_clt("jumprelu"), []
    files = save(clt, tmp_path)
    expected = hashes(files)

    def counted(path: Path, ctx: Optional[WorkContext] = None) -> str:
        read.append(path)
        return sha256_file(path, ctx)

    monkeypatch.setattr(tensor_files, "sha256_file", counted)
    load_clt(clt.config, files, expected)
    load_clt(clt.config, files, expected)
    assert read == [*files.values()] * 2  # they are too young to be known by their times
    monkeypatch.setattr(tensor_files, "_SETTLED_NS", 0)
    load_clt(clt.config, files, expected)
    load_clt(clt.config, files, expected)
    assert read == [*files.values()] * 3
    content = bytearray(files[3].read_bytes())
    content[-1] ^= 1
    other = tmp_path / "other"
    other.write_bytes(content)
    shutil.copystat(files[3], other)
    other.replace(files[3])
    with pytest.raises(CRMFormatError, match=r"clt_03.*not the file that was saved"):
        load_clt(clt.config, files, expected)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def changed(name: str, value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = safetensors.torch.load_file(path)
        tensors[name].view(-1)[0] = value
        safetensors.torch.save_file({k: t.clone() for k, t in tensors.items()}, path)

    return change


def other_shape(path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    tensors["W_D"] = tensors["W_D"][:1].clone()
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (cut_short, CRMFormatError, "clt_03.*cut short"),
        (other_shape, CRMFormatError, "clt_03.*W_D has shape"),
        (changed("W_E", float("nan")), CRMFormatError, "clt_03.*W_E.*not finite"),
        (changed("threshold", -1.0), CRMFormatError, "clt_03.*negative"),
        (changed("output_scale", 2.0), UnfoldedDictionaryError, "clt_03.*output_scale"),
        (Path.unlink, CRMFormatError, "clt_03.*missing"),
    ],
)
def test_damaged_files_are_refused(
    damage: Callable[[Path], None], error: type[Exception], match: str, tmp_path: Path
) -> None:
    clt = random_clt("jumprelu")
    files = save(clt, tmp_path)
    damage(files[3])
    with pytest.raises(error, match=match):
        load_clt(clt.config, files, hashes(files))


def test_negative_norms_are_refused(tmp_path: Path) -> None:
    clt = random_clt("topk", norm_aware=True)
    files = save(clt, tmp_path)
    changed("selection_norm", -1.0)(files[3])
    with pytest.raises(CRMFormatError, match=r"clt_03.*selection_norm.*negative"):
        load_clt(clt.config, files, hashes(files))
