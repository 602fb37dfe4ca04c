"""Runs agents, one at a time, and keeps what came of each in the workspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.ui.feature_labels import whose
from attention_studio.ui.work_talking import RUN, AgentRun, Spoken

if TYPE_CHECKING:
    from attention_studio.core.workspace import Workspace
    from attention_studio.ui.jobs import Job, JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_talking import AgentRequest, Asked

KEY = "agents.run"
_PATIENCE_MS = 3_000


class AgentRuns(QObject):
    """One run at a time.

    ``kept`` carries the record that the workspace got and what the run came to (None: to nothing),
    ``heard`` what is heard of a question while it is answered, ``failed`` a ``JobFailure``,
    ``ended`` comes after each.
    """

    kept = Signal(object, object)
    heard = Signal(object)
    failed = Signal(object)
    ended = Signal()

    def __init__(self, session: Session, runner: JobRunner, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._runner = session, runner
        self._job: Optional[Job] = None
        # What runs, and where it was asked for.
        self._asked: Optional[Asked] = None
        self._request: Optional[AgentRequest] = None
        self._spoken = Spoken()
        self._home: Optional[Workspace] = None
        self._crm = ""
        # What is to be done once the conversation has been stopped, and whether it was asked to.
        self._then: Optional[Callable[[], object]] = None
        self._leaving = False
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(_PATIENCE_MS)
        self._patience.timeout.connect(self._leave)

    @property
    def busy(self) -> bool:
        """Whether an agent is at work."""
        return self._job is not None

    def start(
        self,
        asked: Asked,
        request: AgentRequest,
        function: Callable[..., AgentRun],
        *arguments: Any,
        title: str,
    ) -> Optional[Job]:
        """Run an agent on its lane.

        Args:
            asked: what it is asked for, with what it may take in ``request``.
            function: called with a context, the turn to compute, ``arguments``, and in the end
                ``asked``, ``request`` and where to take down what is said.

        Returns:
            The job; None where no more work is taken.
        """
        session = self._session
        self._asked, self._request, self._spoken = asked, request, Spoken()
        # A feature of this name is another one elsewhere.
        self._home, self._crm = session.home, whose(session)
        job = self._runner.submit(
            function, self._runner.turn, *arguments, asked, request, self._spoken,
            title=title, lane=request.lane, key=KEY,
        )  # fmt: skip
        if job.state.over:
            return None
        self._job = job
        job.partial.connect(self.heard)
        job.finished.connect(self._on_finished)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        return job

    def stop(self) -> None:
        """Stop what runs; what was said until then is kept."""
        if self._job is not None:
            self._runner.cancel(self._job)

    def leave(self, then: Callable[[], object]) -> bool:
        """Before the window goes: stop a conversation, so that what was said is kept and saved.

        Returns:
            Whether that takes a moment; ``then`` is called after it. Asked once more, it does not.
        """
        if self._job is None or self._job.lane != "talk" or self._leaving:
            return False
        self._then, self._leaving = then, True
        self._patience.start()
        self.stop()
        return True

    @Slot()
    def _leave(self) -> None:
        self._patience.stop()
        then, self._then = self._then, None
        if then is not None:
            then()

    @Slot(object)
    def _on_finished(self, run: AgentRun) -> None:
        self._keep(run.record, run.result)
        self._end()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.failed.emit(failure)
        self._keep_what_was_said()
        self._end()

    @Slot(object)
    def _on_cancelled(self, _value: object) -> None:
        self._keep_what_was_said()
        self._end()

    def _keep_what_was_said(self) -> None:
        if self._asked is not None and self._request is not None and self._spoken.value():
            self._keep(self._asked.record(self._request, self._spoken), None)

    def _keep(self, record: dict[str, Any], result: Any) -> None:
        self._job = None
        record["crm"] = self._crm
        if self._session.add_record(RUN, record, home=self._home):
            self.kept.emit(record, result)

    def _end(self) -> None:
        self._job, self._leaving = None, False
        self.ended.emit()
        self._leave()
