"""From text to trained transcoders with the studio, through what its headless command calls."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import contest
from collect import load

from attention_studio.core.crm_trainer import run_to_end
from attention_studio.core.training_events import OffThread, TrainEvent
from attention_studio.core.training_request import TrainRequest, prepare_training


class _Clock:
    """Adds up the CPU seconds between a run's events by what was done. "prepare" has the first
    block's harvest in it."""

    def __init__(self, parts: dict[str, float]) -> None:
        self._parts = parts
        self._last = time.process_time()

    def stop(self, name: str) -> None:
        """Since the last stop it was this."""
        now = time.process_time()
        self._parts[name] = self._parts.get(name, 0.0) + now - self._last
        self._last = now

    def __call__(self, event: TrainEvent) -> None:
        self.stop(event.kind if isinstance(event, OffThread) else "steps")


def work(job: contest.Job) -> int:
    """Tokenise, harvest, train, write the replacement model."""
    loaded = load(job)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "layers": tuple(job["layers"]),
            "d_latent": job["latents"],
            "k": job["k"],
            "tokens": job["tokens"],
            "batch_tokens": job["batch"],
            "block_tokens": min(16_384, job["tokens"]),
            "seq_len": job["seq_len"],
            # Nobody else measures anything, so this is kept to the least that is possible.
            "heldout_tokens": 128,
            "downstream_tokens": 0,
            "eval_every": job["tokens"],
            "checkpoint_every": job["tokens"],
        }
        job["start"]()
        request = TrainRequest(
            model=job["model"],
            sources=(job["text"],),
            heldout_sources=(job["heldout_text"],),
            settings=tuple(settings.items()),
            out_dir=Path(folder) / "crm",
        )
        clock = _Clock(job["parts"])
        trainer = prepare_training(loaded, request)
        clock.stop("text")
        run_to_end(trainer, on_event=clock)
        clock.stop("end")
    return trainer.step * job["batch"]


if __name__ == "__main__":
    contest.run_once(work)
