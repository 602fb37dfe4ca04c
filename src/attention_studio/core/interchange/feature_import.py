"""Makes a feature store of pages that other tools wrote.

Everything is read once into a table on the disk, then written feature by feature, so memory holds
one file, or one part of a store, whatever the number of features.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
from safetensors.numpy import load_file, save_file

import attention_studio
from attention_studio.core.feature_columns import (
    N_NEIGHBOURS,
    N_WORDS,
    NO_PAGE,
    PART_FEATURES,
    Columns,
    WordTable,
    columns_of_pages,
    part_name,
)
from attention_studio.core.feature_labels import MAX_LABEL, FeatureLabels
from attention_studio.core.feature_records import (
    SHARES,
    Example,
    FeatureLabel,
    FeaturePage,
)
from attention_studio.core.feature_store import SiteSize, StoreAbout, now
from attention_studio.core.feature_store_writing import StoreWriter, silent_page
from attention_studio.core.interchange.feature_files import (
    MAX_EXAMPLES,
    checked,
    file_of_page,
    page_of_file,
    refused,
    whole_text,
)
from attention_studio.core.interchange.feature_reading import (
    DashboardTransferError,
    FeatureFiles,
    Form,
    FoundPiece,
)
from attention_studio.core.interchange.foreign_rest import RestWriter
from attention_studio.core.interchange.json_rest import rest_of
from attention_studio.core.interchange.neuronpedia_files import (
    Explanation,
    feature_of_page,
    page_of_feature,
)
from attention_studio.core.sites import Site, SiteKind
from attention_studio.utils.files import (
    atomic_folder,
    explain_write_errors,
    passing_folder,
)
from attention_studio.utils.progress import WorkContext

_TOOLS: dict[Form, str] = {
    "circuit-tracer": "circuit-tracer",
    "saedashboard": "SAEDashboard",
    "neuronpedia": "Neuronpedia",
}
_PIECES = ("page", "activation", "explanation")
_MAX_HEADINGS = 5_000
_MAX_WORDS, _MAX_PART_VALUES = 8_000_000, 200_000_000
_OTHER_HEADING = "Examples"


@dataclass(frozen=True)
class Belonging:
    """Whose features imported pages are about, as somebody says who knows.

    Attributes:
        model_name, crm_name: what they go by; "": what the files say.
        model_hash, crm_hash: which weights; "": what the studio's own note says, or not known.
        sites: the modules and their latents; (): as large as the largest number that was met.
    """

    model_name: str = ""
    model_hash: str = ""
    crm_name: str = ""
    crm_hash: str = ""
    sites: tuple[SiteSize, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What came in.

    Attributes:
        about: what the store is of.
        n_pages, n_labels: how many features have one.
        notes: what else there is to say, for people.
    """

    about: StoreAbout
    n_pages: int
    n_labels: int
    notes: tuple[str, ...]


