"""SAELens: its trainer, optimizer, clipping and accounting.

It has no transcoder that can be trained, so here is the least one: its TopK SAE, fed inputs and
outputs side by side, that encodes the one and is scored on the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import contest
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor


class TopKTranscoder(TopKTrainingSAE):
    """Input ``[n, 2d]``: what it reads and what it should say."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x, y = step_input.sae_in.chunk(2, dim=1)
        acts, pre = self.encode_with_hidden_pre(x)
        out = self.decode(acts)
        fit = self.mse_loss_fn(out, y).sum(dim=-1).mean()
        aux = self.calculate_topk_aux_loss(
            sae_in=y, sae_out=out, hidden_pre=pre, dead_neuron_mask=step_input.dead_neuron_mask
        )
        return TrainStepOutput(
            sae_in=y,
            sae_out=out,
            feature_acts=acts,
            hidden_pre=pre,
            loss=fit + aux,
            losses={"mse_loss": fit, "auxiliary": aux},
        )


class SAELens:
    """``SAETrainer`` on ready activations."""

    def __init__(self, job: contest.Job) -> None:
        self._a, self._c = contest.unit_scales(job)
        self._pending: list[Tensor] = []
        self._module = TopKTranscoder(
            TopKTrainingSAEConfig(
                k=job["k"],
                d_in=job["d_model"],
                d_sae=job["latents"],
                dtype="float32",
                device="cpu",
                apply_b_dec_to_input=False,
                normalize_activations="none",
            )
        )
        _, y = contest.Rows(job, "train").read(0, contest.CALIBRATION_TOKENS)
        with torch.no_grad():
            self._module.b_dec.copy_(y.mean(0) * self._c)
        steps, batch = job["steps"], job["batch"]
        self._trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=steps * batch,
                train_batch_size_samples=batch,
                lr=job["rate"],
                lr_end=job["rate"] / 10,
                lr_warm_up_steps=20,
                lr_decay_steps=round(0.2 * steps),
                device="cpu",
                autocast=job.get("autocast", False),
                dead_feature_window=100,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=self._module,
            data_provider=self._batches(),
        )

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield self._pending.pop()

    def step(self, x: Tensor, y: Tensor) -> None:
        self._pending.append(torch.cat([x * self._a, y * self._c], 1))
        self._trainer.step(next(self._trainer.data_provider))
        self._trainer.n_training_steps += 1

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._module.eval()
        acts = self._module.encode(x * self._a)
        out = self._module.decode(acts)
        return out / self._c, (acts.to_dense() if acts.is_sparse else acts) > 0


if __name__ == "__main__":
    contest.serve(SAELens)
