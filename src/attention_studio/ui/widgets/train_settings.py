"""The settings of a training run as a form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QLocale, QStandardPaths, Qt, Signal, Slot
from PySide6.QtGui import QDoubleValidator
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.widgets.controls import icon_button, label, named, push_button, row
from attention_studio.ui.widgets.text_sources import TextSources
from attention_studio.ui.work import TrainRequest
from attention_studio.utils.ranges import parse_ranges

if TYPE_CHECKING:
    from attention_studio.core.model_records import ModelInfo
    from attention_studio.ui.theme import Theme

ACTIVATIONS = (
    ("TopK: exactly K per token", "topk"),
    ("BatchTopK: K on average", "batchtopk"),
    ("JumpReLU: learned thresholds", "jumprelu"),
    ("ReLU", "relu"),
)
INITS = (("At zero", "zero"), ("From the MLP's response", "response"))
DEFAULT_LATENTS_FACTOR = 8


class TrainSettings(QWidget):
    """The form. ``changed`` is emitted at every change of a setting."""

    changed = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._info: Optional[ModelInfo] = None
        self._out_is_ours = True
        self.texts = TextSources(theme, "train.texts", "Texts to train on")
        self.heldout = QLineEdit()
        named(
            self.heldout,
            "train.heldout",
            "Held-out text",
            "A file or folder that is only measured on; empty: a part of the text is set aside",
        )
        self.heldout.setPlaceholderText("Set aside from the text")
        browse_heldout = icon_button(
            theme, "open", "train.heldout.browse", "Choose the held-out text", "Choose a file"
        )
        self.layers = QLineEdit("all")
        named(self.layers, "train.layers", "Layers", "Such as: all, or 0-5, 12")
        self.activation = QComboBox()
        named(
            self.activation,
            "train.activation",
            "Activation function",
            "How latents are made sparse",
        )
        for shown, value in ACTIVATIONS:
            self.activation.addItem(shown, value)
        self.d_latent = _spin(
            "train.d_latent", "Latents per layer", 4608, 16, 1 << 20, 256,
            "Features that each layer's dictionary can tell apart; eight times the width is usual",
        )  # fmt: skip
        self.k = _spin(
            "train.k", "K, active latents per token", 32, 1, 4096, 8,
            "How many features may be active at once",
        )  # fmt: skip
        self.tokens = _spin(
            "train.tokens", "Tokens to train on", 1_000_000, 2_048, 2_000_000_000, 100_000,
            "Per layer; the text is passed over again if it is shorter",
        )  # fmt: skip
        self.learning_rate = QLineEdit("0.004")
        named(
            self.learning_rate,
            "train.learning_rate",
            "Learning rate",
            "Peak rate of Adam; 0.001 to 0.004 suit short runs",
        )
        validator = QDoubleValidator(1e-8, 1.0, 10, self)
        validator.setLocale(QLocale.c())
        self.learning_rate.setValidator(validator)
        self.skip = QCheckBox("Skip connection")
        named(
            self.skip,
            "train.skip",
            "Skip connection",
            "A linear path past the latents: better reconstruction, and part of the graph",
        )
        self.seed = _spin(
            "train.seed", "Seed", 0, 0, 2_147_483_647, 1, "Same seed, same settings: same weights"
        )
        self._advanced_button = push_button(
            "More settings", "train.advanced", "Show the settings that rarely need a change",
            look="quiet",
        )  # fmt: skip
        self._advanced = QWidget()
        self.init = QComboBox()
        named(self.init, "train.init", "Start of the decoder", "How the decoder begins")
        for shown, value in INITS:
            self.init.addItem(shown, value)
        self.batch_tokens = _spin(
            "train.batch_tokens", "Tokens per step", 2048, 64, 65_536, 256, "Batch of one update"
        )
        self.seq_len = _spin(
            "train.seq_len", "Tokens per sequence", 128, 8, 4096, 32, "Length of the text's pieces"
        )
        self.warmup = _spin(
            "train.warmup", "Warm-up steps", 20, 0, 100_000, 10, "Steps of rising learning rate"
        )
        self.block_tokens = _spin(
            "train.block_tokens", "Tokens per harvest", 16_384, 256, 4_194_304, 4096,
            "Activations that are shuffled together; more needs more memory",
        )  # fmt: skip
        self.heldout_tokens = _spin(
            "train.heldout_tokens", "Held-out tokens", 4096, 64, 1_000_000, 1024,
            "Tokens that each evaluation measures on",
        )  # fmt: skip
        self.checkpoint_every = _spin(
            "train.checkpoint_every", "Steps between checkpoints", 50, 1, 100_000, 10,
            "A run can go on from its last checkpoint",
        )  # fmt: skip
        self.out_dir = QLineEdit()
        named(
            self.out_dir, "train.out_dir", "Folder of the result", "Where the transcoders are kept"
        )
        browse_out = icon_button(
            theme, "folder", "train.out_dir.browse", "Choose the folder of the result"
        )
        self._build(browse_heldout, browse_out)
        for edit in (self.heldout, self.layers, self.learning_rate):
            edit.textChanged.connect(self._on_change)
        self.out_dir.textEdited.connect(self._on_out_edited)
        for spin in self.findChildren(QSpinBox):
            spin.valueChanged.connect(self._on_change)
        for combo in (self.activation, self.init):
            combo.currentIndexChanged.connect(self._on_change)
        self.skip.toggled.connect(self._on_change)
        self.texts.changed.connect(self._on_change)
        self._advanced_button.clicked.connect(self._toggle_advanced)
        browse_heldout.clicked.connect(self._browse_heldout)
        browse_out.clicked.connect(self._browse_out)
        self.activation.currentIndexChanged.connect(self._on_activation)

    def set_model(self, info: Optional[ModelInfo]) -> None:
        """Fit the defaults to the model."""
        self._info = info
        if info is None:
            return
        self.d_latent.setValue(max(16, DEFAULT_LATENTS_FACTOR * info.d_model))
        self.seq_len.setMaximum(info.context_length)
        if self._out_is_ours:
            self.out_dir.setText(str(default_out_dir(info.name)))

    def settings(self) -> dict[str, Any]:
        """The fields of ``TrainConfig`` that the form sets.

        Raises:
            RangeError: the layers cannot be understood.
            ValueError: the learning rate is no number.
        """
        n_layers = self._info.n_layers if self._info is not None else 1
        return {
            "layers": parse_ranges(self.layers.text(), n_layers),
            "d_latent": self.d_latent.value(),
            "activation": self.activation.currentData(),
            "k": self.k.value(),
            "skip": self.skip.isChecked(),
            "init": self.init.currentData(),
            "tokens": self.tokens.value(),
            "batch_tokens": self.batch_tokens.value(),
            "learning_rate": float(self.learning_rate.text() or "nan"),
            "warmup_steps": self.warmup.value(),
            "seed": self.seed.value(),
            "seq_len": self.seq_len.value(),
            "block_tokens": self.block_tokens.value(),
            "heldout_tokens": self.heldout_tokens.value(),
            "checkpoint_every": self.checkpoint_every.value(),
        }

    def request(self) -> TrainRequest:
        """Everything that a run needs.

        Raises:
            As ``settings``.
        """
        heldout = self.heldout.text().strip()
        return TrainRequest(
            sources=self.texts.sources(),
            heldout_sources=(heldout,) if heldout else (),
            settings=tuple(self.settings().items()),
            out_dir=Path(self.out_dir.text().strip()).expanduser(),
        )

    def fresh_out_dir(self) -> None:
        """Suggest a new folder, so that the next run does not meet the last one's."""
        if self._info is not None and self._out_is_ours:
            self.out_dir.setText(str(default_out_dir(self._info.name)))

    def set_locked(self, locked: bool) -> None:
        """While a run goes on its settings cannot change."""
        for child in self.findChildren(QWidget):
            if child is not self._advanced_button and child.parent() is not None:
                child.setEnabled(not locked)
        self._advanced.setEnabled(True)
        if not locked:
            self._on_activation()

    # -- building -----------------------------------------------------------------------------

    def _build(self, browse_heldout: QWidget, browse_out: QWidget) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.setSpacing(4)
        layout.addWidget(label("Text", "section"))
        layout.addWidget(self.texts)
        layout.addWidget(label("Held-out text", "caption"))
        layout.addLayout(row(self.heldout, browse_heldout, stretch=0, spacing=4))
        layout.addSpacing(8)
        layout.addWidget(label("Dictionary", "section"))
        layout.addLayout(_grid(("Layers", self.layers), ("Latents per layer", self.d_latent)))
        layout.addWidget(label("Activation", "caption"))
        layout.addWidget(self.activation)
        layout.addLayout(_grid(("K", self.k), ("", self.skip)))
        layout.addSpacing(8)
        layout.addWidget(label("Training", "section"))
        layout.addLayout(
            _grid(
                ("Tokens", self.tokens),
                ("Learning rate", self.learning_rate),
                ("Seed", self.seed),
                ("Tokens per step", self.batch_tokens),
            )
        )
        advanced = QVBoxLayout(self._advanced)
        advanced.setContentsMargins(0, 0, 0, 0)
        advanced.setSpacing(4)
        advanced.addLayout(
            _grid(
                ("Tokens per sequence", self.seq_len),
                ("Warm-up steps", self.warmup),
                ("Tokens per harvest", self.block_tokens),
                ("Held-out tokens", self.heldout_tokens),
                ("Start of the decoder", self.init),
                ("Steps to checkpoint", self.checkpoint_every),
            )
        )
        self._advanced.hide()
        layout.addWidget(self._advanced_button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self._advanced)
        layout.addSpacing(4)
        layout.addWidget(label("Keep the result in", "caption"))
        layout.addLayout(row(self.out_dir, browse_out, stretch=0, spacing=4))
        layout.addStretch(1)

    # -- slots --------------------------------------------------------------------------------

    @Slot()
    def _on_change(self) -> None:
        self.changed.emit()

    @Slot()
    def _on_activation(self) -> None:
        self.k.setEnabled(self.activation.currentData() in ("topk", "batchtopk"))

    @Slot(str)
    def _on_out_edited(self, _text: str) -> None:
        self._out_is_ours = False

    @Slot()
    def _toggle_advanced(self) -> None:
        show = self._advanced.isHidden()
        self._advanced.setVisible(show)
        self._advanced_button.setText("Fewer settings" if show else "More settings")

    @Slot()
    def _browse_heldout(self) -> None:
        dialog = QFileDialog(self, "Choose the held-out text")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.heldout.setText)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot()
    def _browse_out(self) -> None:
        dialog = QFileDialog(self, "Choose the folder of the result")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self._on_out_chosen)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot(str)
    def _on_out_chosen(self, folder: str) -> None:
        self._out_is_ours = False
        self.out_dir.setText(folder)