def import_dashboards(
    sources: Sequence[Path],
    out: Path,
    belonging: Optional[Belonging] = None,
    kind: Optional[SiteKind] = None,
    layers: Optional[Literal["layers", "sites"]] = None,
    ctx: Optional[WorkContext] = None,
) -> Imported:
    """Make a store of pages in files and folders of other tools.

    Args:
        sources: files and folders, see ``FeatureFiles``.
        out: the store's folder; there must be nothing yet.
        belonging: whose features these are.
        kind, layers: as ``FeatureFiles`` has them.

    Raises:
        FeatureFileError: a file is not what it should be; names the field.
        DashboardTransferError: there are no pages, two about one feature, or a page about a feature
            that ``belonging`` does not have; or there is something at ``out``.
        FileWriteError: the store cannot be written.
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DashboardTransferError(
            f"{out} is there already", "", "choose a folder that is not, or delete it first"
        )
    files = FeatureFiles(sources, kind, layers)
    with passing_folder(out.parent, f"{out.name}.reading") as work:
        pieces = _Pieces(work)
        try:
            for piece in files:
                pieces.add(piece)
                ctx.check()
                ctx.progress(files.done, files.total or None, "Reading pages")
            pieces.finish()
            making = _Making(files, pieces, belonging or Belonging(), work, ctx)
            with atomic_folder(out) as staging:
                return making.write(staging)
        finally:
            pieces.close()


class _Pieces:
    """What was read, on the disk, sorted by feature."""

    def __init__(self, folder: Path) -> None:
        self.largest: dict[Site, int] = {}
        self.forms: dict[Form, None] = {}
        self._path = folder / "pieces.sqlite"
        with explain_write_errors(self._path):
            self._file = sqlite3.connect(self._path)
        self._file.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE piece (site INTEGER, feature INTEGER, piece INTEGER, form TEXT,"
            " name TEXT, value BLOB);"
        )

    def add(self, found: FoundPiece) -> None:
        site, index = found.site, found.index
        self.forms[found.form] = None
        if found.piece != "explanation":
            self.largest[site] = max(self.largest.get(site, 0), index)
        value = zlib.compress(json.dumps(found.value, separators=(",", ":")).encode("ascii"), 1)
        place = _PIECES.index(found.piece)
        row = [site.number, index, place, found.form, whole_text(found.name), value]
        self._run("INSERT INTO piece VALUES (?, ?, ?, ?, ?, ?)", row)

    def finish(self) -> None:
        """Sort it."""
        self._run("CREATE INDEX of_feature ON piece (site, feature, piece)", [])

    def of(self, site: Site, first: int, end: int) -> Iterator[tuple[int, int, Form, str, Any]]:
        """(latent, piece, form, name, value) of the latents from ``first`` to before ``end``."""
        rows = self._run(
            "SELECT feature, piece, form, name, value FROM piece WHERE site = ? AND feature >= ? "
            "AND feature < ? ORDER BY feature, piece, rowid",
            [site.number, first, end],
        )
        for index, piece, form, name, value in rows:
            yield index, piece, form, name, json.loads(zlib.decompress(value))

    def parts(self, site: Site) -> list[int]:
        """Which parts of a module have anything."""
        rows = self._run(
            f"SELECT DISTINCT feature / {PART_FEATURES} FROM piece WHERE site = ? AND piece < 2 "
            "ORDER BY 1",
            [site.number],
        )
        return [part for (part,) in rows]

    def close(self) -> None:
        self._file.close()

    def _run(self, query: str, values: Sequence[Any]) -> Any:
        with explain_write_errors(self._path):
            try:
                return self._file.execute(query, values)
            except sqlite3.OperationalError as error:  # a full disk, as a rule
                raise OSError(str(error)) from error


class _Text:
    """The words of all examples, in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self._length = path, 0
        self._stream = path.open("wb")

    def __len__(self) -> int:
        return self._length

    def extend(self, words: Any, /) -> None:
        self._stream.write(np.asarray(words, dtype=np.int32).tobytes())
        self._length += len(words)

    def whole(self) -> Any:
        """[n] all of them, as a memory map."""
        self._stream.close()
        if not self._length:
            return np.zeros(0, dtype=np.int32)
        return np.memmap(self.path, dtype=np.int32, mode="r")


@dataclass
class _Seen:
    """What any page has."""

    density: bool = False
    histogram: bool = False
    effects: bool = False
    looks: bool = False
    decoder: bool = False
    names: list[str] = field(default_factory=list)

    def see(self, page: FeaturePage) -> None:
        self.density |= page.n_fired >= 0
        self.histogram |= bool(len(page.histogram.counts))
        self.effects |= any(effect == effect for _, effect in page.promoted + page.suppressed)
        self.looks |= any(e.looks_at is not None for group in page.groups for e in group.examples)
        self.decoder |= bool(page.near_by_decoder)


