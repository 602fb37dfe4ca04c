"""The Graph dock: the picture of the pruned attribution graph and everything one does with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QImage, QResizeEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QSplitter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui import work
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count, duration
from attention_studio.ui.widgets.connections_panel import ConnectionsPanel
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    icon_button,
    line,
    named,
)
from attention_studio.ui.widgets.graph_picture import save_picture
from attention_studio.ui.widgets.graph_scene import (
    GraphScene,
    LinkMode,
    PreparedScene,
    SceneRequest,
    prepare_scene,
)
from attention_studio.ui.widgets.graph_view import GraphView
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.score_badges import ScoreBadges
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.threshold_slider import ThresholdSlider
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

# Sliders speak at every pixel; the graph is pruned when they have been still for so long.
DEBOUNCE_MS = 60
# The panel's part of the width, and the most pixels that it takes.
PANEL_SHARE, MAX_PANEL = 0.29, 360
_PRUNE_KEY = "graph.prune"
_BUILD_KEY = "graph.build"
_MODES = (
    ("All links", LinkMode.EITHER),
    ("Inputs", LinkMode.INPUTS),
    ("Outputs", LinkMode.OUTPUTS),
)


class PictureError(StudioError):
    """There is no picture of the graph in the form that is asked for."""


class GraphDock(StudioDock):
    """The attribution graph of a prompt.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "graphDock"
    TITLE = "Graph"
    ICON = "graph"
    WATCHES = frozenset(
        (
            SessionPart.CRM,
            SessionPart.PROMPT,
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.THRESHOLDS,
            SessionPart.SELECTION,
            SessionPart.PINNED,
        )
    )

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        super().__init__(session, runner, commands, theme, parent)
        self._prepared: Optional[PreparedScene] = None
        self._split_by_hand = False
        self.view = GraphView(theme)
        self.panel = ConnectionsPanel(theme)
        self.strip = JobStrip(runner, "graph.job")
        self._debounce = QTimer(self)
        self._debounce.setSingleShot(True)
        self._debounce.setInterval(DEBOUNCE_MS)
        self._debounce.timeout.connect(self._request_scene)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(self._make_controls())
        layout.addLayout(self._make_facts())
        layout.addWidget(line())
        layout.addWidget(self._make_body(), 1)
        self._frame = QWidget()
        outer = QVBoxLayout(self._frame)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(body, 1)
        self.set_content(self._frame)
        self.set_empty(
            "No graph yet",
            "The graph shows which features carried the prompt to the next token: tokens at the "
            "bottom, outputs on top, and how much each fed the next.",
            CommandButton(commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        empty_layout = self._empty.layout() if self._empty is not None else None
        assert isinstance(empty_layout, QVBoxLayout)
        self._waiting = JobStrip(runner, "graph.job.first")
        empty_layout.insertWidget(empty_layout.count() - 1, self._waiting)
        layout.addWidget(self.strip)
        self._make_title_buttons()
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> QHBoxLayout:
        node, edge = self.session.thresholds
        self.node_slider = ThresholdSlider(
            "Nodes", "graph.nodes",
            "Keep the fewest nodes that carry this share of the influence on the output", node,
        )  # fmt: skip
        self.edge_slider = ThresholdSlider(
            "Edges", "graph.edges",
            "Among those nodes, keep the fewest edges that carry this share of the influence", edge,
        )  # fmt: skip
        self.errors = QCheckBox("Errors")
        named(self.errors, "graph.errors", "Show error nodes",
              "Show what the dictionaries do not explain, as diamonds")  # fmt: skip
        self.errors.setChecked(True)
        self.mode = QComboBox()
        named(self.mode, "graph.links", "Links of the selected node",
              "Which edges of the selected node are drawn: inputs, outputs, or both")  # fmt: skip
        for text, mode in _MODES:
            self.mode.addItem(text, mode)
        self.fit_button = icon_button(
            self.theme, "fit", "graph.fit", "Fit the graph", "Show the whole graph (F)"
        )
        self.in_button = icon_button(
            self.theme, "zoom-in", "graph.zoomIn", "Zoom in", "Zoom in (+, or the wheel)"
        )
        self.out_button = icon_button(
            self.theme, "zoom-out", "graph.zoomOut", "Zoom out", "Zoom out (-, or the wheel)"
        )
        self.panel_button = icon_button(
            self.theme, "features", "graph.panel", "Show the connections",
            "Show or hide the connections of the selected node",
        )  # fmt: skip
        self.panel_button.setCheckable(True)
        self.panel_button.setChecked(True)
        controls = QHBoxLayout()
        controls.setContentsMargins(10, 6, 8, 2)
        controls.setSpacing(10)
        controls.addWidget(self.node_slider, 6)
        controls.addWidget(self.edge_slider, 6)
        controls.addWidget(self.errors)
        controls.addWidget(self.mode)
        controls.addStretch(1)
        buttons = QHBoxLayout()
        buttons.setSpacing(0)
        for button in (self.out_button, self.in_button, self.fit_button, self.panel_button):
            buttons.addWidget(button)
        controls.addLayout(buttons)
        return controls

    def _make_facts(self) -> QHBoxLayout:
        self._prompt = ElidedLabel(role="caption")
        named(self._prompt, "graph.prompt", "Prompt of the graph")
        self._counts = ElidedLabel(role="caption")
        named(self._counts, "graph.counts", "Size of the graph")
        self.scores = ScoreBadges()
        self._again = CommandButton(
            self.commands, "graph.build", look="quiet", text="Trace the new prompt"
        )
        self._again.setObjectName("graph.again")
        facts = QHBoxLayout()
        facts.setContentsMargins(10, 0, 10, 5)
        facts.setSpacing(10)
        facts.addWidget(self._prompt, 2)
        facts.addWidget(self._again)
        facts.addWidget(self._counts, 3)
        facts.addWidget(self.scores)
        return facts

    def _make_body(self) -> QSplitter:
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("graph.splitter")
        splitter.addWidget(self.view)
        splitter.addWidget(self.panel)
        splitter.setStretchFactor(0, 1)
        splitter.setStretchFactor(1, 0)
        splitter.setCollapsible(0, False)
        splitter.setCollapsible(1, True)
        splitter.splitterMoved.connect(self._on_splitter_moved)
        self._splitter = splitter
        return splitter

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Share the width between picture and panel, until a person has set it."""
        super().resizeEvent(event)
        if not self._split_by_hand:
            width = event.size().width()
            panel = min(MAX_PANEL, max(self.panel.minimumWidth(), round(PANEL_SHARE * width)))
            self._splitter.setSizes([width - panel, panel])

    @Slot(int, int)
    def _on_splitter_moved(self, _place: int, _index: int) -> None:
        self._split_by_hand = True

    @Slot(bool)
    def _on_panel_toggled(self, shown: bool) -> None:
        self.panel.setVisible(shown)

    def _make_title_buttons(self) -> None:
        self._open = self._command_button("graph.open", "open")
        self._save = self._command_button("graph.save", "save")
        self.export = icon_button(
            self.theme, "download", "graph.export", "Save a picture of the graph",
            "Save a picture of the whole graph as PNG or SVG",
        )  # fmt: skip
        menu = QMenu(self.export)
        menu.setObjectName("graph.export.menu")
        menu.addAction("Picture as PNG…").triggered.connect(self.export_png)
        menu.addAction("Picture as SVG…").triggered.connect(self.export_svg)
        self.export.setMenu(menu)
        self.export.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        for button in (self._open, self._save, self.export):
            self.add_title_widget(button)

    def _command_button(self, command_id: str, icon: str) -> QToolButton:
        action = self.commands.action(command_id)
        text = action.text().rstrip("…")
        button = icon_button(self.theme, icon, f"graph.{icon}", text, action.toolTip())
        button.clicked.connect(action.trigger)
        return button

    def _connect(self) -> None:
        for slider in (self.node_slider, self.edge_slider):
            slider.moved.connect(self._on_threshold)
        self.errors.toggled.connect(self._request_scene)
        self.mode.currentIndexChanged.connect(self._on_mode)
        self.fit_button.clicked.connect(self.view.fit)
        self.in_button.clicked.connect(self.view.zoom_in)
        self.out_button.clicked.connect(self.view.zoom_out)
        self.panel_button.toggled.connect(self._on_panel_toggled)
        self.view.selected.connect(self._on_selected)
        self.view.pin_toggled.connect(self._on_pin_toggled)
        self.panel.chosen.connect(self._on_chosen)
        self.panel.pointed.connect(self.view.point_at)
        self.panel.pin_toggled.connect(self._on_pin_toggled)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def build(self) -> None:
        """Trace the session's prompt."""
        crm, prompt = self.session.crm, self.session.prompt
        if crm is None or not prompt.strip():
            return
        job = self.runner.submit(
            work.build_graph, crm, prompt, None, self.session.thresholds,
            title="Trace the prompt", key=_BUILD_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_built)
        job.failed.connect(self._on_failed)
        (self._waiting if self.empty else self.strip).follow(job)

    @Slot()
    def fit(self) -> None:
        """Show the whole graph."""
        self.view.fit()

    @Slot()
    def pin_selected(self) -> None:
        """Pin the selected node, or unpin it."""
        if self.session.selection is not None:
            self._on_pin_toggled(self.session.selection)

    @Slot()
    def unpin_all(self) -> None:
        """Let all pinned nodes go."""
        self.session.clear_pins()

    @Slot()
    def clear_selection(self) -> None:
        """Select nothing."""
        self.session.set_selection(None)

    @Slot()
    def export_png(self) -> None:
        """Ask for a file and write the picture there as PNG."""
        self._ask_and_export("PNG picture (*.png)", ".png")

    @Slot()
    def export_svg(self) -> None:
        """Ask for a file and write the picture there as SVG."""
        self._ask_and_export("SVG picture (*.svg)", ".svg")

    def _ask_and_export(self, kind: str, suffix: str) -> None:
        # Opened, not executed: the event loop goes on, and training with it.
        dialog = QFileDialog(self, "Save a picture of the graph")
        dialog.setObjectName("graph.export.dialog")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilter(kind)
        dialog.setDefaultSuffix(suffix.lstrip("."))
        dialog.selectFile(f"graph{suffix}")
        dialog.fileSelected.connect(self.export_file)
        dialog.open()

    @Slot(str)
    def export_file(self, file: str) -> None:
        """Write the picture to a file, PNG or SVG as its suffix says, and say how that went."""
        path = Path(file)
        try:
            picture = self._picture(path)
        except PictureError as error:
            self.message.emit(Message.of(error))
            return
        job = self.runner.submit(save_picture, picture, path, title=f"Save {path.name}", lane="io")
        job.finished.connect(self._on_exported)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_exported(self, written: Path) -> None:
        self.message.emit(Message("success", f"The picture was written to {written.name}"))

    def _picture(self, path: Path) -> Union[QImage, bytes]:
        """The whole graph as ``path``'s suffix says: an image, or an SVG document.

        Raises:
            PictureError: there is no graph, or the suffix is another.
        """
        suffix = path.suffix.lower()
        if suffix not in (".png", ".svg"):
            raise PictureError(
                f"A picture cannot be written to {path.name}",
                f"the ending {path.suffix or '(none)'} says nothing about the format",
                "end the name in .png or .svg",
            )
        svg = suffix == ".svg"
        picture = self.view.render_svg(self._title()) if svg else self.view.render_image()
        if picture is None:
            raise PictureError("There is no graph to make a picture of", "", "trace a prompt first")
        return picture

    def _title(self) -> str:
        graph = self.session.graph
        return "Attribution graph" if graph is None else f"Attribution graph: {graph.prompt}"

    # -- from the lanes -----------------------------------------------------------------------

    @Slot(object)
    def _on_built(self, traced: work.TracedGraph) -> None:
        self.session.set_graph(traced.graph, traced.pruned)

    @Slot()
    def _request_scene(self) -> None:
        """Have the graph pruned and arranged as the controls say; a newer request wins."""
        self._debounce.stop()
        graph = self.session.graph
        if graph is None:
            return
        request = SceneRequest(self.session.thresholds, self.errors.isChecked())
        pruned = self.session.pruned
        if pruned is not None and not _fits(pruned.node_threshold, pruned.edge_threshold, request):
            pruned = None
        job = self.runner.submit(
            prepare_scene,
            graph,
            pruned,
            request,
            title="Prune the graph",
            # Plain numpy, and the thresholds act live: not behind a harvest or a trace.
            lane="io",
            key=_PRUNE_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_prepared)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object)
    def _on_prepared(self, prepared: PreparedScene) -> None:
        if prepared.graph is not self.session.graph:
            return
        self._prepared = prepared
        self.session.set_pruned(prepared.pruned, initiator=self)
        self._show_scene()

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- from the person ----------------------------------------------------------------------

    @Slot(float)
    def _on_threshold(self, _share: float) -> None:
        self.session.set_thresholds(self.node_slider.share, self.edge_slider.share, initiator=self)
        self._debounce.start()

    @Slot(int)
    def _on_mode(self, index: int) -> None:
        self.view.set_link_mode(self.mode.itemData(index))

    @Slot(object)
    def _on_selected(self, name: Optional[str]) -> None:
        self.session.set_selection(name)

    @Slot(str)
    def _on_chosen(self, name: str) -> None:
        self.session.set_selection(name)
        self.view.show_node(name)

    @Slot(str)
    def _on_pin_toggled(self, name: str) -> None:
        self.session.toggle_pin(name)

    # -- drawing ------------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[GraphScene]:
        """What is drawn now."""
        return self._prepared.scene if self._prepared is not None else None

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        graph = self.session.graph
        if parts & {SessionPart.GRAPH, SessionPart.PRUNED, SessionPart.THRESHOLDS}:
            node, edge = self.session.thresholds
            self.node_slider.set_share(node)
            self.edge_slider.set_share(edge)
            if graph is None:
                self.runner.cancel_key(_PRUNE_KEY)
                self._prepared = None
                self._show_scene()
            elif not self._is_shown():
                self._request_scene()
        if parts & {SessionPart.SELECTION, SessionPart.GRAPH}:
            self._show_selection()
        if parts & {SessionPart.PINNED, SessionPart.GRAPH}:
            self._show_pins()
        self._show_facts()

    def _is_shown(self) -> bool:
        """Whether what is drawn is what the session holds."""
        shown = self._prepared
        return (
            shown is not None
            and shown.graph is self.session.graph
            and shown.pruned is self.session.pruned
            and shown.request.thresholds == self.session.thresholds
        )

    def _show_scene(self) -> None:
        self.view.set_scene(self.scene)
        self.show_empty(self.scene is None)
        self._show_selection()
        self._show_pins()
        self._show_facts()

    def _show_selection(self) -> None:
        self.view.set_selected(self.session.selection)
        self.panel.show_node(self.scene, self.session.selection)
        self._show_pins()

    def _show_pins(self) -> None:
        self.view.set_pinned(self.session.pinned)
        self.panel.show_pins(self.scene, self.session.pinned)

    def _show_facts(self) -> None:
        self._save.setEnabled(self.session.graph is not None)
        shown = self._prepared
        self.export.setEnabled(shown is not None)
        if shown is None:
            self._again.hide()
            return
        graph, scene = shown.graph, shown.scene
        stale = self.session.prompt.strip() != graph.prompt.strip()
        self._prompt.set_whole(f"“{graph.prompt}”")
        self._again.setVisible(stale and self.session.crm is not None)
        self._counts.set_whole(
            f"{count(scene.n_nodes)} of {count(len(graph.nodes))} nodes · "
            f"{count(scene.n_edges)} edges · {duration(graph.seconds)}"
        )
        self.scores.show_scores(graph.scores)


def _fits(node: float, edge: float, request: SceneRequest) -> bool:
    """Whether a pruned graph was made with the thresholds that are asked for."""
    return (node, edge) == request.thresholds
