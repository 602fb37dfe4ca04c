#!/usr/bin/env python3
"""Which latents of a replacement model are dead, and which only rare: how many have been silent
through 4,096 tokens of a text, through twice as many, and so on.

    python benchmarks/silent_latents.py --model smollm2-135m --crm CRM --text TEXT --tokens 65536

One pass over the text, in its order. Norm sinks count, for some latents are there for them alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.corpus import build_corpus
from attention_studio.core.feature_firing import FiringReader
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site

_FIRST = 4096
_RARE = 1e-4


def row(name: str, times: dict[Site, NDArray[np.int64]], kind: str) -> str:
    """The share of silent latents of a kind: mean, least and most over its modules."""
    silent = [float((count == 0).mean()) for site, count in times.items() if site.kind == kind]
    if not silent:
        return ""
    return (
        f"{name:>9} {kind:>9} silent {np.mean(silent):6.1%} (least {min(silent):.1%}, "
        f"most {max(silent):.1%})"
    )


@torch.no_grad()
def main() -> None:
    """Read, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--crm", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    loaded = ModelManager().load_model_sync(
        ModelConfig(name=arguments.model, device="cpu", dtype="float32")
    )
    torch.set_num_threads(arguments.threads)
    crm = CompleteReplacementModel.from_folder(loaded, arguments.crm)
    length = arguments.seq_len
    room = arguments.tokens + arguments.tokens // 20 + 4 * length
    corpus = build_corpus(loaded, arguments.text, length, room)
    times = {site: np.zeros(crm.dictionaries.config_at(site)[0], np.int64) for site in crm.sites}
    began, done, mark = time.process_time(), 0, _FIRST
    for found in FiringReader(crm, corpus, sink_factor=0).passes(0, arguments.tokens):
        for firing in found.firings:
            times[firing.site] += np.bincount(
                firing.events.latent, minlength=len(times[firing.site])
            )
        done += len(found.places)
        if done >= mark:
            for kind in ("mlp", "attention"):
                print(row(f"{done:,}", times, kind), flush=True)
            mark *= 2
    print(f"{done:,} tokens, {time.process_time() - began:.0f} CPU s")
    for site, count in times.items():
        rare = float(((count > 0) & (count < _RARE * done)).mean())
        print(
            f"{site!s:>14} silent {float((count == 0).mean()):6.1%}  at fewer than one in 10,000 "
            f"tokens {rare:6.1%}  more than one in ten {float((count > 0.1 * done).mean()):6.1%}"
        )


if __name__ == "__main__":
    main()
