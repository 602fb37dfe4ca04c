"""The fields that forms are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, TypeVar, Union

from PySide6.QtCore import QEvent, QLocale, QObject, QSize, Qt, Slot
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLayout,
    QScrollArea,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.widgets.controls import label, line, named

_Spin = TypeVar("_Spin", bound=QAbstractSpinBox)
_Whole = TypeVar("_Whole", bound=QSpinBox)


class MultipleSpin(QSpinBox):
    """A whole number that is kept a multiple of another one."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._of, self._step = 1, step
        self.editingFinished.connect(self._round)

    def set_multiple(self, of: int) -> None:
        """Keep the value a multiple of ``of`` from now on."""
        self._of = max(1, of)
        self.setSingleStep(self._of * max(1, round(self._step / self._of)))
        self._round()

    def rounded(self) -> int:
        """The multiple nearest to what is typed, at least one of them."""
        return self._of * max(1, round(self.value() / self._of))

    @Slot()
    def _round(self) -> None:
        self.setValue(self.rounded())


class ElidedCombo(QComboBox):
    """A choice whose words end in an ellipsis where there is no room for all of them: a style sheet
    cuts them off in the middle of a letter."""

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint frame and arrow as ever, and as much of the words as there is room for."""
        painter = QStylePainter(self)
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        field = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        letters, text = self.fontMetrics(), option.currentText
        # Where Qt makes it as wide as its words, it may be one pixel short of them.
        if letters.horizontalAdvance(text) > field.width() + 1:
            option.currentText = letters.elidedText(
                text, Qt.TextElideMode.ElideRight, field.width()
            )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


def spin(
    name: str, accessible: str, value: int, low: int, high: int, step: int, tip: str,
    *, none: str = "",
) -> QSpinBox:  # fmt: skip
    """A field for whole numbers; ``none`` is what it says at its lowest value."""
    return _dress(QSpinBox(), name, accessible, value, low, high, step, tip, none=none)


def multiple_spin(
    name: str, accessible: str, value: int, low: int, high: int, step: int, tip: str
) -> MultipleSpin:
    """A field for whole numbers that are kept multiples of another one."""
    return _dress(MultipleSpin(step), name, accessible, value, low, high, step, tip)


def _dress(
    made: _Whole, name: str, accessible: str, value: int, low: int, high: int, step: int,
    tip: str, *, none: str = "",
) -> _Whole:  # fmt: skip
    made.setRange(low, high)
    made.setSingleStep(step)
    made.setValue(value)
    made.setGroupSeparatorShown(True)
    return _finish(made, name, accessible, tip, none)


def share_spin(
    name: str, accessible: str, value: float, high: float, step: float, decimals: int, tip: str
) -> QDoubleSpinBox:
    """A field for a number from zero on."""
    made = QDoubleSpinBox()
    made.setLocale(QLocale.c())
    made.setDecimals(decimals)
    made.setRange(0.0, high)
    made.setSingleStep(step)
    made.setValue(value)
    return _finish(made, name, accessible, tip, "")


def _finish(made: _Spin, name: str, accessible: str, tip: str, none: str) -> _Spin:
    if none:
        made.setSpecialValueText(none)
    # The wheel scrolls the form; it must not change a setting that happens to lie in its way.
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    made.setMinimumWidth(60)
    return named(inset(made), name, accessible, tip)


def inset(made: _Spin) -> _Spin:
    """Keep a spin box's text off its edge.

    A style sheet's padding does not reach the text of one whose buttons it draws.
    """
    made.lineEdit().setTextMargins(6, 0, 0, 0)
    return made


def combo(
    name: str,
    accessible: str,
    tip: str,
    choices: Iterable[tuple[str, Optional[str]]],
    *,
    whole: bool = False,
) -> QComboBox:
    """A field for one of several choices: what is shown, and its value.

    Unless it is ``whole`` it is as narrow as the form wants it; the list that pops up shows the
    choices whole.
    """
    made = ElidedCombo()
    for shown, value in choices:
        made.addItem(shown, value)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    policy = QComboBox.SizeAdjustPolicy
    made.setSizeAdjustPolicy(
        policy.AdjustToContents if whole else policy.AdjustToMinimumContentsLengthWithIcon
    )
    # Of nought Qt makes the longest choice the least.
    made.setMinimumContentsLength(0 if whole else 6)
    return named(made, name, accessible, tip)


def grid(*pairs: tuple[str, QWidget]) -> QGridLayout:
    """Fields two by two, each below its caption."""
    made = QGridLayout()
    made.setContentsMargins(0, 0, 0, 0)
    made.setHorizontalSpacing(8)
    made.setVerticalSpacing(3)
    for number, (caption, widget) in enumerate(pairs):
        top, column = 2 * (number // 2), number % 2
        made.addWidget(label(caption, "caption"), top, column)
        made.addWidget(widget, top + 1, column)
    made.setColumnStretch(0, 1)
    made.setColumnStretch(1, 1)
    return made


class FormArea(QScrollArea):
    """A form that scrolls up and down, and asks for the width that all of it needs."""

    def __init__(self, form: QWidget, least: int = 0) -> None:
        super().__init__()
        self._least = least
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(form)

    def minimumSizeHint(self) -> QSize:
        """As wide as the form must be to be read, bar included."""
        form = self.widget()
        wide = 0 if form is None else form.minimumSizeHint().width()
        wide += self.verticalScrollBar().sizeHint().width()
        return QSize(max(self._least, wide), super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:
        """Never narrower than what it must have."""
        return super().sizeHint().expandedTo(self.minimumSizeHint())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ask for another width when the form needs another one."""
        if watched is self.widget() and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def form_column(
    form: QWidget, name: str, accessible: str, *foot: Union[QWidget, QLayout]
) -> QWidget:
    """A form that scrolls, and below it what stays in sight."""
    area = named(FormArea(form, 270), name, accessible)
    below = QVBoxLayout()
    below.setContentsMargins(12, 6, 12, 10)
    below.setSpacing(6)
    for item in foot:
        if isinstance(item, QLayout):
            below.addLayout(item)
        else:
            below.addWidget(item)
    column = QWidget()
    column.setObjectName("formBody")
    layout = QVBoxLayout(column)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(0)
    layout.addWidget(area, 1)
    layout.addWidget(line())
    layout.addLayout(below)
    return column
