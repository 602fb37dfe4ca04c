"""Commands: figures of what the views show."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import always

FIGURES: tuple[Command, ...] = (
    Command("figure.show", "Make a figure of this view",
            "Show the view that has the keyboard as a figure for paper, slides or a file",
            "figures.show_current", "File", "F9", always, "figure", separator=True),
    Command("figure.save", "Save figure…", "Save the figure in the Figures dock as PDF, SVG or PNG",
            "figures.save", "File", "", always, "download"),
    Command("figure.save_all", "Save figures of all views…",
            "Save a figure of every view into one folder", "figures.save_all", "File", "", always),
    Command("figure.copy", "Copy figure",
            "Put the figure in the Figures dock on the clipboard as a picture", "figures.copy",
            "File", "", always, "copy"),
)  # fmt: skip
