"""Makes the subgraph of what is pinned, and finds places for its boxes, on the quick lane.

A search for a layout goes in short pieces with low priority, so that a threshold slider never waits
for it; every better layout is handed out as it is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.graph_layout import (
    ConstraintSatisfactionLayoutOptimizer,
    GraphLayout,
    config_for,
)
from attention_studio.ui import work_subgraph
from attention_studio.ui.jobs import BACKGROUND, INTERACTIVE, JobFailure
from attention_studio.ui.widgets.subgraph_painter import box_size
from attention_studio.ui.widgets.subgraph_scene import (
    LEAST_SHARE,
    MAX_LINKS,
    SubgraphScene,
    arranged_by,
    words_of,
)

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.subgraph import Subgraph
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.job_strip import JobStrip
    from attention_studio.ui.widgets.subgraph_view import SubgraphView

# Steps of one piece of a search: the first layout and what sweeps make of it, then rounds.
FIRST_STEPS, MORE_STEPS = 2, 2
_MAKE_KEY, _ARRANGE_KEY = "subgraph.make", "subgraph.arrange"


class SubgraphArranger(QObject):
    """Follows the session's graph and notes.

    ``scene_ready`` carries a ``SubgraphScene`` for another subgraph, or for other links, places or
    fonts, or None while nothing is pinned or what is pinned makes no subgraph; ``places_ready`` a
    better ``GraphLayout`` of the last one; ``failed`` a ``JobFailure``.
    """

    scene_ready = Signal(object)
    places_ready = Signal(object)
    failed = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        view: SubgraphView,
        strip: JobStrip,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._session = session
        self._runner = runner
        self._view = view
        self._strip = strip
        self._least = LEAST_SHARE
        self._asked: Optional[tuple[AttributionGraph, object]] = None
        self._subgraph: Optional[Subgraph] = None
        self._next: Optional[SubgraphScene] = None
        """The scene that is handed out as soon as its first layout is there."""
        self._search: Optional[Iterator[GraphLayout]] = None

    @property
    def searching(self) -> bool:
        """Whether a better layout is being looked for."""
        return self._search is not None

    @property
    def preparing(self) -> bool:
        """Whether the subgraph is being made, or its first layout."""
        arranged = self._next is not None and self._runner.running(_ARRANGE_KEY) is not None
        return arranged or self._runner.running(_MAKE_KEY) is not None

    def set_least(self, share: float) -> None:
        """Say from which share of a target's input on links are drawn."""
        if share != self._least:
            self._least = share
            self.arrange()

    def follow(self) -> None:
        """Have the subgraph made anew if what it is made of has changed, else arranged if boxes
        were moved."""
        graph, notes = self._session.graph, self._session.named_notes
        if graph is None or not any(graph.has(name) for name in notes.pinned):
            for key in (_MAKE_KEY, _ARRANGE_KEY):
                self._runner.cancel_key(key)
            self._asked = self._subgraph = self._next = self._search = None
            self.scene_ready.emit(None)
            return
        made_of = (notes.pinned, notes.supernodes, tuple(map(notes.label_of, notes.pinned)))
        if self._asked is not None and self._asked[0] is graph and self._asked[1] == made_of:
            if self._subgraph is not None:
                self.arrange()
            return
        self._asked = (graph, made_of)
        self._subgraph = None
        job = self._runner.submit(
            work_subgraph.make_subgraph, graph, notes,
            title="Make the subgraph", lane="quick", key=_MAKE_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_made)
        job.failed.connect(self._on_not_made)
        self._strip.follow(job)

    @Slot(object)
    def _on_made(self, subgraph: Subgraph) -> None:
        if self._asked is not None and subgraph.graph is self._asked[0]:
            self._subgraph = subgraph
            self.arrange()

    @Slot(object)
    def _on_not_made(self, failure: JobFailure) -> None:
        # What is shown is of other pins.
        self._runner.cancel_key(_ARRANGE_KEY)
        self._next = self._search = None
        self.scene_ready.emit(None)
        self.failed.emit(failure)

    @Slot()
    def arrange(self) -> None:
        """Have the boxes arranged, for other links, places or fonts."""
        subgraph = self._subgraph
        if subgraph is None:
            return
        links = subgraph.links(self._least)[-MAX_LINKS:]
        words = words_of(subgraph)
        sizes = [box_size(each, self._view.look) for each in words]
        elements, connections = arranged_by(subgraph, self._session.notes, links, sizes)
        self._next = SubgraphScene(
            subgraph=subgraph, words=words, links=links, width=elements.width,
            height=elements.height, x=elements.place_x, y=elements.place_y,
            placed=elements.placed,
        )  # fmt: skip
        optimizer = ConstraintSatisfactionLayoutOptimizer(
            elements, connections, config_for(len(elements), len(links))
        )
        self._search = optimizer.optimize_incremental()
        self._go_on(FIRST_STEPS, INTERACTIVE)

    def _go_on(self, steps: int, priority: int) -> None:
        job = self._runner.submit(
            work_subgraph.arrange, self._search, steps, title="Arrange the subgraph",
            lane="quick", key=_ARRANGE_KEY, priority=priority, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_arranged)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_arranged(self, found: tuple[Optional[GraphLayout], bool]) -> None:
        if self._search is None:
            return  # of a subgraph that went while this was on its way
        layout, over = found
        if layout is not None and self._next is not None:
            scene, self._next = self._next, None
            self.scene_ready.emit(scene.at(layout.x, layout.y))
        elif layout is not None:
            self.places_ready.emit(layout)
        if over:
            self._search = None
        elif self._search is not None and self._runner.accepting:
            self._go_on(MORE_STEPS, BACKGROUND)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.failed.emit(failure)
