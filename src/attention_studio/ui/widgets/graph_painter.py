"""Paints the link graph: the same code for the screen, for PNG and for SVG.

Everything is painted in layers (backdrop, edges, nodes, marks, axes), each with as few calls as
possible: edges are one path per pen with at most 16 opaque pens, nodes are stamped from a few
prepared pictures. A full repaint of 2,000 nodes takes some ten milliseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QByteArray, QDataStream, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPen

from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.graph_labels import paint_axes, paint_marks
from attention_studio.ui.widgets.graph_look import (
    FAINT_LEVELS,
    MAX_FAINT_EDGES,
    Frame,
    GraphLook,
    paint_node,
)
from attention_studio.ui.widgets.graph_scene import ERROR, FEATURE, GraphScene, Ints, LinkMode

# Of a selected node this many edges get a width and a curve of their own.
MAX_WIDE_EDGES = 400
# Nodes of one kind come in so many shades, paler with less influence.
FILL_STEPS = 6


def paint_frame(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    """Paint everything that does not follow the pointer."""
    painter.fillRect(QRectF(0, 0, *frame.size), look.canvas)
    _paint_backdrop(painter, frame, look)
    painter.save()
    painter.setClipRect(frame.plot)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, frame.smooth)
    _paint_edges(painter, frame, look)
    _paint_nodes(painter, frame, look)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    paint_marks(painter, frame, look)
    painter.restore()
    paint_axes(painter, frame, look)


# -- backdrop -----------------------------------------------------------------------------------


def _paint_backdrop(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    painter.save()
    plot = frame.plot
    painter.setClipRect(QRectF(plot.left(), plot.top(), plot.width(), frame.size[1] - plot.top()))
    left, width = frame.columns()
    chosen = None if frame.selected is None else int(frame.scene.column[frame.selected])
    bottom = frame.size[1]
    for column in range(len(left)):
        if left[column] > plot.right() or left[column] + width[column] < plot.left():
            continue
        box = QRectF(left[column], plot.top(), width[column], bottom - plot.top())
        if column == chosen:
            painter.fillRect(box, look.chosen_band)
        elif column % 2:
            painter.fillRect(box, look.band)
    painter.setPen(QPen(look.line, 1))
    rows = frame.rows()
    painter.setClipRect(plot)
    for y in rows:
        if plot.top() <= y <= plot.bottom():
            line = round(float(y)) + 0.5
            painter.drawLine(QPointF(plot.left(), line), QPointF(plot.right(), line))
    painter.restore()


# -- edges ----------------------------------------------------------------------------------------


def edge_path(frame: Frame, edges: Ints) -> QPainterPath:
    """Return one path with a curve per edge, leaving and arriving upright.

    It is written as the bytes of Qt's own stream format, which is some hundred times faster than
    one call per curve.
    """
    sx, sy = frame.x[frame.scene.edge_source[edges]], frame.y[frame.scene.edge_source[edges]]
    tx, ty = frame.x[frame.scene.edge_target[edges]], frame.y[frame.scene.edge_target[edges]]
    rise = sy - ty
    # Straight up, an edge would run through every node between: it bows out to the left.
    bow = -np.minimum(0.14 * np.abs(rise), 26.0) * np.exp(-(((tx - sx) / 14.0) ** 2))
    element = np.zeros((len(edges), 4), dtype=[("kind", ">i4"), ("x", ">f8"), ("y", ">f8")])
    element["kind"] = (0, 2, 3, 3)  # move to, curve to, and the curve's two further points
    element["x"] = np.stack([sx, sx + bow, tx + bow, tx], axis=1)
    element["y"] = np.stack([sy, sy - 0.45 * rise, ty + 0.45 * rise, ty], axis=1)
    head = np.array([element.size], dtype=">i4").tobytes()
    tail = np.array([0, int(Qt.FillRule.OddEvenFill.value)], dtype=">i4").tobytes()
    path = QPainterPath()
    stream = QDataStream(QByteArray(head + element.tobytes() + tail))
    stream.setByteOrder(QDataStream.ByteOrder.BigEndian)
    stream >> path
    return path


def _on_plot(frame: Frame, edges: Ints) -> Ints:
    """Return those of the edges whose bounding box touches the plot."""
    source, target = frame.scene.edge_source[edges], frame.scene.edge_target[edges]
    low_x = np.minimum(frame.x[source], frame.x[target])
    high_x = np.maximum(frame.x[source], frame.x[target])
    low_y = np.minimum(frame.y[source], frame.y[target])
    high_y = np.maximum(frame.y[source], frame.y[target])
    plot = frame.plot
    meets = (high_x >= plot.left() - 30) & (low_x <= plot.right() + 30)
    return edges[meets & (high_y >= plot.top()) & (low_y <= plot.bottom())]


def _paint_edges(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    painter.setBrush(Qt.BrushStyle.NoBrush)
    edges = _on_plot(frame, frame.scene.strongest_edges(frame.max_faint))
    if frame.selected is not None:
        painter.setPen(_cosmetic(look.faintest))
        painter.drawPath(edge_path(frame, edges[-MAX_FAINT_EDGES // 3 :]))
        _paint_selected_edges(painter, frame, look)
        return
    if not len(edges):
        return
    # Weakest first, in steps of equal numbers, so that strong edges lie on top.
    signs = frame.scene.edge_share[edges] >= 0
    for level, part in enumerate(np.array_split(np.arange(len(edges)), FAINT_LEVELS)):
        for positive in (False, True):
            chosen = part[signs[part] == positive]
            if len(chosen):
                painter.setPen(_cosmetic(look.faint[level][int(positive)]))
                painter.drawPath(edge_path(frame, edges[chosen]))


def _paint_selected_edges(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    assert frame.selected is not None
    scene = frame.scene
    edges = _on_plot(frame, scene.edges_of(frame.selected, frame.mode))
    if not len(edges):
        return
    magnitude = np.abs(scene.edge_weight[edges])
    widths = 0.9 + 4.6 * np.sqrt(magnitude / magnitude.max()) ** 1.4
    levels = np.array([look.share_level(float(share)) for share in scene.edge_share[edges]])
    thin, wide = edges[:-MAX_WIDE_EDGES], edges[-MAX_WIDE_EDGES:]
    for level in np.unique(levels[: len(thin)]):
        painter.setPen(_cosmetic(look.shares[int(level)]))
        painter.drawPath(edge_path(frame, thin[levels[: len(thin)] == level]))
    for number, edge in enumerate(wide, start=len(thin)):
        pen = QPen(QColor(look.shares[int(levels[number])]), float(widths[number]))
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        painter.drawPath(edge_path(frame, np.array([edge])))


def _cosmetic(colour: str) -> QPen:
    pen = QPen(QColor(colour), 1.0)
    pen.setCosmetic(True)
    return pen


# -- nodes ----------------------------------------------------------------------------------------


def neighbour_shares(scene: GraphScene, selected: int, mode: LinkMode) -> NDArray[np.float64]:
    """Return [n] the signed share of the strongest edge to the selected node; nan where none."""
    shares = np.full(scene.n_nodes, np.nan)
    for edge in scene.edges_of(selected, mode):
        source, target = int(scene.edge_source[edge]), int(scene.edge_target[edge])
        shares[source if target == selected else target] = scene.edge_share[edge]
    return shares


def node_fills(frame: Frame, look: GraphLook) -> list[str]:
    """Return the colour of every node.

    At rest by kind, paler with less influence. With a selection, neighbours take the colour of
    their edge and everything else steps back.
    """
    scene, t = frame.scene, look.tokens
    if frame.selected is not None:
        shares = neighbour_shares(scene, frame.selected, frame.mode)
        fills = [mix(t.canvas, t.neutral, 0.30)] * scene.n_nodes
        for local in np.flatnonzero(~np.isnan(shares)).tolist():
            fills[local] = look.shares[look.share_level(float(shares[local]))]
        for local in (*frame.pinned, frame.selected):
            fills[local] = look.kinds[int(scene.kind[local])]
        return fills
    inner = np.isin(scene.kind, (FEATURE, ERROR))
    most = scene.influence[inner].max() if inner.any() else 0.0
    depth = np.sqrt(np.clip(scene.influence / most, 0.0, 1.0)) if most > 0 else scene.influence
    steps = np.where(inner, np.round(depth * FILL_STEPS), FILL_STEPS).astype(np.int64)
    codes = scene.kind * (FILL_STEPS + 1) + steps
    colours = {
        code: mix(
            t.canvas,
            look.kinds[code // (FILL_STEPS + 1)],
            0.48 + 0.52 * (code % (FILL_STEPS + 1)) / FILL_STEPS,
        )
        for code in np.unique(codes).tolist()
    }
    return [colours[code] for code in codes.tolist()]


def _paint_nodes(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    scene = frame.scene
    fills = node_fills(frame, look)
    sizes = np.maximum(4, np.round(frame.radii() * 2.0)).astype(np.int64).tolist()
    # The most influential are stamped last, so that they lie on top.
    shown = np.flatnonzero(frame.shown())
    order = shown[np.argsort(scene.influence[shown], kind="stable")].tolist()
    kinds, outline, ratio = scene.kind.tolist(), look.tokens.canvas, frame.ratio
    if frame.vector:
        ring = QColor(outline)
        for local in order:
            at, fill = frame.at(local), QColor(fills[local])
            paint_node(painter, kinds[local], at, sizes[local] / 2.0, fill, ring)
        return
    x, y = frame.x.tolist(), frame.y.tolist()
    for local in order:
        stamp, half = look.stamp(kinds[local], sizes[local], fills[local], outline, ratio)
        painter.drawPixmap(QPointF(x[local] - half, y[local] - half), stamp)
