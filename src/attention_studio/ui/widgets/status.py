"""The status bar's figures: model, replacement model, device, running work, memory."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Optional

import psutil
from PySide6.QtCore import QTimer, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from attention_studio.ui import text
from attention_studio.ui.jobs import QUIET_S, Job, JobRunner
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.widgets.controls import label, named

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

_MEMORY_MS = 2_000


class StatusFigures(QWidget):
    """One line at the bottom of the window."""

    def __init__(
        self, session: Session, theme: Theme, runner: JobRunner, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        self._theme = theme
        self._process = psutil.Process()
        self._said = ""
        self._model = self._figure("status.model", "Model", "The loaded model")
        self._crm = self._figure("status.crm", "Replacement model", "The open replacement model")
        self._work = self._figure("status.work", "Work", "What is running")
        self._device = self._figure("status.device", "Device", "Where the model runs")
        self._memory = self._figure(
            "status.memory", "Memory", "Memory of this program, and what is free on the machine"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 1)
        layout.setSpacing(6)
        layout.addWidget(self._model)
        layout.addWidget(self._crm)
        layout.addStretch(1)
        layout.addWidget(self._work)
        layout.addStretch(1)
        layout.addWidget(self._device)
        layout.addWidget(self._memory)
        self._timer = QTimer(self)
        self._timer.setInterval(_MEMORY_MS)
        self._timer.timeout.connect(self._measure)
        self._timer.start()
        # Words that come and go within milliseconds say nothing, and lay the window out twice.
        self._quiet = QTimer(self)
        self._quiet.setSingleShot(True)
        self._quiet.setInterval(math.ceil(1000 * QUIET_S))
        self._quiet.timeout.connect(self._show_work)
        session.changed.connect(self._on_session)
        runner.job_changed.connect(self._on_job)
        runner.job_added.connect(self._on_job)
        self._show_session()
        self._measure()

    def say(self, message: str) -> None:
        """Put a word in the middle that stays."""
        self._said = message
        self._work.setText(message)

    @staticmethod
    def _figure(name: str, accessible: str, tip: str) -> QLabel:
        return named(label("", "caption"), name, accessible, tip)

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if part in (SessionPart.MODEL, SessionPart.CRM, SessionPart.TRAINING):
            self._show_session()

    def _show_session(self) -> None:
        info = self._session.model_info
        self._model.setText("No model" if info is None else info.name)
        folder, crm = self._session.crm_folder, self._session.crm_info
        if crm is None:
            self._crm.setText("No replacement model")
        else:
            name = folder.name if folder is not None else "In memory"
            self._crm.setText(f"{name} ({text.covered(crm)})")
        self._device.setText("" if info is None else f"{info.device} · {info.dtype}")

    @Slot(object)
    def _on_job(self, _job: Job) -> None:
        self._show_work()

    @Slot()
    def _show_work(self) -> None:
        if self._said:
            return
        begun = [job for job in self._runner.jobs if job.started_at is not None]
        then = time.monotonic() - QUIET_S
        running = [job for job in begun if not job.quiet or (job.started_at or 0.0) <= then]
        if len(running) < len(begun) and not self._quiet.isActive():
            self._quiet.start()
        if not running:
            self._work.setText("")
            return
        # The oldest is what the person asked for; the others mostly serve it.
        job = running[0]
        fraction = job.last_progress.fraction
        done = "" if fraction is None else f" {100 * fraction:.0f}%"
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        self._work.setText(f"{job.title}{done}{more}")

    @Slot()
    def _measure(self) -> None:
        used = self._process.memory_info().rss
        free = psutil.virtual_memory().available
        self._memory.setText(f"{text.size(used)} used · {text.size(free)} free")
