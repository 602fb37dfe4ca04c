"""Whether this process is one of several that a launcher has started, as its environment says.

``torchrun`` (``python -m torch.distributed.run``) and ``accelerate launch`` on GPUs, which uses it,
tell every process by the same variables which one it is. On CPUs ``accelerate launch`` uses
``mpirun``, whose kinds have names of their own. No torch here, so that a command can ask before it
is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from attention_studio.utils.errors import StudioError

_FAMILIES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH and Intel MPI
    *(
        tuple(f"{kind}_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
        for kind in ("OMPI", "MV2")  # Open MPI, MVAPICH
    ),
)
"""What each launcher calls a process's number, how many there are, and both on this machine."""


class LaunchError(StudioError):
    """The environment contradicts itself about the processes of a run."""


@dataclass(frozen=True)
class Launch:
    """Which of the processes this is.

    Attributes:
        rank: its number among all, from 0; ``size`` is how many there are.
        local_rank: its number among those of this machine; ``local_size`` is how many these are.
    """

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1


def launched(environment: Optional[Mapping[str, str]] = None) -> Optional[Launch]:
    """How this process was launched; None if it is alone.

    Args:
        environment: None: that of this process.

    Raises:
        LaunchError: a variable is no number, or out of range.
    """
    found = os.environ if environment is None else environment
    told = _of_one_launcher(found)
    if told is None or not (found.get("MASTER_ADDR") and found.get("MASTER_PORT")):
        return None
    rank, size, local_rank, local_size = told
    try:
        launch = Launch(
            rank=int(rank),
            size=int(size),
            local_rank=int(local_rank or 0),
            local_size=int(local_size or 1),
        )
    except ValueError as error:
        raise _contradiction(str(error)) from error
    if not 0 <= launch.rank < launch.size or not 0 <= launch.local_rank < launch.size:
        raise _contradiction(
            f"this is process {launch.rank}, {launch.local_rank} on its machine, of {launch.size}"
        )
    return launch if launch.size > 1 else None


def _of_one_launcher(environment: Mapping[str, str]) -> Optional[list[str]]:
    """The variables of the first launcher that set all of its own; else of the first that set rank
    and size, empty where one is missing. Never of two: schedulers leave some of one kind behind,
    and ``RANK`` of one has nothing to do with the size that another tells."""
    families = [[environment.get(name, "") for name in names] for names in _FAMILIES]
    whole = [told for told in families if all(told)]
    return next(iter(whole + [told for told in families if all(told[:2])]), None)


def _contradiction(why: str) -> LaunchError:
    return LaunchError(
        "The processes of this run cannot be told apart",
        why,
        "Start them with torchrun or accelerate launch, or clear RANK and WORLD_SIZE",
    )
