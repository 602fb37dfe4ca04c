"""Where in the model another tool's dictionary reads and writes.

Ours read a module's input after its norm, gain and bias applied, and predict what the module adds
to the residual stream (``model_adapter.HOOK_CONVENTION``). TransformerLens, whose names most tools
use, knows more places:

- ``mlp.hook_in``, ``attn.hook_in``: ours.
- ``ln2.hook_normalized``, ``ln1.hook_normalized``: in an RMSNorm before the gain. In a LayerNorm
  after gain and bias up to TransformerLens 2, before both from 3 on. A file does not say which.
- ``hook_resid_mid``, ``hook_resid_pre``, ``hook_mlp_in``, ``hook_attn_in``: before the norm, which
  divides by something else at every token. No weights make up for that. (In the bridge of
  TransformerLens 3, ``hook_mlp_in`` is after it. A file does not say which it was.)
- ``hook_mlp_out``, ``hook_attn_out``: what the module adds, ours. ``mlp.hook_out``,
  ``attn.hook_out``: before Gemma's post norm, which divides too; elsewhere the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.foreign.checked import (
    ForeignFormatError,
    UnsupportedDictionaryError,
)
from attention_studio.core.linear_parts import FrozenNorm
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_families import has_post_norm
from attention_studio.core.sites import Site, SiteKind

NormalizedHook = Literal["before gain", "after gain"]
"""What ``hook_normalized`` meant in the model that a dictionary was trained on."""

_BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]{0,3})\.(.+)")
_MODULE = re.compile(r"(?:[a-z_]+\.)?(?:layers|h)\.(0|[1-9][0-9]{0,3})\.mlp")

_INPUTS: dict[str, tuple[SiteKind, Literal["normed", "normalized"]]] = {
    "mlp.hook_in": ("mlp", "normed"),
    "ln2.hook_normalized": ("mlp", "normalized"),
    "attn.hook_in": ("attention", "normed"),
    "ln1.hook_normalized": ("attention", "normalized"),
}
_OUTPUTS: dict[str, tuple[SiteKind, Literal["written", "module"]]] = {
    "hook_mlp_out": ("mlp", "written"),
    "mlp.hook_out": ("mlp", "module"),
    "hook_attn_out": ("attention", "written"),
    "attn.hook_out": ("attention", "module"),
}
_BEFORE_NORM = {"hook_resid_mid", "hook_resid_pre", "hook_mlp_in", "hook_attn_in"}


class HookPair(NamedTuple):
    """Where one dictionary (or one layer of a cross-layer one) reads and writes."""

    site: Site
    reads: Literal["normed", "normalized"]
    writes: Literal["written", "module"]
    input_name: str
    output_name: str


def our_input_hook(site: Site) -> str:
    """TransformerLens' name for what our dictionaries read."""
    return f"blocks.{site.layer}.{'mlp' if site.kind == 'mlp' else 'attn'}.hook_in"


def our_output_hook(site: Site) -> str:
    """TransformerLens' name for what our dictionaries predict."""
    return f"blocks.{site.layer}.hook_{'mlp' if site.kind == 'mlp' else 'attn'}_out"


