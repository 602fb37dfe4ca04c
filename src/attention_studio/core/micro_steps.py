"""How work is cut into micro-steps: by its size alone, never by a clock, so that the same settings
give the same results wherever and however a run is driven."""

from __future__ import annotations

from collections.abc import Iterator

MICRO_STEP_FLOPS = 7e8
"""About 5 ms on two desktop cores in float32, or 10 ms on one. A constant, so that results depend
on no clock. In bfloat16, where that is used, twice as much takes less."""


def pieces(size: int, multiplier: int, start: int = 0) -> Iterator[slice]:
    """Slices of ``start … start + size`` whose product of ``2·rows·multiplier`` operations stays
    within one micro-step."""
    rows = max(16, int(MICRO_STEP_FLOPS / (2 * max(multiplier, 1))))
    for s in slices(size, rows):
        yield slice(s.start + start, s.stop + start)


def slices(size: int, step: int) -> Iterator[slice]:
    """``0 … size`` in slices of ``step``; the last may be shorter."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def grouped_pieces(
    start: int, stop: int, group_size: int, multiplier: int
) -> Iterator[tuple[int, slice]]:
    """``pieces`` of ``start … stop`` that end where a group of ``group_size`` does, each with the
    number of its group."""
    while start < stop:
        group = start // group_size
        end = min(stop, (group + 1) * group_size)
        for piece in pieces(end - start, multiplier, start):
            yield group, piece
        start = end
