"""Starting and leaving, in processes of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "pyqtgraph", "networkx")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which the studio keeps everything below ``folder``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ATTENTION_STUDIO_")}
    return {
        **kept,
        "ATTENTION_STUDIO_CACHE_DIR": str(folder / "cache"),
        "ATTENTION_STUDIO_STATE_DIR": str(folder / "state"),
        "ATTENTION_STUDIO_OFFLINE": "true",
        "ATTENTION_STUDIO_THREADS": "1",
        "QT_QPA_PLATFORM": "offscreen",
        "PYTHONFAULTHANDLER": "1",  # a crash says where
        **more,
    }


def run(
    code: str, folder: Path, timeout: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_the_first_paint_comes_before_the_heavy_libraries(tmp_path: Path) -> None:
    ran = run(
        """
        import json, sys, time
        began = time.perf_counter()
        from PySide6.QtWidgets import QApplication
        app = QApplication([])
        from attention_studio.ui.app import build_studio
        from attention_studio.utils.config import load_settings
        studio = build_studio(load_settings())
        studio.window.show()
        app.processEvents()
        picture = studio.window.grab()
        loaded = sorted(m for m in sys.modules if "." not in m)
        print(json.dumps({"seconds": time.perf_counter() - began, "width": picture.width(),
                          "cpu": time.process_time(), "loaded": loaded}))
        studio.window.close()
        assert studio.runner.shutdown(5, force=False)
        """,
        tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert [name for name in HEAVY if name in told["loaded"]] == []
    assert told["width"] > 500
    # The time that the processor worked does not depend on what else runs on the machine.
    # Most of it is Python reading the files of twenty docks and of numpy.
    assert told["cpu"] < 3.0, told


def test_without_a_display_it_points_at_the_headless_commands(tmp_path: Path) -> None:
    env = environment(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        env.pop(name, None)
    if sys.platform in ("darwin", "win32"):
        pytest.skip("this system always has a display")
    ran = subprocess.run(
        [sys.executable, "-m", "attention_studio"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "no display" in ran.stderr and "attention-studio --help" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_bad_setting_is_one_line(tmp_path: Path) -> None:
    ran = run(
        "import sys; from attention_studio.__main__ import main; sys.exit(main([]))",
        tmp_path,
        ATTENTION_STUDIO_THREADS="many",
    )
    assert ran.returncode == 1
    assert "ATTENTION_STUDIO_THREADS" in ran.stderr and "Traceback" not in ran.stderr


# Opens the window as a person would, gets a job going, and closes at a given moment.
_SCENE = """
import functools, sys, time
from PySide6.QtCore import QObject, QTimer, Slot
from PySide6.QtWidgets import QApplication
from attention_studio.ui import app as composition
from attention_studio.ui import main_window
from attention_studio.ui.jobs import JobRunner

delay_ms, kind = int(sys.argv[1]), sys.argv[2]
build = composition.build_studio

def busy(ctx):
    import json
    while True:
        ctx.check()
        ctx.progress(0, None, "working")
        json.loads("[" + "1," * 20000 + "1]")

def deaf(ctx):
    while True:
        time.sleep(0.05)

class Hand(QObject):
    def __init__(self, studio):
        super().__init__(studio.window)
        self.studio = studio
    @Slot()
    def act(self):
        if kind == "job":
            self.studio.runner.submit(busy, title="Busy")
            self.studio.runner.submit(busy, title="Busy too", lane="io")
        elif kind == "deaf":
            main_window._STOP_PATIENCE_S = 0.3
            JobRunner.shutdown = functools.partialmethod(JobRunner.shutdown, 0.5)
            self.studio.runner.submit(deaf, title="Deaf")
        elif kind == "pins":
            self.studio.session.toggle_pin("L0/P1/F2")
        elif kind == "surprise":
            QTimer.singleShot(0, self, self.fail)
        elif kind == "load":
            self.studio.window.model_dock.choice.setEditText(sys.argv[3])
            self.studio.commands.run("model.load")
        elif kind == "train":
            self.train()
    def train(self):
        if self.studio.session.model is None:
            if not self.studio.runner.running("model"):
                self.studio.window.model_dock.choice.setEditText(sys.argv[3])
                self.studio.commands.run("model.load")
            QTimer.singleShot(50, self, self.train)
            return
        form = self.studio.window.train_dock.form
        form.texts.set_sources((sys.argv[4],))
        form.out_dir.setText(sys.argv[5])
        form.d_latent.setValue(64); form.k.setValue(4)
        form.tokens.setValue(1_000_000); form.batch_tokens.setValue(64)
        form.more.seq_len.setValue(16); form.more.block_tokens.setValue(256)
        form.more.heldout_tokens.setValue(64); form.more.checkpoint_every.setValue(3)
        self.studio.commands.run("train.start")
    @Slot()
    def fail(self):
        raise ValueError("nobody expected this")
    @Slot()
    def leave(self):
        if kind == "surprise":
            current = self.studio.window.messages.current
            if current is None:
                # The window took so long to show that both were due at once.
                QTimer.singleShot(20, self, self.leave)
                return
            print(current.what, current.why, "ValueError" in current.details)
        self.studio.window.close()

