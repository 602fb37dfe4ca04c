#!/usr/bin/env python3
"""Draws the pictures of docs/images from the real window, light and dark, at 1400 x 900.

    python scripts/make_screenshots.py [CRM_FOLDER] [--prompt TEXT] [--only VIEW …]

Without a folder it is what the window opens when it is started first, the demo: every view of the
tour, and a short training run on the demo's own text. With a trained CRM for smollm2-135m it is
that. Everything that is shown is computed while the script runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Optional

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QEventLoop, Qt, QTimer
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLineEdit

from attention_studio.core.dictionaries.crm_folder import MANIFEST_NAME
from attention_studio.demo.text import DemoText
from attention_studio.ui.app import Studio, build_studio
from attention_studio.ui.collector import MainThreadCollector
from attention_studio.ui.workspace_view import SaveState
from attention_studio.utils.config import load_settings

PATIENCE_MS = 600_000
DEMO_TEXTS, DEMO_TOKENS = 10_000, 102_400
DASHBOARD_TOKENS = 12_000
PRESETS = ("circuits", "features", "train")
OTHER_PROMPT = "The capital of the state containing Oakland is"
THIRD_PROMPT = "The capital of the state containing Houston is"


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
    """Wait until no job runs, nothing is said any more and everything is painted."""
    wait(600)
    studio.window.messages.dismiss()
    wait_until(lambda: not studio.runner.busy, "the jobs to end")
    wait(600)


def shoot(studio: Studio, path: Path) -> None:
    """Write a picture of the window."""
    # Without transparency, and packed as tightly as PNG goes: pictures stay in the history.
    picture = studio.window.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    picture.save(str(path), "PNG", 0)
    print(path)


def likeliest_output(studio: Studio) -> str:
    """The name of the node of the most probable next token."""
    graph = studio.session.graph
    assert graph is not None
    return graph.node_name(int(graph.nodes.probability.argmax()))


def open_demo(studio: Studio) -> None:
    """What the window's first start does."""
    studio.window.open_demo()
    wait_until(lambda: studio.session.graph is not None, "the demo's graph")


def open_smollm2(studio: Studio, crm: Path, prompt: str) -> None:
    """Load the model and its CRM, and trace the prompt."""
    commands, session = studio.commands, studio.session
    commands.run("model.load")
    wait_until(lambda: session.model is not None, "the model")
    studio.window.prompt_dock.set_text(prompt)
    settle(studio)
    studio.window.open_crm_folder(str(crm))
    wait_until(lambda: session.crm is not None, "the replacement model")
    commands.run("graph.build")
    wait_until(lambda: session.graph is not None, "the graph")


def prepare(studio: Studio, preset: str, thresholds: Optional[tuple[float, float]]) -> None:
    """Show one of the layouts with something chosen in it."""
    session = studio.session
    studio.commands.run(f"layout.{preset}")
    settle(studio)
    if preset == "circuits":
        if thresholds is not None:
            session.set_thresholds(*thresholds)
        session.set_selection(likeliest_output(studio))
    elif preset == "features":
        studio.commands.run("features.extract")
        wait_until(lambda: session.features is not None, "the features")
        first = session.features.overall[0]
        session.set_selection(f"{first.site.label}/P{first.position}/F{first.index}")
    settle(studio)


def train_on_demo(studio: Studio, folder: Path) -> None:
    """A short run of all modules on the demo's own text, to its end."""
    texts = islice(DemoText(seed=0).stream(held_out=False), DEMO_TEXTS)
    os.chdir(folder)  # the picture shows the text's path
    Path("demo-text.txt").write_text(" ".join(sample.text for sample in texts))
    form = studio.window.train_dock.form
    form.texts.set_sources(("demo-text.txt",))
    form.attention.setChecked(True)
    form.d_latent.setValue(512)
    form.attention_latents.setValue(256)
    form.attention_k.setValue(24)
    form.k.setValue(24)
    form.batch_tokens.setValue(512)
    form.tokens.setValue(DEMO_TOKENS)
    form.out_dir.setText(str(folder / "crm"))
    settle(studio)
    studio.commands.run("train.start")
    wait_until((folder / "crm" / MANIFEST_NAME).is_file, "the run to end")


def show_graph(studio: Studio) -> None:
    """The graph, with the strongest feature of the output selected."""
    studio.commands.run("layout.circuits")
    graph = studio.session.graph
    assert graph is not None
    output = graph.find(likeliest_output(studio))
    studio.session.set_selection(graph.node_name(int(graph.inputs(output).nodes[0])))


