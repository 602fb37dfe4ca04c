"""Commands: undo and the command palette."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import always, can_redo, can_undo

EDITING: tuple[Command, ...] = (
    Command("edit.undo", "Undo", "Take back the last change", "window.undo", "Edit", "Ctrl+Z",
            can_undo, "undo"),
    Command("edit.redo", "Redo", "Make the change again that was taken back", "window.redo",
            "Edit", "Ctrl+Shift+Z", can_redo, "redo"),
    Command("palette.show", "Command palette…", "Find and run any command by its name",
            "window.show_palette", "Edit", "Ctrl+Shift+P", always, "command", separator=True),
)  # fmt: skip
