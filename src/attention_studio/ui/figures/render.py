"""Figures as SVG, PDF and PNG, and as images for the preview and the clipboard.

Everything here may run on a lane: it paints on images, documents and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import (
    QBuffer,
    QByteArray,
    QIODevice,
    QMarginsF,
    QRectF,
    QSize,
    QSizeF,
    Qt,
)
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QImage,
    QImageWriter,
    QPageSize,
    QPainter,
    QPdfWriter,
)
from PySide6.QtSvg import QSvgGenerator

from attention_studio.ui.figures.figure import Figure
from attention_studio.ui.figures.style import MM_PER_INCH, FigureStyle
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import atomic_write

if TYPE_CHECKING:
    from attention_studio.ui.figures.look import FigureLook
    from attention_studio.utils.progress import WorkContext

FORMATS = ("pdf", "svg", "png")
MAX_PIXELS = 16_000
"""A picture with more pixels across no program opens, and QImage refuses it."""
_MAX_HEIGHT = 5.0
"""Times the width: a longer figure fits no page."""
_GAP, _EDGE = 10.0, 6.0
_PDF_DPI = 1200
_SVG_DPI = 2540
"""Sizes of an SVG are whole dots: hundredths of millimetres, so that these come out right."""


class FigureError(StudioError):
    """A figure cannot be made as it was asked for."""


@dataclass(frozen=True)
class Page:
    """A figure on its paper, in the figure's own units: [width, height] of the paper, the height
    of the figure's part, and that of the caption's text."""

    width: float
    height: float
    body: float
    caption: float


def lay_out(figure: Figure, style: FigureStyle, look: FigureLook) -> Page:
    """Find how high a figure and its caption are in a style's width.

    Raises:
        FigureError: it would be far longer than wide.
    """
    width = style.width_mm / style.unit_mm
    inner = width - 2 * _EDGE
    body = figure.height(look, inner)
    caption = 0.0
    if style.caption:
        metrics = QFontMetricsF(look.font(0.92))
        caption = metrics.boundingRect(
            QRectF(0, 0, inner, 1e6), int(Qt.TextFlag.TextWordWrap), style.caption
        ).height()
    height = body + 2 * _EDGE + (caption + _GAP if caption else 0.0)
    if not math.isfinite(height) or height > _MAX_HEIGHT * width:
        raise FigureError(
            f"The figure “{figure.title}” would be {height / width:.0f} times as high as wide",
            "no page holds that",
            "choose a larger width or smaller text, or show less in the view",
        )
    return Page(width, height, body, caption)


def paint_page(
    painter: QPainter, figure: Figure, style: FigureStyle, look: FigureLook, page: Page
) -> None:
    """Paint paper, figure and caption; the painter's units are the figure's own."""
    painter.fillRect(QRectF(0, 0, page.width, page.height), QColor(look.tokens.canvas))
    inner = page.width - 2 * _EDGE
    painter.save()
    painter.translate(_EDGE, _EDGE)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    figure.paint(painter, look, inner, page.body)
    painter.restore()
    if page.caption:
        painter.setFont(look.font(0.92))
        painter.setPen(QColor(look.tokens.text))
        box = QRectF(_EDGE, _EDGE + page.body + _GAP, inner, page.caption + 4.0)
        painter.drawText(box, int(Qt.TextFlag.TextWordWrap), style.caption)


def to_image(figure: Figure, style: FigureStyle, pixels: Optional[int] = None) -> QImage:
    """Return a figure as an image, ``pixels`` wide or in the style's dots per inch.

    Raises:
        FigureError: it would be far longer than wide, or have too many pixels.
    """
    look = style.look()
    page = lay_out(figure, style, look)
    wide = style.width_mm / MM_PER_INCH * style.dpi if pixels is None else float(pixels)
    scale = wide / page.width
    width, height = round(wide), math.ceil(page.height * scale)
    if max(width, height) > MAX_PIXELS:
        raise FigureError(
            f"The figure would have {width:,} by {height:,} pixels",
            f"a picture may have at most {MAX_PIXELS:,} across",
            "choose fewer dots per inch, or save it as PDF or SVG",
        )
    image = QImage(max(1, width), max(1, height), QImage.Format.Format_RGB32)
    image.fill(QColor(look.tokens.canvas))
    per_metre = round(wide / style.width_mm * 1000.0)
    image.setDotsPerMeterX(per_metre)
    image.setDotsPerMeterY(per_metre)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.scale(scale, scale)
    paint_page(painter, figure, style, look, page)
    painter.end()
    return image


def to_png(figure: Figure, style: FigureStyle) -> bytes:
    """Return a figure as a PNG. Raises FigureError as ``to_image`` does."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    writer = QImageWriter(buffer, QByteArray(b"png"))
    writer.setText("Title", figure.title)
    # A buffer takes everything, so what can fail is the memory alone.
    if not writer.write(to_image(figure, style)):
        raise MemoryError
    return bytes(buffer.data().data())


