"""Which features are active where in a text: one pass of the model for all dictionaries at once.

Positions that dictionaries leave out (the first, start tokens, filling) count for nothing, and
neither do norm sinks: tokens whose residual stream is so much longer than others' that every
dictionary sees them alone (Sun et al. 2024, *Massive Activations in Large Language Models*, arXiv
2402.17762). Which these are is measured here: the stream before some layer is more than
``SINK_FACTOR`` times as long as the median over the first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.activations import Activations, ActivationSource
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import SparseLatents
from attention_studio.core.feature_candidates import Events, LookAt, Looks
from attention_studio.core.feature_columns import stretches
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

SINK_FACTOR = 10.0
PASS_TOKENS = 1024
_MOST_ENCODED, _ENCODED_NUMBERS = 512, 1 << 21
"""Tokens that are encoded at once, and latents times tokens: wide dictionaries take fewer."""
_LOOKED_AT_ONCE = 1 << 22
"""Numbers, while it is worked out where features look."""


class FeatureFiringError(StudioError):
    """What features do cannot be read."""


@dataclass(frozen=True)
class Firing:
    """What is active at a module on some whole rows.

    Attributes:
        site: the module.
        events: sorted by latent, then place.
        looks: of a Lorsa: where its features look, for these rows.
    """

    site: Site
    events: Events
    looks: Optional[LookAt]


@dataclass(frozen=True)
class FiringPass:
    """One forward pass.

    Attributes:
        rows: which rows of the text.
        places: int64 [n], ascending: the positions that count, row times length plus position.
        n_sinks: how many were left out for their norm.
        firings: what is active, module by module, worked out as one goes through them.
    """

    rows: slice
    places: NDArray[np.int64]
    n_sinks: int
    firings: Iterator[Firing]


class FiringReader:
    """Reads what fires on a text.

    Args:
        crm: whose features.
        corpus: the text.
        sink_factor: how much longer than the median a norm sink's stream is; 0: none is left out.
        medians: float64 [n_layers], of the length of the stream before each layer, where they are
            known from an earlier run; None: measured in the first pass.
        sites: the modules whose features are looked at; None: all. Norm sinks do not depend on it.

    Raises:
        CorpusError: there is no position in the text that dictionaries see.
    """

    def __init__(
        self,
        crm: CompleteReplacementModel,
        corpus: TokenCorpus,
        sink_factor: float = SINK_FACTOR,
        medians: Optional[NDArray[np.float64]] = None,
        sites: Optional[Sequence[Site]] = None,
    ) -> None:
        self.crm, self.corpus, self.medians = crm, corpus, medians
        self.sites = crm.sites if sites is None else tuple(sites)
        self.rows_per_pass = max(1, PASS_TOKENS // corpus.seq_len)
        self._factor = sink_factor
        self._source = ActivationSource(
            crm.adapter,
            corpus,
            crm.sites,
            block_tokens=1,
            seed=0,
            batch=self.rows_per_pass,
            device=crm.adapter.device,
        )

    @torch.no_grad()
    def passes(
        self,
        first: int = 0,
        max_tokens: Optional[int] = None,
        ctx: Optional[WorkContext] = None,
    ) -> Iterator[FiringPass]:
        """Go through the text from row ``first`` on, in order.

        Args:
            first: a multiple of ``rows_per_pass``, so that every row is run in the same company.
            max_tokens: of the positions that dictionaries see, look at no more; None: at all.

        Raises:
            FeatureFiringError: an activation is not finite.
            Cancelled: through ``ctx``, between two passes.
        """
        adapter, corpus = self.crm.adapter, self.corpus
        depths = range(max(site.layer for site in self.crm.sites) + 1)
        norms: dict[int, Tensor] = {}

        def see(depth: int) -> Callable[..., None]:
            def hook(_module: Any, args: Any) -> None:
                norms[depth] = torch.linalg.vector_norm(args[0].float(), dim=-1)

            return hook

        limit = corpus.n_kept if max_tokens is None else max_tokens
        if first >= corpus.n_sequences or limit <= 0:
            return
        with ExitStack() as stack:
            if self._factor:
                for depth in depths:
                    hook = adapter.stream_reader(depth).register_forward_pre_hook(see(depth))
                    stack.callback(hook.remove)
            start = first
            for found in self._source.in_order(limit, ctx, first, "Reading text"):
                n_rows = len(found.kept)
                kept = found.kept.cpu().numpy()
                counts = kept.copy()
                if self._factor:
                    length = torch.stack([norms[depth].cpu() for depth in depths]).numpy()
                    counts[self._sinks(length, kept)] = False
                where = np.flatnonzero(counts) + start * corpus.seq_len
                yield FiringPass(
                    rows=slice(start, start + n_rows),
                    places=where,
                    n_sinks=int(kept.sum() - counts.sum()),
                    firings=self._firings(found, kept, counts, start),
                )
                start += n_rows

    def _sinks(self, length: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[B, S] where the stream [depths, B, S] is far longer than usual."""
        if self.medians is None:
            here = length[:, kept] if kept.any() else length.reshape(len(length), -1)
            self.medians = np.median(here.astype(np.float64), axis=1)
        return np.asarray((length > self._factor * self.medians[:, None, None]).any(0))

    def _firings(
        self, found: Activations, kept: NDArray[np.bool_], counts: NDArray[np.bool_], start: int
    ) -> Iterator[Firing]:
        seq_len = self.corpus.seq_len
        places = np.flatnonzero(kept) + start * seq_len
        counted = counts[kept]
        for site in self.sites:
            if site.kind == "mlp":
                latents = self._encode(site, found.rows[site].inputs)
                yield Firing(site, _events(site, latents, places, counted), None)
                continue
            lorsa = self.crm.dictionaries.lorsas[site.layer]
            for row, inputs in enumerate(found.sequences[site].inputs):
                here = kept[row]
                if not here.any():
                    continue
                x = inputs.to(lorsa.W_V.dtype)
                pattern = lorsa.pattern(x)
                values = lorsa.values(x)
                pre = lorsa.pre_activations(x, pattern, values)
                pre = pre[torch.from_numpy(here).to(x.device)]
                latents = SparseLatents.of(lorsa.activate(pre))
                first = (start + row) * seq_len
                at = np.flatnonzero(here) + first
                events = _events(site, latents, at, counts[row][here])
                yield Firing(site, events, _Look(lorsa, values, pattern, first))

    def _encode(self, site: Site, x: Tensor) -> SparseLatents:
        """What of an MLP's dictionary is active on raw inputs [n, d]."""
        dictionaries = self.crm.dictionaries
        transcoder, clt = dictionaries.transcoders.get(site.layer), dictionaries.clt
        width = dictionaries.config_at(site)[0]
        size = min(max(_ENCODED_NUMBERS // width, 16), _MOST_ENCODED)
        parts = []
        for i, part in enumerate(torch.split(x.float(), size)):
            if transcoder is not None:
                found = transcoder.encode_sparse(part)
            else:
                assert clt is not None  # else the MLP would have no dictionary
                found = clt.encode_sparse(clt.position(site.layer), part)
            parts.append(found._replace(token=found.token + i * size))
        return SparseLatents(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _Look:
    """Where the features of a Lorsa look, on one row of the text.

    ``A[p, j]·(x_j·w_V + b_V)``, summed over j the pre-activation at p (``Lorsa.z_pattern``).
    """

    def __init__(self, lorsa: Lorsa, values: Tensor, pattern: Tensor, first: int) -> None:
        self._lorsa, self._pattern, self._first = lorsa, pattern, first
        self._values = values.T.contiguous()

    def __call__(
        self,
        latent: NDArray[np.int64],
        place: NDArray[np.int64],
        begin: NDArray[np.int64],
    ) -> Looks:
        length, device = self._values.shape[1], self._values.device
        share, before = [], []
        size = max(1, _LOOKED_AT_ONCE // length)
        for k in range(0, len(latent), size):
            part = slice(k, k + size)
            which = torch.from_numpy(latent[part]).to(device)
            at = torch.from_numpy(place[part] - self._first).to(device)
            pattern = self._pattern[which // self._lorsa.config.group_size, at]
            looked = (pattern * self._values[which]).double().cpu().numpy()
            # Added up one after the other: what is found must not depend on what else is looked at.
            sums = np.cumsum(looked, axis=1)
            rows = np.arange(len(looked))
            starts, ends = begin[part] - self._first, place[part] - self._first
            total = sums[:, -1]
            before.append(np.where(starts > 0, sums[rows, starts - 1], 0.0) / total)
            lengths = ends - starts + 1
            inside = stretches(rows * length + starts, lengths)
            share.append(looked.reshape(-1)[inside] / np.repeat(total, lengths))
        return Looks(
            np.concatenate(share).astype(np.float32), np.concatenate(before).astype(np.float32)
        )


def _events(
    site: Site, latents: SparseLatents, places: NDArray[np.int64], counted: NDArray[np.bool_]
) -> Events:
    """What is active at the positions that count; ``places`` [n] of the tokens."""
    token = latents.token.cpu().numpy()
    value = latents.value.float().cpu().numpy()
    latent = latents.latent.cpu().numpy()
    if not counted.all():
        mine = counted[token]
        token, latent, value = token[mine], latent[mine], value[mine]
    if not np.isfinite(value).all():
        raise FeatureFiringError(
            f"Activations of {site} are not finite",
            "the model or its dictionary overflows on this text",
            "load the model in float32, or check the dictionary",
        )
    return Events(latent, places[token], value).sorted()
