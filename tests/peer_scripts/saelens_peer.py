"""Runs where SAELens is installed. For each job of a JSON file it reads folders or writes one.

read FOLDER INPUTS OUT       INPUTS: x_0, x_1, …   OUT: f_0, y_0, f_1, …
write FOLDER ARCHITECTURE OUT                      OUT: x_0, f_0, y_0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class
from safetensors.torch import load_file, save_file

D, S = 10, 24


def run(sae: SAE, i: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"f_{i}": sae.encode(x), f"y_{i}": sae(x)}


def make(architecture: str) -> SAE:
    sae_class, config_class = get_sae_class(architecture)
    settings = {"d_in": D, "d_sae": S, "apply_b_dec_to_input": False}
    if architecture.endswith("transcoder"):
        settings["d_out"] = D
    if architecture == "topk":
        settings |= {"k": 5, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}
    sae = sae_class(config_class(**settings))
    sae.cfg.metadata.hook_name = "blocks.0.mlp.hook_in"
    sae.cfg.metadata.hook_name_out = "blocks.0.hook_mlp_out"
    for name, parameter in sae.named_parameters():
        noise = torch.randn(parameter.shape) * 0.4
        parameter.data = noise.abs() if "threshold" in name else noise
    return sae


@torch.no_grad()
def work(mode: str, folder: str, third: str, out: str) -> None:
    torch.manual_seed(3)
    found: dict[str, torch.Tensor] = {}
    if mode == "read":
        tensors = load_file(third)
        for i in range(len(tensors)):
            sae = SAE.load_from_disk(Path(folder) / f"mlp_{i:02d}")
            found |= run(sae, i, tensors[f"x_{i}"])
    else:
        made = make(third)
        made.save_model(folder)
        x = torch.randn(20, D)
        found = {"x_0": x, **run(made, 0, x)}
    save_file({k: v.contiguous() for k, v in found.items()}, out)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        work(*job)
