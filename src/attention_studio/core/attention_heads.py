"""Where all heads look on a prompt: the model's own, and those of the Lorsas that stand in.

Patterns come from one recorded pass; a Lorsa's are worked out on what its attention reads there.
What the patterns say of each head is in ``core.head_metrics``. One figure needs a pass of its own:
whether a head completes what it has seen before shows best on random tokens said twice, where
nothing but repetition helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy as np
import torch

from attention_studio.core.active_features import N_LEFT_OUT, latents_at
from attention_studio.core.attention_records import (
    AttentionView,
    Floats,
    LorsaHeads,
    thumbnails_of,
)
from attention_studio.core.head_metrics import head_metrics, repeated_share
from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.loaded_model import PromptTooLongError, free_bytes
from attention_studio.core.model_adapter import ForwardRecord, ModelAdapter
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

MOST_FEATURES = 200
"""Latents of each Lorsa that are kept with where they look."""
PROBE_HALF = 24
"""Random tokens that are said twice, at most."""
_FIGURES = 16
"""Bytes per pair of positions that the figures of a head take while they are worked out."""


def view_attention(
    loaded: LoadedModel,
    prompt: str,
    crm: Optional[CompleteReplacementModel] = None,
    ctx: Optional[WorkContext] = None,
) -> AttentionView:
    """Where every head looks on a prompt.

    Args:
        loaded: the model.
        prompt: the text; a start token is put before it.
        crm: of the same model; its Lorsas are shown beside the model's heads.
        ctx: progress and cancel.

    Raises:
        EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``; also where there is no
            room for the patterns.
    """
    ctx = WorkContext() if ctx is None else ctx
    ids = loaded.encode(prompt)
    # Lorsas read what the model in their own type computes.
    adapter = loaded.adapter if crm is None else crm.adapter
    _check_memory(adapter, crm, len(ids))
    ctx.progress(0, None, "Running the model")
    record = adapter.record(ids)
    patterns = _numpy(record.patterns)
    metrics = head_metrics(patterns, ids)
    ctx.check()
    ctx.progress(0, None, "Running the model on random tokens")
    metrics["induction_probe"] = induction_probe(loaded)
    lorsas: dict[int, LorsaHeads] = {}
    if crm is not None:
        layers = sorted(crm.dictionaries.lorsas)
        for done, layer in enumerate(layers):
            ctx.check()
            ctx.progress(done, len(layers), f"Looking at the Lorsa of layer {layer}")
            lorsas[layer] = _lorsa_heads(crm, record, layer, ids)
    ctx.check()
    return AttentionView(
        model=loaded.info.name,
        weights_hash=loaded.info.weights_hash,
        crm=crm.dictionaries_id if crm is not None and lorsas else None,
        prompt=prompt,
        token_ids=tuple(ids),
        tokens=tuple(loaded.token_strings(ids)),
        patterns=patterns,
        metrics=metrics,
        lorsas=lorsas,
        thumbnails=thumbnails_of(patterns),
        lorsa_thumbnails={i: thumbnails_of(lorsa.patterns) for i, lorsa in lorsas.items()},
    )


def induction_probe(loaded: LoadedModel, seed: int = 0) -> Floats:
    """Induction of every head on random tokens said twice, [L, H] float32, see
    ``head_metrics.repeated_share``. The same seed gives the same tokens."""
    adapter = loaded.adapter
    half = min(PROBE_HALF, (adapter.context_length - 1) // 2)
    special = set(loaded.tokenizer.all_special_ids)
    usual = [i for i in range(min(adapter.vocab_size, len(loaded.tokenizer))) if i not in special]
    drawn = np.random.default_rng(seed).choice(usual, half, replace=len(usual) < half)
    start = loaded.start_token_id
    first = int(drawn[-1]) if start is None else start
    record = adapter.record([first, *drawn.tolist(), *drawn.tolist()])
    return repeated_share(_numpy(record.patterns), half)


@torch.no_grad()
def _lorsa_heads(
    crm: CompleteReplacementModel, record: ForwardRecord, layer: int, ids: list[int]
) -> LorsaHeads:
    lorsa, adapter = crm.dictionaries.lorsas[layer], crm.adapter
    found, pattern = latents_at(adapter, crm.dictionaries, record, Site(layer, "attention"))
    assert pattern is not None  # a Lorsa has one
    active, place = torch.unique(found.latent, return_inverse=True)
    dense = record.resid_pre.new_zeros(len(active), len(ids), dtype=torch.float32)
    dense[place, found.token + N_LEFT_OUT] = found.value.float()
    order = dense.amax(1).argsort(descending=True, stable=True)[:MOST_FEATURES]
    kept = active[order]
    norm = adapter.attention_norm(layer)
    inputs = norm.apply(record.resid_pre[layer], record.attention_scale[layer])
    values = (inputs * lorsa.input_scale) @ lorsa.W_V[kept].T + lorsa.b_V[kept]
    patterns = _numpy(pattern)
    return LorsaHeads(
        layer=layer,
        patterns=patterns,
        group_size=lorsa.config.group_size,
        latents=kept.cpu().numpy(),
        n_active=len(active),
        activations=_numpy(dense[order]),
        values=_numpy(values.T),
        metrics=head_metrics(patterns, ids),
    )


def _numpy(tensor: torch.Tensor) -> Floats:
    # Moved first: the device may have no room for it in float32.
    array: Floats = tensor.cpu().float().contiguous().numpy()
    return array


def _check_memory(
    adapter: ModelAdapter, crm: Optional[CompleteReplacementModel], n_tokens: int
) -> None:
    """Room for the recorded pass where the model is, twice while it is stacked, and for the
    patterns as they are shown, which are main memory's.

    Raises:
        PromptTooLongError: there is too little of one of the two.
    """
    size, square = adapter.dtype.itemsize, n_tokens**2
    pattern = adapter.n_layers * adapter.n_heads * square
    stream = adapter.n_layers * n_tokens * adapter.d_model
    there = size * (2 * (6 * stream + pattern) + n_tokens * adapter.vocab_size)
    # Moved as they are, and made float32; figures are worked out one head at a time.
    here = (size + 4) * pattern + _FIGURES * square
    if crm is not None:
        lorsas = [lorsa.config for lorsa in crm.dictionaries.lorsas.values()]
        latents = [
            3 * square * config.n_qk_heads + 3 * n_tokens * config.d_latent for config in lorsas
        ]
        there += size * max(latents, default=0)
        here += 4 * square * sum(config.n_qk_heads for config in lorsas)
    if adapter.device.type == "cuda":
        rooms = [
            (there, free_bytes(adapter.device), f" on {adapter.device}"),
            (here, available_ram(), " of main memory"),
        ]
    else:
        # Patterns in float32 are shown where they were computed.
        shared = 2 * size * pattern if adapter.dtype == torch.float32 else 0
        rooms = [(there + here - shared, free_bytes(adapter.device), "")]
    for needed, free, where in rooms:
        if needed > free:
            raise PromptTooLongError(
                f"The prompt has {n_tokens:,} tokens",
                f"the patterns of all heads on them take about {needed / GIB:.1f} GiB{where} and "
                f"{free / GIB:.1f} GiB are free",
                "Shorten it or close other programs",
            )
