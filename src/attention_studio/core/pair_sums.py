"""Where the sums of pairs of latents are kept while a text is read: all of them, or the largest.

``AllPairs`` has a place for every pair. Where memory has no room for that, ``LargestPairs`` keeps a
list for each target, by the weighted SpaceSaving rule (Metwally et al. 2005, *Efficient Computation
of Frequent and Top-k Elements in Data Streams*) applied to whole chunks of text:

- A pair's *upper* is ``|V| · weighted`` since it was listed, plus the target's slack at that time.
- After a chunk all pairs that are listed or that met in it compete by their uppers; the largest
  stay. The slack becomes the largest upper that was turned away, if that is more.

So what a pair lacks, or a pair that is not listed has, is never more than the target's slack. No
upper of a listed pair is below the slack, and uppers never sum to more than all that was seen:
a new pair's upper holds the old slack, which is not more than the upper of the pair that it drives
out. Hence the slack is at most the sum of ``|V| · weighted`` over all sources, divided by the
number of places. Pairs that are *followed*, the largest virtual weights, never leave and are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attention_studio.core.global_weights import LatentTable

TOTAL, WEIGHTED, COUNT = range(3)
"""The three sums of a pair, in the order in which arrays hold them."""
_PLACE_BYTES = 4 * 6

Weights = Callable[[], Tensor]


@dataclass(frozen=True)
class TargetPairs:
    """The pairs of one block of targets, in order of target, then source.

    Attributes:
        lengths: int64 [targets], pairs of each.
        source: int64 [m]; virtual: [m]; sums: [3, m]; followed: bool [m].
        slack: [targets].
    """

    lengths: Tensor
    source: Tensor
    virtual: Tensor
    sums: Tensor
    followed: Tensor
    slack: Tensor


class PairSums(Protocol):
    """What both ways of keeping sums do. A block of targets is (site's place, its columns)."""

    def add(self, k: int, columns: slice, sums: Tensor, weights: Weights) -> None:
        """Add the sums [3, n_sources, m] of a chunk; ``weights`` gives the block's virtual ones."""

    def pairs(self, k: int, columns: slice, weights: Tensor) -> TargetPairs:
        """What is listed of a block, whose virtual weights are ``weights`` [n_sources, m]."""

    def state(self) -> dict[str, Tensor]:
        """Everything that goes on from a stop, by name: the tensors themselves."""


def all_pairs_bytes(table: LatentTable) -> int:
    """What ``AllPairs`` takes."""
    sizes = [table.of_site(site) for site in table.sites]
    pairs = (
        table.n_sources(site) * (here.stop - here.start)
        for site, here in zip(table.sites, sizes, strict=True)
    )
    return 12 * int(sum(pairs))


def places_within(table: LatentTable, n_bytes: int) -> int:
    """How many sources of each target ``LargestPairs`` may keep within so many bytes."""
    return n_bytes // (_PLACE_BYTES * max(len(table), 1))


class AllPairs:
    """The sums of every pair, exactly (to float32's rounding, once for each chunk).

    Args:
        table: how latents are numbered.
        strongest: of each target, so many largest virtual weights are listed though they never met.
        device: where the sums are.
    """

    def __init__(self, table: LatentTable, strongest: int, device: torch.device) -> None:
        self._strongest = strongest
        self._sums = []
        for site in table.sites:
            here = table.of_site(site)
            shape = (3, table.n_sources(site), here.stop - here.start)
            self._sums.append(torch.zeros(shape, device=device))

    def add(self, k: int, columns: slice, sums: Tensor, weights: Weights) -> None:
        """See ``PairSums``."""
        self._sums[k][:, :, columns] += sums

    def pairs(self, k: int, columns: slice, weights: Tensor) -> TargetPairs:
        """See ``PairSums``."""
        sums = self._sums[k][:, :, columns]
        followed = torch.zeros_like(weights, dtype=torch.bool)
        followed.scatter_(0, _largest(weights, self._strongest), True)
        listed = followed | (sums[COUNT] > 0)
        target, source = listed.T.nonzero(as_tuple=True)
        return TargetPairs(
            lengths=listed.sum(0),
            source=source,
            virtual=weights[source, target],
            sums=sums[:, source, target],
            followed=followed[source, target],
            slack=weights.new_zeros(weights.shape[1]),
        )

    def state(self) -> dict[str, Tensor]:
        """See ``PairSums``."""
        return {f"sums.{k}": sums for k, sums in enumerate(self._sums)}


class LargestPairs:
    """The sums of the pairs with the largest effects, as the module says.

    Args:
        table: how latents are numbered.
        keep: places of each target, beside those of the followed pairs.
        strongest: how many pairs of each target are followed.
        device: where the sums are.
    """

    def __init__(self, table: LatentTable, keep: int, strongest: int, device: torch.device) -> None:
        self._state: dict[str, Tensor] = {}
        for k, site in enumerate(table.sites):
            here, n_sources = table.of_site(site), table.n_sources(site)
            n, s = min(n_sources, keep + strongest), here.stop - here.start
            # An empty place holds the number after the last source's.
            empty = torch.full((n, s), n_sources, dtype=torch.int64, device=device)
            self._state[f"source.{k}"] = empty
            self._state[f"sums.{k}"] = torch.zeros(3, n, s, device=device)
            self._state[f"slack_then.{k}"] = torch.zeros(n, s, device=device)
            self._state[f"slack.{k}"] = torch.zeros(s, device=device)
            self._state[f"followed.{k}"] = empty[: min(n_sources, strongest)].clone()

    def follow(self, k: int, columns: slice, weights: Tensor) -> None:
        """Choose the pairs that are followed, before anything is added."""
        followed = self._state[f"followed.{k}"]
        chosen = _largest(weights, len(followed))
        followed[:, columns] = chosen
        self._state[f"source.{k}"][: len(chosen), columns] = chosen

    def add(self, k: int, columns: slice, sums: Tensor, weights: Weights) -> None:
        """See ``PairSums``."""
        parts = {
            name: self._state[f"{name}.{k}"][..., columns]
            for name in ("source", "sums", "slack_then", "slack", "followed")
        }
        at, n_sources = parts["source"], sums.shape[1]
        n = len(at)
        if not n:
            return
        # One row more, for what empty places say.
        everything = torch.cat([sums, torch.zeros_like(sums[:, :1])], 1)
        everything.scatter_add_(1, at.expand(3, -1, -1), parts["sums"])
        # A pair that is new may have had as much as the slack before.
        then = parts["slack"].repeat(n_sources + 1, 1).scatter_(0, at, parts["slack_then"])
        takes_part = (everything[COUNT] > 0).scatter_(0, at, True)
        upper = everything[WEIGHTED].clone()
        upper[:n_sources] *= weights().abs()
        upper += then
        upper.masked_fill_(~takes_part, -1.0)
        upper.scatter_(0, parts["followed"], torch.inf)
        upper[n_sources] = -1.0
        # One more than there are places: the largest that is turned away.
        top = upper.topk(n + 1, dim=0)
        torch.maximum(parts["slack"], top.values[n], out=parts["slack"])
        real, chosen = top.values[:n] >= 0, top.indices[:n]
        at.copy_(torch.where(real, chosen, n_sources))
        parts["sums"].copy_(everything.gather(1, chosen.expand(3, -1, -1)) * real)
        parts["slack_then"].copy_(then.gather(0, chosen) * real)

    def pairs(self, k: int, columns: slice, weights: Tensor) -> TargetPairs:
        """See ``PairSums``."""
        # Empty places have the largest number and go to the end.
        source, order = self._state[f"source.{k}"][:, columns].T.sort(1)
        listed = source < len(weights)
        target = listed.nonzero(as_tuple=True)[0]
        chosen = source[listed]
        sums = self._state[f"sums.{k}"][:, :, columns].transpose(1, 2)
        followed = torch.zeros_like(weights, dtype=torch.bool)
        followed.scatter_(0, self._state[f"followed.{k}"][:, columns], True)
        slack = self._state[f"slack.{k}"][columns]
        return TargetPairs(
            lengths=listed.sum(1),
            source=chosen,
            virtual=weights[chosen, target],
            sums=sums.gather(2, order.expand(3, -1, -1))[:, listed],
            followed=followed[chosen, target],
            slack=slack,
        )

    def state(self) -> dict[str, Tensor]:
        """See ``PairSums``."""
        return self._state


def _largest(weights: Tensor, n: int) -> Tensor:
    """The sources [n, m] with the largest virtual weights [n_sources, m] to each target."""
    return weights.abs().topk(min(n, len(weights)), dim=0).indices
