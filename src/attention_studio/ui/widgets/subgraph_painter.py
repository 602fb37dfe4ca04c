"""Paints the subgraph: the same code for the screen and for figures.

Some hundred boxes at most, so everything is painted straight, in the scene's own units; zoom is the
painter's transformation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPainterPath, QPen, QPolygonF

from attention_studio.ui.highlight import Role
from attention_studio.ui.text import percent
from attention_studio.ui.tokens import mix
from attention_studio.ui.widgets.graph_look import GraphLook, node_path, paint_node
from attention_studio.ui.widgets.role_look import paint_sign, role_pen
from attention_studio.ui.widgets.subgraph_scene import MAX_SIGNS, BoxWords, SubgraphScene

if TYPE_CHECKING:
    from attention_studio.ui.highlight import Highlight

PAD_X, PAD_Y = 9.0, 6.0
SIGN, SIGN_STEP = 4.6, 13.0
# Widths of boxes, in characters of their titles.
MIN_CHARACTERS, MAX_CHARACTERS = 11.0, 30.0
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True)
class SubgraphState:
    """What a person has to do with the picture just now.

    Attributes:
        selected: the box of the selected node.
        member: the selected node, where it is one of a supernode's.
        chosen: boxes that are chosen together.
        pointed: the box under the pointer or the keyboard's cursor.
        keyed: whether the keyboard led there.
        boxes: roles of highlighted boxes.
        links: roles of highlighted links, by source and target box.
        dim: whether everything that has no role steps back.
    """

    selected: Optional[int] = None
    member: Optional[int] = None
    chosen: frozenset[int] = frozenset()
    pointed: Optional[int] = None
    keyed: bool = False
    boxes: Mapping[int, Role] = field(default_factory=dict)
    links: Mapping[tuple[int, int], Role] = field(default_factory=dict)
    dim: bool = False

    @property
    def centre(self) -> Optional[int]:
        """The box whose links are told apart from the others."""
        return self.pointed if self.pointed is not None else self.selected


def roles_in(
    scene: SubgraphScene, highlight: Optional[Highlight]
) -> tuple[dict[int, Role], dict[tuple[int, int], Role]]:
    """What of a highlight a subgraph can show: a box that holds a named node, a link that stands
    for a named edge."""
    if highlight is None:
        return {}, {}
    box_of = {
        name: number
        for number in range(len(scene))
        for name in (*scene.subgraph.names(number), scene.keys[number])
    }
    boxes = {box_of[name]: role for name, role in highlight.nodes.items() if name in box_of}
    links = {
        (box_of[source], box_of[target]): role
        for (source, target), role in highlight.edges.items()
        if source in box_of and target in box_of and box_of[source] != box_of[target]
    }
    return boxes, links


# -- sizes ----------------------------------------------------------------------------------------


def box_size(words: BoxWords, look: GraphLook) -> tuple[float, float]:
    """Width and height that a box needs for what it says."""
    title = look.bold_metrics.horizontalAdvance(words.title)
    detail = look.small_metrics.horizontalAdvance(words.detail)
    signs = min(len(words.kinds), MAX_SIGNS + 1) * SIGN_STEP if len(words.kinds) > 1 else 0.0
    single = 2 * SIGN + 8.0 if len(words.kinds) == 1 else 0.0
    width = max(title + single, detail + single, signs) + 2 * PAD_X + 2
    height = look.bold_metrics.height() + look.small_metrics.height() + 2 * PAD_Y
    character = look.bold_metrics.averageCharWidth()
    return (
        float(np.ceil(min(MAX_CHARACTERS * character, max(MIN_CHARACTERS * character, width)))),
        float(np.ceil(height + (SIGN_STEP if signs else 0.0))),
    )


def box_rect(scene: SubgraphScene, box: int) -> QRectF:
    """Where a box stands."""
    width, height = float(scene.width[box]), float(scene.height[box])
    return QRectF(scene.x[box] - width / 2, scene.y[box] - height / 2, width, height)


def member_points(scene: SubgraphScene, box: int) -> list[QPointF]:
    """Where the signs of a supernode's members are drawn, lowest layer first; none for a node."""
    kinds = scene.words[box].kinds
    if not scene.subgraph.boxes[box].is_group:
        return []
    rect = box_rect(scene, box)
    y = rect.bottom() - PAD_Y - SIGN_STEP / 2 + 1
    room = int((rect.width() - 2 * PAD_X) / SIGN_STEP)
    count = min(len(kinds), MAX_SIGNS, max(1, room))
    return [QPointF(rect.left() + PAD_X + SIGN_STEP * (i + 0.5), y) for i in range(count)]


