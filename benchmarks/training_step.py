#!/usr/bin/env python3
"""One training step of a TopK transcoder against a plain dense autograd loop, in one run.

    python benchmarks/training_step.py [--threads 2] [--steps 12]

Both see the same synthetic activations and have the same shape, K and batch. What is compared is
tokens per CPU second (wall time depends on what else the machine does), the median over steps, and
the share of the machine's own matrix product rate, measured in the same run, that the encoder's
product alone would need.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_init import initial_transcoder, layer_statistics
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_selection import choose_selection_dtype
from attention_studio.core.training_step import TranscoderState, training_step

D, LATENTS, K, BATCH = 576, 4608, 32, 2048


def activations(n: int) -> tuple[Tensor, Tensor]:
    """Inputs and outputs [n, D] of a random gated MLP."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, D, generator=generator)
    into, gate = torch.randn(2, D, 1536, generator=generator) / D**0.5
    out = torch.randn(1536, D, generator=generator) / 1536**0.5
    return x, (F.silu(x @ gate) * (x @ into)) @ out


def sparse_step(x: Tensor, y: Tensor) -> Callable[[int], None]:
    """The studio's step."""
    config = TrainConfig(layers=(0,), d_latent=LATENTS, k=K, tokens=1_000_000)
    shape = config.transcoder(D)
    start = initial_transcoder(shape, layer_statistics(x, y), x, y, config.init, 0, 0)
    state = TranscoderState.new(start)
    cpu = torch.device("cpu")
    ranked_in = choose_selection_dtype(config.selection_dtype, cpu, config.activation)
    scratch = StepScratch(shape, BATCH, config.chunk_tokens, cpu, selection_dtype=ranked_in)

    def step(i: int) -> None:
        for _ in training_step(state, scratch, x[:BATCH], y[:BATCH], config.step_settings(i, D)):
            pass

    return step


def dense_step(x: Tensor, y: Tensor) -> Callable[[int], None]:
    """The obvious loop: dense products, autograd, Adam."""
    config = TrainConfig(layers=(0,), d_latent=LATENTS, k=K, tokens=1_000_000)
    module: Transcoder = initial_transcoder(
        config.transcoder(D), layer_statistics(x, y), x, y, config.init, 0, 0
    )
    module.requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate)

    def step(_: int) -> None:
        optimizer.zero_grad()
        loss = (module(x[:BATCH]) - y[:BATCH]).square().sum(-1).mean()
        loss.backward()
        optimizer.step()

    return step


def gemm_rate() -> float:
    """Measured float32 matrix product rate, in products per CPU second."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(7):
        began = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - began)
    return 2 * 2048**3 / statistics.median(seconds)


def cpu_seconds(step: Callable[[int], None], steps: int) -> float:
    """Median CPU seconds of a step, after two to warm up."""
    times = []
    for i in range(steps + 2):
        began = time.process_time()
        step(i)
        times.append(time.process_time() - began)
    return statistics.median(times[2:])


def main() -> None:
    """Measure both and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y = activations(8192)
    rate = gemm_rate()
    ours = BATCH / cpu_seconds(sparse_step(x, y), arguments.steps)
    dense = BATCH / cpu_seconds(dense_step(x, y), arguments.steps)
    print(
        json.dumps(
            {
                "tokens_per_cpu_second": round(ours),
                "dense_autograd_tokens_per_cpu_second": round(dense),
                "ratio": round(ours / dense, 2),
                "gemm_gflops_per_cpu_second": round(rate / 1e9, 1),
                "encoder_share_of_gemm_rate": round(2 * D * LATENTS * ours / rate, 2),
                "threads": arguments.threads,
            }
        )
    )


if __name__ == "__main__":
    main()
