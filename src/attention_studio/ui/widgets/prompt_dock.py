"""The Prompt dock: text, the tokens that the model makes of it, and what it would say next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.ui import work
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.contrast_row import ContrastRow
from attention_studio.ui.widgets.controls import CommandButton, label, line, named, row, set_role
from attention_studio.ui.widgets.form_fields import FormArea
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.token_views import ProbabilityBars, TokenChips

if TYPE_CHECKING:
    pass

TOP_K = 10
_TYPING_MS = 350
_KEY = "prompt-view"
EXAMPLE = "The capital of France is"


class PromptDock(StudioDock):
    """The prompt. Shows tokens and next tokens by itself while one types."""

    NAME = "promptDock"
    TITLE = "Prompt"
    ICON = "prompt"
    FITS = True
    WATCHES = frozenset(
        (SessionPart.MODEL, SessionPart.CRM, SessionPart.PROMPT, SessionPart.PROMPT_VIEW)
    )

    message = Signal(object)
    contrast_wanted = Signal(object)
    """Carries the two next tokens whose difference is to be traced."""

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._asked = False
        self.text = QPlainTextEdit()
        self.text.setTabChangesFocus(True)
        named(self.text, "prompt.text", "Prompt", "The text that the model reads")
        self.text.setPlaceholderText(f"Type a prompt, such as “{EXAMPLE}”")
        self.text.setMinimumHeight(56)
        self.text.setMaximumHeight(76)
        features = CommandButton(self.commands, "features.extract", text="Features", look="primary")
        graph = CommandButton(self.commands, "graph.build", text="Graph", look="primary")
        self._problem = label("", "caption", wrap=True, name="prompt.problem")
        self.chips = TokenChips(self.theme)
        self.bars = ProbabilityBars(self.theme)
        self._tokens_title = label("Tokens", "section")
        self._next_title = label("Next token", "section")
        self.contrast = ContrastRow(self.commands)
        self._contrast_title = label("Why one and not another", "section")
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(12, 10, 12, 12)
        layout.setSpacing(8)
        layout.addWidget(self.text)
        layout.addLayout(row(features, graph))
        layout.addWidget(self._problem)
        layout.addWidget(line())
        layout.addWidget(self._tokens_title)
        layout.addWidget(self.chips)
        layout.addWidget(self._next_title)
        layout.addWidget(self.bars)
        layout.addWidget(self._contrast_title)
        layout.addWidget(self.contrast)
        layout.addStretch(1)
        area = FormArea(body, 296)
        named(area, "prompt.area", "Prompt, its tokens and the next token")
        self.set_content(area)
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_TYPING_MS)
        self._typing.timeout.connect(self._ask)
        self.text.textChanged.connect(self._on_text)
        self._say_state()

    # -- what a person does -------------------------------------------------------------------

    @Slot()
    def run(self) -> None:
        """Show tokens and next tokens now; a problem is said in the message bar too."""
        self._typing.stop()
        self._asked = True
        self._ask()

    @Slot()
    def trace_contrast(self) -> None:
        """Ask for the difference of the two tokens that are chosen; without two, go and choose."""
        first, second = self.contrast.tokens
        if first and second and first != second:
            self.contrast_wanted.emit((first, second))
            return
        self.go_there()
        self.contrast.second.setFocus()
        self.message.emit(
            Message("info", "Choose two different tokens", "", "Then trace their difference")
        )

    @Slot()
    def focus_text(self) -> None:
        """Go to the text."""
        self.go_there()
        self.text.setFocus()

    def set_text(self, prompt: str) -> None:
        """Replace the text."""
        self.text.setPlainText(prompt)

    # -- asking -------------------------------------------------------------------------------

    @Slot()
    def _on_text(self) -> None:
        self.session.set_prompt(self.text.toPlainText(), self)
        self._typing.start()
        self._say_state()

    @Slot()
    def _ask(self) -> None:
        model, prompt = self.session.model, self.session.prompt
        if model is None or not prompt.strip():
            self.runner.cancel_key(_KEY)
            self.session.set_prompt_view(None)
            self._say_state()
            return
        job = self.runner.submit(
            work.view_prompt, model, prompt, TOP_K, title="Read the prompt", key=_KEY, quiet=True
        )
        job.finished.connect(self._on_view)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_view(self, view: object) -> None:
        self._asked = False
        self.session.set_prompt_view(view)  # type: ignore[arg-type]

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.session.set_prompt_view(None)
        parts = (failure.what, failure.why, failure.todo)
        self._say(". ".join(part for part in parts if part), "error")
        if self._asked:
            self._asked = False
            self.message.emit(Message.of(failure))

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show the prompt, its tokens and the candidates."""
        if SessionPart.PROMPT in parts and self.text.toPlainText() != self.session.prompt:
            self.text.blockSignals(True)
            self.text.setPlainText(self.session.prompt)
            self.text.blockSignals(False)
            self._typing.start()
        if SessionPart.MODEL in parts and self.session.model is not None:
            self._typing.start()
        view = self.session.prompt_view
        if view is None:
            self.chips.set_tokens((), ())
            self.bars.set_candidates(())
            self.contrast.offer(())
        else:
            self.chips.set_tokens(view.tokens, view.token_ids)
            self.bars.set_candidates(
                tuple((c.token, c.token_id, c.probability) for c in view.candidates)
            )
            self.contrast.offer([(c.token, c.probability) for c in view.candidates])
        self._say_state()

    def _say_state(self) -> None:
        view = self.session.prompt_view
        shown = view is not None
        for widget in (self._tokens_title, self.chips, self._next_title, self.bars):
            widget.setVisible(shown)
        can_trace = shown and self.session.crm is not None
        self._contrast_title.setVisible(can_trace)
        self.contrast.setVisible(can_trace)
        if view is not None:
            n = len(view.tokens)
            self._tokens_title.setText(f"Tokens ({n})")
            self._say("", "caption")
        elif self.session.model is None:
            self._say("Load a model to see the tokens and what it would say next.", "caption")
        elif not self.session.prompt.strip():
            self._say("The prompt is empty. Type something for the model to read.", "caption")

    def _say(self, text: str, role: str) -> None:
        self._problem.setText(text)
        set_role(self._problem, role)  # type: ignore[arg-type]
        self._problem.setVisible(bool(text))
