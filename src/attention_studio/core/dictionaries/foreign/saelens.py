"""SAELens' folders (decoderesearch/SAELens, from version 6 on): one per dictionary.

    cfg.json                   architecture, d_in, d_sae, d_out, metadata.hook_name and so on
    sae_weights.safetensors    W_enc [d,s], W_dec [s,d], b_enc, b_dec, threshold [s],
                               W_skip [d,d] which multiplies from the left

SAELens has transcoders with ReLU and JumpReLU, with and without a skip connection. Its ``topk``,
``jumprelu`` and ``standard`` autoencoders compute what a transcoder does once ``b_dec`` is not
subtracted from the input; those that predict another hook than they read are such transcoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import torch

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
from attention_studio.core.dictionaries.foreign.hooks import (
    hook_pair,
    our_input_hook,
    our_output_hook,
)
from attention_studio.core.dictionaries.foreign.weights import plain, rescale_latents
from attention_studio.core.dictionaries.foreign.writing import (
    jump_threshold,
    only_transcoders,
    save_json,
    save_tensors,
)
from attention_studio.core.dictionaries.transcoder import (
    Transcoder,
    TranscoderConfig,
    UnfoldedDictionaryError,
)
from attention_studio.core.sites import Site

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"
_FORMAT = "6.0.0"
"""The version since which files look like this; SAELens converts what older ones wrote."""

_JUMPING = {"jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"}
_SKIPPING = {"skip_transcoder", "jumprelu_skip_transcoder"}
_KNOWN = {"standard", "topk", "transcoder", *_JUMPING, *_SKIPPING}


class _Metadata(ToolConfig):
    hook_name: Optional[str] = None
    hook_name_out: Optional[str] = None
    model_name: Optional[str] = None
    sae_lens_version: str


class _Config(ToolConfig):
    architecture: str
    d_in: int
    d_sae: int
    metadata: _Metadata
    d_out: Optional[int] = None
    k: Optional[int] = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    rescale_acts_by_decoder_norm: bool = False


def recognises(folder: Path) -> bool:
    """Whether a folder looks like one of SAELens'."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def open_folder(folder: Path) -> tuple[ForeignDictionary, str]:
    """The dictionary in a folder of SAELens and its model's name; weights are read later.

    Raises:
        ForeignFormatError: it is damaged; names file and field.
        UnsupportedDictionaryError: it cannot be used here; says why.
        UnfoldedDictionaryError: its activations' scale was not folded in.
    """
    path = folder / CONFIG_NAME
    content = read_json_table(path)
    if "metadata" not in content:
        raise UnsupportedDictionaryError(
            f"{path} is of a SAELens before version 6",
            "it has no metadata",
            "Load it with SAELens 6 and save it again",
        )
    config = checked_config(_Config, path, content)
    _check(path, config)
    meta = config.metadata
    if meta.hook_name is None or meta.hook_name_out is None:
        field = "hook_name" if meta.hook_name is None else "hook_name_out"
        raise ForeignFormatError(
            f"{path}: metadata.{field} is missing", "what it stands for cannot be told"
        )
    hooks = hook_pair(path, meta.hook_name, meta.hook_name_out)
    found = ForeignDictionary(
        folder, (hooks,), lambda: config.d_in, lambda: _read(folder / WEIGHTS_NAME, config)
    )
    return found, meta.model_name or ""


def _check(path: Path, config: _Config) -> None:
    def refuse(what: str, why: str = "", todo: str = "") -> UnsupportedDictionaryError:
        return UnsupportedDictionaryError(f"{path}: {what}", why, todo)

    if config.architecture not in _KNOWN:
        raise refuse(
            f"architecture {config.architecture!r} cannot be used here",
            f"known are {', '.join(sorted(_KNOWN))}",
            "Save a training checkpoint for inference with SAELens first",
        )
    if config.architecture == "topk" and config.k is None:
        raise ForeignFormatError(f"{path}: k is missing")
    transcodes = config.architecture.endswith("transcoder")
    if not transcodes and config.metadata.hook_name_out is None:
        raise refuse(
            "it is an autoencoder",
            "it predicts what it reads, and stands for no module of the model",
            "Choose a transcoder",
        )
    if transcodes and config.d_out is None:
        raise ForeignFormatError(f"{path}: d_out is missing")
    if (config.d_out or config.d_in) != config.d_in:
        raise refuse(f"d_in is {config.d_in} and d_out {config.d_out}", "here both are one width")
    if config.normalize_activations == "expected_average_only_in":
        raise UnfoldedDictionaryError(
            f"{path} is not folded",
            "it was trained on scaled activations (normalize_activations), and the scale is not "
            "in the file",
            "Fold it with SAELens (fold_activation_norm_scaling_factor) and save it again",
        )
    if config.normalize_activations != "none":
        raise refuse(
            f"normalize_activations is {config.normalize_activations!r}",
            "activations are divided by another number at every token, which no weights do",
        )
    if config.reshape_activations != "none":
        raise refuse(f"reshape_activations is {config.reshape_activations!r}")


