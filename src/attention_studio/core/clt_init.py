"""Where the training of a cross-layer transcoder starts: as one transcoder per layer.

Every layer's encoder, biases, thresholds, scales and decoder to its own output are those that a
per-layer transcoder would start with (``core.training_init``), and it writes nothing to other
layers yet. So the first prediction is the per-layer transcoders', and what latents write further
up is learnt from what the layers there leave unexplained. Decoders that started from each layer's
response to every layer below would add the same thing up many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.transcoder_config import TranscoderConfig
from attention_studio.core.tensor_store import TensorStore
from attention_studio.core.training_config import EncoderInit
from attention_studio.core.training_init import LayerStatistics, initial_transcoder


def empty_clt(config: CrossLayerTranscoderConfig, store: TensorStore) -> CrossLayerTranscoder:
    """A transcoder of zeros whose decoders live in ``store``.

    Raises:
        FileWriteError: there is no room for them on the disk.
    """
    positions = range(len(config.layers))
    decoders = [store.zeros(config.tensor_shapes(i)["W_D"]) for i in positions]
    return CrossLayerTranscoder(config, decoders).to(store.device)


def initialise_clt(
    clt: CrossLayerTranscoder,
    statistics: Mapping[int, LayerStatistics],
    rows: Mapping[int, tuple[Tensor, Tensor]],
    init: Literal["zero", "response"],
    seed: int,
    encoder_init: EncoderInit = "samples",
) -> Iterator[int]:
    """Give ``clt``, as ``empty_clt`` made it, its start.

    Args:
        clt: all zeros; unfolded afterwards.
        statistics: of each layer.
        rows: raw inputs and outputs ``[n, d]`` of each layer, those that ``statistics`` are of.
        init: how the decoder to a latent's own layer starts, see ``initial_transcoder``.
        seed: decides the encoders' directions; with the same one, a per-layer transcoder has the
            same.
        encoder_init: as in ``initial_transcoder``.

    Yields:
        Each layer when it is done.
    """
    config = clt.config
    one = TranscoderConfig(
        d_model=config.d_model,
        d_latent=config.d_latent,
        activation=config.activation,
        k=config.k,
        norm_aware=config.norm_aware,
    )
    for i, layer in enumerate(config.layers):
        inputs, outputs = rows[layer]
        start = initial_transcoder(
            one, statistics[layer], inputs, outputs, init, seed, layer, encoder_init
        )
        state = start.state_dict()
        state["selection_norm"] = torch.linalg.vector_norm(start.W_D, dim=1)
        for name, target in clt.tensors(i).items():
            # Own layer first: what a latent writes further up stays zero.
            (target[0] if name == "W_D" else target).copy_(state[name])
        yield layer
