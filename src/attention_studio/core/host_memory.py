"""How much main memory may be used: what is free, what the container allows, what was set."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import psutil

_CGROUP = Path("/sys/fs/cgroup")
GIB = 1 << 30


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
