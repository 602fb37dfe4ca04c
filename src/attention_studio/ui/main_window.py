"""The window: docks, layouts, messages, status, and leaving in good order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from PySide6.QtCore import QByteArray, QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QCloseEvent, QIcon, QShowEvent
from PySide6.QtWidgets import (
    QDockWidget,
    QMainWindow,
    QTabWidget,
    QWidget,
)

from attention_studio import __version__
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui import text, work
from attention_studio.ui.demo_opener import DemoOpener
from attention_studio.ui.dock_table import DOCKS
from attention_studio.ui.icons import icon_pixmap
from attention_studio.ui.intervention_marks import latest_report
from attention_studio.ui.jobs import Job, JobFailure, LaneContext
from attention_studio.ui.layouts import Preset, apply_preset
from attention_studio.ui.own_layouts import OwnLayouts
from attention_studio.ui.pump import PumpState
from attention_studio.ui.scripts.copier import ScriptCopier
from attention_studio.ui.session import SessionPart
from attention_studio.ui.store_keeper import StoreKeeper
from attention_studio.ui.store_transfer import StoreTransfer
from attention_studio.ui.when import training_hinders
from attention_studio.ui.widgets.agents_dock import AgentsDock
from attention_studio.ui.widgets.command_palette import CommandPalette
from attention_studio.ui.widgets.dialogs import ask_file, ask_folder, ask_save
from attention_studio.ui.widgets.errors_dock import ErrorsDock
from attention_studio.ui.widgets.features_dock import FeaturesDock
from attention_studio.ui.widgets.graph_dock import GraphDock
from attention_studio.ui.widgets.intervene_dock import InterveneDock
from attention_studio.ui.widgets.log_dock import LogDock
from attention_studio.ui.widgets.message_bar import Message, MessageBar
from attention_studio.ui.widgets.model_dock import ModelDock
from attention_studio.ui.widgets.prompt_dock import PromptDock
from attention_studio.ui.widgets.status import StatusFigures
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.tasks_dock import TasksDock
from attention_studio.ui.widgets.tour import Tour
from attention_studio.ui.widgets.train_dock import TrainDock
from attention_studio.ui.window_head import WindowHead
from attention_studio.ui.window_state import LAYOUT_VERSION, WindowState
from attention_studio.ui.workspace_keeper import WorkspaceKeeper
from attention_studio.utils.paths import log_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

Dock = TypeVar("Dock", bound=StudioDock)
DEFAULT_SIZE = QSize(1400, 900)
_STOP_PATIENCE_S = 15.0
# The first kind holds everything; the other what is shown, and other tools write it too.
_GRAPH_OPEN = ["Attribution graphs (*.safetensors *.json)", "All files (*)"]
_GRAPH_SAVE = (
    ("Attribution graph, whole", "safetensors"),
    ("Pruned graph for viewers", "json"),
)


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
        self.docks: dict[str, StudioDock] = {dock.name: dock.kind(*parts) for dock in DOCKS}
        self._tabs_timer = QTimer(self)
        self._tabs_timer.setSingleShot(True)
        self._tabs_timer.setInterval(0)
        self._tabs_timer.timeout.connect(self._find_tabs)
        commands.bind("window", self)
        for name, dock in self.docks.items():
            commands.bind(name, dock)
            dock.toggleViewAction().toggled.connect(self._on_dock_toggled)
            dock.visibilityChanged.connect(self._on_dock_moved)
            dock.topLevelChanged.connect(self._on_dock_moved)
            dock.dockLocationChanged.connect(self._on_dock_moved)
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
        self.train_dock.crm_opened.connect(self._on_crm_opened)
        self.train_dock.graph_wanted.connect(self.open_graph_file)
        self.prompt_dock.contrast_wanted.connect(self.graph_dock.trace_contrast)
        self._dock(ErrorsDock).training_wanted.connect(self.train_dock.set_up_for)
        agents = self._dock(AgentsDock)
        agents.run_wanted.connect(self._dock(InterveneDock).open_record)
        agents.example_wanted.connect(self.features_dock.show_example)
        theme.changed.connect(self._on_theme)
        session.changed.connect(self._on_session_changed)
        self.stores = StoreKeeper(session, runner, self)
        self.stores.message.connect(self.say)
        self.features_dock.builder.built.connect(self.stores.open_folder)
        self.transfers = StoreTransfer(session, runner, self)
        self.transfers.message.connect(self.say)
        self.transfers.imported.connect(self.stores.open_folder)
        self._demo = DemoOpener(self)
        self.keeper = WorkspaceKeeper(self)
        agents.graph_wanted.connect(self.keeper.open_graph)
        self.tour = Tour(self)
        self.scripts = ScriptCopier(session, commands, runner, self)
        self.scripts.message.connect(self.say)
        self.palette_popup.script_wanted.connect(self.scripts.copy)
        for name, target in (
            ("keeper", self.keeper), ("layouts", OwnLayouts(self)), ("tour", self.tour),
            ("script", self.scripts), ("stores", self.stores),
            ("transfers", self.transfers),
        ):  # fmt: skip
            commands.bind(name, target)
        self._restore()

    # -- docks that the window itself has to do with -----------------------------------------------

    def _dock(self, kind: type[Dock]) -> Dock:
        (dock,) = (dock for dock in self.docks.values() if isinstance(dock, kind))
        return dock

    @property
    def model_dock(self) -> ModelDock:
        """The dock that loads models."""
        return self._dock(ModelDock)

    @property
    def prompt_dock(self) -> PromptDock:
        """The dock with the prompt."""
        return self._dock(PromptDock)

    @property
    def train_dock(self) -> TrainDock:
        """The dock that trains."""
        return self._dock(TrainDock)

    @property
    def features_dock(self) -> FeaturesDock:
        """The dock with the features of the prompt."""
        return self._dock(FeaturesDock)

    @property
    def graph_dock(self) -> GraphDock:
        """The dock with the attribution graph."""
        return self._dock(GraphDock)

    @property
    def tasks_dock(self) -> TasksDock:
        """The dock with the jobs."""
        return self._dock(TasksDock)

    @property
    def log_dock(self) -> LogDock:
        """The dock with the log."""
        return self._dock(LogDock)

    # -- beginning ----------------------------------------------------------------------------

    def begin(self, workspace: Optional[Path]) -> None:
        """Open the workspace, on the first start the demo, and until it is dismissed the tour."""
        if self.state.is_new:
            self.keeper.opened.connect(self._on_first_workspace)
        if not self.state.tour_done:
            self.tour.begin_with_graph()
        self.keeper.start(workspace)

    @Slot(bool)
    def _on_first_workspace(self, held_anything: bool) -> None:
        self.keeper.opened.disconnect(self._on_first_workspace)
        if not held_anything:
            self.commands.run("demo.open")

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
        start = Path(self.state.crm).parent if self.state.crm else None
        ask_folder(self, "Open replacement model", self.open_crm_folder, start)

    @Slot(str)
    def open_crm_folder(self, folder: str) -> Optional[Job]:
        """Open the transcoders in ``folder`` for the loaded model. Returns the job that does it,
        None where no model is loaded."""
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
            return None
        path = Path(folder)
        job = self.runner.submit(
            work.open_crm, model, path, title=f"Open {path.name}", key="open-crm"
        )
        job.finished.connect(self._on_crm_opened)
        job.failed.connect(self._on_failed)
        return job

    @Slot()
    def open_demo(self) -> None:
        """Open the model that comes along, its replacement model, and a prompt traced."""
        self._demo.start()

    @Slot()
    def open_graph(self) -> None:
        """Choose a saved graph and open it."""
        ask_file(self, "Open graph", self.open_graph_file, _GRAPH_OPEN)

    @Slot(str)
    def open_graph_file(self, file: str) -> None:
        """Open a saved graph."""
        job = self.runner.submit(
            work.load_graph,
            Path(file),
            self.session.thresholds,
            title=f"Open {Path(file).name}",
            lane="quick",
            key="open-graph",
        )
        job.finished.connect(self._on_graph_opened)
        job.failed.connect(self._on_failed)

    @Slot()
    def save_graph(self) -> None:
        """Choose a file and save the graph to it."""
        ask_save(self, "Save graph", self.save_graph_file, _GRAPH_SAVE)

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
            latest_report(self.session.records.get("validation", ()), graph),
            title=f"Save {Path(file).name}",
            lane="quick",
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
    def layout_explain(self) -> None:
        """Arrange the docks for saying what features and circuits mean."""
        self._preset("explain")

    @Slot()
    def reset_layout(self) -> None:
        """Put every dock back where it was at first."""
        self._preset("circuits")

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
                f"Window layout and workspaces are kept in {settings.state_dir}, logs in "
                f"{log_dir(settings.state_dir)}",
            )
        )

    # -- results ------------------------------------------------------------------------------

    @Slot(object)
    def _on_crm_opened(self, opened: work.OpenedCRM) -> None:
        if self.session.model is not opened.crm.loaded:
            # Another model took its place while the folder was read.
            return
        graph, crm = self.session.graph, opened.crm
        # A graph from the workspace or a file stays with the models that it was traced with.
        same = graph is not None and made_by(graph, crm)
        self.session.set_crm(crm, opened.manifest, opened.folder, keep_graph=same)
        self.state.crm = str(opened.folder)
        self.say(
            Message(
                "success",
                f"{opened.folder.name} is open: {text.covered(opened.manifest)}",
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

    # -- layout -------------------------------------------------------------------------------

    def _preset(self, preset: Preset) -> None:
        docks: dict[str, QDockWidget] = dict(self.docks)
        before = self.focusWidget()
        apply_preset(self, docks, preset)
        # Hiding a dock hands the focus to whatever comes next.
        if before is not None and before.isVisible():
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    @Slot()
    def _on_dock_toggled(self) -> None:
        for name, dock in self.docks.items():
            self.commands.set_checked(f"view.{name}", dock.toggleViewAction().isChecked())

    @Slot()
    def _on_dock_moved(self) -> None:
        # Once per arrangement: docks move one by one, and say so before they are there.
        self._tabs_timer.start()

    @Slot()
    def _find_tabs(self) -> None:
        for dock in self.docks.values():
            beside = () if dock.isFloating() else self.tabifiedDockWidgets(dock)
            dock.set_tabbed(any(not other.isHidden() for other in beside))

    def _restore(self) -> None:
        layout = self.state.layout
        self.resize(DEFAULT_SIZE)
        if self.state.geometry is not None:
            self.restoreGeometry(self.state.geometry)
        if layout is None or not self.restore_layout(layout):
            self._preset("circuits")
        if self.state.model:
            self.model_dock.choice.setEditText(self.state.model)

    def restore_layout(self, layout: QByteArray) -> bool:
        """Put the docks where they were when ``layout`` was saved. Returns whether that can be."""
        # A layout says nothing of docks that it does not know, and all docks side by side would
        # need more room than the window has.
        shown = [dock for dock in self.docks.values() if not dock.isHidden()]
        for dock in shown:
            dock.hide()
        if self.restoreState(layout, LAYOUT_VERSION):
            return True
        for dock in shown:
            dock.show()
        return False

    def save_state(self) -> None:
        """Remember layout, theme and model."""
        self.state.geometry = self.saveGeometry()
        self.state.layout = self.saveState(LAYOUT_VERSION)
        self.state.scheme = self.theme.choice
        self.state.text_scale = self.theme.scale
        self.state.model = self.model_dock.choice.currentText().strip()
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
            # What an agent has said until now is kept, and then saved.
            if self._dock(AgentsDock).leave(self.close) or not self.keeper.ready_to_leave():
                event.ignore()
                return
            self.save_state()
            self._begin_to_stop()
        if self._nothing_runs():
            self._stop_timer.stop()
            self.keeper.close()
            # While all that the steps speak of is alive: the collector may free a step before the
            # stack that holds it.
            self.session.undo_stack.clear()
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
        if part is SessionPart.TRAINING:
            # Steps run beside the lanes: what talks must not touch the model meanwhile.
            why = training_hinders(self.session)
            self.runner.turn.close(*why.partition(": ")[::2]) if why else self.runner.turn.open()
        if part in (SessionPart.MODEL, SessionPart.WORKSPACE):
            info, workspace = self.session.model_info, self.session.workspace
            names = (info and info.name, workspace and workspace.name, "AttentionStudio")
            self.setWindowTitle(" · ".join(name for name in names if name))
