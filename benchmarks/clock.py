"""What contestants share: the clock, and the words they understand."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from answers import Job, answer, peak_memory

_Found = TypeVar("_Found")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(work: Callable[[], _Found]) -> tuple[_Found, Job]:
    """Do something, and say what it took.

    Returns:
        What it gives, and ``wall`` and ``cpu`` (of all threads) in seconds and ``memory`` in MiB:
        the peak of the resident size beyond what it was before. Only Linux tells the peak of a
        stretch of time; elsewhere it is the growth of the peak so far.
    """
    before = _settle()
    began = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    return found, {"wall": wall, "cpu": cpu, "memory": _peak() - before}


def _settle() -> float:
    """Give back what is free, begin a new peak; MiB in use."""
    gc.collect()
    if sys.platform != "linux":
        return peak_memory()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM") if sys.platform == "linux" else peak_memory()


def _status(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def serve(commands: Mapping[str, Callable[..., Job]]) -> None:
    """Answer each line of standard input, ``{"do": name, …}``, until there is no more."""
    answer({"ready": True})
    for line in sys.stdin:
        told: Job = json.loads(line)
        answer(commands[told.pop("do")](**told))
