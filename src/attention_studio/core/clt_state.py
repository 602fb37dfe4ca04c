"""A cross-layer transcoder in training, and the working memory of a step.

The decoders and their moments are nearly all of the state and live in a store that may be on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.sites import Site, mlp_sites
from attention_studio.core.tensor_store import TensorStore


@dataclass
class CLTState:
    """A cross-layer transcoder in training and everything a resumed run needs to go on with it.

    Attributes:
        clt: unfolded; its decoders come from ``store``.
        store: where the decoders and their moments live.
        first, second: Adam's running means, by position and name of parameter.
        tokens_since_fired: int64 ``[n, s]``.
        steps: optimizer steps done.
    """

    clt: CrossLayerTranscoder
    store: TensorStore
    first: list[dict[str, Tensor]]
    second: list[dict[str, Tensor]]
    tokens_since_fired: Tensor
    steps: int = 0

    @classmethod
    def new(cls, clt: CrossLayerTranscoder, store: TensorStore) -> CLTState:
        """The state before the first step.

        Raises:
            FileWriteError: there is no room on the disk for the moments.
        """
        n = len(clt.config.layers)
        moments = [
            [
                {
                    name: store.zeros(tuple(t.shape)) if name == "W_D" else torch.zeros_like(t)
                    for name, t in clt.tensors(i).items()
                    if is_trained(clt.config, name)
                }
                for i in range(n)
            ]
            for _ in range(2)
        ]
        silent = torch.zeros(n, clt.config.d_latent, dtype=torch.int64, device=clt.b_E[0].device)
        return cls(clt, store, moments[0], moments[1], silent)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that it replaces."""
        return mlp_sites(self.clt.config.layers)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor of the state by file stem and name, as views: copy into them to restore it.

        ``clt_03`` has the encoder of layer 3, ``clt_03_to_05`` its decoder to layer 5: no stem has
        more than one decoder and its moments.
        """
        found: dict[str, dict[str, Tensor]] = {}
        layers = self.clt.config.layers
        for i, layer in enumerate(layers):
            weights = {f"adam_first.{name}": t for name, t in self.first[i].items()}
            weights.update({f"adam_second.{name}": t for name, t in self.second[i].items()})
            weights.update(self.clt.tensors(i))
            decoders = {name: weights.pop(name) for name in list(weights) if name.endswith("W_D")}
            found[f"clt_{layer:02d}"] = {
                **weights,
                "tokens_since_fired": self.tokens_since_fired[i],
            }
            for t, target in enumerate(layers[i:]):
                found[f"clt_{layer:02d}_to_{target:02d}"] = {
                    name: decoder[t] for name, decoder in decoders.items()
                }
        return found


def is_trained(config: CrossLayerTranscoderConfig, name: str) -> bool:
    """Whether gradient descent changes the tensor ``name``."""
    if name == "threshold":
        return config.activation != "batchtopk"
    return name in ("W_E", "b_E", "W_D", "b_D")


class CLTScratch:
    """Working memory of a step. It has room for one decoder's gradient, not for all.

    Args:
        config: shape of the transcoder.
        batch_tokens: tokens per batch (N).
        token_chunk: tokens per micro-step.
        dtype: of weights and gradients.
        selection_dtype: in which TopK and BatchTopK rank latents.
    """

    def __init__(
        self,
        config: CrossLayerTranscoderConfig,
        batch_tokens: int,
        token_chunk: int,
        device: Union[str, torch.device] = "cpu",
        dtype: torch.dtype = torch.float32,
        selection_dtype: Optional[torch.dtype] = None,
    ) -> None:
        n, s, d = len(config.layers), config.d_latent, config.d_model
        self.dense = config.activation in ("relu", "jumprelu")
        self.x = torch.empty(batch_tokens, d, device=device, dtype=dtype)
        self.error = torch.empty(n, batch_tokens, d, device=device, dtype=dtype)
        rows = batch_tokens if self.dense else token_chunk
        ranked_in = dtype if selection_dtype is None or self.dense else selection_dtype
        self.activations = torch.empty(rows, s, device=device, dtype=ranked_in)
        self.low_encoder: Optional[Tensor] = None
        if ranked_in != dtype:
            self.low_encoder = torch.empty(s, d, device=device, dtype=ranked_in)
        self.latent_gradient = torch.empty_like(self.activations) if self.dense else None
        self.gradient = torch.empty(s, d, device=device, dtype=dtype)
        self.bias_gradient = torch.empty(s, device=device, dtype=dtype)
        self._aux_error: Optional[Tensor] = None
        self._aux_room: Optional[Tensor] = None

    def aux_error(self) -> Tensor:
        """Room for what dead latents write; taken when it is first needed, and then kept."""
        if self._aux_error is None:
            self._aux_error = torch.empty_like(self.error)
        return self._aux_error

    def aux_room(self, tokens: int, latents: int) -> tuple[Tensor, Tensor]:
        """Room for the activations of so many dead latents and for their gradient."""
        if self._aux_room is None:
            size = self.x.shape[0] * self.gradient.shape[0]
            self._aux_room = torch.empty(2, size, device=self.x.device, dtype=self.x.dtype)
        first, second = (part[: tokens * latents].view(tokens, latents) for part in self._aux_room)
        return first, second
