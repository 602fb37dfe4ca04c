"""Text of the link graph: labels of rows, columns, logits and nodes, and the hover card.

All text comes from tokenizers and models, so it is drawn as plain text and cut to its room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import (
    QBrush,
    QColor,
    QFont,
    QFontMetricsF,
    QLinearGradient,
    QPainter,
    QPainterPath,
    QPen,
)

from attention_studio.ui.highlight import Role
from attention_studio.ui.text import visible_token
from attention_studio.ui.widgets.graph_look import Frame, GraphLook, node_path
from attention_studio.ui.widgets.graph_scene import ERROR, FEATURE, LOGIT, GraphScene
from attention_studio.ui.widgets.role_look import paint_sign, role_pen

NAMED_NEIGHBOURS = 5
NAME_ROOM = 30
# Letters that a word must keep before an ellipsis, else it fades.
LEAST_LETTERS = 3
# So many emphasised nodes are ringed, and so many nodes or edges get the sign of their role too.
MAX_RINGS, MAX_SIGNS = 600, 120
_CENTRED = Qt.AlignmentFlag.AlignCenter


@dataclass(frozen=True)
class Chip:
    """The label of a logit in the header: where it stands and what it says."""

    local: int
    box: QRectF
    token: str
    probability: str


def paint_axes(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    _paint_row_labels(painter, frame, look)
    _paint_tokens(painter, frame, look)
    _paint_chips(painter, frame, look)


def _paint_row_labels(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    plot = frame.plot
    rows = frame.rows()
    pitch = abs(rows[2] - rows[1]) if len(rows) > 2 else 20.0
    height = look.small_metrics.height()
    every = next(step for step in (1, 2, 5, 10, 20, 50) if pitch * step >= height or step == 50)
    chosen = None if frame.selected is None else int(frame.scene.row[frame.selected])
    last = len(rows) - 1
    for row, y in enumerate(rows):
        ends = row in (0, last)
        if not plot.top() - 2 <= y <= plot.bottom() + 2:
            continue
        beside_chosen = chosen is not None and every > 1 and abs(row - chosen) < every
        if row != chosen and not ends and ((row - 1) % every or beside_chosen):
            continue
        painter.setFont(look.small)
        painter.setPen(look.accent if row == chosen else look.muted)
        box = QRectF(0, y - height, plot.left() - 8, 2 * height)
        flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(box, flags, frame.scene.row_name(row))


def _paint_tokens(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    plot = frame.plot
    painter.setPen(QPen(look.axis, 1))
    painter.drawLine(
        QPointF(plot.left(), plot.bottom() + 0.5), QPointF(plot.right(), plot.bottom() + 0.5)
    )
    painter.save()
    painter.setClipRect(QRectF(plot.left(), plot.bottom(), plot.width(), look.footer))
    left, width = frame.columns()
    chosen = None if frame.selected is None else int(frame.scene.column[frame.selected])
    top = plot.bottom() + 5
    # Where columns are narrower than their numbers, only some are labelled, in the room of all.
    least = look.small_metrics.horizontalAdvance(f"{len(left)}") + 5
    every = max(1, math.ceil(least / max(1.0, float(np.median(width)))))
    for column, token in enumerate(frame.scene.tokens):
        if every > 1 and column != chosen and (column % every or _near(column, chosen, every)):
            continue
        if left[column] > plot.right() or left[column] + width[column] < plot.left():
            continue
        is_chosen = column == chosen
        metrics = look.bold_metrics if is_chosen else look.metrics
        painter.setFont(look.bold if is_chosen else look.font)
        room = every * float(width[column]) - 3
        text = visible_token(token, spaces=False)
        middle = float(left[column] + width[column] / 2)
        box = QRectF(middle - room / 2, top, room, metrics.height())
        _write_token(painter, metrics, look.accent if is_chosen else look.text, box, text)
        painter.setFont(look.small)
        painter.setPen(look.muted)
        box.translate(0, metrics.height())
        painter.drawText(box, _CENTRED, str(column))
    painter.restore()


def _near(column: int, chosen: Optional[int], reach: int) -> bool:
    return chosen is not None and abs(column - chosen) < reach


def chips(frame: Frame, look: GraphLook) -> list[Chip]:
    """Return the labels of the logits, in the order of their nodes, all inside the header.

    They stand side by side, centred over their nodes as far as the header's width allows; where
    there is no room for all, the least probable go without.
    """
    logits = np.flatnonzero(frame.scene.kind == LOGIT)
    likeliest = logits[np.argsort(-frame.scene.probability[logits], kind="stable")]
    limit = look.metrics.averageCharWidth() * 14
    room = frame.plot.width() - 8
    chosen: list[tuple[float, int, str, str, float]] = []
    used = 0.0
    for local in likeliest.tolist():
        token = visible_token(frame.scene.words[local], spaces=False)
        share = float(frame.scene.probability[local])
        # A difference of two logits has two tokens and no probability.
        most = limit if share else 2 * limit
        token = look.metrics.elidedText(token, Qt.TextElideMode.ElideRight, most)
        chance = _percent(share) if share else ""
        width = look.metrics.horizontalAdvance(token) + look.small_metrics.horizontalAdvance(chance)
        width += 22.0
        if used + width > room and chosen:
            break
        used += width + 4.0
        chosen.append((float(frame.x[local]), local, token, chance, width))
    if not chosen:
        return []
    chosen.sort()
    middle = sum(entry[0] for entry in chosen) / len(chosen)
    left = min(max(middle - used / 2.0, frame.plot.left() + 4), frame.plot.right() - used)
    result = []
    for _, local, token, chance, width in chosen:
        box = QRectF(left, 6.0, width, look.metrics.height() + 8.0)
        result.append(Chip(local, box, token, chance))
        left += width + 4.0
    return result


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def _paint_chips(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    plot = frame.plot
    shown = frame.shown(2.0)
    leader = QPen(look.border, 1)
    for chip in chips(frame, look):
        chosen = chip.local == frame.selected
        at = frame.at(chip.local)
        if shown[chip.local]:
            start = QPointF(chip.box.center().x(), chip.box.bottom())
            middle = (start.y() + at.y()) / 2.0
            path = QPainterPath(start)
            end = QPointF(at.x(), at.y() - frame.geometry.radius - 1)
            path.cubicTo(QPointF(start.x(), middle), QPointF(end.x(), middle), end)
            painter.setPen(QPen(look.accent, 1.5) if chosen else leader)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.save()
            painter.setClipRect(QRectF(plot.left(), 0, plot.width(), plot.bottom()))
            painter.drawPath(path)
            painter.restore()
        painter.setPen(QPen(look.accent if chosen else look.border, 1.5 if chosen else 1.0))
        painter.setBrush(look.raised)
        painter.drawRoundedRect(chip.box, 5, 5)
        share = float(frame.scene.probability[chip.local])
        bar = QRectF(chip.box.left() + 5, chip.box.bottom() - 4.5, chip.box.width() - 10, 2.5)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.line)
        painter.drawRoundedRect(bar, 1.2, 1.2)
        if share:
            bar.setWidth(max(2.5, bar.width() * share))
            painter.setBrush(QColor(look.kinds[LOGIT]))
            painter.drawRoundedRect(bar, 1.2, 1.2)
        inner = chip.box.adjusted(7, 0, -7, -4)
        painter.setFont(look.font)
        painter.setPen(look.text)
        vertical = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(inner, Qt.AlignmentFlag.AlignLeft | vertical, chip.token)
        painter.setFont(look.small)
        painter.setPen(look.muted)
        painter.drawText(inner, Qt.AlignmentFlag.AlignRight | vertical, chip.probability)


# -- names of nodes -------------------------------------------------------------------------------


def paint_marks(painter: QPainter, frame: Frame, look: GraphLook) -> None:
    """Rings around pinned and selected nodes, and their names."""
    radii = frame.radii()
    taken: list[QRectF] = []
    _paint_roles(painter, frame, look, taken)
    marked = [*frame.pinned]
    if frame.selected is not None and frame.selected not in marked:
        marked.append(frame.selected)
    for local in marked:
        ring = node_path(int(frame.scene.shape[local]), frame.at(local), radii[local] + 3.5)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(look.canvas, 4.5))
        painter.drawPath(ring)
        painter.setPen(QPen(look.accent if local == frame.selected else look.text, 2.0))
        painter.drawPath(ring)
        taken.append(_around(frame.at(local), radii[local] + 5))
    shown = frame.shown(0.0)
    for local in reversed(marked):
        if shown[local]:
            _paint_name(painter, frame, look, local, taken, local in frame.pinned)
    if frame.selected is None:
        return
    # In a small picture names would hide what they name.
    n_named = min(NAMED_NEIGHBOURS, int(frame.plot.width() // 180))
    strongest = frame.scene.edges_of(frame.selected, frame.mode)[::-1][:n_named]
    for edge in strongest.tolist():
        source, target = int(frame.scene.edge_source[edge]), int(frame.scene.edge_target[edge])
        other = source if target == frame.selected else target
        if other not in marked and frame.scene.kind[other] in (FEATURE, ERROR) and shown[other]:
            taken.append(_around(frame.at(other), radii[other] + 2))
            _paint_name(painter, frame, look, other, taken, False, quiet=True)


def _paint_roles(painter: QPainter, frame: Frame, look: GraphLook, taken: list[QRectF]) -> None:
    """Rings and signs of what a view wants to be seen."""
    emphasis = frame.emphasis
    if emphasis is None:
        return
    radii, shown = frame.radii(), frame.shown(0.0)
    painter.setFont(look.sign)
    nodes = [
        (local, role)
        for local, role in zip(emphasis.nodes.tolist(), emphasis.node_roles, strict=True)
        if shown[local]
    ]
    for local, role in nodes[:MAX_RINGS]:
        ring = node_path(int(frame.scene.shape[local]), frame.at(local), radii[local] + 3.5)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(role_pen(look.tokens, role, 2.0))
        painter.drawPath(ring)
        taken.append(_around(frame.at(local), radii[local] + 5))
    if len(nodes) <= MAX_SIGNS:
        for local, role in nodes:
            reach = float(radii[local]) + 5.0
            at = frame.at(local) + QPointF(0.8 * reach, -0.8 * reach)
            taken.append(_around(at, 6.0))
            paint_sign(painter, look.tokens, look.sign, role, at)
    if len(emphasis.edge_roles) <= MAX_SIGNS:
        for source, target, role in zip(
            emphasis.sources.tolist(), emphasis.targets.tolist(), emphasis.edge_roles, strict=True
        ):
            if role is not Role.MARKED:
                middle = (frame.at(source) + frame.at(target)) / 2.0
                paint_sign(painter, look.tokens, look.sign, role, middle)


def _name(scene: GraphScene, local: int) -> str:
    """Return a node's title, or for a feature its index and what it promotes, where known."""
    label, words = scene.label(local), scene.promotes(local)
    if label:
        return label
    return f"#{scene.index[local]}  {words}" if words else scene.title(local)


