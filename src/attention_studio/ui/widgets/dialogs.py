"""Questions for files and folders. Opened, never executed: a nested event loop would outlive a
closing window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QFileDialog, QInputDialog, QWidget


def ask_folder(
    parent: QWidget, title: str, chosen: Callable[[str], Any], start: Optional[Path] = None
) -> None:
    """Let a person choose a folder; ``chosen`` gets its path.

    Args:
        chosen: a slot of a QObject.
        start: where to begin.
    """
    dialog = QFileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    if start is not None:
        dialog.setDirectory(str(start))
    dialog.fileSelected.connect(chosen)
    open_dialog(dialog)


def ask_file(
    parent: QWidget, title: str, chosen: Callable[[str], Any], filters: Sequence[str] = ()
) -> None:
    """Let a person choose a file that exists; ``chosen``, a slot, gets its path."""
    dialog = QFileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    if filters:
        dialog.setNameFilters(list(filters))
    dialog.fileSelected.connect(chosen)
    open_dialog(dialog)


def ask_new_folder(
    parent: QWidget, title: str, chosen: Callable[[str], Any], start: Optional[Path] = None
) -> None:
    """Let a person name a folder that is to be made; ``chosen``, a slot, gets its path."""
    dialog = QFileDialog(parent, title)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setFileMode(QFileDialog.FileMode.AnyFile)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    dialog.setLabelText(QFileDialog.DialogLabel.FileName, "Name of the folder:")
    dialog.setLabelText(QFileDialog.DialogLabel.Accept, "Create")
    if start is not None:
        dialog.setDirectory(str(start))
    dialog.fileSelected.connect(chosen)
    open_dialog(dialog)


def ask_text(
    parent: QWidget, title: str, question: str, chosen: Callable[[str], Any], start: str = ""
) -> None:
    """Let a person type a line; ``chosen``, a slot, gets it."""
    dialog = QInputDialog(parent)
    dialog.setWindowTitle(title)
    dialog.setLabelText(question)
    dialog.setTextValue(start)
    dialog.textValueSelected.connect(chosen)
    open_dialog(dialog)


def ask_choice(
    parent: QWidget,
    title: str,
    question: str,
    chosen: Callable[[str], Any],
    choices: Sequence[str],
    accept: str,
) -> None:
    """Let a person choose one of several; ``chosen``, a slot, gets it. ``accept`` names the
    button."""
    dialog = QInputDialog(parent)
    dialog.setWindowTitle(title)
    dialog.setLabelText(question)
    dialog.setOkButtonText(accept)
    dialog.setComboBoxItems(list(choices))
    dialog.textValueSelected.connect(chosen)
    open_dialog(dialog)


def ask_save(
    parent: QWidget,
    title: str,
    chosen: Callable[[str], Any],
    kinds: Sequence[tuple[str, str]],
    name: str = "",
) -> None:
    """Let a person choose where to save; ``chosen``, a slot, gets the path.

    Args:
        kinds: what can be saved, such as ``("Table", "csv")``; the chosen one's ending is put to a
            name that has none.
        name: of the file, without ending, as a proposal.
    """
    dialog = _SaveDialog(parent, title, kinds)
    if name:
        dialog.selectFile(f"{name}.{kinds[0][1]}")
    dialog.fileSelected.connect(chosen)
    open_dialog(dialog)


class _SaveDialog(QFileDialog):
    """A dialog for saving whose default ending follows the chosen kind."""

    def __init__(self, parent: QWidget, title: str, kinds: Sequence[tuple[str, str]]) -> None:
        super().__init__(parent, title)
        self._endings = {f"{kind} (*.{ending})": ending for kind, ending in kinds}
        self.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        self.setNameFilters(list(self._endings))
        self.setDefaultSuffix(kinds[0][1])
        self.filterSelected.connect(self._on_kind)

    @Slot(str)
    def _on_kind(self, chosen: str) -> None:
        self.setDefaultSuffix(self._endings[chosen])


def open_dialog(dialog: Any) -> None:
    """Show a dialog, and let it go once it is answered."""
    dialog.finished.connect(dialog.deleteLater)
    dialog.open()
