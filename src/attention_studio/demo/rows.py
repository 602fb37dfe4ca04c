"""From texts to rows of token ids, each row one input of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_studio.demo.samples import Sample


@dataclass(frozen=True)
class Rows:
    """A batch of rows.

    ``tokens`` int64 ``[n, length]``: texts one after the other, a start token before each; the last
    text of a row is cut. ``is_answer`` bool ``[n, length]``: tokens that follow from what is before
    them.
    """

    tokens: NDArray[np.int64]
    is_answer: NDArray[np.bool_]


def pack(
    samples: Iterator[Sample], ids: Mapping[str, int], start: int, n_rows: int, length: int
) -> Rows:
    """Fill ``n_rows`` rows from a stream; ``ids`` has the id of each piece."""
    tokens = np.full((n_rows, length), start, dtype=np.int64)
    is_answer = np.zeros((n_rows, length), dtype=np.bool_)
    for row in range(n_rows):
        at = 0
        while at < length - 1:
            sample = next(samples)
            taken = [ids[piece] for piece in sample.pieces[: length - at - 1]]
            tokens[row, at + 1 : at + 1 + len(taken)] = taken
            for answer in sample.answers:
                if at + answer.position < length:
                    is_answer[row, at + answer.position] = True
            at += 1 + len(sample.pieces)
    return Rows(tokens, is_answer)
