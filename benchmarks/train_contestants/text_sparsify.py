"""From text to one trained transcoder with sparsify's own tokenising and ``Trainer``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import contest
from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from sparsify.data import chunk_and_tokenize
from transformers import AutoModelForCausalLM, AutoTokenizer


def work(job: contest.Job) -> int:
    """Its defaults, except for what makes the work the same: width, k, batch and Adam."""
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    sequences = job["batch"] // job["seq_len"]
    with tempfile.TemporaryDirectory() as folder:
        job["start"]()
        # About four characters make a token; six are enough.
        text = Path(job["text"]).read_text(encoding="utf-8")[: 6 * job["tokens"]]
        # In one process, as the others: what children use would not be counted.
        data = chunk_and_tokenize(
            Dataset.from_dict({"text": [text]}),
            tokenizer,
            max_seq_len=job["seq_len"],
            num_proc=None,  # type: ignore[arg-type]
        )
        data = data.select(range(job["tokens"] // job["batch"] * sequences))
        config = TrainConfig(
            SparseCoderConfig(num_latents=job["latents"], k=job["k"], transcode=True),
            batch_size=sequences,
            optimizer="adam",
            hookpoints=[f"layers.{layer}.mlp" for layer in job["layers"]],
            log_to_wandb=False,
            save_dir=folder,
        )
        Trainer(config, data, model).fit()
    return len(data) * job["seq_len"]


if __name__ == "__main__":
    contest.run_once(work)
