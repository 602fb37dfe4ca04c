"""Every command of the studio, in one table.

Menus, toolbar, shortcuts and the command palette are made from ``COMMANDS``; nothing else creates a
``QAction``. A handler is named as ``"target.method"``: the main window is ``"window"``, docks
register under their own names with ``Commands.bind``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtGui import QAction, QKeySequence

from attention_studio.ui.session import Session, SessionPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from attention_studio.ui.theme import Theme

MENUS = ("File", "Edit", "View", "Model", "Train", "Circuits", "Help")


def _always(_session: Session) -> bool:
    return True


def _has_model(session: Session) -> bool:
    return session.model is not None


def _has_crm(session: Session) -> bool:
    return session.crm is not None


def _can_trace(session: Session) -> bool:
    return session.crm is not None and bool(session.prompt.strip())


def _can_view_prompt(session: Session) -> bool:
    return session.model is not None and bool(session.prompt.strip())


def _has_graph(session: Session) -> bool:
    return session.graph is not None


def _has_graph_node(session: Session) -> bool:
    return session.graph is not None and session.selection is not None


def _has_pins(session: Session) -> bool:
    return bool(session.pinned)


def _can_train(session: Session) -> bool:
    return session.model is not None and session.training is None


def _nothing_hinders(_session: Session) -> str:
    return ""


def _training_hinders(session: Session) -> str:
    # The trainer steps with this very model: it must neither be replaced nor let go of.
    return "" if session.training is None else "Training uses the model: stop the run first"


def _training_alive(session: Session) -> bool:
    return session.training in ("running", "paused")


def _can_undo(session: Session) -> bool:
    return session.undo_stack.canUndo()


def _can_redo(session: Session) -> bool:
    return session.undo_stack.canRedo()


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        id: stable name, ``"area.verb"``.
        text: what it is called everywhere.
        help: one sentence; tooltip and palette show it.
        handler: ``"target.method"``, resolved when it is run.
        menu: one of ``MENUS``, or "" for none.
        shortcut: portable text such as ``"Ctrl+O"``.
        when: whether it makes sense now.
        icon: a name in ``ui.icons``.
        toolbar: whether it has a place in the toolbar.
        separator: whether a line is drawn above it in its menu and before it in the toolbar.
        hindered: why it must wait although it would make sense, or "".
    """

    id: str
    text: str
    help: str
    handler: str
    menu: str = ""
    shortcut: str = ""
    when: Callable[[Session], bool] = _always
    icon: str = ""
    toolbar: bool = False
    separator: bool = False
    hindered: Callable[[Session], str] = _nothing_hinders


