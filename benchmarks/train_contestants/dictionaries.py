"""What the studio's step and the dense loop have in common: the settings, the dictionary, its start
and what it predicts. Of the settings the loop leaves out what a plain loop has not: AuxK, clipping,
and ranking in bfloat16. Only for their kinds of job; SAELens and sparsify, which live elsewhere,
cannot import this."""

from __future__ import annotations

from typing import Union

import contest
import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.activations import Activations
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.lorsa import Lorsa, LorsaConfig
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.model_adapter import ModuleActivations
from attention_studio.core.sites import Site
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_init import initial_transcoder, layer_statistics

Dictionary = Union[Transcoder, Lorsa, CrossLayerTranscoder]


def train_config(job: contest.Job) -> TrainConfig:
    """The settings of the run that the job is the steps of."""
    layers, latents, k = tuple(job["layers"]), job["latents"], job["k"]
    shape = {
        "transcoder": {"layers": layers, "d_latent": latents, "k": k},
        "lorsa": {"attention_layers": layers, "attention_latents": latents, "attention_k": k},
        "clt": {"layers": layers, "d_latent": latents, "k": k, "mlp": "clt"},
    }[job["kind"]]
    return TrainConfig(
        **shape,
        tokens=job["steps"] * job["batch"],
        batch_tokens=job["batch"],
        block_tokens=max(job["batch"], contest.CALIBRATION_TOKENS),
        seed=job["seed"],
        **job["settings"],
    )


def activations(job: contest.Job, x: Tensor, y: Tensor) -> Activations:
    """What ``contest.Rows`` read, as the trainer hands it out."""
    layers = job["layers"]
    if job["kind"] == "lorsa":
        kept = torch.ones(x.shape[:2], dtype=torch.bool)
        kept[:, 0] = False
        return Activations({}, {Site(layers[0], "attention"): ModuleActivations(x, y)}, kept)
    several = x.dim() > 2
    rows = {
        Site(layer, "mlp"): ModuleActivations(x[:, i], y[:, i])
        if several
        else ModuleActivations(x, y)
        for i, layer in enumerate(layers)
    }
    return Activations(rows, {}, torch.zeros(0, 0, dtype=torch.bool))


def start(job: contest.Job, config: TrainConfig) -> Dictionary:
    """The dictionary before its first step. A Lorsa begins at the model's attention, which only
    ``collect.py`` has, and a cross-layer transcoder at more activations than a step should have to
    hold; so those are read from what it wrote."""
    dictionary: Dictionary
    if job["kind"] == "transcoder":
        x, y = contest.Rows(job, "train").read(0, contest.CALIBRATION_TOKENS)
        return initial_transcoder(
            config.transcoder(job["d_model"]),
            layer_statistics(x, y),
            x,
            y,
            config.init,
            config.seed,
            job["layers"][0],
            config.encoder_init,
        )
    if job["kind"] == "lorsa":
        dictionary = Lorsa(LorsaConfig(**job["lorsa"]))
    else:
        dictionary = CrossLayerTranscoder(config.clt(job["d_model"]))
    # What is not in there is zero.
    dictionary.load_state_dict(safetensors.torch.load_file(job["start"]), strict=False)
    return dictionary


def write_start(dictionary: Dictionary, path: str) -> None:
    """Write what of a start is not zero."""
    tensors = dictionary.state_dict().items()
    safetensors.torch.save_file({name: t for name, t in tensors if bool(t.any())}, path)


def predict(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """See ``contest.Contestant``."""
    if isinstance(dictionary, CrossLayerTranscoder):
        f = {i: dictionary.encode(i, x[:, i]) for i in range(x.shape[1])}
        guesses = [dictionary.decode_to(j, f) for j in f]
        return torch.stack(guesses, 1), torch.stack([part > 0 for part in f.values()], 1)
    f_all = dictionary.encode(x)
    if isinstance(dictionary, Transcoder):
        return dictionary.decode(f_all, x), f_all > 0
    return dictionary.decode(f_all), f_all > 0
