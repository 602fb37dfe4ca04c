"""Writes the pages of a feature store for circuit-tracer's viewer and for Neuronpedia."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, TextIO

from attention_studio.core.attribution_graph import AttributionGraph, NodeKind, PrunedGraph
from attention_studio.core.feature_store import FeatureFilter, FeatureId, FeatureStore, StoreAbout
from attention_studio.core.interchange.dashboard_note import DashboardNote
from attention_studio.core.interchange.feature_files import file_of_page, number_of
from attention_studio.core.interchange.feature_import import dictionary_name
from attention_studio.core.interchange.feature_reading import DashboardTransferError
from attention_studio.core.interchange.foreign_rest import ForeignRests
from attention_studio.core.interchange.json_rest import Rest, with_rest
from attention_studio.core.interchange.json_writing import ascii_json
from attention_studio.core.interchange.neuronpedia_files import feature_of_page, shared_rest
from attention_studio.core.interchange.slugs import slug_of
from attention_studio.core.sites import Site
from attention_studio.utils.files import atomic_folder, explain_write_errors
from attention_studio.utils.progress import WorkContext

Tool = Literal["circuit-tracer", "neuronpedia"]
TOOLS: tuple[Tool, ...] = ("circuit-tracer", "neuronpedia")
BATCH = 128
"""Features in one of SAEDashboard's files."""
_AT_ONCE = 4096
_LOST: dict[Tool, str] = {
    "circuit-tracer": "labels, neighbours, how strong effects on tokens are, bounds of intervals "
    "and what attention features look at",
    "neuronpedia": "neighbours",
}


@dataclass(frozen=True)
class Exported:
    """What went out: how many pages and files, and what else there is to say."""

    n_pages: int
    n_files: int
    notes: tuple[str, ...]


def features_of(graph: AttributionGraph, pruned: PrunedGraph) -> list[FeatureId]:
    """The features of a pruned graph, each once, in order of the forward pass."""
    found = set()
    for node in pruned.node_ids.tolist():
        site = graph.nodes.site(node)
        if site is not None and graph.nodes.kind[node] == NodeKind.FEATURE:
            found.add((site, int(graph.nodes.index[node])))
    return sorted(found, key=lambda feature: (feature[0].number, feature[1]))


def export_dashboards(
    store: FeatureStore,
    tool: Tool,
    out: Path,
    features: Optional[Iterable[FeatureId]] = None,
    ctx: Optional[WorkContext] = None,
) -> Exported:
    """Write pages of a store into a folder.

    For circuit-tracer a file each, ``NUMBER.json``; for Neuronpedia a folder of SAEDashboard's
    batches a module, with the labels in ``explanations.jsonl``. Beside them lies a note of whose
    pages they are (``dashboard_note``). A store that was imported goes out in its own format with
    all that its files had.

    Args:
        features: of these only; None: of all.

    Raises:
        DashboardTransferError: there is something at ``out``, or no page to write.
        FeatureStoreError: the store has no such feature, or is damaged.
        FileWriteError: it cannot be written.
        Cancelled: through ``ctx``; nothing is left.
    """
    ctx = ctx or WorkContext()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DashboardTransferError(
            f"{out} is there already", "", "choose a folder that is not, or delete it first"
        )
    chosen = None if features is None else sorted(set(features))
    total = store.count() if chosen is None else len(chosen)
    if not total:
        raise DashboardTransferError("There are no pages to export")
    wanted = _all(store) if chosen is None else iter(chosen)
    about = store.about
    sources = [source_name(about, size.site) for size in about.sites]
    written = 0
    with ForeignRests(store.folder) as rests, atomic_folder(out) as staging:
        writer = (
            _TracerFolder(store, staging, _sites_as_layers(about))
            if tool == "circuit-tracer"
            else _NeuronpediaFolder(store, staging)
        )
        try:
            for site, index in wanted:
                ctx.check()
                if not written % 64:
                    ctx.progress(written, total, "Writing pages")
                writer.add(site, index, rests)
                written += 1
        finally:
            writer.close()
        DashboardNote.of(about, _sites_as_layers(about), sources).write(staging)
    return Exported(written, writer.n_files, (f"The files do not hold {_LOST[tool]}",))


