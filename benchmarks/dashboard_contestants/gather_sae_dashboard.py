"""SAEDashboard's own gathering, ``SaeVisRunner``, with its settings as they come.

It runs the model again for every batch of features unless it is given a folder to keep the model's
activations in, which it is. What it gathers stays in memory; writing it is not measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import clock
import torch
from answers import Job, peak_memory
from lens_model import fill, lens_config
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import HookedSAETransformer
from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer


class SaeDashboard:
    """A model with one transcoder, and the text."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job["threads"])
        self._job, self._work = job, Path(job["work"])
        folder = Path(job["folder"])
        self._model = HookedSAETransformer(
            lens_config(folder), AutoTokenizer.from_pretrained(folder)
        )
        fill(self._model, folder)
        self._tokens = load_file(self._work / "tokens.safetensors")["tokens"].long()
        self._hook = f"blocks.{job['layer']}.ln2.hook_normalized"

    def _transcoder(self) -> JumpReLUTranscoder:
        """Made anew each time: a run scales its weights."""
        weights = load_file(self._work / "peer.safetensors")
        d, n = weights["W_enc"].shape
        found = JumpReLUTranscoder(
            JumpReLUTranscoderConfig(d_in=d, d_sae=n, d_out=d, apply_b_dec_to_input=False)
        )
        found.load_state_dict(weights)
        return found

    def gather(self, rows: int, features: list[int], batch: int) -> Job:
        """Gather some features over the first rows of the text, so many features at once."""
        transcoder = self._transcoder()
        start = self._job["start_id"]
        with tempfile.TemporaryDirectory() as cache:
            config = SaeVisConfig(
                hook_point=self._hook,
                features=features,
                minibatch_size_features=batch,
                ignore_positions=[0],
                ignore_tokens=set() if start is None else {start},
                cache_dir=Path(cache),
            )
            found, took = clock.measured(
                lambda: SaeVisRunner(config).run(transcoder, self._model, self._tokens[:rows])
            )
        bars = [found.feature_data_dict[i].acts_histogram_data.bar_heights for i in features]
        return {
            **took,
            "features": len(found.feature_data_dict),
            "tokens": rows * self._tokens.shape[1],
            "process": peak_memory(),
            "fired": [int(sum(heights)) for heights in bars],
        }


if __name__ == "__main__":
    contestant = SaeDashboard(json.loads(sys.argv[1]))
    clock.serve({"gather": contestant.gather})