COMMANDS: tuple[Command, ...] = (
    # File
    Command("crm.open", "Open replacement model…",
            "Open a folder of trained transcoders for the loaded model", "window.open_crm",
            "File", "Ctrl+O", _has_model, "open", True),
    Command("graph.open", "Open graph…", "Open an attribution graph that was saved",
            "window.open_graph", "File", "Ctrl+Shift+O", _always, "graph"),
    Command("graph.save", "Save graph…", "Save the attribution graph, whole or pruned, to a file",
            "window.save_graph", "File", "Ctrl+S", _has_graph, "save"),
    Command("app.quit", "Quit", "Stop all work and close the window", "window.quit",
            "File", "Ctrl+Q", separator=True),
    # Edit
    Command("edit.undo", "Undo", "Take back the last change", "window.undo", "Edit", "Ctrl+Z",
            _can_undo, "undo"),
    Command("edit.redo", "Redo", "Make the change again that was taken back", "window.redo",
            "Edit", "Ctrl+Shift+Z", _can_redo, "redo"),
    Command("palette.show", "Command palette…", "Find and run any command by its name",
            "window.show_palette", "Edit", "Ctrl+Shift+P", _always, "command", separator=True),
    # View
    Command("layout.train", "Layout: Train", "Arrange the docks for training",
            "window.layout_train", "View", "Ctrl+1", icon="train"),
    Command("layout.features", "Layout: Features", "Arrange the docks for looking at features",
            "window.layout_features", "View", "Ctrl+2", icon="features"),
    Command("layout.circuits", "Layout: Circuits",
            "Arrange the docks for looking at attribution graphs", "window.layout_circuits",
            "View", "Ctrl+3", icon="graph"),
    Command("layout.reset", "Reset layout", "Put every dock back where it was at first",
            "window.reset_layout", "View", icon="layout"),
    Command("view.model", "Show Model", "Show the Model dock and go there", "window.show_model",
            "View", "Alt+1", icon="model", separator=True),
    Command("view.prompt", "Show Prompt", "Show the Prompt dock and go there",
            "window.show_prompt", "View", "Alt+2", icon="prompt"),
    Command("view.train", "Show Train", "Show the Train dock and go there", "window.show_train",
            "View", "Alt+3", icon="train"),
    Command("view.features", "Show Features", "Show the Features dock and go there",
            "window.show_features", "View", "Alt+4", icon="features"),
    Command("view.graph", "Show Graph", "Show the Graph dock and go there", "window.show_graph",
            "View", "Alt+5", icon="graph"),
    Command("view.tasks", "Show Tasks", "Show the Tasks dock and go there", "window.show_tasks",
            "View", "Alt+6", icon="tasks"),
    Command("view.log", "Show Log", "Show the Log dock and go there", "window.show_log", "View",
            "Alt+7", icon="log"),
    Command("theme.toggle", "Switch light and dark", "Use the other colour scheme",
            "window.toggle_theme", "View", "Ctrl+Shift+L", icon="theme", separator=True),
    Command("theme.system", "Follow the system's colours",
            "Use light or dark as the system does", "window.follow_system_theme", "View"),
    Command("text.larger", "Larger text", "Make all text larger", "window.larger_text", "View",
            "Ctrl+="),
    Command("text.smaller", "Smaller text", "Make all text smaller", "window.smaller_text", "View",
            "Ctrl+-"),
    Command("text.normal", "Normal text size", "Set all text back to its normal size",
            "window.normal_text", "View", "Ctrl+0"),
    # Model
    Command("model.load", "Load model", "Load the model that is chosen in the Model dock",
            "model.load", "Model", "Ctrl+L", _always, "model", True,
            hindered=_training_hinders),
    Command("model.release", "Release model", "Take the model out of memory", "model.release",
            "Model", "", _has_model, "release", hindered=_training_hinders),
    Command("model.browse", "Choose a model folder…", "Choose a folder that holds a model",
            "model.browse_folder", "Model", icon="folder", separator=True),
    Command("model.browse_file", "Choose a GGUF file…", "Choose a model in one .gguf file",
            "model.browse_file", "Model"),
    Command("prompt.run", "Show tokens and next words",
            "Show the prompt as the model sees it, with what it would say next", "prompt.run",
            "Model", "Ctrl+Return", _can_view_prompt, "prompt", True, separator=True),
    Command("prompt.focus", "Edit the prompt", "Go to the text of the prompt", "prompt.focus_text",
            "Model", "Ctrl+E"),
    # Train
    Command("train.start", "Start training", "Train transcoders with the settings of the Train "
            "dock", "train.start", "Train", "Ctrl+T", _can_train, "train", True),
    Command("train.pause", "Pause or continue training",
            "Pause the training run, or let it go on", "train.toggle_pause", "Train",
            "Ctrl+Shift+T", _training_alive, "pause"),
    Command("train.checkpoint", "Write a checkpoint now",
            "Write a checkpoint that the run can go on from", "train.checkpoint", "Train", "",
            _training_alive, "save"),
    Command("train.stop", "Stop training", "Stop the run after a checkpoint", "train.stop",
            "Train", "", _training_alive, "stop"),
    Command("train.resume", "Resume an unfinished run…",
            "Choose the folder of a run and go on where it stopped", "train.resume", "Train", "",
            _can_train, "refresh", separator=True),
    # Circuits
    Command("features.extract", "Extract features",
            "Find the features that are active on the prompt", "features.extract", "Circuits",
            "Ctrl+R", _can_trace, "features", True, separator=True),
    Command("graph.build", "Build attribution graph",
            "Trace how the prompt becomes the next token", "graph.build", "Circuits", "Ctrl+G",
            _can_trace, "graph", True),
    Command("graph.fit", "Fit graph to view", "Show the whole graph", "graph.fit", "Circuits",
            "Ctrl+Shift+F", _has_graph, "fit", separator=True),
    Command("graph.pin", "Pin or unpin the selected node",
            "Keep the selected node at hand, or let it go", "graph.pin_selected", "Circuits", "P",
            _has_graph_node, "pin"),
    Command("graph.unpin_all", "Unpin all nodes", "Let all pinned nodes go", "graph.unpin_all",
            "Circuits", "", _has_pins),
    Command("graph.clear_selection", "Clear selection", "Select no node",
            "graph.clear_selection", "Circuits", "Escape", _has_graph_node),
    # Help
    Command("help.about", "About AttentionStudio", "Version, licence and where things are kept",
            "window.show_about", "Help", icon="info"),
    Command("help.keys", "Keyboard shortcuts", "List every command with its keys",
            "window.show_palette", "Help", "F1", icon="command"),
)  # fmt: skip


def fuzzy_score(query: str, text: str) -> Optional[float]:
    """How well ``query`` fits ``text``: higher is better, None where it does not fit.

    Each word of the query must fit on its own, in any order: its letters must occur in order.
    Letters at the beginning of words and letters in a row count more, and so do short texts.
    """
    lowered = text.lower()
    total = -0.02 * len(lowered) if query.strip() else 0.0
    for word in query.lower().split():
        score = _word_score(word, lowered)
        if score is None:
            return None
        total += score
    return total + (4.0 if query.strip() and query.lower().strip() in lowered else 0.0)


