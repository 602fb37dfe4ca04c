"""The Graph dock: the picture of the pruned attribution graph and everything one does with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from PySide6.QtCore import QPoint, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QMenu,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.core.graph_settings import GraphSettings
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.graph_figure import GraphFigure
from attention_studio.ui.jobs import Job, JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.widgets.connections_panel import ConnectionsPanel
from attention_studio.ui.widgets.controls import CommandButton, CommandTool, line
from attention_studio.ui.widgets.graph_controls import GraphControls
from attention_studio.ui.widgets.graph_facts import GraphFacts
from attention_studio.ui.widgets.graph_questions import GraphQuestions
from attention_studio.ui.widgets.graph_scene import (
    GraphScene,
    PreparedScene,
    SceneRequest,
    prepare_scene,
)
from attention_studio.ui.widgets.graph_tracer import GraphTracer
from attention_studio.ui.widgets.graph_view import GraphView
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock

# Sliders speak at every pixel; the graph is pruned when they have been still for so long.
DEBOUNCE_MS = 60
# The panel's part of the width, and the most pixels that it takes.
PANEL_SHARE, MAX_PANEL = 0.29, 360
_PRUNE_KEY = "graph.prune"
_MAKES_SCENE = frozenset(
    (SessionPart.GRAPH, SessionPart.PRUNED, SessionPart.THRESHOLDS, SessionPart.DENSITY)
)
# What the menu of the picture offers, as far as it makes sense.
MENU = (
    "graph.pin",
    "graph.clear_selection",
    "notes.label",
    "nodes.inputs",
    "nodes.outputs",
    "nodes.pin",
    "nodes.choose_none",
    "intervene.add_selected",
    "intervene.switch_off",
    "paths.from_selected",
    "paths.to_selected",
    "graph.clear_highlight",
    "graph.fit",
)


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
            SessionPart.PROMPT_VIEW,
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.THRESHOLDS,
            SessionPart.SELECTION,
            SessionPart.PINNED,
            SessionPart.CHOSEN,
            SessionPart.NOTES,
            SessionPart.LABELS,
            SessionPart.HIGHLIGHT,
            SessionPart.DENSITY,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._prepared: Optional[PreparedScene] = None
        self._split_by_hand = False
        self._asked_unseen = False
        """Whether the picture is wanted although nobody sees the dock."""
        self._before_full_screen = False
        """Whether the dock floated before it got the whole screen."""
        self.tracer = GraphTracer(self.session, self.runner, self)
        self.controls = GraphControls(self.commands, self.session.thresholds)
        self.facts = GraphFacts(self.session, self.runner, self.commands)
        self.view = GraphView(self.theme)
        self.panel = ConnectionsPanel(self.theme)
        self.questions = GraphQuestions(self.session, self.runner, self.panel, self.facts, self)
        self.strip = JobStrip(self.runner, "graph.job")
        self._debounce = QTimer(self)
        self._debounce.setSingleShot(True)
        self._debounce.setInterval(DEBOUNCE_MS)
        self._debounce.timeout.connect(self._request_scene)
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.controls)
        layout.addWidget(self.facts)
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
            CommandButton(self.commands, "graph.build", look="primary", text="Trace the prompt"),
        )
        empty_layout = self._empty.layout() if self._empty is not None else None
        assert isinstance(empty_layout, QVBoxLayout)
        self._waiting = JobStrip(self.runner, "graph.job.first")
        empty_layout.insertWidget(empty_layout.count() - 1, self._waiting)
        layout.addWidget(self.strip)
        self._make_title_buttons()
        self.commands.set_checked("graph.panel", True)
        self.commands.set_checked("graph.minimap", True)
        self._connect()

    # -- building -----------------------------------------------------------------------------

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

    def _make_title_buttons(self) -> None:
        for command_id in ("graph.open", "graph.save"):
            self.add_title_widget(CommandTool(self.commands, command_id, f"{command_id}.tool"))
        figure = CommandTool(self.commands, "figure.show", "graph.figure")
        # With the keyboard in it, the graph is the view that a figure is made of.
        figure.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.add_title_widget(figure)

    def _connect(self) -> None:
        self.controls.thresholds_moved.connect(self._on_threshold)
        self.controls.shown_changed.connect(self._debounce.start)
        self.controls.mode_changed.connect(self.view.set_link_mode)
        self.tracer.started.connect(self._on_trace_started)
        self.tracer.message.connect(self.message)
        self.questions.failed.connect(self._on_failed)
        self.view.selected.connect(self._on_selected)
        self.view.pin_toggled.connect(self._on_pin_toggled)
        self.view.choice_toggled.connect(self._on_choice_toggled)
        self.view.rectangle_chosen.connect(self._on_rectangle)
        self.view.hovered.connect(self.panel.point_at)
        self.view.menu_wanted.connect(self._on_menu)
        self.panel.chosen.connect(self._on_chosen)
        self.panel.pointed.connect(self.view.point_at)
        self.panel.pin_toggled.connect(self._on_pin_toggled)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def build(self) -> None:
        """Trace the session's prompt."""
        self.tracer.build()

    @Slot(object)
    def trace_contrast(self, tokens: tuple[str, str]) -> None:
        """Trace what speaks for the first of two next tokens against the second."""
        self.tracer.build(GraphSettings(contrast=tokens))
        self.show()
        self.raise_()

    def build_with(self, settings: GraphSettings) -> None:
        """Trace the session's prompt in another way than the usual one."""
        self.tracer.build(settings)

    @Slot()
    def fit(self) -> None:
        """Show the whole graph."""
        self.view.fit()

    @Slot()
    def zoom_in(self) -> None:
        """Magnify the graph about its middle."""
        self.view.zoom_in()

    @Slot()
    def zoom_out(self) -> None:
        """Shrink the graph about its middle."""
        self.view.zoom_out()

    @Slot()
    def toggle_panel(self) -> None:
        """Show the connections of the selected node, or hide them."""
        shown = self.panel.isHidden()
        self.panel.setVisible(shown)
        self.commands.set_checked("graph.panel", shown)

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
    def clear_highlight(self) -> None:
        """Emphasise nothing."""
        self.session.set_highlight(None)

    @Slot()
    def toggle_minimap(self) -> None:
        """Show the whole graph in a corner while only a part is in view, or do not."""
        self.view.set_minimap(self.commands.action("graph.minimap").isChecked())

    @Slot()
    def toggle_full_screen(self) -> None:
        """Give the dock the whole screen, or put it back where it was."""
        if self.isFullScreen():
            self.showNormal()
            self.setFloating(self._before_full_screen)
        else:
            self._before_full_screen = self.isFloating()
            self.show()
            self.setFloating(True)
            self.showFullScreen()
            self.view.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.commands.set_checked("graph.full_screen", self.isFullScreen())

    def figures(self) -> tuple[FigureOffer, ...]:
        """The link graph, whole, once the picture is of the graph that is open."""
        shown = self._prepared
        if shown is None or shown.graph is not self.session.graph:
            return ()
        return (FigureOffer("graph", "Attribution graph", self._figure),)

    def _figure(self) -> Optional[Figure]:
        frame, shown = self.view.frame, self._prepared
        if frame is None or shown is None:
            return None
        graph, scene = shown.graph, shown.scene
        node, edge = shown.request.thresholds
        caption = (
            f"Attribution graph of “{graph.prompt}” in {graph.model_name}, traced with "
            f"{graph.crm_name}: the {scene.n_nodes:,} of {len(graph.nodes):,} nodes that carry "
            f"{100 * node:g}% of the influence on the output, and {100 * edge:g}% of it among "
            f"their edges. Replacement score {graph.scores.replacement:.2f}, completeness score "
            f"{graph.scores.completeness:.2f}."
        )
        return GraphFigure("graph", self._title(), caption, frame)

    def _title(self) -> str:
        graph = self.session.graph
        return "Attribution graph" if graph is None else f"Attribution graph: {graph.prompt}"

    # -- from the lanes -----------------------------------------------------------------------

    @Slot(object)
    def _on_trace_started(self, job: Job) -> None:
        (self._waiting if self.empty else self.strip).follow(job)

    @Slot()
    def _request_scene(self) -> None:
        """Have the graph pruned and arranged as the controls say; a newer request wins."""
        self._debounce.stop()
        graph = self.session.graph
        if graph is None:
            return
        if not self.in_front and not self._asked_unseen:
            # Nobody sees it. It is done when the dock shows again.
            self._dirty.add(SessionPart.THRESHOLDS)
            return
        request = self._wanted()
        pruned = self.session.pruned
        if pruned is not None and not _fits(pruned.node_threshold, pruned.edge_threshold, request):
            pruned = None
        job = self.runner.submit(
            prepare_scene,
            graph,
            pruned,
            request,
            title="Prune the graph",
            # The thresholds act live: not behind a harvest, a trace or a download.
            lane="quick",
            key=_PRUNE_KEY,
            quiet=True,
        )
        job.finished.connect(self._on_prepared)
        job.failed.connect(self._on_failed)
        if not self.tracer.running:
            # A trace takes longer, and its strip has the way to stop it.
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

    @Slot()
    def _on_threshold(self) -> None:
        node, edge = self.controls.node_slider.share, self.controls.edge_slider.share
        self.session.set_thresholds(node, edge, initiator=self)
        self._debounce.start()

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

    @Slot(str)
    def _on_choice_toggled(self, name: str) -> None:
        chosen = self.session.chosen
        rest = tuple(other for other in chosen if other != name)
        self.session.set_chosen(rest if name in chosen else (*chosen, name))

    @Slot(object, bool)
    def _on_rectangle(self, names: tuple[str, ...], add: bool) -> None:
        self.session.set_chosen((*self.session.chosen, *names) if add else names)

    @Slot(object)
    def _on_menu(self, at: QPoint) -> None:
        menu = QMenu(self)
        menu.setObjectName("graph.menu")
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        actions = {action.data(): action for action in self.commands.actions()}
        for command_id in MENU:
            if command_id in actions and actions[command_id].isEnabled():
                menu.addAction(actions[command_id])
        menu.popup(at)

    # -- drawing ------------------------------------------------------------------------------

    @property
    def scene(self) -> Optional[GraphScene]:
        """What is drawn now."""
        return self._prepared.scene if self._prepared is not None else None

    def catch_up(self) -> None:
        """Have the picture made, even if nobody sees the dock: a figure is to be taken of it."""
        self.ensure_body()
        self._asked_unseen = True
        super().catch_up()
        self._asked_unseen = False

    @property
    def preparing(self) -> bool:
        """Whether the picture is being made."""
        return self.runner.running(_PRUNE_KEY) is not None

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        graph = self.session.graph
        if SessionPart.PROMPT_VIEW in parts:
            self.tracer.follow()
        if parts & {SessionPart.DENSITY, SessionPart.GRAPH}:
            self.controls.show_density(self.session.graph_density)
        if parts & _MAKES_SCENE:
            self.controls.show_thresholds(*self.session.thresholds)
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
            self.questions.ask_pinned_scores()
        if parts & {SessionPart.NOTES, SessionPart.LABELS}:
            self._show_labels()
        if SessionPart.CHOSEN in parts:
            self._show_chosen()
        if SessionPart.HIGHLIGHT in parts:
            self._show_highlight()
        self._show_facts()

    def _wanted(self) -> SceneRequest:
        """What the controls and the session ask for."""
        return SceneRequest(
            self.session.thresholds,
            self.controls.errors.isChecked(),
            self.session.graph_density,
            self.controls.density_slider.share,
        )

    def _is_shown(self) -> bool:
        """Whether what is drawn is what the session holds."""
        shown = self._prepared
        return (
            shown is not None
            and shown.graph is self.session.graph
            and shown.pruned is self.session.pruned
            and shown.request == self._wanted()
        )

    def _show_scene(self) -> None:
        self._label_scene()
        self.view.set_scene(self.scene)
        self.show_empty(self.scene is None)
        self._show_selection()
        self._show_chosen()
        self._show_highlight()
        self._show_facts()

    def _label_scene(self) -> None:
        """Have the scene know what the person calls features."""
        if self._prepared is not None:
            scene = self._prepared.scene.labelled(self.session.named_notes.labels)
            if scene is not self._prepared.scene:
                self._prepared = replace(self._prepared, scene=scene)

    def _show_labels(self) -> None:
        before = self.scene
        self._label_scene()
        if self.scene is not before:
            self.view.set_scene(self.scene)
            self._show_selection()

    def _show_chosen(self) -> None:
        self.view.set_chosen(self.session.chosen)
        self.facts.show_chosen(self.session.chosen)

    def _show_highlight(self) -> None:
        self.view.set_highlight(self.session.highlight)
        self.facts.show_highlight(self.session.highlight)

    def _show_selection(self) -> None:
        self.view.set_selected(self.session.selection)
        selection = self.session.selection
        group = None if selection is None else self.session.notes.supernode(selection)
        if group is not None:
            self.panel.show_group(self.scene, group)
        else:
            self.panel.show_node(self.scene, selection)
        self._show_pins()

    def _show_pins(self) -> None:
        self.view.set_pinned(self.session.pinned)
        self.panel.show_pins(self.scene, self.session.pinned)

    def _show_facts(self) -> None:
        shown = self._prepared
        if shown is None:
            self.facts.show_nothing()
            return
        stale = self.tracer.is_stale(shown.graph)
        self.facts.show_graph(shown, stale and self.session.crm is not None)


def _fits(node: float, edge: float, request: SceneRequest) -> bool:
    """Whether a pruned graph was made with the thresholds that are asked for."""
    return (node, edge) == request.thresholds
