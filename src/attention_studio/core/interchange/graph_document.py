"""Graph files of circuit-tracer, Neuronpedia and Llamascopium, as documents that lose nothing.

One model reads the three dialects of the same JSON (``metadata``, ``qParams``, ``nodes``,
``links``). A document keeps the whole value as it was read, unknown fields and the order of keys
included, and beside it the checked parts that the studio understands.

What the dialects are was taken from circuit-tracer 0.5 (``frontend/graph_models.py``), Neuronpedia
(``graph-schema.json`` and its converter of complete replacement models) and Llamascopium's server.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from attention_studio.core.interchange.json_writing import write_ascii_json
from attention_studio.core.interchange.link_columns import LinkText
from attention_studio.core.interchange.strict_json import NotStrictJsonError, strict_json
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, read_text

MAX_GRAPH_JSON_BYTES = 128 << 20
MAX_NODES = 200_000
MAX_LINKS = 2_000_000
MAX_TOKENS = 1 << 20
MAX_ID_LENGTH = 512
_MAX_OPENINGS = 6_000_000
"""Objects and lists in one file. Each takes some hundred bytes of memory once it is read."""

_NODES_AT_ONCE = 2048

Dialect = Literal["circuit-tracer", "neuronpedia", "llamascopium"]
DIALECTS: tuple[Dialect, ...] = ("circuit-tracer", "neuronpedia", "llamascopium")
"""``circuit-tracer`` is what Neuronpedia, too, reads of graphs of transcoders alone;
``neuronpedia`` is its dialect for complete replacement models."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Float32 = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=1 << 20)]
_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
_Model = TypeVar("_Model", bound=BaseModel)


class GraphDocumentError(StudioError):
    """A file is no graph that the studio can read; names the place in it."""


