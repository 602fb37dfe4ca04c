"""What the run that the form asks for would take: memory, disk, time, worked out as one types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Slot

from attention_studio.ui import text, work
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.widgets.controls import Role, label, set_role
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.train_settings import TrainSettings

_CHANGE_MS = 300
_KEY = "train-estimate"


class TrainEstimate(QObject):
    """Has runs estimated a moment after the form has changed, and says it in ``label``."""

    def __init__(
        self, session: Session, runner: JobRunner, form: TrainSettings, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._session, self._runner, self._form = session, runner, form
        self.label = label("", "caption", wrap=True, name="train.estimate")
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(_CHANGE_MS)
        self._typing.timeout.connect(self._estimate)
        form.changed.connect(self._typing.start)

    def renew(self) -> None:
        """Estimate anew in a moment."""
        self._typing.start()

    def stop(self) -> None:
        """Estimate nothing for now."""
        self._typing.stop()
        self._runner.cancel_key(_KEY)

    def say(self, shown: str, role: Role = "caption") -> None:
        """Say something in the place of an estimate."""
        self.label.setText(shown)
        set_role(self.label, role)

    @Slot()
    def _estimate(self) -> None:
        session, model = self._session, self._session.model
        if model is None or session.training is not None or not self._runner.accepting:
            return
        try:
            request = self._form.request()
        except StudioError as error:
            self.say(str(error), "error")
            return
        except ValueError:
            self.say("The learning rate is no number.", "error")
            return
        job = self._runner.submit(
            work.estimate_run,
            session.settings,
            model,
            replace(request, sources=(), heldout_sources=()),
            title="Estimate training",
            key=_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_estimate)
        job.failed.connect(self._on_no_estimate)

    @Slot(object)
    def _on_estimate(self, outlook: work.RunOutlook) -> None:
        shown, fits = estimate_text(outlook)
        self.say(shown, "caption" if fits else "error")

    @Slot(object)
    def _on_no_estimate(self, failure: JobFailure) -> None:
        self.say(". ".join(part for part in (failure.what, failure.why) if part), "error")


def estimate_text(outlook: work.RunOutlook) -> tuple[str, bool]:
    """What a run would cost, in words, and whether this machine has enough for it."""
    e = outlook.estimate
    time = "" if e.seconds is None else f"\nTime: about {text.duration(e.seconds)}"
    notes = "".join(f"\n{note}" for note in outlook.notes)
    short = []
    if outlook.memory > outlook.free_memory:
        short.append("memory")
    if outlook.disk > outlook.free_disk:
        short.append("disk space")
    warning = f"\nThere is not enough {' and '.join(short)} for this." if short else ""
    kept = (
        f", {text.size(outlook.kept_on_disk)} of it while it runs" if outlook.kept_on_disk else ""
    )
    return (
        f"{text.count(e.parameters)} parameters\n"
        f"Memory: {text.size(outlook.memory)} of {text.size(outlook.free_memory)} free\n"
        f"Disk: {text.size(outlook.disk)} of {text.size(outlook.free_disk)} free{kept}"
        f"{time}{notes}{warning}",
        not short,
    )
