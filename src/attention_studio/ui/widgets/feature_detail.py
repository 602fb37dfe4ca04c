"""One feature: what it is called, where it fires, what it says, what it resembles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Optional

import numpy as np
from PySide6.QtCore import QCoreApplication, QEvent, QRect, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.feature_view import MAX_LABEL, MAX_NOTE, FeatureView
from attention_studio.ui.widgets.activation_chips import ActivationChips
from attention_studio.ui.widgets.activation_histogram import ActivationHistogram, HistogramView
from attention_studio.ui.widgets.controls import (
    ElidedLabel,
    icon_button,
    label,
    named,
    stack,
)
from attention_studio.ui.widgets.effect_bars import EffectBars
from attention_studio.ui.widgets.example_list import ExampleList
from attention_studio.ui.widgets.label_edit import LabelEdit
from attention_studio.ui.widgets.near_features import NearTable

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.feature_records import ExampleGroup, FeaturePage
    from attention_studio.core.sites import Site
    from attention_studio.ui.theme import Theme

TRY_MS = 250
"""How long the text that one tries must rest before the model reads it."""
_NARROW = 58
"""Letters across below which effects stand one below the other."""


class FeatureDetail(QScrollArea):
    """The detail of a feature, wherever the window shows one.

    ``labelled`` carries what the person calls it, ``noted`` what they note about it, ``tried`` a
    text to look for it in ("" for none), ``went`` module and index of a feature to go to, ``came``
    says that somebody sees the detail now. ``pin`` is the button that pins its node; whoever holds
    the detail connects it.
    """

    labelled = Signal(str)
    noted = Signal(str)
    tried = Signal(str)
    went = Signal(object, int)
    came = Signal()

    def __init__(
        self, theme: Theme, prefix: str = "features", parent: Optional[QWidget] = None,
        *, headless: bool = False, foot: Optional[QWidget] = None,
    ) -> None:  # fmt: skip
        """``prefix``: of the controls' object names. ``headless``: without title and pin, where
        the feature is named beside it. ``foot``: a widget to show where a store would help."""
        super().__init__(parent)
        named(self, f"{prefix}.detail", "The selected feature")
        self._theme, self._prefix = theme, prefix
        self._view: Optional[FeatureView] = None
        self._tried: Optional[FeatureReport] = None
        self._groups: tuple[ExampleGroup, ...] = ()
        # An example to go to once its page is there: module and index, row and position.
        self._awaited: Optional[tuple[Site, int, int, int]] = None
        self._headless, self._foot = headless, foot
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._make_parts()
        self.setWidget(self._make_body())
        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(TRY_MS)
        self._typing.timeout.connect(self._on_try)
        self.label_edit.kept.connect(self.labelled)
        self.note_edit.kept.connect(self.noted)
        self.groups.currentIndexChanged.connect(self._on_group)
        self.examples.told.connect(self._on_told)
        self.examples.reached.connect(self._on_reached)
        self.near.chosen.connect(self.went)
        self.near_by_firing.chosen.connect(self.went)
        self.text.textEdited.connect(self._on_typed)
        self.text.returnPressed.connect(self._on_try)
        self.show_view(None)

    # -- building -----------------------------------------------------------------------------

    def _make_parts(self) -> None:
        theme, prefix = self._theme, self._prefix
        self._title = ElidedLabel(role="title")
        self._title.setObjectName(f"{prefix}.detail.title")
        self._facts = label("", "caption", wrap=True, name=f"{prefix}.detail.facts")
        self._by = label("", "caption", wrap=True, name=f"{prefix}.detail.by")
        self._lacking = label("", "caption", wrap=True, name=f"{prefix}.detail.lacking")
        self.pin = icon_button(
            theme, "pin", f"{prefix}.pin", "Pin the selected feature",
            "Pin the selected feature in the graph, or let it go (P)",
        )  # fmt: skip
        self.pin.setCheckable(True)
        self.label_edit = LabelEdit(
            f"{prefix}.label.edit", "Label of the feature", "Say what this feature means", MAX_LABEL
        )
        self.note_edit = LabelEdit(
            f"{prefix}.note.edit", "Note about the feature", "A note of your own", MAX_NOTE
        )
        self.chips = ActivationChips(theme, f"{prefix}.tokens")
        self.histogram = ActivationHistogram(theme, f"{prefix}.histogram")
        self.promoted = EffectBars(theme, f"{prefix}.promoted", "Tokens that the feature promotes")
        self.suppressed = EffectBars(
            theme, f"{prefix}.suppressed", "Tokens that the feature suppresses"
        )
        self.groups = QComboBox()
        named(self.groups, f"{prefix}.groups", "Which examples are shown",
              "The strongest, or some from an interval of activations")  # fmt: skip
        self.groups.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.groups.setMinimumContentsLength(10)
        self.examples = ExampleList(theme, f"{prefix}.examples")
        self._told = ElidedLabel(role="caption")
        named(self._told, f"{prefix}.told", "The token that is pointed at")
        self.near = NearTable(theme, f"{prefix}.near", "Features that write alike")
        self.near_by_firing = NearTable(
            theme, f"{prefix}.near_by_firing", "Features that fire at the same tokens"
        )
        self.text = QLineEdit()
        named(self.text, f"{prefix}.text", "Try your own text",
              "Type a text to see where the feature fires in it")  # fmt: skip
        self.text.setPlaceholderText("Type a text to see where the feature fires in it")
        self.text.setClearButtonEnabled(True)
        self.tried_chips = ActivationChips(theme, f"{prefix}.tried")
        self._tried_facts = label("", "caption", wrap=True, name=f"{prefix}.tried.facts")

    def _make_body(self) -> QWidget:
        body = QWidget()
        body.setObjectName("formBody")
        layout = self.body = QVBoxLayout(body)
        layout.setContentsMargins(12, 8, 12, 10)
        layout.setSpacing(5)
        top = self._top = QHBoxLayout()
        top.setSpacing(3)
        top.addWidget(self._title, 1)
        top.addWidget(self.pin)
        layout.addLayout(top)
        layout.addWidget(self.label_edit)
        layout.addWidget(self._by)
        layout.addWidget(self.note_edit)
        layout.addWidget(self._facts)
        self._prompt = _section(layout, "On your prompt", self.chips)
        self._activations = _section(layout, "Activations over the text", self.histogram)
        self._effects = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._effects.setSpacing(18)
        heads = []
        for text, bars in (("Promotes", self.promoted), ("Suppresses", self.suppressed)):
            column = QVBoxLayout()
            column.setSpacing(3)
            heads.append(label(text, "section"))
            column.addWidget(heads[-1])
            column.addWidget(bars)
            column.addStretch(1)
            self._effects.addLayout(column, 1)
        layout.addSpacing(2)
        layout.addLayout(self._effects)
        self._says = (*heads, self.promoted, self.suppressed)
        head = QHBoxLayout()
        head.addWidget(label("Examples", "section"))
        head.addWidget(self.groups, 1)
        shown = QWidget()
        inside = QVBoxLayout(shown)
        inside.setContentsMargins(0, 4, 0, 0)
        inside.setSpacing(4)
        inside.addLayout(head)
        inside.addWidget(self.examples)
        inside.addWidget(self._told)
        layout.addWidget(shown)
        self._shown_examples = shown
        self._alike = _section(layout, "Writes alike", self.near)
        self._together = _section(layout, "Fires together", self.near_by_firing)
        self._own = _section(
            layout, "Your own text", self.text, self.tried_chips, self._tried_facts
        )
        layout.addWidget(self._lacking)
        if self._foot is not None:
            layout.addWidget(self._foot, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addStretch(1)
        if self._headless:
            self._title.hide()
            self.pin.hide()
        return body

    def add_tool(self, tool: QWidget) -> None:
        """Put a small control left of the pin."""
        self._top.insertWidget(self._top.count() - 1, tool)

    # -- showing ------------------------------------------------------------------------------

    @property
    def view(self) -> Optional[FeatureView]:
        """What is shown."""
        return self._view

    @property
    def title(self) -> str:
        """What stands above everything."""
        return self._title.whole()

    @property
    def facts(self) -> str:
        """What there is to say in numbers."""
        return self._facts.text()

    def await_example(self, site: Site, index: int, sequence: int, at: int) -> None:
        """Go to an example of a feature once its page is shown: the one of row ``sequence`` of the
        text that has position ``at``."""
        self._awaited = (site, index, sequence, at)
        self._go_to_awaited()

    def _go_to_awaited(self) -> None:
        view, awaited = self._view, self._awaited
        if view is None or awaited is None or awaited[:2] != (view.site, view.index):
            return
        page, (_, _, sequence, at) = view.page, awaited
        if page is None:
            return
        self._awaited = None
        for number, group in enumerate(page.groups):
            for row, example in enumerate(group.examples):
                if example.sequence == sequence and 0 <= at - example.start < len(example.tokens):
                    self.groups.setCurrentIndex(number)
                    self.examples.setFocus(Qt.FocusReason.OtherFocusReason)
                    self.examples.go_to(row, at - example.start)
                    return

    @Slot()
    def leave(self) -> None:
        """Keep what is half typed about the feature, before another one is shown."""
        self.label_edit.leave()
        self.note_edit.leave()

    def show_view(self, view: Optional[FeatureView]) -> None:
        """Show another feature, or more of the same, or none."""
        before, self._view = self._view, view
        same = (
            view is not None
            and before is not None
            and ((view.site, view.index) == (before.site, before.index))
        )
        if not same:
            self._tried = None
            self.verticalScrollBar().setValue(0)
        page = view.page if view is not None else None
        self._show_head(view)
        self._show_prompt(view)
        self._show_effects(view)
        self._show_page(page, before.page if same and before is not None else None)
        for widget in (self._own, self.label_edit, self.note_edit):
            widget.setVisible(view is not None)
        self._show_tried()
        if view is not None and not same and self.text.text().strip():
            self._typing.start()
        self._go_to_awaited()
        lacking = view.lacking if view is not None else ""
        self._lacking.setText(lacking)
        self._lacking.setVisible(bool(lacking))
        if self._foot is not None:
            self._foot.setVisible(view is not None and page is None)
        if self.isVisible():
            self._lay_out()

    def _lay_out(self) -> None:
        """Lay out what changed, from the inside to the outside, before anything is painted. Qt
        would hand sizes up by an event each, and paint parts at their old places in between."""
        sections = (
            self._prompt, self._activations, self._shown_examples,
            self._alike, self._together, self._own,
        )  # fmt: skip
        for widget in (*sections, self.widget(), self.viewport()):
            QCoreApplication.sendPostedEvents(widget, QEvent.Type.LayoutRequest.value)

    def _show_head(self, view: Optional[FeatureView]) -> None:
        self.pin.setEnabled(view is not None and view.node is not None)
        self.pin.setChecked(view is not None and view.pinned)
        if view is None:
            self._title.set_whole("No feature selected")
            self._facts.setText("Choose a row to see where the feature fires and what it promotes.")
            self._facts.show()
            self._by.hide()
            self.label_edit.show_label("")
            self.note_edit.show_label("")
            return
        if self._headless:
            # Beside the detail the selected node is named, which this is not.
            self._title.setVisible(view.node is None)
        self._title.set_whole(f"{view.name} · {view.label}" if view.label else view.name)
        self._facts.setText(view.facts())
        self._facts.setVisible(bool(view.facts()))
        self.label_edit.show_label(view.label)
        self.label_edit.setEnabled(view.can_label)
        self.note_edit.show_label(view.note)
        self._by.setText(f"Called so by {view.label_by}" if view.label_by else "")
        self._by.setVisible(bool(view.label and view.label_by))

    def _show_prompt(self, view: Optional[FeatureView]) -> None:
        report = view.report if view is not None else None
        self._prompt.setVisible(report is not None)
        values = view.activations() if view is not None else None
        if view is not None and report is not None and values is not None:
            self.chips.set_activations(report.tokens, report.token_ids, values, view.position)
        else:
            self.chips.set_activations((), (), np.zeros(0, dtype=np.float32), None)

    def _show_effects(self, view: Optional[FeatureView]) -> None:
        promoted = view.promoted if view is not None else ()
        suppressed = view.suppressed if view is not None else ()
        known = (abs(e) for _, e in (*promoted, *suppressed) if not np.isnan(e))
        scale = max(known, default=1.0)
        self.promoted.set_effects(promoted, scale)
        self.suppressed.set_effects(suppressed, scale)
        for widget in self._says:
            widget.setVisible(bool(promoted or suppressed))

    def _show_page(self, page: Optional[FeaturePage], before: Optional[FeaturePage]) -> None:
        view = self._view
        alive = page is not None and not page.dead
        counted = page is not None and alive and len(page.histogram.counts) > 0
        self._activations.setVisible(counted)
        here = view.here if view is not None else None
        if page is not None and counted:
            self.histogram.show_view(HistogramView.of(page.histogram, here))
        else:
            self.histogram.show_view(None)
        if page is None or page is not before:
            self._groups = page.groups if page is not None else ()
            self._list_groups()
        self._shown_examples.setVisible(bool(self._groups))
        alike = page.near_by_decoder if page is not None else ()
        alike = alike or (view.near if view is not None else ())
        together = page.near_by_firing if page is not None else ()
        for section, table, near in (
            (self._alike, self.near, alike),
            (self._together, self.near_by_firing, together),
        ):
            section.setVisible(bool(near))
            table.show_near(near)

    def _list_groups(self) -> None:
        kept = self.groups.currentText().split(" · ")[0]
        blocked = self.groups.blockSignals(True)
        self.groups.clear()
        for group in self._groups:
            self.groups.addItem(_group_text(group))
        names = [group.name for group in self._groups]
        self.groups.setCurrentIndex(names.index(kept) if kept in names else 0)
        self.groups.blockSignals(blocked)
        self._on_group()

    @Slot()
    def _on_group(self) -> None:
        number = self.groups.currentIndex()
        page = self._view.page if self._view is not None else None
        if page is None or not 0 <= number < len(self._groups):
            self.examples.show_examples((), 1.0)
            return
        self.examples.show_examples(self._groups[number].examples, page.max_activation)

    # -- one's own text -------------------------------------------------------------------------

    def show_tried(self, report: Optional[FeatureReport], why: str = "") -> None:
        """Show where the feature fires in the text that was typed, or why that is not known."""
        self._tried = report
        self._show_tried(why)

    def _show_tried(self, why: str = "") -> None:
        view, report = self._view, self._tried
        there = view is not None and report is not None and bool(self.text.text().strip())
        self.tried_chips.setVisible(there)
        if view is None or report is None or not there:
            self._tried_facts.setText(why)
            self._tried_facts.setVisible(bool(why))
            self.tried_chips.set_activations((), (), np.zeros(0, dtype=np.float32), None)
            return
        values = report.activations(view.site, view.index)
        self.tried_chips.set_activations(report.tokens, report.token_ids, values, None)
        self._tried_facts.setText(replace(view, report=report, position=None).prompt_facts()
                                  .replace("your prompt", "this text"))  # fmt: skip
        self._tried_facts.show()

    @Slot()
    def _on_typed(self) -> None:
        self._typing.start()

    @Slot()
    def _on_try(self) -> None:
        self._typing.stop()
        text = self.text.text()
        if self._view is None:
            return
        if not text.strip():
            self.show_tried(None)
        self.tried.emit(text.strip())

    # -- from the parts -------------------------------------------------------------------------

    @Slot(str)
    def _on_told(self, text: str) -> None:
        self._told.set_whole(text)

    @Slot(QRect)
    def _on_reached(self, part: QRect) -> None:
        inside = self.widget()
        if inside is None:
            return
        top = self.examples.mapTo(inside, part.topLeft())
        self.ensureVisible(top.x(), top.y() + part.height() // 2, 0, part.height() // 2 + 8)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the effects one below the other where there is no room beside each other."""
        super().resizeEvent(event)
        narrow = self.viewport().width() < self.fontMetrics().averageCharWidth() * _NARROW
        stack(self._effects, narrow)

    def showEvent(self, event: QShowEvent) -> None:
        """Say that somebody sees it."""
        super().showEvent(event)
        self.came.emit()


def _section(layout: QVBoxLayout, text: str, *widgets: QWidget) -> QWidget:
    """A heading and what stands below it, which come and go together."""
    box = QWidget()
    inside = QVBoxLayout(box)
    inside.setContentsMargins(0, 4, 0, 0)
    inside.setSpacing(4)
    inside.addWidget(label(text, "section"))
    for widget in widgets:
        inside.addWidget(widget)
    layout.addWidget(box)
    return box


def _group_text(group: ExampleGroup) -> str:
    if group.low is None or group.high is None:
        return f"{group.name} · {len(group.examples)}"
    return f"{group.name} · {group.low:.2f} to {group.high:.2f} · {len(group.examples)}"