def _around(at: QPointF, radius: float) -> QRectF:
    return QRectF(at.x() - radius, at.y() - radius, 2 * radius, 2 * radius)


def _paint_name(
    painter: QPainter,
    frame: Frame,
    look: GraphLook,
    local: int,
    taken: list[QRectF],
    pinned: bool,
    quiet: bool = False,
) -> None:
    """Write a node's name beside it, where it covers no other name; nowhere if there is no room."""
    metrics = look.small_metrics
    text = _elided(metrics, _name(frame.scene, local), NAME_ROOM * metrics.averageCharWidth())
    width = metrics.horizontalAdvance(text) + 10 + (10 if pinned else 0)
    height = metrics.height() + 3
    at, gap = frame.at(local), frame.geometry.radius + 8
    places = [
        QRectF(at.x() + gap, at.y() - height / 2, width, height),
        QRectF(at.x() - gap - width, at.y() - height / 2, width, height),
        QRectF(at.x() - width / 2, at.y() - gap - height, width, height),
        QRectF(at.x() - width / 2, at.y() + gap, width, height),
        QRectF(at.x() + gap, at.y() - gap - height, width, height),
        QRectF(at.x() - gap - width, at.y() + gap, width, height),
    ]
    inside = frame.plot.adjusted(1, 1, -1, -1)
    for box in places:
        if inside.contains(box) and not any(box.intersects(other) for other in taken):
            break
    else:
        return
    taken.append(box)
    painter.setPen(Qt.PenStyle.NoPen if quiet else QPen(look.border, 1))
    painter.setBrush(QBrush(look.canvas if quiet else look.raised))
    painter.drawRoundedRect(box, 4, 4)
    painter.setFont(look.small)
    painter.setPen(look.muted if quiet else look.text)
    inner = box.adjusted(5, 0, -5, 0)
    if pinned:
        painter.save()
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.text)
        painter.drawEllipse(QPointF(inner.left() + 3, inner.center().y()), 2.6, 2.6)
        painter.restore()
        inner.adjust(10, 0, 0, 0)
    painter.drawText(inner, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)


