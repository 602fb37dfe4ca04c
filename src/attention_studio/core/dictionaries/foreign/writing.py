"""What the writers of other tools' files share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as they are, each in its own contiguous memory on the CPU."""
    copies = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(copies, path)


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def only_transcoders(tool: str, dictionaries: DictionarySet) -> None:
    """Check that there is nothing but per-layer transcoders.

    Raises:
        UnsupportedDictionaryError: there is; says what.
    """
    others = ["attention"] if dictionaries.lorsas else []
    others += ["cross-layer transcoders"] if dictionaries.clt is not None else []
    if others:
        raise UnsupportedDictionaryError(
            f"{tool} has no place for {' and '.join(others)}",
            "it holds per-layer transcoders",
            "Leave the others out" if dictionaries.transcoders else "",
        )


def jump_threshold(tool: str, dictionary: Union[Transcoder, Lorsa]) -> Optional[Tensor]:
    """``[s]``, the thresholds of the JumpReLU that does what the dictionary does; None for ReLU.

    Raises:
        UnsupportedDictionaryError: it is a TopK.
    """
    _refuse_topk(tool, dictionary)
    if dictionary.threshold is None:
        return None
    return dictionary.threshold.expand(dictionary.config.d_latent).clone()


def jump_thresholds(tool: str, clt: CrossLayerTranscoder) -> Optional[list[Tensor]]:
    """As ``jump_threshold``, for each position of a cross-layer transcoder.

    Raises:
        UnsupportedDictionaryError: it is a TopK.
    """
    _refuse_topk(tool, clt)
    threshold = clt.threshold
    if threshold is None:
        return None
    s = clt.config.d_latent
    return [threshold[i].detach().expand(s).clone() for i in range(len(clt.config.layers))]


def log_threshold(threshold: Tensor) -> Tensor:
    """``ln threshold``. A threshold of 0 becomes the smallest number, whose logarithm is finite."""
    return threshold.clamp_min(torch.finfo(threshold.dtype).tiny).log()


def _refuse_topk(tool: str, dictionary: Union[Transcoder, Lorsa, CrossLayerTranscoder]) -> None:
    if dictionary.config.activation == "topk":
        raise UnsupportedDictionaryError(
            f"{tool} has no TopK for such dictionaries",
            "it knows ReLU and JumpReLU, which look at one latent at a time",
            "Train with batchtopk (its threshold makes it a JumpReLU) or with jumprelu",
        )
