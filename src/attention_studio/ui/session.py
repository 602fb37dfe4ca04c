"""What the person is looking at: one observable state with undo.

The session holds handles (the loaded model, the replacement model) that the window only passes on,
and frozen records (prompt view, features, graph) that it draws. Whoever changes something says who
it is, so that a view can ignore its own change:

    session.set_selection("L12/P5/F1043", initiator=self)
    session.changed.connect(self._on_session_changed)   # (SessionPart, initiator)

What a person makes of a graph (pins, supernodes, labels, ...) is one frozen record, ``notes``;
every change of it can be undone:

    session.set_notes(session.notes.labelled("L12/F1043", "Texas"), "Label L12/F1043", self)

What a person finds out and may want to see again (an intervention and its outcome, a comparison)
goes into ``records`` as plain JSON values, which a workspace writes and gives back.

Setting a part drops what was computed from it: another model drops the replacement model and all
results; another replacement model drops features and graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QUndoCommand, QUndoStack

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.lens_records import PatchSet
from attention_studio.core.node_words import node_words
from attention_studio.core.trace_circumstances import dictionaries_of, made_by
from attention_studio.ui.highlight import Highlight
from attention_studio.ui.stray_record import Records, StrayRecord, appended
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from attention_studio.core.attention_records import AttentionView
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.crm_quality import CRMComparison
    from attention_studio.core.dictionaries.crm_folder import CRMManifest
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.lens_records import LensTable
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.model_records import LayerInfo, ModelConfig, ModelInfo, PromptView
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.sites import Site
    from attention_studio.core.workspace import Workspace
    from attention_studio.ui.workspace_view import WorkspaceView

T = TypeVar("T")
DEFAULT_NODE_THRESHOLD = 0.8
DEFAULT_EDGE_THRESHOLD = 0.98


class SessionPart(Enum):
    """What can change."""

    MODEL = auto()
    CRM = auto()
    PROMPT = auto()
    PROMPT_VIEW = auto()
    FEATURES = auto()
    FEATURE = auto()
    STORE = auto()
    LABELS = auto()
    DENSITY = auto()
    GRAPH = auto()
    PRUNED = auto()
    THRESHOLDS = auto()
    SELECTION = auto()
    CHOSEN = auto()
    PINNED = auto()
    NOTES = auto()
    HIGHLIGHT = auto()
    QUERY = auto()
    RECORDS = auto()
    ATTENTION = auto()
    LENS = auto()
    PATCHES = auto()
    TRAINING = auto()
    COMPARISON = auto()
    WORKSPACE = auto()


def feature_id(site: Site, position: int, index: int) -> str:
    """The id of a feature at a position, equal to the graph's name of that node."""
    return f"{site.label}/P{position}/F{index}"


class _Held(Generic[T]):
    """A value of the session: read like an attribute, set by the session's methods alone."""

    def __init__(self, at_first: T) -> None:
        self._at_first = at_first

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, session: Session, _owner: Optional[type] = None) -> T:
        value: T = session._values.get(self._name, self._at_first)
        return value

    def __set__(self, _session: Session, _value: T) -> None:
        raise AttributeError(f"{self._name} is set by a method of the session")


