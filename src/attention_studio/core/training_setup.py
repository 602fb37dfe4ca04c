"""From settings and the first activations to modules that are ready to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import torch
from torch import Tensor

from attention_studio.core.activations import ActivationBlock
from attention_studio.core.clt_init import empty_clt, initialise_clt
from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.distributed import Peers
from attention_studio.core.evaluation import Predictor
from attention_studio.core.linear_parts import QueryKeyWeights, ValueOutputWeights
from attention_studio.core.lorsa_init import AttentionBlock, initial_lorsa, lorsa_config
from attention_studio.core.lorsa_training import LorsaScratch, LorsaState
from attention_studio.core.model_adapter import ModuleActivations
from attention_studio.core.sites import Site
from attention_studio.core.tensor_store import TensorStore
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_init import (
    LayerStatistics,
    initial_transcoder,
    layer_statistics,
)
from attention_studio.core.training_modules import (
    CLTModule,
    LorsaModule,
    TrainedModule,
    TranscoderModule,
)
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_step import TranscoderState
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

_Weights = TypeVar("_Weights", QueryKeyWeights, ValueOutputWeights)


@dataclass(frozen=True)
class FreshModules:
    """Modules before their first step, and the best affine map at each site to compare with."""

    modules: tuple[TrainedModule, ...]
    affine: Mapping[Site, Predictor]


class ModuleFactory:
    """Makes the modules that a run trains, in order of the forward pass, a cross-layer transcoder
    last.

    Args:
        loaded: the model.
        config: the settings.
        device: where to train.
        selection_dtype: in which TopK and BatchTopK rank latents.
        clt_folder: where a cross-layer transcoder's decoders are kept; None: in memory.
        sites: of the modules that this process trains; None: all.
        peers: processes that train the same modules on other parts of every batch.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: TrainConfig,
        device: torch.device,
        selection_dtype: torch.dtype,
        clt_folder: Optional[Path] = None,
        sites: Optional[tuple[Site, ...]] = None,
        peers: Optional[Peers] = None,
    ) -> None:
        self._loaded = loaded
        self._config = config
        self._device = device
        self._selection_dtype = selection_dtype
        self._store = TensorStore(clt_folder, device)
        self._peers = peers
        self._sites = config.sites if sites is None else sites
        of_clt = config.mlp == "clt"
        self._alone = [s for s in self._sites if s.kind == "attention" or not of_clt]
        self._has_clt = len(self._alone) < len(self._sites)

    def blank(self) -> tuple[TrainedModule, ...]:
        """Modules of the right shapes, for a checkpoint to be read into.

        Raises:
            FileWriteError: there is no room on the disk for a cross-layer transcoder.
        """
        shape = self._config.transcoder(self._loaded.info.d_model)
        modules: list[TrainedModule] = [
            self._transcoder(site.layer, Transcoder(shape).to(self._device))
            if site.kind == "mlp"
            else self._lorsa(site.layer, Lorsa(self._lorsa_config(site.layer)).to(self._device))
            for site in self._alone
        ]
        if self._has_clt:
            modules.append(self._clt(self._empty_clt()))
        return tuple(modules)

    def fresh(self, block: ActivationBlock, ctx: Optional[WorkContext] = None) -> FreshModules:
        """Modules where training starts, from the first block of activations.

        Raises:
            Cancelled: through ``ctx``, between two modules.
            FileWriteError: there is no room on the disk for a cross-layer transcoder.
        """
        found = block.activations
        modules: list[TrainedModule] = []
        statistics: dict[Site, LayerStatistics] = {}
        for i, site in enumerate(self._sites):
            if ctx is not None:
                ctx.check()
                ctx.progress(i, len(self._sites), "Finding where to start")
            here = (
                found.rows[site] if site.kind == "mlp" else found.sequences[site].part(found.kept)
            )
            statistics[site] = layer_statistics(here.inputs, here.outputs)
            if site not in self._alone:
                continue
            if site.kind == "mlp":
                modules.append(self._fresh_transcoder(site.layer, statistics[site], here))
            else:
                whole = found.sequences[site]
                modules.append(self._fresh_lorsa(site.layer, statistics[site], whole, found.kept))
        if self._has_clt:
            modules.append(self._fresh_clt(statistics, found.rows, ctx))
        affine = {site: known.predict_affine for site, known in statistics.items()}
        return FreshModules(tuple(modules), affine)

    # --- transcoders -----------------------------------------------------------------------

    @cached_property
    def _scratch(self) -> StepScratch:
        config = self._config
        return StepScratch(
            config.transcoder(self._loaded.info.d_model),
            config.batch_tokens,
            config.chunk_tokens,
            self._device,
            selection_dtype=self._selection_dtype,
        )

    def _transcoder(self, layer: int, transcoder: Transcoder) -> TranscoderModule:
        return TranscoderModule(layer, TranscoderState.new(transcoder), self._scratch, self._peers)

    def _fresh_transcoder(
        self, layer: int, statistics: LayerStatistics, here: ModuleActivations
    ) -> TranscoderModule:
        config = self._config
        start = initial_transcoder(
            config.transcoder(self._loaded.info.d_model),
            statistics,
            here.inputs,
            here.outputs,
            config.init,
            config.seed,
            layer,
            config.encoder_init,
        )
        return self._transcoder(layer, start)

    # --- Lorsas ----------------------------------------------------------------------------

    def _lorsa_config(self, layer: int) -> LorsaConfig:
        config = self._config
        return lorsa_config(
            self._loaded.adapter.query_key(layer),
            config.attention_latents,
            config.activation,
            config.attention_k,
            config.attention_norm_aware and config.activation in ("topk", "batchtopk"),
            config.qk_heads,
        )

    def _lorsa(self, layer: int, lorsa: Lorsa) -> LorsaModule:
        return LorsaModule(layer, LorsaState.new(lorsa), self._lorsa_scratch, self._peers)

    @cached_property
    def _lorsa_scratch(self) -> LorsaScratch:
        config = self._config
        return LorsaScratch(
            self._lorsa_config(config.attention_layers[0]),
            config.batch_tokens,
            config.attention_chunk_tokens,
            self._device,
            selection_dtype=self._selection_dtype,
        )

    def _fresh_lorsa(
        self, layer: int, statistics: LayerStatistics, whole: ModuleActivations, kept: Tensor
    ) -> LorsaModule:
        config, adapter = self._config, self._loaded.adapter
        norm = adapter.attention_post_norm(layer)
        block = AttentionBlock(
            query_key=_moved(adapter.query_key(layer), self._device),
            value_output=_moved(adapter.value_output(layer), self._device),
            output_gain=None if norm is None else norm.gain.to(self._device),
        )
        start = initial_lorsa(
            self._lorsa_config(layer),
            block,
            statistics,
            whole.inputs,
            whole.outputs,
            kept,
            config.init,
            config.seed,
            layer,
        )
        return self._lorsa(layer, start)

    # --- the cross-layer transcoder --------------------------------------------------------

    def _empty_clt(self) -> CrossLayerTranscoder:
        return empty_clt(self._config.clt(self._loaded.info.d_model), self._store)

    def _clt(self, clt: CrossLayerTranscoder) -> CLTModule:
        config = self._config
        scratch = CLTScratch(
            clt.config,
            config.batch_tokens,
            config.chunk_tokens,
            self._device,
            selection_dtype=self._selection_dtype,
        )
        return CLTModule(CLTState.new(clt, self._store), scratch, self._peers)

    def _fresh_clt(
        self,
        statistics: Mapping[Site, LayerStatistics],
        rows: Mapping[Site, ModuleActivations],
        ctx: Optional[WorkContext],
    ) -> CLTModule:
        config, clt = self._config, self._empty_clt()
        here = {layer: Site(layer, "mlp") for layer in config.layers}
        known = {layer: statistics[site] for layer, site in here.items()}
        found = {layer: (rows[site].inputs, rows[site].outputs) for layer, site in here.items()}
        for _ in initialise_clt(clt, known, found, config.init, config.seed, config.encoder_init):
            if ctx is not None:
                ctx.check()
        return self._clt(clt)


def _moved(weights: _Weights, device: torch.device) -> _Weights:
    """The same weights on ``device``."""
    tensors: dict[str, Any] = {
        field.name: value.to(device)
        for field in fields(weights)
        if isinstance(value := getattr(weights, field.name), Tensor)
    }
    return replace(weights, **tensors)