def default_out_dir(model_name: str) -> Path:
    """A folder for a new run in the person's documents that does not exist yet."""
    documents = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
    base = Path(documents or str(Path.home())) / "AttentionStudio"
    stem = "".join(c if c.isalnum() or c in "-._" else "-" for c in model_name).strip(".-")
    for number in range(1, 10_000):
        folder = base / f"{stem or 'model'}-transcoders-{number}"
        if not folder.exists():
            return folder
    return base / stem


def _spin(
    name: str, accessible: str, value: int, low: int, high: int, step: int, tip: str
) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, high)
    spin.setSingleStep(step)
    spin.setValue(value)
    spin.setGroupSeparatorShown(True)
    # The wheel scrolls the form; it must not change a setting that happens to lie in its way.
    spin.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    spin.setMinimumWidth(60)
    # A style sheet's padding does not reach the text of a spin box whose buttons it draws.
    spin.lineEdit().setTextMargins(6, 0, 0, 0)
    return named(spin, name, accessible, tip)


def _grid(*pairs: tuple[str, QWidget]) -> QGridLayout:
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(8)
    grid.setVerticalSpacing(3)
    for number, (caption, widget) in enumerate(pairs):
        line, column = 2 * (number // 2), number % 2
        grid.addWidget(label(caption, "caption"), line, column)
        grid.addWidget(widget, line + 1, column)
    grid.setColumnStretch(0, 1)
    grid.setColumnStretch(1, 1)
    return grid