# -- hover ----------------------------------------------------------------------------------------


def paint_hover(painter: QPainter, frame: Frame, look: GraphLook, local: int, keyed: bool) -> None:
    """Paint the ring around the node under the pointer and the card that says what it is.

    Args:
        painter, frame, look: as for ``paint_frame``.
        local: the node.
        keyed: whether the keyboard led there, which draws the ring in the focus colour.
    """
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    radius = float(frame.radii()[local])
    painter.save()
    painter.setClipRect(frame.plot)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    ring = node_path(int(frame.scene.shape[local]), frame.at(local), radius + 3.0)
    painter.setPen(QPen(look.canvas, 4.0))
    painter.drawPath(ring)
    painter.setPen(QPen(look.focus if keyed else look.text, 2.0))
    painter.drawPath(ring)
    painter.restore()
    _paint_card(painter, frame, look, local)


def _paint_card(painter: QPainter, frame: Frame, look: GraphLook, local: int) -> None:
    scene = frame.scene
    label = scene.label(local)
    letter = look.metrics.averageCharWidth()
    title = _elided(look.title_metrics, label or scene.title(local), 42 * letter)
    facts = [
        (name, _elided(look.metrics, value, 30 * letter)) for name, value in scene.facts(local)
    ]
    words = scene.promotes(local)
    said = [scene.title(local)] if label else []
    said += [f"promotes {words}"] if words else []
    lines = [_elided(look.metrics, line, 42 * letter) for line in said]
    name_width = max(look.metrics.horizontalAdvance(name) for name, _ in facts) + 14
    value_width = max(look.metrics.horizontalAdvance(value) for _, value in facts)
    width = max(look.title_metrics.horizontalAdvance(title), name_width + value_width)
    width = max([width, *(look.metrics.horizontalAdvance(line) for line in lines)]) + 24
    step = look.metrics.height() + 2
    height = look.title_metrics.height() + step * (len(facts) + len(lines)) + 24
    box = card_place(frame, frame.at(local), width, height)
    painter.setPen(QPen(look.border, 1))
    painter.setBrush(look.raised)
    painter.drawRoundedRect(box, 7, 7)
    x, y = box.left() + 12, box.top() + 9
    _write(painter, look.title, look.text, x, y, title, look.title_metrics)
    y += look.title_metrics.height() + 2
    for line in lines:
        _write(painter, look.font, look.muted, x, y, line, look.metrics)
        y += step
    y += 3
    for name, value in facts:
        _write(painter, look.font, look.muted, x, y, name, look.metrics)
        _write(painter, look.font, look.text, x + name_width, y, value, look.metrics)
        y += step


