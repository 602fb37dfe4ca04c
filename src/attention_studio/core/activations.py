"""Harvesting activations: which text makes which block, and running the model for it.

A block is a deterministic function of the seed and its index, whoever harvests it and whenever:
a window fills the next block on another thread while it trains on this one, a headless run does
one after the other, and a resumed run begins in the middle. All get the same numbers.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.utils.progress import WorkContext

_SPARE_SHARE = 0.02  # rows harvested beyond the expected need, so that few blocks fall short


@dataclass(frozen=True)
class ActivationBlock:
    """MLP inputs and outputs of the same tokens, by layer, rows in random order.

    ``inputs[layer]`` and ``outputs[layer]`` are ``[n, d]``, raw, in the harvest's type.
    """

    index: int
    inputs: dict[int, Tensor]
    outputs: dict[int, Tensor]

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return next(iter(self.inputs.values())).shape[0]


class ActivationSource:
    """Turns a corpus into blocks of activations.

    Args:
        adapter: the model that is run; its type is that of the blocks.
        corpus: the text.
        layers: which layers' MLPs.
        block_tokens: rows per block. A block may have fewer where rows are short, never more.
        seed: of the order of sequences and rows.
        batch: sequences per forward pass.
        device: where the blocks go.
        lock: held while the model runs, because whoever replaces parts of the model meanwhile
            would change what is harvested.

    Raises:
        CorpusError: there is no position in the corpus that dictionaries see.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        corpus: TokenCorpus,
        layers: Sequence[int],
        block_tokens: int,
        seed: int,
        batch: int = 8,
        device: Union[str, torch.device] = "cpu",
        lock: Optional[threading.RLock] = None,
    ) -> None:
        self.adapter = adapter
        self.corpus = corpus
        self.layers = tuple(layers)
        self.block_tokens = block_tokens
        self.batch = batch
        self._seed = seed
        self._device = torch.device(device)
        self._lock = lock or threading.RLock()
        kept = corpus.n_kept
        if not kept:
            raise CorpusError("The text has no token that dictionaries could be trained on")
        rows = block_tokens * (1 + _SPARE_SHARE) * corpus.n_sequences / kept
        self.rows_per_block = max(1, min(int(np.ceil(rows)), corpus.n_sequences))

    def rows_of(self, index: int) -> NDArray[np.int64]:
        """Which sequences make block ``index``: the next ones of an order that is drawn anew for
        every pass over the text."""
        n = self.corpus.n_sequences
        first = index * self.rows_per_block
        wanted = np.arange(first, first + self.rows_per_block)
        epochs = np.unique(wanted // n)
        orders = {e: np.random.default_rng([self._seed, 2, int(e)]).permutation(n) for e in epochs}
        return np.array([orders[position // n][position % n] for position in wanted])

    def harvest(self, index: int, ctx: Optional[WorkContext] = None) -> ActivationBlock:
        """Run the model for block ``index``.

        Raises:
            Cancelled: through ``ctx``, between two forward passes.
        """
        rows = self.rows_of(index)
        total = int(self.corpus.kept(rows).sum())
        n = min(total, self.block_tokens)
        # Every row goes straight to its shuffled place; those beyond the block's size are dropped.
        places = torch.from_numpy(np.random.default_rng([self._seed, 3, index]).permutation(total))
        empty = torch.empty(n, self.adapter.d_model, device=self._device, dtype=self.adapter.dtype)
        inputs = {layer: torch.empty_like(empty) for layer in self.layers}
        outputs = {layer: torch.empty_like(empty) for layer in self.layers}
        done = 0
        for x, y in self._passes(rows, ctx, f"Collecting activations, block {index + 1}"):
            count = next(iter(x.values())).shape[0]
            place = places[done : done + count]
            fits = place < n
            target = place[fits].to(self._device)
            chosen = fits.to(self.adapter.device)
            for layer in self.layers:
                inputs[layer].index_copy_(0, target, x[layer][chosen].to(self._device))
                outputs[layer].index_copy_(0, target, y[layer][chosen].to(self._device))
            done += count
        return ActivationBlock(index, inputs, outputs)

    def in_order(
        self, max_tokens: int, ctx: Optional[WorkContext] = None
    ) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
        """Inputs and outputs by layer, ``[n, d]`` at a time, of the corpus in its own order, until
        ``max_tokens`` rows have been given (the last batch is cut)."""
        left = max_tokens
        for x, y in self._passes(
            np.arange(self.corpus.n_sequences), ctx, "Collecting held-out activations"
        ):
            yield (
                {layer: t[:left].to(self._device) for layer, t in x.items()},
                {layer: t[:left].to(self._device) for layer, t in y.items()},
            )
            left -= next(iter(x.values())).shape[0]
            if left <= 0:
                return

    def _passes(
        self, rows: NDArray[np.int64], ctx: Optional[WorkContext], text: str
    ) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
        """Forward passes over ``rows``, reduced to the positions that dictionaries see."""
        for start in range(0, rows.size, self.batch):
            if ctx is not None:
                ctx.check()
                ctx.progress(start, rows.size, text)
            part = rows[start : start + self.batch]
            ids = torch.from_numpy(self.corpus.tokens[part].astype(np.int64))
            keep = torch.from_numpy(self.corpus.kept(part)).to(self.adapter.device)
            with self._lock:
                found = self.adapter.harvest(ids, self.layers)
            yield (
                {layer: found[layer].inputs[keep] for layer in self.layers},
                {layer: found[layer].outputs[keep] for layer in self.layers},
            )


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

    def fill(self, index: int, ctx: Optional[WorkContext] = None) -> None:
        """Make sure that block ``index`` is there: harvest it, or wait for whoever does.

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
        self._harvest(index, ctx)

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

    def _harvest(self, index: int, ctx: Optional[WorkContext]) -> None:
        with self._changed:
            retired, self._retired = self._retired, []
        del retired  # outside the lock, which the training thread may want meanwhile
        block: Optional[ActivationBlock] = None
        try:
            block = self._source.harvest(index, ctx)
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
