"""What a figure is, and how a view offers one.

A view says what figures there are of it in ``StudioDock.figures``:

    def figures(self) -> tuple[FigureOffer, ...]:
        return (FigureOffer("subgraph", "Subgraph", self._figure),) if self.scene else ()

    def _figure(self) -> Figure:
        return SubgraphFigure("subgraph", "Subgraph", self._caption(), scene=self.scene)

A figure is a frozen record: it holds what it shows (arrays, scenes, texts), no widget, and is
painted on a lane. It measures and paints in its own units, in which ordinary text is ``TEXT_PX``
high: the wider the paper and the smaller its text, the more units there are across.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from PySide6.QtGui import QPainter

    from attention_studio.ui.figures.look import Look


@dataclass(frozen=True)
class Figure(ABC):
    """A picture that can be painted in any width.

    Attributes:
        name: of its file, without an ending.
        title: what it is, in a few words.
        caption: what a reader must know: prompt, model, thresholds, what the colours mean.
    """

    name: str
    title: str
    caption: str

    @abstractmethod
    def height(self, look: Look, width: float) -> float:
        """How high it is where it is ``width`` wide, both in its own units."""

    @abstractmethod
    def paint(self, painter: QPainter, look: Look, width: float, height: float) -> None:
        """Paint it with its top left corner at the origin. The paper is there already."""


@dataclass(frozen=True)
class FigureOffer:
    """A figure that a view could give.

    Attributes:
        name: unlike any other offer's.
        title: what the list of figures calls it.
        make: takes down what is shown now; called on the main thread, so it must be quick. None:
            there is nothing to show after all.
        screen: whether it is a mere picture of the screen; lists have these last.
    """

    name: str
    title: str
    make: Callable[[], Optional[Figure]]
    screen: bool = False
