"""How the roles of a ``Highlight`` look wherever a graph is drawn: a colour, a pen and a mark each.

Colour is never the only carrier of meaning: lines differ in their dashes, and every role has a sign
of its own that is written beside its nodes and edges.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPen

from attention_studio.ui.highlight import Role
from attention_studio.ui.tokens import Tokens


@dataclass(frozen=True)
class RoleLook:
    """How one role looks: the name of its token of colour, its dashes and its sign."""

    token: str
    dashes: tuple[float, ...]
    sign: str
    words: str


ROLE_LOOKS: dict[Role, RoleLook] = {
    Role.MARKED: RoleLook("accent", (), "•", "marked"),
    Role.FIRST: RoleLook("positive", (7.0, 3.0), "1", "only in the first, or stronger there"),
    Role.SECOND: RoleLook("negative", (2.0, 2.5), "2", "only in the second, or stronger there"),
    Role.CONFIRMED: RoleLook("success", (), "✓", "confirmed"),
    Role.REFUTED: RoleLook("error", (4.0, 3.0), "✗", "refuted"),
}


def role_colour(tokens: Tokens, role: Role) -> QColor:
    """The colour of a role."""
    return QColor(getattr(tokens, ROLE_LOOKS[role].token))


def role_pen(tokens: Tokens, role: Role, width: float) -> QPen:
    """The pen that draws edges and rings of a role, ``width`` pixels wide."""
    pen = QPen(role_colour(tokens, role), width)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    dashes = ROLE_LOOKS[role].dashes
    if dashes:
        # Qt counts dashes in widths of the pen.
        pen.setDashPattern([length / max(width, 1.0) * 1.6 for length in dashes])
    return pen


def paint_sign(painter: QPainter, tokens: Tokens, font: QFont, role: Role, at: QPointF) -> None:
    """Paint the sign of a role on a small disc around a point."""
    painter.setFont(font)
    radius = max(5.5, 0.46 * painter.fontMetrics().height())
    box = QRectF(at.x() - radius, at.y() - radius, 2 * radius, 2 * radius)
    painter.setPen(QPen(QColor(tokens.canvas), 1.2))
    painter.setBrush(role_colour(tokens, role))
    painter.drawEllipse(box)
    painter.setPen(QColor(tokens.on_accent))
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, ROLE_LOOKS[role].sign)
