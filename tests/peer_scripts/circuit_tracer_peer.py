"""Runs where circuit-tracer is installed. For each job of a JSON file it reads or writes a folder.

read FOLDER INPUTS OUT     INPUTS: x_0, x_1, …   OUT: f_0, y_0, f_1, …
write FOLDER KIND OUT      KIND: relu, jumprelu, skip, clt   OUT: x_i, f_i, y_i
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
from safetensors.torch import load_file, save_file

LAYERS, D, S = 3, 10, 24
CPU = torch.device("cpu")


def run(transcoders: object, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    stacked = torch.stack(x)
    if isinstance(transcoders, CrossLayerTranscoder):
        latents = [transcoders.encode_layer(item, i) for i, item in enumerate(x)]
        outputs = transcoders.decode(torch.stack(latents))
    else:
        latents = transcoders.encode(stacked)
        outputs = transcoders.decode(latents, stacked)
    found = {f"f_{i}": latents[i] for i in range(len(x))}
    return found | {f"y_{i}": outputs[i] for i in range(len(x))}


def make(kind: str) -> object:
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    if kind == "clt":
        made = CrossLayerTranscoder(
            LAYERS, S, D, "jump_relu", lazy_decoder=False, device=CPU, dtype=torch.float32, **hooks
        )
    else:
        each = {}
        for i in range(LAYERS):
            activation = JumpReLU(torch.zeros(S), 0.1) if kind == "jumprelu" else F.relu
            each[i] = SingleLayerTranscoder(
                D, S, activation, i, kind == "skip", device=CPU, dtype=torch.float32
            )
        made = TranscoderSet(each, scan="x", **hooks)
    for name, parameter in made.named_parameters():
        noise = torch.randn(parameter.shape) * 0.4
        parameter.data = noise.abs() if "threshold" in name else noise
    return made


@torch.no_grad()
def work(mode: str, folder: str, third: str, out: str) -> None:
    torch.manual_seed(3)
    if mode == "read":
        tensors = load_file(third)
        x = [tensors[f"x_{i}"] for i in range(len(tensors))]
        read, _ = load_transcoder_from_hub(str(Path(folder).resolve()), device=CPU)
        save_file({k: v.contiguous() for k, v in run(read, x).items()}, out)
        return
    made = make(third)
    made.to_safetensors(folder)
    config = {
        "model_kind": "cross_layer_transcoder" if third == "clt" else "transcoder_set",
        "model_name": "toy",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "x",
    }
    (Path(folder) / "config.yaml").write_text(yaml.dump(config))
    x = [torch.randn(20, D) for _ in range(LAYERS)]
    found = {f"x_{i}": item for i, item in enumerate(x)} | run(made, x)
    save_file({k: v.contiguous() for k, v in found.items()}, out)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        work(*job)
