"""Commands: files and leaving."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    has_graph,
    has_model,
    training_hinders,
)

FILES: tuple[Command, ...] = (
    Command("crm.open", "Open replacement model…",
            "Open a folder of trained dictionaries for the loaded model", "window.open_crm",
            "File", "Ctrl+O", has_model, "open", True),
    Command("demo.open", "Open the demo",
            "Open the small model that comes along, with its replacement model and a prompt traced",
            "window.open_demo", "File", "", always, "logo", hindered=training_hinders),
    Command("graph.open", "Open graph…", "Open an attribution graph that was saved",
            "window.open_graph", "File", "Ctrl+Shift+O", always, "graph"),
    Command("graph.save", "Save graph…", "Save the attribution graph, whole or pruned, to a file",
            "window.save_graph", "File", "Ctrl+S", has_graph, "save"),
)  # fmt: skip

LEAVING: tuple[Command, ...] = (
    Command("app.quit", "Quit", "Stop all work and close the window", "window.quit",
            "File", "Ctrl+Q", separator=True),
)  # fmt: skip
