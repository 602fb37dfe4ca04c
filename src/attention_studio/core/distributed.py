"""The processes of one training run, and what they tell each other.

``torchrun`` or ``accelerate launch`` start the same command several times, on one machine or on
several; every process joins a ``torch.distributed`` group, with gloo for tensors on the CPU and
nccl for those on GPUs. All processes make the same calls in the same order. A process that is lost
ends the others with ``LostProcessError``: at once where its connections close, and after the
timeout where it only falls silent.

Whatever is not a tensor travels as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

from attention_studio.utils.errors import StudioError
from attention_studio.utils.launch import Launch

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for each other: longer than any of them works by itself (reading the
text, writing its part of a checkpoint)."""


class DistributedError(StudioError):
    """The processes of a run cannot work together."""


class LostProcessError(DistributedError):
    """Another process of the run has ended or does not answer."""


class Peers:
    """The processes of a run, seen from one of them. ``join`` makes one.

    Attributes:
        rank: number of this process, from 0; the first one writes what there is one of.
        size: how many processes there are.
        local_size: how many of them share this machine.
    """

    def __init__(self, launch: Launch, has_nccl: bool) -> None:
        self.rank = launch.rank
        self.size = launch.size
        self.local_size = launch.local_size
        self._local_rank = launch.local_rank
        self._has_nccl = has_nccl

    @classmethod
    def join(cls, launch: Launch, timeout: timedelta = TIMEOUT) -> Peers:
        """Wait until all processes are there.

        Raises:
            DistributedError: this PyTorch cannot connect processes, or has fewer GPUs than there
                are processes.
            LostProcessError: the others do not come within ``timeout``.
        """
        if not dist.is_available():
            raise DistributedError(
                "This PyTorch cannot connect processes",
                "it was built without torch.distributed",
                "Train in one process, or install another build of PyTorch",
            )
        has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
        if has_nccl:
            # Else a timeout ends the process without a word from us.
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        with _explained():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if has_nccl else "gloo",
                rank=launch.rank,
                world_size=launch.size,
                timeout=timeout,
            )
        return cls(launch, has_nccl)

    def leave(self) -> None:
        """End the connections, when all work is done."""
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is one of."""
        return self.rank == 0

    def device(self, wanted: Optional[str]) -> Optional[str]:
        """The device of this process: where GPUs are wanted, each process of a machine has one.

        Raises:
            DistributedError: the machine has fewer GPUs than processes, or a certain one of them
                is wanted for several processes.
        """
        if self.local_size > 1 and wanted is not None and wanted.startswith("cuda:"):
            raise DistributedError(
                f"{self.local_size} processes of this machine cannot share {wanted}",
                "each process needs a GPU of its own",
                "Choose --device cuda, and say by CUDA_VISIBLE_DEVICES which GPUs are meant",
            )
        if wanted not in (None, "auto", "cuda") or not self._has_nccl:
            return wanted
        if self._local_rank >= torch.cuda.device_count():
            raise DistributedError(
                f"This machine has {torch.cuda.device_count()} GPUs for {self.local_size} "
                "processes",
                "each process needs its own",
                "Start fewer processes for each machine, or choose --device cpu",
            )
        torch.cuda.set_device(self._local_rank)
        return f"cuda:{self._local_rank}"

    # --- words -------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait for all others to come here."""
        self.agree(False)

    @contextmanager
    def first_of_the_machine(self) -> Iterator[None]:
        """Let the first process of each machine go through the block before the others, so that
        what it downloads is there for them."""
        if self._local_rank:
            self.barrier()
        yield
        if not self._local_rank:
            self.barrier()

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """For each wish, whether any process has it."""
        found = torch.tensor([int(wish) for wish in wishes])
        with _explained():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(bool(wish) for wish in found.tolist())

    def total(self, count: int) -> int:
        """The sum of everyone's ``count``."""
        found = torch.tensor(count)
        with _explained():
            dist.all_reduce(found)
        return int(found)

    def gather(self, value: Any) -> list[Any]:
        """Everyone's ``value`` in order of rank, each as JSON gives it back."""
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _explained():
            dist.all_gather(lengths, torch.tensor([mine.numel()]))
            room = torch.zeros(int(max(lengths)), dtype=torch.uint8)
            room[: mine.numel()] = mine
            everyone = [torch.empty_like(room) for _ in range(self.size)]
            dist.all_gather(everyone, room)
        return [
            json.loads(bytes(text[: int(length)].tolist()))
            for text, length in zip(everyone, lengths, strict=True)
        ]

    # --- tensors -----------------------------------------------------------------------------

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum over all processes, bit for bit the same on all."""
        for tensor in tensors:
            travelling = self._to_travel(tensor)
            with _explained():
                dist.all_reduce(travelling)
            if travelling is not tensor:
                tensor.copy_(travelling)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Replace ``tensor`` by that of process ``source``, which has the same shape and type."""
        travelling = self._to_travel(tensor)
        # Bytes, because not every connection knows every type of number.
        with _explained():
            dist.broadcast(travelling.view(-1).view(torch.uint8), source)
        if travelling is not tensor:
            tensor.copy_(travelling)

    def exchange(self, parcels: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send ``parcels[r]`` to each process r, and receive one from each.

        Args:
            parcels: one-dimensional, all of one type.
            sizes: how many numbers come from each process.

        Returns:
            What came, on the parcels' device.
        """
        sent = torch.cat(list(parcels))
        travelling = self._to_travel(sent).view(torch.uint8)
        width = sent.element_size()
        received = travelling.new_empty(sum(sizes) * width)
        with _explained():
            dist.all_to_all_single(
                received,
                travelling,
                [size * width for size in sizes],
                [parcel.numel() * width for parcel in parcels],
            )
        return list(torch.split(received.view(sent.dtype).to(sent.device), list(sizes)))

    def _to_travel(self, tensor: Tensor) -> Tensor:
        """``tensor`` itself, or a copy where it can be sent from."""
        if tensor.device.type != "cpu" and not (tensor.is_cuda and self._has_nccl):
            return tensor.cpu().contiguous()
        return tensor.contiguous()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what connections raise into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:  # the base of all that torch.distributed raises
        lines = str(error).splitlines() or [type(error).__name__]
        raise LostProcessError(
            "Another process of this run has ended, or does not answer",
            lines[0],
            "Its own output says why. Start all processes again with --resume: the last "
            "checkpoint is still there",
        ) from error
