#!/usr/bin/env python3
"""Rebuilds the demo that comes with the package, from nothing but a seed.

    python scripts/build_demo.py [--seed 0] [--out src/attention_studio/demo/assets] [--stage all]

Says what it reached. The stages build on each other; each writes its files whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from attention_studio.core.training_events import Evaluated, TrainEvent
from attention_studio.demo.building import build_model
from attention_studio.demo.dictionaries import CRM_FOLDERS, build_crm
from attention_studio.utils.config import usable_cores
from attention_studio.utils.errors import StudioError
from attention_studio.utils.paths import DEMO_ASSETS

SAY_EVERY = 100


def model_stage(seed: int, out: Path) -> None:
    """The model, its tokenizer and the standard prompts."""
    started = time.monotonic()

    def watch(step: int, loss: float, model: object) -> None:
        if (step + 1) % SAY_EVERY == 0:
            print(f"step {step + 1}: loss {loss:.3f}, {time.monotonic() - started:.0f} s")

    report = build_model(seed, out, watch=watch)
    print(f"{report.n_parameters:,} parameters, {time.monotonic() - started:.0f} s")
    print(f"{'held-out samples of':<20}{'answers':>9}{'right':>9}{'probability':>13}")
    for task, score in report.scores.items():
        print(f"{task:<20}{score.answers:>9}{score.accuracy:>9.1%}{score.probability:>13.1%}")


def crm_stage(seed: int, out: Path) -> None:
    """The complete replacement models."""
    for name in CRM_FOLDERS:
        started = time.monotonic()

        def watch(event: TrainEvent, name: str = name, started: float = started) -> None:
            if isinstance(event, Evaluated):
                fvu = ", ".join(f"{row.site} {row.fvu:.3f}" for row in event.metrics)
                print(f"{name}, step {event.step}, {time.monotonic() - started:.0f} s: FVU {fvu}")

        found = build_crm(seed, out, name, on_event=watch)
        print(f"{name}: {found.n_bytes / 1e6:.1f} MB, {time.monotonic() - started:.0f} s")
        for measured, value in asdict(found).items():
            if measured != "n_bytes":
                print(f"  {measured:<16}{value:.4f}")


STAGES: dict[str, Callable[[int, Path], None]] = {"model": model_stage, "crm": crm_stage}
"""In the order in which they build on each other."""


def main() -> int:
    """Run the stages that were asked for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the world, the text, the weights")
    parser.add_argument("--out", type=Path, default=DEMO_ASSETS, help="folder to write into")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        for name, stage in STAGES.items():
            if arguments.stage in (name, "all"):
                print(f"Stage {name}, seed {arguments.seed}, into {arguments.out}")
                stage(arguments.seed, arguments.out)
    except StudioError as error:
        print(f"build_demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
