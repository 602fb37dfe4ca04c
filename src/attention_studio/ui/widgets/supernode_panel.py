"""Suggested supernodes, one below the other: what they are, why, and what accepting would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFrame,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.supernode_suggestions import SuggestionConfig
from attention_studio.ui.text import percent
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    icon_button,
    label,
    line,
    named,
    push_button,
    row,
)
from attention_studio.ui.widgets.form_fields import inset

if TYPE_CHECKING:
    from attention_studio.core.graph_pruning import GraphScores
    from attention_studio.core.supernode_suggestions import Suggestions, SupernodeSuggestion
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme


def scores_line(now: GraphScores, then: GraphScores) -> str:
    """What accepting does to the subgraph's scores, as one line."""
    pairs = (
        ("Replacement", now.replacement, then.replacement),
        ("completeness", now.completeness, then.completeness),
    )
    return ", ".join(
        f"{name} stays {percent(before)}"
        if percent(before) == percent(after)
        else f"{name} {percent(before)} \N{RIGHTWARDS ARROW} {percent(after)}"
        for name, before, after in pairs
    )


def reasons_line(suggestion: SupernodeSuggestion) -> str:
    """Why the features might belong together, as one line."""
    parts = [f"inputs {suggestion.inputs:.2f}", f"outputs {suggestion.outputs:.2f}"]
    if suggestion.decoders is not None:
        parts.append(f"decoders {suggestion.decoders:.2f}")
    return f"Alike {suggestion.likeness:.2f}: {', '.join(parts)}"


class SuggestionCard(QFrame):
    """One suggestion. ``accepted``, ``rejected`` and ``shown`` carry its place in the list."""

    accepted = Signal(int)
    rejected = Signal(int)
    shown = Signal(int)

    def __init__(
        self,
        theme: Theme,
        place: int,
        suggestion: SupernodeSuggestion,
        now: GraphScores,
        titles: tuple[str, ...],
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(parent)
        self._place = place
        name = f"subgraph.suggestion.{place}"
        self.setObjectName(name)
        self.setProperty("panel", "card")
        self.setAccessibleName(f"Suggested supernode {suggestion.name}")
        title = ElidedLabel(suggestion.name, "section")
        title.setObjectName(f"{name}.title")
        count = len(suggestion.nodes)
        new = f", {len(suggestion.new)} not pinned yet" if suggestion.new else ""
        features = ElidedLabel(f"{count} features{new}: {'; '.join(titles)}", "caption")
        features.setObjectName(f"{name}.features")
        reasons = label(reasons_line(suggestion), "caption", name=f"{name}.reasons", wrap=True)
        scores = label(
            scores_line(now, suggestion.scores), "caption", name=f"{name}.scores", wrap=True
        )
        self.show_button = icon_button(
            theme, "eye", f"{name}.show", f"Show {suggestion.name} in the graph",
            "Emphasise the features in the graph and in the subgraph",
        )  # fmt: skip
        self.accept_button = push_button(
            "Accept", f"{name}.accept", "Make a supernode of these features",
            accessible=f"Accept {suggestion.name}",
        )  # fmt: skip
        self.reject_button = push_button(
            "Reject", f"{name}.reject", "Take this suggestion away, and do not make it again",
            look="quiet", accessible=f"Reject {suggestion.name}",
        )  # fmt: skip
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 10, 8)
        layout.setSpacing(3)
        layout.addLayout(row(title, self.show_button, stretch=0))
        for part in (features, reasons, scores):
            layout.addWidget(part)
        layout.addLayout(row(self.accept_button, self.reject_button))
        self.accept_button.clicked.connect(self._on_accept)
        self.reject_button.clicked.connect(self._on_reject)
        self.show_button.clicked.connect(self._on_show)

    @Slot()
    def _on_accept(self) -> None:
        self.accepted.emit(self._place)

    @Slot()
    def _on_reject(self) -> None:
        self.rejected.emit(self._place)

    @Slot()
    def _on_show(self) -> None:
        self.shown.emit(self._place)


