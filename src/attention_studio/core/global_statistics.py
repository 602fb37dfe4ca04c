"""Gathering global weights: a text is read in chunks, and pairs of latents are summed up.

What moves nothing between pairs is summed first. With w_i(p) = a_i(p) · scale(p), an MLP's pairs
need ``Σ_p w_i(p) · [1_j(p), a_j(p)]``, a Lorsa's ``Σ_p w_i(p) · U_j(p)`` where
``U_j(p) = Σ_t A(t, p) · [1_j(t), a_j(t)]`` does not know i. So a chunk costs each site one product
of sparse activations with a matrix [tokens, latents], whatever the length of its rows.

A run that is stopped at any moment goes on from its last checkpoint and ends with the same bytes:
chunks are fixed by the settings, never by time.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from attention_studio.core.active_features import N_LEFT_OUT, latents_at
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.transcoder import bag_offsets, bag_rows
from attention_studio.core.feature_extractor import promoted_tokens
from attention_studio.core.global_checkpoint import (
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from attention_studio.core.global_files import save_global_weights
from attention_studio.core.global_weights import (
    N_PROMOTED,
    GlobalWeights,
    GlobalWeightsError,
    TextFacts,
)
from attention_studio.core.loaded_model import hash_tensors
from attention_studio.core.pair_sums import (
    WEIGHTED,
    AllPairs,
    LargestPairs,
    PairSums,
    TargetPairs,
    Weights,
    all_pairs_bytes,
    places_within,
)
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.virtual_weights import VirtualWeights
from attention_studio.utils.progress import WorkContext

_CHUNK_TOKENS = 1024
_BLOCK_BYTES = 96 << 20
"""Of one block's sums; a chunk's work needs some times as much."""


@dataclass(frozen=True)
class GlobalSettings:
    """How global weights are gathered.

    Attributes:
        memory_gib: bound on what is kept of all pairs together. Where every pair fits, all are kept
            and the statistics are exact.
        keep: sources kept of each target; None: all if they fit, else as many as fit.
        strongest: of each target, so many largest virtual weights are followed in any case.
        checkpoint_seconds: how often a checkpoint is written; changes no number.
    """

    memory_gib: float = 4.0
    keep: Optional[int] = None
    strongest: int = 16
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, usable in (
            ("memory_gib", 0 < self.memory_gib < math.inf),
            ("keep", self.keep is None or self.keep >= 1),
            ("strongest", self.strongest >= 1),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0),
        ):
            if not usable:
                raise GlobalWeightsError(
                    f"{name} = {getattr(self, name)} cannot be used", "", "give a larger number"
                )


def gather(
    replacement: CompleteReplacementModel,
    corpus: TokenCorpus,
    out: Path,
    settings: Optional[GlobalSettings] = None,
    resume: bool = False,
    ctx: Optional[WorkContext] = None,
) -> GlobalWeights:
    """Gather global weights over a text, and write them to ``out``.

    Until it is finished a checkpoint lies beside ``out``; one is written on cancelling too.

    Raises:
        GlobalWeightsError: there is nothing to connect, memory has no room for what was asked for,
            or the checkpoint is of something else.
        FileWriteError: a file cannot be written.
        Cancelled: through ``ctx``.
    """
    return _Gathering(replacement, corpus, out, settings or GlobalSettings(), ctx).run(resume)


def dictionaries_hash(dictionaries: DictionarySet) -> str:
    """The SHA-256 over settings and tensors of all dictionaries."""
    digest = hashlib.sha256()
    parts = [
        *((f"mlp {layer}", t) for layer, t in sorted(dictionaries.transcoders.items())),
        *((f"attention {layer}", t) for layer, t in sorted(dictionaries.lorsas.items())),
        *([] if dictionaries.clt is None else [("clt", dictionaries.clt)]),
    ]
    for name, module in parts:
        digest.update(f"{name} {module.config!r} {hash_tensors(module)}\n".encode())
    return digest.hexdigest()


class _RowLatents(NamedTuple):
    """What is active of one site on one row of ``length`` positions: [m] each; and where a Lorsa's
    heads look [g, T, T], or None."""

    length: int
    position: Tensor
    latent: Tensor
    value: Tensor
    pattern: Optional[Tensor]

    def seen(self, n_latents: int) -> Tensor:
        """What each position is to the site's latents [length, 2, n_latents]: see the module."""
        active = self.value.new_zeros(self.length, 2, n_latents)
        active[self.position, 0, self.latent] = 1.0
        active[self.position, 1, self.latent] = self.value
        return active if self.pattern is None else _looked_at(active, self.pattern)


