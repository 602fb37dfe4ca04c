"""The dictionaries that together stand in for modules of one model, of whatever kinds they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Optional, TypeVar, Union

import torch
from torch import Tensor

from attention_studio.core.activations import Activations
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.lorsa_config import LorsaConfig
from attention_studio.core.dictionaries.transcoder import SparseLatents, Transcoder
from attention_studio.core.dictionaries.transcoder_config import TranscoderConfig
from attention_studio.core.model_adapter import Replacement
from attention_studio.core.sites import Site

_CHUNK = 512
_Module = TypeVar("_Module", Transcoder, Lorsa, CrossLayerTranscoder)


@dataclass(frozen=True)
class Prediction:
    """What a dictionary makes of some tokens that dictionaries see.

    ``target`` and ``predicted`` [n, d]: the module's own output and the dictionary's; ``fired``
    [s] int64: at how many of the tokens each latent was active.
    """

    site: Site
    target: Tensor
    predicted: Tensor
    fired: Tensor


@dataclass(frozen=True)
class DictionarySet:
    """Transcoders and Lorsas by layer, and a cross-layer transcoder or none.

    Raises:
        ValueError: an MLP has a transcoder and a part in the cross-layer transcoder.
    """

    transcoders: Mapping[int, Transcoder] = field(default_factory=dict)
    lorsas: Mapping[int, Lorsa] = field(default_factory=dict)
    clt: Optional[CrossLayerTranscoder] = None

    def __post_init__(self) -> None:
        twice = set(self.transcoders) & set(self._clt_layers)
        if twice:
            raise ValueError(f"the MLPs of layers {sorted(twice)} have two dictionaries")

    @property
    def _clt_layers(self) -> tuple[int, ...]:
        return () if self.clt is None else self.clt.config.layers

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that have a dictionary, in order of the forward pass."""
        mlps = [*self.transcoders, *self._clt_layers]
        found = [Site(layer, "mlp") for layer in mlps]
        return tuple(sorted(found + [Site(layer, "attention") for layer in self.lorsas]))

    @property
    def unfolded(self) -> tuple[Site, ...]:
        """The modules whose dictionary still expects scaled activations."""
        found = [Site(layer, "mlp") for layer, t in self.transcoders.items() if not t.is_folded]
        found += [Site(layer, "attention") for layer, t in self.lorsas.items() if not t.is_folded]
        if self.clt is not None and not self.clt.is_folded:
            found += [Site(layer, "mlp") for layer in self.clt.config.layers]
        return tuple(sorted(found))

    def placed(self, device: torch.device) -> DictionarySet:
        """The dictionaries in float32 on ``device``: those that are there already as they are, the
        others as copies, because ``Module.to`` would move the caller's. A cross-layer transcoder
        on the CPU may have its decoders on the disk and stays as it is."""
        clt = self.clt
        if clt is not None:
            clt = _placed(clt, clt.W_E[0], device)
        return DictionarySet(
            {layer: _placed(t, t.W_E, device) for layer, t in sorted(self.transcoders.items())},
            {layer: _placed(t, t.W_V, device) for layer, t in sorted(self.lorsas.items())},
            clt,
        )

    def config_at(self, site: Site) -> tuple[int, Optional[int]]:
        """Latents of a site's dictionary, and how many of them it keeps per token: exactly (TopK),
        on average (BatchTopK), or None where its settings do not tell (ReLU, JumpReLU)."""
        config: Union[TranscoderConfig, LorsaConfig, CrossLayerTranscoderConfig]
        if site.kind == "attention":
            config = self.lorsas[site.layer].config
        elif site.layer in self.transcoders:
            config = self.transcoders[site.layer].config
        else:
            config = self._need_clt().config
        return config.d_latent, config.k if config.activation in ("topk", "batchtopk") else None

    @torch.no_grad()
    def predictions(self, found: Activations) -> Iterator[Prediction]:
        """Each dictionary on the model's own activations, raw, one site after the other."""
        kept = found.kept
        for layer, transcoder in sorted(self.transcoders.items()):
            here = found.rows[Site(layer, "mlp")]
            predicted, fired = reconstruct(transcoder, here.inputs)
            yield Prediction(Site(layer, "mlp"), here.outputs.float(), predicted, fired)
        for layer, lorsa in sorted(self.lorsas.items()):
            site = Site(layer, "attention")
            predicted, fired = reconstruct_attention(lorsa, found.sequences[site].inputs, kept)
            target = found.sequences[site].outputs[kept].float()
            yield Prediction(site, target, predicted, fired)
        if self.clt is not None:
            latents: dict[int, SparseLatents] = {}
            for j, layer in enumerate(self.clt.config.layers):
                here = found.rows[Site(layer, "mlp")]
                latents[j] = _clt_latents(self.clt, j, here.inputs)
                predicted = self.clt.decode_to_sparse(j, latents, len(here.inputs))
                fired = torch.bincount(latents[j].latent, minlength=self.clt.config.d_latent)
                yield Prediction(Site(layer, "mlp"), here.outputs.float(), predicted, fired)

    def replacements(
        self, sites: Iterable[Site], keep: Tensor, zeros: bool = False
    ) -> dict[Site, Replacement]:
        """Functions for ``ModelAdapter.replaced``, for one forward pass over one batch.

        Args:
            sites: the modules to replace; a cross-layer transcoder reads the layers below them
                too, without changing them.
            keep: ``[B, S]`` bool, positions that dictionaries see; elsewhere modules stay.
            zeros: put zeros in place of the modules instead of the dictionaries' predictions.
        """
        wanted = set(sites)
        found: dict[Site, Replacement] = {}
        latents: dict[int, SparseLatents] = {}
        for site in wanted:
            if zeros:
                found[site] = _put(keep, lambda inputs: torch.zeros_like(inputs[keep]))
            elif site.kind == "attention":
                found[site] = _put(keep, _attention(self.lorsas[site.layer], keep))
            elif site.layer in self.transcoders:
                found[site] = _put(keep, _mlp(self.transcoders[site.layer], keep))
        if not zeros and self.clt is not None:
            of_clt = [j for j, layer in enumerate(self._clt_layers) if Site(layer, "mlp") in wanted]
            for j in range(max(of_clt, default=-1) + 1):
                site = Site(self._clt_layers[j], "mlp")
                function = _clt(self.clt, j, keep, latents)
                found[site] = _put(keep, function) if site in wanted else _watch(function)
        return found

    def _need_clt(self) -> CrossLayerTranscoder:
        if self.clt is None:
            raise KeyError("there is no cross-layer transcoder")
        return self.clt


