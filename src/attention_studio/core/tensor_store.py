"""Tensors that may be larger than memory: harvested activations, and the decoders of a cross-layer
transcoder with their Adam moments while it is trained.

In memory they are ordinary tensors. On disk they are tensors too, mapped from unnamed temporary
files: the operating system fetches what is touched and writes back what was changed. Nothing else
differs: the same numbers come out bit for bit.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, Optional, Union

import torch
from torch import Tensor

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import explain_write_errors

_ZEROS = bytes(1 << 22)


class TensorStoreError(StudioError):
    """Tensors are wanted on disk for a device that cannot read them there."""


class TensorStore:
    """Makes tensors that stay in memory, or on disk.

    The files have no name and vanish with the process, however it ends: what is to last is written
    by a checkpoint.

    Args:
        folder: where the files go; None: in memory.
        device: where the tensors are used.
        dtype: their type.

    Raises:
        TensorStoreError: a folder is given for a device other than the CPU.
    """

    def __init__(
        self,
        folder: Optional[Path] = None,
        device: Union[str, torch.device] = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.folder = folder
        self.device = torch.device(device)
        self._dtype = dtype
        self._maps: dict[int, mmap.mmap] = {}
        if folder is not None and self.device.type != "cpu":
            raise TensorStoreError(
                "Tensors on disk can be used on the CPU only",
                f"the device is {self.device.type}",
                "Train on the CPU, or keep them in memory (buffer, clt_store)",
            )

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of zeros. On disk, its space is taken now, so that a full disk shows here and
        not in the middle of a run.

        Raises:
            FileWriteError: the disk is full, the folder is read-only, and the like.
        """
        if self.folder is None or 0 in shape:  # nothing cannot be mapped
            return torch.zeros(shape, device=self.device, dtype=self._dtype)
        size = torch.Size(shape).numel() * self._dtype.itemsize
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as stream:
                _take_space(stream, size)
                mapped = mmap.mmap(stream.fileno(), size)
        tensor = torch.frombuffer(mapped, dtype=self._dtype).view(shape)
        self._maps[tensor.untyped_storage().data_ptr()] = mapped
        return tensor

    def release(self, tensor: Tensor) -> None:
        """Give back the memory that ``tensor`` takes at the moment: one that ``zeros`` made, or a
        contiguous part of it. Its content stays. Does nothing in memory, or where the operating
        system has no such call."""
        mapped = self._maps.get(tensor.untyped_storage().data_ptr())
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            size, offset = tensor.element_size(), int(tensor.storage_offset())
            start = offset * size // mmap.PAGESIZE * mmap.PAGESIZE
            end = (offset + tensor.numel()) * size
            # On a shared mapping of a file this drops pages from the process, never data: changed
            # pages go to the file first.
            mapped.madvise(mmap.MADV_DONTNEED, start, end - start)


def _take_space(stream: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
        return
    for start in range(0, size, len(_ZEROS)):
        stream.write(_ZEROS[: min(len(_ZEROS), size - start)])
    stream.flush()
