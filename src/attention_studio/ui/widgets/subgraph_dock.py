"""The Subgraph dock: pinned nodes and supernodes as boxes, arranged, named, moved and scored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QPoint, Signal, Slot
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QMenu, QSplitter, QVBoxLayout, QWidget

from attention_studio.core.graph_notes import feature_of
from attention_studio.ui import work_subgraph
from attention_studio.ui.feature_labels import FeatureLabelling
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import count, percent
from attention_studio.ui.widgets.controls import (
    CommandButton,
    CommandTool,
    ElidedLabel,
    icon_button,
    label,
    line,
    named,
)
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.score_badges import ScoreBadges
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.subgraph_arranger import SubgraphArranger
from attention_studio.ui.widgets.subgraph_painter import roles_in
from attention_studio.ui.widgets.subgraph_scene import LEAST_SHARE, SubgraphScene
from attention_studio.ui.widgets.subgraph_view import SubgraphView
from attention_studio.ui.widgets.supernode_suggester import SupernodeSuggester

if TYPE_CHECKING:
    from attention_studio.core.graph_layout import GraphLayout
    from attention_studio.ui.figures.figure import Figure, FigureOffer

# With so many nodes a subgraph begins.
BEGIN_WITH = 12
_LEAST_SHARES = (0.0, 0.01, LEAST_SHARE, 0.05, 0.1)
_MENU = (
    "subgraph.group", "subgraph.ungroup", "subgraph.rename", "subgraph.take_out", "",
    "subgraph.unpin", "subgraph.release", "", "intervene.add_selected", "intervene.switch_off",
)  # fmt: skip


class SubgraphDock(StudioDock):
    """The subgraph of what is pinned.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "subgraphDock"
    TITLE = "Subgraph"
    ICON = "subgraph"
    LAZY = True
    WATCHES = frozenset((SessionPart.GRAPH, SessionPart.NOTES, SessionPart.LABELS,
                         SessionPart.SELECTION, SessionPart.CHOSEN, SessionPart.HIGHLIGHT,
                         ))  # fmt: skip

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._box_of: dict[str, int] = {}
        self._to_name: Optional[str] = None
        self.view = SubgraphView(self.theme)
        self.strip = JobStrip(self.runner, "subgraph.job")
        self.arranger = SubgraphArranger(self.session, self.runner, self.view, self.strip, self)
        self.suggester = SupernodeSuggester(
            self.session, self.runner, self.commands, self.theme, self.strip, self
        )
        self.panel = self.suggester.panel
        self.panel.hide()
        splitter = QSplitter()
        splitter.setObjectName("subgraph.splitter")
        splitter.addWidget(self.view)
        splitter.addWidget(self.panel)
        splitter.setStretchFactor(0, 1)
        splitter.setStretchFactor(1, 0)
        splitter.setCollapsible(0, False)
        splitter.setSizes([700, 300])
        body = QWidget()
        body.setObjectName("formBody")
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(self._make_controls())
        layout.addLayout(self._make_facts())
        layout.addWidget(line())
        layout.addWidget(splitter, 1)
        layout.addWidget(self.strip)
        self.set_content(body)
        self._make_empty()
        self._menu = QMenu(self)
        self._menu.setObjectName("subgraph.menu")
        for command in _MENU:
            if command:
                self._menu.addAction(self.commands.action(command))
            else:
                self._menu.addSeparator()
        self._connect()

    # -- building -----------------------------------------------------------------------------

    def _make_controls(self) -> QHBoxLayout:
        self.least = QComboBox()
        named(self.least, "subgraph.least", "Links that are drawn",
              "Draw links from this share of the target's input on")  # fmt: skip
        for share in _LEAST_SHARES:
            self.least.addItem("All" if not share else f"From {share:.0%}", share)
        self.least.setCurrentIndex(_LEAST_SHARES.index(LEAST_SHARE))
        controls = QHBoxLayout()
        controls.setContentsMargins(10, 6, 8, 2)
        controls.setSpacing(8)
        controls.addWidget(label("Links", "caption"))
        controls.addWidget(self.least)
        suggest = CommandButton(self.commands, "subgraph.suggest", look="quiet")
        controls.addWidget(suggest)
        controls.addStretch(1)
        tools = QHBoxLayout()
        tools.setSpacing(0)
        for command in ("group", "ungroup", "rename", "unpin", "release", "zoom_out", "zoom_in",
                        "fit"):  # fmt: skip
            name = f"subgraph.{command}"
            tools.addWidget(CommandTool(self.commands, name, f"{name}.tool"))
        controls.addLayout(tools)
        return controls

    def _make_facts(self) -> QHBoxLayout:
        self._counts = ElidedLabel(role="caption")
        named(self._counts, "subgraph.counts", "Size of the subgraph")
        self._highlighted = ElidedLabel(role="caption")
        named(self._highlighted, "subgraph.highlighted", "What is emphasised")
        self._clear = icon_button(
            self.theme, "close", "subgraph.clearHighlight", "Emphasise nothing",
            "Let the graph and the subgraph look as usual again",
        )  # fmt: skip
        self._clear.clicked.connect(self._on_clear)
        # The picture is not to jump by a few pixels when something is emphasised.
        policy = self._clear.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self._clear.setSizePolicy(policy)
        self.scores = ScoreBadges("subgraph")
        facts = QHBoxLayout()
        facts.setContentsMargins(10, 0, 10, 5)
        facts.setSpacing(8)
        facts.addWidget(self._counts, 3)
        facts.addWidget(self._highlighted, 2)
        facts.addWidget(self._clear)
        facts.addWidget(self.scores)
        return facts

    def _make_empty(self) -> None:
        buttons = QWidget()
        layout = QVBoxLayout(buttons)
        layout.setContentsMargins(0, 0, 0, 0)
        self._begin = CommandButton(self.commands, "subgraph.begin", look="primary")
        self._trace = CommandButton(
            self.commands, "graph.build", look="primary", text="Trace the prompt"
        )
        self._trace.setObjectName("subgraph.trace")
        layout.addWidget(self._begin)
        layout.addWidget(self._trace)
        self._waiting = JobStrip(self.runner, "subgraph.job.first")
        layout.addWidget(self._waiting)
        self.set_empty("No subgraph yet", "", buttons)
        self._show_empty_words()

    def _show_empty_words(self) -> None:
        there = self.session.graph is not None
        self._begin.setVisible(there)
        self._trace.setVisible(not there)
        text = (
            "A subgraph is the part of the graph that tells your story: pin nodes with Ctrl and a "
            "click in the graph, group those that do one thing, and see what feeds what. Or begin "
            "with the strongest paths from the tokens to the output."
            if there
            else "A subgraph is the part of an attribution graph that tells your story: pinned "
            "nodes, grouped and named. Trace a prompt first."
        )
        assert self._empty is not None
        self._empty.set_texts("Nothing is pinned" if there else "No subgraph yet", text)

    def _connect(self) -> None:
        view = self.view
        view.selected.connect(self._on_selected)
        view.toggled.connect(self._on_toggled)
        view.unpin_asked.connect(self._on_unpin_asked)
        view.rectangle_chosen.connect(self._on_rectangle)
        view.moved.connect(self._on_moved)
        view.renamed.connect(self._on_renamed)
        view.command_asked.connect(self._on_command_asked)
        view.menu_asked.connect(self._on_menu_asked)
        self.least.currentIndexChanged.connect(self._on_least)
        self.arranger.scene_ready.connect(self._show_scene)
        self.arranger.places_ready.connect(self._on_places)
        self.arranger.failed.connect(self._on_failed)
        self.suggester.message.connect(self.message)
        # After the view, which measures with its new fonts then.
        self.theme.changed.connect(self.arranger.arrange)

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def begin(self) -> None:
        """Pin the nodes of the strongest paths."""
        graph = self.session.graph
        if graph is None:
            return
        job = self.runner.submit(
            work_subgraph.find_beginning, graph, BEGIN_WITH,
            title="Find the strongest paths", lane="quick", key="subgraph.begin",
        )  # fmt: skip
        job.finished.connect(self._on_beginning)
        job.failed.connect(self._on_failed)
        self._waiting.follow(job)

    @Slot(object)
    def _on_beginning(self, names: tuple[str, ...]) -> None:
        graph = self.session.graph
        if graph is not None and all(graph.has(name) for name in names):
            text = f"Pin the {len(names)} nodes of the strongest paths"
            self.session.set_pinned((*self.session.pinned, *names), text=text)
            self.go_there()

    @Slot()
    def group(self) -> None:
        """Make one supernode of what is chosen, and ask for its name."""
        graph, notes = self.session.graph, self.session.notes
        if graph is None:
            return
        names = tuple(name for name in self.session.chosen if graph.has(name))
        if len(names) < 2:
            return
        from attention_studio.core.supernode_suggestions import name_for

        name = name_for(graph, self.session.named_notes, [graph.find(node) for node in names])
        grouped, group = notes.grouped(names, name)
        # Whoever groups in another view goes on there, and names later.
        self._to_name = group.key if self.in_front else None
        self.session.set_notes(grouped, f"Group {len(names)} nodes")
        self.session.set_chosen(())
        self.session.set_selection(group.key)

    @Slot()
    def ungroup(self) -> None:
        """Dissolve the supernode that is meant; its nodes are chosen then."""
        group = self.session.notes.focused_group(self.session.selection, self.session.chosen)
        if group is None:
            return
        self.session.set_notes(self.session.notes.ungrouped(group.key), f"Ungroup “{group.name}”")
        if self.session.selection == group.key:
            self.session.set_selection(None)
        self.session.set_chosen(group.nodes)

    @Slot()
    def rename(self) -> None:
        """Ask for the name of the supernode or feature that is meant."""
        selection = self.session.selection
        group = self.session.notes.focused_group(selection, self.session.chosen)
        key = group.key if group is not None else selection
        if key is None or (group is None and feature_of(key) is None):
            return
        if not self.in_front:
            self.go_there()
        self._to_name = key
        self._name_now()

    @Slot()
    def take_out(self) -> None:
        """Let the selected node leave its supernode."""
        name = self.session.selection
        if name is not None and self.session.notes.supernode_of(name) is not None:
            self.session.set_notes(
                self.session.notes.without_from_group([name]), "Take a node out of its supernode"
            )

    @Slot()
    def unpin(self) -> None:
        """Let what is selected or chosen leave the subgraph."""
        self._unpin(self._meant())

    @Slot()
    def release(self) -> None:
        """Forget the places of what is selected or chosen, or of all boxes."""
        notes = self.session.notes
        meant = {self._key_of(name) for name in self._meant()} & set(notes.places)
        text = "Let boxes find their places"
        self.session.set_notes(notes.unplaced(meant or None), text)

    @Slot()
    def suggest(self) -> None:
        """Show suggestions, and look for new ones."""
        if self.session.graph is None:
            return
        if self.empty:
            self.begin()
        elif not self.in_front:
            self.go_there()
        self.panel.show()
        self.suggester.look()

    @Slot()
    def fit(self) -> None:
        """Show the whole subgraph."""
        self.view.fit()

    @Slot()
    def zoom_in(self) -> None:
        """Magnify the subgraph about its middle."""
        self.view.zoom_in()

    @Slot()
    def zoom_out(self) -> None:
        """Shrink the subgraph about its middle."""
        self.view.zoom_out()

    # -- what is meant ------------------------------------------------------------------------

    def _nodes_of(self, key: str) -> tuple[str, ...]:
        """Names of the nodes of a box."""
        group = self.session.notes.supernode(key)
        return (key,) if group is None else group.nodes

    def _key_of(self, node: str) -> str:
        """Key of the box that holds a node."""
        group = self.session.notes.supernode_of(node)
        return node if group is None else group.key

    def _meant(self) -> tuple[str, ...]:
        """Names of the nodes that are chosen, or else selected."""
        selection = self.session.selection
        if self.session.chosen:
            return self.session.chosen
        return () if selection is None else self._nodes_of(selection)

    def _unpin(self, nodes: Iterable[str]) -> None:
        gone = set(nodes) & set(self.session.pinned)
        if not gone:
            return
        left = tuple(name for name in self.session.pinned if name not in gone)
        notes = self.session.notes.with_pinned(left)
        keys = {*left, *(group.key for group in notes.supernodes)}
        notes = notes.unplaced(set(notes.places) - keys)
        what = next(iter(gone)) if len(gone) == 1 else f"{len(gone)} nodes"
        self.session.set_notes(notes, f"Unpin {what}")

    # -- from the person ----------------------------------------------------------------------

    @Slot(object, object)
    def _on_selected(self, key: Optional[str], member: Optional[int]) -> None:
        scene = self.view.scene
        if key is not None and member is not None and scene is not None:
            key = scene.subgraph.names(self._box_of[key])[member]
        self.session.set_chosen(())
        self.session.set_selection(key)

    @Slot(str)
    def _on_toggled(self, key: str) -> None:
        nodes, selection = self._nodes_of(key), self.session.selection
        chosen = list(self.session.chosen)
        first = selection is not None and selection not in (key, *nodes)
        if not chosen and selection is not None and first and selection in self._box_of:
            chosen = [*self._nodes_of(selection)]
        if set(nodes) <= set(chosen):
            chosen = [name for name in chosen if name not in nodes]
        else:
            chosen += nodes
        self.session.set_chosen(chosen)

    @Slot(str)
    def _on_unpin_asked(self, key: str) -> None:
        self._unpin(self._nodes_of(key))

    @Slot(object, bool)
    def _on_rectangle(self, keys: tuple[str, ...], add: bool) -> None:
        nodes = [name for key in keys for name in self._nodes_of(key)]
        self.session.set_chosen([*(self.session.chosen if add else ()), *nodes])

    @Slot(object, bool)
    def _on_moved(self, places: dict[str, tuple[float, float]], keyed: bool) -> None:
        what, scene = f"{len(places)} boxes", self.view.scene
        if len(places) == 1 and scene is not None:
            what = f"“{scene.words[scene.keys.index(next(iter(places)))].title}”"
        notes = self.session.notes.placed(places)
        self.session.set_notes(notes, f"Move {what}", merge=keyed)

    @Slot(str, str)
    def _on_renamed(self, key: str, name: str) -> None:
        notes, feature = self.session.notes, feature_of(key)
        group = notes.supernode(key)
        if group is not None and name:
            self.session.set_notes(notes.renamed(key, name), f"Name supernode “{name}”")
        elif group is None and feature is not None:
            if not name and FeatureLabelling.of(self.session, self.runner).take_away(feature):
                return
            text = f"Label {feature} “{name}”" if name else f"Take the label of {feature} away"
            self.session.set_notes(notes.labelled(feature, name), text)

    @Slot(str)
    def _on_command_asked(self, command: str) -> None:
        self.commands.run(command)

    @Slot()
    def _on_clear(self) -> None:
        self.session.set_highlight(None)

    @Slot(object)
    def _on_menu_asked(self, at: QPoint) -> None:
        self._menu.popup(at)

    # -- what changed -------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        if parts & {SessionPart.GRAPH, SessionPart.NOTES, SessionPart.LABELS}:
            self.arranger.follow()
            self.suggester.renew()
        if parts & {SessionPart.SELECTION, SessionPart.CHOSEN}:
            self._show_state()
        if SessionPart.HIGHLIGHT in parts:
            self._show_roles()

    @Slot(int)
    def _on_least(self, _index: int) -> None:
        self.arranger.set_least(self.least.currentData())

    @Slot(object)
    def _on_places(self, layout: GraphLayout) -> None:
        self.view.set_places(layout.x, layout.y)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))
        if self.session.pinned and self.view.scene is None:
            self._begin.hide()
            assert self._empty is not None
            self._empty.set_texts(failure.what, f"{failure.why}. {failure.todo}.")

    # -- drawing ------------------------------------------------------------------------------

    @Slot(object)
    def _show_scene(self, scene: Optional[SubgraphScene]) -> None:
        if scene is None:
            self._box_of = {}
            self.view.set_scene(None)
            self._show_empty_words()
            self.show_empty(True)
            return
        subgraph = scene.subgraph
        self._box_of = {
            name: number
            for number in range(len(scene))
            for name in (*subgraph.names(number), scene.keys[number])
        }
        self.show_empty(False)
        self.view.set_scene(scene)
        self._show_state()
        self._show_roles()
        groups = sum(box.is_group for box in subgraph.boxes)
        nodes = sum(len(box.nodes) for box in subgraph.boxes)
        parts = [f"{count(nodes)} nodes"]
        if groups:
            parts.append(f"{groups} supernode{'' if groups == 1 else 's'}")
        parts.append(f"{count(len(scene.links))} of {count(len(subgraph.share))} links")
        self._counts.set_whole(" · ".join(parts))
        self.scores.show_scores(subgraph.scores)
        self._name_now()

    def _name_now(self) -> None:
        """Open the line for a name, if one was asked for and its box is there."""
        key, scene = self._to_name, self.view.scene
        if key is not None and scene is not None and key in scene.keys:
            self._to_name = None
            if self.in_front:
                self.view.edit_name(key)
        elif key is not None and scene is not None and key in self._box_of:
            # A member of a supernode has no box of its own to type over.
            self._to_name = None

    def _show_state(self) -> None:
        selection, scene = self.session.selection, self.view.scene
        box = None if selection is None else self._box_of.get(selection)
        member = None
        if box is not None and scene is not None and scene.subgraph.boxes[box].is_group:
            graph = scene.subgraph.graph
            member = graph.find(selection) if selection and graph.has(selection) else None
        chosen = frozenset(self._box_of[name] for name in self.session.chosen
                           if name in self._box_of)  # fmt: skip
        self.view.set_state(box, member, chosen)

    def _show_roles(self) -> None:
        highlight, scene = self.session.highlight, self.view.scene
        boxes, links = ({}, {}) if scene is None else roles_in(scene, highlight)
        self.view.set_roles(boxes, links, highlight is not None and highlight.dim_rest)
        self._highlighted.setVisible(highlight is not None)
        self._clear.setVisible(highlight is not None)
        if highlight is not None:
            self._highlighted.set_whole(highlight.title)

    # -- figures ------------------------------------------------------------------------------

    @property
    def preparing(self) -> bool:
        """Whether the boxes have no places yet."""
        return self.made and self.arranger.preparing

    def figures(self) -> tuple[FigureOffer, ...]:
        """The subgraph."""
        from attention_studio.ui.figures.figure import FigureOffer

        graph, scene = self.session.graph, self.view.scene if self.made else None
        if graph is None or scene is None or scene.subgraph.graph is not graph:
            return ()
        return (FigureOffer("subgraph", "Subgraph", self._figure),)

    def _figure(self) -> Optional[Figure]:
        from attention_studio.ui.figures.subgraph_figure import SubgraphFigure

        scene = self.view.scene
        if scene is None or not len(scene):
            return None
        graph = scene.subgraph.graph
        scores = scene.subgraph.scores
        caption = (
            f"Subgraph of the attribution graph of “{graph.prompt}” ({graph.model_name}, "
            f"{graph.crm_name}): {len(scene)} boxes, links from "
            f"{percent(self.least.currentData())} of their target's input on. Line width is the "
            "share of the target's input, blue adds and orange takes away. Replacement score "
            f"{percent(scores.replacement)}, completeness {percent(scores.completeness)}."
        )
        return SubgraphFigure("subgraph", "Subgraph", caption, scene, self.view.state)
