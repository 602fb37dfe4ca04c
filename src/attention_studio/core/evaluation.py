"""How well dictionaries stand in for a model's modules, on text they were not trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_studio.core.activations import ActivationSource
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.distributed import Peers
from attention_studio.core.division import Division
from attention_studio.core.model_adapter import ModelAdapter, Replacement
from attention_studio.core.sites import Site
from attention_studio.core.training_events import (
    DENSE_SHARE,
    DENSITY_EDGES,
    ERROR_EDGES,
    SiteMetrics,
)
from attention_studio.utils.progress import WorkContext

_LOGITS_PER_PASS = 1 << 26

Predictor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DownstreamQuality:
    """What the model makes of replaced modules, in nats per token.

    ``loss_recovered`` is ``(CE_zero − CE_spliced) / (CE_zero − CE_original)``, where zero means
    the modules' outputs replaced by zeros; None where zeros do no harm and the ratio says nothing.
    ``kl`` is the mean divergence KL(original ‖ spliced).
    """

    ce_original: float
    ce_spliced: float
    ce_zero: float
    kl: float

    @property
    def loss_recovered(self) -> Optional[float]:
        """See the class."""
        harm = self.ce_zero - self.ce_original
        return (self.ce_zero - self.ce_spliced) / harm if harm > 1e-6 else None


@dataclass(frozen=True)
class SiteQuality:
    """One module's dictionary on held-out activations.

    Attributes:
        fvu: Σ‖y−ŷ‖² / Σ‖y−ȳ‖².
        l0: active latents per token.
        dead_fraction: latents that are never active on the held-out text.
        dense_fraction: latents that are active at more than ``DENSE_SHARE`` of it.
        density: how many latents fall between neighbouring ``DENSITY_EDGES``; rarer ones count in
            the first bin, dead ones in none.
        errors: how many tokens fall between neighbouring ``ERROR_EDGES``; those beyond count in
            the first and the last.
        downstream: None if it was not measured.
    """

    fvu: float
    l0: float
    dead_fraction: float
    dense_fraction: float
    density: tuple[int, ...]
    errors: tuple[int, ...]
    downstream: Optional[DownstreamQuality] = None


@dataclass(frozen=True)
class Evaluation:
    """All modules' dictionaries; ``together`` has every one of them spliced in at once."""

    n_tokens: int
    sites: dict[Site, SiteQuality]
    together: Optional[DownstreamQuality]

    @property
    def overall(self) -> dict[str, Optional[float]]:
        """``together`` by name, with ``loss_recovered``; empty if it was not measured."""
        if self.together is None:
            return {}
        return {**asdict(self.together), "loss_recovered": self.together.loss_recovered}

    def rows(self, tokens: int, affine_fvu: Mapping[Site, Optional[float]]) -> list[SiteMetrics]:
        """A row per module.

        Args:
            tokens: what the dictionaries were trained on.
            affine_fvu: of the best affine map, by module.
        """
        found = []
        for site, quality in self.sites.items():
            alone = quality.downstream
            found.append(
                SiteMetrics(
                    tokens=tokens,
                    site=site,
                    fvu=quality.fvu,
                    affine_fvu=affine_fvu[site],
                    l0=quality.l0,
                    dead_fraction=quality.dead_fraction,
                    density=quality.density,
                    errors=quality.errors,
                    dense_fraction=quality.dense_fraction,
                    loss_recovered=None if alone is None else alone.loss_recovered,
                    kl=None if alone is None else alone.kl,
                )
            )
        return found


@dataclass
class FvuSums:
    """Running sums for an FVU in float64; the mean is taken over the same tokens."""

    n: int = 0
    error: float = 0.0
    square: float = 0.0
    total: Optional[Tensor] = field(default=None)

    def add(self, y: Tensor, prediction: Tensor) -> None:
        """Add tokens: targets and predictions ``[n, d]``."""
        self.n += y.shape[0]
        self.error += float(_double(y - prediction).square().sum())
        y = _double(y)
        self.square += float(y.square().sum())
        total = y.sum(0)
        self.total = total if self.total is None else self.total + total

    @property
    def fvu(self) -> float:
        """Σ‖y−ŷ‖² / Σ‖y−ȳ‖²; NaN without tokens."""
        if self.total is None:
            return float("nan")
        spread = self.square - float(self.total.square().sum()) / self.n
        return self.error / max(spread, 1e-30)


