"""Reads pages that nobody has read: ``python read_pages.py STORE PAGES SEED``; answers in JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from attention_studio.core.feature_store import FeatureStore


def forget(folder: Path) -> None:
    """Have the system forget what it keeps of the files in memory, where it can be told so."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drawn(store: FeatureStore, n: int, seed: int) -> list[int]:
    """Numbers of features."""
    numbers = np.random.default_rng(seed).choice(store.about.n_features, n, replace=False)
    return [int(number) for number in numbers]


class Clock:
    """Times of many short stretches: on the wall, and of the CPU."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []
        self._began = (0.0, 0.0)

    def start(self) -> None:
        """A stretch begins."""
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """It ends."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._found.append((wall - self._began[0], cpu - self._began[1]))

    def running(self) -> float:
        """For how many seconds it has run."""
        return time.perf_counter() - self._began[0]

    def summary(self, n_features: int) -> dict[str, float]:
        """In milliseconds."""
        found: dict[str, float] = {"n": len(self._found), "features": n_features}
        for name, times in zip(("wall", "cpu"), 1000 * np.array(self._found).T, strict=True):
            found[f"{name}_median"] = float(np.median(times))
            found[f"{name}_p95"] = float(np.percentile(times, 95))
            # Fonts and files are read for the first time then.
            found[f"{name}_first"] = float(times[0])
            found[f"{name}_later_max"] = float(times[1:].max(initial=0.0))
        return found


def main() -> None:
    """Open, read, answer."""
    folder, n, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    forget(folder)
    began = time.perf_counter()
    store = FeatureStore.open(folder)
    opened = time.perf_counter() - began
    features = [store.ids(limit=1, offset=number)[0] for number in drawn(store, n, seed)]
    clock = Clock()
    for site, index in features:
        clock.start()
        page = store.page(site, index)
        clock.stop()
        assert len(page.groups[0].examples[0].tokens) > 0
    found = clock.summary(store.about.n_features)
    store.close()
    print(json.dumps({**found, "open": 1000 * opened}))


if __name__ == "__main__":
    main()
