"""EleutherAI's sparsify: its ``SparseCoder``, loss and Adam.

Its trainer computes activations itself, in a hook, and takes no ready ones, so the order of its
calls is repeated here: biases from the first batch's means, FVU as the loss, backward, Adam.
"""

from __future__ import annotations

import contest
import torch
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor


class Sparsify:
    """A sparsify transcoder in training."""

    def __init__(self, job: contest.Job) -> None:
        self._a, self._c = contest.unit_scales(job)
        self._job = job
        config = SparseCoderConfig(num_latents=job["latents"], k=job["k"], transcode=True)
        self._coder = SparseCoder(job["d_model"], config, dtype=torch.float32)
        self._optimizer = torch.optim.Adam(self._coder.parameters())
        self._done = 0

    def step(self, x: Tensor, y: Tensor) -> None:
        x, y = x * self._a, y * self._c
        coder = self._coder
        if self._done == 0:
            coder.encoder.bias.data = -(coder.encoder.weight.data @ x.mean(0))
            coder.b_dec.data = y.mean(0)
        rate = contest.learning_rate(self._done, self._job["steps"], self._job["rate"])
        self._optimizer.param_groups[0]["lr"] = rate
        coder(x=x, y=y).fvu.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._done += 1

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self._coder(x * self._a)
        mask = torch.zeros(len(x), self._job["latents"], dtype=torch.bool)
        mask.scatter_(1, found.latent_indices, found.latent_acts > 0)
        return found.sae_out / self._c, mask


if __name__ == "__main__":
    contest.serve(Sparsify)
