"""How well dictionaries stand in for the MLPs, on text that they were not trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_studio.core.activations import ActivationSource
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.utils.progress import WorkContext

DENSITY_EDGES = tuple(np.linspace(-5.0, 0.0, 21).tolist())
"""Edges of the density histogram: log10 of the share of tokens at which a latent is active."""

_CHUNK = 512
_LOGITS_PER_PASS = 1 << 26

Predictor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DownstreamQuality:
    """What the model makes of a replaced MLP, in nats per token.

    ``loss_recovered`` is ``(CE_zero − CE_spliced) / (CE_zero − CE_original)``, where zero means
    the MLP's output replaced by zeros; None where zeros do no harm and the ratio says nothing.
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
class LayerQuality:
    """One layer's dictionary on held-out activations.

    Attributes:
        fvu: Σ‖y−ŷ‖² / Σ‖y−ȳ‖².
        l0: active latents per token.
        dead_fraction: latents that are never active on the held-out text.
        density: how many latents fall between neighbouring ``DENSITY_EDGES``; rarer ones count in
            the first bin, dead ones in none.
        downstream: None if it was not measured.
    """

    fvu: float
    l0: float
    dead_fraction: float
    density: tuple[int, ...]
    downstream: Optional[DownstreamQuality] = None


@dataclass(frozen=True)
class Evaluation:
    """All layers' dictionaries; ``all_layers`` has every one of them spliced in at once."""

    n_tokens: int
    layers: dict[int, LayerQuality]
    all_layers: Optional[DownstreamQuality]


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


