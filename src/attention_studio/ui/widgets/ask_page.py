"""Where questions about what is open are typed, answered, and what is proposed accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QShowEvent
from PySide6.QtWidgets import QCheckBox, QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.ui.widgets.answer_view import AnswerView
from attention_studio.ui.widgets.controls import (
    CommandButton,
    label,
    named,
    push_button,
    row,
    set_role,
)
from attention_studio.ui.widgets.proposal_list import ProposalList

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

_LINES = 2
_HELP = (
    "Ask about the graphs, features and interventions of this workspace. The model looks with "
    "tools that only read; what it says carries links, and a sentence whose links lead nowhere is "
    "struck."
)


class QuestionEdit(QPlainTextEdit):
    """A field of a few lines. Enter asks, Shift+Enter begins another line; ``asked`` says so."""

    asked = Signal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(self, "agents.question", "Your question",
              "Ask about what is open; Enter asks, Shift+Enter begins another line")  # fmt: skip
        self.setPlaceholderText("Ask about what is open, such as: what feeds the answer?")
        self.setTabChangesFocus(True)

    def fit(self) -> None:
        """Be as high as some lines."""
        margins = self.contentsMargins()
        around = margins.top() + margins.bottom() + 2 * round(self.document().documentMargin())
        self.setFixedHeight(_LINES * self.fontMetrics().lineSpacing() + around + 2)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter asks."""
        shift = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not shift:
            self.asked.emit()
        else:
            super().keyPressEvent(event)


class AskPage(QWidget):
    """A question, its answer, and what was proposed.

    ``went`` carries the ``Reference`` that somebody wants to follow, ``settings_wanted`` says that
    somebody wants to choose who answers.
    """

    went = Signal(object)
    settings_wanted = Signal()

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._commands = commands
        self.question = QuestionEdit()
        self.propose = QCheckBox("May propose changes")
        named(self.propose, "agents.propose", "May propose changes",
              "Let it propose pins, supernodes, labels and remarks; each is made only if you "
              "accept it, and can be undone")  # fmt: skip
        self.who = label("", "caption", wrap=True, name="agents.ask.who")
        self._choose = push_button(
            "Settings", "agents.ask.settings", "Choose who answers, and what that may take",
            look="quiet",
        )  # fmt: skip
        self.answer = AnswerView(theme)
        self.proposals = ProposalList(commands)
        ask = CommandButton(commands, "agents.ask", look="primary", text="Ask")
        head = QWidget()
        head.setObjectName("formBody")
        top = QVBoxLayout(head)
        top.setContentsMargins(12, 8, 12, 6)
        top.setSpacing(5)
        top.addWidget(self.question)
        top.addLayout(row(ask, self.propose))
        top.addLayout(row(self.who, self._choose, stretch=0))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(head)
        layout.addWidget(self.answer, 1)
        layout.addWidget(self.proposals)
        self.question.asked.connect(self._on_asked)
        self.answer.went.connect(self.went)
        self._choose.clicked.connect(self.settings_wanted)
        theme.changed.connect(self.question.fit)
        self.question.fit()
        self.show_nothing()

    @property
    def text(self) -> str:
        """The question that is typed."""
        return self.question.toPlainText().strip()

    def show_who(self, words: str, lacking: bool) -> None:
        """Say who answers and what that may take, or what is lacking for it."""
        self.who.setText(words)
        set_role(self.who, "warning" if lacking else "caption")

    def show_nothing(self) -> None:
        """Nothing was asked yet."""
        self.answer.show_words(_HELP)
        self.proposals.show_proposals((), "", GraphNotes())

    def begin(self, question: str) -> None:
        """A question was asked."""
        self.answer.begin(question)
        self.proposals.show_proposals((), "", GraphNotes())

    def show_stopped(self, question: str) -> None:
        """A question that came to no answer."""
        self.begin(question)
        self.answer.add("Stopped before there was an answer. The transcript has what was said.")

    def showEvent(self, event: QShowEvent) -> None:
        """Letters have their size by now."""
        super().showEvent(event)
        self.question.fit()

    @Slot()
    def _on_asked(self) -> None:
        self._commands.run("agents.ask")