def show_subgraph(studio: Studio) -> None:
    """The strongest paths pinned, those at one place grouped."""
    studio.commands.run("go.subgraph")
    studio.commands.run("subgraph.begin")
    settle(studio)
    session = studio.session
    graph = session.graph
    assert graph is not None
    by_cell: dict[tuple[int, int], list[str]] = {}
    for name in session.pinned:
        node = graph.find(name)
        if graph.nodes.site(node) is not None:
            place = int(graph.nodes.layer[node]), int(graph.nodes.position[node])
            by_cell.setdefault(place, []).append(name)
    members = max(by_cell.values(), key=len)
    session.set_chosen(members)
    settle(studio)
    if len(members) > 1:
        studio.commands.run("subgraph.group")
        settle(studio)
        # The dock asks for its name.
        editor = studio.window.focusWidget()
        if isinstance(editor, QLineEdit):
            QTest.keyClicks(editor, "Cities and their states")
            QTest.keyClick(editor, Qt.Key.Key_Return)
    session.set_chosen(())
    settle(studio)
    studio.commands.run("subgraph.fit")


def show_nodes(studio: Studio) -> None:
    """An answer of the query bar, emphasised in the graph."""
    studio.commands.run("go.graph")
    studio.commands.run("nodes.query")
    dock = studio.window.docks["nodes"]
    dock.set_query("kind=feature influence>2%")  # type: ignore[attr-defined]
    settle(studio)
    studio.commands.run("nodes.highlight")


def show_interventions(studio: Studio) -> None:
    """The model without the supernode, or where there is none without its strongest feature."""
    studio.session.set_highlight(None)
    show_graph(studio)
    if studio.session.notes.supernodes:
        studio.session.set_selection(studio.session.notes.supernodes[0].key)
    studio.commands.run("go.intervene")
    studio.commands.run("intervene.switch_off")


def show_verified(studio: Studio) -> None:
    """What became of edges that were put to the test."""
    studio.commands.run("go.intervene")
    studio.commands.run("intervene.verify")
    settle(studio)
    studio.commands.run("intervene.show_edges")
    settle(studio)
    studio.commands.run("go.graph")
    studio.session.set_selection(None)


def show_validation(studio: Studio) -> None:
    """The whole graph held against the model."""
    studio.session.set_highlight(None)
    studio.commands.run("go.intervene")
    studio.commands.run("intervene.validate")
    settle(studio)


def show_paths(studio: Studio) -> None:
    """The strongest paths from a token to the output."""
    studio.session.set_highlight(None)
    studio.commands.run("go.paths")
    studio.commands.run("paths.find")


def show_comparison(studio: Studio) -> None:
    """The graph beside that of another prompt."""
    studio.session.set_highlight(None)
    studio.commands.run("go.compare")
    dock = studio.window.docks["compare"]
    dock.prompt.setText(OTHER_PROMPT)  # type: ignore[attr-defined]
    studio.commands.run("compare.trace")


def show_dashboards(studio: Studio) -> None:
    """All features, from dashboards over text that the model writes; a telling one of them."""
    studio.session.set_highlight(None)
    studio.commands.run("layout.circuits")
    studio.commands.run("features.build")
    builder = studio.window.features_dock.builder
    builder.texts.set_sources(("samples:400",))
    builder.tokens.setValue(DASHBOARD_TOKENS)
    builder.seq_len.setValue(64)
    builder.folder.setText(str(studio.session.settings.state_dir / "dashboards"))
    settle(studio)
    studio.commands.run("features.build_start")
    wait_until(lambda: studio.session.store is not None, "the dashboards")
    dock = studio.window.features_dock
    dock.pages.setCurrentWidget(dock.list)
    # The feature that the output hears most clearly, if it is listed: as good as any.
    graph, store = studio.session.graph, studio.session.store
    assert graph is not None and store is not None
    output = graph.find(likeliest_output(studio))
    names = (graph.node_name(int(node)) for node in graph.inputs(output).nodes)
    studio.session.set_selection(next(name for name in names if "/F" in name))
    settle(studio)
    bar = dock.detail.verticalScrollBar()
    place = dock.detail.histogram.mapTo(
        dock.detail.widget(), dock.detail.histogram.rect().topLeft()
    )
    bar.setValue(place.y() - 30)


def show_agents(studio: Studio) -> None:
    """How the graph comes to its answer, told without a language model."""
    studio.session.set_highlight(None)
    studio.commands.run("layout.explain")
    studio.commands.run("features.extract")
    wait_until(lambda: studio.session.features is not None, "the features")
    studio.commands.run("agents.describe")
    wait_until(lambda: bool(studio.session.records.get("agent_run")), "the story")
    settle(studio)
    studio.window.features_dock.detail.verticalScrollBar().setValue(0)


def show_attention(studio: Studio) -> None:
    """All heads, the strongest one large."""
    studio.session.set_highlight(None)
    studio.commands.run("layout.features")
    studio.commands.run("go.attention")
    studio.commands.run("attention.look")


def show_lens(studio: Studio) -> None:
    """What the residual stream would say at every layer."""
    studio.commands.run("go.lens")
    studio.commands.run("lens.read")


def show_errors(studio: Studio) -> None:
    """What the dictionaries miss."""
    studio.commands.run("layout.circuits")
    studio.commands.run("go.errors")


