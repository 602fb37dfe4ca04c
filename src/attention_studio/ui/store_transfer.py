"""Brings dashboards of other tools into the window, and takes the open ones to other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.ui import work_dashboards
from attention_studio.ui.store_keeper import STORES
from attention_studio.ui.widgets.dialogs import ask_folder, ask_new_folder
from attention_studio.ui.widgets.message_bar import Message

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_dashboards import MovedStore

_BRING_KEY, _SEND_KEY = "bring-store", "send-store"


class StoreTransfer(QObject):
    """Imports and exports dashboards.

    ``message`` carries a ``Message`` for the message bar, ``imported`` the folder of dashboards
    that came in. ``given`` and ``sent`` are what was last imported, from where to where, and what
    was exported, for which tool and to where; None: nothing.
    """

    message = Signal(object)
    imported = Signal(str)

    def __init__(self, session: Session, runner: JobRunner, window: QWidget) -> None:
        super().__init__(window)
        self._session, self._runner, self._window = session, runner, window
        self._tool = "circuit-tracer"
        self.given: Optional[tuple[Path, Path]] = None
        self.sent: Optional[tuple[str, Path]] = None

    @Slot()
    def bring(self) -> None:
        """Choose a folder of another tool's pages and make dashboards of them."""
        ask_folder(self._window, "Import dashboards", self.bring_folder)

    @Slot(str)
    def bring_folder(self, folder: str) -> None:
        """Make dashboards of another tool's pages in a folder, and open them."""
        source = Path(folder)
        self.given = (source, self._new_folder(source.name))
        job = self._runner.submit(
            work_dashboards.import_store, *self.given,
            title=f"Import {source.name}", lane="io", key=_BRING_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_imported)
        job.failed.connect(self._on_failed)

    @Slot()
    def send_to_tracer(self) -> None:
        """Choose a folder for circuit-tracer's files."""
        self._ask("circuit-tracer")

    @Slot()
    def send_to_neuronpedia(self) -> None:
        """Choose a folder for Neuronpedia's files."""
        self._ask("neuronpedia")

    def _ask(self, tool: str) -> None:
        self._tool = tool
        ask_new_folder(self._window, f"Export dashboards for {tool}", self.send_folder)

    @Slot(str)
    def send_folder(self, folder: str) -> None:
        """Write the open dashboards into a folder, for the tool that was chosen."""
        store = self._session.store
        if store is None:
            return
        self.sent = (self._tool, Path(folder))
        job = self._runner.submit(
            work_dashboards.export_store, store, *self.sent,
            title=f"Export dashboards for {self._tool}", lane="io", key=_SEND_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_exported)
        job.failed.connect(self._on_failed)

    def _new_folder(self, name: str) -> Path:
        """Where dashboards that are imported go: a folder that is not there."""
        # A name is text from outside: it must be one part of a path, and no special one.
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60]
        folder = self._session.settings.cache_dir / STORES
        number, found = 1, folder / f"imported-{plain}"
        while found.exists():
            number += 1
            found = folder / f"imported-{plain}-{number}"
        return found

    @Slot(object)
    def _on_imported(self, found: MovedStore) -> None:
        self.message.emit(
            Message(
                "success", f"Pages about {found.n_pages:,} features were imported",
                ". ".join(found.notes),
            )
        )  # fmt: skip
        self.imported.emit(str(found.folder))

    @Slot(object)
    def _on_exported(self, found: MovedStore) -> None:
        self.message.emit(
            Message(
                "success", f"Pages about {found.n_pages:,} features were exported",
                ". ".join((*found.notes, str(found.folder))),
            )
        )  # fmt: skip

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))
