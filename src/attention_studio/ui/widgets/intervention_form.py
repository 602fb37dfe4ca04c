"""What is to be changed, what stays frozen, and how much text is generated on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QLayout,
    QLineEdit,
    QListWidget,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.generation_records import Sampling
from attention_studio.core.intervention_runs import InterventionPlan
from attention_studio.core.intervention_specs import FeatureAt, Freeze, InterventionError
from attention_studio.ui.edit_draft import EditDraft
from attention_studio.ui.widgets.controls import (
    CommandButton,
    icon_button,
    label,
    named,
    push_button,
    row,
)
from attention_studio.ui.widgets.edit_editor import EditEditor
from attention_studio.ui.widgets.form_fields import combo, grid, share_spin, spin
from attention_studio.utils.ranges import parse_ranges

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.theme import Theme

MAX_TEXT_TOKENS = 500
FIRST_TEXT_TOKENS = 8
_LIST_ROWS = 2


class InterventionForm(QWidget):
    """The settings of an intervention; says ``changed`` whenever one changes."""

    changed = Signal()

    def __init__(self, theme: Theme, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("formBody")
        self._theme = theme
        self._drafts: list[EditDraft] = []
        self._make_edits()
        self._make_freeze()
        self._make_text()
        self.add_selected = CommandButton(
            commands, "intervene.add_selected", look="plain", text="Add selected", icon=False
        )
        self.add_chosen = CommandButton(
            commands, "intervene.add_chosen", look="plain", text="Add chosen", icon=False
        )
        self._lay_out()
        self.list.currentRowChanged.connect(self._on_row)
        self.editor.changed.connect(self._on_edited)
        self.add_empty.clicked.connect(self._on_add_empty)
        self.remove.clicked.connect(self.remove_current)
        self.freeze.currentIndexChanged.connect(self._on_setting)
        self.layers.textEdited.connect(self._on_setting)
        self.stay.toggled.connect(self._on_setting)
        for field in (self.n_tokens, self.temperature, self.seed):
            field.valueChanged.connect(self._on_setting)
        theme.changed.connect(self._size)
        self._size()
        self._arrange()

    @Slot()
    def _size(self) -> None:
        self.list.setFixedHeight(self.list.fontMetrics().height() * _LIST_ROWS * 2)

    def _make_edits(self) -> None:
        self.list = named(
            QListWidget(), "intervene.edits", "Changes",
            "What is changed at once; of two changes of one feature the later one counts",
        )  # fmt: skip
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.add_empty = push_button(
            "Type…", "intervene.type",
            "Add a change and type its features, for latents that no graph shows",
        )  # fmt: skip
        self.remove = icon_button(
            self._theme, "trash", "intervene.remove", "Remove this change",
            "Take the change that is marked out of the list",
        )  # fmt: skip
        self.editor = EditEditor()

    def _make_freeze(self) -> None:
        self.freeze = combo(
            "intervene.freeze", "What is frozen",
            "What stays as it was on the untouched prompt while the change passes through",
            [("Nothing: what the model does", "none"), ("Attention and norms", "attention"),
             ("Everything: what the graph says", "all")], whole=True,
        )  # fmt: skip
        self.layers = named(
            QLineEdit(), "intervene.layers", "Frozen layers",
            "Of which layers attention and norms are frozen: all, or a range such as 4-11",
        )  # fmt: skip
        self.layers.setPlaceholderText("All layers")
        self.stay = named(
            QCheckBox("Other features stay"), "intervene.stay", "Other features stay",
            "Other features keep their activation: what is left are the direct edges",
        )  # fmt: skip

    def _make_text(self) -> None:
        self.n_tokens = spin(
            "intervene.tokens", "Tokens to generate", FIRST_TEXT_TOKENS, 0, MAX_TEXT_TOKENS, 1,
            "How many tokens of text are generated on, original and changed", none="none",
        )  # fmt: skip
        self.temperature = share_spin(
            "intervene.temperature", "Temperature", 0.0, 10.0, 0.1, 2,
            "0: always the likeliest token; else tokens are drawn",
        )  # fmt: skip
        self.temperature.setSpecialValueText("likeliest")
        self.seed = spin(
            "intervene.seed", "Seed", 0, 0, 1 << 30, 1,
            "Both texts share their random numbers, so they differ by what was changed",
        )  # fmt: skip

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 10)
        layout.setSpacing(6)
        text = QGridLayout()
        text.setHorizontalSpacing(8)
        text.setVerticalSpacing(3)
        for column, (caption, field) in enumerate(
            (("Tokens", self.n_tokens), ("Temperature", self.temperature), ("Seed", self.seed))
        ):
            text.addWidget(label(caption, "caption"), 0, column)
            text.addWidget(field, 1, column)
            text.setColumnStretch(column, 1)
        self._frozen = QWidget()
        frozen = grid(("Layers", self.layers))
        frozen.setContentsMargins(0, 0, 0, 0)
        self._frozen.setLayout(frozen)
        parts: list[object] = [
            label("What is changed", "section"),
            self.list,
            row(self.add_selected, self.add_chosen, spacing=6),
            row(self.add_empty, self.remove, spacing=6),
            self.editor,
            label("What is frozen", "section"),
            self.freeze,
            self._frozen,
            self.stay,
            label("Text generated on", "section"),
            text,
        ]
        for part in parts:
            if isinstance(part, QLayout):
                layout.addLayout(part)
            elif isinstance(part, QWidget):
                layout.addWidget(part)
        layout.addStretch(1)

    # -- what is in it ------------------------------------------------------------------------

    @property
    def drafts(self) -> tuple[EditDraft, ...]:
        """The changes as they are now."""
        return tuple(self._drafts)

    def add(self, features: tuple[FeatureAt, ...], name: str = "") -> None:
        """Add a change of these features, and edit it."""
        self.show_drafts((*self._drafts, EditDraft(features, name)))
        self.list.setCurrentRow(len(self._drafts) - 1)

    def show_drafts(self, drafts: tuple[EditDraft, ...]) -> None:
        """Show exactly these changes, the first of them for editing."""
        blocked = self.list.blockSignals(True)
        self.list.clear()
        self._drafts = list(drafts)
        for draft in drafts:
            self.list.addItem(str(draft))
        self.list.blockSignals(blocked)
        self.list.setCurrentRow(0 if drafts else -1)
        self._on_row(self.list.currentRow())
        self.changed.emit()

    def plan(self, prompt: str, n_tokens: Optional[int], n_layers: int) -> InterventionPlan:
        """What the settings say, for a prompt of ``n_tokens`` and a model of ``n_layers``.

        Raises:
            StudioError: something cannot be understood or does not fit together.
        """
        if self.editor.problem.text():
            raise InterventionError(
                "A feature cannot be understood", self.editor.problem.text(), "correct it"
            )
        mode = self.freeze.currentData()
        first, last = 0, None
        if mode == "attention" and self.layers.text().strip():
            layers = parse_ranges(self.layers.text(), n_layers)
            if len(layers) != layers[-1] - layers[0] + 1:
                raise InterventionError(
                    "The frozen layers have gaps",
                    "attention is frozen from one layer to another",
                    "type one range such as 4-11",
                )
            first, last = layers[0], layers[-1]
        return InterventionPlan(
            prompt,
            tuple(draft.edit(n_tokens) for draft in self._drafts),
            Freeze(mode, first, last, features_respond=not (mode == "all" and self._stays())),
            0 if mode == "all" else self.n_tokens.value(),
            Sampling(self.temperature.value(), self.seed.value()),
            self._drafts[0].name if len(self._drafts) == 1 else "",
        )

    def _stays(self) -> bool:
        return self.stay.isChecked()

    def show_plan(self, plan: InterventionPlan) -> None:
        """Set everything as it was for a plan."""
        freeze = plan.freeze
        self.freeze.setCurrentIndex(self.freeze.findData(freeze.mode))
        whole = freeze.first_layer == 0 and freeze.last_layer is None
        last = "" if freeze.last_layer is None else freeze.last_layer
        self.layers.setText("" if whole else f"{freeze.first_layer}-{last}")
        self.stay.setChecked(not freeze.features_respond)
        self.n_tokens.setValue(plan.n_tokens)
        self.temperature.setValue(plan.sampling.temperature)
        self.seed.setValue(plan.sampling.seed)
        drafts = tuple(map(EditDraft.of, plan.edits))
        if plan.name and len(drafts) == 1:
            drafts = (replace(drafts[0], name=plan.name),)
        self.show_drafts(drafts)

    # -- from the person ----------------------------------------------------------------------

    @Slot(int)
    def _on_row(self, number: int) -> None:
        there = 0 <= number < len(self._drafts)
        self.editor.show_draft(self._drafts[number] if there else None)
        self.remove.setEnabled(there)

    @Slot()
    def _on_edited(self) -> None:
        number, draft = self.list.currentRow(), self.editor.draft
        if draft is not None and 0 <= number < len(self._drafts):
            self._drafts[number] = draft
            self.list.item(number).setText(str(draft))
            self.changed.emit()

    @Slot()
    def _on_add_empty(self) -> None:
        self.add(())
        self.editor.features.setFocus(Qt.FocusReason.OtherFocusReason)

    @Slot()
    def remove_current(self) -> None:
        """Take the marked change out."""
        number = self.list.currentRow()
        if 0 <= number < len(self._drafts):
            left = (*self._drafts[:number], *self._drafts[number + 1 :])
            self.show_drafts(left)
            self.list.setCurrentRow(min(number, len(left) - 1))

    @Slot()
    def _on_setting(self) -> None:
        self._arrange()
        self.changed.emit()

    def _arrange(self) -> None:
        mode = self.freeze.currentData()
        self._frozen.setVisible(mode == "attention")
        self.stay.setVisible(mode == "all")
        for field in (self.n_tokens, self.temperature, self.seed):
            field.setEnabled(mode != "all")
