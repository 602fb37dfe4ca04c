"""What the Model dock says about a loaded model: its numbers and its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Qt
from PySide6.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QStackedLayout,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui import text
from attention_studio.ui.widgets.columns_model import ColumnsModel
from attention_studio.ui.widgets.controls import CommandButton, ElidedLabel, label, named, row

if TYPE_CHECKING:
    from attention_studio.core.model_records import LayerInfo, ModelInfo
    from attention_studio.ui.commands import Commands


class LayerTable(ColumnsModel):
    """The layers of a model, one per row."""

    HEADS = ("Layer", "Parameters", "Attention", "MLP")

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._layers: tuple[LayerInfo, ...] = ()

    def set_layers(self, layers: tuple[LayerInfo, ...]) -> None:
        """Show these layers."""
        self.beginResetModel()
        self._layers = layers
        self.endResetModel()

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._layers)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """One cell."""
        if not index.isValid():
            return None
        layer = self._layers[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (
                str(layer.index),
                text.count(layer.n_parameters),
                layer.attention,
                layer.mlp,
            )[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return (
                f"Layer {layer.index}: attention {text.count(layer.attention_parameters)} "
                f"({layer.attention}), MLP {text.count(layer.mlp_parameters)} ({layer.mlp})"
            )
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() == 1:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None


class ModelDescriptionPanel(QWidget):
    """Facts of the loaded model, or a line that says that there is none."""

    def __init__(self, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._name = ElidedLabel("", "title")
        self._source = ElidedLabel("", "caption", Qt.TextElideMode.ElideMiddle)
        self._facts = QGridLayout()
        self._facts.setContentsMargins(0, 0, 0, 0)
        self._facts.setHorizontalSpacing(14)
        self._facts.setVerticalSpacing(3)
        self._values: dict[str, ElidedLabel] = {}
        for number, fact in enumerate(
            ("Parameters", "Shape", "Heads", "Vocabulary", "Context", "Start token", "Runs on",
             "Weights")
        ):  # fmt: skip
            value = ElidedLabel()
            value.setObjectName(f"model.fact.{number}")
            value.setAccessibleName(fact)
            self._values[fact] = value
            self._facts.addWidget(label(fact, "caption"), number, 0)
            self._facts.addWidget(value, number, 1)
        self._facts.setColumnStretch(1, 1)
        self._layers = LayerTable(self)
        self._table = QTableView()
        named(self._table, "model.layers", "Layers of the model", "What each layer is made of")
        self._table.setModel(self._layers)
        self._table.verticalHeader().hide()
        self._table.setShowGrid(False)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setMinimumHeight(140)
        header = self._table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        release = CommandButton(commands, "model.release", text="Release", icon=False)
        loaded = QWidget()
        inner = QVBoxLayout(loaded)
        inner.setContentsMargins(0, 4, 0, 0)
        inner.setSpacing(6)
        inner.addLayout(row(self._name, release, stretch=0))
        inner.addWidget(self._source)
        inner.addLayout(self._facts)
        inner.addSpacing(2)
        inner.addWidget(self._table, 1)
        nothing = QWidget()
        empty = QVBoxLayout(nothing)
        empty.setContentsMargins(0, 10, 0, 0)
        hint = label(
            "No model is loaded. Load one to see what it is made of, run prompts through it and "
            "train transcoders on it. The built-in smollm2-135m runs on any laptop.",
            "muted",
            wrap=True,
            name="model.hint",
        )
        empty.addWidget(hint)
        empty.addStretch(1)
        self._stack = QStackedLayout(self)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._stack.addWidget(nothing)
        self._stack.addWidget(loaded)

    def show_model(self, info: Optional[ModelInfo], layers: tuple[LayerInfo, ...]) -> None:
        """Describe the model, or say that there is none."""
        self._stack.setCurrentIndex(0 if info is None else 1)
        self._layers.set_layers(layers)
        if info is None:
            return
        self._name.set_whole(info.name)
        self._source.set_whole(info.source)
        heads = f"{info.n_heads} of width {info.d_head}"
        if info.n_kv_heads != info.n_heads:
            heads += f", {info.n_kv_heads} key/value"
        facts = {
            "Parameters": f"{text.count(info.n_parameters)} ({info.family})",
            "Shape": f"{info.n_layers} layers, width {info.d_model}, MLP {info.d_mlp}",
            "Heads": heads,
            "Vocabulary": f"{info.vocab_size:,} tokens",
            "Context": f"{info.context_length:,} tokens",
            "Start token": info.start_token or "none",
            "Runs on": f"{info.device}, {info.dtype}, {text.size(info.memory_bytes)}",
            "Weights": info.weights_hash[:16],
        }
        for fact, value in facts.items():
            self._values[fact].set_whole(value)
        self._values["Weights"].setToolTip(f"SHA-256 {info.weights_hash}")