def _word_score(word: str, text: str) -> Optional[float]:
    score = 0.0
    position = -1
    for letter in word:
        found = text.find(letter, position + 1)
        if found < 0:
            return None
        if found != position + 1 or position < 0:
            # Prefer the beginning of a word, where this letter begins one later on.
            start = found
            while start > 0 and text[start - 1].isalnum():
                start = text.find(letter, start + 1)
            if start >= 0 and (start == 0 or not text[start - 1].isalnum()):
                found = start
        score += 1.0
        if found == position + 1 and position >= 0:
            score += 2.0
        if found == 0 or not text[found - 1].isalnum():
            score += 1.5
        position = found
    return score + (2.0 if word in text else 0.0)


class Commands(QObject):
    """The commands as actions, enabled by what the session holds.

    ``ran`` carries the id of a command after it was run.
    """

    ran = Signal(str)

    def __init__(
        self,
        session: Session,
        theme: Theme,
        parent: Optional[QObject] = None,
        table: tuple[Command, ...] = COMMANDS,
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._theme = theme
        self._table = {command.id: command for command in table}
        self._targets: dict[str, object] = {}
        self._actions: dict[str, QAction] = {}
        for command in table:
            action = QAction(command.text, self)
            action.setObjectName(f"action.{command.id}")
            action.setData(command.id)
            if command.shortcut:
                action.setShortcut(QKeySequence.fromString(command.shortcut))
                action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            action.triggered.connect(self._on_triggered)
            self._actions[command.id] = action
        session.changed.connect(self._on_session_changed)
        session.history_changed.connect(self.refresh)
        theme.changed.connect(self._on_theme_changed)
        self._on_theme_changed()
        self.refresh()

    def bind(self, name: str, target: object) -> None:
        """Register whom handlers named ``"name.method"`` belong to."""
        self._targets[name] = target

    @property
    def table(self) -> tuple[Command, ...]:
        """All commands, in the order of the table."""
        return tuple(self._table.values())

    def command(self, command_id: str) -> Command:
        """The command of that id. Raises KeyError if there is none."""
        return self._table[command_id]

    def action(self, command_id: str) -> QAction:
        """The action of that id. Raises KeyError if there is none."""
        return self._actions[command_id]

    def actions(self) -> tuple[QAction, ...]:
        """All actions, in the order of the table."""
        return tuple(self._actions.values())

    def handler(self, command_id: str) -> Callable[[], object]:
        """The bound method that the command calls.

        Raises:
            LookupError: its target is not registered or has no such method.
        """
        name = self._table[command_id].handler
        target_name, _, method_name = name.partition(".")
        method = getattr(self._targets.get(target_name), method_name, None)
        if not callable(method):
            raise LookupError(f"nobody handles {name}")
        bound: Callable[[], object] = method
        return bound

    def run(self, command_id: str) -> bool:
        """Run the command if it makes sense now. Returns whether it was run."""
        self.refresh()
        action = self._actions[command_id]
        if not action.isEnabled():
            return False
        action.trigger()
        return True

    def hindrance(self, command_id: str) -> str:
        """Why the command must wait although it would make sense, or ""."""
        return self._table[command_id].hindered(self._session)

    @Slot()
    def refresh(self) -> None:
        """Ask every command whether it makes sense now."""
        for command_id, command in self._table.items():
            action = self._actions[command_id]
            hindrance = command.hindered(self._session)
            action.setEnabled(command.when(self._session) and not hindrance)
            action.setStatusTip(hindrance or command.help)
            action.setToolTip(hindrance or self._tooltip(command))
        undo, redo = self._session.undo_stack.undoText(), self._session.undo_stack.redoText()
        for command_id, text in (("edit.undo", undo), ("edit.redo", redo)):
            if command_id in self._actions:
                plain = self._table[command_id].text
                self._actions[command_id].setText(f"{plain}: {text}" if text else plain)

    def search(self, query: str) -> tuple[Command, ...]:
        """Commands that fit the query, the best first; all of them for an empty one."""
        scored = []
        for order, command in enumerate(self.table):
            score = fuzzy_score(query, command.text)
            if score is None:
                weak = fuzzy_score(query, f"{command.menu} {command.text} {command.help}")
                # A hit scattered over the help text is noise; keep whole words only.
                if weak is None or query.lower().strip() not in command.help.lower():
                    continue
                score = weak - 5.0
            scored.append((-score, order, command))
        return tuple(command for _, _, command in sorted(scored, key=lambda entry: entry[:2]))

    @staticmethod
    def _tooltip(command: Command) -> str:
        if not command.shortcut:
            return command.help
        keys = QKeySequence.fromString(command.shortcut).toString(
            QKeySequence.SequenceFormat.NativeText
        )
        return f"{command.help} ({keys})"

    @Slot()
    def _on_triggered(self) -> None:
        action = self.sender()
        if not isinstance(action, QAction):
            return
        command_id = action.data()
        self.handler(command_id)()
        self.ran.emit(command_id)

    @Slot(object, object)
    def _on_session_changed(self, _part: SessionPart, _initiator: object) -> None:
        self.refresh()

    @Slot()
    def _on_theme_changed(self) -> None:
        for command_id, command in self._table.items():
            if command.icon:
                self._actions[command_id].setIcon(self._theme.icon(command.icon))
