"""How a script gets to what the window holds: model, replacement model, graph, notes.

Every part is written once, and what it is made from before it. The names are those of the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.graph_notes import GraphNotes
from attention_studio.core.model_records import ModelConfig
from attention_studio.core.script_text import ScriptError, ScriptWriter, path_source
from attention_studio.core.trace_circumstances import made_by

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.ui.session import Session

_CORE = "attention_studio.core"


class Steps:
    """Writes into a script what of the session it needs.

    Args:
        script: is written into.
        session: what is to be made again.
    """

    def __init__(self, script: ScriptWriter, session: Session) -> None:
        self.script = script
        self.session = session

    def need(self, *names: str) -> None:
        """Write how to make these parts ("model", "crm", "graph", ...), unless that is there.

        Raises:
            ScriptError: the window does not hold one, or nobody knows how it came to be.
        """
        writers: dict[str, Callable[[], None]] = {
            "settings": self._settings,
            "manager": self._manager,
            "model": self._model,
            "crm": self._crm,
            "graph": self._graph,
            "pruned": self._pruned,
            "notes": self._notes,
            "ctx": self._ctx,
        }
        for name in names:
            if not self.script.has(name):
                writers[name]()

    def show(self, source: str) -> None:
        """Write that something is printed."""
        self.script.line(f"print({source})")

    # -- parts --------------------------------------------------------------------------------

    def _ctx(self) -> None:
        kind = self.script.use("attention_studio.utils.progress", "WorkContext")
        self.script.assign("ctx", f"{kind}()")

    def _settings(self) -> None:
        load = self.script.use("attention_studio.utils.config", "load_settings")
        self.script.assign("settings", f"{load}()")

    def _manager(self) -> None:
        self.need("settings", "ctx")
        start = self.script.use(f"{_CORE}.engine", "start_engine")
        self.script.line(f"{start}(ctx, settings)")
        manager = self.script.use(f"{_CORE}.model_manager", "ModelManager")
        self.script.assign("manager", f"{manager}(settings=settings)")

    def _model(self) -> None:
        info = self.session.model_info
        if info is None:
            raise _missing("No model is loaded", "load one first")
        config = self.session.model_config
        self.load_model(config if config is not None else ModelConfig(info.name))
        self.script.line(f"if model.info.weights_hash != {info.weights_hash!r}:")
        told = f"{info.name} has other weights here than where this script was copied"
        self.script.line(f"    raise SystemExit({told!r})")

    def load_model(self, config: ModelConfig) -> None:
        """Write how to load a model."""
        self.need("manager")
        self.script.assign("model", f"manager.load_model_sync({self.script.value(config)})")

    def _crm(self) -> None:
        folder = self.session.crm_folder
        if folder is None:
            raise _missing("No replacement model is open", "open one first")
        self.need("model")
        self.open_crm(folder)

    def open_crm(self, folder: Path) -> None:
        """Write how to put a replacement model to the model."""
        kind = self.script.use(f"{_CORE}.replacement_model", "CompleteReplacementModel")
        source = path_source(self.script, folder)
        self.script.assign("crm", f"{kind}.from_folder(model, {source})")

    def _graph(self) -> None:
        session, graph = self.session, self.session.graph
        if graph is None:
            raise _missing("There is no graph", "trace a prompt or open a graph first")
        crm = session.crm
        if crm is not None and session.crm_folder and made_by(graph, crm):
            self.trace(graph.prompt, graph.settings)
            return
        self.open_kept_graph()

    def kept_graph(self) -> Optional[Path]:
        """The file in which the workspace keeps the graph, or None."""
        workspace, key = self.session.workspace, self.session.graph_key
        if workspace is None or not key:
            return None
        return workspace.folder / "graphs" / f"{key}.safetensors"

    def open_kept_graph(self) -> None:
        """Write how to read the graph that the workspace keeps.

        Raises:
            ScriptError: it keeps none.
        """
        path = self.kept_graph()
        if path is None:
            raise _missing(
                "Nobody knows where the graph came from", "save it, and open it from its file"
            )
        opening = self.script.use(f"{_CORE}.interchange.opening", "open_graph_file")
        self.script.assign("graph", f"{opening}({self.script.value(path)}).graph")

    def trace(self, prompt: str, settings: Any) -> None:
        """Write how to trace a prompt with the open replacement model."""
        self.need("crm")
        builder = self.script.use(f"{_CORE}.graph_builder", "GraphBuilder")
        how = self.script.value(settings)
        self.script.assign("graph", f"{builder}(crm).build({prompt!r}, {how})")

    def _pruned(self) -> None:
        self.need("graph")
        node, edge = self.session.thresholds
        self.script.assign("pruned", f"graph.prune({node!r}, {edge!r})")

    def _notes(self) -> None:
        kind = self.script.use(f"{_CORE}.graph_notes", GraphNotes.__name__)
        written = self.script.value(self.session.notes.to_json())
        self.script.assign("notes", f"{kind}.from_json({written})")

    # -- everything ---------------------------------------------------------------------------

    def everything(self) -> None:
        """Write how to get to all that the window holds.

        Raises:
            ScriptError: it holds nothing.
        """
        session = self.session
        before = len(self.script.text())
        if session.crm_folder is not None:
            self.need("crm")
        elif session.model is not None:
            self.need("model")
        if session.graph is not None:
            self.need("graph", "pruned")
            if not session.notes.empty:
                self.need("notes")
            if session.chosen:
                self.script.assign("chosen", self.script.value(session.chosen))
            if session.selection is not None:
                self.script.assign("selection", repr(session.selection))
            self.show("graph.summary()")
        elif session.model is not None:
            self.show("model.info")
        if len(self.script.text()) == before:
            raise _missing("There is nothing to write a script of", "load a model first")


def _missing(what: str, todo: str) -> ScriptError:
    return ScriptError(what, "the script would have nothing to begin with", todo)
