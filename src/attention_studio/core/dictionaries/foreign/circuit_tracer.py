"""circuit-tracer's folders (decoderesearch/circuit-tracer, also its fork on PyPI, 0.5).

    config.yaml             model_kind, model_name, feature_input_hook, feature_output_hook, scan
    layer_3.safetensors     per-layer: W_enc [s,d], W_dec [s,d], b_enc, b_dec, W_skip [d,d] which
                            multiplies from the left, activation_function.threshold [s]
    W_enc_3.safetensors     cross-layer: W_enc_3 [s,d], b_enc_3, b_dec_3, threshold_3
    W_dec_3.safetensors     W_dec_3 [s, L−3, d], to the layers 3 … L−1

Activations are ReLU or, with thresholds, JumpReLU. Both kinds cover every layer from 0 on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Optional

import yaml
from torch import Tensor

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.crm_folder import ModelReference
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    TensorFile,
    ToolConfig,
    UnsupportedDictionaryError,
    check_memory,
    check_thresholds,
    checked_config,
    read_yaml_table,
)
from attention_studio.core.dictionaries.foreign.found import ForeignDictionaries, ForeignDictionary
from attention_studio.core.dictionaries.foreign.hooks import HookPair, hook_pair
from attention_studio.core.dictionaries.foreign.weights import plain, plain_layer
from attention_studio.core.dictionaries.foreign.writing import (
    jump_threshold,
    jump_thresholds,
    save_tensors,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.model_families import has_post_norm
from attention_studio.utils.ranges import show_ranges

CONFIG_NAME = "config.yaml"
_THRESHOLD = "activation_function.threshold"
_MAX_LAYERS = 1024


class _Config(ToolConfig):
    model_kind: Literal["transcoder_set", "cross_layer_transcoder"]
    feature_input_hook: str
    feature_output_hook: str
    model_name: str = ""


def recognises(folder: Path) -> bool:
    """Whether a folder looks like one of circuit-tracer's."""
    return (folder / CONFIG_NAME).is_file()


def open_folder(folder: Path) -> ForeignDictionaries:
    """What is in a folder of circuit-tracer; weights are read later.

    Raises:
        ForeignFormatError: it is damaged; names file and field.
        UnsupportedDictionaryError: its dictionaries cannot be used here; says why.
    """
    path = folder / CONFIG_NAME
    content = read_yaml_table(path)
    if "transcoders" in content:
        raise UnsupportedDictionaryError(
            f"{path}: transcoders lists files elsewhere",
            "only files within the folder are read",
            "Let circuit-tracer fetch and save them (save_transcoders_to_cache)",
        )
    config = checked_config(_Config, path, content)
    kind = config.model_kind
    layers = _layers(folder, "layer" if kind == "transcoder_set" else "W_enc")
    hooks = [
        hook_pair(
            path,
            f"blocks.{layer}.{config.feature_input_hook}",
            f"blocks.{layer}.{config.feature_output_hook}",
        )
        for layer in layers
    ]
    if hooks[0].site.kind != "mlp":
        raise UnsupportedDictionaryError(f"{path}: its dictionaries stand for attention")
    if kind == "transcoder_set":
        found = tuple(_per_layer(folder, hook) for hook in hooks)
    else:
        clt = ForeignDictionary(
            folder,
            tuple(hooks),
            lambda: _clt_sizes(_encoder(folder, 0))[1],
            lambda: _read_clt(folder, len(layers)),
        )
        found = (clt,)
    return ForeignDictionaries("circuit-tracer", folder, found, config.model_name)


def _layers(folder: Path, stem: str) -> range:
    pattern = re.compile(rf"{stem}_(0|[1-9][0-9]{{0,3}})\.safetensors")
    matches = (pattern.fullmatch(entry.name) for entry in folder.iterdir())
    layers = sorted(int(match[1]) for match in matches if match)
    if layers != list(range(len(layers))) or not 1 <= len(layers) <= _MAX_LAYERS:
        missing = next((i for i, layer in enumerate(layers) if i != layer), len(layers))
        raise ForeignFormatError(
            f"{folder / f'{stem}_{missing}.safetensors'} is missing",
            "every layer from 0 on has a file",
        )
    return range(len(layers))


def _per_layer(folder: Path, hook: HookPair) -> ForeignDictionary:
    path = folder / f"layer_{hook.site.layer}.safetensors"
    return ForeignDictionary(
        path, (hook,), lambda: _sizes(TensorFile(path))[1], lambda: _read_transcoder(path)
    )


def _sizes(file: TensorFile) -> tuple[int, int]:
    return file.sizes("b_enc", "b_dec")


def _encoder(folder: Path, layer: int) -> TensorFile:
    return TensorFile(folder / f"W_enc_{layer}.safetensors")


def _clt_sizes(first: TensorFile) -> tuple[int, int]:
    return first.sizes("b_enc_0", "b_dec_0")


def _read_transcoder(path: Path) -> Transcoder:
    file = TensorFile(path)
    s, d = _sizes(file)
    skip, jumps = "W_skip" in file, _THRESHOLD in file
    optional = [name for name in ("W_skip", _THRESHOLD) if name in file]
    file.only(["W_enc", "W_dec", "b_enc", "b_dec", *optional])
    check_memory(path, [file])
    config = TranscoderConfig(
        d_model=d, d_latent=s, activation="jumprelu" if jumps else "relu", skip=skip
    )
    transcoder = Transcoder(config)
    transcoder.W_E.data = file.read("W_enc", (s, d))
    transcoder.b_E.data = file.read("b_enc", (s,))
    transcoder.W_D.data = file.read("W_dec", (s, d))
    transcoder.b_D.data = file.read("b_dec", (d,))
    if transcoder.W_skip is not None:
        transcoder.W_skip.data = file.read("W_skip", (d, d)).t().contiguous()
    if transcoder.threshold is not None:
        threshold = file.read(_THRESHOLD, (s,))
        transcoder.threshold.data = check_thresholds(path, _THRESHOLD, threshold)
    return transcoder


