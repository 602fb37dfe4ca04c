"""Finds pages about features in files and folders of other tools, and says whose they are.

Read are circuit-tracer's files (``NUMBER.json``, or ``index.json.gz`` with the files that it names,
as published beside transcoders), SAEDashboard's batches, and Neuronpedia's objects and exports
(``.json``, ``.jsonl``, ``.jsonl.gz``). Nothing in them is trusted: sizes are bounded, links are not
followed, and no file outside of a folder is opened, whatever it names.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Optional, Union

from attention_studio.core.interchange.dashboard_note import MAX_LATENTS, NOTE, DashboardNote
from attention_studio.core.interchange.feature_files import (
    FeatureFileError,
    checked,
    refused,
    whole_text,
)
from attention_studio.core.interchange.neuronpedia_files import SourceName, kind_of_set
from attention_studio.core.interchange.node_facts import MAX_LAYERS, cantor_unpair
from attention_studio.core.interchange.strict_json import NotStrictJsonError, strict_json
from attention_studio.core.sites import Site, SiteKind
from attention_studio.utils.errors import StudioError

Form = Literal["circuit-tracer", "saedashboard", "neuronpedia"]
Piece = Literal["page", "activation", "explanation"]
MAX_FILE_BYTES, MAX_LINE_BYTES = 256 << 20, 64 << 20
MAX_UNPACKED_BYTES = 8 << 30
MAX_FILES, MAX_FOLDERS_DEEP = 4_000_000, 8
_INDEX = "index.json.gz"
_MAX_NUMBER = 1 << 53


@dataclass(frozen=True)
class FoundPiece:
    """Something about a feature.

    Attributes:
        site, index: which feature.
        piece: a page with all that is in it, or a row that belongs to one.
        form: whose format it is in.
        value: the JSON value.
        name: where it is from, for messages.
    """

    site: Site
    index: int
    piece: Piece
    form: Form
    value: dict[str, Any]
    name: str


@dataclass
class FeatureFiles:
    """Files and folders with pages about features.

    Attributes:
        sources: the files and folders.
        kind: what the features are of, where names do not say it.
        layers: what circuit-tracer's numbers count; None: what the studio's note says, or layers.
        model_names, source_names: which models and, by module, which sources were met so far.
        n_other: files so far that are nothing that is read here.
        done: bytes read so far.
        total: bytes in all files, once the reading has begun.
    """

    sources: Sequence[Path]
    kind: Optional[SiteKind] = None
    layers: Optional[Literal["layers", "sites"]] = None
    model_names: list[str] = field(default_factory=list)
    source_names: dict[Site, str] = field(default_factory=dict)
    n_other: int = 0
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        notes = [DashboardNote.read(one) for one in self.sources if one.is_dir()]
        found = [note for note in notes if note is not None]
        if len(found) > 1 or (found and len(self.sources) > 1):
            raise FeatureFileError(
                "Dashboards that the studio exported are imported one folder at a time"
            )
        self.note = found[0] if found else None
        self._sites = {
            one.source: Site(one.layer, one.kind)
            for one in (self.note.modules if self.note is not None else ())
        }
        layers = self.layers or (self.note.layers if self.note is not None else "layers")
        self._count_sites = layers == "sites"

    def __iter__(self) -> Iterator[FoundPiece]:
        """Everything in them, in no particular order.

        Raises:
            FeatureFileError: a file cannot be read, is too large or not what it seems to be.
        """
        files = [file for source in self.sources for file in _files_in(source)]
        self.total = sum(size for _, size in files)
        chosen = {source for source in self.sources if source.is_file()}
        for path, size in files:
            before = self.done
            try:
                found = False
                for piece in self._pieces(path, size):
                    found = True
                    yield piece
            except (OSError, EOFError, zlib.error) as error:
                raise FeatureFileError(f"{path} cannot be read", str(error)) from error
            self.done = before + size
            if not found:
                self.n_other += path.name != NOTE
                if path in chosen:
                    raise refused(path.name, "it has no pages about features in it")

    # ---- files ---------------------------------------------------------------------------------

    def _pieces(self, path: Path, size: int) -> Iterator[FoundPiece]:
        name = path.name
        if name == _INDEX:
            yield from self._of_index(path)
        elif name.endswith((".jsonl", ".jsonl.gz")):
            yield from self._of_lines(path)
        elif name.endswith(".json") and name != NOTE:
            if size > MAX_FILE_BYTES:
                raise refused(name, f"it has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
            value = _json(path.read_bytes(), name)
            yield from self._of_value(value, name, path.stem)

    def _of_value(self, value: Any, name: str, stem: str = "") -> Iterator[FoundPiece]:
        if isinstance(value, list):
            for place, one in enumerate(value):
                yield from self._of_value(one, f"{name}: {place}")
        elif not isinstance(value, dict):
            return
        elif "examples_quantiles" in value:
            number = stem if re.fullmatch(r"[0-9]{1,16}", stem) else value.get("index")
            yield self._of_tracer(value, number, name)
        elif isinstance(value.get("features"), list) and "layer" in value:
            yield from self._of_batch(value, name)
        elif "index" in value and "layer" in value:
            yield from self._of_neuronpedia(value, name)

    def _of_tracer(self, value: dict[str, Any], number: Any, name: str) -> FoundPiece:
        try:
            whole = int(number) if isinstance(number, (int, str)) else -1
        except ValueError:
            whole = -1
        if isinstance(number, bool) or not 0 <= whole < _MAX_NUMBER:
            raise refused(name, "neither its name nor its index is the number of a feature")
        layer, index = cantor_unpair(whole)
        return FoundPiece(*self._traced(layer, index, name), "page", "circuit-tracer", value, name)

    def _traced(self, layer: int, index: int, name: str) -> tuple[Site, int]:
        site = Site.of_number(layer) if self._count_sites else Site(layer, self.kind or "mlp")
        return self._known(site, index, "", name)

    def _of_batch(self, value: dict[str, Any], name: str) -> Iterator[FoundPiece]:
        parts = [str(value["layer"]), whole_text(str(value.get("sae_set", "")))]
        source = "-".join(parts) + (
            f"__{whole_text(str(s))}" if (s := value.get("sae_id_suffix")) else ""
        )
        self._of_model(value.get("model_id"), name)
        site = self._site(source, name)
        for place, one in enumerate(value["features"]):
            where = f"{name}: features.{place}"
            if not isinstance(one, dict):
                raise refused(where, "it should be an object")
            site, index = self._known(site, one.get("feature_index"), source, where)
            yield FoundPiece(site, index, "page", "saedashboard", one, where)

    def _of_neuronpedia(self, value: dict[str, Any], name: str) -> Iterator[FoundPiece]:
        piece: Piece = "page"
        if "tokens" in value and "values" in value:
            piece = "activation"
        elif "description" in value:
            piece = "explanation"
        elif not {"pos_str", "activations", "frac_nonzero"} & set(value):
            return
        named = checked(SourceName, value, name)
        self._of_model(named.modelId, name)
        site = self._site(named.layer, name)
        site, index = self._known(site, named.index, named.layer, name)
        yield FoundPiece(site, index, piece, "neuronpedia", value, name)

    def _of_lines(self, path: Path) -> Iterator[FoundPiece]:
        with path.open("rb") as raw:
            stream: Any = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
            begin, number, unpacked = self.done, 0, 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number, unpacked = number + 1, unpacked + len(line)
                where = f"{path.name}: line {number}"
                if len(line) > MAX_LINE_BYTES or unpacked > MAX_UNPACKED_BYTES:
                    raise refused(where, "it is longer than anything that is read here")
                if line.strip():
                    value = _json(line, where)
                    if isinstance(value, dict) and "index" in value and "layer" in value:
                        yield from self._of_neuronpedia(value, where)
                self.done = begin + raw.tell()

    def _of_index(self, path: Path) -> Iterator[FoundPiece]:
        """Many pages in a file, each a length and packed JSON, as the index says."""
        with gzip.open(path) as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise refused(path.name, f"it unpacks to more than {MAX_FILE_BYTES:,} bytes")
        index = _json(text, path.name)
        layers = index.items() if isinstance(index, dict) else enumerate(_list(index, path.name))
        for layer, entry in layers:
            where = f"{path.name}: {layer}"
            entry = entry if isinstance(entry, dict) else {}
            file, offsets = entry.get("filename"), entry.get("offsets")
            if not re.fullmatch(r"[0-9]{1,4}", str(layer)) or not isinstance(file, str):
                raise refused(where, "it should be a layer with filename and offsets")
            if Path(file).name != file or (path.parent / file).is_symlink():
                raise refused(where, f"{file[:80]!r} is no file of this folder")
            with (path.parent / file).open("rb") as packed:
                yield from self._of_packed(packed, int(layer), _list(offsets, where), where)

    def _of_packed(
        self, packed: BinaryIO, layer: int, offsets: list[Any], where: str
    ) -> Iterator[FoundPiece]:
        size = os.fstat(packed.fileno()).st_size
        for latent in range(len(offsets) - 1):
            begin, end = offsets[latent], offsets[latent + 1]
            name = f"{where}, feature {latent}"
            if not (type(begin) is int and type(end) is int and 0 <= begin <= end <= size):
                raise refused(name, "its offsets lie beyond the file")
            if end - begin < 5:
                continue
            if end - begin > MAX_LINE_BYTES:
                raise refused(name, "it is longer than anything that is read here")
            packed.seek(begin)
            length = int.from_bytes(packed.read(4), "little")
            unpacker = zlib.decompressobj(47)  # with a head of gzip or of zlib
            text = unpacker.decompress(packed.read(min(length, end - begin - 4)), MAX_LINE_BYTES)
            if unpacker.unconsumed_tail:
                raise refused(name, f"it unpacks to more than {MAX_LINE_BYTES:,} bytes")
            value = _json(text, name)
            if not isinstance(value, dict):
                raise refused(name, "it should be an object")
            site, index = self._traced(layer, latent, name)
            yield FoundPiece(site, index, "page", "circuit-tracer", value, name)

    # ---- whose ---------------------------------------------------------------------------------

    def _of_model(self, model: Any, name: str) -> None:
        model = whole_text(model)[:1000] if isinstance(model, str) else ""
        if model and model not in self.model_names:
            self.model_names.append(model)
            if len(self.model_names) > 1:
                raise refused(
                    name, f"it is of {self.model_names[1]}, and others are of {self.model_names[0]}"
                )

    def _site(self, source: str, name: str) -> Site:
        """The module that a source such as ``5-gemmascope-transcoder-16k`` is of."""
        if source in self._sites:
            return self._sites[source]
        found = re.match(r"([0-9]{1,4})(?:-|$)", source)
        kind = self.kind or kind_of_set(source[found.end() :] if found else "")
        if found is None or kind is None:
            raise FeatureFileError(
                f"{name} does not say which module its features are of",
                f"its source is {source[:80]!r}",
                "say --kind mlp or --kind attention; features of a residual stream have no place "
                "in a replacement model",
            )
        return Site(int(found[1]), kind)

    def _known(
        self, site: Site, index: Union[int, str, None], source: str, name: str
    ) -> tuple[Site, int]:
        if isinstance(index, str) and re.fullmatch(r"[0-9]{1,9}", index):
            index = int(index)
        if type(index) is not int or not 0 <= index < MAX_LATENTS or site.layer >= MAX_LAYERS:
            raise refused(name, f"it is about feature {str(index)[:40]} of {site.label}")
        other = self.source_names.setdefault(site, source)
        if other != source:
            raise refused(
                name,
                f"{site.label} has features of {other[:80]!r} and of {source[:80]!r}; "
                "import one of them at a time",
            )
        return site, index


def _files_in(source: Path) -> list[tuple[Path, int]]:
    """The files of a source with their sizes."""
    try:
        if source.is_file():
            return [(source, source.stat().st_size)]
        if not source.is_dir():
            raise FeatureFileError(f"{source} is not there", "", "name a file or folder that is")
        found: list[tuple[Path, int]] = []
        depth = len(source.parts)
        for folder, folders, names in os.walk(source):
            folders.sort()
            if len(Path(folder).parts) - depth >= MAX_FOLDERS_DEEP:
                folders.clear()
            for name in sorted(names):
                path = Path(folder, name)
                if not name.startswith(".") and not path.is_symlink() and path.is_file():
                    found.append((path, path.stat().st_size))
            if len(found) > MAX_FILES:
                raise FeatureFileError(
                    f"{source} has too many files", f"more than {MAX_FILES:,}", "choose a part"
                )
        return found
    except OSError as error:
        raise FeatureFileError(f"{source} cannot be read", str(error)) from error


def _json(text: bytes, name: str) -> Any:
    try:
        return strict_json(text)
    except NotStrictJsonError as error:
        raise refused(name, str(error)) from error


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise refused(name, "it should be a list")
    return value


class DashboardTransferError(StudioError):
    """Dashboards cannot be brought in or out."""
