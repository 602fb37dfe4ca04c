#!/usr/bin/env python3
"""Scores the demo's graphs against what is true by construction, and draws the classic ones.

    python scripts/score_demo.py [--crm demo] [--json FILE] [--pictures docs/images]

Prints a table per question: whether the marked tokens carry the influence, whether unsaid steps
show, and whether the answer falls when the features at the marks are taken out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from attention_studio.core.graph_builder import GraphBuilder, NodeKind
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.demo.building import MODEL_FOLDER, PROMPTS_FILE
from attention_studio.demo.circuits import CircuitScorer, TaskScore, as_record, summarise
from attention_studio.demo.text import DemoText
from attention_studio.utils.config import usable_cores
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json, write_json_atomic
from attention_studio.utils.paths import DEMO_ASSETS, crm_folder
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph

PICTURES: dict[str, tuple[str, float, float]] = {
    "two_step": ("demo-two-step.png", 0.6, 0.8),
    "indirect_object": ("demo-indirect-object.png", 0.55, 0.8),
    "sequences": ("demo-induction.png", 0.6, 0.8),
    "greater_than": ("demo-greater-than.png", 0.55, 0.7),
}
"""By task the file, and the shares of influence that nodes and edges in it hold together."""

NAMED = 6
"""So many features of a picture, the most influential, are pinned, so that it has their names."""


class Dash:
    """Stands in a table for what a task does not have, however it is to be written."""

    def __format__(self, spec: str) -> str:
        return "-"


class Table(NamedTuple):
    """What is asked, the tasks that it concerns, names of columns, and their form for a task."""

    question: str
    concerned: Callable[[TaskScore], bool]
    head: str
    row: str


TABLES = (
    Table(
        "Do the marked tokens carry the influence on the answer (less its foils)?",
        lambda task: True,
        "task | prompts | right | marks | if even | AUC | by nearness | p | found"
        " | AUC, logit | AUC, effect",
        "{task} | {prompts} | {probability:.0%} | {share:.0%} | {uniform:.0%} | {auc:.2f}"
        " | {nearness:.2f} | {chance:.3f} | {found:.0%} | {logit_auc:.2f} | {effect_auc:.2f}",
    ),
    Table(
        "Do tokens that must not decide carry less? (share of one token)",
        lambda task: task.per_distractor is not None,
        "task | a mark | a distractor",
        "{task} | {per_mark:.0%} | {per_distractor:.0%}",
    ),
    Table(
        "Do unsaid steps show?",
        lambda task: task.steps > 0,
        "task | prompts | read | by guessing | influence | of features | read by promoted tokens",
        "{task} | {steps} | {read:.0%} | {guess:.0%} | {step_influence:.0%} | {step_nodes:.0%}"
        " | {promoted:.0%}",
    ),
    Table(
        "Does the answer fall (in logits) without the ten features that carry most from the marks?",
        lambda task: task.ablated > 0,
        "task | prompts | without them | without ten others | more than in all draws",
        "{task} | {ablated} | {marked_fall:.2f} | {drawn_fall:.2f} | {beats:.0%}",
    ),
)


def print_tables(tasks: Sequence[TaskScore]) -> None:
    """Print every table as Markdown."""
    for table in TABLES:
        print(f"\n{table.question}\n")
        print(f"| {table.head} |")
        print("|" + "---|" * len(table.head.split(" | ")))
        for task in filter(table.concerned, tasks):
            cells = {name: Dash() if value is None else value for name, value in vars(task).items()}
            print(f"| {table.row.format(**cells)} |")


def names_of_strongest(graph: AttributionGraph, pruned: PrunedGraph) -> list[str]:
    """The names of the most influential features that a pruned graph keeps."""
    features = pruned.node_ids[graph.nodes.kind[pruned.node_ids] == NodeKind.FEATURE]
    strongest = features[np.argsort(-graph.influence[features], kind="stable")]
    return [graph.node_name(int(node)) for node in strongest[:NAMED]]


def draw(graphs: dict[str, AttributionGraph], folder: Path) -> None:
    """Draw graphs by task, as ``PICTURES`` says, with the window's graph dock."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6.QtCore import QEventLoop, QTimer
    from PySide6.QtWidgets import QApplication

    from attention_studio.ui.app import build_studio
    from attention_studio.ui.collector import MainThreadCollector
    from attention_studio.ui.figures.render import save_figure
    from attention_studio.ui.figures.style import FigureStyle
    from attention_studio.utils.config import load_settings

    def live(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    app = QApplication([])
    app.setStyle("Fusion")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as state:
        settings = load_settings().model_copy(update={"state_dir": Path(state)})
        studio = build_studio(settings)
        collector = MainThreadCollector(app)
        collector.start()
        studio.theme.set_choice("light")
        studio.window.resize(1400, 900)
        studio.window.show()
        studio.commands.run("layout.circuits")
        live(600)
        for task, graph in graphs.items():
            name, nodes, edges = PICTURES[task]
            studio.session.set_thresholds(nodes, edges)
            pruned = graph.prune(nodes, edges)
            studio.session.set_graph(graph, pruned)
            studio.session.set_pinned(names_of_strongest(graph, pruned))
            live(1000)
            while studio.runner.busy:
                live(50)
            (offer,) = studio.window.graph_dock.figures()
            figure = offer.make()
            assert figure is not None
            look = FigureStyle(width_mm=300.0, font_pt=10.0, palette="studio", dpi=150)
            save_figure(WorkContext(), figure, look, folder / name)
            print(folder / name)
        studio.window.close()
        while studio.window.isVisible():
            live(50)
        studio.runner.shutdown(10)
        collector.stop()


def main() -> int:
    """Score, print and draw what was asked for, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--assets", type=Path, default=DEMO_ASSETS, help="model and prompts")
    parser.add_argument("--crm", default="demo", help="a CRM that comes along, or its folder")
    parser.add_argument("--seed", type=int, default=0, help="that the model was built with")
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--pictures", type=Path, help="draw the classic graphs into this folder")
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        loaded = ModelManager().load_model_sync(
            ModelConfig("demo", arguments.assets / MODEL_FOLDER, "cpu")
        )
        crm = CompleteReplacementModel.from_folder(loaded, crm_folder(arguments.crm))
        records: list[dict[str, Any]] = [
            record
            for record in read_json(arguments.assets / PROMPTS_FILE)
            if not arguments.tasks or record["task"] in arguments.tasks
        ]
        scorer = CircuitScorer(crm, DemoText(arguments.seed))
        scores = []
        for record in records:
            scores.append(scorer.score(record))
            print(f"{record['task']}: {record['prompt']}", file=sys.stderr)
        print_tables(summarise(scores))
        if arguments.json is not None:
            write_json_atomic(arguments.json, as_record(scores))
        if arguments.pictures is not None:
            builder = GraphBuilder(crm)
            graphs = {
                record["task"]: builder.build(record["prompt"])
                for record in records
                if record["classic"] and record["task"] in PICTURES
            }
            draw(graphs, arguments.pictures)
    except StudioError as error:
        print(f"score_demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
