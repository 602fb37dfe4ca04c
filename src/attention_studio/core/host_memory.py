"""How much main memory may be used: what is free, what the container allows, what was set; and what
becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Optional

import psutil

_CGROUP = Path("/sys/fs/cgroup")
GIB = 1 << 30
# Of malloc.h: from which size on a piece of memory comes from the operating system and goes back
# to it by itself (32 MiB is the most that glibc takes), and how much may lie free otherwise.
_MMAP_THRESHOLD, _LARGEST_PIECE = -3, 32 << 20
_TRIM_THRESHOLD, _MOST_FREE = -1, 128 << 20


@cache
def reuse_freed_memory() -> bool:
    """Have this process keep up to 128 MiB of freed memory for its next tensors.

    A model's pass makes and frees tensors of some megabytes all the time. By default glibc gives
    them back to the operating system, which clears every page again that it lends a moment later:
    7% of a bfloat16 pass on SmolLM2. Other C libraries are left as they are.

    Returns:
        Whether anything was set.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_PIECE) and mallopt(_TRIM_THRESHOLD, _MOST_FREE))


def available_ram(max_ram_gb: Optional[float] = None, cgroup: Path = _CGROUP) -> int:
    """Main memory that may still be used, in bytes.

    The least of what the system has free, what is left of the control group's limit (containers
    see the whole machine's memory otherwise), and what is left of ``max_ram_gb`` (GiB) for this
    process.
    """
    limits = [int(psutil.virtual_memory().available)]
    group = _cgroup_left(cgroup)
    if group is not None:
        limits.append(group)
    if max_ram_gb is not None:
        limits.append(int(max_ram_gb * GIB) - int(psutil.Process().memory_info().rss))
    return max(0, min(limits))


def _cgroup_left(root: Path) -> Optional[int]:
    for limit_name, used_name, stat_name in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            limit = int((root / limit_name).read_text())
            used = int((root / used_name).read_text())
            cached = _file_cache(root / stat_name)
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        return limit - (used - cached)
    return None


def _file_cache(path: Path) -> int:
    # Cached files count as used but are given up when memory is wanted.
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
