"""What is said of the link graph above it: prompt, size, scores, and what is emphasised in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QVBoxLayout, QWidget

from attention_studio.ui.text import count, duration
from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, label, named, stack
from attention_studio.ui.widgets.graph_scene import quoted
from attention_studio.ui.widgets.role_look import ROLE_LOOKS
from attention_studio.ui.widgets.score_badges import ScoreBadges
from attention_studio.ui.widgets.verified_note import VerifiedNote

if TYPE_CHECKING:
    from attention_studio.core.graph_pruning import GraphScores
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.highlight import Highlight
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.graph_scene import PreparedScene

_PROMPT_LETTERS = 40
"""Room that the prompt and the counts need beside the scores."""


class GraphFacts(QWidget):
    """A line about the graph, and further ones while something is emphasised, chosen or pinned."""

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self.prompt = ElidedLabel(role="caption")
        named(self.prompt, "graph.prompt", "Prompt of the graph")
        self.counts = ElidedLabel(role="caption")
        named(self.counts, "graph.counts", "Size of the graph")
        self.scores = ScoreBadges()
        self.verified = VerifiedNote(session, runner)
        self.pinned_scores = ScoreBadges("pinned")
        self.pinned_scores.setAccessibleName("Scores of the pinned nodes alone")
        self.again = CommandButton(commands, "graph.build", look="quiet",
                                   text="Trace the new prompt")  # fmt: skip
        self.again.setObjectName("graph.again")
        about = QHBoxLayout()
        about.setSpacing(10)
        about.addWidget(self.prompt, 1)
        about.addWidget(self.again)
        about.addWidget(self.counts, 1)
        about.addWidget(self.verified)
        # One row, or two where the dock is narrow: the prompt needs the room.
        self._first = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._first.setContentsMargins(10, 0, 10, 0)
        self._first.setSpacing(10)
        self._first.addLayout(about, 1)
        self._first.addWidget(self.scores)
        self._emphasis = QWidget()
        self._emphasis.setObjectName("graph.emphasis")
        self._title = ElidedLabel(role="text")
        named(self._title, "graph.emphasis.title", "What is emphasised in the graph")
        self._legend = label("", "caption", name="graph.emphasis.legend")
        clear = CommandButton(commands, "graph.clear_highlight", look="quiet", text="Clear")
        clear.setObjectName("graph.emphasis.clear")
        third = QHBoxLayout(self._emphasis)
        third.setContentsMargins(10, 0, 10, 0)
        third.addWidget(self._title, 1)
        third.addWidget(self._legend)
        third.addWidget(clear)
        self._n_chosen = ElidedLabel(role="text")
        named(self._n_chosen, "graph.choice.count", "How many nodes are chosen")
        self._of_choice: list[QWidget] = [self._n_chosen]
        self._of_pins = [label("Pinned nodes alone", "caption"), self.pinned_scores]
        self._last = QWidget()
        self._last.setObjectName("graph.choice")
        last = QHBoxLayout(self._last)
        last.setContentsMargins(10, 0, 10, 0)
        last.addWidget(self._n_chosen, 1)
        for command_id, text in (("nodes.pin", "Pin"), ("nodes.choose_none", "Choose none")):
            button = CommandButton(commands, command_id, look="quiet", text=text)
            button.setObjectName(f"graph.choice.{command_id}")
            self._of_choice.append(button)
            last.addWidget(button)
        last.addStretch(1)
        for widget in self._of_pins:
            last.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 5)
        layout.setSpacing(1)
        layout.addLayout(self._first)
        for part in (self._emphasis, self._last):
            layout.addWidget(part)
        self.show_pinned_scores(None)
        self.show_highlight(None)
        self.show_chosen(())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the scores below the prompt where the dock is narrow."""
        super().resizeEvent(event)
        needed = self.scores.sizeHint().width() + self.verified.sizeHint().width()
        needed += _PROMPT_LETTERS * self.fontMetrics().averageCharWidth()
        narrow = event.size().width() < needed
        stack(self._first, narrow)
        self._first.setSpacing(1 if narrow else 10)
        side = Qt.AlignmentFlag.AlignRight if narrow else Qt.AlignmentFlag(0)
        self._first.setAlignment(self.scores, side)

    def show_graph(self, shown: PreparedScene, stale: bool) -> None:
        """Say of another graph what it is; ``stale``: its prompt is no longer the session's."""
        graph, scene = shown.graph, shown.scene
        contrast = graph.settings.contrast
        if contrast:
            first, second = (quoted(str(token)) for token in contrast)
            self.prompt.set_whole(f"Why {first} and not {second} after “{graph.prompt}”")
        else:
            self.prompt.set_whole(f"“{graph.prompt}”")
        self.again.setVisible(stale)
        self.counts.set_whole(
            f"{count(scene.n_nodes)} of {count(len(graph.nodes))} nodes · "
            f"{count(scene.n_edges)} edges · {duration(graph.seconds)}"
        )
        self.scores.show_scores(graph.scores)
        self.verified.follow(graph)

    def show_nothing(self) -> None:
        """There is no graph."""
        self.again.hide()

    def show_pinned_scores(self, scores: Optional[GraphScores]) -> None:
        """Say what the pinned nodes explain alone, or nothing."""
        self.pinned_scores.show_scores(scores)
        for widget in self._of_pins:
            widget.setVisible(scores is not None)
        self._show_last()

    def show_highlight(self, highlight: Optional[Highlight]) -> None:
        """Say what is emphasised, and what the signs of its roles mean."""
        self._emphasis.setVisible(highlight is not None)
        if highlight is None:
            return
        self._title.set_whole(highlight.title)
        roles = dict.fromkeys((*highlight.nodes.values(), *highlight.edges.values()))
        looks = [ROLE_LOOKS[role] for role in ROLE_LOOKS if role in roles]
        # One role needs no key.
        shown = looks if len(looks) > 1 else []
        self._legend.setText("   ".join(f"{look.sign} {look.words}" for look in shown))

    def show_chosen(self, names: Sequence[str]) -> None:
        """Say how many nodes are chosen together."""
        for widget in self._of_choice:
            widget.setVisible(bool(names))
        self._show_last()
        plural = "node is" if len(names) == 1 else "nodes are"
        self._n_chosen.set_whole(f"{len(names)} {plural} chosen")

    def _show_last(self) -> None:
        parts = (*self._of_choice, *self._of_pins)
        self._last.setHidden(all(part.isHidden() for part in parts))
