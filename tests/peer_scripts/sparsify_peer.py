"""Runs where sparsify is installed. For each job of a JSON file it reads folders or writes one.

read FOLDER INPUTS OUT     INPUTS: x_0, x_1, …   OUT: f_0, y_0, f_1, …
write FOLDER KIND OUT      KIND: plain, skip     OUT: x_0, f_0, y_0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

D, S = 10, 24


def run(coder: SparseCoder, i: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = coder.encode(x)
    dense = torch.zeros(len(x), coder.num_latents)
    dense.scatter_(1, found.top_indices, found.top_acts)
    return {f"f_{i}": dense, f"y_{i}": coder(x).sae_out}


@torch.no_grad()
def work(mode: str, folder: str, third: str, out: str) -> None:
    torch.manual_seed(3)
    found: dict[str, torch.Tensor] = {}
    if mode == "read":
        tensors = load_file(third)
        coders = SparseCoder.load_many(folder, local=True)
        for i in range(len(tensors)):
            found |= run(coders[f"layers.{i}.mlp"], i, tensors[f"x_{i}"])
    else:
        config = SparseCoderConfig(
            num_latents=S, k=5, transcode=True, skip_connection=third == "skip"
        )
        coder = SparseCoder(D, config)
        for parameter in coder.parameters():
            parameter.data = torch.randn(parameter.shape) * 0.4
        coder.save_to_disk(f"{folder}/layers.0.mlp")
        x = torch.randn(20, D)
        found = {"x_0": x, **run(coder, 0, x)}
    save_file({k: v.contiguous() for k, v in found.items()}, out)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        work(*job)
