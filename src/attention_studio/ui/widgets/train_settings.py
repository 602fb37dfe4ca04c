"""The settings of a training run as a form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QLocale, QStandardPaths, Qt, Signal, Slot
from PySide6.QtGui import QDoubleValidator
from PySide6.QtWidgets import QCheckBox, QLineEdit, QVBoxLayout, QWidget

from attention_studio.core.training_request import TrainRequest
from attention_studio.ui.widgets.controls import icon_button, label, named, push_button, row
from attention_studio.ui.widgets.dialogs import ask_file, ask_folder
from attention_studio.ui.widgets.form_fields import combo, grid, multiple_spin, spin
from attention_studio.ui.widgets.text_sources import TextSources
from attention_studio.ui.widgets.train_more_settings import MoreTrainSettings, default
from attention_studio.utils.ranges import parse_ranges, show_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.dictionaries.crm_folder import CRMManifest
    from attention_studio.core.model_records import ModelInfo
    from attention_studio.core.sites import Site
    from attention_studio.ui.theme import Theme

ACTIVATIONS = (
    ("TopK: exactly K per token", "topk"),
    ("BatchTopK: K on average", "batchtopk"),
    ("JumpReLU: learned thresholds", "jumprelu"),
    ("ReLU", "relu"),
)
MLP_CHOICES = (
    ("A transcoder for each layer", "transcoder"),
    ("One cross-layer transcoder (CLT)", "clt"),
    ("Nothing: MLPs stay", ""),
)
DEFAULT_LATENTS_FACTOR = 8
_MAX_LATENTS = 1 << 20


class TrainSettings(QWidget):
    """The form. ``changed`` is emitted at every change of a setting."""

    changed = Signal()

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._info: Optional[ModelInfo] = None
        self._out_is_ours = True
        self.texts = TextSources(theme, "train.texts", "Texts to train on")
        self.heldout = _edit(
            "train.heldout",
            "Held-out text",
            "A file or folder that is only measured on; empty: a part of the text is set aside",
        )
        self.heldout.setPlaceholderText("Set aside from the text")
        browse_heldout = icon_button(
            theme, "open", "train.heldout.browse", "Choose the held-out text", "Choose a file"
        )
        self.mlp = combo(
            "train.mlp", "What replaces the MLPs",
            "A transcoder reads and writes at its own layer; a latent of a cross-layer transcoder "
            "reads at one layer and writes at all later ones", MLP_CHOICES, whole=True,
        )  # fmt: skip
        self.layers = _edit(
            "train.layers", "Layers whose MLPs are replaced", "Such as: all, or 0-5, 12", "all"
        )
        self.d_latent = spin(
            "train.d_latent", "Latents per layer", default("d_latent"), 16, _MAX_LATENTS, 256,
            "Features that each layer's dictionary can tell apart; eight times the width is usual",
        )  # fmt: skip
        self.k = spin(
            "train.k", "K, active latents per token", default("k"), 1, 4096, 8,
            "How many features of a layer may be active at once",
        )  # fmt: skip
        self.skip = QCheckBox("Skip connection")
        named(
            self.skip,
            "train.skip",
            "Skip connection",
            "A linear path past the latents: better reconstruction, and part of the graph",
        )
        self.attention = QCheckBox("A Lorsa for each layer")
        named(
            self.attention,
            "train.attention",
            "Lorsas replace attention",
            "Low-rank sparse attention: features that say what is moved, from where to where",
        )
        self.attention_layers = _edit(
            "train.attention_layers",
            "Layers whose attention is replaced",
            "Such as: all, or 0-5, 12",
            "all",
        )
        self.attention_latents = multiple_spin(
            "train.attention_latents", "Latents of each Lorsa", default("attention_latents"), 1,
            _MAX_LATENTS, 256,
            "Features that each layer's Lorsa can tell apart; kept a multiple of its QK heads",
        )  # fmt: skip
        self.attention_k = spin(
            "train.attention_k", "K of each Lorsa, active latents per token",
            default("attention_k"), 1, 4096, 8,
            "How many features of a Lorsa may be active at once",
        )  # fmt: skip
        self.activation = combo(
            "train.activation", "Activation function",
            "How latents are made sparse, in every dictionary of the run", ACTIVATIONS, whole=True,
        )  # fmt: skip
        self.tokens = spin(
            "train.tokens", "Tokens to train on", default("tokens"), 2_048, 2_000_000_000, 100_000,
            "Per layer; the text is passed over again if it is shorter",
        )  # fmt: skip
        self.learning_rate = _edit(
            "train.learning_rate",
            "Learning rate",
            "Peak rate of Adam; 0.001 to 0.004 suit short runs",
            str(default("learning_rate")),
        )
        validator = QDoubleValidator(1e-8, 1.0, 10, self)
        validator.setLocale(QLocale.c())
        self.learning_rate.setValidator(validator)
        self.seed = spin(
            "train.seed", "Seed", 0, 0, 2_147_483_647, 1, "Same seed, same settings: same weights"
        )
        self.batch_tokens = spin(
            "train.batch_tokens", "Tokens per step", default("batch_tokens"), 64, 65_536, 256,
            "Batch of one update",
        )  # fmt: skip
        self._more_button = push_button(
            "More settings", "train.advanced", "Show the settings that rarely need a change",
            look="quiet",
        )  # fmt: skip
        self.more = MoreTrainSettings()
        self.out_dir = _edit(
            "train.out_dir", "Folder of the result", "Where the dictionaries are kept"
        )
        browse_out = icon_button(
            theme, "folder", "train.out_dir.browse", "Choose the folder of the result"
        )
        self._build(browse_heldout, browse_out)
        for edit in (self.heldout, self.layers, self.attention_layers, self.learning_rate):
            edit.textChanged.connect(self._on_change)
        self.out_dir.textEdited.connect(self._on_out_edited)
        own = (
            self.d_latent, self.k, self.attention_latents, self.attention_k, self.tokens,
            self.seed, self.batch_tokens,
        )  # fmt: skip
        for field in own:
            field.valueChanged.connect(self._on_change)
        for choice in (self.mlp, self.activation):
            choice.currentIndexChanged.connect(self._on_kind)
        self.attention.toggled.connect(self._on_kind)
        self.skip.toggled.connect(self._on_change)
        self.texts.changed.connect(self._on_change)
        self.more.changed.connect(self._on_change)
        self.more.qk_heads.valueChanged.connect(self._fit_heads)
        self._more_button.clicked.connect(self._toggle_more)
        browse_heldout.clicked.connect(self._browse_heldout)
        browse_out.clicked.connect(self._browse_out)
        self._sync()

    def set_model(self, info: Optional[ModelInfo]) -> None:
        """Fit the defaults to the model."""
        self._info = info
        if info is None:
            return
        latents = max(16, DEFAULT_LATENTS_FACTOR * info.d_model)
        self.d_latent.setValue(latents)
        self.attention_latents.setValue(latents)
        self._fit_heads()
        self.more.set_model(info)
        if self._out_is_ours:
            self.out_dir.setText(str(default_out_dir(info.name)))

    def aim_at(self, sites: Sequence[Site], manifest: Optional[CRMManifest]) -> None:
        """Ask for dictionaries of these modules, twice as wide as those that there are.

        Args:
            sites: the modules.
            manifest: of the replacement model that has missed something there, or None.
        """
        mlps = tuple(site.layer for site in sites if site.kind == "mlp")
        attention = tuple(site.layer for site in sites if site.kind == "attention")
        self.mlp.setCurrentIndex(self.mlp.findData("transcoder" if mlps else ""))
        self.attention.setChecked(bool(attention))
        self.layers.setText(show_ranges(mlps) if mlps else "all")
        self.attention_layers.setText(show_ranges(attention) if attention else "all")
        there = [] if manifest is None else list(manifest.dictionaries.values())
        for kind, field, k in (
            ("mlp", self.d_latent, self.k),
            ("attention", self.attention_latents, self.attention_k),
        ):
            configs = [entry.config for entry in there if entry.site.kind == kind]
            if configs:
                field.setValue(2 * max(config.d_latent for config in configs))
                k.setValue(max((config.k for config in configs), default=k.value()))

    def settings(self) -> dict[str, Any]:
        """The fields of ``TrainConfig`` that the form sets.

        Raises:
            RangeError: the layers cannot be understood.
            ValueError: the learning rate is no number.
        """
        n_layers = self._info.n_layers if self._info is not None else 1
        mlp = self.mlp.currentData()
        found: dict[str, Any] = {
            "layers": parse_ranges(self.layers.text(), n_layers) if mlp else (),
            "attention_layers": (),
            "activation": self.activation.currentData(),
            "tokens": self.tokens.value(),
            "batch_tokens": self.batch_tokens.value(),
            "learning_rate": float(self.learning_rate.text() or "nan"),
            "seed": self.seed.value(),
            **self.more.settings(),
        }
        if self.attention.isChecked():
            found["attention_layers"] = parse_ranges(self.attention_layers.text(), n_layers)
            found["attention_latents"] = self.attention_latents.rounded()
            found["attention_k"] = self.attention_k.value()
        if mlp:
            found["mlp"] = mlp
            found["d_latent"] = self.d_latent.value()
            found["k"] = self.k.value()
            found["skip"] = self.skip.isChecked() and mlp == "transcoder"
        elif self.attention.isChecked():
            # A Lorsa's K is annealed in proportion to this one: so the start means what it says.
            found["k"], found["d_latent"] = found["attention_k"], found["attention_latents"]
        return found

    def request(self) -> TrainRequest:
        """Everything that a run needs.

        Raises:
            As ``settings``.
        """
        heldout = self.heldout.text().strip()
        return TrainRequest(
            model="" if self._info is None else self._info.name,
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
            if child is not self._more_button and child.parent() is not None:
                child.setEnabled(not locked)
        self.more.setEnabled(True)
        self._mlp_fields.setEnabled(True)
        self._attention_fields.setEnabled(True)
        if not locked:
            self._sync()

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
        layout.addWidget(label("In place of the MLPs", "section"))
        layout.addWidget(self.mlp)
        self._mlp_fields = _group(
            ("Layers", self.layers),
            ("Latents per layer", self.d_latent),
            ("K", self.k),
            ("", self.skip),
        )
        layout.addWidget(self._mlp_fields)
        layout.addSpacing(8)
        layout.addWidget(label("In place of attention", "section"))
        layout.addWidget(self.attention)
        self._attention_fields = _group(
            ("Layers", self.attention_layers),
            ("Latents per Lorsa", self.attention_latents),
            ("K", self.attention_k),
        )
        layout.addWidget(self._attention_fields)
        layout.addSpacing(8)
        layout.addWidget(label("Training", "section"))
        layout.addWidget(label("Activation", "caption"))
        layout.addWidget(self.activation)
        layout.addLayout(
            grid(
                ("Tokens", self.tokens),
                ("Learning rate", self.learning_rate),
                ("Seed", self.seed),
                ("Tokens per step", self.batch_tokens),
            )
        )
        self.more.hide()
        layout.addWidget(self._more_button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self.more)
        layout.addSpacing(4)
        layout.addWidget(label("Keep the result in", "caption"))
        layout.addLayout(row(self.out_dir, browse_out, stretch=0, spacing=4))
        layout.addStretch(1)

    # -- slots --------------------------------------------------------------------------------

    @Slot()
    def _on_change(self) -> None:
        self.changed.emit()

    @Slot()
    def _on_kind(self) -> None:
        self._sync()
        self.changed.emit()

    def _sync(self) -> None:
        """Only what has an effect is shown and can be changed."""
        mlp, attention = self.mlp.currentData(), self.attention.isChecked()
        selects = self.activation.currentData() in ("topk", "batchtopk")
        self._mlp_fields.setVisible(bool(mlp))
        self._attention_fields.setVisible(attention)
        self.k.setEnabled(selects)
        self.attention_k.setEnabled(selects)
        self.skip.setEnabled(mlp == "transcoder")
        self.more.sync(mlp=mlp, attention=attention, selects=selects)

    @Slot()
    def _fit_heads(self) -> None:
        heads = self._info.n_heads if self._info is not None else 1
        self.attention_latents.set_multiple(self.more.qk_heads.value() or heads)

    @Slot(str)
    def _on_out_edited(self, _text: str) -> None:
        self._out_is_ours = False

    @Slot()
    def _toggle_more(self) -> None:
        show = self.more.isHidden()
        self.more.setVisible(show)
        self._more_button.setText("Fewer settings" if show else "More settings")

    @Slot()
    def _browse_heldout(self) -> None:
        ask_file(self, "Choose the held-out text", self.heldout.setText)

    @Slot()
    def _browse_out(self) -> None:
        ask_folder(self, "Choose the folder of the result", self._on_out_chosen)

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
        folder = base / f"{stem or 'model'}-crm-{number}"
        if not folder.exists():
            return folder
    return base / stem


def _edit(name: str, accessible: str, tip: str, text: str = "") -> QLineEdit:
    return named(QLineEdit(text), name, accessible, tip)


def _group(*pairs: tuple[str, QWidget]) -> QWidget:
    made = QWidget()
    made.setLayout(grid(*pairs))
    return made
