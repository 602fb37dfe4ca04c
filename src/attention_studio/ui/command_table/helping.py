"""Commands: help."""

from __future__ import annotations

from attention_studio.ui.command import Command

HELPING: tuple[Command, ...] = (
    Command("help.about", "About AttentionStudio", "Version, licence and where things are kept",
            "window.show_about", "Help", icon="info"),
    Command("help.tour", "Take the tour", "Show in three steps what the window is for",
            "tour.begin", "Help", icon="play"),
    Command("help.keys", "Keyboard shortcuts", "List every command with its keys",
            "window.show_palette", "Help", "F1", icon="command"),
)  # fmt: skip