def show_workspace(studio: Studio) -> None:
    """The graphs of three prompts, one with pins, one with a name; the first is shown again."""
    studio.session.set_highlight(None)
    studio.commands.run("layout.circuits")
    first = studio.session.graph
    assert first is not None
    keeper = studio.window.keeper
    # A graph with pins stays as it is while another prompt is typed.
    studio.commands.run("subgraph.begin")
    settle(studio)
    for prompt in (OTHER_PROMPT, THIRD_PROMPT):
        studio.window.prompt_dock.set_text(prompt)
        studio.commands.run("graph.build")
        wait_until(lambda: shown_prompt(studio) == prompt, "the graph")  # noqa: B023
        settle(studio)
        wait_until(lambda: prompt in kept_graphs(studio), "the workspace")  # noqa: B023
        if prompt == OTHER_PROMPT:
            # With a name it stays, whatever is typed next.
            key = kept_graphs(studio)[prompt]
            keeper.rename_graph(key, "Oakland, California, Sacramento")
            settle(studio)
    keeper.open_graph(kept_graphs(studio)[first.prompt])
    wait_until(lambda: shown_prompt(studio) == first.prompt, "the first graph")
    studio.commands.run("go.workspace")
    wait_until(lambda: is_saved(studio), "the workspace to be saved")


def kept_graphs(studio: Studio) -> dict[str, str]:
    """The graphs that the workspace lists: their keys by their prompts."""
    view = studio.session.workspace
    return {} if view is None else {entry.prompt: entry.key for entry in view.graphs}


def shown_prompt(studio: Studio) -> str:
    """The prompt of the graph that is shown."""
    graph = studio.session.graph
    return "" if graph is None else graph.prompt


def is_saved(studio: Studio) -> bool:
    """Whether everything is in the workspace."""
    view = studio.session.workspace
    return view is not None and view.state is SaveState.SAVED


def show_dock(name: str) -> Callable[[Studio], None]:
    """One dock in the layout for circuits."""

    def show(studio: Studio) -> None:
        studio.commands.run("layout.circuits")
        studio.commands.run(f"go.{name}")

    return show


TOUR: dict[str, Callable[[Studio], None]] = {
    "graph": show_graph,
    "subgraph": show_subgraph,
    "nodes": show_nodes,
    "intervene": show_interventions,
    "verified": show_verified,
    "validation": show_validation,
    "paths": show_paths,
    "compare": show_comparison,
    "errors": show_errors,
    "dashboards": show_dashboards,
    "agents": show_agents,
    "attention": show_attention,
    "lens": show_lens,
    "figures": show_dock("figures"),
    "history": show_dock("history"),
    "workspace": show_workspace,
}


def shoot_both(studio: Studio, stem: Path) -> None:
    """Write a picture in light and one in dark."""
    for scheme in ("light", "dark"):
        studio.theme.set_choice(scheme)
        settle(studio)
        shoot(studio, stem.with_name(f"{stem.name}-{scheme}.png"))
    studio.theme.set_choice("light")


def main() -> int:
    """Draw every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crm", type=Path, nargs="?")
    parser.add_argument("--prompt", default="The Eiffel Tower is in the city of")
    parser.add_argument(
        "--thresholds", type=float, nargs=2, help="of nodes and edges; else the window's own"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="+", choices=[*TOUR, *PRESETS], help="these views alone")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    stem = "demo" if arguments.crm is None else "window"
    thresholds = tuple(arguments.thresholds) if arguments.thresholds else None

    app = QApplication([])
    app.setStyle("Fusion")
    with tempfile.TemporaryDirectory() as state:
        settings = load_settings().model_copy(update={"state_dir": Path(state)})
        studio = build_studio(settings)
        collector = MainThreadCollector(app)
        collector.start()
        window = studio.window
        window.resize(1400, 900)
        studio.theme.set_choice("light")
        window.show()
        wait(500)
        window.model_dock.start()
        # A workspace of its own: nothing is read from the person's, and nothing is left.
        window.keeper.start(Path(state) / "Two-step facts")
        wait_until(lambda: studio.session.workspace is not None, "the workspace")
        settle(studio)
        if arguments.crm is None:
            open_demo(studio)
        else:
            open_smollm2(studio, arguments.crm.resolve(), arguments.prompt)
        settle(studio)
        for name, show in TOUR.items() if arguments.crm is None else ():
            if arguments.only is None or name in arguments.only:
                show(studio)
                settle(studio)
                shoot_both(studio, out / f"tour-{name}")
        for preset in PRESETS:
            if arguments.only is not None and preset not in arguments.only:
                continue
            if preset == "train" and arguments.crm is None:
                studio.commands.run("layout.train")
                train_on_demo(studio, Path(state))
            prepare(studio, preset, thresholds)
            shoot_both(studio, out / f"{stem}-{preset}")
        window.close()
        wait_until(lambda: not window.isVisible(), "the window to close")
        studio.runner.shutdown(10)
        collector.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
