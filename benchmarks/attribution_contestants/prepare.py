"""Makes what everybody traces: ``python prepare.py JOB``.

The model as a folder that circuit-tracer's environment reads, and for it untrained transcoders and
Lorsas of a given L0. They start where training starts (``core.training_init``,
``core.lorsa_init``): JumpReLU thresholds at which each latent fires on the share L0/latents of the
tokens, decoders that are each latent's mean linear response. The tokens are what the model itself
says, sampled from a seed. So nothing is learnt, but shapes, sparsity and sizes are those of trained
dictionaries. What is there from another run is used again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from answers import Job, answer
from model_folder import write_model
from torch import Tensor

from attention_studio.core.dictionaries.crm_folder import ModelReference, TrainingRecord, save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign import circuit_tracer
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.lorsa_init import AttentionBlock, initial_lorsa, lorsa_config
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.sites import SITE_KINDS, Site
from attention_studio.core.training_init import initial_transcoder, layer_statistics
from attention_studio.utils.files import atomic_folder

_SEQUENCES, _LENGTH = 8, 288


def load(job: Job) -> LoadedModel:
    """The model, in float32 on the CPU."""
    loaded = ModelManager().load_model_sync(
        ModelConfig(name=job["model"], device="cpu", dtype="float32")
    )
    torch.set_num_threads(job["threads"])  # the manager sets what the person's settings say
    return loaded


@torch.no_grad()
def said(loaded: LoadedModel, seed: int) -> Tensor:
    """What the model says [sequences, T], start token included."""
    torch.manual_seed(seed)
    start = torch.full((_SEQUENCES, 1), loaded.start_token_id or 0)
    new = _LENGTH - 1
    found: Tensor = loaded.model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        top_k=0,
        max_new_tokens=new,
        min_new_tokens=new,
        pad_token_id=0,
    )
    return found


@torch.no_grad()
def dictionaries(loaded: LoadedModel, ids: Tensor, job: Job) -> DictionarySet:
    """A transcoder and a Lorsa for every layer."""
    adapter, seed = loaded.adapter, job["seed"]
    transcoders: dict[int, Transcoder] = {}
    lorsas: dict[int, Lorsa] = {}
    kept = torch.ones(ids.shape, dtype=torch.bool)
    kept[:, 0] = False
    layers = range(adapter.n_layers)
    seen = adapter.harvest(ids, [Site(i, kind) for i in layers for kind in SITE_KINDS])
    for layer in layers:
        attention, mlp = (seen.pop(Site(layer, kind)) for kind in SITE_KINDS)
        x, y = mlp.inputs[kept], mlp.outputs[kept]
        transcoders[layer] = initial_transcoder(
            TranscoderConfig(
                d_model=adapter.d_model,
                d_latent=job["latents"],
                activation="jumprelu",
                k=job["l0"],
            ),
            layer_statistics(x, y),
            x,
            y,
            "response",
            seed,
            layer,
            "random",
        )
        rules = adapter.query_key(layer)
        lorsas[layer] = initial_lorsa(
            lorsa_config(rules, job["latents"], "jumprelu", job["l0"]),
            AttentionBlock(rules, adapter.value_output(layer)),
            layer_statistics(attention.inputs[kept], attention.outputs[kept]),
            attention.inputs,
            attention.outputs,
            kept,
            "response",
            seed,
            layer,
        )
        transcoders[layer].fold()
        lorsas[layer].fold()
    return DictionarySet(transcoders, lorsas)


def main() -> None:
    """Write what is missing; answer with where it is."""
    job: Job = json.loads(sys.argv[1])
    work = Path(job["work"])
    name = "{latents}-l0-{l0}-seed-{seed}".format(**job)
    made = {part: str(work / f"{part}-{name}") for part in ("transcoders", "kept", "complete")}
    made["folder"], made["text"] = str(work / job["model"]), str(work / f"text-{name}.txt")
    if not all(Path(path).exists() for path in made.values()):
        loaded = load(job)
        ids = said(loaded, job["seed"])
        both = dictionaries(loaded, ids, job)
        only_mlps = DictionarySet(both.transcoders)
        record = TrainingRecord(settings={"untrained": job})
        if not Path(made["folder"]).exists():
            with atomic_folder(Path(made["folder"])) as staging:
                write_model(loaded.model, loaded.tokenizer, staging)
        with atomic_folder(Path(made["transcoders"])) as staging:
            reference = ModelReference.of(loaded.info)
            circuit_tracer.write_folder(staging, only_mlps, reference)
        save_crm(Path(made["kept"]), only_mlps, loaded.info, record)
        save_crm(Path(made["complete"]), both, loaded.info, record)
        text = "\n".join(loaded.tokenizer.decode(row) for row in ids[:, 1:].tolist())
        Path(made["text"]).write_text(text, encoding="utf-8")
    answer(made)


if __name__ == "__main__":
    main()
