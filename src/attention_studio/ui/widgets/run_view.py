"""A training run as it goes on: what it is doing, its curves, and its modules."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QProgressBar, QTabWidget, QVBoxLayout, QWidget

from attention_studio.core.training_events import Evaluated, StepDone
from attention_studio.ui import text
from attention_studio.ui.jobs import Job, JobProgress
from attention_studio.ui.widgets.controls import (
    ElidedLabel,
    Role,
    label,
    named,
    push_button,
    row,
    set_role,
    show_fraction,
)
from attention_studio.ui.widgets.form_fields import ElidedCombo
from attention_studio.ui.widgets.module_table import ModulesPanel
from attention_studio.ui.widgets.trace_table import TracePanel
from attention_studio.ui.widgets.train_history import (
    OTHER_MARKS,
    Choice,
    OtherRun,
    RunHistory,
    alarm_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.sites import Site
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.widgets.train_curves import TrainCurves


class RunView(QWidget):
    """Shows one run at a time. Whoever owns it connects ``pause``, ``checkpoint`` and ``stop``."""

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._theme = theme
        self.history: Optional[RunHistory] = None
        self.curves: Optional[TrainCurves] = None
        self._job: Optional[Job] = None
        self._choices: tuple[Choice, ...] = ()
        self._title = ElidedLabel("", "title")
        self._status = ElidedLabel("", "caption")
        self._figures = label("", "caption", name="train.figures")
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        named(self._progress, "train.progress", "Progress of the run", "Steps done")
        self.pause = push_button("Pause", "train.pause", "Pause the run, or let it go on")
        self.checkpoint = push_button(
            "Checkpoint", "train.checkpoint", "Write a checkpoint after this step"
        )
        self.stop = push_button(
            "Stop", "train.stop", "Stop after a checkpoint; the run can be resumed", look="danger"
        )
        self.choice = ElidedCombo()
        named(
            self.choice,
            "train.module",
            "Modules shown",
            "Show the mean of some modules, or one module",
        )
        self._legend = ElidedLabel("", "caption")
        self._alarm = label("", "error", name="train.alarm", wrap=True)
        self._alarm.hide()
        self._others: list[OtherRun] = []
        self.traces = TracePanel()
        self.modules = ModulesPanel("train", theme)
        self._curves_page = QWidget()
        self._curves_page.setObjectName("formBody")
        self._curves_layout = QVBoxLayout(self._curves_page)
        self._curves_layout.setContentsMargins(0, 0, 0, 0)
        self.tabs = QTabWidget()
        named(self.tabs, "train.views", "Curves, modules or prompt", "Views of the run")
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self._curves_page, "Curves")
        self.tabs.addTab(self.modules, "Modules")
        self.tabs.addTab(self.traces, "Prompt")
        head = QVBoxLayout()
        head.setContentsMargins(12, 10, 12, 4)
        head.setSpacing(6)
        head.addLayout(row(self._title, self.pause, self.checkpoint, self.stop, stretch=0))
        head.addWidget(self._progress)
        head.addLayout(row(self._status, self._figures, stretch=0))
        head.addWidget(self._alarm)
        head.addLayout(row(self.choice, self._legend, stretch=1))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(self.tabs, 1)
        self.choice.currentIndexChanged.connect(self._show_choice)
        self.modules.chosen.connect(self._on_module)

    # -- a run --------------------------------------------------------------------------------

    def begin(self, history: RunHistory, title: str) -> None:
        """Show a run from now on."""
        self.history = history
        self._title.set_whole(title)
        self._figures.setText("")
        self._choices = history.choices()
        self.choice.blockSignals(True)
        self.choice.clear()
        for choice in self._choices:
            self.choice.addItem(choice.text)
        self.choice.blockSignals(False)
        self.modules.show_rows(history.newest)
        self._show_alarm()
        self._show_choice()

    def beside(self, others: Sequence[OtherRun]) -> None:
        """Draw these runs' curves beside."""
        self._others = list(others)
        self._show_choice()

    def follow(self, job: Job) -> None:
        """Show the progress of the job that stands for the run."""
        self._job = job
        job.progress.connect(self._on_progress)

    def take(self, event: Any) -> None:
        """Take over what the trainer reports: the numbers of a batch or of an evaluation."""
        if self.history is None:
            return
        if isinstance(event, StepDone):
            self.history.add_step(event)
            self._show_figures(event)
        elif isinstance(event, Evaluated):
            self.history.add_evaluation(event)
            self.modules.show_rows(self.history.newest)
            self._show_alarm()
        else:
            return
        if self.curves is not None:
            self.curves.mark()

    def finish(self) -> None:
        """Say that the run is done."""
        self.say("Done")
        show_fraction(self._progress, 1.0)

    def show_state(self, training: Optional[str]) -> None:
        """Fit the buttons to the state of the run (as in ``Session.training``)."""
        for button in (self.pause, self.checkpoint, self.stop):
            button.setEnabled(training in ("running", "paused"))
            button.setVisible(training in ("running", "paused", "stopping"))
        self.pause.setText("Continue" if training == "paused" else "Pause")
        self.pause.setAccessibleName(self.pause.text())
        if training == "paused":
            self.say("Paused")

    def say(self, shown: str, role: Role = "caption") -> None:
        """Say what the run is doing."""
        self._status.set_whole(shown)
        set_role(self._status, role)

    @property
    def title(self) -> str:
        """What is shown, for people."""
        return self._title.whole()

    def make_plots(self) -> None:
        """Add the plots, once pyqtgraph is there."""
        from attention_studio.ui.widgets.train_curves import TrainCurves

        self.curves = TrainCurves(self._theme)
        self._curves_layout.addWidget(self.curves)
        self.modules.make_plots()
        self._show_choice()

    # -- inside -------------------------------------------------------------------------------

    def _show_alarm(self) -> None:
        """Say what is wrong with dictionaries, as the last evaluation found it."""
        rows = () if self.history is None else self.history.newest
        told = alarm_text(rows)
        self._alarm.setText(told)
        self._alarm.setVisible(bool(told))

    def _show_figures(self, done: StepDone) -> None:
        metrics = done.metrics
        fvu = sum(m.fvu for m in metrics) / max(1, len(metrics))
        l0 = sum(m.l0 for m in metrics) / max(1, len(metrics))
        self._figures.setText(f"{text.count(done.tokens)} tokens   FVU {fvu:.3f}   L0 {l0:.1f}")

    @Slot(object)
    def _on_progress(self, progress: JobProgress) -> None:
        fraction = progress.fraction
        show_fraction(self._progress, fraction)
        shown = progress.text
        job = self._job
        if job is not None and fraction is not None and 0.01 < fraction < 1 and job.seconds > 5:
            shown += f" · about {text.duration(job.seconds * (1 - fraction) / fraction)} left"
        self.say(shown)

    @Slot()
    def _show_choice(self) -> None:
        place = self.choice.currentIndex()
        if self.history is None or not 0 <= place < len(self._choices):
            return
        choice = self._choices[place]
        many = ", dotted: range over modules" if len(choice.places) > 1 else ""
        beside = "".join(
            f" · {mark} {other.name}" for other, (_, mark) in zip(self._others, cycle(OTHER_MARKS))
        )
        self._legend.set_whole(f"Line: training batches, points: held-out text{many}{beside}")
        if self.curves is not None:
            self.curves.show_run(self.history, choice, self._others)
        sites = tuple(self.history.sites[n] for n in choice.places)
        self.modules.choose(sites, choice.text.removeprefix("Mean of "))

    @Slot(object)
    def _on_module(self, site: Site) -> None:
        if self.history is None:
            return
        wanted = (self.history.sites.index(site),)
        places = [n for n, choice in enumerate(self._choices) if choice.places == wanted]
        self.choice.setCurrentIndex(places[0])
