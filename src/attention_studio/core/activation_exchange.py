"""Forward passes shared by several processes: each makes some, and gets what it needs of all.

The processes take turns, pass by pass, so that every pass is over the same sequences as in one
process and gives the same numbers. After each round everyone sends everyone else the activations
that are wanted there. How much that is everyone knows beforehand, from the text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from attention_studio.core.distributed import Peers
from attention_studio.core.model_adapter import ModuleActivations
from attention_studio.core.sites import Site


class Chosen(NamedTuple):
    """What is wanted of a pass: bool, of its rows (positions that dictionaries see, for MLPs) and
    of its sequences (for attention)."""

    rows: Tensor
    sequences: Tensor

    def of(self, site: Site) -> Tensor:
        """The one that counts at a site."""
        return self.rows if site.kind == "mlp" else self.sequences


class Exchange:
    """Sends activations to where they are wanted.

    Args:
        peers: the processes.
        sites_of: by process, the sites that it wants.
        d_model: width of the activations.
        dtype: their type.
        device: where they come from, and arrive.
        chosen: what a process wants of the pass over some of the sequences; None: all.
    """

    def __init__(
        self,
        peers: Peers,
        sites_of: Sequence[tuple[Site, ...]],
        d_model: int,
        dtype: torch.dtype,
        device: torch.device,
        chosen: Optional[Callable[[int, slice], Chosen]] = None,
    ) -> None:
        self._peers = peers
        self._sites_of = sites_of
        self._d_model = d_model
        self._dtype = dtype
        self._device = device
        self._chosen = chosen

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._peers.rank

    @property
    def size(self) -> int:
        """The number of processes, and of passes in a round."""
        return self._peers.size

    def share(
        self,
        found: Optional[Mapping[Site, ModuleActivations]],
        parts: Sequence[slice],
        kept: Sequence[Tensor],
    ) -> list[dict[Site, ModuleActivations]]:
        """Exchange one round of passes.

        Args:
            found: what this process's pass gave, rows ``[n, d]`` for MLPs and sequences
                ``[b, S, d]`` for attention; None: there was no pass for it.
            parts: the sequences of each process's pass; the last round may have fewer.
            kept: ``[b, S]`` bool of each pass, the positions that dictionaries see.

        Returns:
            For each of ``parts`` what this process wants of it.

        Raises:
            LostProcessError: another process is gone.
        """
        empty = torch.empty(0, dtype=self._dtype, device=self._device)
        parcels = [empty] * self.size
        if found is not None:
            part, keep = parts[self.rank], kept[self.rank]
            parcels = [
                self._packed(found, self._sites_of[rank], self._want(rank, part, keep), empty)
                for rank in range(self.size)
            ]
        wanted = [self._want(self.rank, part, keep) for part, keep in zip(parts, kept, strict=True)]
        length = kept[0].shape[1]
        shapes = [self._shapes(want, length) for want in wanted]
        sizes = [sum(2 * shape.numel() for shape in found.values()) for found in shapes]
        sizes += [0] * (self.size - len(sizes))
        received = self._peers.exchange(parcels, sizes)
        return [_unpacked(parcel, of) for parcel, of in zip(received, shapes, strict=False)]

    def _want(self, rank: int, part: slice, keep: Tensor) -> Chosen:
        if self._chosen is not None:
            return self._chosen(rank, part)
        return Chosen(
            torch.ones(int(keep.sum()), dtype=torch.bool),
            torch.ones(keep.shape[0], dtype=torch.bool),
        )

    def _packed(
        self,
        found: Mapping[Site, ModuleActivations],
        sites: tuple[Site, ...],
        want: Chosen,
        empty: Tensor,
    ) -> Tensor:
        picked = [pick(found[site], want.of(site)) for site in sites]
        return torch.cat([empty, *(t.flatten() for a in picked for t in (a.inputs, a.outputs))])

    def _shapes(self, want: Chosen, length: int) -> dict[Site, torch.Size]:
        """The shape of what comes of one pass, by site."""
        rows, sequences = int(want.rows.sum()), int(want.sequences.sum())
        return {
            site: torch.Size(
                (rows, self._d_model) if site.kind == "mlp" else (sequences, length, self._d_model)
            )
            for site in self._sites_of[self.rank]
        }


def pick(activations: ModuleActivations, mask: Tensor) -> ModuleActivations:
    """The part where ``mask`` is set."""
    if bool(mask.all()):
        return activations
    return activations.part(mask.to(activations.inputs.device))


def _unpacked(parcel: Tensor, shapes: Mapping[Site, torch.Size]) -> dict[Site, ModuleActivations]:
    tensors = torch.split(parcel, [shape.numel() for shape in shapes.values() for _ in range(2)])
    return {
        site: ModuleActivations(tensors[2 * i].view(shape), tensors[2 * i + 1].view(shape))
        for i, (site, shape) in enumerate(shapes.items())
    }