def _read(path: Path, config: _Config) -> Transcoder:
    file = TensorFile(path)
    s, d = file.sizes("b_enc", "b_dec")
    for field, have, told in (("d_sae", s, config.d_sae), ("d_in", d, config.d_in)):
        if have != told:
            raise ForeignFormatError(
                f"{path}: its biases say {field} = {have}, its cfg.json {told}"
            )
    kind = config.architecture
    names = ["W_enc", "W_dec", "b_enc", "b_dec"]
    names += ["threshold"] if kind in _JUMPING else []
    names += ["W_skip"] if kind in _SKIPPING else []
    file.only(names)
    check_memory(path, [file])
    try:
        shape = TranscoderConfig(
            d_model=d,
            d_latent=s,
            activation="jumprelu" if kind in _JUMPING else "topk" if kind == "topk" else "relu",
            k=config.k if kind == "topk" and config.k is not None else 32,
            skip=kind in _SKIPPING,
        )
    except ValueError as error:
        raise ForeignFormatError(f"{path}: k = {config.k} does not fit d_sae = {s}") from error
    transcoder = Transcoder(shape)
    transcoder.W_E.data = file.read("W_enc", (d, s)).t().contiguous()
    transcoder.b_E.data = file.read("b_enc", (s,))
    transcoder.W_D.data = file.read("W_dec", (s, d))
    transcoder.b_D.data = file.read("b_dec", (d,))
    if transcoder.W_skip is not None:
        transcoder.W_skip.data = file.read("W_skip", (d, d)).t().contiguous()
    if transcoder.threshold is not None:
        # SAELens rectifies first: a negative threshold does what 0 does.
        transcoder.threshold.data = file.read("threshold", (s,)).clamp_min(0.0)
    if not kind.endswith("transcoder") and config.apply_b_dec_to_input:
        transcoder.b_E.data -= transcoder.W_E.data @ transcoder.b_D.data
    if kind == "topk" and config.rescale_acts_by_decoder_norm:
        norms = torch.linalg.vector_norm(transcoder.W_D.data, dim=1)
        rescale_latents(transcoder.W_E.data, transcoder.b_E.data, transcoder.W_D.data, norms)
    return transcoder


def write_folder(folder: Path, dictionaries: DictionarySet, model: ModelReference) -> None:
    """Write one folder per dictionary, ``mlp_03`` and so on, as SAELens loads it from disk.

    Args:
        folder: exists and is empty.
        dictionaries: transcoders only.
        model: whose dictionaries they are.

    Raises:
        UnsupportedDictionaryError: SAELens cannot hold one of them; says why.
    """
    only_transcoders("SAELens", dictionaries)
    for layer, transcoder in dictionaries.transcoders.items():
        site = Site(layer, "mlp")
        target = folder / site.name
        target.mkdir()
        _write(target, site, plain(transcoder), model.name)


def _write(folder: Path, site: Site, transcoder: Transcoder, model_name: str) -> None:
    shape = transcoder.config
    tensors = {
        "W_enc": transcoder.W_E.t(),
        "W_dec": transcoder.W_D,
        "b_enc": transcoder.b_E,
        "b_dec": transcoder.b_D,
    }
    config = {
        "d_in": shape.d_model,
        "d_sae": shape.d_latent,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _FORMAT,
            "sae_lens_training_version": None,
            "model_name": model_name,
            "hook_name": our_input_hook(site),
            "hook_name_out": our_output_hook(site),
        },
    }
    if shape.activation == "topk":
        if transcoder.W_skip is not None:
            raise UnsupportedDictionaryError(
                "SAELens has no TopK with a skip connection",
                f"that of {site} is one",
                "Train without the skip connection, or with batchtopk or jumprelu",
            )
        config |= {"architecture": "topk", "k": shape.k, "rescale_acts_by_decoder_norm": False}
    else:
        threshold = jump_threshold("SAELens", transcoder)
        skip = "" if transcoder.W_skip is None else "skip_"
        jump = "" if threshold is None else "jumprelu_"
        config |= {"architecture": f"{jump}{skip}transcoder", "d_out": shape.d_model}
        if threshold is not None:
            tensors["threshold"] = threshold
        if transcoder.W_skip is not None:
            tensors["W_skip"] = transcoder.W_skip.t()
    save_tensors(folder / WEIGHTS_NAME, tensors)
    save_json(folder / CONFIG_NAME, config)
