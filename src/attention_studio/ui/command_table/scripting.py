"""Commands: the console, and what was done as a script."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import always

SCRIPTING: tuple[Command, ...] = (
    Command("script.copy_last", "Copy last action as script",
            "Copy what was run last as a Python script that does it without a window",
            "script.copy_last", "Edit", "Ctrl+Shift+C", always, "script", separator=True),
    Command("script.copy_session", "Copy everything as script",
            "Copy a Python script that gets to all that the window holds: model, dictionaries, "
            "graph, pins and groups", "script.copy_session", "Edit", "", always),
    Command("script.save", "Save everything as script…",
            "Save a Python script that gets to all that the window holds", "script.save_session",
            "Edit", "", always),
    Command("console.clear", "Clear the console", "Empty the output of the Python console",
            "console.clear", "Edit", "", always, "trash", separator=True),
    Command("console.stop", "Interrupt the console",
            "Interrupt the statement that runs in the Python console", "console.stop", "Edit", "",
            always, "stop"),
)  # fmt: skip
