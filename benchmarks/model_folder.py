"""Writes a model as other tools' environments read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A model with its tokenizer, such that transformers 4, which circuit-tracer brings, reads it.

    Args:
        model, tokenizer: of transformers 5.
        folder: exists.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