class SupernodePanel(QWidget):
    """Settings, and the list of suggestions.

    ``accepted``, ``rejected`` and ``shown`` carry a suggestion; ``closed`` nothing.
    """

    accepted = Signal(object)
    rejected = Signal(object)
    shown = Signal(object)
    closed = Signal()

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._found: tuple[SupernodeSuggestion, ...] = ()
        self._now: Optional[GraphScores] = None
        self._cards: list[SuggestionCard] = []
        standard = SuggestionConfig()
        self.setObjectName("subgraph.suggestions")
        self.likeness = inset(QDoubleSpinBox())
        named(self.likeness, "subgraph.likeness", "Least likeness",
              "How alike features must be on average to be grouped, as a cosine")  # fmt: skip
        self.likeness.setRange(0.05, 0.99)
        self.likeness.setSingleStep(0.05)
        self.likeness.setValue(standard.likeness)
        self.one_token = QCheckBox("At one token")
        named(self.one_token, "subgraph.oneToken", "Only features at one token",
              "Group only features that stand at the same token")  # fmt: skip
        self.one_token.setChecked(standard.one_position)
        self.pinned_only = QCheckBox("Pinned only")
        named(self.pinned_only, "subgraph.pinnedOnly", "Only pinned features",
              "Group only what is pinned, and bring in no other features of the graph")  # fmt: skip
        close = icon_button(theme, "close", "subgraph.suggestions.close", "Hide suggestions")
        close.clicked.connect(self.closed)
        again = CommandButton(commands, "subgraph.suggest", text="Look", icon=False)
        again.setObjectName("subgraph.suggest.again")
        self._said = label("", "muted", name="subgraph.suggestions.said", wrap=True)
        head = QWidget()
        head_layout = QVBoxLayout(head)
        head_layout.setContentsMargins(10, 6, 6, 6)
        head_layout.setSpacing(5)
        head_layout.addLayout(row(label("Suggested supernodes", "section"), QWidget(), close,
                                  stretch=1))  # fmt: skip
        head_layout.addLayout(row(label("Alike from", "caption"), self.likeness, again))
        head_layout.addLayout(row(self.one_token, self.pinned_only))
        head_layout.addWidget(self._said)
        self._list = QWidget()
        self._list.setObjectName("formBody")
        self._list_layout = QVBoxLayout(self._list)
        self._list_layout.setContentsMargins(8, 8, 8, 8)
        self._list_layout.setSpacing(8)
        self._list_layout.addStretch(1)
        area = QScrollArea()
        named(area, "subgraph.suggestions.list", "Suggested supernodes")
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(self._list)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(head)
        layout.addWidget(line())
        layout.addWidget(area, 1)
        self.setMinimumWidth(230)

    @property
    def config(self) -> SuggestionConfig:
        """What is asked for."""
        return SuggestionConfig(
            likeness=self.likeness.value(),
            one_position=self.one_token.isChecked(),
            pinned_only=self.pinned_only.isChecked(),
        )

    @property
    def found(self) -> tuple[SupernodeSuggestion, ...]:
        """What is listed."""
        return self._found

    @property
    def now(self) -> Optional[GraphScores]:
        """Scores of the subgraph as it is; None while nothing is listed."""
        return self._now

    @property
    def cards(self) -> tuple[SuggestionCard, ...]:
        """One card for each."""
        return tuple(self._cards)

    def say(self, text: str) -> None:
        """Say something above the list, or nothing."""
        self._said.setText(text)
        self._said.setVisible(bool(text))

    def show_suggestions(self, suggestions: Optional[Suggestions], titles: dict[str, str]) -> None:
        """List suggestions; ``titles`` says what their nodes are called."""
        for card in self._cards:
            self._list_layout.removeWidget(card)
            card.hide()
            card.deleteLater()
        self._cards = []
        self._found = () if suggestions is None else suggestions.found
        self._now = None if suggestions is None else suggestions.now
        for place, suggestion in enumerate(self._found):
            assert suggestions is not None
            words = tuple(titles.get(node, node) for node in suggestion.nodes)
            card = SuggestionCard(self._theme, place, suggestion, suggestions.now, words)
            card.accepted.connect(self._on_accepted)
            card.rejected.connect(self._on_rejected)
            card.shown.connect(self._on_shown)
            self._list_layout.insertWidget(place, card)
            self._cards.append(card)
        none = suggestions is not None and not self._found
        self.say("No features are so alike. Ask for less likeness, or allow other tokens."
                 if none else "")  # fmt: skip

    @Slot(int)
    def _on_accepted(self, place: int) -> None:
        self.accepted.emit(self._found[place])

    @Slot(int)
    def _on_rejected(self, place: int) -> None:
        self.rejected.emit(self._found[place])

    @Slot(int)
    def _on_shown(self, place: int) -> None:
        self.shown.emit(self._found[place])