def _write_token(
    painter: QPainter, metrics: QFontMetricsF, colour: QColor, box: QRectF, text: str
) -> None:
    """Write a word into its box. What does not fit ends in an ellipsis, or fades where that would
    leave next to no letters."""
    painter.setPen(colour)
    shown = _elided(metrics, text, box.width())
    if shown == text or len(shown) > LEAST_LETTERS:
        painter.drawText(box, _CENTRED, shown)
        return
    fading = QLinearGradient(box.topLeft(), box.topRight())
    clear = QColor(colour)
    clear.setAlphaF(0.0)
    for at, shade in ((0.0, colour), (0.55, colour), (1.0, clear)):
        fading.setColorAt(at, shade)
    painter.setPen(QPen(QBrush(fading), 1))
    painter.drawText(box, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)


def _elided(metrics: QFontMetricsF, text: str, room: float) -> str:
    return metrics.elidedText(text, Qt.TextElideMode.ElideRight, room)


def _write(
    painter: QPainter,
    font: QFont,
    colour: QColor,
    x: float,
    y: float,
    text: str,
    metrics: QFontMetricsF,
) -> None:
    painter.setFont(font)
    painter.setPen(colour)
    painter.drawText(QPointF(x, y + metrics.ascent()), text)


def card_place(frame: Frame, at: QPointF, width: float, height: float) -> QRectF:
    """Return where a card of that size stands: beside the point, and inside the picture."""
    x = at.x() + 16
    if x + width > frame.size[0] - 6:
        x = at.x() - 16 - width
    x = min(max(6.0, x), max(6.0, frame.size[0] - width - 6))
    y = min(max(6.0, at.y() - height / 2), max(6.0, frame.size[1] - height - 6))
    return QRectF(x, y, width, height)
