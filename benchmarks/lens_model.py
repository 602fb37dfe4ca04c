"""Opens a model in TransformerLens from its folder and without a network, for GPT-2 and Llama.

TransformerLens asks for a model by one of the names that it knows, and a folder has none of them.
So the shape is read from the folder's ``config.json`` here. Runs in the environments of peers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import get_pretrained_state_dict
from transformers import AutoModelForCausalLM


def fill(model: HookedTransformer, folder: Path) -> None:
    """Give a model that was made from ``lens_config`` the weights of the folder, as they stand."""
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = get_pretrained_state_dict(str(folder), model.cfg, source)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )


def lens_config(folder: Path) -> HookedTransformerConfig:
    """What TransformerLens calls the shape of a GPT-2 or a Llama."""
    told: dict[str, Any] = json.loads((folder / "config.json").read_text())
    shape = _gpt2(told) if told["model_type"] == "gpt2" else _llama(told)
    return HookedTransformerConfig(
        d_head=shape.get("d_head") or shape["d_model"] // shape["n_heads"],
        d_vocab=told["vocab_size"],
        model_name=folder.name,
        tokenizer_name=str(folder.resolve()),
        original_architecture=told["architectures"][0],
        device="cpu",
        init_weights=False,
        **{name: value for name, value in shape.items() if name != "d_head"},
    )


def _gpt2(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_layers": told["n_layer"],
        "d_model": told["n_embd"],
        "n_ctx": told["n_positions"],
        "n_heads": told["n_head"],
        "d_mlp": told.get("n_inner") or 4 * told["n_embd"],
        "act_fn": "gelu_new",
        "eps": told["layer_norm_epsilon"],
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "attention_dir": "causal",
    }


def _llama(told: dict[str, Any]) -> dict[str, Any]:
    heads = told["num_attention_heads"]
    width = told.get("head_dim") or told["hidden_size"] // heads
    shared = told["num_key_value_heads"]
    # transformers 5 moved it.
    base = told.get("rope_theta") or told["rope_parameters"]["rope_theta"]
    return {
        "n_layers": told["num_hidden_layers"],
        "d_model": told["hidden_size"],
        "n_ctx": min(told["max_position_embeddings"], 1024),
        "n_heads": heads,
        "d_head": width,
        "n_key_value_heads": None if shared == heads else shared,
        "d_mlp": told["intermediate_size"],
        "act_fn": told["hidden_act"],
        "eps": told["rms_norm_eps"],
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": width,
        "rotary_base": int(base),
    }
