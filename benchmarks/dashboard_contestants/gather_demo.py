"""Gathers all features of the demo: ``python gather_demo.py TOKENS THREADS``; answers in JSON."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import clock
import torch
from answers import answer

from attention_studio.core.feature_gathering import gather_features
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.known_features import demo_corpus
from attention_studio.utils.paths import crm_folder


def main() -> None:
    """Gather, answer."""
    tokens, threads = int(sys.argv[1]), int(sys.argv[2])
    loaded = ModelManager().load_model_sync(ModelConfig("demo", device="cpu"))
    torch.set_num_threads(threads)
    crm = CompleteReplacementModel.from_folder(loaded, crm_folder("demo"))
    corpus = demo_corpus(loaded, tokens)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        about, took = clock.measured(lambda: gather_features(crm, corpus, store))
        size = sum(path.stat().st_size for path in store.iterdir()) / 2**20
    counts = {"features": about.n_features, "tokens": about.n_tokens}
    answer({**took, **counts, "disk": size})


if __name__ == "__main__":
    main()