# -- painting -------------------------------------------------------------------------------------


def paint_subgraph(
    painter: QPainter,
    scene: SubgraphScene,
    look: GraphLook,
    state: SubgraphState,
    smooth: bool = True,
) -> None:
    """Paint links, then boxes, then what must not be covered."""
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, smooth)
    paint_links(painter, scene, look, state)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    paint_boxes(painter, scene, look, state)
    paint_marks(painter, scene, look, state)


def paint_boxes(
    painter: QPainter, scene: SubgraphScene, look: GraphLook, state: SubgraphState
) -> None:
    """Paint the boxes."""
    touched = _touched(scene, state)
    for box in range(len(scene)):
        _paint_box(painter, scene, look, state, box, dim=touched is not None and box not in touched)


def paint_marks(
    painter: QPainter, scene: SubgraphScene, look: GraphLook, state: SubgraphState
) -> None:
    """Paint what lies above all boxes: the ring of the one that is pointed at, the shares of the
    links at the centre, and the signs of what is highlighted."""
    if state.pointed is not None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(look.focus if state.keyed else look.text, 2.0 if state.keyed else 1.2))
        rect = box_rect(scene, state.pointed)
        painter.drawRoundedRect(rect.adjusted(-2.5, -2.5, 2.5, 2.5), 9, 9)
    if state.centre is not None:
        for link in scene.touching(state.centre):
            if (int(scene.source[link]), int(scene.target[link])) not in state.links:
                _paint_share(painter, look, _middle(scene, int(link)), float(scene.share[link]))
    for pair, role in state.links.items():
        found = np.flatnonzero((scene.source == pair[0]) & (scene.target == pair[1]))
        for link in found:
            paint_sign(painter, look.tokens, look.sign, role, _middle(scene, int(link)))
    for box, role in state.boxes.items():
        paint_sign(painter, look.tokens, look.sign, role, box_rect(scene, box).topRight())


def _touched(scene: SubgraphScene, state: SubgraphState) -> Optional[set[int]]:
    """The boxes that stay in full colour; None: all of them."""
    if state.dim and (state.boxes or state.links):
        ends = {end for link in state.links for end in link}
        return set(state.boxes) | ends | set(state.chosen)
    return None


def _bends(x0: float, y0: float, x1: float, y1: float) -> tuple[QPointF, QPointF]:
    """A link's two further points: it is upright at both ends, or, between boxes side by side,
    level."""
    if abs(y1 - y0) < 0.35 * abs(x1 - x0) and abs(y1 - y0) < 24.0:
        bend = 0.4 * (x1 - x0)
        return QPointF(x0 + bend, y0), QPointF(x1 - bend, y1)
    bend = 0.38 * (y1 - y0)
    return QPointF(x0, y0 + bend), QPointF(x1, y1 - bend)


def _middle(scene: SubgraphScene, link: int) -> QPointF:
    """Where the middle of a link's curve is."""
    x0, y0, x1, y1 = (float(end[link]) for end in scene.ends)
    first, second = _bends(x0, y0, x1, y1)
    return QPointF(
        (x0 + x1 + 3 * (first.x() + second.x())) / 8, (y0 + y1 + 3 * (first.y() + second.y())) / 8
    )


