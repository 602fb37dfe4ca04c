"""How long a pass over a prompt takes, found out when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.ui import work_interventions as work

if TYPE_CHECKING:
    from attention_studio.core.intervention_running import PassCost
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.ui.jobs import JobRunner

_KEY = "intervene.cost"


class PassTimer(QObject):
    """Measures a pass on a lane and remembers it; says ``known`` when it is there."""

    known = Signal()

    def __init__(self, runner: JobRunner, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._runner = runner
        self._cost: Optional[PassCost] = None
        self._of: Optional[tuple[CompleteReplacementModel, str]] = None

    def ask(self, crm: Optional[CompleteReplacementModel], prompt: str) -> None:
        """Measure it, unless that was done or is under way."""
        if crm is None or not prompt.strip() or self._is_of(crm, prompt):
            return
        self._cost, self._of = None, (crm, prompt)
        job = self._runner.submit(
            work.time_pass, crm, prompt, title="Time a pass", key=_KEY, quiet=True
        )
        job.finished.connect(self._on_cost)

    def cost(self, crm: Optional[CompleteReplacementModel], prompt: str) -> Optional[PassCost]:
        """What a pass over that prompt takes, where it is known by now."""
        return self._cost if crm is not None and self._is_of(crm, prompt) else None

    def give_up(self) -> bool:
        """Nobody looks any more. Returns whether it is still unknown."""
        if self._cost is not None:
            return False
        self._runner.cancel_key(_KEY)
        self._of = None
        return True

    def _is_of(self, crm: CompleteReplacementModel, prompt: str) -> bool:
        return self._of is not None and self._of[0] is crm and self._of[1] == prompt

    @Slot(object)
    def _on_cost(self, cost: PassCost) -> None:
        self._cost = cost
        self.known.emit()
