"""Runs where TransformerLens is installed: what it sees at its hooks in layer 1 of some models.

FOLDER OUT …     for each, OUT gets one tensor per hook
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from transformer_lens.model_bridge import TransformerBridge

HOOKS = (
    "mlp.hook_in", "ln2.hook_normalized", "hook_mlp_out", "mlp.hook_out",
    "attn.hook_in", "ln1.hook_normalized", "hook_attn_out", "attn.hook_out",
)  # fmt: skip

if __name__ == "__main__":
    for folder, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
        _, cache = model.run_with_cache(torch.arange(3, 15).unsqueeze(0))
        save_file({hook: cache[f"blocks.1.{hook}"].clone() for hook in HOOKS}, out)
