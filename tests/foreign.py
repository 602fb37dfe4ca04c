"""Random dictionaries of every kind, and other tools' folders to spoil and to be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.crm_folder import ModelReference
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import ForeignFormatError
from attention_studio.core.dictionaries.foreign.found import Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.foreign.transfer import _WRITERS
from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.utils.errors import StudioError

D, S, HEADS, WIDTH = 10, 24, 4, 6

# Where a tool keeps the transcoder of layer 0, and what it calls its encoder.
WEIGHTS: dict[Tool, str] = {
    "circuit-tracer": "layer_0.safetensors",
    "saelens": "mlp_00/sae_weights.safetensors",
    "sparsify": "layers.0.mlp/sae.safetensors",
    "llamascopium": "mlp_00/sae_weights.safetensors",
}
CONFIGS: dict[Tool, str] = {
    "circuit-tracer": "config.yaml",
    "saelens": "mlp_00/cfg.json",
    "sparsify": "layers.0.mlp/cfg.json",
    "llamascopium": "mlp_00/config.json",
}
ENCODER: dict[Tool, str] = {
    "circuit-tracer": "W_enc",
    "saelens": "W_enc",
    "sparsify": "encoder.weight",
    "llamascopium": "W_E",
}

_Module = TypeVar("_Module", bound=nn.Module)


def reference(family: str = "llama", d_model: int = D, n_layers: int = 4) -> ModelReference:
    """A model that nobody has."""
    return ModelReference(
        name="toy", family=family, weights_hash="ab" * 32, n_layers=n_layers, d_model=d_model
    )


def filled(module: _Module, seed: int) -> _Module:
    """The module with random weights, positive thresholds, and decoder rows of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name == "selection_norm":
                continue  # follows from the decoders
            noise = torch.randn(tensor.shape, generator=generator)
            if "threshold" in name:
                tensor.copy_(noise.abs() * 0.4)
            elif "scale" not in name and "inv_freq" not in name:
                tensor.copy_(noise * 0.4)
            if name.startswith(("W_D", "W_O")):
                lengths = torch.rand(tensor.shape[-2], 1, generator=generator) * 3 + 0.01
                tensor.mul_(lengths)
        if isinstance(module, CrossLayerTranscoder) and module.selection_norm is not None:
            for i in range(len(module.config.layers)):
                module.selection_norm[i] = module.decoder_norms(i)
    return module


def random_transcoder(
    activation: ActivationKind = "relu",
    skip: bool = False,
    norm_aware: bool = False,
    seed: int = 0,
    d: int = D,
) -> Transcoder:
    """A folded transcoder."""
    config = TranscoderConfig(
        d_model=d, d_latent=S, activation=activation, k=5, skip=skip, norm_aware=norm_aware
    )
    return filled(Transcoder(config), seed)


def random_lorsa(activation: ActivationKind = "topk", seed: int = 0, **config: Any) -> Lorsa:
    """A folded Lorsa with rotary positions."""
    shape: dict[str, Any] = {
        "d_model": D,
        "d_latent": S,
        "n_qk_heads": HEADS,
        "d_qk": WIDTH,
        "activation": activation,
        "k": 5,
        "rotary_dim": 4,
        "score_scale": 0.37,
    }
    lorsa = filled(Lorsa(LorsaConfig(**{**shape, **config})), seed)
    if lorsa.inv_freq is not None:
        n = lorsa.inv_freq.numel()
        lorsa.inv_freq.copy_(500.0 ** (-torch.arange(n, dtype=torch.float64) / n))
    return lorsa


def random_clt(
    activation: ActivationKind = "relu",
    layers: tuple[int, ...] = (0, 1, 2),
    norm_aware: bool = False,
    seed: int = 0,
    d: int = D,
) -> CrossLayerTranscoder:
    """A folded cross-layer transcoder."""
    config = CrossLayerTranscoderConfig(
        d_model=d, layers=layers, d_latent=S, activation=activation, k=5, norm_aware=norm_aware
    )
    return filled(CrossLayerTranscoder(config), seed)


def inputs(n: int = 40, seed: int = 9, d: int = D) -> Tensor:
    """Activations ``[n, d]`` in float64, so that only the weights' precision shows."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written(tool: Tool, folder: Path, dictionaries: DictionarySet, family: str = "llama") -> Path:
    """The folder of a tool that holds the dictionaries."""
    folder.mkdir(parents=True)
    _WRITERS[tool](folder, dictionaries, reference(family))
    return folder


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change a file's tensors in place."""
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def load(folder: Path) -> Transcoder:
    """The one transcoder that is in a folder."""
    (item,) = open_foreign(folder).dictionaries
    loaded = item.load()
    assert isinstance(loaded, Transcoder)
    return loaded


def refused(folder: Path, words: str, kind: type[StudioError] = ForeignFormatError) -> None:
    """Nothing comes of a folder but an error, and it has these words."""
    with pytest.raises(kind, match=words):
        for item in open_foreign(folder).dictionaries:
            item.load()
