"""Building dashboards: over which text, how many tokens, where to, what it will take, how far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtWidgets import QCheckBox, QLineEdit, QProgressBar, QVBoxLayout, QWidget

from attention_studio.ui import text, work_dashboards
from attention_studio.ui.jobs import Job, JobFailure, JobProgress
from attention_studio.ui.session import Session, SessionPart
from attention_studio.ui.store_keeper import usual_folder
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    label,
    named,
    push_button,
    row,
    show_fraction,
)
from attention_studio.ui.widgets.dialogs import ask_new_folder
from attention_studio.ui.widgets.form_fields import form_column, grid, spin
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.text_sources import TextSources
from attention_studio.ui.work_dashboards import BuildRequest

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_dashboards import BuildOutlook, BuiltStore

_KEY, _OUTLOOK_KEY = "features.build", "features.build.outlook"
_REST_MS = 300
USUAL_TOKENS, USUAL_SEQ_LEN = 200_000, 128


class DashboardBuilder(QWidget):
    """The form, and the job that carries it out.

    ``message`` carries a ``Message`` for the message bar, ``built`` the folder of new dashboards.
    """

    message = Signal(object)
    built = Signal(str)

    def __init__(
        self, session: Session, runner: JobRunner, commands: Commands, theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._session, self._runner = session, runner
        self._job: Optional[Job] = None
        self._outlook: Optional[BuildOutlook] = None
        self._named = False
        """Whether the person has said where to."""
        self.texts = TextSources(theme, "features.build.texts", "Texts to look for features in")
        self.tokens = spin(
            "features.build.tokens", "Tokens", USUAL_TOKENS, 1_000, 1_000_000_000, 50_000,
            "How many tokens are looked at, at most; rare features need many",
        )  # fmt: skip
        self.seq_len = spin(
            "features.build.seq_len", "Tokens per text", USUAL_SEQ_LEN, 8, 4096, 32,
            "Length of the pieces that the text is read in",
        )  # fmt: skip
        self.folder = QLineEdit()
        named(self.folder, "features.build.folder", "Folder of the dashboards",
              "Where the dashboards are written; labels that are there are kept")  # fmt: skip
        self.anew = named(
            QCheckBox("Begin anew"), "features.build.anew", "Begin anew",
            "Forget what was gathered when a building in this folder was stopped",
        )  # fmt: skip
        choose = push_button("Choose", "features.build.choose", "Choose another folder")
        choose.clicked.connect(self._ask_folder)
        self.estimate = label("", "caption", wrap=True, name="features.build.estimate")
        self._start = CommandButton(commands, "features.build_start", look="primary", text="Build")
        self.cancel = push_button(
            "Cancel", "features.build.cancel",
            "Stop; what was gathered is kept, and the next start goes on from there",
        )  # fmt: skip
        self._status = ElidedLabel("", "caption")
        named(self._status, "features.build.status", "What is being done")
        self._progress = named(
            QProgressBar(), "features.build.progress", "Progress", "How far the building is"
        )
        self._progress.setTextVisible(False)
        self._resting = QTimer(self)
        self._resting.setSingleShot(True)
        self._resting.setInterval(_REST_MS)
        self._resting.timeout.connect(self._estimate)
        self._lay_out(choose)
        self.cancel.clicked.connect(self._on_cancel)
        self.texts.changed.connect(self._on_changed)
        for field in (self.tokens, self.seq_len):
            field.valueChanged.connect(self._on_changed)
        self.folder.textEdited.connect(self._on_folder_typed)
        session.changed.connect(self._on_session)
        commands.bind("builder", self)
        self._set_running(None)
        self._propose_folder()

    def _lay_out(self, choose: QWidget) -> None:
        form = QWidget()
        form.setObjectName("formBody")
        fields = QVBoxLayout(form)
        fields.setContentsMargins(12, 10, 12, 8)
        fields.setSpacing(4)
        about = label(
            "One pass over a text keeps, for every feature, how often it fires and the texts on "
            "which it fires most. Choose text of the kind that you want to understand.",
            "muted", wrap=True,
        )  # fmt: skip
        fields.addWidget(about)
        fields.addSpacing(6)
        fields.addWidget(label("Text", "section"))
        fields.addWidget(self.texts)
        fields.addSpacing(8)
        fields.addLayout(grid(("Tokens", self.tokens), ("Tokens per text", self.seq_len)))
        fields.addSpacing(8)
        fields.addWidget(label("Folder", "section"))
        fields.addLayout(row(self.folder, choose, stretch=0))
        fields.addWidget(self.anew)
        fields.addStretch(1)
        column = form_column(
            form, "features.build.form", "Settings of the dashboards",
            self.estimate, self._status, self._progress, row(self._start, self.cancel),
        )  # fmt: skip
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

    # -- the form -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Be ready to be filled in: with the model's own samples where there is no text yet."""
        if not self.texts.sources():
            self.texts.add("samples:2000")
        self._resting.start()

    def request(self) -> BuildRequest:
        """What the form asks for."""
        return BuildRequest(
            self.texts.sources(), self.tokens.value(), self.seq_len.value(),
            Path(self.folder.text().strip()).expanduser(), self.anew.isChecked(),
        )  # fmt: skip

    def _propose_folder(self) -> None:
        if self._session.crm is not None and not self._named:
            self.folder.setText(str(usual_folder(self._session)))
            self.folder.setCursorPosition(0)

    @Slot()
    def _ask_folder(self) -> None:
        start = Path(self.folder.text()).parent if self.folder.text() else None
        ask_new_folder(self, "Folder of the dashboards", self._on_folder, start)

    @Slot(str)
    def _on_folder(self, folder: str) -> None:
        self._named = True
        self.folder.setText(folder)

    @Slot()
    def _on_folder_typed(self) -> None:
        self._named = True

    @Slot()
    def _on_changed(self) -> None:
        self._resting.start()

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if part is SessionPart.CRM:
            self._named = False
            self._propose_folder()
            info = self._session.model_info
            if info is not None:
                self.seq_len.setMaximum(info.context_length)
                self.seq_len.setValue(min(USUAL_SEQ_LEN, info.context_length))
            if self.isVisible():
                self._resting.start()

    # -- what it will take ------------------------------------------------------------------------

    @Slot()
    def _estimate(self) -> None:
        crm = self._session.crm
        if crm is None or self._job is not None:
            return
        job = self._runner.submit(
            work_dashboards.build_outlook, crm, self.request(),
            title="Estimate the dashboards", key=_OUTLOOK_KEY, quiet=True,
        )  # fmt: skip
        self.estimate.setText("Estimating…")
        job.finished.connect(self._on_outlook)
        job.failed.connect(self._on_no_outlook)

    @Slot(object)
    def _on_outlook(self, outlook: BuildOutlook) -> None:
        self._outlook = outlook
        self.estimate.setText(
            f"{outlook.n_features:,} features over at most {outlook.n_tokens:,} tokens: about "
            f"{text.duration(outlook.seconds)}, {text.size(outlook.disk_bytes)} on disk, "
            f"{text.size(outlook.memory_bytes)} of memory"
        )

    @Slot(object)
    def _on_no_outlook(self, failure: JobFailure) -> None:
        self.estimate.setText(". ".join(part for part in (failure.what, failure.why) if part))

    # -- building ---------------------------------------------------------------------------------

    @Slot()
    def start(self) -> None:
        """Build what the form asks for."""
        crm = self._session.crm
        if crm is None or self._job is not None:
            return
        request = self.request()
        missing = "" if self.folder.text().strip() else "No folder is named"
        missing = missing if request.sources else "There is no text to look for features in"
        if missing:
            self.message.emit(Message("warning", missing, "", "Add it under “Build”"))
            return
        job = self._runner.submit(
            work_dashboards.build_store, crm, request, title="Build dashboards", key=_KEY
        )
        self._set_running(job)
        job.progress.connect(self._on_progress)
        job.finished.connect(self._on_built)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        if job.state.over:  # the runner takes no more work
            self._set_running(None)

    def _set_running(self, job: Optional[Job]) -> None:
        self._job = job
        self._start.setVisible(job is None)
        self.cancel.setVisible(job is not None)
        self._progress.setVisible(job is not None)
        show_fraction(self._progress, None)
        self._status.setVisible(job is not None)
        self._status.set_whole("" if job is None else "Waiting for its turn")

    @Slot(object)
    def _on_progress(self, progress: JobProgress) -> None:
        show_fraction(self._progress, progress.fraction)
        self._status.set_whole(progress.text)

    @Slot(object)
    def _on_built(self, built: BuiltStore) -> None:
        self._set_running(None)
        self.anew.setChecked(False)
        if built.crm is self._session.crm:
            self.built.emit(str(built.folder))

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._set_running(None)
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_cancelled(self, _value: object) -> None:
        self._set_running(None)
        self._status.set_whole("Stopped; the next start goes on from here")
        self._status.show()

    @Slot()
    def _on_cancel(self) -> None:
        if self._job is not None:
            self._runner.cancel(self._job)
