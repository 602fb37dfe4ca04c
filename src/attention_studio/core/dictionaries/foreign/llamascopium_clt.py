"""Cross-layer transcoders of Llamascopium: ``sae_type: clt`` (see ``llamascopium``).

    W_E [n, d, s]   b_E [n, s]   activation_function.log_jumprelu_threshold [n, s]
    W_D.3 [4, s, d]              the decoders of layers 0 … 3 to layer 3
    b_D.3 [d]

Decoders are kept by the layer that they write to; ours by the one that writes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.clt_config import MAX_LAYERS
from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    TensorFile,
    UnsupportedDictionaryError,
    check_memory,
    checked_config,
)
from attention_studio.core.dictionaries.foreign.hooks import (
    HookPair,
    hook_pair,
    our_input_hook,
    our_output_hook,
)
from attention_studio.core.dictionaries.foreign.llamascopium import (
    AVERAGES,
    CONFIG_NAME,
    THRESHOLD,
    WEIGHTS_NAME,
    Act,
    CommonConfig,
    common_settings,
    gate_by_norm,
    read_threshold,
    scales,
)
from attention_studio.core.dictionaries.foreign.weights import plain_layer
from attention_studio.core.dictionaries.foreign.writing import (
    jump_thresholds,
    log_threshold,
    save_json,
    save_tensors,
)
from attention_studio.core.sites import Site


class _CltConfig(CommonConfig):
    hook_points_in: list[str]
    hook_points_out: list[str]


def clt_config(path: Path, content: dict[str, object]) -> tuple[_CltConfig, tuple[HookPair, ...]]:
    """The configuration of a ``clt``, checked, and where each of its layers reads and writes.

    Raises:
        ForeignFormatError: names the field.
        UnsupportedDictionaryError: its hooks cannot be used here.
    """
    config = checked_config(_CltConfig, path, content)
    n = len(config.hook_points_in)
    if n != len(config.hook_points_out) or not 1 <= n <= MAX_LAYERS:
        raise ForeignFormatError(
            f"{path}: hook_points_in names {n} places and hook_points_out "
            f"{len(config.hook_points_out)}"
        )
    pairs = zip(config.hook_points_in, config.hook_points_out, strict=True)
    hooks = tuple(hook_pair(path, *pair) for pair in pairs)
    layers = [hook.site.layer for hook in hooks]
    if layers != sorted(set(layers)):
        raise ForeignFormatError(f"{path}: the layers of hook_points_in do not ascend")
    if any(hook.site.kind != "mlp" for hook in hooks):
        raise UnsupportedDictionaryError(
            f"{path}: it stands for attention", "here cross-layer transcoders stand for MLPs"
        )
    return config, hooks


def read_clt(
    path: Path, config: _CltConfig, hooks: tuple[HookPair, ...], act: Act
) -> CrossLayerTranscoder:
    """The weights of a ``clt``, folded.

    Raises:
        ForeignFormatError: names file and tensor.
        UnsupportedDictionaryError: it is larger than memory.
        UnfoldedDictionaryError: an average norm is missing.
    """
    file = TensorFile(path)
    n, s, d = len(hooks), config.d_latent, config.d_model
    names = ["W_E", "b_E", *(f"W_D.{j}" for j in range(n))]
    names += [f"b_D.{j}" for j in range(n)] if config.use_decoder_bias else []
    names += [THRESHOLD] if act == "jumprelu" else []
    file.only(names, ignored=[AVERAGES])
    # Before room is made for what the configuration says.
    file.expect("W_E", (n, d, s))
    for j in range(n):
        file.expect(f"W_D.{j}", (j + 1, s, d))
    check_memory(path, [file])
    shape = CrossLayerTranscoderConfig(
        d_model=d,
        layers=tuple(hook.site.layer for hook in hooks),
        d_latent=s,
        activation=act,
        k=config.top_k if act == "topk" else 32,
    )
    clt = CrossLayerTranscoder(shape)
    encoders, biases = file.read("W_E", (n, d, s)), file.read("b_E", (n, s))
    for j in range(n):
        to_layer = file.read(f"W_D.{j}", (j + 1, s, d))
        for i in range(j + 1):
            clt.W_D[i].data[j - i] = to_layer[i]
        if config.use_decoder_bias:
            clt.b_D[j].data = file.read(f"b_D.{j}", (d,))
    thresholds = read_threshold(file, (n, s)) if act == "jumprelu" else None
    for i in range(n):
        clt.W_E[i].data = encoders[i].t().contiguous()
        clt.b_E[i].data = biases[i].clone()
        threshold = None if thresholds is None else thresholds[i].clone()
        if config.sparsity_include_decoder_norm:
            tensors = clt.tensors(i)
            norms = clt.decoder_norms(i)
            gate_by_norm(act, tensors["W_E"], tensors["b_E"], tensors["W_D"], threshold, norms)
        if clt.threshold is not None and threshold is not None:
            clt.threshold[i].data = threshold
        pair = scales(file, config, config.hook_points_in[i], config.hook_points_out[i])
        clt.input_scale[i], clt.output_scale[i] = pair
    clt.fold()
    return clt


def write_clt(folder: Path, clt: CrossLayerTranscoder) -> None:
    """Write a cross-layer transcoder."""
    shape = clt.config
    n, topk = len(shape.layers), shape.activation == "topk"
    thresholds = None if topk else jump_thresholds("Llamascopium", clt)
    tensors: dict[str, Tensor] = {
        "W_E": torch.empty(n, shape.d_model, shape.d_latent),
        "b_E": torch.empty(n, shape.d_latent),
    }
    for j in range(n):
        tensors[f"W_D.{j}"] = torch.empty(j + 1, shape.d_latent, shape.d_model)
    # One file has it all, so all is in memory once, but for this no more than a layer.
    for i in range(n):
        layer = plain_layer(clt, i)
        tensors["W_E"][i] = layer["W_E"].t()
        tensors["b_E"][i] = layer["b_E"]
        for t, decoder in enumerate(layer["W_D"]):
            tensors[f"W_D.{i + t}"][i] = decoder
        tensors[f"b_D.{i}"] = layer["b_D"]
    if thresholds is not None:
        tensors[THRESHOLD] = log_threshold(torch.stack(thresholds))
    act = "topk" if topk else "relu" if thresholds is None else "jumprelu"
    config = common_settings("clt", shape.d_model, shape.d_latent, act, shape.k)
    sites = [Site(layer, "mlp") for layer in shape.layers]
    config |= {
        "hook_points_in": [our_input_hook(site) for site in sites],
        "hook_points_out": [our_output_hook(site) for site in sites],
    }
    save_tensors(folder / WEIGHTS_NAME, tensors)
    save_json(folder / CONFIG_NAME, config)