@dataclass
class _SiteSums:
    """What is gathered of one module on the way through the held-out text."""

    fvu: FvuSums = field(default_factory=FvuSums)
    fired: Optional[Tensor] = None
    errors: list[Tensor] = field(default_factory=list)

    def add(self, target: Tensor, predicted: Tensor, fired: Tensor) -> None:
        self.fvu.add(target, predicted)
        self.fired = fired if self.fired is None else self.fired + fired
        self.errors.append((target - predicted).square().sum(-1).cpu())

    def quality(self, downstream: Optional[DownstreamQuality]) -> SiteQuality:
        fired, n = self.fired, max(self.fvu.n, 1)
        assert fired is not None  # a held-out text has at least one token
        spread = self.fvu.error / max(self.fvu.fvu, 1e-30) / n
        return SiteQuality(
            fvu=self.fvu.fvu,
            l0=float(fired.sum()) / n,
            dead_fraction=int((fired == 0).sum()) / fired.numel(),
            dense_fraction=int((fired > DENSE_SHARE * n).sum()) / fired.numel(),
            density=_density(fired, n),
            errors=_histogram(torch.cat(self.errors).numpy() / max(spread, 1e-30), ERROR_EDGES),
            downstream=downstream,
        )


class Evaluator:
    """Measures dictionaries on one held-out corpus, any number of times.

    Args:
        source: of held-out activations.
        adapter: the model whose loss is measured.
        tokens: held-out activations per evaluation.
        downstream_tokens: tokens on which the model's loss is measured; 0: it is not.
        lock: held while parts of the model are replaced.
        division: where several processes have the dictionaries. Each measures its own alone, from a
            ``source`` that they share, and all of them together what all do at once.
    """

    def __init__(
        self,
        source: ActivationSource,
        adapter: ModelAdapter,
        tokens: int,
        downstream_tokens: int,
        lock: Optional[threading.RLock] = None,
        division: Optional[Division] = None,
    ) -> None:
        self._source = source
        self._tokens = tokens
        self._downstream = (
            DownstreamMeter(adapter, source.corpus, downstream_tokens, lock, division)
            if downstream_tokens
            else None
        )

    def fvu_of(
        self, predictors: Mapping[Site, Predictor], ctx: Optional[WorkContext] = None
    ) -> dict[Site, float]:
        """The FVU of any functions ``x [n, d]`` → ``ŷ [n, d]`` of the tokens at a module."""
        sums = {site: FvuSums() for site in predictors}
        for found in self._source.in_order(self._tokens, ctx):
            for site, predictor in predictors.items():
                here = (
                    found.rows[site]
                    if site in found.rows
                    else found.sequences[site].part(found.kept)
                )
                sums[site].add(here.outputs.float(), predictor(here.inputs.float()))
        return {site: found.fvu for site, found in sums.items()}

    def evaluate(
        self, dictionaries: DictionarySet, ctx: Optional[WorkContext] = None
    ) -> Evaluation:
        """Measure all ``dictionaries`` (folded or not).

        Raises:
            Cancelled: through ``ctx``.
        """
        sums = {site: _SiteSums() for site in dictionaries.sites}
        for found in self._source.in_order(self._tokens, ctx):
            for made in dictionaries.predictions(found):
                sums[made.site].add(made.target, made.predicted, made.fired)
        alone: Mapping[Site, DownstreamQuality] = {}
        together = None
        if self._downstream is not None:
            alone, together = self._downstream.measure(dictionaries, ctx)
        return Evaluation(
            n_tokens=max((found.fvu.n for found in sums.values()), default=0),
            sites={site: found.quality(alone.get(site)) for site, found in sums.items()},
            together=together,
        )