def paint_links(
    painter: QPainter,
    scene: SubgraphScene,
    look: GraphLook,
    state: SubgraphState,
    near: Optional[bool] = None,
) -> None:
    """Paint links, those at the centre last.

    Args:
        painter, scene, look, state: as for ``paint_subgraph``.
        near: paint all links as those that are not at the centre (False), or only those that are
            (True); None: each as it is.
    """
    source, target, share = scene.source, scene.target, scene.share
    ends = np.stack(scene.ends, axis=1).tolist()
    centre = state.centre
    at_centre = np.zeros(len(source), dtype=bool)
    if centre is not None and near is not False:
        at_centre = (source == centre) | (target == centre)
    marked = bool(state.links or state.boxes) and state.dim
    canvas = look.tokens.canvas
    for link in np.argsort(at_centre, kind="stable").tolist():
        here = bool(at_centre[link])
        if near is True and not here:
            continue
        role = state.links.get((int(source[link]), int(target[link])))
        faint = not here and (near is False or centre is not None or (marked and role is None))
        colour = mix(canvas, look.shares[look.share_level(float(share[link]))],
                     0.22 if faint else 1.0)  # fmt: skip
        width = 1.1 + 5.4 * float(np.sqrt(min(1.0, abs(share[link]))))
        pen = QPen(QColor(colour), width)
        pen.setCapStyle(Qt.PenCapStyle.FlatCap)
        if role is not None:
            pen = role_pen(look.tokens, role, width + 0.6)
        x0, y0, x1, y1 = ends[link]
        first, second = _bends(x0, y0, x1, y1)
        tip = QPointF(x1, y1)
        neck = _paint_head(painter, second, tip, pen.color(), width)
        path = QPainterPath(QPointF(x0, y0))
        path.cubicTo(first, second + (neck - tip), neck)
        painter.setPen(pen)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPath(path)


def _paint_head(
    painter: QPainter, before: QPointF, tip: QPointF, colour: QColor, width: float
) -> QPointF:
    """Paint the tip of an arrow that comes from the direction of ``before``; returns where its
    line is to end."""
    along = QPointF(tip.x() - before.x(), tip.y() - before.y())
    size = float(np.hypot(along.x(), along.y()))
    if size < 3.0:
        return tip
    along /= size
    reach, half = 4.5 + 1.3 * width, 2.2 + 0.75 * width
    back = tip - along * reach
    side = QPointF(-along.y() * half, along.x() * half)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawPolygon(QPolygonF([tip, back + side, back - side]))
    return tip - along * (reach - 0.8)


def _paint_box(
    painter: QPainter,
    scene: SubgraphScene,
    look: GraphLook,
    state: SubgraphState,
    box: int,
    dim: bool,
) -> None:
    t, words = look.tokens, scene.words[box]
    rect = box_rect(scene, box)
    group = scene.subgraph.boxes[box].is_group
    chosen = box in state.chosen
    if group:
        # A second sheet behind says that there are several.
        painter.setPen(QPen(look.border, 1.0))
        painter.setBrush(QColor(t.sunken))
        painter.drawRoundedRect(rect.translated(3.0, -3.0), 7, 7)
    painter.setBrush(QColor(t.accent_soft if chosen else t.raised))
    edge = QPen(look.border, 1.0)
    role = state.boxes.get(box)
    if role is not None:
        edge = role_pen(t, role, 2.0)
    elif box == state.selected:
        edge = QPen(look.accent, 2.0)
    elif chosen:
        edge = QPen(look.accent, 1.5)
        edge.setDashPattern([2.5, 1.8])
    painter.setPen(edge)
    painter.drawRoundedRect(rect, 7, 7)
    text = QColor(mix(t.raised, t.text, 0.45)) if dim else look.text
    small = QColor(mix(t.raised, t.muted, 0.5)) if dim else look.muted
    inner = rect.adjusted(PAD_X, PAD_Y, -PAD_X, -PAD_Y)
    if not group:
        kind = words.kinds[0]
        at = QPointF(inner.left() + SIGN, rect.center().y())
        fill = mix(t.raised, look.kinds[kind], 0.4 if dim else 1.0)
        paint_node(painter, kind, at, SIGN, QColor(fill), QColor(t.raised))
        inner.setLeft(inner.left() + 2 * SIGN + 8.0)
    line = QRectF(inner.left(), inner.top(), inner.width(), look.bold_metrics.height())
    _write(painter, look.bold_metrics, line, words.title, text, look.bold)
    line = QRectF(inner.left(), line.bottom(), inner.width(), look.small_metrics.height())
    _write(painter, look.small_metrics, line, words.detail, small, look.small)
    if group:
        _paint_members(painter, scene, look, state, box, dim)
    if scene.placed[box]:
        # A drawing pin of a few pixels: this box stays where it was put.
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.muted)
        painter.drawRect(QRectF(rect.left() - 2.0, rect.top() - 2.0, 5.0, 5.0))


