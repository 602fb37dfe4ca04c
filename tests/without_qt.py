"""A pytest plugin that hides PySide6, to prove that the core and the command line do without it."""

from __future__ import annotations

import sys

for _name in ("PySide6", "pyqtgraph"):
    sys.modules[_name] = None  # type: ignore[assignment]
