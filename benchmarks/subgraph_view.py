"""What a subgraph costs: making it, arranging it, and the frames of its view.

    PYTHONPATH=. python benchmarks/subgraph_view.py [--boxes 12 50 150 300]

Runs without a display on random graphs, at the size that the view has in a window of 1400 × 900.
Says in milliseconds of CPU time of the thread: making boxes and edges, what the window's thread has
to do for another picture, the first layout, the longest round of the search and the whole search,
and the median and slowest frame while the pointer goes from box to box; then crossings and links
behind boxes before and after the search.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
from PySide6.QtCore import QEvent, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QApplication

from attention_studio.core.graph_layout import ConstraintSatisfactionLayoutOptimizer, config_for
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.subgraph import build_subgraph
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets.subgraph_painter import box_size
from attention_studio.ui.widgets.subgraph_scene import (
    LEAST_SHARE,
    MAX_LINKS,
    SubgraphScene,
    arranged_by,
    words_of,
)
from attention_studio.ui.widgets.subgraph_view import SubgraphView
from tests.ui.synthetic import synthetic_graph

FRAMES = 200


class Clock:
    """Milliseconds of CPU time of this thread since the last question."""

    def __init__(self) -> None:
        self._last = time.thread_time()

    def lap(self) -> float:
        now = time.thread_time()
        took, self._last = 1e3 * (now - self._last), now
        return took


def measure(app: QApplication, theme: Theme, n_boxes: int) -> str:
    """One line of figures for a subgraph of that size."""
    graph = synthetic_graph(n_features=900)
    pruned = graph.prune()
    strongest = pruned.node_ids[np.argsort(-pruned.influence)[:n_boxes]]
    notes = GraphNotes().with_pinned(graph.node_name(int(node)) for node in strongest)
    view = SubgraphView(theme)
    view.resize(1060, 640)
    clock = Clock()
    subgraph = build_subgraph(graph, notes)
    making = clock.lap()
    links = subgraph.links(LEAST_SHARE)[-MAX_LINKS:]
    words = words_of(subgraph)
    sizes = [box_size(each, view.look) for each in words]
    elements, connections = arranged_by(subgraph, notes, links, sizes)
    config = config_for(len(elements), len(links))
    search = ConstraintSatisfactionLayoutOptimizer(elements, connections, config)
    preparing = clock.lap()
    layouts, steps = [], []
    for layout in search.optimize_incremental():
        layouts.append(layout)
        steps.append(clock.lap())
    first, last = layouts[0], layouts[-1]
    scene = SubgraphScene(
        subgraph, words, links, elements.width, elements.height, last.x, last.y, elements.placed
    )
    view.show()
    view.set_scene(scene)
    app.processEvents()
    frames = []
    none = Qt.MouseButton.NoButton
    for number in range(FRAMES):
        at = view.box_point(scene.keys[number % len(scene)])
        assert at is not None
        where = QPointF(view.mapToGlobal(at))
        clock.lap()
        move = QMouseEvent(
            QEvent.Type.MouseMove, at, where, none, none, Qt.KeyboardModifier.NoModifier
        )
        QApplication.sendEvent(view, move)
        app.processEvents()
        frames.append(clock.lap())
    view.close()
    cost = (
        f"making {making:.1f}, window {preparing:.1f}, first layout {steps[0]:.1f}, "
        f"longest round {max(steps[1:], default=0.0):.1f}, search {sum(steps):.0f}, "
        f"frame {np.median(frames):.1f} (slowest {max(frames):.1f}) ms"
    )
    return (
        f"{len(scene):4d} boxes {len(links):4d} links: {cost}; crossings {first.cost.crossings} "
        f"to {last.cost.crossings}, behind boxes {first.cost.covered} to {last.cost.covered}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, nargs="+", default=[12, 50, 150, 300])
    sizes = parser.parse_args().boxes
    app = QApplication([])
    theme = Theme("light")
    theme.apply()
    measure(app, theme, sizes[0])  # fonts and caches
    for n_boxes in sizes:
        print(measure(app, theme, n_boxes))


if __name__ == "__main__":
    main()