class _Record(BaseModel):
    """Types are not converted: a number in quotes is refused. What is not known here is looked up
    in ``GraphDocument.value``, which has all of it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class DocumentMetadata(_Record):
    """``metadata``: of all fields only the tokens are indispensable."""

    prompt_tokens: list[_Text] = Field(min_length=1, max_length=MAX_TOKENS)
    prompt: _Text = ""
    slug: Optional[_Text] = None
    scan: Union[_Text, list[_Text], None] = None
    node_threshold: Optional[_Finite] = None
    schema_version: Optional[int] = None


class DocumentNode(_Record):
    """One of ``nodes``.

    ``feature`` is a number, nothing, or (Llamascopium's server, filled in) a whole record of the
    feature. ``layer`` may be a number or a word.
    """

    node_id: _Id
    layer: Union[int, Annotated[str, Field(max_length=16)]]
    ctx_idx: Annotated[int, Field(ge=0)]
    feature_type: _Text
    feature: Any = None
    clerp: Optional[_Text] = None
    token: Optional[_Text] = None
    influence: Optional[_Finite] = None
    activation: Optional[_Float32] = None
    token_prob: Optional[Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = None
    is_target_logit: Optional[bool] = None


class DocumentView(_Record):
    """``qParams``: what was pinned and grouped, as it is in the file."""

    pinnedIds: Union[list[_Text], _Text, None] = None  # noqa: N815 - the format's name
    supernodes: Union[list[Any], _Text, None] = None
    clickedId: Optional[_Text] = None  # noqa: N815
    linkType: Optional[_Text] = None  # noqa: N815
    sg_pos: Optional[_Text] = None


@dataclass(frozen=True)
class Supernode:
    """Nodes that are shown as one, by their ids in the file."""

    label: str
    node_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GraphDocument:
    """A graph file of another tool, checked and complete.

    Attributes:
        rest: the JSON value as it was read; its ``links`` may have been left out.
        metadata: its head.
        view: its ``qParams``; all fields None where the file has none.
        nodes: its nodes.
        sources, targets: int64 [n_links] both ends of every link, as places among ``nodes``: of
            two nodes with one id the first.
        weights: [n_links] float64.
        text: what ``rest`` was read from, where links were left out of it.
    """

    rest: dict[str, Any]
    metadata: DocumentMetadata
    view: DocumentView
    nodes: tuple[DocumentNode, ...]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float64]
    text: Optional[str] = None

    @classmethod
    def read(cls, path: Path) -> GraphDocument:
        """Read a graph file.

        Raises:
            GraphDocumentError: it is missing, too large, no JSON, or no graph; names the place.
        """
        try:
            text = read_text(path, MAX_GRAPH_JSON_BYTES)
        except FileReadError as error:
            raise GraphDocumentError(error.what, error.why, error.todo) from error
        return cls.parse(text, path.name)

    @classmethod
    def parse(cls, text: str, name: str = "the graph") -> GraphDocument:
        """Read the text of a graph file; ``name`` is for messages.

        Raises:
            GraphDocumentError: it is no JSON, or no graph; names the place.
        """
        if _openings(text) > _MAX_OPENINGS:
            raise _refused(name, f"it holds more than {_MAX_OPENINGS:,} objects and lists")
        links = LinkText.find(text)
        if links is not None:
            with suppress(GraphDocumentError):  # which is said of the whole text
                rest = _json(links.rest, name)
                if isinstance(rest, dict) and rest.get("links") == []:
                    return cls._of(rest, name, links)
        return cls.of(_json(text, name), name)

    @classmethod
    def of(cls, value: Any, name: str = "the graph") -> GraphDocument:
        """A graph from a JSON value; ``name`` is for messages.

        Raises:
            GraphDocumentError: it is no graph; names the place.
        """
        return cls._of(value, name, None)

    @classmethod
    def _of(cls, value: Any, name: str, text: Optional[LinkText]) -> GraphDocument:
        table = _table(value, name, "it")
        metadata = _checked(DocumentMetadata, table.get("metadata"), name, "metadata")
        view = _checked(DocumentView, table.get("qParams") or {}, name, "qParams")
        raw_nodes = _list(table, "nodes", MAX_NODES, name)
        raw_links = _list(table, "links", MAX_LINKS, name)
        nodes = _nodes(raw_nodes, name)
        places = _places(nodes, len(metadata.prompt_tokens), name)
        columns = None if text is None else text.columns(places, MAX_LINKS)
        if text is not None and columns is None:
            raise _refused(name, "its links are not plain")
        columns = _links(raw_links, places, name) if columns is None else columns
        _supernodes(view, name)
        _pinned(view)
        return cls(value, metadata, view, nodes, *columns, None if text is None else text.text)

    @cached_property
    def value(self) -> dict[str, Any]:
        """The whole JSON value, as it was read."""
        whole: dict[str, Any] = self.rest if self.text is None else _json(self.text, "the graph")
        return whole

    # ---- what is in it -------------------------------------------------------------------------

    @cached_property
    def dialect(self) -> Dialect:
        """Whose ids and layers these are, told by their shape."""
        ids = [node.node_id for node in self.nodes]
        if any(_COMPLETE_ID.fullmatch(i) for i in ids):
            return "neuronpedia"
        layers = {node.layer for node in self.nodes if node.feature_type == "embedding"}
        if "E" in layers:
            return "circuit-tracer"
        of_llamascopium = any("sae_name" in node for node in self.rest["nodes"])
        if of_llamascopium or layers & {-1, "-1"} or any(_ERROR_ID.fullmatch(i) for i in ids):
            return "llamascopium"
        return "circuit-tracer"

    @property
    def layers_are_sites(self) -> bool:
        """Whether ``layer`` counts modules (2ℓ the attention, 2ℓ+1 the MLP of layer ℓ)."""
        return self.dialect == "llamascopium" or self.own.get("layers") == "sites"

    @property
    def head(self) -> dict[str, Any]:
        """``metadata`` as it is in the file."""
        head: dict[str, Any] = self.rest["metadata"]
        return head

    @property
    def own(self) -> dict[str, Any]:
        """What this studio added to a file that it wrote; {} in others."""
        found = self.head.get("attention_studio")
        return found if isinstance(found, dict) else {}

    @property
    def pinned_ids(self) -> tuple[str, ...]:
        """Ids of pinned nodes, whether the file has a list or a line with commas."""
        return _pinned(self.view)

    @property
    def supernodes(self) -> tuple[Supernode, ...]:
        """Groups of nodes, whether the file has lists or JSON in a string."""
        return _supernodes(self.view, "the graph")

    # ---- files ---------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write the value as it was read, unknown fields included.

        Raises:
            FileWriteError, JsonWritingError: it cannot be written.
        """
        write_ascii_json(path, self.value)


def is_error(node: DocumentNode) -> bool:
    """Whether a node is what some dictionary misses."""
    return "error" in node.feature_type


_NODES = TypeAdapter(list[DocumentNode])
_COMPLETE_ID = re.compile(r"\d+_(?:lor|cro)_\d+_\d+|\d+_error_(?:attn|mlp)_\d+")
_ERROR_ID = re.compile(r"\d+_error_\d+")


def _openings(text: str) -> int:
    """How many objects and lists begin. In parts, between which other threads have their turn."""
    step = 8 << 20
    return sum(
        text.count(sign, begin, begin + step)
        for begin in range(0, len(text), step)
        for sign in "{["
    )


def _json(text: str, name: str) -> Any:
    """The value of a text; objects and lists within one another only so deep."""
    try:
        return strict_json(text)
    except NotStrictJsonError as error:
        raise _refused(name, str(error)) from error


def _nodes(raw: list[Any], name: str) -> tuple[DocumentNode, ...]:
    """The checked nodes. In parts, between which other threads have their turn."""
    nodes: list[DocumentNode] = []
    for begin in range(0, len(raw), _NODES_AT_ONCE):
        try:
            nodes += _NODES.validate_python(raw[begin : begin + _NODES_AT_ONCE])
        except ValidationError as error:
            raise _refused(name, _first(error, "nodes", begin)) from error
    return tuple(nodes)


def _places(nodes: tuple[DocumentNode, ...], n_tokens: int, name: str) -> dict[str, int]:
    """Where the first node of every id is."""
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    for place, node in enumerate(nodes):
        if node.ctx_idx >= n_tokens:
            raise _refused(
                name,
                f"nodes.{place}.ctx_idx is {node.ctx_idx}, and there are {n_tokens} tokens",
            )
        other = nodes[places.setdefault(node.node_id, place)]
        # circuit-tracer's error of layer L and feature L of layer 0 have the same id.
        if other is not node and is_error(other) == is_error(node):
            raise _refused(name, f"two nodes have the id {node.node_id!r}")
        counts[node.node_id] = counts.get(node.node_id, 0) + 1
    if max(counts.values(), default=0) > 2:
        raise _refused(name, "three nodes have the same id")
    return places


def _links(
    raw: list[Any], places: dict[str, int], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Written out by hand: there may be millions, and each has three fields."""
    sources, targets, weights = [], [], []
    for place, link in enumerate(raw):
        table = _table(link, name, f"links.{place}")
        source, target, weight = (table.get(key) for key in ("source", "target", "weight"))
        for key, end in (("source", source), ("target", target)):
            if not isinstance(end, str):
                raise _refused(name, f"links.{place}.{key} should be the id of a node")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise _refused(name, f"links.{place}.weight should be a number")
        try:
            number = float(weight)
        except OverflowError as error:
            raise _refused(name, f"links.{place}.weight is too large a number") from error
        if abs(number) > _FLOAT32_MAX:
            raise _refused(name, f"links.{place}.weight is too large a number")
        for end in (source, target):
            if end not in places:
                raise _refused(name, f"links.{place} names {end!r}, which is no node")
        sources.append(places[str(source)])
        targets.append(places[str(target)])
        weights.append(number)
    ends = np.array([sources, targets], dtype=np.int64)
    return ends[0], ends[1], np.asarray(weights, dtype=np.float64)


def _pinned(view: DocumentView) -> tuple[str, ...]:
    if isinstance(view.pinnedIds, str):
        return tuple(part.strip() for part in view.pinnedIds.split(",") if part.strip())
    return tuple(view.pinnedIds or ())


def _supernodes(view: DocumentView, name: str) -> tuple[Supernode, ...]:
    raw: Any = view.supernodes
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else []
        except (ValueError, RecursionError) as error:
            raise _refused(name, f"qParams.supernodes is no JSON ({error})") from error
    if raw is None:
        return ()
    sound = isinstance(raw, list) and all(
        isinstance(group, list) and group and all(isinstance(part, str) for part in group)
        for group in raw
    )
    if not sound:
        raise _refused(name, "qParams.supernodes should be lists of a label and ids")
    return tuple(Supernode(group[0], tuple(group[1:])) for group in raw)


# ---- refusing ----------------------------------------------------------------------------------


def _refused(name: str, why: str) -> GraphDocumentError:
    return GraphDocumentError(
        f"{name} cannot be read as a graph", why, "Have its tool write it again"
    )


def _table(value: Any, name: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(name, f"{place} should be an object")
    return value


def _list(table: dict[str, Any], key: str, most: int, name: str) -> list[Any]:
    found = table.get(key)
    if not isinstance(found, list):
        raise _refused(name, f"{key} should be a list")
    if len(found) > most:
        raise _refused(name, f"it has {len(found):,} {key}, and at most {most:,} are read")
    return found


def _checked(model: type[_Model], value: Any, name: str, place: str) -> _Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refused(name, _first(error, place)) from error


def _first(error: ValidationError, place: str, begin: int = 0) -> str:
    """What is wrong where; ``begin`` is the place of the first of a list that was looked at."""
    found = error.errors(include_url=False, include_input=False)[0]
    where = [begin + part if not depth and isinstance(part, int) else part
             for depth, part in enumerate(found["loc"])]  # fmt: skip
    return f"{'.'.join([place, *map(str, where)])}: {found['msg']}"
