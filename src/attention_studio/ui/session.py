"""What the person is looking at: one observable state with undo.

The session holds handles (the loaded model, the replacement model) that the window only passes on,
and frozen records (prompt view, features, graph) that it draws. Whoever changes something says who
it is, so that a view can ignore its own change:

    session.set_selection("L12/P5/F1043", initiator=self)
    session.changed.connect(self._on_session_changed)   # (SessionPart, initiator)

Setting a part drops what was computed from it: another model drops the replacement model and all
results; another replacement model drops features and graph.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QUndoCommand, QUndoStack

from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.dictionaries.crm_folder import CRMManifest
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.model_records import LayerInfo, ModelInfo, PromptView
    from attention_studio.core.replacement_model import CompleteReplacementModel

DEFAULT_NODE_THRESHOLD = 0.8
DEFAULT_EDGE_THRESHOLD = 0.98


class SessionPart(Enum):
    """What can change."""

    MODEL = auto()
    CRM = auto()
    PROMPT = auto()
    PROMPT_VIEW = auto()
    FEATURES = auto()
    GRAPH = auto()
    PRUNED = auto()
    THRESHOLDS = auto()
    SELECTION = auto()
    PINNED = auto()
    TRAINING = auto()


def feature_id(layer: int, position: int, index: int) -> str:
    """The id of a feature at a position, equal to the graph's name of that node."""
    return f"L{layer}/P{position}/F{index}"


