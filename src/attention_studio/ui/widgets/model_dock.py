"""The Model dock: choose, fetch, load, describe and release a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.model_records import ModelConfig
from attention_studio.ui import text, work
from attention_studio.ui.jobs import Job, JobFailure, JobProgress
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    icon_button,
    label,
    line,
    named,
    push_button,
    row,
    set_role,
)
from attention_studio.ui.widgets.form_fields import FormArea
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.model_description import ModelDescriptionPanel
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.core.model_records import ModelEntry

DEVICES = (
    ("Automatic", "auto"),
    ("CPU", "cpu"),
    ("CUDA GPU", "cuda"),
    ("Apple GPU (MPS)", "mps"),
    ("Spread over all", "spread"),
)
DTYPES = (
    ("Automatic", "auto"),
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
)
_JOB_KEY = "model"
_OUTLOOK_KEY = "model-outlook"
_TYPING_MS = 500


class ModelDock(StudioDock):
    """Everything about the language model itself.

    ``message`` carries a ``Message`` for the message bar; ``idle`` says that nothing is fetched or
    loaded any more, whatever came of it.
    """

    NAME = "modelDock"
    TITLE = "Model"
    ICON = "model"
    FITS = True
    WATCHES = frozenset((SessionPart.MODEL,))

    message = Signal(object)
    idle = Signal()

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._job: Optional[Job] = None
        self._pending: Optional[ModelConfig] = None
        self._loading: Optional[ModelConfig] = None
        self._cheaper: Optional[ModelConfig] = None
        self._summaries: dict[str, str] = {}

        self.choice = QComboBox()
        named(
            self.choice,
            "model.choice",
            "Model",
            "A built-in name, a hub id such as EleutherAI/pythia-70m, a folder or a .gguf file",
        )
        self.choice.setEditable(True)
        self.choice.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.choice.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.choice.setMinimumContentsLength(14)
        edit = self.choice.lineEdit()
        assert edit is not None
        named(edit, "model.choice.text", "Model name", self.choice.toolTip())
        edit.setPlaceholderText("Name, hub id, folder or .gguf file")
        self.choice.addItem("smollm2-135m")
        folder = icon_button(
            self.theme,
            "folder",
            "model.browse",
            "Choose a model folder",
            "Choose a folder on this disk",
        )
        file = icon_button(
            self.theme, "open", "model.browse_file", "Choose a GGUF file", "Choose one .gguf file"
        )
        self.device = QComboBox()
        named(
            self.device, "model.device", "Device", "Where the model runs. Automatic takes the GPU"
        )
        for shown, value in DEVICES:
            self.device.addItem(shown, value)
        self.dtype = QComboBox()
        named(
            self.dtype,
            "model.dtype",
            "Number format",
            "Automatic takes float32 where it fits, bfloat16 elsewhere",
        )
        for shown, value in DTYPES:
            self.dtype.addItem(shown, value)
        for field in (self.device, self.dtype):
            # Side by side, whatever the longest choice is; the list that pops up shows them whole.
            field.setSizeAdjustPolicy(self.choice.sizeAdjustPolicy())
            field.setMinimumContentsLength(8)

        self._about = label("", "muted", wrap=True, name="model.about")
        self._fit = label("", "caption", wrap=True, name="model.fit")
        self._use_cheaper: QPushButton = push_button(
            "Use", "model.use_cheaper", "Take the settings that would fit", look="quiet"
        )
        self._use_cheaper.hide()
        self._look_up = CommandButton(
            self.commands, "model.look_up", look="quiet", text="Look up on the hub", icon=False
        )
        self._look_up.hide()
        self._load = CommandButton(self.commands, "model.load", look="primary", text="Load")
        self._fetch = CommandButton(self.commands, "model.fetch", text="Fetch only", icon=False)
        self._progress = QProgressBar()
        named(self._progress, "model.progress", "Progress of the model", "Bytes or steps done")
        self._progress.setTextVisible(False)
        self._progress_text = ElidedLabel("", "caption")
        self._cancel = push_button("Cancel", "model.cancel", "Stop fetching or loading")
        self._busy = QWidget()
        busy = QVBoxLayout(self._busy)
        busy.setContentsMargins(0, 0, 0, 0)
        busy.setSpacing(4)
        busy.addWidget(self._progress)
        busy.addLayout(row(self._progress_text, self._cancel, stretch=0))
        self._busy.hide()

        self._description = ModelDescriptionPanel(self.commands)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(12, 10, 12, 12)
        layout.setSpacing(8)
        layout.addLayout(row(self.choice, folder, file, stretch=0, spacing=4))
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(3)
        grid.addWidget(label("Device", "caption"), 0, 0)
        grid.addWidget(label("Number format", "caption"), 0, 1)
        grid.addWidget(self.device, 1, 0)
        grid.addWidget(self.dtype, 1, 1)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        layout.addLayout(grid)
        layout.addWidget(self._about)
        fit: QHBoxLayout = row(self._fit, self._use_cheaper, self._look_up, stretch=0)
        layout.addLayout(fit)
        layout.addLayout(row(self._load, self._fetch))
        layout.addWidget(self._busy)
        layout.addSpacing(4)
        layout.addWidget(line())
        layout.addWidget(self._description, 1)
        area = FormArea(body, 296)
        named(area, "model.area", "Model settings and description")
        self.set_content(area)

        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MS)
        self._typing.timeout.connect(self._ask_outlook)
        self.choice.currentTextChanged.connect(self._on_choice)
        self.device.currentIndexChanged.connect(self._on_choice)
        self.dtype.currentIndexChanged.connect(self._on_choice)
        folder.clicked.connect(self.browse_folder)
        file.clicked.connect(self.browse_file)
        self._cancel.clicked.connect(self.cancel)
        self._use_cheaper.clicked.connect(self._take_cheaper)

    # -- what a person does -------------------------------------------------------------------

    def config(self) -> ModelConfig:
        """The model and settings that are chosen."""
        name = self.choice.currentText().strip()
        found = self.choice.findText(name)
        data = self.choice.itemData(found) if found >= 0 else None
        name = data or name
        path = Path(name).expanduser()
        # A name with a slash may be a hub id; only what exists here counts as a path.
        local = path if name and path.exists() else None
        return ModelConfig(
            name=local.name if local is not None else name,
            path=local,
            device=self.device.currentData(),
            dtype=self.dtype.currentData(),
        )

    def choose(self, config: ModelConfig) -> None:
        """Choose a model and settings as if a person had; what is no choice here becomes auto."""
        self.choice.setEditText(config.name if config.path is None else str(config.path))
        self.device.setCurrentIndex(max(0, self.device.findData(config.device)))
        self.dtype.setCurrentIndex(max(0, self.dtype.findData(config.dtype)))

    @Slot()
    def start(self) -> None:
        """Look up the list of models and the outlook of the chosen one (after the first paint)."""
        self._list()
        self._ask_outlook()

    @Slot()
    def load(self) -> None:
        """Fetch the chosen model if needed, and load it."""
        config = self.config()
        if not config.name:
            self.message.emit(
                Message("warning", "No model is chosen", "", "Type a name or choose a folder")
            )
            self.choice.setFocus()
            return
        self._pending = config
        self._follow(self._submit_fetch(config), self._on_fetched_for_load)

    @Slot()
    def fetch(self) -> None:
        """Download the chosen model without loading it."""
        config = self.config()
        if config.name:
            self._pending = None
            self._follow(self._submit_fetch(config), self._on_fetched)

    @Slot()
    def look_up(self) -> None:
        """Ask the hub about the chosen model, without fetching it. The answer shows here."""
        self.show()
        self.raise_()
        self._submit_outlook(ask_hub=True)

    @Slot()
    def cancel(self) -> None:
        """Stop fetching or loading."""
        if self._job is not None:
            self.runner.cancel(self._job)
            self._progress_text.set_whole("Stopping…")
            self._cancel.setEnabled(False)

    @Slot()
    def release(self) -> None:
        """Take the model out of memory."""
        # It takes the place of a fetch that goes on, of which nothing more is heard.
        self._settled()
        self.session.set_model(None)
        job = self.runner.submit(
            work.release_model, self.session.settings, title="Release the model", key=_JOB_KEY
        )
        job.finished.connect(self._on_released)
        job.failed.connect(self._on_failed)

    @Slot()
    def browse_folder(self) -> None:
        """Choose a folder that holds a model."""
        dialog = QFileDialog(self, "Choose a model folder")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        self._browse(dialog)

    @Slot()
    def browse_file(self) -> None:
        """Choose a model in one .gguf file."""
        dialog = QFileDialog(self, "Choose a GGUF file")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setNameFilters(["GGUF models (*.gguf)", "All files (*)"])
        self._browse(dialog)

    # -- jobs ---------------------------------------------------------------------------------

    def _submit_fetch(self, config: ModelConfig) -> Job:
        return self.runner.submit(
            work.fetch_model,
            self.session.settings,
            config,
            title=f"Fetch {config.name}",
            lane="io",
            key=_JOB_KEY,
        )

    def _follow(self, job: Job, done: object) -> None:
        self._job = job
        job.progress.connect(self._on_progress)
        job.finished.connect(done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        self._progress.setRange(0, 0)
        self._progress_text.set_whole(job.title)
        self._cancel.setEnabled(True)
        self._busy.show()
        self._load.setVisible(False)
        self._fetch.setVisible(False)

    def _settled(self) -> None:
        self._job = None
        self._busy.hide()
        self._load.setVisible(True)
        self._fetch.setVisible(True)
        self.idle.emit()

    @Slot(object)
    def _on_progress(self, progress: JobProgress) -> None:
        fraction = progress.fraction
        shown = progress.text
        if fraction is None:
            self._progress.setRange(0, 0)
        else:
            self._progress.setRange(0, 1000)
            self._progress.setValue(round(1000 * fraction))
            # Large totals are bytes; loading counts tensors.
            if progress.total is not None and progress.total > 100_000:
                shown = f"{shown} · {text.size(progress.done)} of {text.size(progress.total)}"
        self._progress_text.set_whole(shown)

    @Slot(object)
    def _on_fetched_for_load(self, _folder: Path) -> None:
        config, self._pending = self._pending, None
        if config is None:
            self._settled()
            return
        hindrance = self.commands.hindrance("model.load")
        if hindrance:
            # A run began while the files came.
            self._settled()
            self.message.emit(Message("info", f"{config.name} is here, not loaded", hindrance))
            return
        # The model before lets go of its memory on the lane; its handles here must go first.
        self.session.set_model(None)
        self._loading = config
        job = self.runner.submit(
            work.load_model,
            self.session.settings,
            config,
            title=f"Load {config.name}",
            key=_JOB_KEY,
        )
        self._follow(job, self._on_loaded)

    @Slot(object)
    def _on_loaded(self, bundle: work.LoadedBundle) -> None:
        self.session.set_model(bundle.model, bundle.layers, config=self._loading)
        self._settled()
        self._list()

    @Slot(object)
    def _on_fetched(self, folder: Path) -> None:
        self._settled()
        self.message.emit(Message("success", "The model is here", f"It is kept in {folder}"))
        self._list()
        self._ask_outlook()

    @Slot(object)
    def _on_released(self, freed: int) -> None:
        self.message.emit(
            Message("success", f"The model is released, {text.size(freed)} came free")
        )
        self._ask_outlook()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._settled()
        self.message.emit(Message.of(failure))

    @Slot(object)
    def _on_cancelled(self, _value: object) -> None:
        self._settled()

    # -- what is known beforehand -------------------------------------------------------------

    def _list(self) -> None:
        job = self.runner.submit(
            work.list_models,
            self.session.settings,
            title="List models",
            lane="quick",
            key="models",
            quiet=True,
        )
        job.finished.connect(self._on_listed)

    @Slot(object)
    def _on_listed(self, entries: tuple[ModelEntry, ...]) -> None:
        typed = self.choice.currentText()
        self._summaries = {e.name: _summary(e) for e in entries}
        self.choice.blockSignals(True)
        self.choice.clear()
        for entry in entries:
            self.choice.addItem(entry.name, entry.name)
            self.choice.setItemData(
                self.choice.count() - 1, _summary(entry), Qt.ItemDataRole.ToolTipRole
            )
        self.choice.setEditText(typed or "smollm2-135m")
        self.choice.blockSignals(False)

    @Slot()
    def _on_choice(self) -> None:
        self._cheaper = None
        self._use_cheaper.hide()
        self._look_up.hide()
        self._typing.start()

    @Slot()
    def _ask_outlook(self) -> None:
        self._submit_outlook(ask_hub=False)

    def _submit_outlook(self, ask_hub: bool) -> None:
        config = self.config()
        if not config.name or not self.runner.accepting:
            self._say_outlook("", "", "caption")
            return
        job = self.runner.submit(
            work.model_outlook,
            self.session.settings,
            config,
            ask_hub,
            title=f"Look up {config.name}",
            key=_OUTLOOK_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_outlook)
        job.failed.connect(self._on_no_outlook)
        self._say_outlook(self._about.text(), "Looking it up…", "caption")

    @Slot(object)
    def _on_outlook(self, outlook: work.ModelOutlook) -> None:
        about, fit, role = "", "", "caption"
        d = outlook.description
        self._look_up.setVisible(d is None)
        if d is None:
            about = self._summaries.get(self.config().name, "")
            fit = "Not on this machine yet: loading it fetches it first."
        if d is not None:
            here = "here already" if d.folder is not None else "to be fetched"
            about = (
                f"{d.family}, {text.count(d.n_parameters)} parameters, {d.n_layers} layers, {here}"
            )
        e = outlook.estimate
        self._cheaper = None
        if e is not None:
            needs = (
                f"{text.size(e.total)} of {text.size(e.available)} free, {e.dtype} on {e.device}"
            )
            fit = f"Needs {needs}" if e.fits else f"Does not fit: needs {needs}"
            role = "caption" if e.fits else "error"
            if not e.fits and e.cheaper:
                self._cheaper = e.cheaper[0]
                self._use_cheaper.setText(f"Use {e.cheaper[0].dtype} on {e.cheaper[0].device}")
        self._use_cheaper.setVisible(self._cheaper is not None)
        self._say_outlook(about, fit, role)

    @Slot(object)
    def _on_no_outlook(self, failure: JobFailure) -> None:
        self._say_outlook("", failure.what, "warning")

    def _say_outlook(self, about: str, fit: str, role: str) -> None:
        self._about.setText(about)
        self._about.setVisible(bool(about))
        self._fit.setText(fit)
        set_role(self._fit, role)  # type: ignore[arg-type]

    @Slot()
    def _take_cheaper(self) -> None:
        if self._cheaper is not None:
            self.device.setCurrentIndex(max(0, self.device.findData(self._cheaper.device)))
            self.dtype.setCurrentIndex(max(0, self.dtype.findData(self._cheaper.dtype)))

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Describe the loaded model."""
        self._description.show_model(self.session.model_info, self.session.layers)

    def _browse(self, dialog: QFileDialog) -> None:
        dialog.fileSelected.connect(self._on_path)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot(str)
    def _on_path(self, path: str) -> None:
        self.choice.setEditText(path)


def _summary(entry: ModelEntry) -> str:
    size = "" if entry.size_bytes is None else f", {text.size(entry.size_bytes)}"
    where = "on this machine" if entry.cached else "to be fetched"
    return f"{entry.summary or entry.source} ({where}{size})"
