"""Finds text that cannot be read because its widget is too small or lies outside its place."""

from __future__ import annotations

from typing import Optional

from PySide6.QtCore import QPoint, QRect
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QStyle,
    QStyleOptionComboBox,
    QTabBar,
    QTableView,
    QToolButton,
    QTreeView,
    QWidget,
)

from attention_studio.ui.widgets.controls import ElidedLabel

_SLACK = 1
"""Pixels that rounding may cost."""
_TAB_PADDING = 16
"""What the style sheet leaves beside the text of a tab, or a little less."""


def clipped(root: QWidget) -> list[str]:
    """What is cut or squeezed among the visible widgets below ``root``, each in a sentence.

    Text that ends in an ellipsis on purpose (``ElidedLabel``, cells of tables) is not counted, nor
    what one can scroll to.
    """
    found = []
    for widget in root.findChildren(QWidget):
        if not widget.isVisible() or widget.window() is not root.window() or _behind(widget):
            continue
        said = _squeezed(widget) or _outside(widget) or _wider(widget)
        if said:
            name = widget.objectName() or _words(widget)[:40]
            found.append(f"{type(widget).__name__} {name!r}: {said}")
    return found


def _behind(widget: QWidget) -> bool:
    """Whether it is in a dock that lies behind another one, where Qt leaves it as it was."""
    above: Optional[QWidget] = widget
    while above is not None and not isinstance(above, QDockWidget):
        above = above.parentWidget()
    return above is not None and above.visibleRegion().isEmpty()


def _words(widget: QWidget) -> str:
    if isinstance(widget, QComboBox):
        return widget.currentText()
    if isinstance(widget, (QLabel, QAbstractButton, QLineEdit)):
        return widget.text()
    return ""


def _less(has: int, needs: int, what: str) -> Optional[str]:
    return f"{what} {has}, needs {needs}" if has + _SLACK < needs else None


def _squeezed(widget: QWidget) -> Optional[str]:
    """Whether a widget has less room than its text takes."""
    if isinstance(widget, QLabel):
        return _label(widget)
    if isinstance(widget, (QPushButton, QCheckBox, QToolButton)):
        if not widget.text():
            return None
        hint = widget.sizeHint()
        return _less(widget.width(), hint.width(), "width") or _less(
            widget.height(), hint.height(), "height"
        )
    letters = widget.fontMetrics()
    if isinstance(widget, QComboBox):
        option = QStyleOptionComboBox()
        widget.initStyleOption(option)
        field = widget.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            widget,
        )
        wide = 0 if widget.isEditable() else letters.horizontalAdvance(widget.currentText())
        return _less(field.width(), wide, "width") or _less(
            field.height(), letters.height(), "height"
        )
    if isinstance(widget, QAbstractSpinBox):
        line = widget.lineEdit()
        wide = letters.horizontalAdvance(line.text())
        return _less(line.width(), wide, "width") or _less(
            line.height(), letters.height(), "height"
        )
    if isinstance(widget, QLineEdit):
        return _less(widget.height(), letters.height(), "height")
    if isinstance(widget, QTableView):
        row = widget.rowHeight(0) if widget.model() and widget.model().rowCount() else None
        head = widget.horizontalHeader()
        return (None if not row else _less(row, letters.height(), "row")) or (
            None if head.isHidden() else _less(head.height(), head.sizeHint().height(), "header")
        )
    if isinstance(widget, QTreeView) and widget.model() and widget.model().rowCount():
        return _less(
            widget.visualRect(widget.model().index(0, 0)).height(), letters.height(), "row"
        )
    if isinstance(widget, QTabBar) and widget.count():
        cut = [
            widget.tabText(tab)
            for tab in range(widget.count())
            if widget.tabRect(tab).width() + _SLACK < letters.horizontalAdvance(widget.tabText(tab))
        ]
        return f"tabs are cut: {', '.join(cut)}" if cut else None
    return None


def _label(widget: QLabel) -> Optional[str]:
    if isinstance(widget, ElidedLabel):
        return _less(widget.height(), widget.fontMetrics().height(), "height")
    if not widget.text():
        return None
    if widget.wordWrap():
        needs = widget.heightForWidth(widget.width())
        return _less(widget.height(), needs, f"height (at width {widget.width()})")
    hint = widget.sizeHint()
    return _less(widget.width(), hint.width(), "width") or _less(
        widget.height(), hint.height(), "height"
    )


def _outside(widget: QWidget) -> Optional[str]:
    """Whether what says something lies partly outside of what it is in."""
    if not isinstance(widget, (QLabel, QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox)):
        return None
    if isinstance(widget, QLabel) and not widget.text():
        return None
    parent = widget.parentWidget()
    while parent is not None and not parent.isWindow():
        inside = QRect(widget.mapTo(parent, QPoint(0, 0)), widget.size())
        above = parent.parentWidget()
        if isinstance(above, QAbstractScrollArea) and parent is above.viewport():
            return None
        if inside.right() > parent.width() + _SLACK or inside.bottom() > parent.height() + _SLACK:
            return (
                f"{inside.right() - parent.width()} to the right and "
                f"{inside.bottom() - parent.height()} below of "
                f"{type(parent).__name__} {parent.objectName()!r}"
            )
        parent = above
    return None


def _wider(widget: QWidget) -> Optional[str]:
    """Whether a form is wider than what one scrolls it in, which has no way to the right."""
    if not isinstance(widget, QScrollArea) or widget.widget() is None:
        return None
    if widget.horizontalScrollBar().maximum() and not widget.horizontalScrollBar().isVisible():
        return f"content is {widget.horizontalScrollBar().maximum()} wider than there is room"
    return None
