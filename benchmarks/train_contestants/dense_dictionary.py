"""The loop that anybody would write, for a Lorsa or a cross-layer transcoder: the dictionary's own
forward pass with dense activations, autograd, ``torch.optim.Adam``. It begins where the studio's
step begins and has its learning rates, so that what each reaches can be compared too. The studio
has AuxK and clips gradients besides, and ranks latents in bfloat16 where the processor multiplies
that by itself."""

from __future__ import annotations

import contest
import torch
from dictionaries import activations, predict, start, train_config
from torch import Tensor

from attention_studio.core.dictionaries.lorsa import Lorsa, QueryKeyTensors


class DenseDictionary:
    """One dictionary and its optimizer."""

    def __init__(self, job: contest.Job) -> None:
        self._job = job
        self._config = train_config(job)
        self._dictionary = start(job, self._config)
        looks = QueryKeyTensors._fields
        own, slow = [], []
        for name, parameter in self._dictionary.named_parameters():
            if name in looks:
                slow.append(parameter.requires_grad_(self._config.qk_rate > 0))
            else:
                own.append(parameter.requires_grad_())
        groups = [{"params": own}, {"params": slow}] if slow else [{"params": own}]
        self._rates = [1.0, self._config.qk_rate]
        self._optimizer = torch.optim.Adam(groups)
        self._done = 0

    def step(self, x: Tensor, y: Tensor) -> None:
        settings = self._config.step_settings(self._done, self._job["d_model"])
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=False):
            group["lr"] = settings.learning_rate * rate
        loss = self._loss(x, y)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._done += 1

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean over tokens, in the units of training."""
        given = activations(self._job, x, y)
        dictionary = self._dictionary
        if isinstance(dictionary, Lorsa):
            error = (dictionary(x) - y)[given.kept] * dictionary.output_scale
            return error.square().sum(-1).mean()
        guesses = dictionary({site.layer: rows.inputs for site, rows in given.rows.items()})
        scales = dictionary.output_scale
        losses = [
            ((guesses[site.layer] - rows.outputs) * scale).square().sum(-1).mean()
            for (site, rows), scale in zip(given.rows.items(), scales, strict=True)
        ]
        return torch.stack(losses).sum()

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return predict(self._dictionary, x)


if __name__ == "__main__":
    contest.serve(DenseDictionary)
