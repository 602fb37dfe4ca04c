"""Opens a model and its transcoders in circuit-tracer, from folders and without a network.

Its own way asks TransformerLens for a model by one of the names that TransformerLens knows, and a
folder has none of them. So ``lens_model`` reads shape and weights from the folder here, and
circuit-tracer does the rest. For GPT-2 and Llama. Runs in its environment.
"""

from __future__ import annotations

from pathlib import Path

import torch
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.utils.hf_utils import load_transcoder_from_hub
from lens_model import fill, lens_config
from transformers import AutoTokenizer

_CPU = torch.device("cpu")


def open_model(folder: Path, transcoders: Path) -> TransformerLensReplacementModel:
    """The replacement model, float32 on the CPU.

    Args:
        folder: of the model, with its tokenizer.
        transcoders: a folder in circuit-tracer's format.
    """
    config = lens_config(folder)
    model = TransformerLensReplacementModel(config, AutoTokenizer.from_pretrained(folder))
    fill(model, folder)
    # A relative path would be taken for the name of something on the hub.
    read, _ = load_transcoder_from_hub(
        str(transcoders.resolve()), device=_CPU, dtype=torch.float32, lazy_decoder=True
    )
    model._configure_replacement_model(read)
    return model