@torch.no_grad()
def reconstruct(transcoder: Transcoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction ``[n, d]`` for raw inputs ``[n, d]``, and how often each latent fired, ``[s]``."""
    counts = torch.zeros(transcoder.config.d_latent, dtype=torch.int64, device=x.device)
    predictions = []
    for part in torch.split(x.to(transcoder.W_E.dtype), _CHUNK):
        latents = transcoder.encode_sparse(part)
        counts += torch.bincount(latents.latent, minlength=counts.numel())
        predictions.append(transcoder.decode_sparse(latents, part.shape[0], part))
    return torch.cat(predictions), counts


class Evaluator:
    """Measures dictionaries on one held-out corpus, any number of times.

    Args:
        source: of held-out activations.
        adapter: the model whose loss is measured.
        tokens: held-out activations per evaluation.
        downstream_tokens: tokens on which the model's loss is measured; 0: it is not.
        lock: held while parts of the model are replaced.
    """

    def __init__(
        self,
        source: ActivationSource,
        adapter: ModelAdapter,
        tokens: int,
        downstream_tokens: int,
        lock: Optional[threading.RLock] = None,
    ) -> None:
        self._source = source
        self._tokens = tokens
        self._downstream = (
            DownstreamMeter(adapter, source.corpus, downstream_tokens, lock)
            if downstream_tokens
            else None
        )

    def fvu_of(
        self, predictors: Mapping[int, Predictor], ctx: Optional[WorkContext] = None
    ) -> dict[int, float]:
        """The FVU of any functions ``x [n, d]`` → ``ŷ [n, d]``, by layer."""
        sums = {layer: FvuSums() for layer in predictors}
        for inputs, outputs in self._source.in_order(self._tokens, ctx):
            for layer, predictor in predictors.items():
                sums[layer].add(outputs[layer].float(), predictor(inputs[layer].float()))
        return {layer: found.fvu for layer, found in sums.items()}

    def evaluate(
        self, transcoders: Mapping[int, Transcoder], ctx: Optional[WorkContext] = None
    ) -> Evaluation:
        """Measure all ``transcoders`` (folded or not).

        Raises:
            Cancelled: through ``ctx``.
        """
        counts: dict[int, Tensor] = {}

        def predictor(layer: int) -> Predictor:
            def predict(x: Tensor) -> Tensor:
                prediction, fired = reconstruct(transcoders[layer], x)
                counts[layer] = counts[layer] + fired if layer in counts else fired
                return prediction

            return predict

        sums = {layer: FvuSums() for layer in transcoders}
        for inputs, outputs in self._source.in_order(self._tokens, ctx):
            for layer in transcoders:
                prediction = predictor(layer)(inputs[layer].float())
                sums[layer].add(outputs[layer].float(), prediction)
        per_layer: dict[int, DownstreamQuality] = {}
        all_layers = None
        if self._downstream is not None:
            per_layer, all_layers = self._downstream.measure(transcoders, ctx)
        n = next(iter(sums.values())).n
        return Evaluation(
            n_tokens=n,
            layers={
                layer: LayerQuality(
                    fvu=sums[layer].fvu,
                    l0=float(counts[layer].sum()) / n,
                    dead_fraction=int((counts[layer] == 0).sum()) / counts[layer].numel(),
                    density=_density(counts[layer], n),
                    downstream=per_layer.get(layer),
                )
                for layer in transcoders
            },
            all_layers=all_layers,
        )


class DownstreamMeter:
    """The model's own loss with MLPs replaced, on the first ``tokens`` tokens of a corpus.

    The losses of the untouched model and with zeros are measured once and remembered.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        corpus: TokenCorpus,
        tokens: int,
        lock: Optional[threading.RLock] = None,
    ) -> None:
        self._adapter = adapter
        self._lock = lock or threading.RLock()
        wanted = np.cumsum(_scored(corpus).sum(1)) - _scored(corpus).sum(1) < tokens
        self._corpus = corpus.take(np.flatnonzero(wanted))
        self._per_pass = max(1, _LOGITS_PER_PASS // (corpus.seq_len * adapter.vocab_size))
        self._zero: dict[tuple[int, ...], float] = {}

    def measure(
        self, transcoders: Mapping[int, Transcoder], ctx: Optional[WorkContext] = None
    ) -> tuple[dict[int, DownstreamQuality], DownstreamQuality]:
        """Each layer's dictionary alone, and all of them at once."""
        # With one layer, that layer alone and all at once are the same set, measured once.
        everything = tuple(sorted(transcoders))
        sets = list(dict.fromkeys([*((layer,) for layer in everything), everything]))
        new_zeros = [layers for layers in sets if layers not in self._zero]
        zero_sums = dict.fromkeys(new_zeros, 0.0)
        original, n = 0.0, 0
        spliced = {layers: [0.0, 0.0] for layers in sets}
        rows = np.arange(self._corpus.n_sequences)
        for start in range(0, rows.size, self._per_pass):
            part = rows[start : start + self._per_pass]
            one = _Pass(self._adapter, self._corpus, part, self._lock, ctx)
            reference = one.log_probabilities({})
            original += one.cross_entropy(reference)
            n += one.n
            passes = len(sets) + len(new_zeros)
            for i, layers in enumerate(sets):
                _say(ctx, start + len(part) * i / passes, rows.size)
                found = one.log_probabilities({layer: transcoders[layer] for layer in layers})
                spliced[layers][0] += one.cross_entropy(found)
                spliced[layers][1] += float(
                    F.kl_div(found, reference, reduction="sum", log_target=True)
                )
            for i, layers in enumerate(new_zeros, len(sets)):
                _say(ctx, start + len(part) * i / passes, rows.size)
                found = one.log_probabilities(dict.fromkeys(layers))
                zero_sums[layers] += one.cross_entropy(found)
        self._zero.update({layers: total / max(n, 1) for layers, total in zero_sums.items()})
        quality = {
            layers: DownstreamQuality(
                original / max(n, 1), ce / max(n, 1), self._zero[layers], kl / max(n, 1)
            )
            for layers, (ce, kl) in spliced.items()
        }
        return {layer: quality[(layer,)] for layer in transcoders}, quality[everything]


class _Pass:
    """Forward passes over the same few sequences with different MLPs replaced."""

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
        self._keep = torch.from_numpy(sequences.kept()).to(adapter.device)
        self._score = torch.from_numpy(_scored(sequences)).to(adapter.device)
        self._targets = self._ids[:, 1:][self._score[:, :-1]]
        self.n = int(self._targets.numel())

    def log_probabilities(self, replaced: Mapping[int, Optional[Transcoder]]) -> Tensor:
        """``[n, V]`` at the scored positions; a transcoder of None stands for zeros."""
        if self._ctx is not None:
            self._ctx.check()
        hooks = {layer: self._replacement(t) for layer, t in replaced.items()}
        with self._lock, self._adapter.replaced_mlps(hooks):
            logits = self._adapter.logits(self._ids)
        return logits[self._score].float().log_softmax(-1)

    def cross_entropy(self, log_probabilities: Tensor) -> float:
        """Summed over the scored positions, in nats."""
        return float(-_double(log_probabilities.gather(1, self._targets[:, None])).sum())

    def _replacement(self, transcoder: Optional[Transcoder]) -> Callable[[Tensor, Tensor], Tensor]:
        def replace(inputs: Tensor, outputs: Tensor) -> Tensor:
            # At positions that dictionaries do not see, the MLP stays.
            changed = outputs.clone()
            if transcoder is None:
                changed[self._keep] = 0.0
            else:
                x = inputs[self._keep].to(transcoder.W_E.device)
                prediction, _ = reconstruct(transcoder, x)
                changed[self._keep] = prediction.to(outputs.device, outputs.dtype)
            return changed

        return replace


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
    alive = counts[counts > 0].cpu().numpy() / n
    logs = np.clip(np.log10(alive), DENSITY_EDGES[0], DENSITY_EDGES[-1])
    return tuple(int(c) for c in np.histogram(logs, DENSITY_EDGES)[0])