def patched(settings):
    studio = build(settings)
    hand = Hand(studio)
    QTimer.singleShot(0, hand, hand.act)
    QTimer.singleShot(delay_ms, hand, hand.leave)
    return studio

composition.build_studio = patched
sys.exit(composition.run())
"""


def start_and_quit(
    folder: Path, delay_ms: int, kind: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Start the window, have it do ``kind`` of work, close it after ``delay_ms``."""
    return subprocess.run(
        [sys.executable, "-c", _SCENE, str(delay_ms), kind, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_clean(ran: subprocess.CompletedProcess[str]) -> None:
    """Exit code 0 and no complaint of Qt or Python."""
    assert ran.returncode == 0, (ran.returncode, ran.stdout, ran.stderr)
    for word in ("Traceback", "QThread", "Destroyed while", "QObject::", "terminate called"):
        assert word not in ran.stderr, ran.stderr


@pytest.mark.parametrize("seed", range(5))
def test_leaving_at_any_moment_with_jobs_running(tmp_path: Path, seed: int) -> None:
    delay = random.Random(seed).randrange(0, 900)
    assert_clean(start_and_quit(tmp_path, delay, "job"))
    assert (tmp_path / "state" / "window.ini").exists()


def test_leaving_with_a_task_that_does_not_listen(tmp_path: Path) -> None:
    assert_clean(start_and_quit(tmp_path, 300, "deaf"))


def test_leaving_with_something_to_undo(tmp_path: Path) -> None:
    assert_clean(start_and_quit(tmp_path, 300, "pins"))


def test_what_a_slot_lets_escape_is_said_in_the_window(tmp_path: Path) -> None:
    ran = start_and_quit(tmp_path, 500, "surprise")
    assert ran.returncode == 0, ran.stderr
    assert "failed unexpectedly ValueError: nobody expected this True" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_leaving_at_any_moment_while_a_model_loads_and_trains(tmp_path: Path, seed: int) -> None:
    from tests.tiny import WORDS, tiny_folder

    chance = random.Random(seed)
    model = tiny_folder(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(chance.choice(WORDS) for _ in range(20_000)))
    kind = chance.choice(("load", "train", "train"))
    delay = chance.randrange(0, 12_000)
    out = tmp_path / "run"
    assert_clean(start_and_quit(tmp_path, delay, kind, str(model), str(text), str(out)))
    # Nothing half-written: what is there is whole, and temporary files are gone.
    leftovers = [p for p in out.rglob("*") if ".part-" in p.name]
    assert leftovers == []
    for file in out.rglob("*.json"):
        json.loads(file.read_text())


def test_a_picture_on_the_clipboard_does_not_crash_on_leaving(tmp_path: Path) -> None:
    ran = run(
        """
        from PySide6.QtGui import QGuiApplication, QImage
        from PySide6.QtWidgets import QApplication
        from attention_studio.ui.clipboard import copy_picture
        app = QApplication([])
        image = QImage(4, 4, QImage.Format.Format_RGB32)
        image.fill(0)
        copy_picture(image, {"image/svg+xml": b"<svg/>"})
        found = QGuiApplication.clipboard().mimeData()
        assert found.hasImage() and bytes(found.data("image/svg+xml").data()) == b"<svg/>"
        """,
        tmp_path,
    )
    assert ran.returncode == 0, ran.stderr


def test_help_needs_no_display(tmp_path: Path) -> None:
    nowhere = {"QT_QPA_PLATFORM": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    for words, status, says in ((["--help"], 0, "--workspace"), ([], 1, "no display")):
        code = "from attention_studio.__main__ import main; raise SystemExit(main({}))"
        ran = run(code.format(["app", *words]), tmp_path, **nowhere)
        assert ran.returncode == status
        assert says in ran.stdout + ran.stderr