def _paint_members(
    painter: QPainter,
    scene: SubgraphScene,
    look: GraphLook,
    state: SubgraphState,
    box: int,
    dim: bool,
) -> None:
    words, held = scene.words[box], scene.subgraph.boxes[box]
    points = member_points(scene, box)
    raised = look.tokens.raised
    for at, kind, node in zip(points, words.kinds, held.nodes):  # noqa: B905 as many as fit
        fill = QColor(mix(raised, look.kinds[kind], 0.4 if dim else 1.0))
        paint_node(painter, kind, at, SIGN, fill, QColor(raised))
        if node == state.member:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(look.accent, 1.6))
            painter.drawPath(node_path(kind, at, SIGN + 2.0))
    rest = len(words.kinds) - len(points)
    if rest > 0 and points:
        last = points[-1]
        line = QRectF(last.x() + SIGN_STEP / 2, last.y() - SIGN_STEP, 40.0, 2 * SIGN_STEP)
        _write(painter, look.small_metrics, line, f"+{rest}", look.muted, look.small)


def _paint_share(painter: QPainter, look: GraphLook, at: QPointF, share: float) -> None:
    """Write a link's share on a small plate."""
    text = ("+" if share >= 0 else "\N{MINUS SIGN}") + percent(abs(share))
    width = look.small_metrics.horizontalAdvance(text) + 8
    height = look.small_metrics.height() + 1
    box = QRectF(at.x() - width / 2, at.y() - height / 2, width, height)
    painter.setPen(QPen(look.share_colour(share), 1.0))
    painter.setBrush(look.raised)
    painter.drawRoundedRect(box, 4, 4)
    painter.setFont(look.small)
    painter.setPen(look.text)
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)


def _write(
    painter: QPainter,
    metrics: QFontMetricsF,
    box: QRectF,
    text: str,
    colour: QColor,
    font: QFont,
) -> None:
    painter.setFont(font)
    painter.setPen(colour)
    shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width())
    painter.drawText(box, _LEFT | Qt.TextFlag.TextSingleLine, shown)


def paint_card(
    painter: QPainter, lines: list[str], look: GraphLook, boxes: list[QRectF], room: QRectF
) -> None:
    """Paint the card that says what a box is in that corner of ``room`` where it hides least.

    Beside its box it would hide what the box is linked to.

    Args:
        painter: paints on the widget.
        lines: what it says, a title first.
        look: fonts and colours.
        boxes: where the boxes are on the widget.
        room: of the widget.
    """
    metrics = look.metrics
    shown = [metrics.elidedText(line, Qt.TextElideMode.ElideRight, 280) for line in lines]
    width = (
        max(
            [look.title_metrics.horizontalAdvance(shown[0])]
            + [metrics.horizontalAdvance(line) for line in shown[1:]]
        )
        + 24
    )
    height = look.title_metrics.height() + (metrics.height() + 2) * (len(shown) - 1) + 20
    corners = [
        QRectF(x, y, width, height)
        for y in (room.bottom() - height - 6, room.top() + 6)
        for x in (room.left() + 6, room.right() - width - 6)
    ]
    box = min(corners, key=lambda corner: sum(corner.intersects(other) for other in boxes))
    painter.setPen(QPen(look.border, 1))
    painter.setBrush(look.raised)
    painter.drawRoundedRect(box, 7, 7)
    line_at = box.top() + 8
    for number, line in enumerate(shown):
        font, own = (look.title, look.title_metrics) if not number else (look.font, metrics)
        painter.setFont(font)
        painter.setPen(look.text if number < 2 else look.muted)
        place = QRectF(box.left() + 12, line_at, width - 24, own.height())
        painter.drawText(place, _LEFT | Qt.TextFlag.TextSingleLine, line)
        line_at += own.height() + 2
