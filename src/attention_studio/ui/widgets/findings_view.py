"""What an agent came to: words, what they rest on, how well they hold, and what was struck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QMenu,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.agent_words import (
    attack_words,
    beside,
    evidence_words,
    link_words,
    score_words,
    sentence_caption,
)
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.controls import Role, icon_button, label, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.agents.circuit_story import Sentence, Story
    from attention_studio.agents.explanations import FeatureVerdict, Score
    from attention_studio.ui.theme import Theme

_HEADS = ("Score", "Value", "Judge", "Caution")


Link = tuple[str, str]
"""Kind and reference of something to look at."""


class FindingsView(QScrollArea):
    """One explanation, or one story. ``went`` carries the ``Link`` that somebody wants to follow.

    ``buttons``: what one does with it, below its words.
    """

    went = Signal(object)

    def __init__(
        self, theme: Theme, buttons: Sequence[QWidget], parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        named(self, "agents.result", "What the agent came to")
        self._theme = theme
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.title = label("", "title", wrap=True, selectable=True, name="agents.result.label")
        self.sentence = label("", wrap=True, selectable=True, name="agents.result.sentence")
        self.author = label("", "caption", wrap=True, name="agents.result.author")
        self._buttons = QWidget()
        acts = QHBoxLayout(self._buttons)
        acts.setContentsMargins(0, 4, 0, 4)
        for button in buttons:
            acts.addWidget(button)
        acts.addStretch(1)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(12, 8, 12, 10)
        layout.setSpacing(5)
        for part in (self.title, self.sentence, self.author, self._buttons):
            layout.addWidget(part)
        self._found = QVBoxLayout()
        self._found.setSpacing(4)
        layout.addLayout(self._found)
        layout.addStretch(1)
        self.setWidget(body)
        self.lines: tuple[str, ...] = ()
        """All lines below the words, for tests and for copying."""
        self._place: Optional[QWidget] = None
        self._links: dict[QToolButton, list[tuple[Link, str]]] = {}
        self.show_words("", "", "")

    def show_words(self, title: str, sentence: str, author: str) -> None:
        """Show words alone: nothing was scored, or there is nothing yet."""
        for part, text in ((self.title, title), (self.sentence, sentence), (self.author, author)):
            part.setText(text)
            part.setVisible(bool(text))
        self._buttons.setVisible(bool(title or sentence))
        self._renew()

    def show_verdict(self, verdict: FeatureVerdict, took: str) -> None:
        """Show what came of explaining or scoring; ``took``: what it took, or ""."""
        said = verdict.chosen.explanation
        about = " · ".join(part for part in (f"By {said.author}", verdict.reason, took) if part)
        self.show_words(said.label, said.sentence, about)
        self._add_scores("Scores, on texts that the author has not seen", verdict.chosen.scores)
        self._head("What it rests on", said.evidence)
        for one in said.evidence:
            self._add_line(evidence_words(one), [("feature", one.reference)])
        attacks = verdict.chosen.attacks
        withstood = verdict.chosen.withstood
        if attacks:
            share = "" if withstood is None else f", withstood {withstood:.0%}"
            self._head(f"Attacks, run in the model{share}", attacks)
            for attack in attacks:
                self._add_line(attack_words(attack))
        others = beside(verdict)
        self._head("Said as well", others)
        for line in others:
            self._add_line(line)
        self.verticalScrollBar().setValue(0)

    def show_story(self, story: Story, took: str) -> None:
        """Show what is told of a circuit; ``took``: what it took, or ""."""
        about = f"“{story.prompt}” → “{story.answer_text}”, {story.probability:.1%}"
        by = " · ".join(part for part in (f"By {story.author}", took) if part)
        self.show_words(about, "", by)
        self._head("Story", story.sentences)
        for sentence in story.sentences:
            self._add_sentence(story, sentence, sentence_caption(sentence), False)
        self._head("Struck: what does not hold", story.struck)
        for one in story.struck:
            self._add_sentence(story, one.sentence, f"Struck: {one.reason}", True)
        self._head("Supernodes that it speaks of", story.supernodes)
        for group in story.supernodes:
            some = "1 feature" if len(group.nodes) == 1 else f"{len(group.nodes)} features"
            words = f"{group.key} “{group.name}”: {some} at "
            at = ", ".join(visible_token(token) for token in group.at)
            self._add_line(words + at, [("supernode", group.key)])
        self._head("What went otherwise than planned", story.notes)
        for note in story.notes:
            self._add_line(note)
        self.verticalScrollBar().setValue(0)

    # -- inside ---------------------------------------------------------------------------------

    def _renew(self) -> None:
        if self._place is not None:
            self._found.removeWidget(self._place)
            self._place.hide()
            self._place.deleteLater()
        self._place = QWidget()
        inside = QVBoxLayout(self._place)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        self._found.addWidget(self._place)
        self.lines = ()
        self._links = {}

    def _inside(self) -> QVBoxLayout:
        assert self._place is not None
        inside = self._place.layout()
        assert isinstance(inside, QVBoxLayout)
        return inside

    def _add_scores(self, head: str, scores: Sequence[Score]) -> None:
        if not scores:
            return
        inside = self._inside()
        inside.addWidget(label(head, "section", wrap=True))
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(3)
        for column, text in enumerate(_HEADS):
            grid.addWidget(label(text, "caption"), 0, column)
        for row, score in enumerate(scores, 1):
            texts = (score.kind, *score_words(score))
            for column, text in enumerate(texts):
                role: Role = "warning" if column == 3 else "text"
                made = label(text, role, wrap=column > 1, selectable=True)
                grid.addWidget(made, row, column, Qt.AlignmentFlag.AlignTop)
            self.lines += (" · ".join(text for text in texts if text),)
        grid.setColumnStretch(2, 2)
        grid.setColumnStretch(3, 3)
        inside.addLayout(grid)
        inside.addSpacing(4)

    def _head(self, text: str, of: Sequence[object]) -> None:
        """Begin another part, unless there is nothing in it."""
        if of:
            self._inside().addSpacing(4)
            self._inside().addWidget(label(text, "section", wrap=True))

    def _add_sentence(self, story: Story, sentence: Sentence, caption: str, struck: bool) -> None:
        links = [(one.kind, one.reference) for one in sentence.evidence]
        words = [link_words(story, one) for one in sentence.evidence]
        self._add_line(sentence.text, links, words, caption, struck)

    def _add_line(
        self,
        text: str,
        links: Sequence[Link] = (),
        words: Sequence[str] = (),
        caption: str = "",
        struck: bool = False,
    ) -> None:
        across = QHBoxLayout()
        across.setSpacing(6)
        column = QVBoxLayout()
        column.setSpacing(1)
        said = label(text, "muted" if struck else "text", wrap=True, selectable=True)
        if struck:
            font = said.font()
            font.setStrikeOut(True)
            said.setFont(font)
        column.addWidget(said)
        if caption:
            column.addWidget(label(caption, "caption", wrap=True, selectable=True))
        across.addLayout(column, 1)
        if links:
            some = f"{len(links)} things" if len(links) > 1 else (words or [links[0][1]])[0]
            look = icon_button(
                self._theme, "eye", f"agents.look.{len(self.lines)}", f"Look at {some}",
                "Go to what this rests on",
            )  # fmt: skip
            self._links[look] = list(zip(links, words or [one[1] for one in links], strict=True))
            look.clicked.connect(self._on_look)
            across.addWidget(look, 0, Qt.AlignmentFlag.AlignTop)
        self._inside().addLayout(across)
        self.lines += (text,) + ((caption,) if caption else ())

    @Slot()
    def _on_look(self) -> None:
        """Follow the link of a line, or let one choose which."""
        button = self.sender()
        if not isinstance(button, QToolButton):
            return
        links = self._links.get(button, [])
        if len(links) == 1:
            self.went.emit(links[0][0])
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for link, words in links:
            action = QAction(words.replace("&", "&&"), menu)
            action.setData(list(link))
            menu.addAction(action)
        menu.triggered.connect(self._on_chosen)
        menu.popup(button.mapToGlobal(QPoint(0, button.height())))

    @Slot(QAction)
    def _on_chosen(self, action: QAction) -> None:
        kind, reference = action.data()
        self.went.emit((kind, reference))
