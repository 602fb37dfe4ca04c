"""sparsify's folders (EleutherAI, on PyPI as eai-sparsify, 1.3): one per module of the model.

    layers.3.mlp/cfg.json            activation, k, num_latents, skip_connection, transcode, d_in
    layers.3.mlp/sae.safetensors     encoder.weight [s,d], encoder.bias [s], W_dec [s,d], b_dec [d],
                                     W_skip [d,d] which multiplies from the left

ReLU, then the k largest. The folder bears the module's name.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from attention_studio.core.dictionaries.crm_folder import ModelReference
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    TensorFile,
    ToolConfig,
    UnsupportedDictionaryError,
    check_memory,
    checked_config,
    read_json_table,
)
from attention_studio.core.dictionaries.foreign.found import ForeignDictionary
from attention_studio.core.dictionaries.foreign.hooks import module_pair
from attention_studio.core.dictionaries.foreign.weights import plain
from attention_studio.core.dictionaries.foreign.writing import (
    only_transcoders,
    save_json,
    save_tensors,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.model_families import has_post_norm, mlp_name

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae.safetensors"


class _Config(ToolConfig):
    d_in: int
    k: int = 32
    activation: str = "topk"
    num_latents: int = 0
    expansion_factor: int = 32
    skip_connection: bool = False
    transcode: bool = False


def recognises(folder: Path) -> bool:
    """Whether a folder looks like one of sparsify's."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def open_folder(folder: Path) -> tuple[ForeignDictionary, str]:
    """The dictionary in a folder of sparsify and its model's name (sparsify keeps none).

    Raises:
        ForeignFormatError: it is damaged; names file and field.
        UnsupportedDictionaryError: it cannot be used here; says why.
    """
    path = folder / CONFIG_NAME
    config = checked_config(_Config, path, read_json_table(path))
    if not config.transcode:
        raise UnsupportedDictionaryError(
            f"{path}: it is an autoencoder (transcode is false)",
            "it predicts what it reads, and stands for no module of the model",
            "Choose a transcoder",
        )
    if config.activation != "topk":
        raise UnsupportedDictionaryError(
            f"{path}: activation {config.activation!r} cannot be used here",
            "it picks one latent of every group; here the k largest of all are picked",
        )
    hooks = module_pair(path, folder.resolve().name)
    found = ForeignDictionary(
        folder, (hooks,), lambda: config.d_in, lambda: _read(folder / WEIGHTS_NAME, config)
    )
    return found, ""


def _read(path: Path, config: _Config) -> Transcoder:
    file = TensorFile(path)
    s, d = file.sizes("encoder.bias", "b_dec")
    told = config.num_latents or config.d_in * config.expansion_factor
    for field, have, expected in (("d_in", d, config.d_in), ("num_latents", s, told)):
        if have != expected:
            raise ForeignFormatError(
                f"{path}: its biases say {field} = {have}, its cfg.json {expected}"
            )
    names = ["encoder.weight", "encoder.bias", "W_dec", "b_dec"]
    file.only([*names, "W_skip"] if config.skip_connection else names)
    check_memory(path, [file])
    try:
        shape = TranscoderConfig(
            d_model=d, d_latent=s, activation="topk", k=config.k, skip=config.skip_connection
        )
    except ValueError as error:
        raise ForeignFormatError(f"{path}: k = {config.k} does not fit {s} latents") from error
    transcoder = Transcoder(shape)
    transcoder.W_E.data = file.read("encoder.weight", (s, d))
    transcoder.b_E.data = file.read("encoder.bias", (s,))
    transcoder.W_D.data = file.read("W_dec", (s, d))
    transcoder.b_D.data = file.read("b_dec", (d,))
    if transcoder.W_skip is not None:
        transcoder.W_skip.data = file.read("W_skip", (d, d)).t().contiguous()
    return transcoder


def write_folder(folder: Path, dictionaries: DictionarySet, model: ModelReference) -> None:
    """Write one folder per MLP, as sparsify loads it from disk.

    A ReLU is written as a TopK that keeps every latent: the same function.

    Args:
        folder: exists and is empty.
        dictionaries: transcoders only.
        model: whose dictionaries they are.

    Raises:
        UnsupportedDictionaryError: sparsify cannot hold one of them; says why.
    """
    only_transcoders("sparsify", dictionaries)
    if has_post_norm(model.family, "mlp"):
        raise UnsupportedDictionaryError(
            f"sparsify predicts what an MLP of {model.family} gives",
            "the dictionaries predict what comes after the norm that follows there",
        )
    for layer, transcoder in dictionaries.transcoders.items():
        if transcoder.config.activation not in ("topk", "relu"):
            raise UnsupportedDictionaryError(
                "sparsify has no thresholds",
                f"that of layer {layer} is a {transcoder.config.activation}; sparsify knows TopK "
                "only",
                "Train with topk",
            )
        target = folder / mlp_name(model.family, layer)
        target.mkdir()
        _write(target, plain(transcoder))


def _write(folder: Path, transcoder: Transcoder) -> None:
    shape = transcoder.config
    tensors: dict[str, Tensor] = {
        "encoder.weight": transcoder.W_E,
        "encoder.bias": transcoder.b_E,
        "W_dec": transcoder.W_D,
        "b_dec": transcoder.b_D,
    }
    if transcoder.W_skip is not None:
        tensors["W_skip"] = transcoder.W_skip.t()
    config = {
        "activation": "topk",
        "expansion_factor": 1,
        "normalize_decoder": False,
        "num_latents": shape.d_latent,
        "k": shape.k if shape.activation == "topk" else shape.d_latent,
        "multi_topk": False,
        "skip_connection": shape.skip,
        "transcode": True,
        "d_in": shape.d_model,
    }
    save_tensors(folder / WEIGHTS_NAME, tensors)
    save_json(folder / CONFIG_NAME, config)
