#!/usr/bin/env python3
"""Draws the pictures of docs/images from the real window, light and dark, at 1400 x 900.

    python scripts/make_screenshots.py CRM_FOLDER [--prompt TEXT] [--out docs/images]

Needs a trained CRM for smollm2-135m. Everything that is shown is computed while the script runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QEventLoop, QTimer
from PySide6.QtWidgets import QApplication

from attention_studio.ui.app import Studio, build_studio
from attention_studio.ui.collector import MainThreadCollector
from attention_studio.utils.config import load_settings

PATIENCE_MS = 600_000


def wait(milliseconds: int) -> None:
    """Let the window live for a while."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Let the window live until something is there.

    Raises:
        SystemExit: it does not come.
    """
    waited = 0
    while not done():
        wait(50)
        waited += 50
        if waited > PATIENCE_MS:
            raise SystemExit(f"Waited {PATIENCE_MS // 1000} s for {what}")


def settle(studio: Studio) -> None:
    """Wait until no job runs and everything is painted."""
    wait(600)
    wait_until(lambda: not studio.runner.busy, "the jobs to end")
    wait(600)


def shoot(studio: Studio, path: Path) -> None:
    """Write a picture of the window."""
    studio.window.grab().save(str(path))
    print(path)


def likeliest_output(studio: Studio) -> str:
    """The name of the node of the most probable next token."""
    graph = studio.session.graph
    assert graph is not None
    return graph.node_name(int(graph.nodes.probability.argmax()))


def main() -> int:
    """Draw every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crm", type=Path)
    parser.add_argument("--prompt", default="The Eiffel Tower is in the city of")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    app = QApplication([])
    app.setStyle("Fusion")
    with tempfile.TemporaryDirectory() as state:
        settings = load_settings().model_copy(update={"state_dir": Path(state)})
        studio = build_studio(settings)
        collector = MainThreadCollector(app)
        collector.start()
        window, session, commands = studio.window, studio.session, studio.commands
        window.resize(1400, 900)
        studio.theme.set_choice("light")
        window.show()
        wait(500)
        window.model_dock.start()
        settle(studio)
        shoot(studio, arguments.out / "window-start-light.png")
        commands.run("model.load")
        wait_until(lambda: session.model is not None, "the model")
        window.prompt_dock.set_text(arguments.prompt)
        settle(studio)
        window.open_crm_folder(str(arguments.crm))
        wait_until(lambda: session.crm is not None, "the replacement model")
        commands.run("features.extract")
        wait_until(lambda: session.features is not None, "the features")
        commands.run("graph.build")
        wait_until(lambda: session.graph is not None, "the graph")
        settle(studio)
        for preset in ("circuits", "features", "train"):
            commands.run(f"layout.{preset}")
            settle(studio)
            if preset == "circuits":
                session.set_thresholds(0.45, 0.65)
                session.set_selection(likeliest_output(studio))
            elif preset == "features":
                first = session.features.overall[0]
                session.set_selection(f"L{first.layer}/P{first.position}/F{first.index}")
            settle(studio)
            for scheme in ("light", "dark"):
                studio.theme.set_choice(scheme)
                settle(studio)
                shoot(studio, arguments.out / f"window-{preset}-{scheme}.png")
            studio.theme.set_choice("light")
        window.close()
        wait_until(lambda: not window.isVisible(), "the window to close")
        studio.runner.shutdown(10)
        collector.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
