"""Pictures of a whole link graph for files: PNG by way of an image, and SVG."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QImage, QPainter
from PySide6.QtSvg import QSvgGenerator

from attention_studio.ui.widgets.graph_geometry import Camera
from attention_studio.ui.widgets.graph_look import Frame, GraphLook
from attention_studio.ui.widgets.graph_painter import paint_frame

# Larger pictures than this many pixels across no program opens, and QImage refuses them.
MAX_PIXELS = 16_000


def whole_frame(frame: Frame, look: GraphLook) -> Frame:
    """Return a frame that shows the whole graph at zoom 1, however it is zoomed and scrolled."""
    width, height = frame.geometry.width, frame.geometry.height
    plot = QRectF(
        look.gutter,
        look.header,
        max(width, frame.size[0] - look.gutter - 8),
        max(height, frame.size[1] - look.header - look.footer),
    )
    return replace(
        frame,
        camera=Camera(
            1.0,
            plot.left() + (plot.width() - width) / 2.0,
            plot.top() + (plot.height() - height) / 2.0,
        ),
        plot=plot,
        size=(plot.right() + 8, plot.bottom() + look.footer),
        vector=True,
        smooth=True,
    )


def to_image(frame: Frame, look: GraphLook, scale: float) -> QImage:
    """Return a frame as an image with ``scale`` device pixels per pixel."""
    scale = min(scale, MAX_PIXELS / max(frame.size))
    image = QImage(
        math.ceil(frame.size[0] * scale),
        math.ceil(frame.size[1] * scale),
        QImage.Format.Format_RGB32,
    )
    image.setDevicePixelRatio(scale)
    painter = QPainter(image)
    paint_frame(painter, frame, look)
    painter.end()
    return image


def to_svg(frame: Frame, look: GraphLook, path: Path, title: str) -> bool:
    """Write a frame as SVG. Returns whether the file could be written."""
    generator = QSvgGenerator()
    generator.setFileName(str(path))
    generator.setTitle(title)
    generator.setSize(QSize(round(frame.size[0]), round(frame.size[1])))
    generator.setViewBox(QRectF(0, 0, *frame.size))
    painter = QPainter()
    if not painter.begin(generator):
        return False
    paint_frame(painter, frame, look)
    return painter.end()
