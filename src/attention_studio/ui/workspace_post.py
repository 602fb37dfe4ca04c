"""Brings what was found out to the workspace in which it was asked for, after that was left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.ui import work_workspace
from attention_studio.ui.widgets.message_bar import Message, Offer

if TYPE_CHECKING:
    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.stray_record import StrayRecord


class WorkspacePost(QObject):
    """Has stray records of the session written on a lane. ``message`` says what became of each."""

    message = Signal(object)

    def __init__(self, session: Session, runner: JobRunner, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        session.astray.connect(self._on_astray)

    @Slot(object)
    def _on_astray(self, stray: StrayRecord) -> None:
        job = self._runner.submit(
            work_workspace.deliver, stray,
            title=f"Keep what was found in {stray.folder.name}", lane="quick", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_delivered)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_delivered(self, delivery: work_workspace.Delivery) -> None:
        stray = delivery.stray
        told = f"The {stray.kind} was asked for in the workspace {stray.folder.name}"
        if delivery.refused:
            keep = Offer("Keep it here", partial(self._keep_here, stray))
            told = f"{told}, and cannot be kept there"
            self.message.emit(Message("warning", told, delivery.refused, offer=keep))
        else:
            told = f"{told}, and is kept there"
            self.message.emit(Message("info", told, "; ".join(delivery.problems)))

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    def _keep_here(self, stray: StrayRecord) -> None:
        self._session.add_record(stray.kind, stray.record, self, among=stray.among)
