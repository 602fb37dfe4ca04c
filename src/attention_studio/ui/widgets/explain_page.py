"""Where features are explained and circuits described, with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, label, named, row
from attention_studio.ui.widgets.findings_view import FindingsView

if TYPE_CHECKING:
    from attention_studio.core.sites import Site
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

MAX_WORDS = 600
"""Characters of an explanation that is typed."""
_HELP = (
    "Choose a feature in Features, or a node of the graph. Explain says in a few words what it "
    "stands for; what you type yourself can be scored in the same way. Describe tells how the open "
    "graph comes to its answer."
)


class ExplainPage(QWidget):
    """What one asks of a feature or of the graph, and the result below. ``went`` carries kind and
    reference of a link that somebody wants to follow."""

    went = Signal(object)

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._commands = commands
        self._title = ElidedLabel(role="title")
        named(self._title, "agents.feature", "The feature that is looked at")
        self.cost = label("", "caption", wrap=True, name="agents.bound")
        self.typed = QLineEdit()
        named(self.typed, "agents.typed", "An explanation of your own",
              "Say what the feature stands for; Enter scores it")  # fmt: skip
        self.typed.setPlaceholderText("Your own explanation, to be scored")
        self.typed.setMaxLength(MAX_WORDS)
        self.use_label = CommandButton(commands, "agents.use_label", text="Use as label")
        self.use_supernodes = CommandButton(
            commands, "agents.use_supernodes", text="Use its supernodes"
        )
        self.result = FindingsView(theme, (self.use_label, self.use_supernodes))
        explain = CommandButton(commands, "agents.explain", look="primary", text="Explain")
        describe = CommandButton(commands, "agents.describe", text="Describe", icon=False)
        score = CommandButton(commands, "agents.score", text="Score", icon=False)
        estimates = []
        for command_id in ("agents.estimate", "agents.estimate_story"):
            made = CommandButton(commands, command_id, look="quiet", text="Estimate", icon=False)
            estimates.append(made)
        head = QWidget()
        head.setObjectName("formBody")
        top = QVBoxLayout(head)
        top.setContentsMargins(12, 8, 12, 6)
        top.setSpacing(5)
        top.addWidget(self._title)
        top.addLayout(row(explain, estimates[0], describe, estimates[1], spacing=4))
        top.addWidget(self.cost)
        top.addLayout(row(self.typed, score, stretch=0))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(head)
        layout.addWidget(self.result, 1)
        self.result.went.connect(self.went)
        self.typed.returnPressed.connect(self._on_typed)

    @property
    def words(self) -> str:
        """The explanation that was typed."""
        return self.typed.text().strip()

    def show_feature(self, feature: Optional[tuple[Site, int]]) -> None:
        """Say which feature is looked at."""
        self._title.set_whole(
            "No feature is chosen" if feature is None else f"{feature[0].label} #{feature[1]}"
        )

    def show_nothing(self) -> None:
        """Nothing was said yet."""
        self.result.show_words("", "", _HELP)

    def go_to_typed(self) -> None:
        """Go to the field for an explanation of one's own."""
        self.typed.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.typed.selectAll()

    @Slot()
    def _on_typed(self) -> None:
        self._commands.run("agents.score")
