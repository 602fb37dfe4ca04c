"""What the tests of training steps share: settings, and the way to the end of a step."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from torch import Tensor

from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.distributed import Peers
from attention_studio.core.training_config import StepSettings
from attention_studio.utils.launch import Launch

KINDS: tuple[ActivationKind, ...] = ("relu", "topk", "batchtopk", "jumprelu")

# Every term of the loss takes part, and chunks divide neither the batch nor the latents.
SETTINGS = StepSettings(
    learning_rate=1e-2,
    k=5,
    l1=0.3,
    l0=0.2,
    bandwidth=0.4,
    auxk=4,
    auxk_coefficient=1 / 32,
    dead_after_tokens=100,
    clip_norm=None,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    token_chunk=16,
    row_chunk=7,
)

_Result = TypeVar("_Result")


def counted(steps: Generator[None, None, _Result]) -> tuple[_Result, int]:
    """What a step returns, and how many micro-steps there were before."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: _Result = stop.value
            return result, count
        count += 1


def finish(steps: Generator[None, None, _Result]) -> _Result:
    """What a step returns."""
    return counted(steps)[0]


class HasAll(Peers):
    """Of two processes the one that has the whole batch; ``told`` is what it tells the other."""

    def __init__(self) -> None:
        super().__init__(Launch(0, 2), False)
        self.told: list[Any] = []

    def total(self, count: int) -> int:
        self.told.append(count)
        return count

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)
        return [value]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        self.told += [tensor.clone() for tensor in tensors]


class HasNothing(Peers):
    """The other one, which has no rows: it hears the first one, in the same order, and adds zero.

    Attributes:
        left: what it was told and has not asked for.
    """

    def __init__(self, other: HasAll) -> None:
        super().__init__(Launch(1, 2), False)
        self.left = list(other.told)

    def total(self, count: int) -> int:
        assert count == 0
        total: int = self.left.pop(0)
        return total

    def gather(self, value: Any) -> list[Any]:
        return [self.left.pop(0), value]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            assert tensor.isfinite().all() and not tensor.any()
            tensor.copy_(self.left.pop(0))