class Session(QObject):
    """The observable state. Lives on the main thread.

    ``settings`` are those of the machine, for lanes that need them. ``changed`` carries the
    ``SessionPart`` and whoever initiated the change (or None). Setting a part to the value that it
    has emits nothing. ``leaving`` comes before a graph gives way to another or the window goes:
    whoever has something half written about the graph keeps it now. ``history_changed`` says that
    there is something else to undo or redo, and ``astray`` carries a ``StrayRecord`` that belongs
    to a workspace that was left.
    """

    changed = Signal(object, object)
    history_changed = Signal()
    leaving = Signal()
    astray = Signal(object)

    def __init__(
        self, settings: Optional[Settings] = None, parent: Optional[QObject] = None
    ) -> None:
        super().__init__(parent)
        self.settings = settings if settings is not None else Settings()
        self.undo_stack = QUndoStack(self)
        self.undo_stack.setUndoLimit(500)
        # Relayed, since the stack signals once more while it is deleted: this object hears nothing
        # of that any more, so nobody asks a stack that is half gone.
        self.undo_stack.indexChanged.connect(self._on_history)
        self._values: dict[str, Any] = {}

    # -- reading ------------------------------------------------------------------------------

    model: _Held[Optional[LoadedModel]] = _Held(None)
    """The loaded model: a handle to pass on to lanes."""
    model_config: _Held[Optional[ModelConfig]] = _Held(None)
    """What was asked for when the model was loaded."""
    crm: _Held[Optional[CompleteReplacementModel]] = _Held(None)
    """The open replacement model: a handle to pass on to lanes."""
    crm_info: _Held[Optional[CRMManifest]] = _Held(None)
    """The manifest of the open replacement model."""
    crm_folder: _Held[Optional[Path]] = _Held(None)
    """The folder that the open replacement model came from."""
    layers: _Held[tuple[LayerInfo, ...]] = _Held(())
    """The layers of the loaded model, described."""
    prompt: _Held[str] = _Held("")
    """The prompt as typed."""
    prompt_view: _Held[Optional[PromptView]] = _Held(None)
    """The prompt as the model sees it, with its next tokens."""
    features: _Held[Optional[FeatureReport]] = _Held(None)
    """The strongest features of a prompt."""
    feature: _Held[Optional[tuple[Site, int]]] = _Held(None)
    """The feature that is looked at, of the selected node or without one: module and index."""
    store: _Held[Optional[FeatureStore]] = _Held(None)
    """Dashboards of the open replacement model's features: a handle to pass on to lanes."""
    store_labels: _Held[Mapping[str, str]] = _Held(MappingProxyType({}))
    """What the dashboards call features, by their names without position (``L12/F1043``)."""
    density: _Held[Optional[FeatureDensity]] = _Held(None)
    """How often the latents of the open replacement model are active over a text."""
    graph: _Held[Optional[AttributionGraph]] = _Held(None)
    """The whole attribution graph."""
    graph_key: _Held[str] = _Held("")
    """What the workspace knows the graph by; "": it has not got it yet."""
    pruned: _Held[Optional[PrunedGraph]] = _Held(None)
    """The part of the graph that the thresholds leave."""
    thresholds: _Held[tuple[float, float]] = _Held((DEFAULT_NODE_THRESHOLD, DEFAULT_EDGE_THRESHOLD))
    """Node and edge threshold, each a share of influence in [0, 1]."""
    selection: _Held[Optional[str]] = _Held(None)
    """Id of the selected node or feature, such as ``"L12/P5/F1043"``."""
    chosen: _Held[tuple[str, ...]] = _Held(())
    """Ids of the nodes that are chosen together, for grouping, pinning or asking about them."""
    notes: _Held[GraphNotes] = _Held(GraphNotes())
    """What the person has made of the graph."""
    highlight: _Held[Optional[Highlight]] = _Held(None)
    """What is emphasised in the graph."""
    query: _Held[str] = _Held("")
    """The query that nodes are asked for with, as typed."""
    records: _Held[Mapping[str, tuple[dict[str, Any], ...]]] = _Held(MappingProxyType({}))
    """By kind ("intervention", "patch", ...) what was found out, as JSON values, oldest first."""
    attention: _Held[Optional[AttentionView]] = _Held(None)
    """Where all heads look on a prompt."""
    lens: _Held[Optional[LensTable]] = _Held(None)
    """What the residual stream of a prompt would predict."""
    patches: _Held[PatchSet] = _Held(PatchSet())
    """What is patched in the residual stream of a prompt."""
    training: _Held[Optional[str]] = _Held(None)
    """State of the training run: None, "preparing", "running", "paused" or "stopping"."""
    comparison: _Held[Optional[CRMComparison]] = _Held(None)
    """What was last measured of replacement models."""
    workspace: _Held[Optional[WorkspaceView]] = _Held(None)
    """The open workspace: its name, its graphs, and whether all is saved."""

    @property
    def pinned(self) -> tuple[str, ...]:
        """Ids of the pinned nodes, in the order in which they were pinned."""
        return self.notes.pinned

    @property
    def graph_density(self) -> Optional[FeatureDensity]:
        """How often the latents of the graph are active; None: not known, as of a graph that was
        made with another replacement model than the open one."""
        density, graph = self.density, self.graph
        if density is None or graph is None:
            return None
        return density if dictionaries_of(graph).means(density.crm) else None

    @property
    def home(self) -> Optional[Workspace]:
        """The workspace that what is asked for now belongs to; None: none is open yet."""
        return None if self.workspace is None else self.workspace.home

    def is_home(self, home: Optional[Workspace]) -> bool:
        """Whether what was asked for when ``home`` was open belongs to what is open now. What was
        asked for before any workspace was belongs to the first one."""
        here = self.home
        return home is None or (here is not None and here.folder == home.folder)

    @property
    def named_notes(self) -> GraphNotes:
        """The notes to show nodes of the graph by: what the person has not called anything is
        called what the dashboards call it, where the graph is of these features. For reading alone:
        what is changed are the person's own ``notes``."""
        made_of = (self.notes, self.store_labels, self.graph, self.crm, self.store)
        held = self._values.get("named_notes")
        if held is None or any(new is not old for new, old in zip(made_of, held[0], strict=True)):
            notes, labels, graph, crm, store = made_of
            if labels and graph is not None and store is not None:
                mine = store.about.may_be_of(graph) if crm is None else made_by(graph, crm)
                notes = notes.over(labels) if mine else notes
            held = self._values["named_notes"] = (made_of, notes)
        named: GraphNotes = held[1]
        return named

    @property
    def labels(self) -> Mapping[str, str]:
        """What features are called, by their names without position: as the person called them
        with this graph, else as the dashboards do."""
        return {**self.store_labels, **self.notes.labels}

    @property
    def model_info(self) -> Optional[ModelInfo]:
        """What there is to say about the loaded model."""
        return self.model.info if self.model is not None else None

    # -- writing ------------------------------------------------------------------------------

    def set_model(
        self,
        model: Optional[LoadedModel],
        layers: tuple[LayerInfo, ...] = (),
        initiator: Optional[object] = None,
        config: Optional[ModelConfig] = None,
    ) -> None:
        """Set the loaded model; everything computed with another one is dropped.

        ``config`` is what was asked for when it was loaded.
        """
        if model is self.model:
            return
        self.set_crm(None, None, None, initiator)
        self.set_comparison(None, initiator)
        self.set_attention(None, initiator)
        self.set_lens(None, initiator)
        self._set("patches", SessionPart.PATCHES, PatchSet(), initiator)
        self._values["layers"] = layers
        self._values["model_config"] = config
        self._set("prompt_view", SessionPart.PROMPT_VIEW, None, initiator)
        self._set("model", SessionPart.MODEL, model, initiator)

    def set_crm(
        self,
        crm: Optional[CompleteReplacementModel],
        info: Optional[CRMManifest],
        folder: Optional[Path] = None,
        initiator: Optional[object] = None,
        keep_graph: bool = False,
    ) -> None:
        """Set the open replacement model, its manifest and folder; drops features and graph.

        With ``keep_graph`` the graph stays, since it was traced with this very one.
        """
        if crm is self.crm and info is self.crm_info:
            return
        self.set_features(None, initiator)
        self.set_store(None, initiator)
        self.set_density(None, initiator)
        if not keep_graph:
            self.set_graph(None, None, initiator)
        self._values["crm_info"] = info
        self._values["crm_folder"] = folder
        self._set("crm", SessionPart.CRM, crm, initiator)

    def set_prompt(self, text: str, initiator: Optional[object] = None) -> None:
        """Set the prompt. Results stay: each says for which prompt it was made."""
        self._set("prompt", SessionPart.PROMPT, text, initiator)

    def set_prompt_view(
        self, view: Optional[PromptView], initiator: Optional[object] = None
    ) -> None:
        """Set the prompt as the model sees it."""
        self._set("prompt_view", SessionPart.PROMPT_VIEW, view, initiator)

    def set_features(
        self, report: Optional[FeatureReport], initiator: Optional[object] = None
    ) -> None:
        """Set the features of a prompt."""
        self._set("features", SessionPart.FEATURES, report, initiator)

    def set_store(self, store: Optional[FeatureStore], initiator: Optional[object] = None) -> None:
        """Set the dashboards of the open replacement model's features; labels of others go."""
        if store is not self.store:
            self.set_store_labels({}, initiator)
        self._set("store", SessionPart.STORE, store, initiator)

    def set_store_labels(
        self, labels: Mapping[str, str], initiator: Optional[object] = None
    ) -> None:
        """Set what the dashboards call features."""
        if dict(labels) != dict(self.store_labels):
            held = MappingProxyType(dict(labels))
            self._set("store_labels", SessionPart.LABELS, held, initiator)

    def set_feature(
        self, feature: Optional[tuple[Site, int]], initiator: Optional[object] = None
    ) -> None:
        """Look at a feature, whatever node is selected."""
        self._set("feature", SessionPart.FEATURE, feature, initiator)

    def set_density(
        self, density: Optional[FeatureDensity], initiator: Optional[object] = None
    ) -> None:
        """Set how often the latents of the open replacement model are active."""
        self._set("density", SessionPart.DENSITY, density, initiator)

    def set_graph(
        self,
        graph: Optional[AttributionGraph],
        pruned: Optional[PrunedGraph],
        initiator: Optional[object] = None,
        keep: bool = False,
        key: str = "",
        notes: Optional[GraphNotes] = None,
    ) -> None:
        """Set a new graph and its pruned part; selection, notes and undo of the old one go.

        With ``keep`` the selection, the notes and the undo stay, but for pins and chosen nodes that
        are not in the new graph, and to the workspace it is the same graph. A graph that comes from
        the workspace brings its ``key`` there and its ``notes``.
        """
        if graph is self.graph:
            self.set_pruned(pruned, initiator)
            return
        self.leaving.emit()
        there = graph is not None and keep
        if not there:
            self.undo_stack.clear()
        self._values["pruned"] = pruned
        if not there:
            self._values["graph_key"] = key

        def stays(name: Optional[str]) -> bool:
            return there and graph is not None and name is not None and graph.has(name)

        pinned = (name for name in self.pinned if stays(name))
        kept = self.notes.with_pinned(pinned) if there else notes or GraphNotes()
        selection = self.selection if stays(self.selection) else None
        chosen = tuple(name for name in self.chosen if stays(name))
        self._set("highlight", SessionPart.HIGHLIGHT, None, initiator)
        self._set("selection", SessionPart.SELECTION, selection, initiator)
        self._set("chosen", SessionPart.CHOSEN, chosen, initiator)
        self._set("notes", SessionPart.NOTES, kept, initiator)
        self._set("graph", SessionPart.GRAPH, graph, initiator)
        self.changed.emit(SessionPart.PRUNED, initiator)

    def set_pruned(self, pruned: Optional[PrunedGraph], initiator: Optional[object] = None) -> None:
        """Set what the thresholds leave of the graph."""
        self._set("pruned", SessionPart.PRUNED, pruned, initiator)

    def set_selection(self, node: Optional[str], initiator: Optional[object] = None) -> None:
        """Select a node or feature by id, or nothing; a feature is looked at from now on."""
        if node != self.selection:
            self._look_at(node, initiator)
        self._set("selection", SessionPart.SELECTION, node, initiator)

    def set_chosen(self, nodes: Iterable[str], initiator: Optional[object] = None) -> None:
        """Choose exactly these nodes together."""
        self._set("chosen", SessionPart.CHOSEN, tuple(dict.fromkeys(nodes)), initiator)

    def set_highlight(
        self, highlight: Optional[Highlight], initiator: Optional[object] = None
    ) -> None:
        """Emphasise something in the graph, or nothing."""
        self._set("highlight", SessionPart.HIGHLIGHT, highlight, initiator)

    def set_query(self, text: str, initiator: Optional[object] = None) -> None:
        """Ask for nodes with this query, see ``core.query_language``."""
        self._set("query", SessionPart.QUERY, text, initiator)

    def add_record(
        self,
        kind: str,
        record: dict[str, Any],
        initiator: Optional[object] = None,
        home: Optional[Workspace] = None,
        among: Callable[[Records, dict[str, Any]], Records] = appended,
    ) -> bool:
        """Keep something that was found out, as JSON values.

        Args:
            home: what ``home`` was when it was asked for. Where that has been left meanwhile,
                nothing is kept here, and ``astray`` says so.
            among: puts the record among those of its kind.

        Returns:
            Whether it is kept here.
        """
        if home is not None and not self.is_home(home):
            self.astray.emit(StrayRecord(home.folder, kind, record, among))
            return False
        records = among(self.records.get(kind, ()), record)
        self.set_records({**self.records, kind: records}, initiator)
        return True

    def set_records(
        self,
        records: Mapping[str, tuple[dict[str, Any], ...]],
        initiator: Optional[object] = None,
    ) -> None:
        """Keep exactly these records (a workspace was opened, or something was thrown away)."""
        self._set("records", SessionPart.RECORDS, MappingProxyType(dict(records)), initiator)

    def set_attention(
        self, view: Optional[AttentionView], initiator: Optional[object] = None
    ) -> None:
        """Set where all heads look on a prompt."""
        self._set("attention", SessionPart.ATTENTION, view, initiator)

    def set_lens(self, table: Optional[LensTable], initiator: Optional[object] = None) -> None:
        """Set what the residual stream of a prompt would predict. Patches stay: they say for which
        prompt they are."""
        self._set("lens", SessionPart.LENS, table, initiator)

    def set_training(self, state: Optional[str], initiator: Optional[object] = None) -> None:
        """Say in which state the training run is."""
        self._set("training", SessionPart.TRAINING, state, initiator)

    def set_comparison(
        self, comparison: Optional[CRMComparison], initiator: Optional[object] = None
    ) -> None:
        """Set what was measured of replacement models."""
        self._set("comparison", SessionPart.COMPARISON, comparison, initiator)

    def name_graph(self, key: str) -> None:
        """Say what the workspace knows the graph by. Nobody is told: nothing looks different."""
        self._values["graph_key"] = key

    def set_workspace(
        self, view: Optional[WorkspaceView], initiator: Optional[object] = None
    ) -> None:
        """Set what there is to see of the open workspace."""
        self._set("workspace", SessionPart.WORKSPACE, view, initiator)

    # -- writing with undo --------------------------------------------------------------------

    def set_thresholds(self, node: float, edge: float, initiator: Optional[object] = None) -> None:
        """Set node and edge threshold (undoable; a drag becomes one step)."""
        new = (min(1.0, max(0.0, node)), min(1.0, max(0.0, edge)))
        self._push("thresholds", SessionPart.THRESHOLDS, new, "Change thresholds", initiator, True)

    def set_patches(self, patches: PatchSet, text: str, initiator: Optional[object] = None) -> None:
        """Patch exactly so (undoable); ``text`` is what the history calls it."""
        self._push("patches", SessionPart.PATCHES, patches, text, initiator, False)

    def set_pinned(
        self,
        nodes: Iterable[str],
        initiator: Optional[object] = None,
        text: str = "Change pins",
    ) -> None:
        """Pin exactly these nodes (undoable)."""
        self.set_notes(self.notes.with_pinned(nodes), text, initiator)

    def set_notes(
        self,
        notes: GraphNotes,
        text: str,
        initiator: Optional[object] = None,
        merge: bool = False,
    ) -> None:
        """Replace the notes (undoable); ``text`` is what the history calls it.

        With ``merge`` this and the last such change of the same text become one step, as while
        something is dragged.
        """
        self._push("notes", SessionPart.NOTES, notes, text, initiator, merge)

    def restore_thresholds(
        self, node: float, edge: float, initiator: Optional[object] = None
    ) -> None:
        """Set the thresholds that were saved: where undo begins."""
        self.undo_stack.clear()
        self._set("thresholds", SessionPart.THRESHOLDS, (node, edge), initiator)

    def toggle_pin(self, node: str, initiator: Optional[object] = None) -> None:
        """Pin the node, or unpin it if it is pinned (undoable)."""
        if node in self.pinned:
            rest = (pin for pin in self.pinned if pin != node)
            self.set_pinned(rest, initiator, f"Unpin {self.words(node)}")
        else:
            self.set_pinned((*self.pinned, node), initiator, f"Pin {self.words(node)}")

    def words(self, node: str) -> str:
        """A node of the graph in words, for the history and for messages."""
        return node_words(
            node, self.named_notes, self.graph.tokens if self.graph is not None else ()
        )

    def clear_pins(self, initiator: Optional[object] = None) -> None:
        """Unpin everything (undoable)."""
        self.set_pinned((), initiator, "Unpin all")

    # -- inside -------------------------------------------------------------------------------

    def _look_at(self, node: Optional[str], initiator: Optional[object]) -> None:
        name = None if node is None else FeatureName.read(node)
        is_feature = name is not None and isinstance(name.latent, int)
        feature = (name.site, int(name.latent)) if name is not None and is_feature else None
        self._set("feature", SessionPart.FEATURE, feature, initiator)

    @Slot()
    def _on_history(self) -> None:
        self.history_changed.emit()

    def _set(self, name: str, part: SessionPart, value: Any, initiator: Optional[object]) -> None:
        old = getattr(self, name)
        # Records hold arrays, whose == is not a truth value: only plain values are compared.
        plain = isinstance(value, (str, tuple, GraphNotes, PatchSet)) and isinstance(
            old, type(value)
        )
        if old is value or (plain and old == value):
            return
        self._values[name] = value
        self.changed.emit(part, initiator)
        if part is SessionPart.NOTES and old.pinned != value.pinned:
            self.changed.emit(SessionPart.PINNED, initiator)

    def _push(
        self,
        name: str,
        part: SessionPart,
        value: Any,
        text: str,
        initiator: Optional[object],
        merge: bool,
    ) -> None:
        if getattr(self, name) == value:
            return
        self.undo_stack.push(_SetPart(self, name, part, value, text, initiator, merge))


class _SetPart(QUndoCommand):
    """One undoable change of one part."""

    def __init__(
        self,
        session: Session,
        name: str,
        part: SessionPart,
        value: Any,
        text: str,
        initiator: Optional[object],
        merge: bool,
    ) -> None:
        super().__init__(text)
        self._session = session
        self._name = name
        self._part = part
        self._old = getattr(session, name)
        self._new = value
        # Only the first application was somebody's doing; undo and redo concern every view.
        self._initiator = initiator
        self._merge = merge

    def id(self) -> int:
        """Commands of one id in a row become one step; -1 never merges."""
        return 100 + self._part.value if self._merge else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        """Take over the newer value of the same part."""
        same = isinstance(other, _SetPart) and (other._name, other.text()) == (
            self._name,
            self.text(),
        )
        if not isinstance(other, _SetPart) or not same:
            return False
        self._new = other._new
        return True

    def redo(self) -> None:
        """Set the new value."""
        initiator, self._initiator = self._initiator, None
        self._session._set(self._name, self._part, self._new, initiator)

    def undo(self) -> None:
        """Set the old value."""
        self._session._set(self._name, self._part, self._old, None)
