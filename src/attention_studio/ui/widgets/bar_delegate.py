"""Paints a signed number in a table cell as a bar behind its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Union

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, QRectF, Qt
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import QApplication, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from attention_studio.ui.tokens import mix

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme

# What a model answers with how long the bar is: a number in [−1, 1], by its sign blue or orange.
BAR_ROLE = int(Qt.ItemDataRole.UserRole) + 7


class BarDelegate(QStyledItemDelegate):
    """Draws the bar that ``BAR_ROLE`` asks for; cells without one are drawn as usual.

    The bar grows from the left; its colour says the sign, and so does the number itself.
    """

    def __init__(self, theme: Theme, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: Union[QModelIndex, QPersistentModelIndex],
    ) -> None:
        """Paint the cell's ground, the bar, then the text."""
        share = index.data(BAR_ROLE)
        if share is None:
            super().paint(painter, option, index)
            return
        filled = QStyleOptionViewItem(option)
        self.initStyleOption(filled, index)
        text, filled.text = filled.text, ""
        style = filled.widget.style() if filled.widget is not None else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, filled, painter, filled.widget)
        t = self._theme.tokens
        box = QRectF(option.rect).adjusted(4, 4, -4, -4)
        length = box.width() * min(1.0, abs(float(share)))
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(mix(t.surface, t.positive if share >= 0 else t.negative, 0.28)))
        painter.drawRoundedRect(QRectF(box.left(), box.top(), max(2.0, length), box.height()), 3, 3)
        painter.setPen(QColor(t.text))
        painter.setFont(filled.font)
        flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(box.adjusted(2, 0, -2, 0), flags, text)
        painter.restore()
