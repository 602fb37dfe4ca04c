"""A window that is closed in the middle of a job, in a process of its own.

Run as a program, it reads one order per line of its standard input and says how each ended. The
imports, which take seconds, are done once: every order is carried out by a child that leaves as a
program does, through the end of the interpreter, where a thread still alive would abort it.

To be inside a job for certain, a function of the core that the job calls waits, when it is reached,
until the window has been told to close. Nothing sleeps and nothing races.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from PySide6.QtCore import QObject, Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import QFileDialog

from attention_studio.core.training_events import StepDone
from attention_studio.ui import app, work
from attention_studio.ui.pump import PumpState
from attention_studio.ui.window_state import WindowState
from attention_studio.utils.config import Settings
from attention_studio.utils.progress import WorkContext

PROMPT = "the cat sat on the mat"
_PATIENCE_S = 30.0

Done = Callable[[], bool]


class Hand(QObject):
    """Does what a person would, and closes the window when the job is where it should be."""

    reached = Signal()

    def __init__(self, studio: app.Studio, order: dict[str, Any]) -> None:
        super().__init__(studio.window)
        self.order = order
        self.studio, self.session, self.window = studio, studio.session, studio.window
        self.running: list[str] = []
        self.closed_at: Optional[float] = None
        self._closed = threading.Event()
        self._armed = False
        self._waiting_lane = ""
        self._story = self._tell()
        self._goal: Done = lambda: True
        self._busy = False
        self.reached.connect(self._close, Qt.ConnectionType.QueuedConnection)
        for signal in (studio.runner.job_changed, studio.runner.idle, self.session.changed):
            signal.connect(self._on_change)
        self.window.train_dock.pump.stepped.connect(self._on_stepped)
        QTimer.singleShot(0, self, self._on_change)

    # -- getting there ------------------------------------------------------------------------

    def hold(self, owner: Any, name: str, call: int = 1, after: bool = False) -> None:
        """Make a function wait for the closing at its ``call``-th call, or when that is over."""
        function = getattr(owner, name)
        calls = 0

        def held(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            here = calls == call
            if here and not after:
                self._wait()
            value = function(*args, **kwargs)
            if here and after:
                self._wait()
            return value

        setattr(owner, name, held)

    def _wait(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self._waiting_lane = threading.current_thread().name
        self.reached.emit()
        assert self._closed.wait(_PATIENCE_S), "the window was not closed"

    def _tell(self) -> Iterator[Done]:
        kind = self.order["kind"]
        if kind not in ("fetch", "load", "open-graph", "save-graph", "prune"):
            self._load_model()
            yield lambda: self.session.model is not None and self._quiet()
        self.window.prompt_dock.set_text(PROMPT)
        if kind in ("features", "trace"):
            self._choose("crm.open", "crm")
            yield lambda: self.session.crm is not None and self._quiet()
        if kind in ("save-graph", "prune"):
            self._choose("graph.open", "graph")
            # Shown, that is: pruned and arranged.
            yield lambda: self.window.graph_dock.scene is not None and self._quiet()
        getattr(self, "_" + kind.replace("-", "_"))()
        yield lambda: False

    def _quiet(self) -> bool:
        return not self.studio.runner.busy

    def _load_model(self) -> None:
        self._run("model.load", model=self.order["model"])

    def _run(self, command: str, model: Optional[str] = None) -> None:
        if model is not None:
            self.window.model_dock.choice.setEditText(model)
        assert self.studio.commands.run(command), command

    def _choose(self, command: str, what: str) -> None:
        self._run(command)
        # One that was closed before may still wait to be deleted.
        (dialog,) = (one for one in self.window.findChildren(QFileDialog) if one.isVisible())
        dialog.close()
        dialog.fileSelected.emit(self.order[what])

    @Slot()
    def _on_change(self, *_what: object) -> None:
        if self._busy or self.closed_at is not None:
            return
        self._busy = True
        try:
            while self._goal():
                self._goal = next(self._story)
        except Exception:
            # Nobody would ever close this window.
            traceback.print_exc()
            os._exit(3)
        self._busy = False

    # -- the jobs -----------------------------------------------------------------------------

    def _fetch(self) -> None:
        # The hub sends so many bytes and then no more: the download is in its middle.
        self.studio.runner.job_changed.connect(self._on_fetched_bytes)
        self._run("model.fetch", model=self.order["repo"])

    @Slot(object)
    def _on_fetched_bytes(self, job: Any) -> None:
        if job.title.startswith("Fetch") and job.last_progress.done >= self.order["bytes"]:
            self._close()

    def _load(self) -> None:
        from attention_studio.core import model_manager

        self.hold(model_manager.AutoModelForCausalLM, "from_pretrained")
        self._load_model()

    def _features(self) -> None:
        from attention_studio.core import replacement_model

        self.hold(replacement_model.LocalModel, "_find_features")
        self._run("features.extract")

    def _trace(self) -> None:
        from attention_studio.core.attribution_sweep import Sweep

        self.hold(Sweep, "run")
        self._run("graph.build")

    def _prune(self) -> None:
        from attention_studio.core.attribution_graph import AttributionGraph

        self.hold(AttributionGraph, "prune")
        self.window.graph_dock.controls.node_slider.slider.setValue(60)

    def _save_graph(self) -> None:
        # Not the function that writes: the workspace saves graphs with it, too.
        self.hold(work, "save_graph", after=True)
        self._choose("graph.save", "out")

    def _open_crm(self) -> None:
        from attention_studio.core.dictionaries import crm_folder

        self.hold(crm_folder, "_load", call=2)
        self._choose("crm.open", "crm")

    def _open_graph(self) -> None:
        from attention_studio.core import graph_files

        self.hold(graph_files, "_read_about")
        self._choose("graph.open", "graph")

    # -- a run --------------------------------------------------------------------------------

    def _start(self) -> None:
        self.window.train_dock.catch_up()
        form = self.window.train_dock.form
        form.texts.set_sources((self.order["text"],))
        form.layers.setText("0, 2")
        form.d_latent.setValue(64)
        form.k.setValue(4)
        form.batch_tokens.setValue(64)
        form.more.seq_len.setValue(16)
        form.more.block_tokens.setValue(self.order.get("block", 256))
        form.more.heldout_tokens.setValue(64)
        form.more.checkpoint_every.setValue(self.order.get("every", 3))
        form.tokens.setValue(self.order.get("tokens", 64_000))
        form.out_dir.setText(self.order["out"])
        self._run("train.start")

    def _prepare(self) -> None:
        from attention_studio.core import corpus

        self.hold(corpus, "split_corpus")
        self._start()

    def _harvest(self) -> None:
        from attention_studio.core.activations import ActivationSource

        self.hold(ActivationSource, "harvest", call=3)
        self._start()

    def _train(self) -> None:
        self._armed = True
        self._start()

    @Slot(object)
    def _on_stepped(self, event: object) -> None:
        # Some steps after the first checkpoint; from the event loop, as a person's click comes, so
        # that the slice of steps in work goes on to its end.
        if self._armed and isinstance(event, StepDone) and event.step == self.order["every"] + 5:
            self.reached.emit()

    def _evaluate(self) -> None:
        from attention_studio.core.evaluation import Evaluator

        self.hold(Evaluator, "evaluate")
        self._start()

    def _checkpoint(self) -> None:
        from attention_studio.core import training_checkpoint

        # Two layers: the third file is the first one of the second checkpoint.
        self.hold(training_checkpoint, "sha256_file", call=3)
        self._start()

    def _save_crm(self) -> None:
        from attention_studio.core.dictionaries import crm_folder

        self.hold(crm_folder, "sha256_file")
        self._start()

    def _resume(self) -> None:
        from attention_studio.core import crm_trainer

        self.hold(crm_trainer, "read_modules")
        self._choose("train.resume", "out")

    # -- closing ------------------------------------------------------------------------------

    @Slot()
    def _close(self) -> None:
        if self.closed_at is None:
            self.running = [job.title for job in self.studio.runner.jobs]
            self.closed_at = time.perf_counter()
            self.window.close()
            self._let_go()

    @Slot()
    def _let_go(self) -> None:
        # A window with something to save closes when that is saved, and what is held would go on
        # until then, as it may for a person; but it must not keep the lane that saves waiting.
        stopping = (
            not self.studio.runner.accepting
            or self.window.train_dock.pump.state is PumpState.STOPPING
        )
        if stopping or self._waiting_lane == "lane-quick":
            self._closed.set()
        else:
            QTimer.singleShot(5, self, self._let_go)


def _open(order: dict[str, Any]) -> int:
    """Carry out one order. Returns the exit status of the studio."""
    folder = Path(order["folder"])
    os.environ["ATTENTION_STUDIO_CACHE_DIR"] = str(folder / "cache")
    os.environ["ATTENTION_STUDIO_STATE_DIR"] = str(folder / "state")
    os.environ["ATTENTION_STUDIO_OFFLINE"] = "false" if "endpoint" in order else "true"
    os.environ["HF_ENDPOINT"] = order.get("endpoint", "")
    hands: list[Hand] = []
    build = app.build_studio

    def build_with_a_hand(settings: Settings) -> app.Studio:
        studio = build(settings)
        hands.append(Hand(studio, order))
        return studio

    # Not the first start, which opens the demo.
    state = WindowState(folder / "state")
    state.scheme = "light"
    state.flush()
    app.build_studio = build_with_a_hand
    status = app.run()
    (hand,) = hands
    assert hand.closed_at is not None
    told = {"running": hand.running, "seconds": time.perf_counter() - hand.closed_at}
    (folder / "told.json").write_text(json.dumps(told))
    return status


def main() -> None:
    """Fork a child for every order, and say with which status it left."""
    import torch

    torch.set_num_threads(1)
    work.warm_up(WorkContext(), Settings())
    work.import_plots(WorkContext())
    # What loading the tiny model would import.
    from transformers import PreTrainedTokenizerFast  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    # Children neither copy nor look through what was made until here.
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            log = os.open(Path(order["folder"]) / "stderr.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 2)
            sys.exit(_open(order))
        _, status = os.waitpid(child, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
