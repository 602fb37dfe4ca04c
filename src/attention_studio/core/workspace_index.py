"""What ``workspace.json`` says: the model, the prompt, the thresholds, and which graphs there are.

Everything that a person would want to know of where a graph came from stands here in words and
numbers, beside the files that hold the graphs themselves. Knows neither Qt nor torch.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Optional

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from attention_studio.core.trace_circumstances import DictionariesId, versions
from attention_studio.core.workspace_files import (
    INDEX_NAME,
    WorkspaceDamagedError,
    WorkspaceError,
    read_bounded,
)
from attention_studio.utils.files import FileReadError

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.model_records import ModelConfig, ModelInfo

FORMAT: Final = "attention-studio-workspace"
FORMAT_VERSION: Final = 1
MAX_GRAPHS = 10_000

GraphKey = Annotated[str, Field(pattern=r"^G[1-9][0-9]{0,7}$")]
"""What a graph is known by in its workspace, and what its files are called: a plain name, so that
no index can point out of its folder."""
Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    # What a later version has added is no reason to refuse a file of the same format.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class WorkspaceModel(_Record):
    """A model: what was asked for, and what was loaded.

    Attributes:
        name: a built-in name, a hub id, or what the model in ``path`` is called.
        path: a folder or ``.gguf`` file on this machine, or None.
        device: the device that was asked for, "auto" among them; ``ran_on`` is where it ran.
        dtype: the number format that was asked for; ``ran_as`` is what it ran in.
        weights_hash: SHA-256 of its weights, see ``ModelInfo``.
    """

    name: str
    path: Optional[str] = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|spread|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    source: str = ""
    family: str = ""
    weights_hash: str = ""
    ran_on: str = ""
    ran_as: str = ""

    @classmethod
    def of(cls, info: ModelInfo, config: Optional[ModelConfig]) -> WorkspaceModel:
        """The note of a loaded model. ``config`` is None where nobody asked by one."""
        asked: dict[str, Any] = {}
        if config is not None:
            path = None if config.path is None else str(config.path.absolute())
            asked = {"path": path, "device": config.device, "dtype": config.dtype}
        return cls(
            name=info.name if config is None else config.name,
            source=info.source,
            family=info.family,
            weights_hash=info.weights_hash,
            ran_on=info.device,
            ran_as=info.dtype,
            **asked,
        )


class WorkspaceCRM(_Record):
    """A replacement model.

    Attributes:
        folder: where it lies on this machine.
        name: what graphs call it.
        fingerprint: identifies its weights, see ``CRMManifest.fingerprint``.
        seed: of its training, where that is known.
    """

    folder: str
    name: str = ""
    fingerprint: str = ""
    seed: Optional[int] = None


class GraphEntry(_Record):
    """One graph of a workspace.

    Attributes:
        key: its files are ``graphs/KEY.safetensors`` and ``graphs/KEY.notes.json``.
        name: what the person calls it, or "".
        prompt: what was traced.
        model_name: with which model, and ``model_hash`` the SHA-256 of its weights.
        crm_name: with which replacement model.
        settings: how it was traced, see ``GraphSettings``.
        nodes: how many nodes it has.
        seconds: how long tracing took.
        made: when it came into the workspace.
        pins: how many nodes are pinned.
        noted: whether the person has made anything of it.
        made_with: number format, dictionaries, versions, see ``trace_circumstances``.
    """

    key: GraphKey
    name: str = ""
    prompt: str
    model_name: str = ""
    model_hash: str = ""
    crm_name: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    nodes: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    made: AwareDatetime
    pins: Annotated[int, Field(ge=0)] = 0
    noted: bool = False
    made_with: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, key: str, graph: AttributionGraph) -> GraphEntry:
        """The entry of a graph that comes into the workspace now."""
        return cls(
            key=key,
            prompt=graph.prompt,
            model_name=graph.model_name,
            model_hash=graph.model_hash,
            crm_name=graph.crm_name,
            settings=_plain(asdict(graph.settings)),
            nodes=len(graph.nodes),
            seconds=max(0.0, graph.seconds),
            made=now(),
            made_with=dict(graph.made_with),
        )

    @property
    def title(self) -> str:
        """What it is called: by the person, else by its prompt."""
        return self.name or " ".join(self.prompt.split()) or self.key

    @property
    def dictionaries_id(self) -> DictionariesId:
        """What tells the dictionaries that it was traced with from others."""
        return DictionariesId(self.crm_name, self.made_with.get("dictionaries", ""))

    def answers_the_same(self, other: GraphEntry) -> bool:
        """Whether both were traced from the same prompt, with the same models and settings."""
        mine, theirs = self.dictionaries_id, other.dictionaries_id
        return mine.means(theirs) and all(
            getattr(self, part) == getattr(other, part)
            for part in ("prompt", "model_name", "model_hash", "settings")
        )


class WorkspaceIndex(_Record):
    """All that ``workspace.json`` holds.

    Attributes:
        format: says what kind of file this is.
        version: of the format.
        name: what the workspace is called.
        created: when it was made; ``saved`` is when this was written.
        versions: of Python, the studio and the libraries, when this was written.
        model: the model that was used last; None: none yet. ``crm`` likewise.
        prompt: as typed.
        thresholds: node and edge threshold, shares of influence.
        graph: key of the graph that is shown; "": none.
        selection: id of the selected node of it; ``chosen`` are those chosen together.
        graphs: all graphs, in the order in which they came.
    """

    format: Literal["attention-studio-workspace"] = FORMAT
    version: Literal[1] = FORMAT_VERSION
    name: str = ""
    created: AwareDatetime
    saved: AwareDatetime
    versions: dict[str, str] = Field(default_factory=dict)
    model: Optional[WorkspaceModel] = None
    crm: Optional[WorkspaceCRM] = None
    prompt: str = ""
    thresholds: Optional[tuple[Share, Share]] = None
    graph: str = ""
    selection: Optional[str] = None
    chosen: tuple[str, ...] = ()
    graphs: Annotated[tuple[GraphEntry, ...], Field(max_length=MAX_GRAPHS)] = ()

    @classmethod
    def new(cls, name: str) -> WorkspaceIndex:
        """The index of a workspace that holds nothing yet."""
        return cls(name=name, created=now(), saved=now(), versions=dict(versions()))

    def entry(self, key: str) -> Optional[GraphEntry]:
        """The graph of that key."""
        return next((entry for entry in self.graphs if entry.key == key), None)


def read_index(folder: Path) -> WorkspaceIndex:
    """Read the index of the workspace in a folder.

    Raises:
        WorkspaceDamagedError: it is damaged.
        WorkspaceUnreadableError: the system does not give it out.
        WorkspaceError: a later version of the studio wrote it.
    """
    try:
        content = read_bounded(folder / INDEX_NAME)
    except FileReadError as error:
        raise WorkspaceDamagedError.of(folder, error.why) from error
    told = content if isinstance(content, dict) else {}
    found = told.get("version")
    if told.get("format") != FORMAT:
        raise WorkspaceDamagedError.of(folder, f"{INDEX_NAME} is not one of ours")
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise WorkspaceError(
            f"The workspace {folder.name} cannot be opened",
            f"it has format version {found}, this studio reads up to {FORMAT_VERSION}",
            "Open it with the version that wrote it",
        )
    try:
        index = WorkspaceIndex.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = f"{where[:200]} in {INDEX_NAME}: {first['msg']}"
        raise WorkspaceDamagedError.of(folder, why) from None
    if len({entry.key for entry in index.graphs}) != len(index.graphs):
        raise WorkspaceDamagedError.of(folder, f"{INDEX_NAME} names a graph twice")
    return index


def now() -> datetime:
    """This second, with its time zone."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them, so that what was read equals what was written."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
