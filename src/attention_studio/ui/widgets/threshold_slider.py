"""A slider over a share of influence, with its name and its value."""

from __future__ import annotations

import math
from typing import Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QSlider, QWidget

from attention_studio.ui.widgets.controls import label, named

# Positions per whole: half a percent each.
STEPS = 200


class ThresholdSlider(QWidget):
    """Says ``moved`` with a share in [0, 1] whenever a person moves it, at once."""

    moved = Signal(float)

    def __init__(
        self, text: str, name: str, tip: str, share: float, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        named(self.slider, name, f"{text} threshold", tip)
        self.slider.setRange(0, STEPS)
        self.slider.setPageStep(STEPS // 20)
        self.slider.setMinimumWidth(48)
        self.slider.setMaximumWidth(200)
        self._caption = label(text, "caption")
        self._caption.setToolTip(tip)
        self._value = label("", "text", name=f"{name}.value")
        self._value.setToolTip(tip)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self._caption)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self._value)
        self.setMaximumWidth(320)
        self.set_share(share)
        self.slider.valueChanged.connect(self._on_moved)

    def text(self) -> str:
        """The value in words."""
        return f"{100 * self.share:g}%"

    @property
    def share(self) -> float:
        """The share that is set."""
        return self.slider.value() / STEPS

    def set_share(self, share: float) -> None:
        """Set the share without saying so."""
        blocked = self.slider.blockSignals(True)
        self.slider.setValue(round(share * STEPS))
        self.slider.blockSignals(blocked)
        self._write()

    def _write(self) -> None:
        # Room for the longest text, so that nothing moves while one drags.
        self._value.setMinimumWidth(self._value.fontMetrics().horizontalAdvance("99.5%"))
        self._value.setText(self.text())

    @Slot(int)
    def _on_moved(self, _value: int) -> None:
        self._write()
        self.moved.emit(self.share)


class DensitySlider(ThresholdSlider):
    """A slider over how often features may be active: decades, from one token in ten thousand to
    all."""

    DECADES = 4.0

    def __init__(self, text: str, name: str, tip: str, parent: Optional[QWidget] = None) -> None:
        super().__init__(text, name, tip, 1.0, parent)
        self.slider.setAccessibleName(f"{text}, at most")

    @property
    def share(self) -> float:
        """The density that is set; 1 lets everything through."""
        return float(10.0 ** (self.DECADES * (self.slider.value() / STEPS - 1.0)))

    def set_share(self, share: float) -> None:
        """Set the density without saying so."""
        decades = math.log10(max(share, 10.0**-self.DECADES)) / self.DECADES
        super().set_share(1.0 + decades)

    def text(self) -> str:
        """The value in words."""
        return "all" if self.share >= 1.0 else f"{100 * self.share:.2g}%"