def hook_pair(path: Path, input_name: str, output_name: str) -> HookPair:
    """Understand two names with their layers, ``blocks.3.mlp.hook_in`` and the like.

    Args:
        path: the file that names them, for the error.
        input_name, output_name: as the tool writes them.

    Raises:
        ForeignFormatError: a name names no layer, or the two name different ones.
        UnsupportedDictionaryError: a dictionary there cannot be used here; says why.
    """
    layers, names = [], []
    for name in (input_name, output_name):
        match = _BLOCK.fullmatch(name)
        if match is None:
            raise ForeignFormatError(
                f"{path}: hook {name!r} names no layer", "blocks.N.NAME is expected"
            )
        layers.append(int(match[1]))
        names.append(match[2])
    if layers[0] != layers[1]:
        raise UnsupportedDictionaryError(
            f"{path}: it reads layer {layers[0]} and writes to layer {layers[1]}",
            "here a dictionary stands for one module",
        )
    if input_name == output_name:
        raise UnsupportedDictionaryError(
            f"{path}: it reads and predicts {input_name}",
            "that is an autoencoder, and no stand-in for a module of the model",
            "Choose a transcoder",
        )
    for name, known in zip(names, (list(_INPUTS), list(_OUTPUTS)), strict=True):
        if name in _BEFORE_NORM:
            raise UnsupportedDictionaryError(
                f"{path}: it reads {name}, the residual stream before the norm",
                "the norm divides by another number at every token, so that no change of weights "
                "lets it read what comes after",
                "Choose one that was trained after the norm",
            )
        if name not in known:
            raise UnsupportedDictionaryError(
                f"{path}: hook {name!r} is not one that dictionaries here can use",
                f"known are {', '.join(known)}",
            )
    (kind, reads), (other_kind, writes) = _INPUTS[names[0]], _OUTPUTS[names[1]]
    if kind != other_kind:
        raise UnsupportedDictionaryError(
            f"{path}: it reads {input_name} and predicts {output_name}",
            "those are two modules, and here a dictionary stands for one",
        )
    return HookPair(Site(layers[0], kind), reads, writes, input_name, output_name)


def module_pair(path: Path, name: str) -> HookPair:
    """Understand the name of an MLP as transformers has it, ``layers.3.mlp``: its input and output.

    Raises:
        UnsupportedDictionaryError: it is the name of something else.
    """
    match = _MODULE.fullmatch(name)
    if match is None:
        raise UnsupportedDictionaryError(
            f"{path}: {name!r} is the name of no MLP",
            "layers.N.mlp is expected (h.N.mlp in GPT-2)",
            "Choose a transcoder of an MLP, in a folder that bears the MLP's name",
        )
    return HookPair(Site(int(match[1]), "mlp"), "normed", "module", name, name)


@dataclass(frozen=True)
class InputMap:
    """From our inputs x to the tool's: ``x·scale + shift``, both ``[d]``."""

    scale: Tensor
    shift: Tensor


def input_map(
    path: Path,
    hooks: HookPair,
    adapter: Optional[ModelAdapter],
    normalized: Optional[NormalizedHook],
) -> Optional[InputMap]:
    """How what we read becomes what the tool's dictionary read; None where it is the same.

    Args:
        path: the dictionary's file, for errors.
        hooks: where it reads and writes.
        adapter: the model; without it nothing can be converted.
        normalized: what ``hook_normalized`` meant in a model with LayerNorms.

    Raises:
        UnsupportedDictionaryError: it cannot be converted, or not without being told more.
    """
    before_post_norm = adapter is not None and has_post_norm(adapter.family, hooks.site.kind)
    if hooks.writes == "module" and adapter is not None and before_post_norm:
        raise UnsupportedDictionaryError(
            f"{path}: it predicts {hooks.output_name}",
            f"in {adapter.family} a norm follows before the residual stream, and divides by "
            "another number at every token",
            "Choose one that was trained on what comes after that norm",
        )
    if hooks.reads == "normed":
        return None
    if adapter is None:
        raise UnsupportedDictionaryError(
            f"{path}: it reads {hooks.input_name}",
            "that may be before the norm's gain, which only the model can tell",
            "Load the model first",
        )
    layer = hooks.site.layer
    norm = adapter.mlp_norm(layer) if hooks.site.kind == "mlp" else adapter.attention_norm(layer)
    if norm.centred and normalized is None:
        raise UnsupportedDictionaryError(
            f"{path}: it reads {hooks.input_name}",
            "in a LayerNorm that is after gain and bias up to TransformerLens 2 and before both "
            "from 3 on, and the file does not say which made it",
            "Say whether it was trained before or after the gain",
        )
    if norm.centred and normalized == "after gain":
        return None
    return _before_gain(path, norm)


def _before_gain(path: Path, norm: FrozenNorm) -> InputMap:
    gain = norm.gain.detach().to("cpu", torch.float32)
    if bool((gain.abs() <= 1e-8 * gain.abs().max()).any()):
        raise UnsupportedDictionaryError(
            f"{path}: it reads the norm's output before the gain",
            "the gain is zero somewhere, so that what it reads is lost after it",
        )
    bias = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().to("cpu", gain.dtype)
    return InputMap(1.0 / gain, -bias / gain)
