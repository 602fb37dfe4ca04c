"""The Attention dock: every head of a prompt as a thumbnail, and one head large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.head_metrics import METRICS, value_text
from attention_studio.core.qk_records import HeadName
from attention_studio.ui import work_attention
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.head_figure import HeadFigure, OverviewFigure
from attention_studio.ui.head_scene import HeadScene
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    ElidedLabel,
    label,
    named,
)
from attention_studio.ui.widgets.form_fields import ElidedCombo
from attention_studio.ui.widgets.head_overview import HeadOverview
from attention_studio.ui.widgets.head_view import HeadView
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.core.attention_records import AttentionView
    from attention_studio.core.replacement_model import CompleteReplacementModel

_KEY = "attention.look"
_PATTERN = -1


class AttentionDock(StudioDock):
    """Where all heads look on a prompt.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "attentionDock"
    TITLE = "Attention"
    ICON = "attention"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.MODEL,
            SessionPart.CRM,
            SessionPart.PROMPT,
            SessionPart.ATTENTION,
            SessionPart.SELECTION,
        )
    )

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._shown: Optional[AttentionView] = None
        self.overview = HeadOverview(self.theme)
        self.picture = HeadView(self.theme)
        self.strip = JobStrip(self.runner, "attention.job")
        self._make_controls()
        self._set_up()
        self.metric_choice.currentIndexChanged.connect(self._on_metric)
        self.what.currentIndexChanged.connect(self._on_what)
        self.overview.chosen.connect(self._on_head)
        self.picture.pointed.connect(self._on_pointed)

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.metric_choice = QComboBox()
        named(self.metric_choice, "attention.metric", "Figure below the heads",
              "What is said of every head below its thumbnail")  # fmt: skip
        for name, info in METRICS.items():
            self.metric_choice.addItem(info.title, name)
            tip = info.help if info.share else f"{info.help}, in {info.unit}"
            self.metric_choice.setItemData(
                self.metric_choice.count() - 1, tip, Qt.ItemDataRole.ToolTipRole
            )
        self._made_for = ElidedLabel(role="caption")
        named(self._made_for, "attention.made_for", "The prompt that was looked at")
        self._again = CommandButton(self.commands, "attention.look", look="quiet", text="Renew")
        self._again.setObjectName("attention.again")
        self._stale = label("", "warning", name="attention.stale", wrap=True)
        self._name = label("", "section", name="attention.name")
        self._figures = ElidedLabel(role="caption")
        named(self._figures, "attention.figures", "Figures of the chosen head")
        self.what = ElidedCombo()
        named(self.what, "attention.what", "What is shown of the head",
              "The head's pattern, or what one feature takes from where the head looks (z-pattern)",
        )  # fmt: skip
        self.what.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.what.setMinimumContentsLength(12)
        self._readout = ElidedLabel(role="text")
        named(self._readout, "attention.readout", "What is pointed at")

    def _set_up(self) -> None:
        top = QHBoxLayout()
        top.setContentsMargins(10, 8, 10, 2)
        top.setSpacing(8)
        top.addWidget(self.metric_choice)
        for command in ("attention.strongest", "attention.previous", "attention.next"):
            top.addWidget(CommandTool(self.commands, command, f"attention.tool.{command[10:]}"))
        top.addWidget(self._made_for, 1)
        top.addWidget(self._again)
        head_row = QHBoxLayout()
        head_row.setContentsMargins(10, 6, 10, 2)
        head_row.setSpacing(8)
        head_row.addWidget(self._name)
        head_row.addWidget(self.what, 1)
        head_row.addWidget(CommandTool(self.commands, "attention.lines", "attention.tool.lines"))
        large = QWidget()
        column = QVBoxLayout(large)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(head_row)
        figures = QHBoxLayout()
        figures.setContentsMargins(10, 0, 10, 2)
        figures.addWidget(self._figures, 1)
        column.addLayout(figures)
        column.addWidget(self.picture, 1)
        readout = QHBoxLayout()
        readout.setContentsMargins(10, 3, 10, 6)
        readout.addWidget(self._readout, 1)
        column.addLayout(readout)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.setObjectName("attention.splitter")
        self.splitter.addWidget(self.overview)
        self.splitter.addWidget(large)
        self.splitter.setStretchFactor(0, 1)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([290, 370])
        self.splitter.setChildrenCollapsible(False)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(top)
        stale = QHBoxLayout()
        stale.setContentsMargins(12, 0, 10, 2)
        stale.addWidget(self._stale)
        layout.addLayout(stale)
        layout.addWidget(self.splitter, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        empty = self.set_empty(
            "No attention yet",
            "Here every attention head of the model shows where it looks on the prompt, with what "
            "kind of head it is; the heads of a replacement model's Lorsas stand beside them.",
            CommandButton(
                self.commands, "attention.look", look="primary", text="Look at attention"
            ),
        )
        self._waiting = JobStrip(self.runner, "attention.job.first")
        empty_layout = empty.layout()
        assert isinstance(empty_layout, QVBoxLayout)
        empty_layout.insertWidget(empty_layout.count() - 1, self._waiting)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Side by side where there is the width for it."""
        super().resizeEvent(event)
        if self._made:
            wide = event.size().width() > 1.15 * event.size().height()
            wanted = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
            if self.splitter.orientation() != wanted:
                self.splitter.setOrientation(wanted)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def look(self) -> None:
        """Look where all heads look on the session's prompt."""
        model, prompt = self.session.model, self.session.prompt
        if model is None or not prompt.strip():
            return
        self.show()
        job = self.runner.submit(
            work_attention.look_at_heads, model, self.session.crm, prompt,
            title="Look at attention", key=_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_view)
        job.failed.connect(self._on_failed)
        (self._waiting if self.empty else self.strip).follow(job)

    @Slot()
    def toggle_lines(self) -> None:
        """Show the head as lines between tokens, or as a matrix again."""
        lines = self.picture.manner == "matrix"
        self.picture.set_manner("lines" if lines else "matrix")
        self.commands.set_checked("attention.lines", lines)

    @Slot()
    def go_to_strongest(self) -> None:
        """Choose the head with the largest figure."""
        self._go(0, whole=True)

    @Slot()
    def go_to_next(self) -> None:
        """Choose the head that comes next by the figure."""
        self._go(1)

    @Slot()
    def go_to_previous(self) -> None:
        """Choose the head that comes before by the figure."""
        self._go(-1)

    def _go(self, by: int, whole: bool = False) -> None:
        view = self._shown
        ranked = () if view is None else view.ranked(self.metric_choice.currentData())
        if not ranked:
            self.message.emit(
                Message(
                    "info", "No head has this figure on this prompt",
                    "no token comes twice, or there are too few",
                    "Choose another figure, or a prompt that repeats something",
                )
            )  # fmt: skip
            return
        head = self.overview.head
        place = ranked.index(head) + by if head in ranked and not whole else 0
        self.overview.choose(ranked[max(0, min(len(ranked) - 1, place))])

    @Slot(object)
    def _on_view(self, view: AttentionView) -> None:
        self.session.set_attention(view)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(int)
    def _on_metric(self, _index: int) -> None:
        self.overview.set_metric(self.metric_choice.currentData())

    @Slot(object)
    def _on_head(self, _head: HeadName) -> None:
        self._list_what()
        self._show_head()

    @Slot(int)
    def _on_what(self, _index: int) -> None:
        self._show_head()
        feature = self._feature()
        if feature is not None:
            self.session.set_selection(str(feature), initiator=self)

    @Slot()
    def _on_pointed(self) -> None:
        self._show_readout()

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        view = self.session.attention
        if view is not self._shown:
            self._shown = view
            self.overview.show_view(view)
            self._list_what()
            self._show_head()
        if view is not None:
            self._made_for.set_whole(f"“{view.prompt.strip()}”")
        if SessionPart.SELECTION in parts or SessionPart.ATTENTION in parts:
            self._follow_selection()
        self.show_empty(view is None)
        self._show_stale()

    def _show_stale(self) -> None:
        view, session = self._shown, self.session
        reason = ""
        if view is not None and session.model is not None:
            lorsas = session.crm is not None and bool(session.crm.dictionaries.lorsas)
            if view.prompt.strip() != session.prompt.strip():
                reason = "This is for the prompt above; another one has been typed since."
            elif lorsas and not self._shows_lorsas_of(session.crm):
                reason = "A replacement model was opened since: renew to see its Lorsas' heads."
            elif not lorsas and view.crm is not None:
                reason = f"The Lorsas are those of {view.crm.name}, which is no longer open."
        self._stale.setText(reason)
        self._stale.setVisible(bool(reason))
        self._again.setVisible(bool(reason) and bool(session.prompt.strip()))

    def _shows_lorsas_of(self, crm: Optional[CompleteReplacementModel]) -> bool:
        shown = None if self._shown is None else self._shown.crm
        return shown is not None and crm is not None and shown.means(crm.dictionaries_id)

    def _list_what(self) -> None:
        """Fill the list of what can be shown of the chosen head."""
        head, view = self.overview.head, self._shown
        blocked = self.what.blockSignals(True)
        self.what.clear()
        self.what.addItem("Where it looks", _PATTERN)
        if head is not None and view is not None and head.kind == "lorsa":
            lorsa = view.lorsas[head.layer]
            for place in lorsa.of_head(head.head).tolist():
                peak = float(lorsa.activations[place].max())
                self.what.addItem(f"z-pattern of {lorsa.feature(place)}, {peak:.2f}", place)
        self.what.setEnabled(self.what.count() > 1)
        self.what.blockSignals(blocked)

    def _feature(self) -> Optional[FeatureName]:
        """The feature whose z-pattern is shown."""
        head, view, place = self.overview.head, self._shown, self.what.currentData()
        if head is None or view is None or place is None or place == _PATTERN:
            return None
        return view.lorsas[head.layer].feature(place)

    def _scene(self) -> Optional[HeadScene]:
        head, view = self.overview.head, self._shown
        if head is None or view is None:
            return None
        feature = self._feature()
        if feature is None:
            return HeadScene(f"Head {head}", view.tokens, view.pattern(head))
        place = self.what.currentData()
        values = view.lorsas[head.layer].z_pattern(place)
        return HeadScene(f"z-pattern of {feature}", view.tokens, values, signed=True)

    def _show_head(self) -> None:
        head, view = self.overview.head, self._shown
        self.picture.show_scene(self._scene())
        self._name.setText("" if head is None else f"Head {head}")
        if head is None or view is None:
            self._figures.set_whole("")
        else:
            self._figures.set_whole(
                " · ".join(
                    f"{info.title.lower()} {value_text(name, view.metric(head, name))}"
                    for name, info in METRICS.items()
                )
            )
        self._show_readout()

    def _show_readout(self) -> None:
        scene = self.picture.scene
        told = "" if scene is None else scene.cell_sentence(self.picture.spot)
        if scene is not None and not told:
            told = "Point at a token or a cell to read its value."
        self._readout.set_whole(told)

    def _follow_selection(self) -> None:
        """Show the z-pattern of a Lorsa's feature that was selected elsewhere."""
        view, name = self._shown, self.session.selection
        feature = None if name is None else FeatureName.read(name)
        if view is None or feature is None or feature.site.kind != "attention":
            return
        lorsa = view.lorsas.get(feature.site.layer)
        if lorsa is None or feature.latent not in lorsa.latents:
            return
        place = lorsa.latents.tolist().index(feature.latent)
        self.overview.choose(
            HeadName("lorsa", feature.site.layer, int(feature.latent) // lorsa.group_size)
        )
        blocked = self.what.blockSignals(True)
        self.what.setCurrentIndex(self.what.findData(place))
        self.what.blockSignals(blocked)
        self._show_head()

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """The overview, and the chosen head."""
        if self._made and self._shown is not None:
            return (
                FigureOffer("attention-overview", "All heads", self._overview_figure),
                FigureOffer("attention-head", "The chosen head", self._head_figure),
            )
        return ()

    def _caption(self) -> str:
        view = self._shown
        assert view is not None
        crm = "" if view.crm is None else f", Lorsas of {view.crm.name}"
        return f"Prompt: {view.prompt.strip()}. Model: {view.model}{crm}."

    def _overview_figure(self) -> Optional[Figure]:
        if self._shown is None:
            return None
        metric = self.metric_choice.currentData()
        caption = f"{self._caption()} Below each head: {METRICS[metric].help.lower()}."
        return OverviewFigure("attention-overview", "All heads", caption, self._shown, metric)

    def _head_figure(self) -> Optional[Figure]:
        scene = self.picture.scene
        if scene is None:
            return None
        return HeadFigure(
            "attention-head", scene.name, self._caption(), scene, self.picture.manner,
            self.picture.held,
        )  # fmt: skip
