"""How much memory gathering dashboards takes beyond the model, at several lengths and widths.

    python benchmarks/dashboard_memory.py --tokens 16384 65536 --widths 2048 16384

The demo model with random TopK transcoders at all layers; each measurement is a process of its own.
Printed is the peak of the process's resident memory, before gathering (model and dictionaries) and
after it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_ACTIVE = 32


def measure(tokens: int, width: int, neighbours: bool) -> dict[str, float]:
    """Gather once, here."""
    import torch

    from attention_studio.core.dictionaries.dictionary_set import DictionarySet
    from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
    from attention_studio.core.feature_gathering import GatheringSettings, gather_features
    from attention_studio.core.model_manager import ModelConfig, ModelManager
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.demo.known_features import demo_corpus

    torch.set_num_threads(1)
    loaded = ModelManager().load_model_sync(ModelConfig("demo", device="cpu"))
    generator = torch.Generator().manual_seed(0)
    d, made = loaded.adapter.d_model, {}
    for layer in range(loaded.adapter.n_layers):
        config = TranscoderConfig(d_model=d, d_latent=width, activation="topk", k=N_ACTIVE)
        made[layer] = Transcoder(config)
        for weight in (made[layer].W_E, made[layer].W_D):
            weight.copy_(torch.randn(width, d, generator=generator) / d**0.5)
    crm = CompleteReplacementModel(loaded, DictionarySet(made))
    corpus = demo_corpus(loaded, tokens)
    before, started = _peak(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        settings = GatheringSettings(neighbours=neighbours, memory_mib=64)
        gather_features(crm, corpus, Path(folder) / "store", settings)
    return {
        "tokens": corpus.n_kept,
        "features": width * len(made),
        "before_mib": before,
        "peak_mib": _peak(),
        "cpu_seconds": time.process_time() - started,
    }


def _peak() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Measure each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 16_384])
    parser.add_argument("--neighbours", action="store_true", help="compare features too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(arguments.tokens[0], arguments.widths[0], arguments.neighbours)
        print(json.dumps(found))
        return
    for width in arguments.widths:
        for tokens in arguments.tokens:
            words = ["--one", "--tokens", str(tokens), "--widths", str(width)]
            words += ["--neighbours"] if arguments.neighbours else []
            done = subprocess.run(
                [sys.executable, __file__, *words], capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{found['tokens']:>8,} tokens, {found['features']:>7,} features: "
                f"{found['before_mib']:6.0f} MiB before, {found['peak_mib']:6.0f} MiB at the peak, "
                f"{found['cpu_seconds']:6.1f} s of CPU",
                flush=True,
            )


if __name__ == "__main__":
    main()
