"""Harvesting activations: which text makes which block, and running the model for it.

A block is a deterministic function of the seed and its index, whoever harvests it and whenever:
a window fills the next block on another thread while it trains on this one, a headless run does
one after the other, and a resumed run begins in the middle. All get the same numbers.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.activation_exchange import Chosen, Exchange, pick
from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.division import Division
from attention_studio.core.micro_steps import slices
from attention_studio.core.model_adapter import ModelAdapter, ModuleActivations
from attention_studio.core.sites import Site
from attention_studio.core.tensor_store import TensorStore
from attention_studio.utils.progress import WorkContext


@dataclass(frozen=True)
class Activations:
    """Inputs and outputs of some modules for the same text.

    Attributes:
        rows: of MLPs: ``[n, d]`` each, only positions that dictionaries see, in the same order
            at every site.
        sequences: of attention: ``[sequences, S, d]`` each, all positions, because those that
            dictionaries do not see are attended to all the same.
        kept: ``[sequences, S]`` bool, the positions that dictionaries see.
    """

    rows: dict[Site, ModuleActivations]
    sequences: dict[Site, ModuleActivations]
    kept: Tensor


@dataclass(frozen=True)
class ActivationBlock:
    """What is harvested at once, in the harvest's type and in random order.

    ``n_tokens`` counts the rows of an MLP's part, and the positions that count towards steps; both
    it and ``activations.kept`` are of the whole block.

    Where several processes share batches, ``division`` says how. Each has only its parts of a
    block: ``row_places`` and ``sequence_places``, ascending, say which; None: all.
    """

    index: int
    n_tokens: int
    activations: Activations
    division: Optional[Division] = None
    row_places: Optional[Tensor] = None
    sequence_places: Optional[Tensor] = None

    def batch(self, index: int, size: int) -> Activations:
        """Batch ``index`` of ``size`` rows, and as large a share of the sequences; or this
        process's part of both. Views only."""
        found, division = self.activations, self.division
        rows, sequences = batch_slices(index, size, self.n_tokens, found.kept.shape[0])
        kept = found.kept[sequences]
        # Sequences differ in how much of them counts; what is too much is looked at only.
        kept = kept & (kept.flatten().cumsum(0).view_as(kept) <= size)
        if division is not None:
            rows = division.rows(division.peers.rank, rows)
            part = division.sequences(division.peers.rank, sequences)
            kept = kept[part.start - sequences.start : part.stop - sequences.start]
            rows, sequences = _here(rows, self.row_places), _here(part, self.sequence_places)
        return Activations(
            {site: a.part(rows) for site, a in found.rows.items()},
            {site: a.part(sequences) for site, a in found.sequences.items()},
            kept,
        )


