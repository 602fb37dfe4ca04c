"""Matrix products in bfloat16 whose shapes are few.

A CPU's bfloat16 kernels are made for each shape that they meet, which takes longer than a small
product itself, and the products of a trace have as many shapes as modules and positions have
features. So they are filled up to a few. Sums are taken in float32 by the kernels; what comes out
is rounded to bfloat16.
"""

from __future__ import annotations

from torch import Tensor

_ROW_STEP, _COLUMN_STEP = 64, 256


def spare_rows() -> int:
    """Rows that must lie behind the last one that ``with_neighbours`` is asked for."""
    return _COLUMN_STEP


def with_neighbours(left: Tensor, right: Tensor, begin: int, number: int) -> Tensor:
    """``left`` [m, d] times rows ``begin:begin + number`` of ``right`` [., d], transposed:
    [m, number]. More rows of ``right`` take part, so it has ``spare_rows`` at its end."""
    columns = -(-number // _COLUMN_STEP) * _COLUMN_STEP
    rows = -(-len(left) // _ROW_STEP) * _ROW_STEP
    filled = left.new_zeros(rows, left.shape[1])
    filled[: len(left)] = left
    return (filled @ right[begin : begin + columns].T)[: len(left), :number]
