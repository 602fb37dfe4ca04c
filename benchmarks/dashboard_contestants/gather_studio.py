"""The studio's gathering, as a person would have it done: all features, on disk in the end."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import clock
import numpy as np
import torch
from answers import Job, peak_memory
from safetensors.numpy import load_file

from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_gathering import GatheringSettings, gather_features
from attention_studio.core.feature_store import FeatureStore
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site


class Studio:
    """A model with one transcoder, and the text."""

    def __init__(self, job: Job) -> None:
        self._job, work = job, Path(job["work"])
        loaded = ModelManager().load_model_sync(
            ModelConfig(name=job["model"], device="cpu", dtype="float32")
        )
        torch.set_num_threads(job["threads"])
        self._crm = CompleteReplacementModel.from_folder(loaded, work / "crm")
        tokens = load_file(work / "tokens.safetensors")["tokens"]
        lengths = np.full(len(tokens), tokens.shape[1], dtype=np.int32)
        self._corpus = TokenCorpus.of(tokens, lengths, job["start_id"])

    def gather(self, rows: int, **settings: Any) -> Job:
        """Gather over the first rows of the text."""
        corpus = self._corpus.take(np.arange(rows))
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store"
            about, took = clock.measured(
                lambda: gather_features(self._crm, corpus, store, GatheringSettings(**settings))
            )
            size = sum(path.stat().st_size for path in store.iterdir())
            opened = FeatureStore.open(store)
            fired = opened.fired(Site(self._job["layer"], "mlp")).tolist()
            opened.close()
        return {
            **took,
            "features": about.n_features,
            "tokens": about.n_tokens,
            "left_out": about.n_left_out,
            "disk": size / 2**20,
            "process": peak_memory(),
            "fired": fired,
        }


if __name__ == "__main__":
    contestant = Studio(json.loads(sys.argv[1]))
    clock.serve({"gather": contestant.gather})
