"""How a contestant's process answers the benchmark that started it: in lines of JSON.

It needs nothing but Python, for each contestant lives in an environment of its own. Importing it
takes standard output away from everybody else, so that whatever libraries print, while they are
imported or later, goes to the log; hence it is to be imported before them, and by contestants only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

Job = dict[str, Any]

_ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def answer(found: Job) -> None:
    """Say something to the benchmark."""
    _ANSWERS.write(json.dumps(found) + "\n")
    _ANSWERS.flush()


def peak_memory() -> float:
    """Largest resident size of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
