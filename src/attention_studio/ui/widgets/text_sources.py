"""The list of texts to train or measure on: files, folders, hub data sets, the model's samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, Qt, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFileDialog, QInputDialog, QMenu, QWidget

from attention_studio.ui.widgets.controls import push_button
from attention_studio.ui.widgets.dialogs import ask_folder, open_dialog
from attention_studio.ui.widgets.drop_list import DropList

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

SAMPLES = 2000


class TextSources(DropList):
    """Sources as ``core.corpus.read_texts`` takes them."""

    def __init__(
        self, theme: Theme, name: str, accessible: str, parent: Optional[QWidget] = None
    ) -> None:
        files = push_button("Add files", f"{name}.files", "Choose text or JSON-lines files")
        more = push_button("More", f"{name}.more", "A folder, a hub data set, or samples")
        hint = "Drop text files here, or add them below"
        super().__init__(theme, name, accessible, hint, (files, more), parent)
        self._more = more
        files.clicked.connect(self._add_files)
        more.clicked.connect(self._show_more)

    def shown(self, source: str) -> str:
        """What the list says for a source."""
        if source.startswith("samples:"):
            return f"{source.partition(':')[2]} samples of the model's own"
        return source

    @Slot()
    def _add_files(self) -> None:
        dialog = QFileDialog(self, "Add text files")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        dialog.setNameFilters(["Text (*.txt *.md *.jsonl)", "All files (*)"])
        dialog.filesSelected.connect(self._on_files)
        open_dialog(dialog)

    @Slot()
    def _add_folder(self) -> None:
        ask_folder(self, "Add a folder of text", self.add)

    @Slot()
    def _add_hub(self) -> None:
        dialog = QInputDialog(self)
        dialog.setWindowTitle("Add a hub data set")
        dialog.setLabelText("Data set, such as roneneldan/TinyStories or owner/name:split")
        dialog.textValueSelected.connect(self._on_hub)
        open_dialog(dialog)

    @Slot()
    def _add_samples(self) -> None:
        self.add(f"samples:{SAMPLES}")

    @Slot(str)
    def _on_hub(self, name: str) -> None:
        if name.strip():
            self.add(f"hub:{name.strip()}")

    @Slot(list)
    def _on_files(self, files: list[str]) -> None:
        for file in files:
            self.add(file)

    @Slot()
    def _show_more(self) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for text, slot in (
            ("Add a folder…", self._add_folder),
            ("Add a hub data set…", self._add_hub),
            (f"Add {SAMPLES:,} samples of the model's own", self._add_samples),
        ):
            action = QAction(text, menu)
            action.triggered.connect(slot)
            menu.addAction(action)
        menu.popup(self._more.mapToGlobal(QPoint(0, self._more.height())))
