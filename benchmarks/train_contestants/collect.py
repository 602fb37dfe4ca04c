"""Writes the activations that everyone trains on: ``python collect.py JOB``.

Inputs and outputs of the layers' MLPs side by side, float32, rows in random order, first tokens of
documents left out, as the trainer does. Of attention: whole sequences in random order, those of
which all positions but the first count. Where a Lorsa or a cross-layer transcoder is to be trained,
its start, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import contest
import numpy as np
import torch
from dictionaries import activations, train_config, write_start

from attention_studio.core.activations import ActivationBlock, choose_harvest_dtype
from attention_studio.core.corpus import TokenCorpus, build_corpus
from attention_studio.core.harvest_model import harvest_adapter
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.sites import Site
from attention_studio.core.training_config import HarvestDtype
from attention_studio.core.training_modules import dictionaries_of
from attention_studio.core.training_setup import ModuleFactory

_BATCH = 8


def load(job: contest.Job) -> LoadedModel:
    """The model, in float32 on the CPU."""
    loaded = ModelManager().load_model_sync(
        ModelConfig(name=job["model"], device="cpu", dtype="float32")
    )
    torch.set_num_threads(job["threads"])  # the manager sets what the person's settings say
    return loaded


def harvester(loaded: LoadedModel, sites: tuple[Site, ...], wanted: HarvestDtype) -> ModelAdapter:
    """The model as the studio's trainer would run it for ``sites``."""
    own = loaded.adapter
    return harvest_adapter(loaded, choose_harvest_dtype(wanted, own.device, own.dtype), sites)


def write(adapter: ModelAdapter, corpus: TokenCorpus, job: contest.Job, path: Path, n: int) -> None:
    """Fill ``path`` with ``n`` tokens."""
    sites = train_config(job).sites
    of_sequences = job["kind"] == "lorsa"
    parts: list[torch.Tensor] = []
    count = 0
    for start in range(0, corpus.n_sequences, _BATCH):
        rows = np.arange(start, min(start + _BATCH, corpus.n_sequences))
        ids = torch.from_numpy(corpus.tokens[rows].astype(np.int64))
        keep = torch.from_numpy(corpus.kept(rows))
        if of_sequences:
            keep = keep[:, 1:].all(1)
        found = adapter.harvest(ids, sites)
        inputs, outputs = (
            [getattr(found[site], what)[keep] for site in sites] for what in ("inputs", "outputs")
        )
        parts.append(torch.cat([*inputs, *outputs], -1).float())
        count += parts[-1].shape[:-1].numel()
        if count >= n:
            break
    if count < n:
        sys.exit(f"{path.name}: the text gives {count} activations, {n} are wanted")
    everything = torch.cat(parts)[: n // job["seq_len"] if of_sequences else n]
    generator = torch.Generator().manual_seed(job["seed"])
    everything[torch.randperm(len(everything), generator=generator)].numpy().tofile(path)


def make_start(loaded: LoadedModel, job: contest.Job) -> contest.Job:
    """Write where the trainer would start from the first activations; says what it is of."""
    config = train_config(job)
    rows = contest.Rows(job, "train").read(0, contest.CALIBRATION_TOKENS)
    tokens = min(contest.CALIBRATION_TOKENS, job["tokens"])
    block = ActivationBlock(0, tokens, activations(job, *rows))
    factory = ModuleFactory(loaded, config, torch.device("cpu"), torch.float32)
    found = dictionaries_of(factory.fresh(block).modules)
    if found.clt is not None:
        write_start(found.clt, job["start"])
        return {}
    lorsa = found.lorsas[job["layers"][0]]
    write_start(lorsa, job["start"])
    return {"lorsa": lorsa.config.model_dump()}


def main() -> None:
    """Write both files; answer with the facts of the model that contestants need."""
    job: contest.Job = json.loads(sys.argv[1])
    loaded = load(job)
    adapter = harvester(loaded, train_config(job).sites, job["harvest_dtype"])
    for name, text, n in (
        ("train", job["text"], job["tokens"]),
        ("heldout", job["heldout_text"], job["heldout_tokens"]),
    ):
        # Some tokens are not kept: the first of each sequence, and start tokens.
        corpus = build_corpus(loaded, [text], job["seq_len"], n + n // 20 + 4 * job["seq_len"])
        write(adapter, corpus, job, Path(job[name]), n)
    folder, info = ModelManager().fetch(job["model"]), loaded.info
    facts = {"folder": str(folder), "d_model": info.d_model, "n_layers": info.n_layers}
    if job["kind"] != "transcoder":
        facts |= make_start(loaded, {**job, **facts})
    contest.answer(facts)


if __name__ == "__main__":
    main()
