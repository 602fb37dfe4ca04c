"""Changes of a dictionary's weights that change nothing of what it computes."""

from __future__ import annotations

import copy
from typing import TypeVar, Union

import torch
from torch import Tensor

from attention_studio.core.dictionaries.activation_functions import selection_weight
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.foreign.hooks import InputMap
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder

Dictionary = Union[Transcoder, Lorsa, CrossLayerTranscoder]
SiteDictionary = TypeVar("SiteDictionary", bound=Union[Transcoder, Lorsa])


def rescale_latents(read: Tensor, bias: Tensor, write: Tensor, factor: Tensor) -> None:
    """Multiply activations by ``factor`` and what they write by its inverse, in place.

    A latent with factor 0 (its decoder row is 0) falls silent: it wrote nothing before.

    Args:
        read: encoder rows ``[s, d]``.
        bias: ``[s]``.
        write: decoder rows ``[s, d]``, or ``[n, s, d]`` to several targets.
        factor: ``[s]``, not negative.
    """
    read.mul_(factor.unsqueeze(1))
    bias.mul_(factor)
    inverse = torch.where(factor > 0, 1.0 / factor, torch.zeros_like(factor))
    write.mul_(inverse.unsqueeze(1))


@torch.no_grad()
def read_through(dictionary: Union[Transcoder, Lorsa], through: InputMap) -> None:
    """Let a dictionary that expects ``x·scale + shift`` read ``x``, in place.

    ``(x·scale + shift)·Wᵀ + b = x·(W·scale)ᵀ + (b + W·shift)``, for all that reads the input.
    """
    scale, shift = through.scale, through.shift
    if isinstance(dictionary, Transcoder):
        dictionary.b_E.add_(dictionary.W_E @ shift)
        dictionary.W_E.mul_(scale)
        if dictionary.W_skip is not None:
            dictionary.b_D.add_(shift @ dictionary.W_skip)
            dictionary.W_skip.mul_(scale.unsqueeze(1))
        return
    for weight, bias in ((dictionary.W_Q, dictionary.b_Q), (dictionary.W_K, dictionary.b_K)):
        bias.add_(torch.einsum("d,gdq->gq", shift, weight))
        weight.mul_(scale.unsqueeze(1))
    dictionary.b_V.add_(dictionary.W_V @ shift)
    dictionary.W_V.mul_(scale)


@torch.no_grad()
def read_layer_through(clt: CrossLayerTranscoder, position: int, through: InputMap) -> None:
    """As ``read_through``, for one position of a cross-layer transcoder."""
    clt.b_E[position].add_(clt.W_E[position] @ through.shift)
    clt.W_E[position].mul_(through.scale)


@torch.no_grad()
def plain(dictionary: SiteDictionary) -> SiteDictionary:
    """The dictionary folded, and ranking latents by nothing but their pre-activations.

    Where decoder norms have a say (``norm_aware``), they are taken into the encoder: activations
    come in other units, and outputs stay what they were. A copy, unless it is so already.
    """
    if dictionary.is_folded and not dictionary.config.norm_aware:
        return dictionary
    result = copy.deepcopy(dictionary)
    result.fold()
    if not result.config.norm_aware:
        return result
    weight = selection_weight(result.decoder_norms())
    if isinstance(result, Transcoder):
        rescale_latents(result.W_E, result.b_E, result.W_D, weight)
        result.config = result.config.model_copy(update={"norm_aware": False})
    else:
        rescale_latents(result.W_V, result.b_V, result.W_O, weight)
        result.config = result.config.model_copy(update={"norm_aware": False})
    return result


@torch.no_grad()
def plain_layer(clt: CrossLayerTranscoder, position: int) -> dict[str, Tensor]:
    """``W_E``, ``b_E``, ``W_D`` and ``b_D`` of one position of a cross-layer transcoder, as
    ``plain`` makes a dictionary's. Its decoders may be more than memory holds, so no other
    position's are copied; thresholds stay what they are."""
    names = ("W_E", "b_E", "W_D", "b_D")
    found = {name: clt.tensors(position)[name] for name in names}
    weight = clt.selection_weight(position)
    if weight is None and clt.is_folded:
        return found
    found = {name: tensor.clone() for name, tensor in found.items()}
    found["W_E"].mul_(clt.input_scale[position])
    found["W_D"].div_(clt.output_scale[position:].view(-1, 1, 1))
    found["b_D"].div_(clt.output_scale[position])
    if weight is not None:
        rescale_latents(found["W_E"], found["b_E"], found["W_D"], weight)
    return found
