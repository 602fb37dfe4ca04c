"""The studio's own line icons: SVG strokes on a 24 × 24 grid, coloured when drawn."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QIcon, QImage, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

# Strokes are drawn 1.7 units wide with round ends; "fill:" before a path fills it instead.
ICONS: dict[str, tuple[str, ...]] = {
    "model": (
        "M12 3 L20 7.5 V16.5 L12 21 L4 16.5 V7.5 Z",
        "M4 7.5 L12 12 L20 7.5",
        "M12 12 V21",
    ),
    "prompt": ("M4 5 H20 V16 H11 L7 19.5 V16 H4 Z", "M8 9 H16", "M8 12 H13"),
    "train": ("M4 4 V20 H20", "M7.5 8 C9.5 14 13 16 19 16.5"),
    "features": (
        "M4 6 H20",
        "M4 12 H14",
        "M4 18 H17",
        "fill:M18 10.2 A1.8 1.8 0 1 0 18 13.8 A1.8 1.8 0 1 0 18 10.2 Z",
    ),
    "graph": (
        "M6 15.7 L11 8.3",
        "M13 8.3 L18 15.7",
        "M7.5 18 H16.5",
        "M12 4 A2.2 2.2 0 1 0 12 8.4 A2.2 2.2 0 1 0 12 4 Z",
        "M5.2 15.8 A2.2 2.2 0 1 0 5.2 20.2 A2.2 2.2 0 1 0 5.2 15.8 Z",
        "M18.8 15.8 A2.2 2.2 0 1 0 18.8 20.2 A2.2 2.2 0 1 0 18.8 15.8 Z",
    ),
    "tasks": (
        "M9.5 6 H20",
        "M9.5 12 H20",
        "M9.5 18 H20",
        "M4 6 L5.3 7.3 L7.3 4.8",
        "M4 12 L5.3 13.3 L7.3 10.8",
        "M4 18 L5.3 19.3 L7.3 16.8",
    ),
    "log": ("M6 3.5 H14.5 L18.5 7.5 V20.5 H6 Z", "M9 11 H15.5", "M9 14 H15.5", "M9 17 H13"),
    "play": ("M8 5.5 L18.5 12 L8 18.5 Z",),
    "pause": ("M8.5 5.5 V18.5", "M15.5 5.5 V18.5"),
    "stop": ("M7 7 H17 V17 H7 Z",),
    "save": ("M5 5 H16 L19 8 V19 H5 Z", "M8.5 5 V9.5 H14.5 V5", "M8.5 19 V13.5 H15.5 V19"),
    "open": ("M3.5 18.5 V6 H9.5 L11.5 8.5 H19.5 V11", "M3.5 18.5 L6.5 11 H22 L19 18.5 Z"),
    "download": ("M12 4 V15", "M7.5 10.8 L12 15.3 L16.5 10.8", "M5 19.5 H19"),
    "release": ("M4.5 16.5 L12 6 L19.5 16.5 Z", "M4.5 20 H19.5"),
    "search": ("M10.5 4.5 A6 6 0 1 0 10.5 16.5 A6 6 0 1 0 10.5 4.5 Z", "M15 15 L20 20"),
    "copy": ("M9 9 H19.5 V19.5 H9 Z", "M5.5 15 H4.5 V4.5 H15 V5.5"),
    "close": ("M6.5 6.5 L17.5 17.5", "M17.5 6.5 L6.5 17.5"),
    "check": ("M5 12.5 L10 17.5 L19 7",),
    "info": (
        "M12 3.8 A8.2 8.2 0 1 0 12 20.2 A8.2 8.2 0 1 0 12 3.8 Z",
        "M12 11 V16.5",
        "M12 7.6 V7.9",
    ),
    "warning": ("M12 4 L21 19.5 H3 Z", "M12 10 V14.5", "M12 17 V17.2"),
    "error": (
        "M8.2 3.8 H15.8 L20.2 8.2 V15.8 L15.8 20.2 H8.2 L3.8 15.8 V8.2 Z",
        "M12 8 V13",
        "M12 16 V16.2",
    ),
    "undo": ("M8.5 5 L4.5 9 L8.5 13", "M4.5 9 H14 A5 5 0 0 1 14 19 H9"),
    "redo": ("M15.5 5 L19.5 9 L15.5 13", "M19.5 9 H10 A5 5 0 0 0 10 19 H15"),
    "pin": ("M9 4 H15 L14.5 10 L17.5 13.5 H6.5 L9.5 10 Z", "M12 13.5 V20"),
    "unpin": ("M9 4 H15 L14.5 10 L17.5 13.5 H6.5 L9.5 10 Z", "M12 13.5 V20", "M4 4 L20 20"),
    "history": ("M12 4 A8 8 0 1 0 12 20 A8 8 0 1 0 12 4 Z", "M12 7.5 V12 L15.2 14"),
    "note": ("M5 4.5 H19 V14 L13.5 19.5 H5 Z", "M13.5 19.5 V14 H19", "M8 8.5 H16", "M8 12 H12"),
    "bookmark": ("M7 4.5 H17 V20 L12 15.8 L7 20 Z",),
    "help": (
        "M12 3.8 A8.2 8.2 0 1 0 12 20.2 A8.2 8.2 0 1 0 12 3.8 Z",
        "M9.6 9.6 A2.4 2.4 0 1 1 12.6 12 C12.1 12.3 12 12.7 12 13.6",
        "M12 16.4 V16.6",
    ),
    "eye": (
        "M3.5 12 C6 7.8 9 6 12 6 C15 6 18 7.8 20.5 12 C18 16.2 15 18 12 18 C9 18 6 16.2 3.5 12 Z",
        "M12 9.4 A2.6 2.6 0 1 0 12 14.6 A2.6 2.6 0 1 0 12 9.4 Z",
    ),
    "inputs": (
        "M12 20 V10",
        "M8.5 13.2 L12 9.7 L15.5 13.2",
        "M12 3.4 A2 2 0 1 0 12 7.4 A2 2 0 1 0 12 3.4 Z",
    ),
    "outputs": (
        "M12 14 V4",
        "M8.5 7.4 L12 3.9 L15.5 7.4",
        "M12 16.6 A2 2 0 1 0 12 20.6 A2 2 0 1 0 12 16.6 Z",
    ),
    "fit": ("M4.5 9 V4.5 H9", "M15 4.5 H19.5 V9", "M19.5 15 V19.5 H15", "M9 19.5 H4.5 V15"),
    "full-screen": ("M4 5 H20 V19 H4 Z", "M14 8.5 H16.8 V11.3", "M10 15.5 H7.2 V12.7"),
    "zoom-in": (
        "M10.5 4.5 A6 6 0 1 0 10.5 16.5 A6 6 0 1 0 10.5 4.5 Z",
        "M15 15 L20 20",
        "M10.5 8 V13",
        "M8 10.5 H13",
    ),
    "zoom-out": (
        "M10.5 4.5 A6 6 0 1 0 10.5 16.5 A6 6 0 1 0 10.5 4.5 Z",
        "M15 15 L20 20",
        "M8 10.5 H13",
    ),
    "intervene": (
        "M5 4 V20",
        "M12 4 V20",
        "M19 4 V20",
        "fill:M5 6 A2.3 2.3 0 1 0 5 10.6 A2.3 2.3 0 1 0 5 6 Z",
        "fill:M12 12.5 A2.3 2.3 0 1 0 12 17.1 A2.3 2.3 0 1 0 12 12.5 Z",
        "fill:M19 8 A2.3 2.3 0 1 0 19 12.6 A2.3 2.3 0 1 0 19 8 Z",
    ),
    "verify": (
        "M12 3.5 L19 6.5 V12 C19 16 16 19 12 20.5 C8 19 5 16 5 12 V6.5 Z",
        "M8.5 12 L11.2 14.7 L15.8 9.3",
    ),
    "path": (
        "M6 16 V10 A4 4 0 0 1 10 6 H15.5",
        "M12.5 3 L15.5 6 L12.5 9",
        "M6 16 A2.2 2.2 0 1 0 6 20.4 A2.2 2.2 0 1 0 6 16 Z",
    ),
    "compare": (
        "M4 5 H10.5 V19 H4 Z",
        "M13.5 5 H20 V19 H13.5 Z",
        "M6 9 H8.5",
        "M15.5 9 H18",
        "M15.5 12.5 H18",
    ),
    "swap": (
        "M4.5 8.5 H18.5",
        "M15 5 L18.5 8.5 L15 12",
        "M19.5 15.5 H5.5",
        "M9 12 L5.5 15.5 L9 19",
    ),
    "path-from": (
        "M7 9.8 A2.2 2.2 0 1 0 7 14.2 A2.2 2.2 0 1 0 7 9.8 Z",
        "M10.5 12 H19.5",
        "M16 8.5 L19.5 12 L16 15.5",
    ),
    "path-to": (
        "M17 9.8 A2.2 2.2 0 1 0 17 14.2 A2.2 2.2 0 1 0 17 9.8 Z",
        "M3.5 12 H13.5",
        "M10 8.5 L13.5 12 L10 15.5",
    ),
    "filter": ("M4 5.5 H20 L14 12.5 V18.5 L10 20.5 V12.5 Z",),
    "layout": ("M4 5 H20 V19 H4 Z", "M10 5 V19", "M10 13 H20"),
    "theme": ("M12 4 A8 8 0 1 0 12 20 A8 8 0 1 0 12 4 Z", "fill:M12 4 A8 8 0 0 1 12 20 Z"),
    "command": ("M4 5.5 H20 V18.5 H4 Z", "M7.5 9.5 L10.5 12 L7.5 14.5", "M12.5 15 H16.5"),
    "refresh": ("M19.5 12 A7.5 7.5 0 1 1 17 6.4", "M17.5 3 V7 H13.5"),
    "trash": ("M4.5 7 H19.5", "M9.5 7 V4.5 H14.5 V7", "M6.5 7 L7.3 19.5 H16.7 L17.5 7"),
    "plus": ("M12 5.5 V18.5", "M5.5 12 H18.5"),
    "chevron-down": ("M7 10 L12 15 L17 10",),
    "chevron-up": ("M7 14.5 L12 9.5 L17 14.5",),
    "chevron-right": ("M10 7 L15 12 L10 17",),
    "chevron-left": ("M14 7 L9 12 L14 17",),
    "dice": (
        "M5 5 H19 V19 H5 Z",
        "M8.7 8.7 V8.8 M15.3 8.7 V8.8 M12 12 V12.1 M8.7 15.3 V15.4 M15.3 15.3 V15.4",
    ),
    "dash": ("M6.5 12 H17.5",),
    "float": ("M8.5 8.5 V5 H19 V15.5 H15.5", "M5 8.5 H15.5 V19 H5 Z"),
    "folder": ("M3.5 19 V5.5 H9.5 L11.5 8 H20.5 V19 Z",),
    "gear": (
        "M12 8.6 A3.4 3.4 0 1 0 12 15.4 A3.4 3.4 0 1 0 12 8.6 Z",
        "M12 3.5 V5.8 M12 18.2 V20.5 M3.5 12 H5.8 M18.2 12 H20.5",
        "M6 6 L7.6 7.6 M16.4 16.4 L18 18 M18 6 L16.4 7.6 M7.6 16.4 L6 18",
    ),
    "figure": (
        "M4 4.5 H20 V19.5 H4 Z",
        "M7 16 L11 10.5 L13.5 13.5 L15.5 11 L17.5 16 Z",
        "M8.5 7.6 A0.9 0.9 0 1 0 8.5 7.7 Z",
    ),
    "console": ("M3.5 5 H20.5 V19 H3.5 Z", "M6.5 9 L9.5 12 L6.5 15", "M11.5 15.5 H16.5"),
    "script": (
        "M6 3.5 H14.5 L18.5 7.5 V20.5 H6 Z",
        "M10.5 11 L8.5 13.5 L10.5 16",
        "M14 11 L16 13.5 L14 16",
    ),
    "attention": (
        "M5 5.5 V18.5",
        "M19 5.5 V18.5",
        "M5 7 C11 7 13 17 19 17",
        "M5 12 C11 12 13 7 19 7",
        "M5 17 C10 17 14 12 19 12",
    ),
    "lens": (
        "M4 4.5 H20 V19.5 H4 Z",
        "M4 9.5 H20",
        "M4 14.5 H20",
        "M9.3 4.5 V19.5",
        "M14.7 4.5 V19.5",
        "fill:M9.3 9.5 H14.7 V14.5 H9.3 Z",
    ),
    "subgraph": (
        "M3.5 14.5 H11 V20 H3.5 Z",
        "M13 14.5 H20.5 V20 H13 Z",
        "M8 4 H16 V9.5 H8 Z",
        "M7.5 14.5 L10.5 9.5",
        "M16.5 14.5 L13.5 9.5",
    ),
    "group": (
        "M4 8 V4 H8 M16 4 H20 V8 M20 16 V20 H16 M8 20 H4 V16",
        "M7.5 9 H12.5 V13 H7.5 Z",
        "M11.5 15 H16.5 V11 H14.5",
    ),
    "ungroup": ("M4 4.5 H11 V10 H4 Z", "M13 14 H20 V19.5 H13 Z", "M14 9.5 L19 4.5", "M5 19 L10 14"),
    "pencil": ("M5 19 L6 15 L16 5 L19 8 L9 18 Z", "M13.8 7.2 L16.8 10.2"),
    "arrange": ("M4 5 H10 V9 H4 Z", "M14 5 H20 V9 H14 Z", "M9 15 H15 V19 H9 Z", "M12 11 V15"),
    "suggest": (
        "M9 17.5 H15",
        "M10 20.5 H14",
        "M9 17.5 C9 14.5 6.5 13.5 6.5 9.5 A5.5 5.5 0 0 1 17.5 9.5 C17.5 13.5 15 14.5 15 17.5",
    ),
    "rank": ("fill:M4 4.5 H20 V8.5 H4 Z", "M4.5 13 H14", "M4.5 18.5 H9"),
    "agents": (
        "M5 9 H19 V19.5 H5 Z",
        "M12 9 V4.5",
        "M10.5 4.5 H13.5",
        "M9.5 13 V14",
        "M14.5 13 V14",
        "M9.5 17 H14.5",
    ),
    "logo": (
        "M5 18.5 L12 5 L19 18.5",
        "M8.2 13.2 H15.8",
        "fill:M12 3 A2.3 2.3 0 1 0 12 7.6 A2.3 2.3 0 1 0 12 3 Z",
        "fill:M5 16.4 A2.1 2.1 0 1 0 5 20.6 A2.1 2.1 0 1 0 5 16.4 Z",
        "fill:M19 16.4 A2.1 2.1 0 1 0 19 20.6 A2.1 2.1 0 1 0 19 16.4 Z",
    ),
}


def icon_svg(name: str, colour: str, stroke: float = 1.7) -> str:
    """The icon as an SVG document.

    Raises:
        KeyError: there is no icon of that name.
    """
    shapes = []
    for path in ICONS[name]:
        if path.startswith("fill:"):
            shapes.append(f'<path d="{path[5:]}" fill="{colour}"/>')
        else:
            shapes.append(
                f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{stroke}" '
                'stroke-linecap="round" stroke-linejoin="round"/>'
            )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">' + "".join(shapes) + "</svg>"
    )


def icon_pixmap(name: str, colour: str, size: int, ratio: float = 1.0) -> QPixmap:
    """The icon ``size`` logical pixels wide, for a screen of the given pixel ratio."""
    pixels = max(1, round(size * ratio))
    image = QImage(pixels, pixels, QImage.Format.Format_ARGB32_Premultiplied)
    image.fill(Qt.GlobalColor.transparent)
    renderer = QSvgRenderer(QByteArray(icon_svg(name, colour).encode()))
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    renderer.render(painter, QRectF(0, 0, pixels, pixels))
    painter.end()
    image.setDevicePixelRatio(ratio)
    return QPixmap.fromImage(image)


def make_icon(
    name: str, normal: str, disabled: str, active: str, sizes: Sequence[int], ratio: float = 1.0
) -> QIcon:
    """An icon in its three states, sharp at these sizes in logical pixels on a screen of the given
    pixel ratio. The first size is the one of buttons and menus, the others are for pictures."""
    icon = QIcon()
    off, on = QIcon.State.Off, QIcon.State.On
    for size in sizes:
        icon.addPixmap(icon_pixmap(name, normal, size, ratio), QIcon.Mode.Normal, off)
    icon.addPixmap(icon_pixmap(name, disabled, sizes[0], ratio), QIcon.Mode.Disabled, off)
    icon.addPixmap(icon_pixmap(name, active, sizes[0], ratio), QIcon.Mode.Normal, on)
    return icon
