"""All that was asked and answered in a run of an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from attention_studio.ui.agent_words import transcript_words
from attention_studio.ui.widgets.controls import CommandButton, named, row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attention_studio.ui.commands import Commands


class TranscriptPage(QWidget):
    """A transcript to be read, with what saves it and what throws the run away."""

    def __init__(self, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.words = QPlainTextEdit()
        named(self.words, "agents.said", "Transcript of the run that is shown",
              "All that was asked and answered")  # fmt: skip
        self.words.setReadOnly(True)
        self.words.setTabChangesFocus(True)
        self.words.setProperty("look", "log")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self.words, 1)
        save = CommandButton(commands, "agents.save_transcript", text="Save")
        delete = CommandButton(commands, "agents.delete_run", look="quiet", text="Delete run")
        layout.addLayout(row(save, delete))

    def show_record(self, record: Optional[Mapping[str, Any]]) -> None:
        """Show the transcript of a run; None: there is no run."""
        self.words.setPlainText(
            "" if record is None else transcript_words(record.get("transcript"))
        )
