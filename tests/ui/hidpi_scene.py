"""A window in a process of its own, drawn for a screen of the pixel ratio that it is started with.

Run as a program with a folder for its state. Opens the demo, goes through every dock with clicks
on what is drawn, and says as JSON how large the pictures are, and which node, head and cell the
pointer met. With a second folder it saves what every dock looked like there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget

from attention_studio.ui.app import Studio, build_studio
from attention_studio.ui.widgets.attention_dock import AttentionDock
from attention_studio.ui.widgets.errors_dock import ErrorsDock
from attention_studio.utils.config import Settings

LEFT = Qt.MouseButton.LeftButton
PATIENCE_S = 120.0


def point_at(widget: QWidget, at: QPoint) -> None:
    """Move the pointer over a widget."""
    place = QPointF(at)
    event = QMouseEvent(
        QEvent.Type.MouseMove, place, widget.mapToGlobal(place), Qt.MouseButton.NoButton,
        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QApplication.sendEvent(widget, event)


class Scene:
    """A studio, and what is told of it."""

    def __init__(self, app: QApplication, studio: Studio) -> None:
        self.app, self.studio = app, studio
        self.told: dict[str, Any] = {}

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            self.app.processEvents()
            time.sleep(0.005)

    def settle(self) -> None:
        """Wait until nothing runs and all is painted."""
        for _ in range(3):
            self.until(lambda: not self.studio.runner.busy)
            for _ in range(5):
                self.app.processEvents()

    def open(self) -> None:
        """The demo with its graph, its heads and its lens."""
        self.studio.commands.run("demo.open")
        self.until(lambda: self.studio.session.graph is not None)
        self.until(lambda: self.studio.window.graph_dock.scene is not None)
        self.settle()
        for command_id in ("attention.look", "lens.read", "features.extract"):
            self.studio.commands.run(command_id)
            self.settle()

    def docks(self, keep: str) -> None:
        """Every dock is drawn: how large it is, and how many pixels its picture has."""
        sizes = {}
        for name, dock in self.studio.window.docks.items():
            self.studio.commands.run(f"go.{name}")
            self.settle()
            picture = dock.grab()
            sizes[name] = [
                [dock.width(), dock.height()], [picture.width(), picture.height()],
                picture.devicePixelRatio(),
            ]  # fmt: skip
            if keep:
                self.studio.window.grab().save(str(Path(keep) / f"{name}.png"))
        self.told["docks"] = sizes

    def graph(self) -> None:
        """The prepared pictures of the graph, and which nodes the pointer meets."""
        self.studio.commands.run("go.graph")
        # The overview comes only where there is room for it.
        self.studio.window.resize(1500, 1300)
        self.settle()
        dock, view = self.studio.window.graph_dock, self.studio.window.graph_dock.view
        met = []
        for zoomed in (False, True):
            if zoomed:
                for _ in range(5):
                    view.zoom_in()
                self.settle()
            assert dock.scene is not None
            for name in dock.scene.names[::7]:
                view.show_node(name)
                self.settle()
                at = view.node_point(name)
                assert at is not None
                point_at(view.viewport(), at)
                hovered = view.cursor_node
                QTest.mouseClick(view.viewport(), LEFT, pos=at)
                met.append([name, hovered, self.studio.session.selection])
        view.grab()
        picture, small = view._picture, view._minimap._picture
        assert picture is not None and small is not None
        port = view.viewport()
        self.told["met"] = met
        self.told["graph"] = [
            [port.width(), port.height()], [picture.width(), picture.height()],
            picture.devicePixelRatio(),
        ]  # fmt: skip
        self.told["minimap"] = [small.deviceIndependentSize().toTuple(), small.devicePixelRatio()]

    def heads_and_cells(self) -> None:
        """A thumbnail and a cell of a map are where the pointer finds them."""
        self.studio.commands.run("go.attention")
        self.settle()
        dock = self.studio.window.docks["attention"]
        assert isinstance(dock, AttentionDock)
        overview = dock.overview
        view = self.studio.session.attention
        assert view is not None and overview._picture is not None
        head = view.heads[5]
        QTest.mouseClick(overview.viewport(), LEFT, pos=overview.point_of(head))
        self.settle()
        self.told["head"] = [str(head), str(overview.head)]
        port = overview.viewport()
        self.told["heads"] = [
            [port.width(), port.height()],
            [overview._picture.width(), overview._picture.height()],
            overview._picture.devicePixelRatio(),
        ]
        self.studio.commands.run("go.errors")
        self.settle()
        errors = self.studio.window.docks["errors"]
        assert isinstance(errors, ErrorsDock)
        QTest.mouseClick(errors.map.viewport(), LEFT, pos=errors.map.cell_point(2, 4).toPoint())
        cell = errors.map.cursor_cell
        self.told["cell"] = None if cell is None else [int(part) for part in cell]

    def icons(self) -> None:
        """Every icon of a button has the pixels of the screen."""
        ratio = self.app.devicePixelRatio()
        blurred, n_icons = [], 0
        for button in self.studio.window.findChildren(QAbstractButton):
            if button.icon().isNull() or not button.isVisible():
                continue
            n_icons += 1
            wanted = button.iconSize().width() * ratio
            drawn = button.icon().pixmap(button.iconSize(), ratio)
            if drawn.width() < wanted:
                blurred.append([button.objectName(), drawn.width(), wanted])
        self.told["icons"], self.told["blurred"] = n_icons, blurred


def run(folder: str, keep: str = "") -> int:
    """Open, look and tell."""
    app = QApplication([])
    root = Path(folder)
    settings = Settings(cache_dir=root / "cache", state_dir=root / "state", offline=True, threads=1)
    studio = build_studio(settings)
    studio.window.resize(1400, 900)
    studio.window.show()
    scene = Scene(app, studio)
    scene.told["ratio"] = studio.window.devicePixelRatioF()
    scene.open()
    scene.docks(keep)
    scene.graph()
    scene.heads_and_cells()
    scene.icons()
    sys.stdout.write(json.dumps(scene.told) + "\n")
    studio.window.close()
    studio.runner.shutdown(20.0, force=False)
    return 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
