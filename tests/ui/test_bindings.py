"""Qt's types are all there before another thread asks for them."""

from __future__ import annotations

from pathlib import Path

from tests.ui.test_start import assert_clean, run

# In a process of its own: types that once came to be stay.
_SCENE = """
import sys
from PySide6 import QtCore, QtGui, QtSvg, QtWidgets
from PySide6.QtCore import QMetaObject, Qt
from attention_studio.ui import app as composition
from attention_studio.ui import work

def missing():
    modules = (QtCore, QtGui, QtSvg, QtWidgets)
    return sum(name not in vars(module) for module in modules for name in dir(module))

build, slices = composition.build_studio, []

def seen(ctx):
    print("missing", missing())
    QMetaObject.invokeMethod(studio.window, "close", Qt.ConnectionType.QueuedConnection)

def look(*_what):
    # The demo, which a first start opens.
    if studio.session.model is not None:
        studio.commands.run("layout.train")

def patched(settings):
    global studio
    studio = build(settings)
    bindings = studio.window.train_dock._bindings
    bindings._timer.timeout.connect(lambda: slices.append(missing()))
    studio.session.changed.connect(look)
    return studio

work.import_plots = seen
composition.build_studio = patched
print("missing at first", missing() > 300)
status = composition.run()
print("slices", len(slices) > 3, slices == sorted(slices, reverse=True))
sys.exit(status)
"""


def test_the_plots_are_imported_when_every_type_is_there(tmp_path: Path) -> None:
    ran = run(_SCENE, tmp_path)
    assert_clean(ran)
    assert ran.stdout.splitlines() == ["missing at first True", "missing 0", "slices True True"]
