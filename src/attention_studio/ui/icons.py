"""The studio's own line icons: SVG strokes on a 24 × 24 grid, coloured when drawn."""

from __future__ import annotations

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
    "fit": ("M4.5 9 V4.5 H9", "M15 4.5 H19.5 V9", "M19.5 15 V19.5 H15", "M9 19.5 H4.5 V15"),
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
    "path": (
        "M6 16 V10 A4 4 0 0 1 10 6 H15.5",
        "M12.5 3 L15.5 6 L12.5 9",
        "M6 16 A2.2 2.2 0 1 0 6 20.4 A2.2 2.2 0 1 0 6 16 Z",
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
    "dash": ("M6.5 12 H17.5",),
    "float": ("M8.5 8.5 V5 H19 V15.5 H15.5", "M5 8.5 H15.5 V19 H5 Z"),
    "folder": ("M3.5 19 V5.5 H9.5 L11.5 8 H20.5 V19 Z",),
    "gear": (
        "M12 8.6 A3.4 3.4 0 1 0 12 15.4 A3.4 3.4 0 1 0 12 8.6 Z",
        "M12 3.5 V5.8 M12 18.2 V20.5 M3.5 12 H5.8 M18.2 12 H20.5",
        "M6 6 L7.6 7.6 M16.4 16.4 L18 18 M18 6 L16.4 7.6 M7.6 16.4 L6 18",
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


def make_icon(name: str, normal: str, disabled: str, active: str, ratio: float = 1.0) -> QIcon:
    """An icon in its three states, sharp on a screen of the given pixel ratio."""
    icon = QIcon()
    size = 20
    off, on = QIcon.State.Off, QIcon.State.On
    icon.addPixmap(icon_pixmap(name, normal, size, ratio), QIcon.Mode.Normal, off)
    icon.addPixmap(icon_pixmap(name, disabled, size, ratio), QIcon.Mode.Disabled, off)
    icon.addPixmap(icon_pixmap(name, active, size, ratio), QIcon.Mode.Normal, on)
    return icon
