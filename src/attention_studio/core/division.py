"""How a run is divided among several processes.

Either way each module has one process that measures it and writes its files. With ``layers`` that
process also trains it, alone and on whole batches, so that the weights are those of one process
bit for bit. With ``data`` every process trains all modules on its part of every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from attention_studio.core.distributed import Peers
from attention_studio.core.sites import Site, SiteKind
from attention_studio.core.training_config import TrainConfig, TrainSettingsError

_KINDS: tuple[SiteKind, ...] = ("mlp", "attention")


@dataclass(frozen=True)
class Division:
    """What each process does; ``divide`` makes one.

    Attributes:
        peers: the processes.
        sites_of: by process, the sites of the modules that are its own, in order.
        by_data: whether batches are divided and not modules.
        batch_tokens: rows per batch.
        row_unit, sequence_unit: parts of a batch hold whole multiples of so many rows and
            sequences.
    """

    peers: Peers
    sites_of: tuple[tuple[Site, ...], ...]
    by_data: bool
    batch_tokens: int
    row_unit: int = 1
    sequence_unit: int = 1

    @property
    def own(self) -> tuple[Site, ...]:
        """The sites that this process measures and writes."""
        return self.sites_of[self.peers.rank]

    @property
    def everything(self) -> tuple[Site, ...]:
        """The sites of all modules, in order of the forward pass."""
        return tuple(sorted(site for sites in self.sites_of for site in sites))

    def trained_by(self, rank: int) -> tuple[Site, ...]:
        """The sites of the modules that a process trains."""
        return self.everything if self.by_data else self.sites_of[rank]

    def owner(self, site: Site) -> int:
        """The process that ``site`` belongs to."""
        return next(rank for rank, sites in enumerate(self.sites_of) if site in sites)

    @property
    def gradient_peers(self) -> Optional[Peers]:
        """Those that gradients are summed over; None: nobody else trains the same module."""
        return self.peers if self.by_data else None

    def part_of(self, config: TrainConfig) -> TrainConfig:
        """The settings with those layers only that this process trains."""
        sites = self.trained_by(self.peers.rank)
        layers = {kind: tuple(s.layer for s in sites if s.kind == kind) for kind in _KINDS}
        return config.model_copy(
            update={"layers": layers["mlp"], "attention_layers": layers["attention"]}
        )

    def rows(self, rank: int, batch: slice) -> slice:
        """The part of a batch's rows that a process trains on."""
        return self._part(rank, batch, self.row_unit)

    def sequences(self, rank: int, batch: slice) -> slice:
        """The part of a batch's sequences that a process trains on."""
        return self._part(rank, batch, self.sequence_unit)

    def _part(self, rank: int, whole: slice, unit: int) -> slice:
        units = -(-(whole.stop - whole.start) // unit)
        edges = [
            min(whole.start + units * r // self.peers.size * unit, whole.stop)
            for r in (rank, rank + 1)
        ]
        return slice(edges[0], edges[1])


def divide(config: TrainConfig, peers: Peers) -> Division:
    """Divide a run, by ``config.parallel``.

    Raises:
        TrainSettingsError: there are more processes than modules, or than parts of a batch.
    """
    by_data = config.parallel == "data"
    modules = _modules(config)
    if not by_data and len(modules) < peers.size:
        raise TrainSettingsError(
            f"{peers.size} processes cannot share {len(modules)} dictionaries",
            "each process trains some of them; a cross-layer transcoder is one",
            "Choose parallel=data, or start fewer processes",
        )
    # BatchTopK selects among the tokens of a chunk, so no chunk may be torn.
    whole_chunks = config.activation == "batchtopk"
    row_unit = config.chunk_tokens if whole_chunks else 1
    units = -(-config.batch_tokens // row_unit)
    if by_data and units < peers.size:
        raise TrainSettingsError(
            f"{peers.size} processes cannot share a batch of {config.batch_tokens} tokens",
            f"BatchTopK selects among {row_unit} tokens at once, and there are {units} such groups",
            "Choose a smaller token_chunk, larger batches or fewer processes",
        )
    sequence_unit = max(1, config.attention_chunk_tokens // config.seq_len) if whole_chunks else 1
    # No batch has fewer: the first token of every sequence is left out.
    sequences = config.batch_tokens // (config.seq_len - 1)
    units = -(-sequences // sequence_unit)
    if by_data and config.attention_layers and units < peers.size:
        raise TrainSettingsError(
            f"{peers.size} processes cannot share {sequences} sequences of {config.seq_len} tokens",
            f"so many make a batch of {config.batch_tokens} tokens, and a Lorsa takes "
            f"{sequence_unit} of them at once",
            "Choose shorter sequences (seq_len), larger batches or fewer processes",
        )
    sites_of: list[list[Site]] = [[] for _ in range(peers.size)]
    for i, sites in enumerate(modules):
        sites_of[i % peers.size] += sites
    return Division(
        peers=peers,
        sites_of=tuple(tuple(sorted(sites)) for sites in sites_of),
        by_data=by_data,
        batch_tokens=config.batch_tokens,
        row_unit=row_unit,
        sequence_unit=sequence_unit,
    )


def divided_batches(division: Optional[Division]) -> dict[str, str]:
    """What a run's identity says of its processes: how many share each batch, if they do. Their
    sums are rounded in another order than one process would, so no other number can go on."""
    if division is None or not division.by_data:
        return {}
    return {"processes_per_batch": str(division.peers.size)}


def _modules(config: TrainConfig) -> list[tuple[Site, ...]]:
    """The sites of each module, those that cost the same beside each other."""
    mlps = tuple(Site(layer, "mlp") for layer in config.layers)
    found: list[tuple[Site, ...]] = (
        [mlps] if config.mlp == "clt" and mlps else [(site,) for site in mlps]
    )
    return found + [(Site(layer, "attention"),) for layer in config.attention_layers]
