"""Counting the operations of matrix products, those in place among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def _addmm(_into: Sequence[int], left: Sequence[int], right: Sequence[int], **_rest: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


IN_PLACE = {torch.ops.aten.addmm_: _addmm}
"""``custom_mapping`` of torch's ``FlopCounterMode``, which leaves these out."""
