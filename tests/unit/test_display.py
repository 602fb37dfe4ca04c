"""Where a window can be shown, and what is missing where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Callable

import pytest

from attention_studio.utils.display import (
    draws_on_x11,
    has_display,
    how_to_install,
    missing_packages,
    x11_answers,
)


def lacking(*names: str) -> Callable[[str], object]:
    """Loads everything but some libraries."""

    def load(name: str) -> None:
        if name in names:
            raise OSError(f"{name}: cannot open shared object file")

    return load


def test_only_linux_can_be_without_a_display() -> None:
    assert has_display("darwin", {}) and has_display("win32", {})
    assert not has_display("linux", {})
    assert has_display("linux", {"WAYLAND_DISPLAY": "wayland-0"})
    assert has_display("linux", {"DISPLAY": ":0", "QT_QPA_PLATFORM": "xcb"})
    assert not has_display("linux", {"QT_QPA_PLATFORM": "xcb"})
    assert has_display("linux", {"QT_QPA_PLATFORM": "offscreen:size=800x600"})


def test_names_the_package_of_each_library_that_cannot_be_loaded() -> None:
    load = lacking("libEGL.so.1", "libglib-2.0.so.0", "libxcb-cursor.so.0")
    off_screen = missing_packages(False, "linux", load)
    assert off_screen == ("libegl1", "libglib2.0-0")
    assert missing_packages(True, "linux", load) == (*off_screen, "libxcb-cursor0")
    assert how_to_install(off_screen).endswith("sudo apt install libegl1 libglib2.0-0")


def test_elsewhere_than_on_linux_nothing_is_missing() -> None:
    for platform in ("darwin", "win32"):
        assert missing_packages(True, platform, lacking("libEGL.so.1")) == ()


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, False),
        ({"DISPLAY": ":0", "QT_QPA_PLATFORM": "offscreen"}, False),
        ({"WAYLAND_DISPLAY": "wayland-0", "QT_QPA_PLATFORM": "xcb"}, True),
    ],
)
def test_x11_is_drawn_on_when_asked_for_or_all_there_is(
    variables: dict[str, str], answer: bool
) -> None:
    assert draws_on_x11(variables) is answer


@pytest.mark.parametrize("x11", [False, True])
def test_where_nothing_is_missing_the_linker_finds_all_that_qt_links_to(x11: bool) -> None:
    if shutil.which("ldd") is None or missing_packages(x11):
        pytest.skip("needs ldd, and a system with everything that Qt needs")
    root = Path(str(metadata.distribution("PySide6-Essentials").locate_file("PySide6")))
    modules = [root / f"Qt{part}.abi3.so" for part in ("Core", "Gui", "Widgets")]
    plugin = "libqxcb.so" if x11 else "libqoffscreen.so"
    for binary in (*modules, root / "Qt/plugins/platforms" / plugin):
        told = subprocess.run(
            ["ldd", str(binary)], capture_output=True, text=True, check=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(root / "Qt/lib")},
        ).stdout  # fmt: skip
        assert [line.strip() for line in told.splitlines() if "not found" in line] == []


def test_a_display_that_no_server_holds_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":64731")
    assert not x11_answers()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs an X server to ask")
def test_a_display_that_a_server_holds_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-nolisten", "tcp"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        monkeypatch.setenv("DISPLAY", f":{server.stdout.readline().strip()}")
        assert x11_answers()
    finally:
        server.terminate()
        server.wait(10)
