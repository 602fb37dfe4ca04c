"""Commands: models and prompts."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    can_view_prompt,
    has_model,
    training_hinders,
)

MODELS: tuple[Command, ...] = (
    Command("model.load", "Load model", "Load the model that is chosen in the Model dock",
            "model.load", "Model", "Ctrl+L", always, "model", True,
            hindered=training_hinders),
    Command("model.fetch", "Fetch model without loading",
            "Download the model that is chosen in the Model dock without loading it",
            "model.fetch", "Model", "", always, "download", hindered=training_hinders),
    Command("model.look_up", "Look up model on the hub",
            "Ask the hub for the model's size, to estimate its memory before fetching it",
            "model.look_up", "Model", "", always, "search"),
    Command("model.release", "Release model", "Take the model out of memory", "model.release",
            "Model", "", has_model, "release", hindered=training_hinders),
    Command("model.browse", "Choose a model folder…", "Choose a folder that holds a model",
            "model.browse_folder", "Model", icon="folder", separator=True),
    Command("model.browse_file", "Choose a GGUF file…", "Choose a model in one .gguf file",
            "model.browse_file", "Model"),
    Command("prompt.run", "Show tokens and next words",
            "Show the prompt as the model sees it, with what it would say next", "prompt.run",
            "Model", "Ctrl+Return", can_view_prompt, "prompt", True, separator=True),
)  # fmt: skip
