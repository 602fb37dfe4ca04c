"""Short names for files and addresses."""

from __future__ import annotations

import re


def slug_of(text: str) -> str:
    """A short name for files and addresses, made of a text: ``the-capital-of-france``."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:60].strip("-") or "graph"
