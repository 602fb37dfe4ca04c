"""A cross-layer transcoder starts as one transcoder per layer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Optional

import pytest
import torch
from torch import Tensor

from attention_studio.core.clt_init import empty_clt, initialise_clt
from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.tensor_store import TensorStore
from attention_studio.core.training_init import initial_transcoder, layer_statistics

LAYERS = (0, 3, 4)
D, S, K, N = 8, 64, 8, 3000


def rows() -> dict[int, tuple[Tensor, Tensor]]:
    """Activations with a mean and a spread of its own for every layer."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for layer in LAYERS:
        x = torch.randn(N, D, generator=g) @ torch.randn(D, D, generator=g) * (layer + 1) + 5
        y = x @ torch.randn(D, D, generator=g) - 2 + torch.randn(N, D, generator=g)
        found[layer] = (x, y)
    return found


def start(
    kind: ActivationKind,
    init: Literal["zero", "response"],
    folder: Optional[Path] = None,
    norm_aware: bool = False,
) -> tuple[CrossLayerTranscoder, dict[int, Transcoder]]:
    shape = {"d_model": D, "d_latent": S, "activation": kind, "k": K, "norm_aware": norm_aware}
    config = CrossLayerTranscoderConfig(layers=LAYERS, **shape)
    data = rows()
    statistics = {layer: layer_statistics(x, y) for layer, (x, y) in data.items()}
    clt = empty_clt(config, TensorStore(folder))
    assert list(initialise_clt(clt, statistics, data, init, seed=7)) == list(LAYERS)
    one = TranscoderConfig(**shape)
    return clt, {
        layer: initial_transcoder(one, statistics[layer], x, y, init, 7, layer)
        for layer, (x, y) in data.items()
    }


@pytest.mark.parametrize("init", ["zero", "response"])
@pytest.mark.parametrize(
    ("kind", "norm_aware"),
    [("relu", False), ("topk", False), ("topk", True), ("batchtopk", False), ("jumprelu", False)],
)
def test_the_first_prediction_is_that_of_transcoders(
    kind: ActivationKind, norm_aware: bool, init: Literal["zero", "response"]
) -> None:
    clt, transcoders = start(kind, init, norm_aware=norm_aware)
    data = rows()
    predicted = clt({layer: x for layer, (x, _) in data.items()})
    for layer, transcoder in transcoders.items():
        torch.testing.assert_close(predicted[layer], transcoder(data[layer][0]))
        norms = clt.decoder_norms(clt.position(layer))
        assert norms.any() == (init == "response")
        if clt.selection_norm is not None:
            torch.testing.assert_close(clt.selection_norm[clt.position(layer)], norms)
    assert not clt.is_folded


def test_encoders_are_unit_vectors_and_biases_are_means() -> None:
    clt, _ = start("topk", "zero")
    for i, (x, y) in enumerate(rows().values()):
        torch.testing.assert_close(clt.W_E[i].norm(dim=1), torch.ones(S))
        torch.testing.assert_close(
            clt.pre_activations(i, x).mean(0), torch.zeros(S), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            clt.decode_to(i, {i: torch.zeros(1, S)}).squeeze(0), y.mean(0), rtol=1e-4, atol=1e-3
        )


def test_jumprelu_begins_at_the_wanted_l0_in_every_layer() -> None:
    clt, _ = start("jumprelu", "zero")
    for i, (x, _) in enumerate(rows().values()):
        active = (clt.encode(i, x) > 0).float().sum(1).mean().item()
        assert active == pytest.approx(K, rel=0.1)


def test_a_start_on_disk_is_the_same(tmp_path: Path) -> None:
    here, _ = start("topk", "response", norm_aware=True)
    there, _ = start("topk", "response", tmp_path, norm_aware=True)
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, there.state_dict()[name]), name
