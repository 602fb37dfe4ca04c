"""One change of an intervention, with fields for all its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFormLayout, QLineEdit, QSizePolicy, QWidget

from attention_studio.core.intervention_runs import EVERYWHERE
from attention_studio.ui.edit_draft import (
    ACTION_WORDS,
    FIRST_VALUES,
    EditDraft,
    parse_features,
)
from attention_studio.ui.widgets.controls import label, named
from attention_studio.ui.widgets.form_fields import combo, share_spin
from attention_studio.utils.errors import StudioError

_OWN, _THESE = "own", "these"
_LARGEST = 1e6


class EditEditor(QWidget):
    """Fields for an ``EditDraft``; says ``changed`` when a person changes one.

    ``draft`` is None while there is nothing to edit. What cannot be understood is said below the
    field, and the draft stays as it was.
    """

    changed = Signal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.draft: Optional[EditDraft] = None
        self._showing = False
        self._make_fields()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(8)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._form = form
        for caption, field in (
            ("Features", self.features),
            ("", self.problem),
            ("Do", self.action),
            ("Value", self.value),
            ("Where", self.where),
            ("Positions", self.positions),
            ("Prompt", self.prompt),
            ("From position", self.source),
        ):
            words = label(caption, "caption")
            # As high as its row, so that it stands in the middle of it.
            words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
            form.addRow(words, field)
        self.features.editingFinished.connect(self._on_features)
        self.action.currentIndexChanged.connect(self._on_action)
        self.value.valueChanged.connect(self._on_fields)
        self.where.currentIndexChanged.connect(self._on_fields)
        for line in (self.positions, self.prompt, self.source):
            line.textEdited.connect(self._on_fields)
        self.show_draft(None)

    def _make_fields(self) -> None:
        self.features = named(
            QLineEdit(), "intervene.features", "Features",
            "What is changed: LAYER/POSITION/FEATURE, several with commas; active or silent",
        )  # fmt: skip
        self.features.setPlaceholderText("L12/P5/F1043, A12/*/F7")
        self.problem = label("", "error", name="intervene.problem", wrap=True)
        self.action = combo(
            "intervene.action", "What is done", "What becomes of the activation",
            [(words, action) for action, words in ACTION_WORDS.items()],
        )  # fmt: skip
        self.value = share_spin(
            "intervene.value", "Value", 0.0, _LARGEST, 0.5, 3,
            "By what the activation is scaled, what is added to it, or at what it is held",
        )  # fmt: skip
        self.value.setMinimum(-_LARGEST)
        self.where = combo(
            "intervene.where", "Where",
            "At which positions; at every position means the tokens that are generated too",
            [("At its own position", _OWN), ("At every position", EVERYWHERE),
             ("At these positions", _THESE)],
        )  # fmt: skip
        self.positions = named(
            QLineEdit(), "intervene.positions", "Positions", "Positions and ranges, such as 5, 7-9"
        )
        self.positions.setPlaceholderText("5, 7-9")
        self.prompt = named(
            QLineEdit(), "intervene.other", "Other prompt",
            "The prompt whose activations these features get",
        )  # fmt: skip
        self.prompt.setPlaceholderText("The other prompt")
        self.source = named(
            QLineEdit(), "intervene.source", "Position in the other prompt",
            "At which position of the other prompt; empty: at the same",
        )  # fmt: skip
        self.source.setPlaceholderText("The same")

    # -- showing ------------------------------------------------------------------------------

    def show_draft(self, draft: Optional[EditDraft]) -> None:
        """Edit this one from now on."""
        self.draft = draft
        self._showing = True
        shown = draft or EditDraft(())
        self.features.setText(", ".join(map(str, shown.features)))
        self.problem.setText("")
        self.action.setCurrentIndex(self.action.findData(shown.action))
        self.value.setValue(shown.value)
        where = shown.where.strip()
        kind = where if where == EVERYWHERE else _THESE if where else _OWN
        self.where.setCurrentIndex(self.where.findData(kind))
        self.positions.setText(where if kind == _THESE else "")
        self.prompt.setText(shown.from_prompt)
        self.source.setText(shown.from_position)
        for line in (self.features, self.prompt):
            line.setCursorPosition(0)
        self._showing = False
        self.setEnabled(draft is not None)
        self._arrange(shown)

    def _arrange(self, draft: EditDraft) -> None:
        """Show the fields that matter."""
        swap = draft.action == "swap"
        for field, wanted in (
            (self.problem, bool(self.problem.text())),
            (self.value, draft.has_value),
            (self.positions, self.where.currentData() == _THESE),
            (self.prompt, swap),
            (self.source, swap),
        ):
            self._form.setRowVisible(field, wanted)

    # -- from the person ----------------------------------------------------------------------

    def _take(self, draft: EditDraft) -> None:
        self.draft = draft
        self._arrange(draft)
        self.changed.emit()

    @Slot()
    def _on_features(self) -> None:
        if self._showing or self.draft is None:
            return
        typed = self.features.text()
        if typed == ", ".join(map(str, self.draft.features)):
            self._complain("")
            return
        try:
            features = parse_features(typed)
        except StudioError as error:
            self._complain(f"{error.what}: {error.todo}")
            return
        self._complain("")
        # It is no longer the supernode that it was.
        self._take(replace(self.draft, features=features, name=""))

    def _complain(self, text: str) -> None:
        self.problem.setText(text)
        if self.draft is not None:
            self._arrange(self.draft)

    @Slot(int)
    def _on_action(self, _index: int) -> None:
        if self._showing or self.draft is None:
            return
        action = self.action.currentData()
        self._showing = True
        self.value.setValue(FIRST_VALUES.get(action, 0.0))
        self._showing = False
        self._take(replace(self.draft, action=action, value=self.value.value()))

    @Slot()
    def _on_fields(self) -> None:
        if self._showing or self.draft is None:
            return
        kind = self.where.currentData()
        where = {_OWN: "", EVERYWHERE: EVERYWHERE}.get(kind, self.positions.text())
        self._take(
            replace(
                self.draft,
                value=self.value.value(),
                where=where,
                from_prompt=self.prompt.text(),
                from_position=self.source.text(),
            )
        )
