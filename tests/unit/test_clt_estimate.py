"""The estimate of a cross-layer transcoder's training against the tensors that are really made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention_studio.core.clt_estimate import DecoderPlace, estimate_clt
from attention_studio.core.clt_init import empty_clt
from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.tensor_store import TensorStore

N, CHUNK, K = 64, 16, 4


def size(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("auxk", [False, True])
@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_the_estimate_is_what_is_made(
    kind: ActivationKind, place: DecoderPlace, auxk: bool, tmp_path: Path
) -> None:
    config = CrossLayerTranscoderConfig(
        d_model=96,
        layers=(0, 1, 2, 3),
        d_latent=512,
        activation=kind,
        k=K,
        norm_aware=kind == "batchtopk",
    )
    store = TensorStore(tmp_path if place == "disk" else None)
    state = CLTState.new(empty_clt(config, store), store)
    scratch = CLTScratch(config, N, CHUNK)
    if auxk:
        scratch.aux_error()
        scratch.aux_room(1, 1)
    made = [t for tensors in state.tensors().values() for t in tensors.values()]
    decoders = [t for t in made if tuple(t.shape) == (512, 96)]
    encoders = 3 * len(config.layers)
    stored = size(decoders) * (len(decoders) - encoders) // len(decoders)
    working = [t for t in vars(scratch).values() if isinstance(t, torch.Tensor)]
    found = estimate_clt(config, N, CHUNK, place, K, auxk)
    resident = size(made) + size(working)
    if place == "disk":
        assert found.disk == stored
        resident -= stored
        resident += 3 * 4 * 512 * 96  # the pair in work
    else:
        assert found.disk == 0
    if not scratch.dense:
        resident += len(config.layers) * N * K * 32
    assert found.resident == pytest.approx(resident, rel=0.01)