class Session(QObject):
    """The observable state. Lives on the main thread.

    ``settings`` are those of the machine, for lanes that need them. ``changed`` carries the
    ``SessionPart`` and whoever initiated the change (or None). Setting a part to the value that it
    has emits nothing. ``history_changed`` says that there is something else to undo or redo.
    """

    changed = Signal(object, object)
    history_changed = Signal()

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
        self._values: dict[str, Any] = {
            "model": None,
            "crm": None,
            "crm_info": None,
            "crm_folder": None,
            "layers": (),
            "prompt": "",
            "prompt_view": None,
            "features": None,
            "graph": None,
            "pruned": None,
            "thresholds": (DEFAULT_NODE_THRESHOLD, DEFAULT_EDGE_THRESHOLD),
            "selection": None,
            "pinned": (),
            "training": None,
        }

    # -- reading ------------------------------------------------------------------------------

    @property
    def model(self) -> Optional[LoadedModel]:
        """The loaded model: a handle to pass on to lanes."""
        value: Optional[LoadedModel] = self._values["model"]
        return value

    @property
    def model_info(self) -> Optional[ModelInfo]:
        """What there is to say about the loaded model."""
        return self.model.info if self.model is not None else None

    @property
    def crm(self) -> Optional[CompleteReplacementModel]:
        """The open replacement model: a handle to pass on to lanes."""
        value: Optional[CompleteReplacementModel] = self._values["crm"]
        return value

    @property
    def crm_info(self) -> Optional[CRMManifest]:
        """The manifest of the open replacement model."""
        value: Optional[CRMManifest] = self._values["crm_info"]
        return value

    @property
    def crm_folder(self) -> Optional[Path]:
        """The folder that the open replacement model came from."""
        value: Optional[Path] = self._values["crm_folder"]
        return value

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers of the loaded model, described."""
        value: tuple[LayerInfo, ...] = self._values["layers"]
        return value

    @property
    def prompt(self) -> str:
        """The prompt as typed."""
        value: str = self._values["prompt"]
        return value

    @property
    def prompt_view(self) -> Optional[PromptView]:
        """The prompt as the model sees it, with its next tokens."""
        value: Optional[PromptView] = self._values["prompt_view"]
        return value

    @property
    def features(self) -> Optional[FeatureReport]:
        """The strongest features of a prompt."""
        value: Optional[FeatureReport] = self._values["features"]
        return value

    @property
    def graph(self) -> Optional[AttributionGraph]:
        """The whole attribution graph."""
        value: Optional[AttributionGraph] = self._values["graph"]
        return value

    @property
    def pruned(self) -> Optional[PrunedGraph]:
        """The part of the graph that the thresholds leave."""
        value: Optional[PrunedGraph] = self._values["pruned"]
        return value

    @property
    def thresholds(self) -> tuple[float, float]:
        """Node and edge threshold, each a share of influence in [0, 1]."""
        value: tuple[float, float] = self._values["thresholds"]
        return value

    @property
    def selection(self) -> Optional[str]:
        """Id of the selected node or feature, such as ``"L12/P5/F1043"``."""
        value: Optional[str] = self._values["selection"]
        return value

    @property
    def pinned(self) -> tuple[str, ...]:
        """Ids of the pinned nodes, in the order in which they were pinned."""
        value: tuple[str, ...] = self._values["pinned"]
        return value

    @property
    def training(self) -> Optional[str]:
        """State of the training run: None, "preparing", "running", "paused" or "stopping"."""
        value: Optional[str] = self._values["training"]
        return value

    # -- writing ------------------------------------------------------------------------------

    def set_model(
        self,
        model: Optional[LoadedModel],
        layers: tuple[LayerInfo, ...] = (),
        initiator: Optional[object] = None,
    ) -> None:
        """Set the loaded model; everything computed with another one is dropped."""
        if model is self.model:
            return
        self.set_crm(None, None, None, initiator)
        self._values["layers"] = layers
        self._set("prompt_view", SessionPart.PROMPT_VIEW, None, initiator)
        self._set("model", SessionPart.MODEL, model, initiator)

    def set_crm(
        self,
        crm: Optional[CompleteReplacementModel],
        info: Optional[CRMManifest],
        folder: Optional[Path] = None,
        initiator: Optional[object] = None,
    ) -> None:
        """Set the open replacement model, its manifest and folder; drops features and graph."""
        if crm is self.crm and info is self.crm_info:
            return
        self.set_features(None, initiator)
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

    def set_graph(
        self,
        graph: Optional[AttributionGraph],
        pruned: Optional[PrunedGraph],
        initiator: Optional[object] = None,
    ) -> None:
        """Set a new graph and its pruned part; selection, pins and undo of the old one go."""
        if graph is self.graph:
            self.set_pruned(pruned, initiator)
            return
        self.undo_stack.clear()
        self._values["pruned"] = pruned
        self._set("selection", SessionPart.SELECTION, None, initiator)
        self._set("pinned", SessionPart.PINNED, (), initiator)
        self._set("graph", SessionPart.GRAPH, graph, initiator)
        self.changed.emit(SessionPart.PRUNED, initiator)

    def set_pruned(self, pruned: Optional[PrunedGraph], initiator: Optional[object] = None) -> None:
        """Set what the thresholds leave of the graph."""
        self._set("pruned", SessionPart.PRUNED, pruned, initiator)

    def set_selection(self, node: Optional[str], initiator: Optional[object] = None) -> None:
        """Select a node or feature by id, or nothing."""
        self._set("selection", SessionPart.SELECTION, node, initiator)

    def set_training(self, state: Optional[str], initiator: Optional[object] = None) -> None:
        """Say in which state the training run is."""
        self._set("training", SessionPart.TRAINING, state, initiator)

    # -- writing with undo --------------------------------------------------------------------

    def set_thresholds(self, node: float, edge: float, initiator: Optional[object] = None) -> None:
        """Set node and edge threshold (undoable; a drag becomes one step)."""
        new = (min(1.0, max(0.0, node)), min(1.0, max(0.0, edge)))
        self._push("thresholds", SessionPart.THRESHOLDS, new, "Change thresholds", initiator, True)

    def set_pinned(
        self,
        nodes: Iterable[str],
        initiator: Optional[object] = None,
        text: str = "Change pins",
    ) -> None:
        """Pin exactly these nodes (undoable)."""
        unique = tuple(dict.fromkeys(nodes))
        self._push("pinned", SessionPart.PINNED, unique, text, initiator, False)

    def toggle_pin(self, node: str, initiator: Optional[object] = None) -> None:
        """Pin the node, or unpin it if it is pinned (undoable)."""
        if node in self.pinned:
            rest = (pin for pin in self.pinned if pin != node)
            self.set_pinned(rest, initiator, f"Unpin {node}")
        else:
            self.set_pinned((*self.pinned, node), initiator, f"Pin {node}")

    def clear_pins(self, initiator: Optional[object] = None) -> None:
        """Unpin everything (undoable)."""
        self.set_pinned((), initiator, "Unpin all")

    # -- inside -------------------------------------------------------------------------------

    @Slot()
    def _on_history(self) -> None:
        self.history_changed.emit()

    def _set(self, name: str, part: SessionPart, value: Any, initiator: Optional[object]) -> None:
        old = self._values[name]
        # Records hold arrays, whose == is not a truth value: only plain values are compared.
        plain = isinstance(value, (str, tuple)) and isinstance(old, (str, tuple))
        if old is value or (plain and old == value):
            return
        self._values[name] = value
        self.changed.emit(part, initiator)

    def _push(
        self,
        name: str,
        part: SessionPart,
        value: Any,
        text: str,
        initiator: Optional[object],
        merge: bool,
    ) -> None:
        if self._values[name] == value:
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
        self._old = session._values[name]
        self._new = value
        # Only the first application was somebody's doing; undo and redo concern every view.
        self._initiator = initiator
        self._merge = merge

    def id(self) -> int:
        """Commands of one id in a row become one step; -1 never merges."""
        return 100 + self._part.value if self._merge else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        """Take over the newer value of the same part."""
        if not isinstance(other, _SetPart) or other._name != self._name:
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