def _read_clt(folder: Path, n_layers: int) -> CrossLayerTranscoder:
    encoders = [_encoder(folder, i) for i in range(n_layers)]
    writers = [TensorFile(folder / f"W_dec_{i}.safetensors") for i in range(n_layers)]
    s, d = _clt_sizes(encoders[0])
    jumps = "threshold_0" in encoders[0]
    names = ["W_enc", "b_enc", "b_dec", *(["threshold"] if jumps else [])]
    decoders: list[Tensor] = []
    for i, (encoder, decoder) in enumerate(zip(encoders, writers, strict=True)):
        encoder.only([f"{name}_{i}" for name in names])
        decoder.only([f"W_dec_{i}"])
    check_memory(folder, [*encoders, *writers])
    for i, decoder in enumerate(writers):
        rows = decoder.read(f"W_dec_{i}", (s, n_layers - i, d))
        decoders.append(rows.transpose(0, 1).contiguous())
    config = CrossLayerTranscoderConfig(
        d_model=d,
        layers=tuple(range(n_layers)),
        d_latent=s,
        activation="jumprelu" if jumps else "relu",
    )
    clt = CrossLayerTranscoder(config, decoders)
    for i, file in enumerate(encoders):
        clt.W_E[i].data = file.read(f"W_enc_{i}", (s, d))
        clt.b_E[i].data = file.read(f"b_enc_{i}", (s,))
        clt.b_D[i].data = file.read(f"b_dec_{i}", (d,))
        if clt.threshold is not None:
            threshold = file.read(f"threshold_{i}", (s,))
            clt.threshold[i].data = check_thresholds(file.path, f"threshold_{i}", threshold)
    return clt


def write_folder(folder: Path, dictionaries: DictionarySet, model: ModelReference) -> None:
    """Write the folder that circuit-tracer reads.

    Args:
        folder: exists and is empty.
        dictionaries: transcoders for the layers from 0 on, or a cross-layer transcoder for them.
        model: whose dictionaries they are.

    Raises:
        UnsupportedDictionaryError: circuit-tracer cannot hold them; says why.
    """
    clt = dictionaries.clt
    if dictionaries.lorsas:
        raise UnsupportedDictionaryError(
            "circuit-tracer has no dictionaries for attention", "", "Leave the attention out"
        )
    if clt is not None and dictionaries.transcoders:
        raise UnsupportedDictionaryError(
            "circuit-tracer has per-layer transcoders or a cross-layer one, not both"
        )
    layers = tuple(site.layer for site in dictionaries.sites)
    if layers != tuple(range(len(layers))):
        raise UnsupportedDictionaryError(
            "circuit-tracer wants a dictionary for every layer from 0 on",
            f"there are some for layers {show_ranges(layers)}",
            "Train the missing layers",
        )
    if clt is None:
        _write_transcoders(folder, dictionaries.transcoders)
    else:
        _write_clt(folder, clt)
    config = {
        "model_kind": "transcoder_set" if clt is None else "cross_layer_transcoder",
        "model_name": model.name,
        "feature_input_hook": "mlp.hook_in",
        # The same place but behind a post norm. circuit-tracer's nnsight backend knows the one
        # name where there is none, and the other where there is one.
        "feature_output_hook": "hook_mlp_out"
        if has_post_norm(model.family, "mlp")
        else "mlp.hook_out",
        "scan": model.name,
    }
    (folder / CONFIG_NAME).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _write_transcoders(folder: Path, transcoders: Mapping[int, Transcoder]) -> None:
    if len({transcoder.config.d_latent for transcoder in transcoders.values()}) > 1:
        raise UnsupportedDictionaryError(
            "circuit-tracer wants the same number of latents in every layer"
        )
    for layer, original in transcoders.items():
        transcoder = plain(original)
        threshold = jump_threshold("circuit-tracer", transcoder)
        tensors: dict[str, Tensor] = {
            "W_enc": transcoder.W_E,
            "W_dec": transcoder.W_D,
            "b_enc": transcoder.b_E,
            "b_dec": transcoder.b_D,
        }
        if transcoder.W_skip is not None:
            tensors["W_skip"] = transcoder.W_skip.t()
        if threshold is not None:
            tensors[_THRESHOLD] = threshold
        save_tensors(folder / f"layer_{layer}.safetensors", tensors)


def _write_clt(folder: Path, clt: CrossLayerTranscoder) -> None:
    thresholds = jump_thresholds("circuit-tracer", clt)
    for i in range(len(clt.config.layers)):
        # Nothing here holds on to a layer's copies while the next one's are made.
        _write_layer(folder, i, plain_layer(clt, i), None if thresholds is None else thresholds[i])


def _write_layer(
    folder: Path, i: int, layer: Mapping[str, Tensor], threshold: Optional[Tensor]
) -> None:
    tensors = {
        f"W_enc_{i}": layer["W_E"],
        f"b_enc_{i}": layer["b_E"],
        f"b_dec_{i}": layer["b_D"],
    }
    if threshold is not None:
        tensors[f"threshold_{i}"] = threshold
    save_tensors(folder / f"W_enc_{i}.safetensors", tensors)
    rows = {f"W_dec_{i}": layer["W_D"].transpose(0, 1)}
    save_tensors(folder / f"W_dec_{i}.safetensors", rows)