def batch_slices(index: int, size: int, n_tokens: int, n_sequences: int) -> tuple[slice, slice]:
    """The rows and the sequences of a block that make its batch ``index`` of ``size`` rows."""
    n_batches = max(1, n_tokens // size)
    return (
        slice(index * size, min((index + 1) * size, n_tokens)),
        slice(n_sequences * index // n_batches, n_sequences * (index + 1) // n_batches),
    )


def _here(part: slice, places: Optional[Tensor]) -> slice:
    """Where the part of a whole lies among the ``places`` of it that are here."""
    if places is None:
        return part
    start, stop = torch.searchsorted(places, torch.tensor([part.start, part.stop])).tolist()
    return slice(start, stop)


class ActivationSource:
    """Turns a corpus into blocks of activations.

    Args:
        adapter: the model that is run; its type is that of the blocks.
        corpus: the text.
        sites: which modules.
        block_tokens: rows per block; a block may have fewer where the whole text has, never more.
        seed: of the order of sequences and rows.
        batch: sequences per forward pass.
        device: where the blocks go.
        lock: held while the model runs, because whoever replaces parts of the model meanwhile
            would change what is harvested.
        folder: where blocks are kept on disk instead of in memory; None: in memory.
        division: where several processes run the model, each for some of the sequences, and share
            what they find. All must then ask for the same at the same time.

    Raises:
        CorpusError: there is no position in the corpus that dictionaries see.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        corpus: TokenCorpus,
        sites: Iterable[Site],
        block_tokens: int,
        seed: int,
        batch: int = 8,
        device: Union[str, torch.device] = "cpu",
        lock: Optional[threading.RLock] = None,
        folder: Optional[Path] = None,
        division: Optional[Division] = None,
    ) -> None:
        self.adapter = adapter
        self.corpus = corpus
        self.sites = tuple(sorted(sites))
        self.block_tokens = block_tokens
        self.batch = batch
        self._seed = seed
        self._device = torch.device(device)
        self._lock = lock or threading.RLock()
        self._folder = folder
        self._division = division
        self._kept = corpus.kept().sum(1)
        if not self._kept.any():
            raise CorpusError("The text has no token that dictionaries could be trained on")
        self._ends = [0]
        self._ends_lock = threading.Lock()

    def rows_of(self, index: int) -> NDArray[np.int64]:
        """Which sequences make block ``index``: the next ones of an order that is drawn anew for
        every pass over the text, no more of them than the block needs."""
        with self._ends_lock:
            while len(self._ends) < index + 2:
                self._ends.append(self._end_after(self._ends[-1]))
            return self._ordered(self._ends[index], self._ends[index + 1])

    def _end_after(self, first: int) -> int:
        """Where in the order the block ends that begins at ``first``: with the sequence that fills
        it, and after one pass over the text at the latest."""
        n = self.corpus.n_sequences
        usual = int(np.ceil(self.block_tokens * n / self._kept.sum()))
        for count in (2 * usual, n):
            count = min(count, n)
            filled = self._kept[self._ordered(first, first + count)].cumsum()
            if filled[-1] >= self.block_tokens:
                return first + int(np.searchsorted(filled, self.block_tokens)) + 1
        return first + n

    def _ordered(self, first: int, end: int) -> NDArray[np.int64]:
        """The sequences at some places of the order."""
        n = self.corpus.n_sequences
        parts = []
        for epoch in range(first // n, (end - 1) // n + 1):
            order = np.random.default_rng([self._seed, 2, epoch]).permutation(n)
            parts.append(order[max(0, first - epoch * n) : end - epoch * n])
        return np.concatenate(parts)

    def harvest(
        self, index: int, ctx: Optional[WorkContext] = None, whole: bool = False
    ) -> ActivationBlock:
        """Run the model for block ``index``.

        Args:
            whole: where processes share batches, give this one all of the block all the same.

        Raises:
            Cancelled: through ``ctx``, between two forward passes.
            FileWriteError: the disk has no room for the block.
            LostProcessError: another process that shares the work is gone.
        """
        rows = self.rows_of(index)
        kept = torch.from_numpy(self.corpus.kept(rows))
        starts = [0, *kept.sum(1).cumsum(0).tolist()]
        total = starts[-1]
        n = min(total, self.block_tokens)
        # Every row goes straight to its shuffled place; those beyond the block's size are dropped.
        places = torch.from_numpy(np.random.default_rng([self._seed, 3, index]).permutation(total))
        division = self._division if self._division and self._division.by_data else None
        ranks = range(self._division.peers.size if self._division else 1)
        me = self._division.peers.rank if self._division else 0
        parts = [
            _everything(n, rows.size)
            if division is None or whole
            else _part(division, rank, n, rows.size)
            for rank in ranks
        ]
        # Where in a process's part a place of the block is, or −1.
        at = [(_inverse(part[0], total), _inverse(part[1], rows.size)) for part in parts]

        def chosen(rank: int, sequences: slice) -> Chosen:
            targets = at[rank][0][places[starts[sequences.start] : starts[sequences.stop]]]
            return Chosen(targets >= 0, at[rank][1][sequences] >= 0)

        d = self.adapter.d_model
        sites = self.sites if self._division is None else self._division.trained_by(me)
        # One for each block, so that its files are given back with the block.
        store = TensorStore(self._folder, self._device, self.adapter.dtype)
        n_rows, n_sequences = (places.numel() for places in parts[me])
        block = Activations(
            {site: self._room(store, n_rows, d) for site in sites if site.kind == "mlp"},
            {
                site: self._room(store, n_sequences, self.corpus.seq_len, d)
                for site in sites
                if site.kind == "attention"
            },
            kept.to(self._device),
        )
        exchange = None
        if self._division is not None:
            of_ranks = [self._division.trained_by(rank) for rank in ranks]
            exchange = self._exchange(of_ranks, chosen)
        text = f"Collecting activations, block {index + 1}"
        for part, found in self._passes(rows, ctx, text, exchange, chosen):
            target = at[me][0][places[starts[part.start] : starts[part.stop]]]
            target = target[target >= 0].to(self._device)
            for site, activations in found.rows.items():
                block.rows[site].put(target, activations.to(self._device))
            here = at[me][1][part]
            here = here[here >= 0].to(self._device)
            for site, activations in found.sequences.items():
                block.sequences[site].put(here, activations.to(self._device))
        shared = division is not None and not whole
        return ActivationBlock(index, n, block, division, *(parts[me] if shared else (None, None)))

    def in_order(
        self,
        max_tokens: int,
        ctx: Optional[WorkContext] = None,
        first: int = 0,
        text: str = "Collecting held-out activations",
    ) -> Iterator[Activations]:
        """Activations of the corpus in its own order, some sequences at a time, until
        ``max_tokens`` positions that dictionaries see have been given (what is beyond is cut, or
        no longer ``kept``). Where processes share the work, each gets its own modules' only.

        Args:
            first: the sequence to begin with.
            text: what progress is said to be about.
        """
        left = max_tokens
        every = np.arange(first, self.corpus.n_sequences)
        # Whole passes, but none in vain: processes that share them make a round of them at once.
        counts = self.corpus.kept(every).sum(1).cumsum()
        passes = int(np.searchsorted(counts, max_tokens)) // self.batch + 1
        every = every[: passes * self.batch]
        exchange = None
        if self._division is not None:
            exchange = self._exchange(self._division.sites_of)
        for _, found in self._passes(every, ctx, text, exchange):
            kept = found.kept & (found.kept.flatten().cumsum(0).view_as(found.kept) <= left)
            yield Activations(
                {s: a.part(slice(0, left)).to(self._device) for s, a in found.rows.items()},
                {s: a.to(self._device) for s, a in found.sequences.items()},
                kept.to(self._device),
            )
            left -= int(found.kept.sum())
            if left <= 0:
                return

    def _passes(
        self,
        rows: NDArray[np.int64],
        ctx: Optional[WorkContext],
        text: str,
        exchange: Optional[Exchange] = None,
        chosen: Optional[Callable[[int, slice], Chosen]] = None,
    ) -> Iterator[tuple[slice, Activations]]:
        """Forward passes over ``rows``, in order, each with the sequences that it is of; MLPs
        reduced to the positions that dictionaries see. With an ``exchange`` each process makes
        some of the passes and gets what it needs of all."""
        parts = list(slices(rows.size, self.batch))
        size, me = (1, 0) if exchange is None else (exchange.size, exchange.rank)
        for first in range(0, len(parts), size):
            if ctx is not None:
                ctx.check()
                ctx.progress(parts[first].start, rows.size, text)
            mine = None
            if first + me < len(parts):
                mine = self._pass(rows[parts[first + me]])
            these = parts[first : first + size]
            kept = [torch.from_numpy(self.corpus.kept(rows[part])) for part in these]
            if exchange is not None:
                found = exchange.share(mine, these, kept)
            elif mine is not None:
                want = None if chosen is None else chosen(0, these[0])
                found = [
                    mine if want is None else {s: pick(a, want.of(s)) for s, a in mine.items()}
                ]
            for part, keep, here in zip(these, kept, found, strict=True):
                yield (
                    part,
                    Activations(
                        {site: a for site, a in here.items() if site.kind == "mlp"},
                        {site: a for site, a in here.items() if site.kind == "attention"},
                        keep.to(self.adapter.device),
                    ),
                )

    def _pass(self, rows: NDArray[np.int64]) -> dict[Site, ModuleActivations]:
        """One forward pass; MLPs reduced to the positions that dictionaries see."""
        ids = torch.from_numpy(self.corpus.tokens[rows].astype(np.int64))
        keep = torch.from_numpy(self.corpus.kept(rows)).to(self.adapter.device)
        with self._lock:
            found = self.adapter.harvest(ids, self.sites)
        return {site: a.part(keep) if site.kind == "mlp" else a for site, a in found.items()}

    def _exchange(
        self,
        sites_of: Sequence[tuple[Site, ...]],
        chosen: Optional[Callable[[int, slice], Chosen]] = None,
    ) -> Exchange:
        assert self._division is not None  # only called where there are other processes
        peers, adapter = self._division.peers, self.adapter
        return Exchange(peers, sites_of, adapter.d_model, adapter.dtype, adapter.device, chosen)

    def _room(self, store: TensorStore, *shape: int) -> ModuleActivations:
        """Room for a module's inputs and outputs."""
        return ModuleActivations(store.zeros(shape), store.zeros(shape))


def _everything(n_rows: int, n_sequences: int) -> tuple[Tensor, Tensor]:
    """The places of all rows and sequences of a block."""
    return torch.arange(n_rows), torch.arange(n_sequences)


def _part(division: Division, rank: int, n_rows: int, n_sequences: int) -> tuple[Tensor, Tensor]:
    """The places of the rows and sequences that a process trains on, ascending."""
    rows: list[Tensor] = []
    sequences: list[Tensor] = []
    size = division.batch_tokens
    for i in range(max(1, n_rows // size)):
        of_rows, of_sequences = batch_slices(i, size, n_rows, n_sequences)
        for found, part in (
            (rows, division.rows(rank, of_rows)),
            (sequences, division.sequences(rank, of_sequences)),
        ):
            found.append(torch.arange(part.start, part.stop))
    return torch.cat(rows), torch.cat(sequences)


def _inverse(places: Tensor, n: int) -> Tensor:
    """For each of n places its index among ``places``, or −1."""
    found = torch.full((n,), -1)
    found[places] = torch.arange(places.numel())
    return found


class BlockBuffer:
    """The block in use and at most one more, filled from whichever thread has time. Thread-safe.

    Giving back the memory of a block takes a tenth of a second, so old blocks are dropped where
    new ones are harvested, not on the thread that trains.
    """

    def __init__(self, source: ActivationSource) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._ready: dict[int, ActivationBlock] = {}
        self._retired: list[ActivationBlock] = []
        self._busy: set[int] = set()
        self._current = 0
        self._last = 0
        self._closed = False

    def use(self, index: int, more_needed: bool = True) -> None:
        """Say which block is in use, and whether the one after it will be; older ones are freed
        at the next harvest."""
        with self._changed:
            self._current = index
            self._last = index + 1 if more_needed else index
            for old in [i for i in self._ready if i < index]:
                self._retired.append(self._ready.pop(old))

    def get(self, index: int) -> Optional[ActivationBlock]:
        """Block ``index`` if it is there."""
        with self._changed:
            return self._ready.get(index)

    def fill(self, index: int, ctx: Optional[WorkContext] = None, whole: bool = False) -> None:
        """Make sure that block ``index`` is there: harvest it, or wait for whoever does.

        Args:
            whole: see ``ActivationSource.harvest``.

        Raises:
            Cancelled: through ``ctx``.
        """
        while True:
            with self._changed:
                if index in self._ready:
                    return
                if index not in self._busy:
                    self._busy.add(index)
                    break
                self._changed.wait(0.1)
            if ctx is not None:
                ctx.check()
        self._harvest(index, ctx, whole)

    def fill_ahead(self, ctx: Optional[WorkContext] = None) -> bool:
        """Harvest the block after the one in use if it is needed and nobody does already.

        Returns:
            Whether there was anything to do.
        """
        with self._changed:
            index = self._current + 1
            if self._closed or index > self._last or index in self._ready or index in self._busy:
                return False
            self._busy.add(index)
        self._harvest(index, ctx)
        return True

    def close(self) -> None:
        """Free all blocks; nothing is kept from now on."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._retired.clear()

    def _harvest(self, index: int, ctx: Optional[WorkContext], whole: bool = False) -> None:
        with self._changed:
            retired, self._retired = self._retired, []
        del retired  # outside the lock, which the training thread may want meanwhile
        block: Optional[ActivationBlock] = None
        try:
            block = self._source.harvest(index, ctx, whole)
        finally:
            with self._changed:
                self._busy.discard(index)
                if block is not None and not self._closed and index >= self._current:
                    self._ready[index] = block
                self._changed.notify_all()


def choose_harvest_dtype(
    wanted: str,
    device: torch.device,
    model_dtype: torch.dtype,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> torch.dtype:
    """The type to run the model in while harvesting.

    ``auto``: the model's own if that is a 16-bit type already; bfloat16 on CUDA and where the
    processor multiplies bfloat16 by itself (elsewhere it is several times slower than float32);
    else float32. Activations in bfloat16 differ from float32 by an FVU of 0.0005, which no
    dictionary notices.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if model_dtype in (torch.bfloat16, torch.float16):
        return model_dtype
    if device.type == "cuda":
        return torch.bfloat16
    if device.type == "cpu" and cpu_has_bfloat16(cpuinfo):
        return torch.bfloat16
    return torch.float32


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has bfloat16 products, as Linux tells it; elsewhere False."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            if platform.machine() in ("aarch64", "arm64"):
                return "bf16" in flags
            return bool(flags & {"avx512_bf16", "amx_bf16"})
    return False
