"""The model as it is run to harvest activations.

One layer's share of a run from text to a dictionary is nearly all forward passes, so what they need
not do is left out of them. Where activations are wanted in another type than the model's, a copy is
run that ends with the last layer that is needed; on the CPU its attention goes sequence by sequence
through batched products, whose scores stay in the cache; and memory that one operation gives back
goes to the next one instead of to the operating system, which would have to clear it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional, cast

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from attention_studio.core.host_memory import reuse_freed_memory
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.sites import Site

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

ATTENTION_NAME = "attention_studio_short_causal"
"""What ``short_causal_attention`` is called in a model's configuration."""

_MOST_SCORES = 1 << 22  # of one sequence, all heads; more would leave a processor's cache


def harvest_adapter(loaded: LoadedModel, dtype: torch.dtype, sites: Iterable[Site]) -> ModelAdapter:
    """The model to harvest ``sites`` with: ``loaded``'s own if it is of ``dtype``, else a copy for
    this alone.

    Raises:
        ModelMemoryError: there is no room for a second set of weights.
        StudioError: the model is spread over several devices.
    """
    reuse_freed_memory()
    own = loaded.adapter
    if own.dtype == dtype:
        return own
    copied = loaded.copy_in(dtype, layers=1 + max(site.layer for site in sites))
    if copied.device.type == "cpu" and copied.model.config._attn_implementation == "sdpa":
        copied.model.set_attn_implementation(ATTENTION_NAME)
    return copied


def short_causal_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Optional[Tensor],
    dropout: float = 0.0,
    scaling: Optional[float] = None,
    is_causal: Optional[bool] = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of whole short sequences, as transformers calls it: ``query [B, H, T, D]``, ``key``
    and ``value [B, H_kv, T, D]`` to ``[B, T, H, D]``.

    Scores are rounded to the inputs' type before the softmax, as in transformers' "eager"
    attention. What is not plainly causal, or too long to gain, goes to PyTorch's fused attention.
    """
    sequences, heads, length, width = query.shape
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None and causal and dropout == 0.0 and key.shape[2] == length
    if not plain or heads * length * length > _MOST_SCORES:
        found = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return cast(tuple[Tensor, None], found)
    scale = width**-0.5 if scaling is None else scaling
    later = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device)
    later = later.triu_(1).expand(heads, length, length)
    out = query.new_empty(sequences, length, heads, width)
    shared = heads // key.shape[1]
    for i in range(sequences):
        keys, values = (t[i].repeat_interleave(shared, 0) for t in (key, value))
        scores = torch.baddbmm(later, query[i], keys.transpose(1, 2), alpha=scale)
        out[i] = torch.bmm(scores.softmax(-1), values).transpose(0, 1)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, short_causal_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
