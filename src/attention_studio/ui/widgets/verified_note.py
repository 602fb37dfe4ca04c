"""Whether the edges of a graph were tested in the model, and what came of it, in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QLabel, QWidget

from attention_studio.ui import work_interventions
from attention_studio.ui.highlight import Role
from attention_studio.ui.intervention_marks import latest_report
from attention_studio.ui.text import count
from attention_studio.ui.widgets.controls import named
from attention_studio.ui.widgets.role_look import ROLE_LOOKS

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_interventions import KeptReport

_KEY = "graph.verified"
UNTESTED = "Edges not tested"
_HOW = "Verify edges (Ctrl+Shift+V) takes features out of the model and sees what follows"


class VerifiedNote(QLabel):
    """Says how many edges of the graph were confirmed and refuted, by the newest record."""

    def __init__(
        self, session: Session, runner: JobRunner, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        named(self, "graph.verified", "Verified edges")
        self.setProperty("role", "caption")
        self.setTextFormat(Qt.TextFormat.PlainText)
        self._session, self._runner = session, runner
        self._record: Optional[dict[str, Any]] = None
        self._say(UNTESTED, _HOW)

    def follow(self, graph: AttributionGraph) -> None:
        """Look what is known of a graph's edges."""
        record = latest_report(self._session.records.get("verification", ()), graph)
        if record is self._record:
            return
        self._record = record
        if record is None:
            self._runner.cancel_key(_KEY)
            self._say(UNTESTED, _HOW)
            return
        job = self._runner.submit(
            work_interventions.read_report, record, title="Read verified edges", lane="quick",
            key=_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_read)

    @Slot(object)
    def _on_read(self, kept: KeptReport) -> None:
        if kept.record is not self._record:
            return
        found = [verdict.value for verdict in kept.report.verdicts()]
        parts = [
            f"{ROLE_LOOKS[role].sign} {count(found.count(ROLE_LOOKS[role].words))}"
            for role in (Role.CONFIRMED, Role.REFUTED)
        ]
        self._say(
            f"Edges {'  '.join(parts)}",
            f"Of {count(len(found))} edges that were tested in the model, "
            f"{count(found.count('confirmed'))} came as the graph predicts, "
            f"{count(found.count('refuted'))} did not, and of {count(found.count('unclear'))} too "
            "little is predicted to tell. The Intervene dock has each of them.",
        )

    def _say(self, text: str, meaning: str) -> None:
        self.setText(text)
        self.setToolTip(f"{text}. {meaning}.".replace("..", "."))
        self.setAccessibleDescription(meaning)
