"""The Tasks dock: what is queued, running and done, each with its progress and a way to stop it."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtWidgets import QFrame, QProgressBar, QScrollArea, QVBoxLayout, QWidget

from attention_studio.ui.jobs import QUIET_S, Job, JobRunner, JobState
from attention_studio.ui.text import duration
from attention_studio.ui.widgets.controls import (
    ElidedLabel,
    icon_button,
    label,
    named,
    row,
    set_role,
)
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

KEPT_DONE = 30
# Quiet work is listed once it takes this long.
_WORDS = {
    JobState.QUEUED: "Waiting",
    JobState.RUNNING: "Running",
    JobState.FINISHED: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}


class _TaskRow(QFrame):
    """One job."""

    def __init__(self, job: Job, runner: JobRunner, theme: Theme) -> None:
        super().__init__()
        self._runner = runner
        self._job: Optional[Job] = job
        self.number = job.number
        self.setProperty("panel", "sunken")
        self.setObjectName(f"task.{job.number}")
        self._title = ElidedLabel(job.title)
        self._state = label("", "caption")
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        named(
            self._progress,
            f"task.{job.number}.progress",
            f"Progress of {job.title}",
            "How far it is",
        )
        self._text = ElidedLabel("", "caption")
        self._cancel = icon_button(
            theme, "close", f"task.{job.number}.cancel", f"Cancel {job.title}", "Stop this task"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 6, 6, 7)
        layout.setSpacing(3)
        layout.addLayout(row(self._title, self._state, self._cancel, stretch=0))
        layout.addWidget(self._progress)
        layout.addWidget(self._text)
        self._cancel.clicked.connect(self._on_cancel)
        self.show_job(job)

    def show_job(self, job: Job) -> None:
        """Draw the job's state."""
        over = job.state.over
        word = "Replaced by a newer one" if over and job.superseded else _WORDS[job.state]
        if job.context.cancelled and not over:
            word = "Stopping…"
        if job.started_at is not None:
            word = f"{word} · {duration(job.seconds)}"
        self._state.setText(word)
        failed, done = (
            job.state is JobState.FAILED,
            job.state is JobState.FINISHED and not job.superseded,
        )
        set_role(self._state, "error" if failed else "success" if done else "caption")
        fraction = job.last_progress.fraction
        self._progress.setVisible(not over)
        if job.state is JobState.RUNNING and fraction is None:
            self._progress.setRange(0, 0)
        else:
            self._progress.setRange(0, 1000)
            self._progress.setValue(round(1000 * (fraction or 0.0)))
        text = job.failure.what if job.failure is not None else job.last_progress.text
        self._text.set_whole("" if over and not failed else text)
        self._text.setVisible(bool(self._text.whole()))
        self._cancel.setVisible(not over)
        self._cancel.setEnabled(not job.context.cancelled)
        if over:
            # The row is a record from now on: the job and all it holds may go.
            self._job = None

    @Slot()
    def _on_cancel(self) -> None:
        if self._job is not None:
            self._runner.cancel(self._job)
            self._cancel.setEnabled(False)


class TasksDock(StudioDock):
    """Lists jobs, the newest first."""

    NAME = "tasksDock"
    TITLE = "Tasks"
    ICON = "tasks"

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._rows: dict[int, _TaskRow] = {}
        self._live: dict[int, Job] = {}
        self._quiet: dict[int, Job] = {}
        self._done: deque[int] = deque()
        self._clear = icon_button(
            self.theme,
            "trash",
            "tasks.clear",
            "Clear finished tasks",
            "Take finished tasks off the list",
        )
        self.add_title_widget(self._clear)
        self._clear.clicked.connect(self._clear_done)
        body = QWidget()
        body.setObjectName("formBody")
        self._layout = QVBoxLayout(body)
        self._layout.setContentsMargins(8, 8, 8, 8)
        self._layout.setSpacing(6)
        self._layout.addStretch(1)
        area = QScrollArea()
        named(area, "tasks.list", "Tasks", "Queued, running and finished tasks, newest first")
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(body)
        self.set_content(area)
        self.set_empty(
            "No tasks",
            "Loading, training and tracing show here with their progress, and can be stopped here.",
        )
        self._clock = QTimer(self)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._tick)
        self.runner.job_added.connect(self._on_added)
        self.runner.job_changed.connect(self._on_changed)

    @property
    def n_rows(self) -> int:
        """How many tasks are listed."""
        return len(self._rows)

    @Slot(object)
    def _on_added(self, job: Job) -> None:
        if job.quiet:
            self._quiet[job.number] = job
            if not self._clock.isActive():
                self._clock.start()
        else:
            self._list(job)

    def _list(self, job: Job) -> None:
        row_widget = _TaskRow(job, self.runner, self.theme)
        self._rows[job.number] = row_widget
        self._live[job.number] = job
        self._layout.insertWidget(0, row_widget)
        self.show_empty(False)
        if not self._clock.isActive():
            self._clock.start()

    @Slot(object)
    def _on_changed(self, job: Job) -> None:
        if job.state.over:
            self._quiet.pop(job.number, None)
        shown = self._rows.get(job.number)
        if shown is None:
            return
        shown.show_job(job)
        if job.state.over and self._live.pop(job.number, None) is not None:
            self._done.append(job.number)
            while len(self._done) > KEPT_DONE:
                self._drop(self._done.popleft())
            if job.quiet and job.state is not JobState.FAILED:
                # It was listed because it took long; nobody needs a record of it.
                self._done.pop()
                self._drop(job.number)
                self.show_empty(not self._rows)

    @Slot()
    def _tick(self) -> None:
        if not self._live and not self._quiet:
            self._clock.stop()
            return
        now = time.monotonic()
        for job in tuple(self._quiet.values()):
            if job.started_at is not None and now - job.started_at > QUIET_S:
                del self._quiet[job.number]
                self._list(job)
        if not self.in_front:
            return
        for job in self._live.values():
            if job.started_at is not None and now - job.started_at > 0.4:
                self._rows[job.number].show_job(job)

    @Slot()
    def _clear_done(self) -> None:
        while self._done:
            self._drop(self._done.popleft())
        self.show_empty(not self._rows)

    def _drop(self, number: int) -> None:
        widget = self._rows.pop(number, None)
        if widget is not None:
            self._layout.removeWidget(widget)
            widget.hide()
            widget.deleteLater()
