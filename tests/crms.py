"""Tiny models with random dictionaries in the place of their modules."""

from __future__ import annotations

from typing import Any, Optional

from attention_studio.core.replacement_model import CompleteReplacementModel
from tests.tiny import random_dictionaries, tiny_loaded

COMPLETE: dict[str, Any] = {"mlp": {}, "attention": {}}
CROSS: dict[str, Any] = {"clt": {}, "attention": {"layers": (0, 2)}}


def complete(
    family: str = "llama", dictionaries: Optional[dict[str, Any]] = None
) -> CompleteReplacementModel:
    """With the ``dictionaries`` that ``random_dictionaries`` makes of them; None: ``COMPLETE``."""
    loaded = tiny_loaded(family)
    held = random_dictionaries(loaded.adapter, **(dictionaries or COMPLETE))
    return CompleteReplacementModel(loaded, held)


def replacement(family: str = "llama", **config: Any) -> CompleteReplacementModel:
    """With transcoders alone."""
    return complete(family, {"mlp": config})
