"""Arrangements of docks that a person has saved under names of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Slot

from attention_studio.ui.widgets.dialogs import ask_choice, ask_text
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.window_state import LAYOUT_VERSION, OWN_LAYOUTS, OwnLayout

if TYPE_CHECKING:
    from attention_studio.ui.main_window import MainWindow

_MOST_LETTERS = 60


class OwnLayouts(QObject):
    """Saves, applies and deletes them. Each has a command, as the studio's own layouts have."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._show_commands()

    @Slot()
    def ask_name(self) -> None:
        """Ask for a name and save the arrangement under it."""
        ask_text(self._window, "Save layout", "Name of the layout:", self.save)

    @Slot(str)
    def save(self, name: str) -> None:
        """Save the arrangement; one of the same name is replaced."""
        name = " ".join(name.split())[:_MOST_LETTERS]
        if not name:
            return
        kept = list(self._window.state.own_layouts)
        names = [layout.name for layout in kept]
        made = OwnLayout(name, self._window.saveState(LAYOUT_VERSION))
        if name in names:
            kept[names.index(name)] = made
        elif len(kept) == OWN_LAYOUTS:
            self._window.say(
                Message(
                    "warning",
                    f"There are {OWN_LAYOUTS} layouts already",
                    "",
                    "Delete one, or save under the name of one",
                )
            )
            return
        else:
            kept.append(made)
        self._keep(kept)
        self._window.say(Message("success", f"The layout “{name}” is saved"))

    def apply(self, number: int) -> None:
        """Arrange the docks as one of them says, counted from 0."""
        kept = self._window.state.own_layouts
        if number < len(kept) and not self._window.restore_layout(kept[number].places):
            self._window.say(
                Message(
                    "warning",
                    f"The layout “{kept[number].name}” cannot be used",
                    "another version of the studio saved it",
                    "Delete it and save it anew",
                )
            )

    @Slot()
    def ask_which_to_delete(self) -> None:
        """Ask which one to delete."""
        names = [layout.name for layout in self._window.state.own_layouts]
        ask_choice(self._window, "Delete layout", "Layout:", self.delete, names, "Delete")

    @Slot(str)
    def delete(self, name: str) -> None:
        """Delete the layout of that name."""
        self._keep([one for one in self._window.state.own_layouts if one.name != name])

    def _keep(self, layouts: list[OwnLayout]) -> None:
        self._window.state.own_layouts = tuple(layouts)
        self._window.state.flush()
        self._show_commands()

    def _show_commands(self) -> None:
        commands, kept = self._window.commands, self._window.state.own_layouts
        for number in range(OWN_LAYOUTS):
            command = f"layout.own{number + 1}"
            if number < len(kept):
                name = kept[number].name
                commands.rename(
                    command, f"Layout: {name}", f"Arrange the docks as you saved them as “{name}”"
                )
            else:
                commands.hide(command)
        if kept:
            commands.rename(
                "layout.delete_own", "Delete layout…", "Delete a layout that you have saved"
            )
        else:
            commands.hide("layout.delete_own")
