"""A figure of every view of what is open, whether or not somebody has looked at the view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.ui.figures.figure import Figure, FigureOffer
    from attention_studio.ui.jobs import Job, JobRunner


@dataclass(frozen=True)
class TakenFigures:
    """What the views gave.

    Attributes:
        figures: each with the offer that it was made by.
        empty: titles of the docks that have nothing to show now.
        closed: titles of the docks that have no place in the window now, and no figure but a
            picture of the screen.
    """

    figures: tuple[tuple[FigureOffer, Figure], ...]
    empty: tuple[str, ...]
    closed: tuple[str, ...]

    @property
    def left_out(self) -> str:
        """Which views have no figure, and why, in words; "" where all have one."""
        told = []
        if self.empty:
            told.append(f"{', '.join(self.empty)}: nothing to show now")
        if self.closed:
            told.append(f"{', '.join(self.closed)}: not open, and without a figure of their own")
        return f"Left out: {'; '.join(told)}" if told else ""


class AllFigures(QObject):
    """Has docks draw what is open, one at a time and with what their lanes have to work out, and
    takes down a figure of each.

    ``taken`` carries the ``TakenFigures``.
    """

    taken = Signal(object)

    def __init__(self, runner: JobRunner, parent: QObject) -> None:
        super().__init__(parent)
        self._docks: Sequence[StudioDock] = ()
        self._behind: list[StudioDock] = []
        self._step = QTimer(self)
        self._step.setSingleShot(True)
        self._step.setInterval(0)
        self._step.timeout.connect(self._go_on)
        runner.job_changed.connect(self._on_job_changed)

    def start(self, docks: Sequence[StudioDock]) -> None:
        """Take a figure of each of these docks; what was started before is let go."""
        self._docks = tuple(docks)
        self._behind = [dock for dock in docks if dock.made or draws_figures(dock)]
        self._step.start()

    @Slot(object)
    def _on_job_changed(self, _job: Job) -> None:
        # Whoever waits for the job hears of it after this.
        if self._docks and not self._behind:
            self._step.start()

    @Slot()
    def _go_on(self) -> None:
        if self._behind:
            # One at a time: some make their body first, and the window is to stay alive.
            self._behind.pop(0).catch_up()
            self._step.start()
        elif self._docks and not any(dock.preparing for dock in self._docks):
            docks, self._docks = self._docks, ()
            self.taken.emit(take_figures(docks))


def draws_figures(dock: StudioDock) -> bool:
    """Whether a dock has figures of its own, rather than a picture of the screen."""
    return type(dock).figures is not StudioDock.figures


def take_figures(docks: Sequence[StudioDock]) -> TakenFigures:
    """Take down what docks show that are up to date."""
    found: list[tuple[FigureOffer, Figure]] = []
    empty: list[str] = []
    closed: list[str] = []
    for dock in docks:
        offers = dock.figures() if dock.made else ()
        made = [(offer, offer.make()) for offer in offers]
        figures = [(offer, figure) for offer, figure in made if figure is not None]
        found += figures
        if not figures:
            shown = draws_figures(dock) or (dock.made and dock.toggleViewAction().isChecked())
            (empty if shown else closed).append(dock.TITLE)
    found.sort(key=lambda one: one[0].screen)
    return TakenFigures(tuple(found), tuple(empty), tuple(closed))