class _Making:
    def __init__(
        self,
        files: FeatureFiles,
        pieces: _Pieces,
        said: Belonging,
        work: Path,
        ctx: WorkContext,
    ) -> None:
        self._pieces, self._work, self._ctx = pieces, work, ctx
        self._n_other = files.n_other
        if not pieces.largest:
            named = ", ".join(str(source) for source in files.sources)
            raise DashboardTransferError(
                f"There are no pages about features in {named[:400]}", "",
                "give the folder or files that circuit-tracer, Neuronpedia or SAEDashboard wrote",
            )  # fmt: skip
        note = files.note
        sizes = {size.site: size for size in said.sites or (note.sizes if note else ())}
        for site, largest in pieces.largest.items():
            if site in sizes and largest >= sizes[site].n_features:
                raise DashboardTransferError(
                    f"There is no feature {site.label} #{largest}",
                    f"{site.label} has {sizes[site].n_features:,} features",
                    "give the replacement model that the files are about",
                )
            if said.sites and site not in sizes:
                raise DashboardTransferError(
                    f"The replacement model has no dictionary for {site.label}",
                    "the files have pages about its features",
                    "give the replacement model that they are about, or say --kind or --numbers",
                )
            sizes.setdefault(site, SiteSize(site.layer, site.kind, largest + 1))
        sources = sorted(set(filter(None, files.source_names.values())))
        self._n_tokens = note.n_tokens if note is not None else None
        self._about = StoreAbout(
            model_name=said.model_name or (note.model_name if note else "")
            or (files.model_names[0] if files.model_names else ""),
            model_hash=said.model_hash or (note.model_hash if note else ""),
            crm_name=said.crm_name or (note.crm_name if note else "")
            or ", ".join(sources)[:400] or whole_text(files.sources[0].resolve().name)[:400],
            crm_hash=said.crm_hash or (note.crm_hash if note else ""),
            text_hash=note.text_hash if note else "",
            n_tokens=self._n_tokens or SHARES,
            sites=tuple(sizes[site] for site in sorted(sizes)),
            n_rows=note.n_rows if note else 0,
            seq_len=note.seq_len if note else 0,
            origin=" and ".join(_TOOLS[form] for form in sorted(pieces.forms))
            + (f" files of {note.tool.split(' (')[0]}" if note and note.tool else ""),
            version=f"(imported with AttentionStudio {attention_studio.__version__})",
            made=now(),
            counted=self._n_tokens is not None,
            partial=True,
        )  # fmt: skip
        self._sizes = sizes
        self._sites_as_layers = any(site.kind == "attention" for site in sizes)
        self._seen = _Seen()
        # The first of each feature: a file may have any number.
        self._labels: dict[tuple[Site, int], FeatureLabel] = {}
        self._n_pages = 0

    def write(self, staging: Path) -> Imported:
        words, text = WordTable(), _Text(self._work / "text.bin")
        parts = [(site, part) for site in self._sizes for part in self._pieces.parts(site)]
        rests = RestWriter(staging)
        try:
            for number, (site, part) in enumerate(parts):
                self._ctx.progress(number, len(parts), "Writing pages")
                columns = self._columns(site, part, words, text, rests)
                save_file(columns, self._work / part_name(site.name, part))
        finally:
            rests.close()
        writer = StoreWriter(staging, self._about.sites, text.whole(), words.strings)
        try:
            for site, part in parts:
                self._ctx.check()
                writer.part(site, part, load_file(self._work / part_name(site.name, part)))
            about = writer.finish(
                replace(self._about, group_names=tuple(self._seen.names), lacks=self._lacks())
            )
        finally:
            writer.close()
        n_labels = self._write_labels(staging)
        return Imported(about, self._n_pages, n_labels, tuple(self._notes(about)))

    def _columns(
        self, site: Site, part: int, words: WordTable, text: _Text, rests: RestWriter
    ) -> Columns:
        first = part * PART_FEATURES
        n = min(PART_FEATURES, self._sizes[site].n_features - first)
        there = np.zeros(n, dtype=bool)
        pages = self._pages(site, first, n, there, rests)
        columns = columns_of_pages(_bounded(pages, words), words, text, self._seen.names)
        columns["fired"][~there] = NO_PAGE
        columns["peak"][~there] = np.nan
        return columns

    def _pages(
        self, site: Site, first: int, n: int, there: Any, rests: RestWriter
    ) -> Iterator[FeaturePage]:
        """A page of each latent in turn; of those that no file is about, a silent one."""
        found = self._gathered(site, first, first + n)
        upcoming = next(found, None)
        for index in range(first, first + n):
            if upcoming is None or upcoming[0] != index:
                yield silent_page(site, index, self._about.n_tokens)
                continue
            _, form, name, value = upcoming
            page = self._page(site, index, form, name, value, rests)
            there[index - first] = True
            self._n_pages += 1
            yield page
            upcoming = next(found, None)

    def _gathered(self, site: Site, first: int, end: int) -> Iterator[tuple[int, Form, str, Any]]:
        """(latent, form, name, page) with the rows that belong to each page in it."""
        now_at: Optional[tuple[int, Form, str, Any]] = None
        for index, piece, form, name, value in self._pieces.of(site, first, end):
            self._ctx.check()
            if _PIECES[piece] == "explanation":
                self._label(site, index, value, name)
                continue
            if now_at is not None and now_at[0] != index:
                yield now_at
                now_at = None
            if _PIECES[piece] == "activation":
                if now_at is None:
                    now_at = (index, form, name, {})
                rows = now_at[3].setdefault("activations", [])
                if len(rows) == MAX_EXAMPLES:
                    raise refused(name, f"{site.label} #{index} has more than {MAX_EXAMPLES} rows")
                rows.append(value)
            elif now_at is None:
                now_at = (index, form, name, value)
            else:
                raise DashboardTransferError(
                    f"There are two pages about {site.label} #{index}",
                    f"in {now_at[2]} and in {name}",
                    "import one of both",
                )
        if now_at is not None:
            yield now_at

    def _page(
        self, site: Site, index: int, form: Form, name: str, value: Any, rests: RestWriter
    ) -> FeaturePage:
        n_tokens = self._n_tokens
        if form == "circuit-tracer":
            page = page_of_file(value, site, index, n_tokens, name)
        else:
            page = page_of_feature(value, site, index, n_tokens, self._sizes[site].n_features, name)
            for one in value.get("explanations") or []:
                self._label(site, index, one, name)
        page = _as_stored(self._headed(page))
        if form == "circuit-tracer":
            ours = file_of_page(page, dictionary_name(self._about, site), self._sites_as_layers)
        else:
            ours = feature_of_page(page, self._about.n_rows, self._about.seq_len)
        rests.add(site, index, form, rest_of(value, ours))
        self._seen.see(page)
        return page

    def _headed(self, page: FeaturePage) -> FeaturePage:
        """With headings that a store has room for."""
        known = set(self._seen.names)
        if len(known) < _MAX_HEADINGS or all(group.name in known for group in page.groups):
            return page
        groups = [g if g.name in known else replace(g, name=_OTHER_HEADING) for g in page.groups]
        return replace(page, groups=tuple(groups))

    def _label(self, site: Site, index: int, value: Any, name: str) -> None:
        said = checked(Explanation, value, name)
        text = " ".join((said.description or "").split())[:MAX_LABEL]
        known = site in self._sizes and index < self._sizes[site].n_features
        if text and known and (site, index) not in self._labels:
            by = (said.by or "Neuronpedia")[:MAX_LABEL]
            self._labels[site, index] = FeatureLabel(text, by, now())

    def _write_labels(self, staging: Path) -> int:
        labels = FeatureLabels(staging)
        try:
            labels.set_all(self._labels)
        finally:
            labels.close()
        return len(self._labels)

    def _lacks(self) -> tuple[str, ...]:
        seen = self._seen
        attention = any(site.kind == "attention" for site in self._sizes)
        told = (
            (seen.density, "how often features fire"),
            (seen.histogram, "histograms"),
            (seen.effects, "how strong effects on tokens are"),
            (seen.looks or not attention, "what attention features look at"),
            (seen.decoder, "which features write alike"),
            (False, "which features fire together"),
        )
        return tuple(words for there, words in told if not there)

    def _notes(self, about: StoreAbout) -> Iterator[str]:
        yield f"The files it is from do not say {', '.join(about.lacks)}"
        if not about.counted:
            yield "Of how many tokens densities are is not known"
        if about.anonymous:
            yield "Nothing says which weights the pages are of: modules and numbers are compared"
        if self._n_other:
            yield f"Files without pages about features, left out: {self._n_other:,}"


