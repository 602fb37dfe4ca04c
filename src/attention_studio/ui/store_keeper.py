"""Opens the dashboards that belong to the open replacement model, and remembers where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.ui import work_dashboards
from attention_studio.ui.feature_labels import whose
from attention_studio.ui.jobs import LANES
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.dialogs import ask_folder
from attention_studio.ui.widgets.message_bar import Message

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.ui.jobs import Job, JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_dashboards import FoundStore

STORES = "dashboards"
"""Kind of the session's records that say where dashboards are, and the folder of those that are
built without naming another."""
_KEY = "open-store"


class StoreKeeper(QObject):
    """Keeps ``session.store`` in step with ``session.crm``. Where there is none, any store is
    welcome: to read by itself, or beside a graph that came without its replacement model.

    Dashboards are looked for where the workspace remembers them, then where they are built unless
    somebody names another folder. ``message`` carries a ``Message`` for the message bar.
    """

    message = Signal(object)

    def __init__(self, session: Session, runner: JobRunner, window: QWidget) -> None:
        super().__init__(window)
        self._session, self._runner, self._window = session, runner, window
        self._shown: Optional[FeatureStore] = None
        # Stores to be closed, and the jobs that may still read them, on whatever lane.
        self._leaving: list[tuple[FeatureStore, set[int]]] = []
        # A replacement model and a workspace come in several steps: looked at when all are there.
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(0)
        self._settling.timeout.connect(self.look)
        session.changed.connect(self._on_session)
        runner.job_changed.connect(self._on_job)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def open(self) -> None:
        """Choose a folder of dashboards and open it."""
        remembered = self._remembered()
        start = remembered[0].parent if remembered else None
        ask_folder(self._window, "Open dashboards", self.open_folder, start)

    @Slot(str)
    def open_folder(self, folder: str) -> None:
        """Open the dashboards in a folder."""
        path = Path(folder)
        job = self._runner.submit(
            work_dashboards.open_store, self._session.crm, path,
            title=f"Open {path.name}", lane="quick", key=_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_opened)
        job.failed.connect(self._on_failed)

    @Slot()
    def close(self) -> None:
        """Let go of the dashboards, and do not open them by themselves any more."""
        self._remember(None)
        self._session.set_store(None)

    # -- finding ------------------------------------------------------------------------------

    @Slot()
    def look(self) -> None:
        """Look for dashboards of the open replacement model, unless some are open."""
        session = self._session
        crm = session.crm
        if crm is None or session.store is not None or self._closed():
            return
        folders = (*self._remembered(), usual_folder(session))
        job = self._runner.submit(
            work_dashboards.find_store, crm, folders,
            title="Look for dashboards", lane="quick", key=_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_found)
        job.failed.connect(self._on_failed)

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if part in (SessionPart.CRM, SessionPart.RECORDS):
            if self._session.crm is not None and self._session.store is None:
                self._settling.start()
        elif part is SessionPart.STORE:
            old, self._shown = self._shown, self._session.store
            if old is not None and old is not self._shown:
                # Whoever asks from now on has not got it any more.
                readers = {job.number for job in self._runner.jobs if job.lane in LANES}
                self._leaving.append((old, readers))
                self._close_unread()

    @Slot(object)
    def _on_job(self, job: Job) -> None:
        if self._leaving and job.state.over:
            for _, readers in self._leaving:
                readers.discard(job.number)
            self._close_unread()

    def _close_unread(self) -> None:
        """Close what nobody reads any more."""
        unread = [store for store, readers in self._leaving if not readers]
        self._leaving = [(store, readers) for store, readers in self._leaving if readers]
        for store in unread:
            if self._runner.accepting:
                self._runner.submit(
                    work_dashboards.close_store, store, title="Close dashboards", lane="quick",
                    quiet=True,
                )  # fmt: skip

    @Slot(object)
    def _on_found(self, found: FoundStore) -> None:
        if found.store is not None and found.crm is self._session.crm:
            self._take(found)
        elif found.store is not None:
            found.store.close()
        if found.refused is not None:
            self.message.emit(Message.of(found.refused))

    @Slot(object)
    def _on_opened(self, found: FoundStore) -> None:
        store = found.store
        if store is None:
            return
        if found.crm is not self._session.crm:
            store.close()
            return
        self._remember(store.folder)
        self._take(found)
        about = store.about
        self.message.emit(
            Message(
                "success",
                f"Dashboards of {about.n_features:,} features are open",
                work_dashboards.imported_from(about)
                or f"{about.n_tokens:,} tokens of text · {store.folder}",
            )
        )

    def _take(self, found: FoundStore) -> None:
        self._session.set_store(found.store)
        # Counted over more text than anybody would wait for: the graph's filters use it too.
        self._session.set_density(found.density)
        self._session.set_store_labels(found.labels)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- remembering ----------------------------------------------------------------------------

    def _entry(self) -> Optional[str]:
        """What the workspace says of this replacement model: a folder, "" for none at all."""
        for record in self._session.records.get(STORES, ()):
            if record.get("crm") == whose(self._session) and isinstance(record.get("folder"), str):
                return str(record["folder"])
        return None

    def _remembered(self) -> tuple[Path, ...]:
        entry = self._entry()
        return (Path(entry),) if entry else ()

    def _closed(self) -> bool:
        return self._entry() == ""

    def _remember(self, folder: Optional[Path]) -> None:
        if self._session.crm is None:
            return
        rest = tuple(
            record
            for record in self._session.records.get(STORES, ())
            if record.get("crm") != whose(self._session)
        )
        mine = {"crm": whose(self._session), "folder": "" if folder is None else str(folder)}
        self._session.set_records({**self._session.records, STORES: (*rest, mine)}, self)


def usual_folder(session: Session) -> Path:
    """Where the dashboards of the open replacement model are built unless somebody says
    otherwise."""
    folder, info = session.crm_folder, session.crm_info
    kind = f"-{info.fingerprint[:12]}" if info is not None else ""
    # A name is text from outside: it must be one part of a path, and no special one.
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name if folder is not None else "crm")[:60]
    return session.settings.cache_dir / STORES / f"{plain}{kind}"