@dataclass(frozen=True)
class _Chunk:
    """What is active on some rows of the text, their positions one after the other.

    Attributes:
        latent, token, value: [e] active latents at positions that count, sorted by latent, then
            position.
        starts: [n + 1] where each latent's begin.
        scale: by site [tokens], inverse denominators of what it reads through.
        rows: by site, what is active on each row.
    """

    latent: Tensor
    token: Tensor
    value: Tensor
    starts: Tensor
    scale: list[Tensor]
    rows: list[list[_RowLatents]]


class _Gathering:
    def __init__(
        self,
        replacement: CompleteReplacementModel,
        corpus: TokenCorpus,
        out: Path,
        settings: GlobalSettings,
        ctx: Optional[WorkContext],
    ) -> None:
        self.replacement, self.corpus, self.out = replacement, corpus, out
        self.settings, self.ctx = settings, ctx or WorkContext()
        self.adapter = replacement.adapter
        self.virtual = VirtualWeights(replacement)
        self.table = self.virtual.table
        if len(self.table.sites) < 2:
            raise GlobalWeightsError(
                "There are no connections to gather",
                f"{len(self.table.sites)} modules have a dictionary",
                "choose a replacement model of at least two modules",
            )
        keep = self._places()
        self.about = TextFacts(
            model_name=replacement.loaded.info.name,
            model_hash=replacement.loaded.info.weights_hash,
            crm_name=replacement.name,
            crm_hash=dictionaries_hash(replacement.dictionaries),
            text_hash=corpus.text_hash,
            n_rows=corpus.n_sequences,
            seq_len=corpus.seq_len,
            n_tokens=corpus.n_kept,
            keep=keep,
            strongest=settings.strongest,
            left_out=self.virtual.left_out,
        )
        n, device = len(self.table), self.adapter.device
        self.done = 0
        self.sums: PairSums
        if keep:
            self.sums = LargestPairs(self.table, keep, settings.strongest, device)
        else:
            self.sums = AllPairs(self.table, settings.strongest, device)
        # On the CPU: not every device has float64.
        self.of_latents = {
            "times": torch.zeros(n, dtype=torch.int64),
            "activation": torch.zeros(n, dtype=torch.float64),
            "peak": torch.zeros(n),
            "reads": torch.zeros(n, dtype=torch.float64),
        }

    def _places(self) -> int:
        """Sources kept of each target; 0: all."""
        room = int(self.settings.memory_gib * (1 << 30))
        if self.settings.keep is None and all_pairs_bytes(self.table) <= room:
            return 0
        affordable = places_within(self.table, room) - self.settings.strongest
        keep = affordable if self.settings.keep is None else self.settings.keep
        if not 1 <= keep <= affordable:
            raise GlobalWeightsError(
                f"Connections of {len(self.table):,} latents do not fit "
                f"{self.settings.memory_gib:g} GiB",
                f"{max(affordable, 0)} sources of each would",
                "allow more memory or keep fewer",
            )
        return keep

    # ---- the run -------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, resume: bool) -> GlobalWeights:
        """Read the text, from where a checkpoint stopped or from its beginning."""
        if resume:
            self.done = read_checkpoint(self.out, self.about, self._state())
        if not self.done and isinstance(self.sums, LargestPairs):
            for k, columns, weights in self._blocks():
                self.sums.follow(k, columns, weights())
        per_chunk = max(1, _CHUNK_TOKENS // self.corpus.seq_len)
        saved = time.monotonic()
        while self.done < self.corpus.n_sequences:
            self.ctx.progress(self.done, self.corpus.n_sequences, "Gathering connections")
            if self.ctx.cancelled:
                if self.done:  # else there is nothing to go on from
                    self._write_checkpoint()
                self.ctx.check()
            rows = np.arange(self.done, min(self.done + per_chunk, self.corpus.n_sequences))
            self._add(self._read(rows))
            self.done += len(rows)
            late = time.monotonic() - saved >= self.settings.checkpoint_seconds
            if late and self.done < self.corpus.n_sequences:
                self._write_checkpoint()
                saved = time.monotonic()
        self.ctx.progress(0, None, "Sorting connections")
        found = self._finish()
        save_global_weights(found, self.out)
        remove_checkpoint(self.out)
        return found

    def _state(self) -> dict[str, Tensor]:
        return {**self.sums.state(), **self.of_latents}

    def _write_checkpoint(self) -> None:
        write_checkpoint(self.out, self.about, self.done, self._state())

    # ---- a chunk -------------------------------------------------------------------------------

    def _read(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> _Chunk:
        table, dictionaries, device = self.table, self.replacement.dictionaries, self.adapter.device
        kept = self.corpus.kept(rows)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        scale: list[list[Tensor]] = [[] for _ in table.sites]
        active: list[list[_RowLatents]] = [[] for _ in table.sites]
        start = 0
        for row, keep in zip(rows, kept, strict=True):
            length = int(self.corpus.lengths[row])
            record = self.adapter.record(self.corpus.tokens[row, :length].tolist())
            counts = torch.as_tensor(keep[:length], device=device)
            for k, site in enumerate(table.sites):
                latents, pattern = latents_at(self.adapter, dictionaries, record, site)
                position = latents.token + N_LEFT_OUT
                used = counts[position]
                position, index = position[used], latents.latent[used]
                value = latents.value[used]
                columns.append((index + table.offsets[k], position + start, value))
                active[k].append(_RowLatents(length, position, index, value, pattern))
                scales = record.attention_scale if pattern is not None else record.mlp_scale
                scale[k].append(scales[site.layer])
            start += length
        latent, token, value = (torch.cat(column) for column in zip(*columns, strict=True))
        order = torch.argsort(latent * start + token)
        return _Chunk(
            latent=latent[order],
            token=token[order],
            value=value[order],
            starts=bag_offsets(latent[order], len(table)),
            scale=[torch.cat(parts) for parts in scale],
            rows=active,
        )

    def _add(self, chunk: _Chunk) -> None:
        table, found = self.table, self.of_latents
        latent, value = chunk.latent.cpu(), chunk.value.cpu()
        found["times"] += chunk.starts.diff().cpu()
        found["activation"].index_add_(0, latent, value.double())
        found["peak"].scatter_reduce_(0, latent, value, "amax")
        of_site, everything = -1, chunk.value
        for k, columns, weights in self._blocks():
            if k != of_site:  # one site's at a time, for they are not sparse
                here = table.of_site(table.sites[k])
                width = here.stop - here.start
                everything = torch.cat([row.seen(width) for row in chunk.rows[k]])
                of_site = k
            n_sources = table.n_sources(table.sites[k])
            starts = chunk.starts[: n_sources + 1]
            token = chunk.token[: int(starts[-1])]
            weighed = chunk.value[: len(token)] * chunk.scale[k][token]
            seen = everything[:, :, columns].contiguous()
            m = seen.shape[2]
            both = bag_rows(seen.flatten(1), token, starts, weighed).view(n_sources, 2, m)
            met = bag_rows(seen[:, 0].contiguous(), token, starts, torch.ones_like(weighed))
            sums = torch.cat([both.transpose(0, 1), met.unsqueeze(0)])
            self.sums.add(k, columns, sums, weights)
            if self.about.keep:
                here = _shifted(columns, table.offsets[k])
                found["reads"][here] += _reads(sums, weights())

    def _blocks(self) -> Iterator[tuple[int, slice, Weights]]:
        """All targets in blocks: a site's place, some of its latents, and their virtual weights,
        which are made when they are asked for, once."""
        for k, site in enumerate(self.table.sites):
            n_sources, here = self.table.n_sources(site), self.table.of_site(site)
            if not n_sources:
                continue
            decoders = _Once(partial(self.virtual.decoders, site))
            size = max(1, _BLOCK_BYTES // (12 * n_sources))
            for first in range(0, here.stop - here.start, size):
                columns = slice(first, min(first + size, here.stop - here.start))
                readers = self.virtual.readers(site, columns)
                yield k, columns, _Once(partial(_products, decoders, readers))

    # ---- the end -------------------------------------------------------------------------------

    def _finish(self) -> GlobalWeights:
        table, found = self.table, self.of_latents
        lengths = torch.zeros(len(table), dtype=torch.int64)
        slack = torch.zeros(len(table))
        parts: list[TargetPairs] = []
        for k, columns, weights in self._blocks():
            self.ctx.check()
            part = self.sums.pairs(k, columns, weights())
            here = _shifted(columns, table.offsets[k])
            lengths[here], slack[here] = part.lengths.cpu(), part.slack.cpu()
            if not self.about.keep:
                target = torch.repeat_interleave(part.lengths.cpu()) + here.start
                sizes = (part.virtual.abs() * part.sums[WEIGHTED]).cpu().double()
                found["reads"].index_add_(0, target, sizes)
            parts.append(part)
        sums = torch.cat([part.sums for part in parts], 1).cpu().numpy()
        promoted = self._promoted()
        tokens = sorted({int(token) for token in np.unique(promoted) if token >= 0})
        return GlobalWeights(
            table=table,
            about=self.about,
            bounds=np.concatenate([[0], lengths.cumsum(0).cpu().numpy()]).astype(np.int64),
            source=torch.cat([part.source for part in parts]).cpu().numpy().astype(np.int32),
            virtual=torch.cat([part.virtual for part in parts]).cpu().numpy(),
            total=sums[0],
            weighted=sums[1],
            count=sums[2],
            followed=torch.cat([part.followed for part in parts]).cpu().numpy(),
            times=found["times"].cpu().numpy(),
            activation=found["activation"].cpu().numpy(),
            peak=found["peak"].cpu().numpy(),
            reads=found["reads"].cpu().numpy(),
            slack=slack.cpu().numpy(),
            promoted=promoted,
            words=dict(zip(tokens, self.replacement.loaded.token_strings(tokens), strict=True)),
        )

    def _promoted(self) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        promoted = np.full((len(self.table), N_PROMOTED), -1, dtype=np.int32)
        k = min(N_PROMOTED, self.adapter.vocab_size)
        for site in self.table.sites:
            here = self.table.of_site(site)
            ever = torch.nonzero(self.of_latents["times"][here]).squeeze(-1)
            if not len(ever):
                continue
            self.ctx.check()
            rows = self.virtual.total_decoder(site)[ever.to(self.adapter.device)]
            tokens = promoted_tokens(self.adapter, rows, k).tokens
            promoted[ever.numpy() + here.start, :k] = tokens.cpu().numpy()
        return promoted


def _products(decoders: Weights, readers: Tensor) -> Tensor:
    """What decoders [s, d] write, as readers [r, d] read it: [s, r]."""
    return decoders() @ readers.T


class _Once:
    """What a function gives, made the first time that it is asked for."""

    def __init__(self, make: Weights) -> None:
        self._make = make
        self._made: Optional[Tensor] = None

    def __call__(self) -> Tensor:
        if self._made is None:
            self._made = self._make()
        return self._made


def _looked_at(active: Tensor, pattern: Tensor) -> Tensor:
    """``U_j(p) = Σ_t A(t, p) · active_j(t)`` [T, 2, s], each latent by its own head's pattern
    [g, T, T]."""
    length, both, s = active.shape
    by_head = active.view(length, both, len(pattern), -1).permute(2, 0, 1, 3).flatten(2)
    seen = (pattern.transpose(1, 2) @ by_head).view(len(pattern), length, both, -1)
    return seen.permute(1, 2, 0, 3).reshape(length, both, s)


def _reads(sums: Tensor, weights: Tensor) -> Tensor:
    """Σ |V| · weighted over all sources [m]."""
    return (weights.abs() * sums[WEIGHTED]).sum(0).cpu().double()


def _shifted(columns: slice, by: int) -> slice:
    return slice(columns.start + by, columns.stop + by)
