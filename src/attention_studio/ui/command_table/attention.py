"""Commands: where heads look, what the residual stream would predict, and patching it."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import can_view_prompt, has_attention, has_lens, has_patches

_LENS = "Attention/Logit lens"

ATTENTION: tuple[Command, ...] = (
    Command("attention.look", "Look at attention",
            "Show where every attention head looks on the prompt", "attention.look", "Attention",
            "Ctrl+Alt+A", can_view_prompt, "attention"),
    Command("attention.lines", "Token lines instead of a matrix",
            "Show the chosen head as lines between tokens, or as a matrix",
            "attention.toggle_lines", "Attention", "", has_attention, "path", checkable=True),
    Command("attention.strongest", "Go to the strongest head",
            "Choose the head with the largest value of the figure below the heads",
            "attention.go_to_strongest", "Attention", "", has_attention, "rank"),
    Command("attention.previous", "Go to the next stronger head",
            "Choose the head that comes before the chosen one by the figure below the heads",
            "attention.go_to_previous", "Attention", "", has_attention, "chevron-up"),
    Command("attention.next", "Go to the next weaker head",
            "Choose the head that comes after the chosen one by the figure below the heads",
            "attention.go_to_next", "Attention", "", has_attention, "chevron-down"),
    Command("lens.read", "Read the logit lens",
            "Show what the residual stream would predict at every layer and token", "lens.read",
            _LENS, "Ctrl+Alt+L", can_view_prompt, "lens", separator=True),
    Command("lens.pick", "Take this cell to patch with",
            "Take the residual stream at the current cell, to put it into another one",
            "lens.pick", _LENS, "", has_lens, "copy"),
    Command("lens.put", "Patch it in here",
            "Put the residual stream that was taken into the current cell, and run the model on",
            "lens.put", _LENS, "", has_lens, "download"),
    Command("lens.remove", "Take a patch out",
            "Take out the patch that is chosen in the list, or that is on the current cell",
            "lens.remove", _LENS, "", has_patches, "close"),
    Command("lens.clear", "Take all patches out", "Let the residual stream be as it was",
            "lens.clear", _LENS, "", has_patches, "trash"),
    Command("lens.unpatched", "Show the table without patches",
            "Show the table as it was before patching, or with the patches",
            "lens.toggle_unpatched", _LENS, "", has_patches, checkable=True),
    Command("lens.source", "Patch from another prompt",
            "Show the table of a second prompt, to take cells from", "lens.toggle_source",
            _LENS, "", has_lens, "prompt", checkable=True),
    Command("lens.reopen", "Patch again as in the history",
            "Patch as the chosen entry of the history of patches says", "lens.reopen",
            _LENS, "", has_lens, "undo"),
)  # fmt: skip
