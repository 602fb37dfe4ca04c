"""Opening a model with its replacement model, and the demo: both, and a standard prompt traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.model_records import ModelConfig
from attention_studio.ui.session import SessionPart
from attention_studio.utils.paths import BUILT_IN_CRMS

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.ui.main_window import MainWindow

MODEL = "demo"
PROMPT = "The capital of the state containing Dallas is"
"""The classic two-step fact: the state goes unsaid."""


class ModelOpener(QObject):
    """Loads a model and then opens its replacement model.

    Gives up without a word as soon as somebody opens something else, or when a step fails or is
    stopped: whoever runs the step has said so. ``done`` says that both are there.
    """

    done = Signal()

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._loading = False
        self._config: Optional[ModelConfig] = None
        self._crm: Optional[Path] = None
        window.session.changed.connect(self._on_session_changed)
        window.model_dock.idle.connect(self._on_idle)

    def start(self, config: Optional[ModelConfig], crm: Optional[Path]) -> None:
        """Begin.

        Args:
            config: what to load; None: the right model is loaded already.
            crm: folder of its replacement model, or None.
        """
        self._crm = crm
        if config is None:
            self._open_crm()
            return
        self._window.model_dock.choose(config)
        # As the dock has it: a device that this machine has not got is none of its choices.
        self._config = self._window.model_dock.config()
        self._loading = self._window.commands.run("model.load")

    @Slot(object, object)
    def _on_session_changed(self, part: SessionPart, _initiator: Optional[object]) -> None:
        session = self._window.session
        if self._loading and part is SessionPart.MODEL and session.model is not None:
            self._loading = False
            if session.model_config == self._config:
                self._open_crm()

    @Slot()
    def _on_idle(self) -> None:
        # Loaded, and then this is known already; or failed, stopped, or something else was fetched.
        self._loading = False

    def _open_crm(self) -> None:
        if self._crm is None:
            self.done.emit()
            return
        job = self._window.open_crm_folder(str(self._crm))
        if job is not None:
            # After the window, which puts it into the session.
            job.finished.connect(self._on_crm_opened)

    @Slot(object)
    def _on_crm_opened(self, _opened: object) -> None:
        if self._window.session.crm_folder == self._crm:
            self.done.emit()


class DemoOpener(QObject):
    """Opens the demo's models and traces a prompt."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._models = ModelOpener(window)
        self._models.done.connect(self._trace)

    @Slot()
    def start(self) -> None:
        """Load the model; the rest follows."""
        info = self._window.session.model_info
        loaded = info is not None and info.name == MODEL
        config = None if loaded else ModelConfig(MODEL)
        self._models.start(config, BUILT_IN_CRMS[MODEL])

    @Slot()
    def _trace(self) -> None:
        # What somebody has typed meanwhile is theirs.
        if not self._window.session.prompt.strip():
            self._window.session.set_prompt(PROMPT)
        self._window.commands.run("graph.build")
