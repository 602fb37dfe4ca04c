"""The studio's own training step, driven as the trainer drives it."""

from __future__ import annotations

import contest
import torch
from dictionaries import activations, predict, start, train_config
from torch import Tensor

from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.lorsa_training import LorsaScratch, LorsaState
from attention_studio.core.tensor_store import TensorStore
from attention_studio.core.training_modules import (
    CLTModule,
    LorsaModule,
    TrainedModule,
    TranscoderModule,
)
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_selection import choose_selection_dtype
from attention_studio.core.training_step import TranscoderState

_CPU = torch.device("cpu")


class Studio:
    """A module in training, of any kind."""

    def __init__(self, job: contest.Job) -> None:
        self._job = job
        self._config = train_config(job)
        self._dictionary = start(job, self._config)
        self._module = self._make_module()

    def _make_module(self) -> TrainedModule:
        config, dictionary, batch = self._config, self._dictionary, self._job["batch"]
        layer, chunk = self._job["layers"][0], config.chunk_tokens
        low = choose_selection_dtype(config.selection_dtype, _CPU, config.activation)
        if isinstance(dictionary, CrossLayerTranscoder):
            across = CLTScratch(dictionary.config, batch, chunk, _CPU, selection_dtype=low)
            return CLTModule(CLTState.new(dictionary, TensorStore()), across)
        if isinstance(dictionary, Lorsa):
            chunk = config.attention_chunk_tokens
            heads = LorsaScratch(dictionary.config, batch, chunk, _CPU, selection_dtype=low)
            return LorsaModule(layer, LorsaState.new(dictionary), heads)
        one = StepScratch(dictionary.config, batch, chunk, _CPU, selection_dtype=low)
        return TranscoderModule(layer, TranscoderState.new(dictionary), one)

    def step(self, x: Tensor, y: Tensor) -> None:
        settings = self._config.step_settings(self._module.steps, self._job["d_model"])
        if self._job["kind"] == "lorsa":
            settings = self._config.attention_settings(settings)
        for _ in self._module.step(activations(self._job, x, y), settings):
            pass

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return predict(self._dictionary, x)


if __name__ == "__main__":
    contest.serve(Studio)