class DownstreamMeter:
    """The model's own loss with modules replaced, on the first ``tokens`` tokens of a corpus.

    The losses of the untouched model and with zeros are measured once and remembered.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        corpus: TokenCorpus,
        tokens: int,
        lock: Optional[threading.RLock] = None,
        division: Optional[Division] = None,
    ) -> None:
        self._adapter = adapter
        self._division = division
        self._lock = lock or threading.RLock()
        wanted = np.cumsum(_scored(corpus).sum(1)) - _scored(corpus).sum(1) < tokens
        self._corpus = corpus.take(np.flatnonzero(wanted))
        self._per_pass = max(1, _LOGITS_PER_PASS // (corpus.seq_len * adapter.vocab_size))
        self._zero: dict[tuple[Site, ...], float] = {}

    def measure(
        self, dictionaries: DictionarySet, ctx: Optional[WorkContext] = None
    ) -> tuple[dict[Site, DownstreamQuality], DownstreamQuality]:
        """Each module's dictionary alone, and all of them at once."""
        # With one module, it alone and all at once are the same set, measured once.
        mine = dictionaries.sites
        everything = mine if self._division is None else self._division.everything
        sets = list(dict.fromkeys([*((site,) for site in mine), everything]))
        new_zeros = [sites for sites in sets if sites not in self._zero]
        zero_sums = dict.fromkeys(new_zeros, 0.0)
        original, n = 0.0, 0
        spliced = {sites: [0.0, 0.0] for sites in sets}
        rows = np.arange(self._corpus.n_sequences)
        for start in range(0, rows.size, self._per_pass):
            part = rows[start : start + self._per_pass]
            one = _Pass(self._adapter, self._corpus, part, self._lock, ctx)
            reference = one.log_probabilities({})
            original += one.cross_entropy(reference)
            n += one.n
            passes = len(sets) + len(new_zeros)
            for i, sites in enumerate(sets):
                _say(ctx, start + len(part) * i / passes, rows.size)
                replacements = self._replacements(dictionaries, sites, everything, one.keep)
                found = one.log_probabilities(replacements)
                spliced[sites][0] += one.cross_entropy(found)
                spliced[sites][1] += float(
                    F.kl_div(found, reference, reduction="sum", log_target=True)
                )
            for i, sites in enumerate(new_zeros, len(sets)):
                _say(ctx, start + len(part) * i / passes, rows.size)
                found = one.log_probabilities(
                    dictionaries.replacements(sites, one.keep, zeros=True)
                )
                zero_sums[sites] += one.cross_entropy(found)
        self._zero.update({sites: total / max(n, 1) for sites, total in zero_sums.items()})
        quality = {
            sites: DownstreamQuality(
                original / max(n, 1), ce / max(n, 1), self._zero[sites], kl / max(n, 1)
            )
            for sites, (ce, kl) in spliced.items()
        }
        return {site: quality[(site,)] for site in mine}, quality[everything]

    def _replacements(
        self,
        dictionaries: DictionarySet,
        sites: tuple[Site, ...],
        everything: tuple[Site, ...],
        keep: Tensor,
    ) -> Mapping[Site, Replacement]:
        """Functions for ``ModelAdapter.replaced``. What is in place of all modules at once, each
        process computes at its own sites and gives to the others."""
        if self._division is None or sites != everything:
            return dictionaries.replacements(sites, keep)
        own = dictionaries.replacements(dictionaries.sites, keep)
        peers, owner = self._division.peers, self._division.owner
        return {site: _given(own.get(site), owner(site), peers) for site in everything}


def _given(own: Optional[Replacement], owner: int, peers: Peers) -> Replacement:
    """What process ``owner`` writes by its ``own`` replacement, in all processes."""

    def replace(inputs: Tensor, outputs: Tensor) -> Tensor:
        written = torch.empty_like(outputs) if own is None else own(inputs, outputs)
        written = written.contiguous()
        peers.broadcast(written, owner)
        return written

    return replace


class _Pass:
    """Forward passes over the same few sequences with different modules replaced."""

    def __init__(
        self,
        adapter: ModelAdapter,
        corpus: TokenCorpus,
        rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        lock: threading.RLock,
        ctx: Optional[WorkContext],
    ) -> None:
        self._adapter, self._lock, self._ctx = adapter, lock, ctx
        sequences = corpus.take(rows)
        self._ids = torch.from_numpy(sequences.tokens.astype(np.int64)).to(adapter.device)
        self.keep = torch.from_numpy(sequences.kept()).to(adapter.device)
        self._score = torch.from_numpy(_scored(sequences)).to(adapter.device)
        self._targets = self._ids[:, 1:][self._score[:, :-1]]
        self.n = int(self._targets.numel())

    def log_probabilities(self, replacements: Mapping[Site, Replacement]) -> Tensor:
        """``[n, V]`` at the scored positions."""
        if self._ctx is not None:
            self._ctx.check()
        with self._lock, self._adapter.replaced(replacements):
            logits = self._adapter.logits(self._ids)
        return logits[self._score].float().log_softmax(-1)

    def cross_entropy(self, log_probabilities: Tensor) -> float:
        """Summed over the scored positions, in nats."""
        return float(-_double(log_probabilities.gather(1, self._targets[:, None])).sum())


def _double(x: Tensor) -> Tensor:
    """In float64, for sums over many tokens; on the CPU where the device has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _say(ctx: Optional[WorkContext], done: float, total: int) -> None:
    if ctx is not None:
        ctx.progress(done, total, "Measuring the model's loss")


def _scored(corpus: TokenCorpus) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Positions that dictionaries see and that have a next token to predict."""
    scored = corpus.kept()
    scored &= np.arange(corpus.seq_len)[None, :] + 1 < corpus.lengths[:, None]
    return scored


def _density(counts: Tensor, n: int) -> tuple[int, ...]:
    return _histogram(counts[counts > 0].cpu().numpy() / n, DENSITY_EDGES)


def _histogram(
    values: np.ndarray[tuple[int, ...], np.dtype[np.floating]], edges: tuple[float, ...]
) -> tuple[int, ...]:
    """Counts of log10(values) between edges; what lies beyond counts in the first and last bin."""
    logs = np.clip(np.log10(np.maximum(values, 1e-30)), edges[0], edges[-1])
    return tuple(int(c) for c in np.histogram(logs, edges)[0])
