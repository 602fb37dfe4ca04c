"""Llamascopium's folders (OpenMOSS; formerly Language-Model-SAEs; 2.0): one per dictionary.

    config.json                sae_type (sae, lorsa, clt), d_model, expansion_factor, act_fn, top_k,
                               norm_activation, sparsity_include_decoder_norm, hook points
    sae_weights.safetensors    sae: W_E [d,s], b_E, W_D [s,d], b_D; thresholds as logarithms in
                               activation_function.log_jumprelu_threshold [s]
                               lorsa, clt: see ``llamascopium_lorsa``, ``llamascopium_clt``

What has to be made up for:

- ``norm_activation: dataset-wise``: weights expect inputs of norm √d on average and give outputs of
  that norm. The averages are in the file and are folded in. In files of other kinds the averages
  are memory that nobody wrote to.
- ``sparsity_include_decoder_norm``: pre-activations are multiplied by the decoder's norm before the
  activation function and divided by it afterwards. For JumpReLU that divides the threshold; a TopK
  gets decoder rows of length 1, and activations in units of what they write.
- ``norm_activation: inference`` says that the tool has folded. For ``sae`` and ``lorsa`` it does so
  without touching the thresholds; such files are read as the tool itself reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    TensorFile,
    ToolConfig,
    UnsupportedDictionaryError,
    check_memory,
    checked_config,
    read_json_table,
)
from attention_studio.core.dictionaries.foreign.hooks import our_input_hook, our_output_hook
from attention_studio.core.dictionaries.foreign.weights import rescale_latents
from attention_studio.core.dictionaries.foreign.writing import (
    jump_threshold,
    log_threshold,
    save_json,
    save_tensors,
)
from attention_studio.core.dictionaries.transcoder import (
    Transcoder,
    TranscoderConfig,
    UnfoldedDictionaryError,
)
from attention_studio.core.dictionaries.transcoder_config import MAX_D_LATENT, MAX_D_MODEL
from attention_studio.core.sites import Site

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "sae_weights.safetensors"
THRESHOLD = "activation_function.log_jumprelu_threshold"
AVERAGES = "dataset_average_activation_norm."

Act = Literal["relu", "topk", "jumprelu"]


class CommonConfig(ToolConfig):
    """What all of Llamascopium's dictionaries say, with the tool's own defaults."""

    sae_type: str
    d_model: int
    expansion_factor: float
    use_decoder_bias: bool = True
    act_fn: str = "relu"
    norm_activation: str = "dataset-wise"
    sparsity_include_decoder_norm: bool = True
    top_k: int = 50

    @property
    def d_latent(self) -> int:
        """The number of latents, rounded as the tool rounds."""
        return int(self.d_model * self.expansion_factor)


class _SaeConfig(CommonConfig):
    hook_point_in: str
    hook_point_out: str
    use_glu_encoder: bool = False


class Scales(NamedTuple):
    """What inputs and outputs were multiplied by in training; 1 where they were not."""

    input: float
    output: float


def read_config(folder: Path) -> dict[str, object]:
    """The configuration of a folder, still unchecked but for being a table.

    Raises:
        ForeignFormatError: there is none.
    """
    return read_json_table(folder / CONFIG_NAME)


def check_common(path: Path, config: CommonConfig) -> Act:
    """Check what all kinds share; gives the activation function.

    Raises:
        ForeignFormatError: sizes that cannot be.
        UnsupportedDictionaryError: it cannot be used here; says why.
    """
    factor = config.expansion_factor
    if not 1 <= config.d_model <= MAX_D_MODEL:
        raise ForeignFormatError(f"{path}: d_model is {config.d_model}")
    if not math.isfinite(factor) or not 1 <= config.d_model * factor <= MAX_D_LATENT:
        raise ForeignFormatError(f"{path}: expansion_factor is {factor}")
    if config.norm_activation not in ("dataset-wise", "inference"):
        raise UnsupportedDictionaryError(
            f"{path}: norm_activation is {config.norm_activation!r}",
            "inputs are divided by another number at every token or batch, which no weights do",
            "Choose one that was trained with dataset-wise",
        )
    act = config.act_fn
    if act == "topk" and not 1 <= config.top_k <= config.d_latent:
        raise ForeignFormatError(f"{path}: top_k is {config.top_k}, of {config.d_latent} latents")
    for known in ("relu", "topk", "jumprelu"):
        if act == known:
            return known
    raise UnsupportedDictionaryError(
        f"{path}: act_fn {act!r} cannot be used here",
        "which latents are active depends on other tokens or layers, and no threshold is saved",
        "Convert it with Llamascopium (topk_to_jumprelu_conversion)",
    )


def scales(file: TensorFile, config: CommonConfig, hook_in: str, hook_out: str) -> Scales:
    """The training scales of a hook pair: √d over the average norm of its activations.

    Raises:
        UnfoldedDictionaryError: they are needed, and an average is missing or makes no sense.
    """
    if config.norm_activation == "inference":
        return Scales(1.0, 1.0)
    found = []
    for hook in (hook_in, hook_out):
        name = f"{AVERAGES}{hook}"
        average = file.scalar(name) if name in file else 0.0
        if average <= 0.0:
            raise UnfoldedDictionaryError(
                f"{file.path} is not folded",
                f"it expects scaled activations (norm_activation is dataset-wise), and {name}, "
                f"which says how, is {'missing' if name not in file else average}",
                "Save it again with Llamascopium",
            )
        found.append(math.sqrt(config.d_model) / average)
    return Scales(*found)


def gate_by_norm(
    act: Act,
    read: Tensor,
    bias: Tensor,
    write: Tensor,
    threshold: Optional[Tensor],
    norms: Tensor,
) -> None:
    """Take into the weights, in place, that pre-activations are gated by decoder norm.

    ``f(z̃·n)/n`` with ``n`` the norm of a latent's decoder: for ReLU that is ``f(z̃)``; JumpReLU's
    threshold becomes θ/n; TopK gets decoder rows of length 1 and pre-activations ``z̃·n``.

    Args:
        act: activation function.
        read: encoder rows ``[s, d]``.
        bias: ``[s]``.
        write: decoder rows ``[s, d]`` or ``[n, s, d]``.
        threshold: ``[s]`` for JumpReLU.
        norms: ``[s]``, as training saw them.
    """
    if act == "topk":
        rescale_latents(read, bias, write, norms)
    elif threshold is not None:
        silent = norms == 0
        rescale_latents(read, bias, write, (~silent).to(read.dtype))
        threshold.div_(torch.where(silent, torch.ones_like(norms), norms))


def read_sae(path: Path, config: _SaeConfig, act: Act) -> Transcoder:
    """The weights of an ``sae``, folded.

    Raises:
        ForeignFormatError: names file and tensor.
        UnsupportedDictionaryError: it is larger than memory.
        UnfoldedDictionaryError: an average norm is missing.
    """
    file = TensorFile(path)
    s, d = config.d_latent, config.d_model
    names = ["W_E", "b_E", "W_D"]
    names += ["b_D"] if config.use_decoder_bias else []
    names += [THRESHOLD] if act == "jumprelu" else []
    file.only(names, ignored=[AVERAGES])
    # Before room is made for what the configuration says.
    file.expect("W_E", (d, s))
    check_memory(path, [file])
    k = config.top_k if act == "topk" else 32
    transcoder = Transcoder(TranscoderConfig(d_model=d, d_latent=s, activation=act, k=k))
    transcoder.W_E.data = file.read("W_E", (d, s)).t().contiguous()
    transcoder.b_E.data = file.read("b_E", (s,))
    transcoder.W_D.data = file.read("W_D", (s, d))
    if config.use_decoder_bias:
        transcoder.b_D.data = file.read("b_D", (d,))
    threshold = None
    if isinstance(transcoder.threshold, Tensor):
        threshold = transcoder.threshold.data = read_threshold(file, (s,))
    if config.sparsity_include_decoder_norm:
        write = transcoder.W_D.data
        norms = torch.linalg.vector_norm(write, dim=1)
        gate_by_norm(act, transcoder.W_E.data, transcoder.b_E.data, write, threshold, norms)
    scale = scales(file, config, config.hook_point_in, config.hook_point_out)
    transcoder.input_scale.fill_(scale.input)
    transcoder.output_scale.fill_(scale.output)
    transcoder.fold()
    return transcoder


def read_threshold(file: TensorFile, shape: tuple[int, ...]) -> Tensor:
    """Thresholds from their logarithms (−∞ is 0).

    Raises:
        ForeignFormatError: one is not finite.
    """
    threshold = file.read(THRESHOLD, shape, finite=False).exp()
    if not bool(threshold.isfinite().all()):
        raise ForeignFormatError(f"{file.path}: {THRESHOLD} holds values that are not finite")
    return threshold


def sae_config(path: Path, content: Mapping[str, object]) -> _SaeConfig:
    """The configuration of an ``sae``, checked.

    Raises:
        ForeignFormatError: names the field.
        UnsupportedDictionaryError: its encoder has a gate.
    """
    config = checked_config(_SaeConfig, path, dict(content))
    if config.use_glu_encoder:
        raise UnsupportedDictionaryError(
            f"{path}: its encoder has a gate (use_glu_encoder)",
            "the gate makes pre-activations quadratic in the input, and edges need them linear",
            "Choose one that was trained without",
        )
    return config


def expansion_factor(d_model: int, d_latent: int) -> float:
    """A factor that the tool's rounding turns into ``d_latent``."""
    factor = d_latent / d_model
    return factor if int(d_model * factor) == d_latent else math.nextafter(factor, math.inf)


