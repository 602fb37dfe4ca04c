"""Where the studio keeps its files when nobody says otherwise.

The folders follow each system's habits (XDG on Linux, Library on macOS, AppData on Windows).
Nothing is created here: whoever writes first makes the folder.
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

_APP = "attention-studio"


def default_cache_dir() -> Path:
    """Models and activations: large, and safe to delete."""
    return Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def default_state_dir() -> Path:
    """Window layout and logs: small, and nice to keep."""
    return Path(platformdirs.user_state_dir(_APP, appauthor=False))


def log_dir(state_dir: Path) -> Path:
    """The folder of the rotating log files below ``state_dir``."""
    return state_dir / "logs"