def write_feature_files(
    store: FeatureStore,
    folder: Path,
    features: Sequence[FeatureId],
    layers_are_sites: bool,
    ctx: Optional[WorkContext] = None,
) -> int:
    """Write circuit-tracer's files about some features into a folder of their own, numbered as the
    graph that they are shown with; those that the store has no page about are left out.

    Returns:
        How many there are.

    Raises:
        FeatureStoreError: the store is damaged.
        FileWriteError: a file cannot be written.
        Cancelled: through ``ctx``.
    """
    ctx = ctx or WorkContext()
    there = [feature for feature in features if store.has(*feature)]
    with ForeignRests(store.folder) as rests, atomic_folder(folder) as staging:
        writer = _TracerFolder(store, staging, layers_are_sites)
        for number, (site, index) in enumerate(there):
            ctx.check()
            ctx.progress(number, len(there), "Writing pages")
            writer.add(site, index, rests)
    return len(there)


def source_name(about: StoreAbout, site: Site) -> str:
    """What Neuronpedia would call a module's source: ``3-my-crm-transcoder``."""
    return f"{site.layer}-{_set_name(about, site)}"


def _set_name(about: StoreAbout, site: Site) -> str:
    return f"{slug_of(about.crm_name)}-{'lorsa' if site.kind == 'attention' else 'transcoder'}"


class _TracerFolder:
    """A file each."""

    def __init__(self, store: FeatureStore, folder: Path, layers_are_sites: bool) -> None:
        self._store, self._folder, self._sites = store, folder, layers_are_sites
        self.n_files = 0

    def add(self, site: Site, index: int, rests: ForeignRests) -> None:
        """Write the page of a feature."""
        name = dictionary_name(self._store.about, site)
        value = file_of_page(self._store.page(site, index), name, self._sites)
        value = _with(value, rests.get(site, index, "circuit-tracer"))
        number = number_of(site, index, self._sites)
        _write_json(self._folder / f"{number}.json", value)
        self.n_files += 1

    def close(self) -> None:
        """Nothing is left to do."""


class _NeuronpediaFolder:
    """A folder of batches each module."""

    def __init__(self, store: FeatureStore, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._site: Optional[Site] = None
        self._batch: list[dict[str, Any]] = []
        self._number = 0
        self._labels: Optional[TextIO] = None
        self.n_files = 0

    def add(self, site: Site, index: int, rests: ForeignRests) -> None:
        """Write the page of a feature, those of a module one after the other."""
        if site != self._site:
            self.close()
            self._site, self._number = site, 0
        about = self._store.about
        page = self._store.page(site, index)
        rest = rests.get(site, index, "saedashboard")
        if rest is None:
            rest = shared_rest(rests.get(site, index, "neuronpedia"))
        self._batch.append(_with(feature_of_page(page, about.n_rows, about.seq_len), rest))
        if page.label is not None:
            row = {
                "modelId": slug_of(about.model_name),
                "layer": source_name(about, site),
                "index": str(index),
                "description": page.label.text,
                "explanationModelName": page.label.by,
            }
            if self._labels is None:
                path = self._of_site() / "explanations.jsonl"
                self._labels = path.open("w", encoding="ascii")
                self.n_files += 1
            self._labels.write(json.dumps(row) + "\n")
        if len(self._batch) == BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left of a module."""
        self._flush()
        if self._labels is not None:
            self._labels.close()
            self._labels = None

    def _flush(self) -> None:
        if not self._batch or self._site is None:
            return
        about = self._store.about
        value = {
            "model_id": slug_of(about.model_name),
            "layer": self._site.layer,
            "sae_set": _set_name(about, self._site),
            "sae_id_suffix": None,
            "features": self._batch,
        }
        _write_json(self._of_site() / f"batch-{self._number}.json", value)
        self._number, self._batch = self._number + 1, []
        self.n_files += 1

    def _of_site(self) -> Path:
        assert self._site is not None  # a page was added
        folder = self._folder / source_name(self._store.about, self._site)
        with explain_write_errors(folder):
            folder.mkdir(exist_ok=True)
        return folder


def _all(store: FeatureStore) -> Iterator[FeatureId]:
    """Every feature that has a page, by module and number."""
    for size in store.about.sites:
        offset = 0
        wanted = FeatureFilter(sites=(size.site,))
        while found := store.ids(wanted, limit=_AT_ONCE, offset=offset):
            yield from found
            offset += len(found)


def _sites_as_layers(about: StoreAbout) -> bool:
    return any(size.kind == "attention" for size in about.sites)


def _with(value: dict[str, Any], rest: Rest) -> Any:
    """A value with what its file had beyond it; without, where both do not fit: the store's own
    page counts."""
    try:
        return with_rest(value, rest)
    except ValueError:
        return value


def _write_json(path: Path, value: Any) -> None:
    """As graphs are written; the folder around it appears whole or not at all."""
    with explain_write_errors(path), path.open("wb") as file:
        file.writelines(ascii_json(value))
