"""The window: docks, layouts, messages, status, and leaving in good order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QCloseEvent, QIcon, QShowEvent
from PySide6.QtWidgets import (
    QDockWidget,
    QFileDialog,
    QMainWindow,
    QTabWidget,
    QWidget,
)

from attention_studio import __version__
from attention_studio.ui import work
from attention_studio.ui.icons import icon_pixmap
from attention_studio.ui.jobs import Job, JobFailure, LaneContext
from attention_studio.ui.layouts import Preset, apply_preset
from attention_studio.ui.pump import PumpState
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.command_palette import CommandPalette
from attention_studio.ui.widgets.features_dock import FeaturesDock
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.log_dock import LogDock
from attention_studio.ui.widgets.message_bar import Message, MessageBar
from attention_studio.ui.widgets.model_dock import ModelDock
from attention_studio.ui.widgets.prompt_dock import PromptDock
from attention_studio.ui.widgets.status import StatusFigures
from attention_studio.ui.widgets.tasks_dock import TasksDock
from attention_studio.ui.widgets.train_dock import TrainDock
from attention_studio.ui.window_head import WindowHead
from attention_studio.ui.window_state import LAYOUT_VERSION, WindowState
from attention_studio.utils.paths import log_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.widgets.studio_dock import StudioDock

DEFAULT_SIZE = QSize(1400, 900)
_STOP_PATIENCE_S = 15.0
# Only the first kind opens again; the other is for the viewers of other tools.
_GRAPH_OPEN = ["Attribution graphs (*.safetensors)", "All files (*)"]
_GRAPH_SAVE = ["Attribution graph, whole (*.safetensors)", "Pruned graph for viewers (*.json)"]


def _call(_ctx: LaneContext, function: Callable[[], Any]) -> Any:
    return function()


class MainWindow(QMainWindow):
    """Holds the docks and nothing that is computed.

    ``stopped`` is emitted when the window is about to go and nothing runs any more.
    """

    stopped = Signal()

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        state: WindowState,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self.session = session
        self.runner = runner
        self.commands = commands
        self.theme = theme
        self.state = state
        self._closing = False
        self._close_deadline = 0.0
        self.setObjectName("mainWindow")
        self.setWindowTitle("AttentionStudio")
        self.setAccessibleName("AttentionStudio")
        self.setWindowIcon(QIcon(icon_pixmap("logo", theme.tokens.accent, 128)))
        self.setDockOptions(
            QMainWindow.DockOption.AllowNestedDocks
            | QMainWindow.DockOption.AllowTabbedDocks
            | QMainWindow.DockOption.AnimatedDocks
        )
        for area in (
            Qt.DockWidgetArea.LeftDockWidgetArea,
            Qt.DockWidgetArea.RightDockWidgetArea,
            Qt.DockWidgetArea.TopDockWidgetArea,
            Qt.DockWidgetArea.BottomDockWidgetArea,
        ):
            self.setTabPosition(area, QTabWidget.TabPosition.North)

        parts = (session, runner, commands, theme, self)
        self.model_dock = ModelDock(*parts)
        self.prompt_dock = PromptDock(*parts)
        self.train_dock = TrainDock(*parts)
        self.features_dock = FeaturesDock(*parts)
        self.graph_dock = GraphDock(*parts)
        self.tasks_dock = TasksDock(*parts)
        self.log_dock = LogDock(*parts)
        self.docks: dict[str, StudioDock] = {
            "model": self.model_dock,
            "prompt": self.prompt_dock,
            "train": self.train_dock,
            "features": self.features_dock,
            "graph": self.graph_dock,
            "tasks": self.tasks_dock,
            "log": self.log_dock,
        }
        commands.bind("window", self)
        for name, dock in self.docks.items():
            commands.bind(name, dock)
            self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
            if hasattr(dock, "message"):
                dock.message.connect(self.say)

        self.messages = MessageBar(theme)
        self.palette_popup = CommandPalette(commands, theme, self)
        self.setMenuWidget(WindowHead(self, commands, self.messages))
        self.status = StatusFigures(session, theme, runner)
        self.statusBar().addWidget(self.status, 1)
        self.statusBar().setSizeGripEnabled(False)

        self._stop_timer = QTimer(self)
        self._stop_timer.setInterval(50)
        self._stop_timer.timeout.connect(self._try_to_stop)
        self.train_dock.crm_ready.connect(self._on_crm_ready)
        theme.changed.connect(self._on_theme)
        session.changed.connect(self._on_session_changed)
        self._restore()

    # -- short form for docks and scripts -----------------------------------------------------

    def _run_async(
        self,
        fn: Callable[[], Any],
        on_done: Optional[Callable[[Any], Any]] = None,
        on_error: Optional[Callable[[JobFailure], Any]] = None,
        *,
        title: str = "Work",
    ) -> Job:
        """Run ``fn()`` on the compute lane; the callbacks run on the main thread.

        Without ``on_error`` a failure shows in the message bar. The callbacks live as long as the
        job; pass methods of objects that outlive it.
        """
        job = self.runner.submit(_call, fn, title=title)
        if on_done is not None:
            job.finished.connect(on_done)
        job.failed.connect(on_error if on_error is not None else self._on_failed)
        return job

    @Slot(object)
    def say(self, message: Message) -> None:
        """Show a message in the bar."""
        self.messages.post(message)

    # -- handlers of commands -----------------------------------------------------------------

    @Slot()
    def open_crm(self) -> None:
        """Choose a folder of transcoders and open it."""
        dialog = QFileDialog(self, "Open replacement model")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        if self.state.crm:
            dialog.setDirectory(str(Path(self.state.crm).parent))
        dialog.fileSelected.connect(self.open_crm_folder)
        self._ask(dialog)

    @Slot(str)
    def open_crm_folder(self, folder: str) -> None:
        """Open the transcoders in ``folder`` for the loaded model."""
        model = self.session.model
        if model is None:
            self.say(
                Message(
                    "warning",
                    "No model is loaded",
                    "A replacement model belongs to one model",
                    "Load that model first",
                )
            )
            return
        path = Path(folder)
        job = self.runner.submit(
            work.open_crm, model, path, title=f"Open {path.name}", key="open-crm"
        )
        job.finished.connect(self._on_crm_opened)
        job.failed.connect(self._on_failed)

    @Slot()
    def open_graph(self) -> None:
        """Choose a saved graph and open it."""
        dialog = QFileDialog(self, "Open graph")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setNameFilters(_GRAPH_OPEN)
        dialog.fileSelected.connect(self.open_graph_file)
        self._ask(dialog)

    @Slot(str)
    def open_graph_file(self, file: str) -> None:
        """Open a saved graph."""
        job = self.runner.submit(
            work.load_graph,
            Path(file),
            self.session.thresholds,
            title=f"Open {Path(file).name}",
            lane="io",
            key="open-graph",
        )
        job.finished.connect(self._on_graph_opened)
        job.failed.connect(self._on_failed)

    @Slot()
    def save_graph(self) -> None:
        """Choose a file and save the graph to it."""
        dialog = QFileDialog(self, "Save graph")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilters(_GRAPH_SAVE)
        dialog.setDefaultSuffix("safetensors")
        dialog.filterSelected.connect(self._on_graph_filter)
        dialog.fileSelected.connect(self.save_graph_file)
        self._ask(dialog)

    @Slot(str)
    def _on_graph_filter(self, chosen: str) -> None:
        dialog = self.sender()
        if isinstance(dialog, QFileDialog):
            dialog.setDefaultSuffix("json" if chosen == _GRAPH_SAVE[1] else "safetensors")

    @Slot(str)
    def save_graph_file(self, file: str) -> None:
        """Save the graph."""
        graph = self.session.graph
        if graph is None:
            return
        job = self.runner.submit(
            work.save_graph,
            graph,
            self.session.pruned,
            Path(file),
            title=f"Save {Path(file).name}",
            lane="io",
        )
        job.finished.connect(self._on_graph_saved)
        job.failed.connect(self._on_failed)

    @Slot()
    def quit(self) -> None:
        """Stop all work and close the window."""
        self.close()

    @Slot()
    def undo(self) -> None:
        """Take back the last change."""
        self.session.undo_stack.undo()

    @Slot()
    def redo(self) -> None:
        """Make the change again that was taken back."""
        self.session.undo_stack.redo()

    @Slot()
    def show_palette(self) -> None:
        """Open the command palette."""
        self.palette_popup.open()

    @Slot()
    def layout_train(self) -> None:
        """Arrange the docks for training."""
        self._preset("train")

    @Slot()
    def layout_features(self) -> None:
        """Arrange the docks for looking at features."""
        self._preset("features")

    @Slot()
    def layout_circuits(self) -> None:
        """Arrange the docks for looking at graphs."""
        self._preset("circuits")

    @Slot()
    def reset_layout(self) -> None:
        """Put every dock back where it was at first."""
        self._preset("circuits")

    @Slot()
    def show_model(self) -> None:
        """Go to the Model dock."""
        self.model_dock.go_there()

    @Slot()
    def show_prompt(self) -> None:
        """Go to the Prompt dock."""
        self.prompt_dock.go_there()

    @Slot()
    def show_train(self) -> None:
        """Go to the Train dock."""
        self.train_dock.go_there()

    @Slot()
    def show_features(self) -> None:
        """Go to the Features dock."""
        self.features_dock.go_there()

    @Slot()
    def show_graph(self) -> None:
        """Go to the Graph dock."""
        self.graph_dock.go_there()

    @Slot()
    def show_tasks(self) -> None:
        """Go to the Tasks dock."""
        self.tasks_dock.go_there()

    @Slot()
    def show_log(self) -> None:
        """Go to the Log dock."""
        self.log_dock.go_there()

    @Slot()
    def toggle_theme(self) -> None:
        """Use the other colour scheme."""
        self.theme.toggle()

    @Slot()
    def follow_system_theme(self) -> None:
        """Use light or dark as the system does."""
        self.theme.set_choice("system")

    @Slot()
    def larger_text(self) -> None:
        """Make all text larger."""
        self.theme.set_scale(self.theme.scale + 0.1)

    @Slot()
    def smaller_text(self) -> None:
        """Make all text smaller."""
        self.theme.set_scale(self.theme.scale - 0.1)

    @Slot()
    def normal_text(self) -> None:
        """Set all text back to its normal size."""
        self.theme.set_scale(1.0)

    @Slot()
    def show_about(self) -> None:
        """Say version, licence and where things are kept."""
        settings = self.session.settings
        self.say(
            Message(
                "info",
                f"AttentionStudio {__version__}, Apache License 2.0",
                f"Models and activations are kept in {settings.cache_dir}",
                f"Window layout is kept in {settings.state_dir}, logs in "
                f"{log_dir(settings.state_dir)}",
            )
        )

    # -- results ------------------------------------------------------------------------------

    @Slot(object)
    def _on_crm_opened(self, opened: work.OpenedCRM) -> None:
        if self.session.model is not opened.crm.loaded:
            # Another model took its place while the folder was read.
            return
        self.session.set_crm(opened.crm, opened.manifest, opened.folder)
        self.state.crm = str(opened.folder)
        layers = len(opened.manifest.layers)
        self.say(
            Message(
                "success",
                f"{opened.folder.name} is open: transcoders for "
                f"{layers} layer{'' if layers == 1 else 's'}",
                "",
                "Type a prompt and build its attribution graph",
            )
        )

    @Slot(object)
    def _on_crm_ready(self, folder: Path) -> None:
        self.open_crm_folder(str(folder))

    @Slot(object)
    def _on_graph_opened(self, traced: work.TracedGraph) -> None:
        self.session.set_graph(traced.graph, traced.pruned)
        self.graph_dock.show()
        self.graph_dock.raise_()

    @Slot(object)
    def _on_graph_saved(self, path: Path) -> None:
        self.say(Message("success", f"The graph is saved as {path.name}", str(path)))

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.say(Message.of(failure))

    def _ask(self, dialog: QFileDialog) -> None:
        # Open, not exec: a nested event loop would outlive a closing window.
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    # -- layout -------------------------------------------------------------------------------

    def _preset(self, preset: Preset) -> None:
        docks: dict[str, QDockWidget] = dict(self.docks)
        before = self.focusWidget()
        apply_preset(self, docks, preset)
        # Hiding a dock hands the focus to whatever comes next.
        if before is not None and before.isVisible():
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    def _restore(self) -> None:
        layout = self.state.layout
        if layout is not None:
            # A layout says nothing of docks that it does not know, and all docks side by side
            # would need more room than the window had.
            for dock in self.docks.values():
                dock.hide()
        self.resize(DEFAULT_SIZE)
        if self.state.geometry is not None:
            self.restoreGeometry(self.state.geometry)
        if layout is None or not self.restoreState(layout, LAYOUT_VERSION):
            self._preset("circuits")
        if self.state.model:
            self.model_dock.choice.setEditText(self.state.model)
        self.session.set_prompt(self.state.prompt)

    def save_state(self) -> None:
        """Remember layout, theme, model and prompt."""
        self.state.geometry = self.saveGeometry()
        self.state.layout = self.saveState(LAYOUT_VERSION)
        self.state.scheme = self.theme.choice
        self.state.text_scale = self.theme.scale
        self.state.model = self.model_dock.choice.currentText().strip()
        self.state.prompt = self.session.prompt
        self.state.flush()

    def showEvent(self, event: QShowEvent) -> None:
        """The first thing that one types goes into the prompt."""
        super().showEvent(event)
        if not event.spontaneous():
            self.prompt_dock.text.setFocus(Qt.FocusReason.OtherFocusReason)

    # -- leaving ------------------------------------------------------------------------------

    def closeEvent(self, event: QCloseEvent) -> None:
        """Close at once if nothing runs; else stop everything first and close then."""
        if not self._closing:
            self.save_state()
            self._begin_to_stop()
        if self._nothing_runs():
            self._stop_timer.stop()
            self.log_dock.shutdown()
            event.accept()
            self.stopped.emit()
            return
        event.ignore()

    def _begin_to_stop(self) -> None:
        self._closing = True
        self._close_deadline = time.monotonic() + _STOP_PATIENCE_S
        pump = self.train_dock.pump
        if pump.state is not PumpState.IDLE:
            # A run that steps writes one more checkpoint; one that waits for the lane is left at
            # its last one.
            if pump.waiting:
                pump.abandon()
            else:
                pump.stop()
        if pump.state is PumpState.IDLE or pump.waiting:
            self.runner.begin_shutdown()
        if not self._nothing_runs():
            self.status.say("Stopping…")
            self.say(
                Message(
                    "info",
                    "Stopping…",
                    "The window closes as soon as the running task has stopped",
                )
            )
            self._stop_timer.start()

    def _nothing_runs(self) -> bool:
        return not self.runner.busy and self.train_dock.pump.state is PumpState.IDLE

    @Slot()
    def _try_to_stop(self) -> None:
        late = time.monotonic() > self._close_deadline
        if self.train_dock.pump.state is PumpState.IDLE:
            if self.runner.accepting:
                self.runner.begin_shutdown()
        elif late:
            self.train_dock.pump.abandon()
            self.runner.begin_shutdown()
        if self._nothing_runs() or late:
            self._stop_timer.stop()
            if self._nothing_runs():
                self.close()
            else:
                # A task that does not listen. The runner's shutdown leaves the process.
                self.hide()
                self.stopped.emit()

    @Slot()
    def _on_theme(self) -> None:
        self.setWindowIcon(QIcon(icon_pixmap("logo", self.theme.tokens.accent, 128)))

    @Slot(object, object)
    def _on_session_changed(self, part: SessionPart, _initiator: object) -> None:
        if part is SessionPart.MODEL:
            info = self.session.model_info
            self.setWindowTitle(
                "AttentionStudio" if info is None else f"{info.name} · AttentionStudio"
            )
