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

from attention_studio.ui.highlight import Role
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.graph_emphasis import Emphasis
from attention_studio.ui.widgets.graph_labels import paint_axes, paint_marks
from attention_studio.ui.widgets.graph_look import (
    FAINT_LEVELS,
    MAX_FAINT_EDGES,
    Frame,
    GraphLook,
    paint_node,
)
from attention_studio.ui.widgets.graph_scene import ERROR, FEATURE, Ints
from attention_studio.ui.widgets.role_look import role_pen

# Of the edges in colour the strongest get a width of their own, the rest share so many; what would
# be thinner than ``THIN`` is a line of one pixel, which costs a fraction.
OWN_WIDTHS, SHARED_WIDTHS = 40, 8
THIN = 1.35
# Up to so many emphasised edges are drawn wide.
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
    """Return one path with a curve per edge of the scene."""
    return curves(frame, frame.scene.edge_source[edges], frame.scene.edge_target[edges])


def curves(frame: Frame, source: Ints, target: Ints) -> QPainterPath:
    """Return one path with a curve per pair of nodes, leaving and arriving upright.

    It is written as the bytes of Qt's own stream format, which is some hundred times faster than
    one call per curve.
    """
    sx, sy, tx, ty = frame.x[source], frame.y[source], frame.x[target], frame.y[target]
    rise = sy - ty
    # Straight up, an edge would run through every node between: it bows out to the left.
    bow = -np.minimum(0.14 * np.abs(rise), 26.0) * np.exp(-(((tx - sx) / 14.0) ** 2))
    element = np.zeros((len(sx), 4), dtype=[("kind", ">i4"), ("x", ">f8"), ("y", ">f8")])
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
    dimmed = frame.emphasis is not None and frame.emphasis.dim
    if frame.coloured is not None or dimmed:
        painter.setPen(_cosmetic(look.faintest))
        painter.drawPath(edge_path(frame, edges[-MAX_FAINT_EDGES // 3 :]))
    elif len(edges):
        _paint_faint_edges(painter, frame, look, edges)
    if frame.coloured is not None:
        _paint_coloured_edges(painter, frame, look, _on_plot(frame, frame.coloured))
    if frame.emphasis is not None:
        _paint_emphasised_edges(painter, frame, look, frame.emphasis)


def _paint_faint_edges(painter: QPainter, frame: Frame, look: GraphLook, edges: Ints) -> None:
    # Weakest first, in steps of equal numbers, so that strong edges lie on top.
    signs = frame.scene.edge_share[edges] >= 0
    for level, part in enumerate(np.array_split(np.arange(len(edges)), FAINT_LEVELS)):
        for positive in (False, True):
            chosen = part[signs[part] == positive]
            if len(chosen):
                painter.setPen(_cosmetic(look.faint[level][int(positive)]))
                painter.drawPath(edge_path(frame, edges[chosen]))


def _paint_coloured_edges(painter: QPainter, frame: Frame, look: GraphLook, edges: Ints) -> None:
    scene = frame.scene
    if not len(edges):
        return
    magnitude = np.abs(scene.edge_weight[edges])
    widths = 0.9 + 4.6 * np.sqrt(magnitude / max(float(magnitude.max()), 1e-30)) ** 1.4
    levels = np.array([look.share_level(float(share)) for share in scene.edge_share[edges]])
    # Weakest first, so that strong edges lie on top. The strongest have a width each; the others
    # share some, so that a node with hundreds of edges is drawn in some dozens of calls.
    shared = max(0, len(edges) - OWN_WIDTHS)
    parts = [part for part in np.array_split(np.arange(shared), SHARED_WIDTHS) if len(part)]
    parts += [np.array([place]) for place in range(shared, len(edges))]
    for part in parts:
        width = float(widths[part].mean())
        for level in np.unique(levels[part]).tolist():
            pen = QPen(QColor(look.shares[level]), width if width > THIN else 1.0)
            pen.setCosmetic(width <= THIN)
            pen.setCapStyle(Qt.PenCapStyle.RoundCap)
            painter.setPen(pen)
            painter.drawPath(edge_path(frame, edges[part[levels[part] == level]]))


def _paint_emphasised_edges(
    painter: QPainter, frame: Frame, look: GraphLook, emphasis: Emphasis
) -> None:
    few = len(emphasis.sources) <= MAX_WIDE_EDGES
    for role in Role:
        source, target = emphasis.edges_in(role)
        if not len(source):
            continue
        path = curves(frame, source, target)
        if few:
            # A rim in the colour of the ground lifts the line off what lies below it.
            painter.setPen(QPen(look.canvas, 5.0))
            painter.drawPath(path)
        painter.setPen(role_pen(look.tokens, role, 2.4 if few else 1.0))
        painter.drawPath(path)


def _cosmetic(colour: str) -> QPen:
    pen = QPen(QColor(colour), 1.0)
    pen.setCosmetic(True)
    return pen


# -- nodes ----------------------------------------------------------------------------------------


def neighbour_shares(frame: Frame) -> NDArray[np.float64]:
    """Return [n] the signed share of the strongest coloured edge of every node that is not selected
    itself; nan where it has none."""
    scene = frame.scene
    shares = np.full(scene.n_nodes, np.nan)
    if frame.coloured is not None:
        # Weakest first: the last that is written is the strongest.
        for ends in (scene.edge_target[frame.coloured], scene.edge_source[frame.coloured]):
            shares[ends] = scene.edge_share[frame.coloured]
        if frame.selected is not None:
            shares[frame.selected] = np.nan
    return shares


def node_fills(frame: Frame, look: GraphLook) -> tuple[Ints, list[str]]:
    """Return [n] the number of every node's colour, and the colours.

    At rest by kind, paler with less influence. With coloured edges, their ends take the colours of
    the edges, and everything else steps back.
    """
    scene, t = frame.scene, look.tokens
    dimmed = frame.emphasis is not None and frame.emphasis.dim
    if frame.coloured is not None or dimmed:
        colours = [mix(t.canvas, t.neutral, 0.30), *look.shares, *(look.kinds[k] for k in range(4))]
        fills = np.zeros(scene.n_nodes, dtype=np.int64)
        shares = neighbour_shares(frame)
        for local in np.flatnonzero(~np.isnan(shares)).tolist():
            fills[local] = 1 + look.share_level(float(shares[local]))
        own = np.zeros(scene.n_nodes, dtype=bool)
        own[list(frame.pinned)] = True
        if frame.emphasis is not None:
            own |= frame.emphasis.touched(scene.n_nodes)
        if frame.selected is not None:
            own[frame.selected] = True
        fills[own] = 1 + len(look.shares) + scene.kind[own]
        return fills, colours
    inner = np.isin(scene.kind, (FEATURE, ERROR))
    most = scene.influence[inner].max() if inner.any() else 0.0
    depth = np.sqrt(np.clip(scene.influence / most, 0.0, 1.0)) if most > 0 else scene.influence
    steps = np.where(inner, np.round(depth * FILL_STEPS), FILL_STEPS).astype(np.int64)
    fills = scene.kind * (FILL_STEPS + 1) + steps
    return fills, [
        mix(t.canvas, look.kinds[kind], 0.48 + 0.52 * step / FILL_STEPS)
        for kind in range(4)
        for step in range(FILL_STEPS + 1)
    ]


def _paint_nodes(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    scene = frame.scene
    fills, colours = node_fills(frame, look)
    sizes = np.maximum(4, np.round(frame.radii() * 2.0)).astype(np.int64)
    # The most influential are stamped last, so that they lie on top.
    shown = np.flatnonzero(frame.shown())
    order = shown[np.argsort(scene.influence[shown], kind="stable")]
    outline = QColor(look.tokens.canvas)
    chosen = np.array(frame.chosen, dtype=np.int64)
    if frame.vector:
        for local in chosen.tolist():
            look.paint_halo(painter, frame.at(local), sizes[local] / 2.0)
        for local in order.tolist():
            at, fill = frame.at(local), QColor(colours[fills[local]])
            paint_node(painter, int(scene.shape[local]), at, sizes[local] / 2.0, fill, outline)
        return
    # Everything that decides how a node looks, as one number, which is negative for halos.
    codes = (sizes[order] * 8 + scene.shape[order]) * 1000 + fills[order]
    halos = -sizes[chosen]
    found, places = np.unique(np.concatenate([halos, codes]), return_inverse=True)
    sheet = look.sheet(frame.ratio)
    sheet.begin(len(found))

    def place(code: int) -> int:
        if code < 0:
            return sheet.place(code, lambda p, at: look.paint_halo(p, at, -code / 2.0))
        rest, fill = divmod(code, 1000)
        size, shape = divmod(rest, 8)
        colour = colours[fill]
        return sheet.place(
            (shape, size, colour),
            lambda p, at: paint_node(p, shape, at, size / 2.0, QColor(colour), outline),
        )

    stamps = np.array([place(code) for code in found.tolist()], dtype=np.int64)[places]
    nodes = np.concatenate([chosen, order])
    sheet.stamp(painter, frame.x[nodes], frame.y[nodes], stamps)
