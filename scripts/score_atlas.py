#!/usr/bin/env python3
"""Compares the demo's global weights with graphs of prompts that they were not gathered on.

    python scripts/score_atlas.py [--crm demo] [--tokens 65536] [--keep 64] [--atlas FILE]

Gathers global weights over the demo's training text (or takes those of --atlas), traces the
held-out standard prompts, and prints how well the ones foretell the others, beside what virtual
weights alone foretell and what one half of the prompts foretells of the other; then whether the
inputs of features that tell an unsaid region tell the same region.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_studio.core.corpus import build_corpus
from attention_studio.core.global_files import load_global_weights
from attention_studio.core.global_statistics import GlobalSettings, gather
from attention_studio.core.global_weights import GlobalWeights
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.atlas_agreement import (
    agreement,
    effect_matrix,
    prompt_effects,
    step_inputs,
    telling,
)
from attention_studio.demo.building import PROMPTS_FILE
from attention_studio.demo.text import DemoText
from attention_studio.utils.config import usable_cores
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json, write_json_atomic
from attention_studio.utils.paths import DEMO_ASSETS, crm_folder

_PART = 7
"""Which of the endless streams of training text is read."""
_SAMPLES = 20_000
_RARE = 0.05
"""Inputs that are active at fewer of the tokens are rare: what is nearly always on tells little."""


def main() -> int:
    """Score, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crm", default="demo", help="demo, demo-clt or a folder")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--atlas", type=Path, help="take these global weights, or write them here")
    parser.add_argument("--keep", type=int, help="gather with lists of so many sources too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    try:
        _score(arguments)
    except StudioError as error:
        print(f"score_atlas.py: {error}", file=sys.stderr)
        return 1
    return 0


def _score(arguments: argparse.Namespace) -> None:
    loaded = ModelManager().load_model_sync(ModelConfig(name="demo", device="cpu"))
    replacement = CompleteReplacementModel.from_folder(loaded, crm_folder(arguments.crm))
    text = DemoText(0)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.atlas or Path(folder) / "atlas.safetensors"
        found: dict[str, Any] = {}
        source = Path(folder) / "text.jsonl"
        stream = itertools.islice(text.stream(held_out=False, part=_PART), _SAMPLES)
        source.write_text("".join(json.dumps({"text": s.text}) + "\n" for s in stream))
        corpus = build_corpus(loaded, [str(source)], max_tokens=arguments.tokens)
        if not path.exists():
            started = time.process_time()
            gather(replacement, corpus, path)
            found["cpu_seconds"] = time.process_time() - started
        found["megabytes"] = path.stat().st_size / 1e6
        started = time.perf_counter()
        weights = load_global_weights(path)
        found["load_seconds"] = time.perf_counter() - started
        if arguments.keep:
            started = time.process_time()
            short_path = Path(folder) / "short.safetensors"
            settings = GlobalSettings(keep=arguments.keep)
            short = gather(replacement, corpus, short_path, settings)
            found["kept"] = {
                f"{arguments.keep} sources": {
                    "cpu_seconds": time.process_time() - started,
                    "megabytes": short_path.stat().st_size / 1e6,
                    **_kept(weights, short),
                }
            }
    found |= {"tokens": weights.about.n_tokens, "pairs": weights.n_pairs}
    found["first_question_seconds"] = _timed(weights, 1)
    found["question_seconds"] = _timed(weights, 200)
    records = read_json(DEMO_ASSETS / PROMPTS_FILE)
    prompts = [r["prompt"] for r in records if r["held_out"] and not r["classic"]]
    found["prompts"] = len(prompts)
    every = prompt_effects(replacement, weights.table, prompts)
    halves = [prompt_effects(replacement, weights.table, prompts[i::2]) for i in (0, 1)]
    effects, virtual = effect_matrix(weights), effect_matrix(weights, "virtual")
    told = telling(replacement, weights.table, text)
    rare = weights.times < _RARE * weights.about.n_tokens
    found["foretold"] = {
        "global weights": asdict(agreement(effects, every)),
        "virtual weights": asdict(agreement(virtual, every)),
        "global weights, half": asdict(agreement(effects, halves[1])),
        "the other half": asdict(agreement(halves[0].effect, halves[1])),
    }
    found["inputs"] = {
        "global weights": asdict(step_inputs(effects, weights, told)),
        "virtual weights": asdict(step_inputs(virtual, weights, told)),
        "global weights, rare inputs": asdict(step_inputs(effects * rare, weights, told)),
        "virtual weights, rare inputs": asdict(step_inputs(virtual * rare, weights, told)),
    }
    if arguments.json is not None:
        write_json_atomic(arguments.json, found)
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name}: {value:,.6g}")
    for name in ("kept", "foretold", "inputs"):
        rows = found.get(name)
        if rows is None:
            continue
        print("\n" + " | ".join([name, *next(iter(rows.values()))]))
        for label, row in rows.items():
            print(" | ".join([label, *(f"{value:.4g}" for value in row.values())]))


def _kept(exact: GlobalWeights, short: GlobalWeights) -> dict[str, float]:
    """What lists of the largest have of the exact ten strongest inputs, and their bound."""
    shares = []
    for latent in range(len(exact.table)):
        best = exact.upstream(latent, 10).others
        if len(best) == 10:
            shares.append(np.isin(best, short.upstream(latent, 10).others).mean())
    slack = short.slack / np.maximum(short.reads, 1e-30)
    return {
        "ten_strongest": float(np.mean(shares)),
        "median_slack_share": float(np.median(slack[short.reads > 0])),
        "largest_slack_share": float(slack.max()),
    }


def _timed(weights: GlobalWeights, latents: int) -> float:
    """Mean seconds for the ten strongest above and below a feature."""
    chosen = np.linspace(0, len(weights.table) - 1, latents).astype(int)
    started = time.perf_counter()
    for latent in chosen.tolist():
        weights.upstream(latent, 10)
        weights.downstream(latent, 10)
    return (time.perf_counter() - started) / latents


if __name__ == "__main__":
    sys.exit(main())
