"""The list of texts to train on: files, folders, hub data sets, the model's own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction, QDragEnterEvent, QDropEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QInputDialog,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.widgets.controls import (
    icon_button,
    named,
    plain_tip,
    push_button,
    row,
)

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

SAMPLES = 2000


class _SourceList(QListWidget):
    """A list that says what it is for while it is empty."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the rows, or the hint."""
        super().paintEvent(event)
        if self.count() == 0:
            painter = QPainter(self.viewport())
            painter.setPen(self._theme.colour("muted"))
            painter.drawText(
                self.viewport().rect().adjusted(8, 8, -8, -8),
                int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap),
                "Drop text files here, or add them below",
            )


class TextSources(QWidget):
    """Sources as ``core.corpus.read_texts`` takes them. Files can be dropped on it."""

    changed = Signal()

    def __init__(
        self, theme: Theme, name: str, accessible: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._name = name
        self.setAcceptDrops(True)
        self._list = _SourceList(theme)
        named(self._list, f"{name}.list", accessible, "Drop files or folders here")
        self._list.setMaximumHeight(84)
        self._list.setProperty("panel", "sunken")
        self._list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        files = push_button("Add files", f"{name}.files", "Choose text or JSON-lines files")
        self._more = push_button("More", f"{name}.more", "A folder, a hub data set, or samples")
        self._remove = icon_button(
            theme, "trash", f"{name}.remove", "Remove the selected texts", "Remove what is selected"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self._list)
        layout.addLayout(row(files, self._more, self._remove, spacing=5))
        files.clicked.connect(self._add_files)
        self._more.clicked.connect(self._show_more)
        self._remove.clicked.connect(self._remove_selected)

    def sources(self) -> tuple[str, ...]:
        """The sources, in order."""
        return tuple(
            str(self._list.item(number).data(Qt.ItemDataRole.UserRole))
            for number in range(self._list.count())
        )

    def set_sources(self, sources: tuple[str, ...]) -> None:
        """Replace the list."""
        self._list.clear()
        for source in sources:
            self._append(source)
        self.changed.emit()

    @Slot(str)
    def add(self, source: str) -> None:
        """Add a source that is not there yet."""
        if source and source not in self.sources():
            self._append(source)
            self.changed.emit()

    def _append(self, source: str) -> None:
        shown = source
        if source.startswith("samples:"):
            shown = f"{source.partition(':')[2]} samples of the model's own"
        item = QListWidgetItem(shown)
        item.setData(Qt.ItemDataRole.UserRole, source)
        item.setToolTip(plain_tip(source))
        self._list.addItem(item)

    @Slot()
    def _add_files(self) -> None:
        dialog = QFileDialog(self, "Add text files")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        dialog.setNameFilters(["Text (*.txt *.md *.jsonl)", "All files (*)"])
        dialog.filesSelected.connect(self._on_files)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot()
    def _add_folder(self) -> None:
        dialog = QFileDialog(self, "Add a folder of text")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self.add)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot()
    def _add_hub(self) -> None:
        dialog = QInputDialog(self)
        dialog.setWindowTitle("Add a hub data set")
        dialog.setLabelText("Data set, such as roneneldan/TinyStories or owner/name:split")
        dialog.textValueSelected.connect(self._on_hub)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

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

    @Slot()
    def _remove_selected(self) -> None:
        for item in self._list.selectedItems():
            self._list.takeItem(self._list.row(item))
        self.changed.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Add the dropped files and folders."""
        for url in event.mimeData().urls():
            if url.isLocalFile():
                self.add(url.toLocalFile())
        event.acceptProposedAction()
