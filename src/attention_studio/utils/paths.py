"""Where the studio keeps its files when nobody says otherwise, and what it brings along.

The folders follow each system's habits (XDG on Linux, Library on macOS, AppData on Windows).
Nothing is created here: whoever writes first makes the folder.
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

_APP = "attention-studio"

DEMO_ASSETS = Path(__file__).resolve().parent.parent / "demo" / "assets"
"""What the package brings along: the demo's model, its dictionaries and its prompts."""

BUILT_IN_CRMS = {"demo": DEMO_ASSETS / "crm", "demo-clt": DEMO_ASSETS / "clt"}
"""Replacement models that the package brings along, by the names they can be opened by."""


def crm_folder(name: str) -> Path:
    """The folder that ``name`` means: of a replacement model that comes along, or a path."""
    return BUILT_IN_CRMS.get(name, Path(name).expanduser())


def default_cache_dir() -> Path:
    """Models and activations: large, and safe to delete."""
    return Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def default_state_dir() -> Path:
    """Window layout, logs, and workspaces that nobody has given a folder: worth keeping."""
    return Path(platformdirs.user_state_dir(_APP, appauthor=False))


def log_dir(state_dir: Path) -> Path:
    """The folder of the rotating log files below ``state_dir``."""
    return state_dir / "logs"
