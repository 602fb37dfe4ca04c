"""Whether a window can be shown here, asked without Qt.

Qt comes from the Python registry, but what it draws with comes from the system, and a server, a
container or a fresh desktop may lack some of it. Then importing Qt fails with the name of one file,
or Qt ends the process before a window is there. Asking first lets the program say all that is to be
installed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Callable

# Shared libraries that Qt's core, gui and widgets link to, with the package of Debian and Ubuntu
# that holds each: what `ldd` names for them, less what these packages bring along themselves.
_DRAWING = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libxkbcommon.so.0": "libxkbcommon0",
}
# What the plugin for X11 (platforms/libqxcb.so) links to beside those.
_X11 = {
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
}


def has_display(platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a window can be shown here. Only Linux and its kin can be without a display."""
    if platform in ("win32", "darwin"):
        return True
    chosen = environment.get("QT_QPA_PLATFORM", "")
    if chosen.split(":")[0] in ("offscreen", "minimal", "vnc", "linuxfb", "eglfs"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def draws_on_x11(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Qt will show its windows on X11: asked to, or left no other choice."""
    chosen = environment.get("QT_QPA_PLATFORM", "")
    if chosen:
        return chosen.split(":")[0] == "xcb"
    return bool(environment.get("DISPLAY")) and not environment.get("WAYLAND_DISPLAY")


def x11_answers() -> bool:
    """Whether the X server that ``DISPLAY`` names lets us in. Without libxcb it cannot be asked."""
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return False
    xcb.xcb_connect.restype = ctypes.c_void_p
    xcb.xcb_connect.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    xcb.xcb_connection_has_error.argtypes = xcb.xcb_disconnect.argtypes = (ctypes.c_void_p,)
    connection = xcb.xcb_connect(None, None)
    try:
        return not xcb.xcb_connection_has_error(connection)
    finally:
        xcb.xcb_disconnect(connection)


def missing_packages(
    x11: bool, platform: str = sys.platform, load: Callable[[str], object] = ctypes.CDLL
) -> tuple[str, ...]:
    """Debian packages that Qt needs to draw here and whose libraries cannot be loaded.

    Args:
        x11: whether windows are to be shown on X11; drawing off screen needs less.
        platform: as ``sys.platform`` says it. Elsewhere than on Linux Qt brings all it needs.
        load: loads a shared library by name, or raises ``OSError``.
    """
    if platform != "linux":
        return ()
    missing = []
    for library, package in {**_DRAWING, **(_X11 if x11 else {})}.items():
        try:
            load(library)
        except OSError:
            missing.append(package)
    return tuple(missing)


def how_to_install(packages: tuple[str, ...]) -> str:
    """The command that installs packages, as a sentence to a person."""
    return f"On Debian and Ubuntu: sudo apt install {' '.join(packages)}"