def to_svg(figure: Figure, style: FigureStyle) -> bytes:
    """Return a figure as an SVG document, its text as text.

    Raises:
        FigureError: it would be far longer than wide.
    """
    look = style.look()
    page = lay_out(figure, style, look)
    dots = style.unit_mm / MM_PER_INCH * _SVG_DPI
    buffer = QBuffer()
    generator = QSvgGenerator()
    generator.setOutputDevice(buffer)
    generator.setTitle(figure.title)
    generator.setDescription(figure.caption)
    generator.setResolution(_SVG_DPI)
    generator.setSize(QSize(round(page.width * dots), round(page.height * dots)))
    generator.setViewBox(QRectF(0, 0, page.width, page.height))
    painter = QPainter(generator)
    paint_page(painter, figure, style, look, page)
    painter.end()
    return bytes(buffer.data().data())


def to_pdf(figure: Figure, style: FigureStyle) -> bytes:
    """Return a figure as a PDF of one page, which is as large as the figure.

    Raises:
        FigureError: it would be far longer than wide.
    """
    look = style.look()
    page = lay_out(figure, style, look)
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    writer = QPdfWriter(buffer)
    writer.setTitle(figure.title)
    writer.setCreator("AttentionStudio")
    writer.setResolution(_PDF_DPI)
    writer.setPageSize(
        QPageSize(
            QSizeF(page.width * style.unit_mm, page.height * style.unit_mm),
            QPageSize.Unit.Millimeter,
            "",
            QPageSize.SizeMatchPolicy.ExactMatch,
        )
    )
    writer.setPageMargins(QMarginsF(0, 0, 0, 0))
    painter = QPainter(writer)
    dots = style.unit_mm / MM_PER_INCH * _PDF_DPI
    painter.scale(dots, dots)
    paint_page(painter, figure, style, look, page)
    painter.end()
    return bytes(buffer.data().data())


def document(figure: Figure, style: FigureStyle, kind: str) -> bytes:
    """Return a figure as a file of one of ``FORMATS``.

    Raises:
        FigureError: there is no such format, or the figure does not fit into it.
    """
    makers = {"pdf": to_pdf, "svg": to_svg, "png": to_png}
    if kind not in makers:
        raise FigureError(
            f"A figure cannot be saved as .{kind}" if kind else "The name says no format",
            "",
            "end the name in .pdf, .svg or .png",
        )
    return makers[kind](figure, style)


# -- what lanes run -------------------------------------------------------------------------------


def preview(ctx: WorkContext, figure: Figure, style: FigureStyle, pixels: int) -> QImage:
    """Paint a figure ``pixels`` wide."""
    ctx.check()
    return to_image(figure, style, pixels)


def save_figure(ctx: WorkContext, figure: Figure, style: FigureStyle, path: Path) -> Path:
    """Write a figure as its file's ending says. Returns the file.

    Raises:
        FigureError: the ending is none of ``FORMATS``, or the figure does not fit into it.
        FileWriteError: it cannot be written; an older file at ``path`` is untouched.
    """
    ctx.check()
    data = document(figure, style, path.suffix.lower().lstrip("."))
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def save_figures(
    ctx: WorkContext,
    figures: Sequence[tuple[Figure, FigureStyle]],
    folder: Path,
    kinds: Sequence[str],
) -> tuple[Path, ...]:
    """Write every figure in every format into a folder. Returns the files.

    Raises:
        FigureError, FileWriteError: as ``save_figure``; what was written before stays.
        Cancelled: through ``ctx``, between two files.
    """
    written: list[Path] = []
    total = len(figures) * len(kinds)
    for figure, style in figures:
        for kind in kinds:
            ctx.progress(len(written), total, f"Saving {figure.name}.{kind}")
            written.append(save_figure(ctx, figure, style, folder / f"{figure.name}.{kind}"))
    return tuple(written)


def for_clipboard(ctx: WorkContext, figure: Figure, style: FigureStyle) -> tuple[QImage, bytes]:
    """Return a figure as an image and as SVG."""
    ctx.check()
    return to_image(figure, style), to_svg(figure, style)
