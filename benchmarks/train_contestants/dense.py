"""The loop that anybody would write: dense products, autograd, ``torch.optim.Adam``."""

from __future__ import annotations

import contest
import torch
from torch import Tensor, nn


class DenseTranscoder(nn.Module):
    """A TopK transcoder with dense activations; the decoder starts as the encoder's transpose."""

    def __init__(self, d_model: int, latents: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.encoder = nn.Linear(d_model, latents)
        self.decoder = nn.Linear(latents, d_model)
        with torch.no_grad():
            self.encoder.weight.div_(self.encoder.weight.norm(dim=1, keepdim=True))
            self.encoder.bias.zero_()
            self.decoder.weight.copy_(self.encoder.weight.t())
            self.decoder.bias.zero_()

    def latents(self, x: Tensor) -> Tensor:
        """Sparse activations as a dense tensor."""
        values, indices = self.encoder(x).topk(self.k, dim=-1)
        shape = (*x.shape[:-1], self.encoder.out_features)
        return x.new_zeros(shape).scatter(-1, indices, values.relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.latents(x))


class Dense:
    """One transcoder and its optimizer, on activations scaled to unit variance."""

    def __init__(self, job: contest.Job, scales: tuple[float, float]) -> None:
        self._a, self._c = scales
        self._job = job
        self._module = DenseTranscoder(job["d_model"], job["latents"], job["k"])
        self._optimizer = torch.optim.Adam(self._module.parameters())
        self._done = 0

    def step(self, x: Tensor, y: Tensor) -> None:
        x, y = x * self._a, y * self._c
        if self._done == 0:
            with torch.no_grad():
                self._module.encoder.bias.copy_(-(self._module.encoder.weight @ x.mean(0)))
                self._module.decoder.bias.copy_(y.mean(0))
        rate = contest.learning_rate(self._done, self._job["steps"], self._job["rate"])
        self._optimizer.param_groups[0]["lr"] = rate
        loss = (self._module(x) - y).square().sum(-1).mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._done += 1

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self._module.latents(x * self._a)
        return self._module.decoder(f) / self._c, f > 0


if __name__ == "__main__":
    contest.serve(lambda job: Dense(job, contest.unit_scales(job)))
