"""A thin strip that shows one running job: what it does, how far it is, and a way to stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QTimer, Slot
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QWidget

from attention_studio.ui.widgets.controls import ElidedLabel, named, push_button

if TYPE_CHECKING:
    from attention_studio.ui.jobs import Job, JobProgress, JobRunner

# Work that is done sooner than this shows nothing.
APPEAR_MS = 300
_STEPS = 1000


class JobStrip(QWidget):
    """Follows one job at a time; hidden while there is none, or none that takes long."""

    def __init__(self, runner: JobRunner, name: str, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._runner = runner
        self._job: Optional[Job] = None
        self._text = ElidedLabel(role="caption")
        named(self._text, f"{name}.text", "Progress")
        self._bar = QProgressBar()
        named(self._bar, f"{name}.bar", "Progress", "How far the task is")
        self._bar.setTextVisible(False)
        self._bar.setFixedWidth(140)
        self._stop = push_button("Stop", f"{name}.stop", "Stop this task", look="quiet")
        self._stop.clicked.connect(self._on_stop)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 2, 6, 2)
        layout.setSpacing(8)
        layout.addWidget(self._text, 1)
        layout.addWidget(self._bar)
        layout.addWidget(self._stop)
        self._delay = QTimer(self)
        self._delay.setSingleShot(True)
        self._delay.setInterval(APPEAR_MS)
        self._delay.timeout.connect(self.show)
        self.setObjectName(name)
        self.hide()
        # Not the job's own endings: one that a newer job replaces says nothing more.
        runner.job_changed.connect(self._on_job_changed)

    def follow(self, job: Job) -> None:
        """Show this job from now on, instead of an older one."""
        self._release()
        if job.state.over:
            return
        self._job = job
        self._text.set_whole(job.title)
        self._bar.setRange(0, 0)
        self._stop.setEnabled(True)
        job.progress.connect(self._on_progress)
        self._delay.start()

    def _release(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.progress.disconnect(self._on_progress)

    @Slot(object)
    def _on_progress(self, progress: JobProgress) -> None:
        title = self._job.title if self._job is not None else ""
        self._text.set_whole(f"{title}: {progress.text}" if progress.text else title)
        if progress.total:
            self._bar.setRange(0, _STEPS)
            self._bar.setValue(round(_STEPS * progress.done / progress.total))
        else:
            self._bar.setRange(0, 0)

    @Slot(object)
    def _on_job_changed(self, job: Job) -> None:
        if job is not self._job or not job.state.over:
            return
        self._release()
        self._delay.stop()
        self.hide()

    @Slot()
    def _on_stop(self) -> None:
        if self._job is not None:
            self._stop.setEnabled(False)
            self._runner.cancel(self._job)