def dictionary_name(about: StoreAbout, site: Site) -> str:
    """What a module's dictionary is called in files of other tools."""
    return f"{about.crm_name} {site.name}"


def _bounded(pages: Iterator[FeaturePage], words: WordTable) -> Iterator[FeaturePage]:
    """The pages of a part, as long as memory has room for their columns."""
    n_values = 0
    for page in pages:
        n_values += sum(len(one.tokens) for group in page.groups for one in group.examples)
        if len(words.strings) > _MAX_WORDS or n_values > _MAX_PART_VALUES:
            raise DashboardTransferError(
                "The pages have too much text in them", "", "import a part of the files at a time"
            )
        yield page


def _as_stored(page: FeaturePage) -> FeaturePage:
    """What a store gives back of a page."""
    groups = tuple(
        replace(group, examples=tuple(_looks_as_stored(one) for one in group.examples))
        for group in page.groups
    )
    return replace(
        page,
        groups=groups,
        promoted=page.promoted[:N_WORDS],
        suppressed=page.suppressed[:N_WORDS],
        near_by_decoder=page.near_by_decoder[:N_NEIGHBOURS],
    )


def _looks_as_stored(example: Example) -> Example:
    if example.looks_at is None:
        return example
    shares = (example.looks_at / (example.value or 1.0)).astype(np.float32)
    return replace(example, looks_at=shares * np.float32(example.value))
