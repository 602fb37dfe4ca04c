"""Runs where Llamascopium is installed. For each job of a JSON file it reads folders or writes one.

read FOLDER INPUTS OUT     INPUTS: x_0, x_1, …   OUT: f_0, y_0, f_1, …
write FOLDER KIND OUT      KIND: sae, lorsa or clt, and settings as NAME=VALUE, with commas
                           OUT: x_i, f_i, y_i in units of raw activations
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder
from llamascopium.models.lorsa import LorsaConfig, LowRankSparseAttention
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.models.sparse_dictionary import SparseDictionary
from safetensors.torch import load_file, save_file

D, S, LAYERS = 10, 20, 3
CLASSES = {
    "sae": (SAEConfig, SparseAutoEncoder),
    "lorsa": (LorsaConfig, LowRankSparseAttention),
    "clt": (CLTConfig, CrossLayerTranscoder),
}


def run(model: SparseDictionary, x: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and outputs in units of raw activations, for raw inputs by hook."""
    outs = {hook: torch.zeros(1, D) for hook in model.cfg.hooks_out}
    scaled, factors = model.normalize_activations({**x, **outs}, return_scale_factor=True)
    given, encoder, decoder = model.prepare_input(scaled)
    latents = model.encode(given, **encoder)
    outputs = model.decode(latents, **decoder)
    hooks = model.cfg.hooks_out
    if isinstance(model, CrossLayerTranscoder):
        raw = torch.stack([y / factors[hook] for y, hook in zip(outputs, hooks, strict=True)])
        return latents.transpose(0, 1), raw
    return latents, outputs / factors[hooks[0]]


def found_of(model: SparseDictionary, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    lorsa = isinstance(model, LowRankSparseAttention)
    given = {
        hook: item.unsqueeze(0) if lorsa else item
        for hook, item in zip(model.cfg.hooks_in, x, strict=True)
    }
    latents, outputs = run(model, given)
    if not isinstance(model, CrossLayerTranscoder) and not lorsa:
        latents, outputs = latents.unsqueeze(0), outputs.unsqueeze(0)
    found = {f"f_{i}": item for i, item in enumerate(latents)}
    return found | {f"y_{i}": item for i, item in enumerate(outputs)}


def make(text: str) -> SparseDictionary:
    kind, *pairs = text.split(",")
    given = {name: json.loads(value) for name, value in (pair.split("=") for pair in pairs)}
    settings: dict[str, Any] = {"d_model": D, "expansion_factor": S / D, "top_k": 5, **given}
    if kind == "clt":
        settings["hook_points_in"] = [f"blocks.{i}.mlp.hook_in" for i in range(LAYERS)]
        settings["hook_points_out"] = [f"blocks.{i}.hook_mlp_out" for i in range(LAYERS)]
    else:
        part = "attn" if kind == "lorsa" else "mlp"
        settings["hook_point_in"] = f"blocks.0.{part}.hook_in"
        settings["hook_point_out"] = f"blocks.0.hook_{part}_out"
    if kind == "lorsa":
        settings = {
            "n_qk_heads": 2,
            "d_qk_head": 6,
            "rotary_dim": 4,
            "rotary_base": 500,
            "n_ctx": 64,
            **settings,
        }
    config_class, model_class = CLASSES[kind]
    model = model_class(config_class(**settings))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape) * 0.4
        parameter.data = noise.abs().log() if "threshold" in name else noise
        if name.startswith("ln_"):
            parameter.data = torch.randn(parameter.shape[1:]).expand(parameter.shape).clone()
    if model.cfg.norm_activation == "dataset-wise":
        hooks = model.cfg.associated_hook_points
        model.set_dataset_average_activation_norm({h: 1.7 + i for i, h in enumerate(hooks)})
    return model


@torch.no_grad()
def work(mode: str, folder: str, third: str, out: str) -> None:
    torch.manual_seed(3)
    if mode == "read":
        tensors = load_file(third)
        x = [tensors[f"x_{i}"] for i in range(len(tensors))]
        (place,) = Path(folder).iterdir()
        found = found_of(SparseDictionary.from_pretrained(str(place)), x)
    else:
        made = make(third)
        made.save_pretrained(folder)
        made.cfg.save_hyperparameters(folder)
        n = LAYERS if isinstance(made, CrossLayerTranscoder) else 1
        x = [torch.randn(20, D) for _ in range(n)]
        found = {f"x_{i}": item for i, item in enumerate(x)} | found_of(made, x)
    save_file({k: v.contiguous() for k, v in found.items()}, out)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        work(*job)
