"""What one sets above the link graph: thresholds, density, errors, links, zoom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from attention_studio.ui.widgets.controls import CommandButton, CommandTool, named
from attention_studio.ui.widgets.graph_scene import LinkMode
from attention_studio.ui.widgets.threshold_slider import DensitySlider, ThresholdSlider

if TYPE_CHECKING:
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.ui.commands import Commands

MODES = (
    ("All links", LinkMode.EITHER),
    ("Inputs", LinkMode.INPUTS),
    ("Outputs", LinkMode.OUTPUTS),
    ("Both pinned", LinkMode.PINNED),
)
# What the sliders need beside everything else, in heights of a line.
_SLIDERS_EMS = 22
_DENSITY_TIP = (
    "Hide features that are active at more than this share of the tokens of texts that the model "
    "wrote itself: what is always active says little about this prompt"
)


class GraphControls(QWidget):
    """The controls, in one row or two.

    ``thresholds_moved`` and ``shown_changed`` (density, errors) ask for another scene,
    ``mode_changed`` carries a ``LinkMode``.
    """

    thresholds_moved = Signal()
    shown_changed = Signal()
    mode_changed = Signal(object)

    def __init__(
        self, commands: Commands, thresholds: tuple[float, float], parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        node, edge = thresholds
        self.node_slider = ThresholdSlider(
            "Nodes", "graph.nodes",
            "Keep the fewest nodes that carry this share of the influence on the output", node,
        )  # fmt: skip
        self.edge_slider = ThresholdSlider(
            "Edges", "graph.edges",
            "Among those nodes, keep the fewest edges that carry this share of the influence", edge,
        )  # fmt: skip
        self.density_slider = DensitySlider("Density", "graph.density", _DENSITY_TIP)
        self.count_button = CommandButton(
            commands, "nodes.measure_density", look="quiet", text="Density"
        )
        self.count_button.setObjectName("graph.density.measure")
        self.errors = QCheckBox("Errors")
        named(self.errors, "graph.errors", "Show error nodes",
              "Show what the dictionaries do not explain, as diamonds")  # fmt: skip
        self.errors.setChecked(True)
        self.mode = QComboBox()
        named(self.mode, "graph.links", "Links that are drawn in colour",
              "Which edges are drawn in colour: inputs, outputs or both of the selected node, or "
              "those whose both ends are pinned")  # fmt: skip
        for text, mode in MODES:
            self.mode.addItem(text, mode)
        self.panel_button = CommandTool(commands, "graph.panel", "graph.panel")
        self._sliders = QHBoxLayout()
        self._sliders.setSpacing(10)
        self._sliders.addWidget(self.node_slider, 6)
        self._sliders.addWidget(self.edge_slider, 6)
        self._sliders.addWidget(self.density_slider, 5)
        self._rest = QWidget()
        rest = QHBoxLayout(self._rest)
        rest.setContentsMargins(0, 0, 0, 0)
        rest.setSpacing(10)
        rest.addWidget(self.count_button)
        rest.addWidget(self.errors)
        rest.addWidget(self.mode)
        rest.addStretch(1)
        # In a narrow dock everything but the sliders goes into a row of its own.
        self._below = QHBoxLayout()
        self._below.setSpacing(10)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 6, 8, 2)
        column.setSpacing(4)
        column.addLayout(self._sliders)
        column.addLayout(self._below)
        buttons = QHBoxLayout()
        buttons.setSpacing(0)
        for command_id, name in (
            ("graph.zoom_out", "graph.zoomOut"),
            ("graph.zoom_in", "graph.zoomIn"),
            ("graph.fit", "graph.fit"),
            ("graph.full_screen", "graph.fullScreen"),
        ):
            buttons.addWidget(CommandTool(commands, command_id, name))
        buttons.addWidget(self.panel_button)
        rest.addLayout(buttons)
        self._narrow = False
        self._sliders.addWidget(self._rest, 9)
        for slider in (self.node_slider, self.edge_slider):
            slider.moved.connect(self.thresholds_moved)
        self.density_slider.moved.connect(self.shown_changed)
        self.errors.toggled.connect(self.shown_changed)
        self.mode.currentIndexChanged.connect(self._on_mode)
        self.show_density(None)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """One row where there is room, two where there is not."""
        super().resizeEvent(event)
        least = self._rest.sizeHint().width() + _SLIDERS_EMS * self.fontMetrics().height()
        narrow = event.size().width() < least
        if narrow != self._narrow:
            self._narrow = narrow
            (self._below if narrow else self._sliders).addWidget(self._rest, 9)

    def show_density(self, density: Optional[FeatureDensity]) -> None:
        """Offer the slider where densities are known, else the command that counts them."""
        self.density_slider.setVisible(density is not None)
        self.count_button.setVisible(density is None)

    def show_thresholds(self, node: float, edge: float) -> None:
        """Set both thresholds without saying so."""
        self.node_slider.set_share(node)
        self.edge_slider.set_share(edge)

    @Slot(int)
    def _on_mode(self, index: int) -> None:
        self.mode_changed.emit(self.mode.itemData(index))
