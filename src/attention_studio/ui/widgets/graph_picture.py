"""Pictures of a whole link graph for files: PNG by way of an image, and SVG.

Painting happens on the main thread, encoding and writing on a lane.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QRectF, QSize
from PySide6.QtGui import QImage, QImageWriter, QPainter
from PySide6.QtSvg import QSvgGenerator

from attention_studio.ui.widgets.graph_geometry import Camera
from attention_studio.ui.widgets.graph_look import Frame, GraphLook
from attention_studio.ui.widgets.graph_painter import paint_frame
from attention_studio.utils.files import atomic_write

if TYPE_CHECKING:
    from attention_studio.utils.progress import WorkContext

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


def to_svg(frame: Frame, look: GraphLook, title: str) -> bytes:
    """Return a frame as an SVG document."""
    buffer = QBuffer()
    generator = QSvgGenerator()
    generator.setOutputDevice(buffer)
    generator.setTitle(title)
    generator.setSize(QSize(round(frame.size[0]), round(frame.size[1])))
    generator.setViewBox(QRectF(0, 0, *frame.size))
    painter = QPainter(generator)
    paint_frame(painter, frame, look)
    painter.end()
    return bytes(buffer.data().data())


def save_picture(ctx: WorkContext, picture: Union[QImage, bytes], path: Path) -> Path:
    """Write an image as PNG, or a document as it is. Returns the file. Runs on a lane.

    Raises:
        FileWriteError: it cannot be written; an older file at ``path`` is untouched.
    """
    ctx.check()
    data = picture if isinstance(picture, bytes) else _to_png(picture)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def _to_png(image: QImage) -> bytes:
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    # A buffer takes everything, so what can fail is the memory alone.
    if not QImageWriter(buffer, QByteArray(b"png")).write(image):
        raise MemoryError
    return bytes(buffer.data().data())
