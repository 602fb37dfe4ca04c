"""The settings of a training run that rarely need a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.training_config import TrainConfig
from attention_studio.ui.widgets.controls import label, named
from attention_studio.ui.widgets.form_fields import combo, grid, share_spin, spin

if TYPE_CHECKING:
    from attention_studio.core.model_records import ModelInfo

_INITS = (("At zero", "zero"), ("From the MLP's response", "response"))
_STORES = (("Automatic", "auto"), ("In memory", "memory"), ("On disk", "disk"))
_DTYPES = (("Automatic", "auto"), ("float32", "float32"), ("bfloat16", "bfloat16"))


def default(name: str) -> Any:
    """What a setting is unless somebody says otherwise."""
    return TrainConfig.model_fields[name].default


class MoreTrainSettings(QWidget):
    """The lower part of the form. ``changed`` is emitted at every change of a setting."""

    changed = Signal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.seq_len = spin(
            "train.seq_len", "Tokens per sequence", default("seq_len"), 8, 4096, 32,
            "Length of the text's pieces",
        )  # fmt: skip
        self.warmup = spin(
            "train.warmup", "Warm-up steps", default("warmup_steps"), 0, 100_000, 10,
            "Steps of rising learning rate",
        )  # fmt: skip
        self.block_tokens = spin(
            "train.block_tokens", "Tokens per harvest", default("block_tokens"), 256, 4_194_304,
            4096, "Activations that are shuffled together; more needs more memory",
        )  # fmt: skip
        self.buffer = combo(
            "train.buffer", "Where harvested activations are kept",
            "Automatic is on disk when they would take more than half of the free memory", _STORES,
        )  # fmt: skip
        self.heldout_tokens = spin(
            "train.heldout_tokens", "Held-out tokens", default("heldout_tokens"), 64, 1_000_000,
            1024, "Tokens that each evaluation measures on",
        )  # fmt: skip
        self.checkpoint_every = spin(
            "train.checkpoint_every", "Steps between checkpoints", default("checkpoint_every"), 1,
            100_000, 10, "A run can go on from its last checkpoint",
        )  # fmt: skip
        self.init = combo(
            "train.init", "Start of the decoder", "How a transcoder's decoder begins", _INITS
        )
        self.clt_store = combo(
            "train.clt_store", "Where a cross-layer transcoder's decoders are kept",
            "Automatic is on disk when they would take more than half of the free memory", _STORES,
        )  # fmt: skip
        self.k_start = spin(
            "train.k_start", "K at the start", 0, 0, 4096, 8,
            "More active latents at the start leave fewer of them dead; a Lorsa's K begins in the "
            "same proportion", none="As K",
        )  # fmt: skip
        self.k_anneal = spin(
            "train.k_anneal", "Share of the run over which K falls, in percent",
            round(100 * default("k_anneal_fraction")), 0, 100, 5,
            "How long K takes from its start to its end",
        )  # fmt: skip
        self.k_anneal.setSuffix("% of the run")
        self.auxk_coefficient = share_spin(
            "train.auxk_coefficient", "Weight of the AuxK loss", default("auxk_coefficient"), 1.0,
            0.01, 5, "How strongly dead latents are drawn back to what is unexplained; 0: not",
        )  # fmt: skip
        self.auxk = spin(
            "train.auxk", "Dead latents per token in the AuxK loss", 0, 0, 65_536, 16,
            "How many dead latents take part at each token", none="Half the width",
        )  # fmt: skip
        self.qk_heads = spin(
            "train.qk_heads", "QK heads of each Lorsa", 0, 0, 1024, 1,
            "Each serves the same number of latents", none="As the model",
        )  # fmt: skip
        self.qk_rate = share_spin(
            "train.qk_rate", "Learning rate of QK heads, as a share of the others'",
            default("qk_rate"), 1.0, 0.05, 3,
            "0 leaves a Lorsa's queries and keys as the model's own",
        )  # fmt: skip
        self.selection_dtype = combo(
            "train.selection_dtype", "Number format of the ranking",
            "In which TopK and BatchTopK rank latents; values and gradients are float32 either way",
            _DTYPES,
        )  # fmt: skip
        self.norm_aware = QCheckBox("By what is written")
        named(
            self.norm_aware,
            "train.norm_aware",
            "Rank latents by what they write",
            "Rank latents by activation times the length of their decoder rows, not by activation",
        )
        self._build()
        for field in self.findChildren(QSpinBox):
            field.valueChanged.connect(self._on_change)
        for share in self.findChildren(QDoubleSpinBox):
            share.valueChanged.connect(self._on_change)
        for choice in self.findChildren(QComboBox):
            choice.currentIndexChanged.connect(self._on_change)
        self.norm_aware.toggled.connect(self._on_change)

    def set_model(self, info: ModelInfo) -> None:
        """Fit the length of sequences to the model."""
        self.seq_len.setMaximum(info.context_length)
        self.seq_len.setValue(min(default("seq_len"), info.context_length))

    def sync(self, *, mlp: str, attention: bool, selects: bool) -> None:
        """Only what has an effect can be changed.

        Args:
            mlp: what replaces the MLPs: "transcoder", "clt" or "".
            attention: whether Lorsas replace attention.
            selects: whether latents are ranked (TopK and BatchTopK).
        """
        self.init.setEnabled(mlp == "transcoder")
        self.clt_store.setEnabled(mlp == "clt")
        for field in (self.k_start, self.k_anneal, self.selection_dtype):
            field.setEnabled(selects)
        self.norm_aware.setEnabled(selects and bool(mlp))
        self.qk_heads.setEnabled(attention)
        self.qk_rate.setEnabled(attention)

    def settings(self) -> dict[str, Any]:
        """The fields of ``TrainConfig`` that are set here; what has no effect keeps its default."""
        weight = self.auxk_coefficient.value()
        # The field rounds; unless it was touched the exact number is meant.
        usual = default("auxk_coefficient")
        return {
            "init": self.init.currentData(),
            "warmup_steps": self.warmup.value(),
            "seq_len": self.seq_len.value(),
            "block_tokens": self.block_tokens.value(),
            "buffer": self.buffer.currentData(),
            "clt_store": self.clt_store.currentData(),
            "heldout_tokens": self.heldout_tokens.value(),
            "checkpoint_every": self.checkpoint_every.value(),
            "k_start": (self.k_start.value() or None) if self.k_start.isEnabled() else None,
            "k_anneal_fraction": self.k_anneal.value() / 100,
            "auxk_coefficient": usual if abs(weight - usual) < 5e-6 else weight,
            "auxk": self.auxk.value() or None,
            "qk_heads": self.qk_heads.value() or None,
            "qk_rate": self.qk_rate.value(),
            "selection_dtype": self.selection_dtype.currentData(),
            "norm_aware": self.norm_aware.isChecked() and self.norm_aware.isEnabled(),
        }

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(
            grid(
                ("Tokens per sequence", self.seq_len),
                ("Warm-up steps", self.warmup),
                ("Tokens per harvest", self.block_tokens),
                ("Harvest is kept", self.buffer),
                ("Held-out tokens", self.heldout_tokens),
                ("Steps to checkpoint", self.checkpoint_every),
                ("Start of the decoder", self.init),
                ("CLT decoders are kept", self.clt_store),
            )
        )
        layout.addSpacing(4)
        layout.addWidget(label("Sparsity", "section"))
        layout.addLayout(
            grid(
                ("K at the start", self.k_start),
                ("K falls over", self.k_anneal),
                ("AuxK weight", self.auxk_coefficient),
                ("AuxK latents", self.auxk),
                ("Ranking in", self.selection_dtype),
                ("Ranking", self.norm_aware),
            )
        )
        layout.addSpacing(4)
        layout.addWidget(label("Lorsa attention", "section"))
        layout.addLayout(grid(("QK heads", self.qk_heads), ("QK learning rate", self.qk_rate)))

    @Slot()
    def _on_change(self) -> None:
        self.changed.emit()
