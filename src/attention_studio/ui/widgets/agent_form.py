"""Who explains features, from which text, and what that may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from attention_studio.ui.agent_words import bound, cannot_ask, described, lacking, priced
from attention_studio.ui.widgets.controls import label, set_role
from attention_studio.ui.widgets.form_fields import FormArea, combo, grid, share_spin, spin
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.text_sources import TextSources
from attention_studio.ui.work_talking import AgentRequest

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_talking import Who
    from attention_studio.utils.config import Settings

USUAL_TOKENS = 20_000
_CHOICES: tuple[tuple[str, Optional[str]], ...] = (
    ("No model (deterministic)", "none"),
    ("Model in this process", "local"),
    ("Endpoint of the settings", "endpoint"),
)


class AgentForm(FormArea):
    """The settings of runs. ``changed``: somebody changed one."""

    changed = Signal()

    def __init__(self, theme: Theme, settings: Settings) -> None:
        form = QWidget()
        form.setObjectName("formBody")
        super().__init__(form, 240)
        self._settings = settings
        self.who_field = combo(
            "agents.who", "Who explains",
            "Count without a language model, ask the one in this process, or the endpoint",
            _CHOICES,
        )  # fmt: skip
        self.about = label("", "muted", wrap=True, name="agents.who.about")
        self.tokens = spin(
            "agents.tokens", "Tokens, at most", settings.agent_max_tokens, 1_000, 1_000_000_000,
            10_000, "How many tokens a run may use, read and written together",
        )  # fmt: skip
        self.calls = spin(
            "agents.calls", "Questions, at most", settings.agent_max_calls, 1, 1_000_000, 10,
            "How often a run may ask the model",
        )  # fmt: skip
        self.seconds = spin(
            "agents.seconds", "Seconds, at most", round(settings.agent_max_seconds), 1, 1_000_000,
            60, "How long a run may take",
        )  # fmt: skip
        self.cost = share_spin(
            "agents.cost", "Money, at most", settings.agent_max_cost or 0.0, 1e6, 0.1, 4,
            "What a run may cost, in the currency of the prices in the settings; 0: no bound",
        )  # fmt: skip
        self.cost.setSpecialValueText("no bound")
        self.text_tokens = spin(
            "agents.text.tokens", "Tokens of text", USUAL_TOKENS, 1_000, 10_000_000, 10_000,
            "How much text is read; rare features need much. One half explains, the other scores",
        )  # fmt: skip
        self.texts = TextSources(theme, "agents.texts", "Texts to explain features from")
        fields = QVBoxLayout(form)
        fields.setContentsMargins(12, 10, 12, 8)
        fields.setSpacing(4)
        fields.addWidget(label("Who explains", "section"))
        fields.addWidget(self.who_field)
        fields.addWidget(self.about)
        fields.addSpacing(8)
        self._budget = QWidget()
        inside = QVBoxLayout(self._budget)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        inside.addWidget(label("Budget of a run", "section"))
        inside.addLayout(
            grid(("Tokens", self.tokens), ("Questions", self.calls), ("Seconds", self.seconds),
                 ("Money", self.cost))
        )  # fmt: skip
        fields.addWidget(self._budget)
        fields.addSpacing(8)
        fields.addWidget(label("Text", "section"))
        fields.addWidget(self.texts)
        hint = (
            "Without a text of yours, the demo's own is read, or what the model writes itself. "
            "Explanations are made from one half of it and scored on the other."
        )
        fields.addWidget(label(hint, "caption", wrap=True))
        fields.addLayout(grid(("Tokens of text", self.text_tokens)))
        fields.addStretch(1)
        self.setObjectName("agents.form")
        self.setAccessibleName("Settings of agents")
        self.who_field.currentIndexChanged.connect(self._on_changed)
        self.texts.changed.connect(self._on_changed)
        for field in (self.tokens, self.calls, self.seconds, self.text_tokens):
            field.valueChanged.connect(self._on_changed)
        self.cost.valueChanged.connect(self._on_changed)
        self._on_changed()

    @property
    def who(self) -> Who:
        """Who is asked."""
        found: Who = self.who_field.currentData()
        return found

    @property
    def lacking(self) -> str:
        """Why they cannot be asked, or ""."""
        return lacking(self._settings, self.who)

    def refusal(self, question: bool, training: bool) -> Optional[Message]:
        """Why it cannot be asked (for ``question``: a question), and what to do; None: it can."""
        missing = cannot_ask(self._settings, self.who) if question else self.lacking
        if missing:
            what, _, todo = missing.partition(". ")
            return Message("warning", what, "", todo or "Choose another one")
        if question and training and self.who == "local":
            return Message(
                "info", "Training uses the machine",
                "the model in this process would compute beside it",
                "Stop the run first, or choose an endpoint",
            )  # fmt: skip
        return None

    def request(self) -> AgentRequest:
        """What the form asks for."""
        money = self.cost.value()
        return AgentRequest(
            self.who, self.tokens.value(), self.calls.value(), float(self.seconds.value()),
            money if money > 0 and self.who == "endpoint" and priced(self._settings) else None,
            self.texts.sources(), self.text_tokens.value(), self._settings,
        )  # fmt: skip

    @property
    def bound(self) -> str:
        """What a run takes at most."""
        return bound(self.request())

    @Slot()
    def _on_changed(self) -> None:
        missing = self.lacking
        self.about.setText(missing or described(self._settings, self.who))
        set_role(self.about, "warning" if missing else "muted")
        self._budget.setVisible(self.who != "none")
        can_pay = self.who == "endpoint" and priced(self._settings)
        self.cost.setEnabled(can_pay)
        self.changed.emit()