def _placed(module: _Module, weights: Tensor, device: torch.device) -> _Module:
    if weights.device == device and weights.dtype == torch.float32:
        return module
    return copy.deepcopy(module).to(device, torch.float32)


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


@torch.no_grad()
def reconstruct_attention(lorsa: Lorsa, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction ``[n, d]`` at the kept positions of raw sequences ``[B, S, d]``, and how often
    each latent fired there, ``[s]``."""
    counts = torch.zeros(lorsa.config.d_latent, dtype=torch.int64, device=x.device)
    predictions = []
    for sequence, kept in zip(x.to(lorsa.W_V.dtype), keep, strict=True):
        # The whole sequence is looked at; only kept positions select latents.
        pre = lorsa.pre_activations(sequence)[kept]
        latents = SparseLatents.of(lorsa.activate(pre))
        counts += torch.bincount(latents.latent, minlength=counts.numel())
        predictions.append(lorsa.decode_sparse(latents, pre.shape[0]))
    return torch.cat(predictions), counts


def _clt_latents(clt: CrossLayerTranscoder, j: int, x: Tensor) -> SparseLatents:
    """The active latents of raw inputs ``[n, d]``, some tokens at a time."""
    parts = []
    for i, part in enumerate(torch.split(x.float(), _CHUNK)):
        found = clt.encode_sparse(j, part)
        parts.append(SparseLatents(found.token + i * _CHUNK, found.latent, found.value))
    return SparseLatents(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _put(keep: Tensor, function: Callable[[Tensor], Tensor]) -> Replacement:
    """Replaces the write at kept positions by what ``function`` says of the module's input."""

    def replace(inputs: Tensor, outputs: Tensor) -> Tensor:
        changed = outputs.clone()
        changed[keep] = function(inputs).to(outputs.device, outputs.dtype)
        return changed

    return replace


def _watch(function: Callable[[Tensor], Tensor]) -> Replacement:
    """Lets ``function`` see the input and changes nothing."""

    def replace(inputs: Tensor, outputs: Tensor) -> Tensor:
        function(inputs)
        return outputs

    return replace


def _mlp(transcoder: Transcoder, keep: Tensor) -> Callable[[Tensor], Tensor]:
    def predict(inputs: Tensor) -> Tensor:
        return reconstruct(transcoder, inputs[keep].to(transcoder.W_E.device))[0]

    return predict


def _attention(lorsa: Lorsa, keep: Tensor) -> Callable[[Tensor], Tensor]:
    def predict(inputs: Tensor) -> Tensor:
        device = lorsa.W_V.device
        return reconstruct_attention(lorsa, inputs.to(device), keep.to(device))[0]

    return predict


def _clt(
    clt: CrossLayerTranscoder, j: int, keep: Tensor, latents: dict[int, SparseLatents]
) -> Callable[[Tensor], Tensor]:
    def predict(inputs: Tensor) -> Tensor:
        x = inputs[keep].to(clt.W_E[j].device)
        latents[j] = _clt_latents(clt, j, x)
        return clt.decode_to_sparse(j, latents, len(x))

    return predict
