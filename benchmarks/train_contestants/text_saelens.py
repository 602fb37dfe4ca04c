"""From text to one trained dictionary with SAELens' own runner.

Its runner cannot train a transcoder; what is timed is its TopK SAE on the MLP's output, which is
the same work but for reading the inputs.
"""

from __future__ import annotations

from pathlib import Path

import contest
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig
from sae_lens.load_model import HookedProxyLM
from sae_lens.saes.topk_sae import TopKTrainingSAEConfig
from transformers import AutoModelForCausalLM, AutoTokenizer


def work(job: contest.Job) -> int:
    """Its defaults, except for what makes the work the same, and a buffer no larger than that."""
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    hook = f"model.layers.{job['layers'][0]}.mlp"
    model = HookedProxyLM(model, tokenizer, hook_names=[hook])
    sequences = job["batch"] // job["seq_len"]
    tokens = job["tokens"] // job["batch"] * job["batch"]
    job["start"]()
    text = Path(job["text"]).read_text(encoding="utf-8")
    # Documents, not one endless line; the runner reads no more than it needs.
    pieces = [text[i : i + 4000] for i in range(0, len(text), 4000)]
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            k=job["k"],
            d_in=job["d_model"],
            d_sae=job["latents"],
            device="cpu",
            normalize_activations="none",
        ),
        model_name=job["model"],
        model_class_name="AutoModelForCausalLM",
        hook_name=hook,
        dataset_path="given",
        is_dataset_tokenized=False,
        streaming=False,
        context_size=job["seq_len"],
        prepend_bos=False,
        training_tokens=tokens,
        train_batch_size_tokens=job["batch"],
        store_batch_size_prompts=sequences,
        # Counted in sequences; it has to hold some training batches.
        n_batches_in_buffer=4 * sequences,
        device="cpu",
        lr=job["rate"],
        autocast=job.get("autocast", False),
        autocast_lm=job.get("autocast", False),
        logger=LoggingConfig(log_to_wandb=False),
        output_path=None,
        checkpoint_path=None,
        verbose=False,
    )
    runner = LanguageModelSAETrainingRunner(
        config, override_dataset=Dataset.from_dict({"text": pieces}), override_model=model
    )
    runner.run()
    return tokens


if __name__ == "__main__":
    contest.run_once(work)
