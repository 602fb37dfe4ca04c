"""Makes what both gather: ``python prepare_dashboards.py JOB``.

The model as a folder that SAEDashboard's environment reads; a text as rows of tokens; and one
transcoder, as a replacement model of the studio and as arrays for SAELens. The transcoder has the
weights of a trained one that picks its k largest latents (``crm``), with one threshold for all in
place of that: the mean over the text of the activation that just makes it. So it is a JumpReLU
transcoder, of which SAEDashboard encodes no more than the latents it is asked for. Without ``crm``
it is untrained, with the shape and the sparsity of a trained one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from answers import Job, answer
from model_folder import write_model
from safetensors.torch import save_file

from attention_studio.core.corpus import TokenCorpus, build_corpus
from attention_studio.core.dictionaries.crm_folder import TrainingRecord, save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.utils.files import atomic_folder

_AT_ONCE = 16


@torch.no_grad()
def inputs_of(loaded: LoadedModel, corpus: TokenCorpus, layer: int) -> torch.Tensor:
    """[n, d] what the layer's MLP reads at the positions that dictionaries see."""
    site = Site(layer, "mlp")
    found = []
    for first in range(0, corpus.n_sequences, _AT_ONCE):
        ids = torch.from_numpy(corpus.tokens[first : first + _AT_ONCE]).long()
        kept = torch.from_numpy(corpus.kept()[first : first + _AT_ONCE])
        found.append(loaded.adapter.harvest(ids, [site])[site].inputs[kept])
    return torch.cat(found)


@torch.no_grad()
def transcoder_of(loaded: LoadedModel, x: torch.Tensor, job: Job) -> Transcoder:
    """The transcoder, whose threshold lets through ``l0`` latents a token on ``x``."""
    layer, d = job["layer"], loaded.adapter.d_model
    if job["crm"]:
        crm = CompleteReplacementModel.from_folder(loaded, Path(job["crm"]))
        source = crm.dictionaries.transcoders[layer]
    else:
        source = Transcoder(TranscoderConfig(d_model=d, d_latent=job["latents"], activation="relu"))
        generator = torch.Generator().manual_seed(job["seed"])
        for weight in (source.W_E, source.W_D):
            weight.copy_(torch.randn(weight.shape, generator=generator) / d**0.5)
    n = source.config.d_latent
    found = Transcoder(TranscoderConfig(d_model=d, d_latent=n, activation="jumprelu", k=job["l0"]))
    for name in ("W_E", "b_E", "W_D", "b_D"):
        getattr(found, name).copy_(getattr(source, name))
    just = [
        source.pre_activations(part).topk(job["l0"] + 1, dim=1).values[:, -1]
        for part in x.split(512)
    ]
    assert found.threshold is not None  # JumpReLU has one
    found.threshold.fill_(float(torch.cat(just).clamp_min(0.0).mean()))
    return found


def for_sae_lens(
    loaded: LoadedModel, transcoder: Transcoder, layer: int
) -> dict[str, torch.Tensor]:
    """The transcoder as SAELens has it, on what TransformerLens calls ``ln2.hook_normalized``: the
    stream divided by its length, before the norm's own factors, which go into the encoder."""
    norm = loaded.adapter.mlp_norm(layer)
    assert norm.bias is None and transcoder.threshold is not None
    return {
        "W_enc": (transcoder.W_E * norm.gain).T.contiguous(),
        "b_enc": transcoder.b_E.clone(),
        "W_dec": transcoder.W_D.clone(),
        "b_dec": transcoder.b_D.clone(),
        "threshold": transcoder.threshold.clone(),
    }


def main() -> None:
    """Write what both read; answer with where it is."""
    job: Job = json.loads(sys.argv[1])
    work = Path(job["work"])
    loaded = ModelManager().load_model_sync(
        ModelConfig(name=job["model"], device="cpu", dtype="float32")
    )
    torch.set_num_threads(job["threads"])
    folder = work / job["model"]
    if not folder.exists():
        with atomic_folder(folder) as staging:
            write_model(loaded.model, loaded.tokenizer, staging)
    seq_len = job["seq_len"]
    text = build_corpus(loaded, [job["text"]], seq_len, job["rows"] * seq_len, job["seed"])
    whole = text.lengths == seq_len
    corpus = text.take(whole.nonzero()[0])
    x = inputs_of(loaded, corpus, job["layer"])
    transcoder = transcoder_of(loaded, x, job)
    dictionaries = DictionarySet({job["layer"]: transcoder})
    save_crm(work / "crm", dictionaries, loaded.info, TrainingRecord(settings={"benchmark": job}))
    save_file(for_sae_lens(loaded, transcoder, job["layer"]), work / "peer.safetensors")
    tokens = torch.from_numpy(corpus.tokens)
    save_file({"tokens": tokens.contiguous()}, work / "tokens.safetensors")
    answer(
        {
            "folder": str(folder),
            "rows": corpus.n_sequences,
            "tokens": corpus.n_kept,
            "start_id": corpus.start_id,
            "latents": transcoder.config.d_latent,
        }
    )


if __name__ == "__main__":
    main()
