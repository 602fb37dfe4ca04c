"""Which latents take part in a token's training step, found in low precision where that is fast.

Ranking thousands of pre-activations to keep a few dozen needs no exact values. Where the processor
multiplies bfloat16 by itself, the encoder's product is made in bfloat16, in half to a third of the
time, and only the values of the latents that it ranks first are computed exactly afterwards. What
is lost are near-ties: a latent within a rounding error of the last one selected may be taken in
its place. What a transcoder does when it is *used* stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.activations import cpu_has_bfloat16
from attention_studio.core.dictionaries.activation_functions import (
    batchtopk_entries,
    topk_entries,
)
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.distributed import Peers
from attention_studio.core.micro_steps import slices
from attention_studio.core.training_products import encode, products_at

_NEW_SHARE = 0.01  # of BatchTopK's running threshold, from each chunk


def choose_selection_dtype(
    wanted: str,
    device: torch.device,
    activation: ActivationKind,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> torch.dtype:
    """The type of the encoder's product, from what the processor is and never from timing.

    ``auto``: bfloat16 on CUDA and where the CPU has instructions for it, else float32. ReLU and
    JumpReLU need every value exactly, so for them it is float32 whatever is wanted.
    """
    if activation not in ("topk", "batchtopk") or wanted == "float32":
        return torch.float32
    if wanted == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    fast = device.type == "cpu" and cpu_has_bfloat16(cpuinfo)
    return torch.bfloat16 if fast else torch.float32


class RunningThreshold:
    """BatchTopK's running mean of the least value that a chunk of tokens selects: what makes
    inference independent of which tokens happen to share a batch (Bussmann et al. 2024).

    It goes through the chunks of the whole batch in order. Where some of them are elsewhere, the
    least values of those that are here are kept until all are known (``settle_thresholds``).

    Args:
        value: the running mean, a scalar, updated in place.
        seen: whether it has started, as it does with the first chunk that selects anything.
        in_parts: whether other processes have other parts of the batch.

    Attributes:
        value: as above.
        least: what is kept.
    """

    def __init__(self, value: Tensor, seen: bool, in_parts: bool) -> None:
        self.value = value
        self.least: list[float] = []
        self._seen = seen
        self._in_parts = in_parts

    def meet(self, least: Tensor) -> None:
        """The next chunk that is here has selected no less than this."""
        if self._in_parts:
            self.least.append(float(least))
        else:
            self.take(least)

    def take(self, least: Tensor) -> None:
        """Go on by a chunk."""
        self.value.lerp_(least.to(self.value.dtype), _NEW_SHARE if self._seen else 1.0)
        self._seen = True


def settle_thresholds(thresholds: Sequence[RunningThreshold], peers: Peers) -> None:
    """Take the running means through the chunks of all processes."""
    for everyone in peers.gather([threshold.least for threshold in thresholds]):
        for threshold, found in zip(thresholds, everyone, strict=True):
            for least in found:
                threshold.take(torch.full_like(threshold.value, least))


class Ranking:
    """How TopK and BatchTopK choose among the latents of one encoder. ``prepare`` comes first.

    Args:
        activation: which of them.
        encoder: ``[s, d]``.
        bias: ``[s]``.
        threshold: BatchTopK's.
        low: room for the encoder in the type that latents are ranked in, ``[s, d]``; None: they are
            ranked by exact products.
    """

    def __init__(
        self,
        activation: ActivationKind,
        encoder: Tensor,
        bias: Tensor,
        threshold: Optional[RunningThreshold] = None,
        low: Optional[Tensor] = None,
    ) -> None:
        self._activation = activation
        self._encoder, self._bias = encoder, bias
        self._threshold = threshold
        self._low = low
        self._low_bias = bias
        self._weight: Optional[Tensor] = None

    def prepare(self, weight: Optional[Tensor], row_chunk: int) -> Iterator[None]:
        """Decide what latents are ranked by; yields between micro-steps.

        Args:
            weight: ``[s]`` by which pre-activations are multiplied (``selection_weight``), or None.
            row_chunk: latents per micro-step.
        """
        self._weight = weight
        if self._low is None:
            return
        # What is ranked comes out of the product already weighted.
        bias = self._bias if weight is None else self._bias * weight
        self._low_bias = bias.to(self._low.dtype)
        for r in slices(self._encoder.shape[0], row_chunk):
            rows = self._encoder[r]
            self._low[r] = rows if weight is None else rows * weight[r].unsqueeze(1)
            yield None

    def products(self, x: Tensor, out: Tensor) -> Iterator[None]:
        """What ``choose`` wants of ``x [n, G, d]``, into ``out [n, s]``; see ``encode``."""
        if self._low is None:
            return encode(x, self._encoder, self._bias, out)
        return encode(x, self._low, self._low_bias, out)

    def choose(
        self, products: Tensor, k: int, ascending: bool = False
    ) -> tuple[Tensor, Tensor, Optional[Tensor]]:
        """The latents of a chunk of tokens that take part.

        Args:
            products: ``[n, s]``.
            k: latents per token.
            ascending: whether TopK's latents are to ascend within a token; BatchTopK's always do.

        Returns:
            Tokens (ascending), latents, and values, None if ``products`` are not exact.
        """
        s, exact = products.shape[1], self._low is None
        if self._activation == "topk":
            values: Optional[Tensor] = None
            if exact:
                values, indices = topk_entries(products, k, self._weight)
            else:
                indices = largest_positive(products, min(k, s))
            if ascending:
                indices, order = indices.sort(1)
                values = None if values is None else values.gather(1, order)
            token = torch.arange(products.shape[0], device=products.device)
            token = token.repeat_interleave(indices.shape[1])
            return token, indices.flatten(), None if values is None else values.flatten()
        assert self._threshold is not None  # BatchTopK has one
        keys = products * self._weight if exact and self._weight is not None else products
        flat, key = batchtopk_entries(keys, k, hint=0.8 * float(self._threshold.value))
        if key.numel():
            self._threshold.meet(key.min())
        return flat // s, flat % s, products.view(-1)[flat] if exact else None

    def values(self, offsets: Tensor, latent: Tensor, x: Tensor) -> Tensor:
        """The activations at some places, exactly; see ``products_at``."""
        found = products_at(offsets, latent, x, self._encoder)
        return found.add_(self._bias[latent]).relu_()


def largest_positive(scores: Tensor, k: int) -> Tensor:
    """Columns of the ``k`` largest of each row, ``[n, k]``, order unspecified but reproducible.

    Right for rows with at least ``k`` positive scores; of rows with fewer, all positive ones are
    found, and the remaining places hold any other columns, each at most once.

    Args:
        scores: bfloat16 ``[n, s]``, contiguous, ``s >= k``.
    """
    # The bits of positive floats rank like the integers they spell, and those are faster to rank.
    # All negative floats spell negative integers.
    bits = scores.view(torch.int16)
    n, s = bits.shape
    members = round((s / k) ** 0.5)
    if members < 2:
        return torch.topk(bits, k, dim=1, sorted=False).indices
    # Two levels: the k largest lie in the k groups with the largest maxima. A group's members are
    # ``groups`` columns apart, so that maxima are taken over whole stretches of memory.
    groups = s // members
    body = bits[:, : groups * members].view(n, members, groups)
    best = torch.topk(body.amax(1), k, dim=1, sorted=False).indices
    steps = torch.arange(0, groups * members, groups, device=bits.device)
    candidates = (best.unsqueeze(1) + steps.view(1, members, 1)).flatten(1)
    if groups * members < s:
        rest = torch.arange(groups * members, s, device=bits.device)
        candidates = torch.cat([candidates, rest.expand(n, -1)], 1)
    chosen = torch.topk(bits.gather(1, candidates), k, dim=1, sorted=False).indices
    return candidates.gather(1, chosen)
