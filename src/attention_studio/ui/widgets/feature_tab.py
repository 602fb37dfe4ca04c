"""The selected feature in detail, beside its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from attention_studio.ui.widgets.controls import label
from attention_studio.ui.widgets.feature_detail import FeatureDetail

if TYPE_CHECKING:
    from attention_studio.ui.theme import Theme


class FeatureTab(QWidget):
    """The tab: the same detail as in the Features dock, or what to do to see one.

    ``wanted`` carries the name of the node whose feature is to be shown, "" for none; whoever
    holds the tab fills ``detail`` (see ``FeatureLookup``).
    """

    wanted = Signal(str)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("featureTab")
        self.setAccessibleName("The selected feature in detail")
        self._name: Optional[str] = None
        self.says = label(
            "Select a feature to see where it fires and what it says.", "caption",
            name="graph.feature.says", wrap=True,
        )  # fmt: skip
        self.says.setContentsMargins(10, 6, 10, 0)
        self.detail = FeatureDetail(theme, "graph.feature", headless=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.says)
        layout.addWidget(self.detail, 1)
        layout.addStretch(0)
        self._show(False)

    def show_node(self, name: Optional[str]) -> None:
        """Be about another node."""
        is_feature = name is not None and "/F" in name
        if name != self._name:
            self._name = name
            self.wanted.emit(name if name is not None and is_feature else "")
        self._show(is_feature)

    def _show(self, is_feature: bool) -> None:
        self.says.setVisible(not is_feature)
        self.detail.setVisible(is_feature)