def common_settings(kind: str, d_model: int, d_latent: int, act: str, k: int) -> dict[str, object]:
    """What every configuration that is written starts with: folded, and gated by nothing."""
    return {
        "sae_type": kind,
        "d_model": d_model,
        "expansion_factor": expansion_factor(d_model, d_latent),
        "use_decoder_bias": True,
        "act_fn": act,
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": False,
        "top_k": k,
    }


def write_sae(folder: Path, site: Site, transcoder: Transcoder) -> None:
    """Write a transcoder that is folded and plain.

    Raises:
        UnsupportedDictionaryError: it has a skip connection.
    """
    if transcoder.W_skip is not None:
        raise UnsupportedDictionaryError(
            "Llamascopium has no skip connections", f"that of {site} has one", "Train without"
        )
    shape = transcoder.config
    topk = shape.activation == "topk"
    threshold = None if topk else jump_threshold("Llamascopium", transcoder)
    tensors = {
        "W_E": transcoder.W_E.t(),
        "b_E": transcoder.b_E,
        "W_D": transcoder.W_D,
        "b_D": transcoder.b_D,
    }
    if threshold is not None:
        tensors[THRESHOLD] = log_threshold(threshold)
    act = "topk" if topk else "relu" if threshold is None else "jumprelu"
    config = common_settings("sae", shape.d_model, shape.d_latent, act, shape.k)
    config |= {
        "hook_point_in": our_input_hook(site),
        "hook_point_out": our_output_hook(site),
        "use_glu_encoder": False,
    }
    save_tensors(folder / WEIGHTS_NAME, tensors)
    save_json(folder / CONFIG_NAME, config)
