"""What training a cross-layer transcoder takes, before it is started. No torch here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig

DecoderPlace = Literal["memory", "disk"]

_FLOAT = 4
_ENTRY = 32  # bytes that an active latent takes: where it is, its value, and its place by latent


class CLTBytes(NamedTuple):
    """Bytes that training takes beyond the model and the activations.

    Attributes:
        resident: in memory at the peak.
        disk: in the decoder store's files; checkpoints and the saved transcoder not included.
    """

    resident: int
    disk: int


def estimate_clt(
    config: CrossLayerTranscoderConfig,
    batch_tokens: int,
    token_chunk: int,
    place: DecoderPlace,
    k: int,
    auxk: bool = True,
) -> CLTBytes:
    """Bytes that training takes in float32.

    Decoders on disk pass through memory as cached file pages, which the operating system takes
    back when it needs them; of those only what one pair of layers needs is counted.

    Args:
        config: the transcoder.
        batch_tokens, token_chunk: as in ``TrainConfig``.
        place: where the decoders and their moments are.
        k: the most latents per token that are ever selected (``k_start`` where that is larger).
        auxk: whether dead latents are revived; counted as if all of them were dead.
    """
    n, s, d = len(config.layers), config.d_latent, config.d_model
    decoder = s * d
    # Weights and two moments, and a counter of silence per latent.
    encoders = 3 * n * (decoder + 2 * s + d) * _FLOAT + 8 * n * s
    encoders += n * s * _FLOAT if config.norm_aware else 0
    decoders = 3 * config.n_pairs * decoder * _FLOAT
    dense = config.activation in ("relu", "jumprelu")
    scratch = (n + 1) * batch_tokens * d + decoder + s
    scratch += 2 * batch_tokens * s if dense else token_chunk * s
    if auxk:
        scratch += n * batch_tokens * d + 2 * batch_tokens * s
    entries = 0 if dense else n * batch_tokens * k * _ENTRY
    resident = encoders + scratch * _FLOAT + entries
    if place == "memory":
        return CLTBytes(resident + decoders, 0)
    return CLTBytes(resident + 3 * decoder * _FLOAT, decoders)
