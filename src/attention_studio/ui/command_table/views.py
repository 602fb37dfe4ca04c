"""Commands: layouts, docks and the look of the window."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.dock_table import DOCKS
from attention_studio.ui.window_state import OWN_LAYOUTS

_OWN = "View/Own layouts"

LAYOUTS: tuple[Command, ...] = (
    Command("layout.train", "Layout: Train", "Arrange the docks for training",
            "window.layout_train", "View", "Ctrl+1", icon="train"),
    Command("layout.features", "Layout: Features", "Arrange the docks for looking at features",
            "window.layout_features", "View", "Ctrl+2", icon="features"),
    Command("layout.circuits", "Layout: Circuits",
            "Arrange the docks for looking at attribution graphs", "window.layout_circuits",
            "View", "Ctrl+3", icon="graph"),
    Command("layout.explain", "Layout: Explain",
            "Arrange the docks for saying what features and circuits mean",
            "window.layout_explain", "View", icon="note"),
    *(
        Command(f"layout.own{number + 1}", f"Own layout {number + 1}",
                "Arrange the docks as you have saved them", "layouts.apply", _OWN,
                f"Ctrl+{number + 4}", icon="layout", argument=number, shown=False)
        for number in range(OWN_LAYOUTS)
    ),
    Command("layout.save_own", "Save layout…",
            "Save where the docks are as a layout of your own", "layouts.ask_name", _OWN,
            icon="save"),
    Command("layout.delete_own", "Delete layout…", "Delete a layout that you have saved",
            "layouts.ask_which_to_delete", _OWN, icon="trash", shown=False),
    Command("layout.reset", "Reset layout", "Put every dock back where it was at first",
            "window.reset_layout", "View", icon="layout"),
)  # fmt: skip

SHOWN: tuple[Command, ...] = tuple(
    Command(
        f"view.{dock.name}", f"{dock.kind.TITLE} dock",
        f"Show the {dock.kind.TITLE} dock, or hide it", f"{dock.name}.toggle_shown", "View/Docks",
        icon=dock.kind.ICON, checkable=True,
    )
    for dock in DOCKS
)  # fmt: skip

GOING: tuple[Command, ...] = (
    *(
        Command(
            f"go.{dock.name}", f"Go to {dock.kind.TITLE}",
            f"Show the {dock.kind.TITLE} dock and put the keyboard into it",
            f"{dock.name}.go_there", "Go", dock.shortcut, icon=dock.kind.ICON,
        )
        for dock in DOCKS
    ),
    Command("prompt.focus", "Edit the prompt", "Go to the text of the prompt", "prompt.focus_text",
            "Go", "Ctrl+E", separator=True),
)  # fmt: skip

LOOKS: tuple[Command, ...] = (
    Command("theme.toggle", "Switch light and dark", "Use the other colour scheme",
            "window.toggle_theme", "View", "Ctrl+Shift+L", icon="theme", separator=True),
    Command("theme.system", "Follow the system's colours",
            "Use light or dark as the system does", "window.follow_system_theme", "View"),
    Command("text.larger", "Larger text", "Make all text larger", "window.larger_text", "View",
            "Ctrl+="),
    Command("text.smaller", "Smaller text", "Make all text smaller", "window.smaller_text", "View",
            "Ctrl+-"),
    Command("text.normal", "Normal text size", "Set all text back to its normal size",
            "window.normal_text", "View", "Ctrl+0"),
)  # fmt: skip
