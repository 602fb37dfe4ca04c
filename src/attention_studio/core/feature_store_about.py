"""What a feature store is of, and how its features are numbered; ``about.json`` is checked here.

Needs no torch. Whoever made a store is not trusted.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from attention_studio.core.dictionaries.safetensors_header import TensorFileError
from attention_studio.core.feature_columns import PART_FEATURES, part_name
from attention_studio.core.sites import Site, SiteKind
from attention_studio.core.trace_circumstances import DictionariesId, dictionaries_of
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, read_json

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph

FORMAT = "attention-studio-feature-store"
FORMAT_VERSION = 1
ABOUT, INDEX, TEXT = "about.json", "index.sqlite", "text.safetensors"
FOREIGN = "foreign.sqlite"

FeatureId = tuple[Site, int]


class FeatureStoreError(StudioError):
    """A folder is no feature store, a damaged one, or has no such feature."""


@dataclass(frozen=True)
class SiteSize:
    """A module whose dictionary the store has, and how many latents that has."""

    layer: int
    kind: SiteKind
    n_features: int

    @property
    def site(self) -> Site:
        """The module."""
        return Site(self.layer, self.kind)


@dataclass(frozen=True)
class StoreAbout:
    """What a store is of.

    Attributes:
        model_name, model_hash: the model, and the SHA-256 of its weights.
        crm_name, crm_hash: the replacement model, and the SHA-256 over its dictionaries.
        text_hash: SHA-256 of the text, as ``TokenCorpus`` has it.
        n_tokens: positions that were looked at; densities are shares of them.
        n_left_out: positions that dictionaries see but that were left out for their huge norm.
        n_rows, seq_len: rows of the text, and tokens in each.
        n_firing_tokens: at how many tokens it was compared which features fire together.
        sites: the modules, in order of the forward pass.
        settings: what was asked for.
        group_names: headings of examples.
        origin: what made it.
        version: of the studio that wrote it.
        made: when, ISO 8601, UTC.
        counted: whether ``n_tokens`` is a number of tokens; see ``FeaturePage.counted``.
        partial: whether there may be latents without a page.
        lacks: what no page has because it was imported from files that do not hold it, in words.
    """

    model_name: str
    model_hash: str
    crm_name: str
    crm_hash: str
    text_hash: str
    n_tokens: int
    sites: tuple[SiteSize, ...]
    n_left_out: int = 0
    n_rows: int = 0
    seq_len: int = 0
    n_firing_tokens: int = 0
    settings: Mapping[str, Union[int, float, str]] = field(default_factory=dict)
    group_names: tuple[str, ...] = ()
    origin: str = "AttentionStudio"
    version: str = ""
    made: str = ""
    counted: bool = True
    partial: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether nothing says which weights it is of, as in files of other tools."""
        return not self.model_hash

    @property
    def n_features(self) -> int:
        """Of all modules."""
        return sum(size.n_features for size in self.sites)

    @property
    def dictionaries_id(self) -> DictionariesId:
        """Whose features they are."""
        return DictionariesId(self.crm_name, self.crm_hash)

    def fits(self, model_hash: str, dictionaries: DictionariesId) -> bool:
        """Whether it is of these weights of a model and of these dictionaries."""
        return self.model_hash == model_hash and self.dictionaries_id.means(dictionaries)

    def may_be_of(self, graph: AttributionGraph) -> bool:
        """Whether its pages may be about the features of a graph: the same weights and dictionaries
        where both say which they are of, else modules and features that the graph has."""
        if graph.model_hash and not self.anonymous:
            return self.fits(graph.model_hash, dictionaries_of(graph))
        nodes, sizes = graph.nodes, {size.site.number: size.n_features for size in self.sites}
        features = range(graph.n_features)
        return all(
            # One that was imported in part does not say how many there are.
            number in sizes and (self.partial or index < sizes[number])
            for number, index in zip(
                nodes.depth[features].tolist(), nodes.index[features].tolist(), strict=True
            )
        )


class FeatureNumbers:
    """The features of all modules in one row: module by module, latent by latent.

    Args:
        about: which modules there are.
        folder: for what errors say.
    """

    def __init__(self, about: StoreAbout, folder: Path) -> None:
        self.sites, self._folder = about.sites, folder
        self._offsets = [0]
        for size in about.sites:
            self._offsets.append(self._offsets[-1] + size.n_features)
        self._first = {s.site: o for s, o in zip(about.sites, self._offsets, strict=False)}
        self._sizes = {size.site: size.n_features for size in about.sites}

    def first(self, site: Site) -> int:
        """The number of a module's first feature.

        Raises:
            FeatureStoreError: the store has no such module.
        """
        first = self._first.get(site)
        if first is None:
            raise FeatureStoreError(
                f"The store has no features of {site.label}",
                f"it has those of {', '.join(size.site.label for size in self.sites)}",
            )
        return first

    def size(self, site: Site) -> int:
        """How many features a module has.

        Raises:
            FeatureStoreError: the store has no such module.
        """
        self.first(site)
        return self._sizes[site]

    def id(self, site: Site, index: int) -> int:
        """The number of a feature.

        Raises:
            FeatureStoreError: there is no such feature.
        """
        first, n = self.first(site), self.size(site)
        if not 0 <= index < n:
            raise FeatureStoreError(
                f"There is no feature {site.label} #{index}", f"{site.label} has {n:,} features"
            )
        return first + index

    def knows(self, feature: FeatureId) -> bool:
        """Whether there is such a feature."""
        site, index = feature
        return 0 <= index < self._sizes.get(site, 0)

    def feature(self, number: Any) -> FeatureId:
        """The feature of a number that a file has.

        Raises:
            FeatureStoreError: there is none; the store is damaged.
        """
        if not isinstance(number, int) or not 0 <= number < self._offsets[-1]:
            raise damaged(self._folder, "its index has features that it does not know")
        place = bisect_right(self._offsets, number) - 1
        return self.sites[place].site, number - self._offsets[place]


def read_about(folder: Path) -> tuple[StoreAbout, frozenset[str]]:
    """What a folder is a store of, and the files that it has.

    Raises:
        FeatureStoreError: it is none, damaged, or of another version.
    """
    try:
        value = read_json(folder / ABOUT)
    except FileReadError as error:
        raise FeatureStoreError(
            f"There is no feature store in {folder}", str(error), "build one, or choose another"
        ) from error
    except StudioError as error:
        raise FeatureStoreError(f"There is no feature store in {folder}", str(error)) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FeatureStoreError(
            f"{folder} is no feature store", f"{ABOUT} is of something else", "choose another"
        )
    if value.get("version") != FORMAT_VERSION:
        raise FeatureStoreError(
            f"{folder} cannot be opened",
            f"it has format version {value.get('version')}, this studio reads {FORMAT_VERSION}",
            "open it with the version that wrote it",
        )
    try:
        about = TypeAdapter(StoreAbout).validate_python(value["about"])
        sizes = TypeAdapter(dict[str, int]).validate_python(value["files"])
    except (KeyError, ValidationError) as error:
        raise damaged(folder, f"{ABOUT} is not what it should be ({error})") from error
    _check_files(folder, about, sizes)
    return about, frozenset(sizes)


def _check_files(folder: Path, about: StoreAbout, sizes: Mapping[str, int]) -> None:
    sites = [size.site for size in about.sites]
    if sites != sorted(set(sites)) or any(
        not 0 <= size.layer <= 9999 or not 0 < size.n_features < 1 << 31 for size in about.sites
    ):
        raise damaged(folder, "its modules are not in order")
    expected = {INDEX, TEXT}
    for size in about.sites:
        n_parts = -(-size.n_features // PART_FEATURES)
        expected |= {part_name(size.site.name, part) for part in range(n_parts)}
    if about.partial:  # parts without a page are not there
        fits = {INDEX, TEXT} <= set(sizes) <= expected | {FOREIGN}
    else:
        fits = set(sizes) == expected
    if not fits:
        raise damaged(folder, "its files are not those of its modules")
    for name in sorted(sizes):
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise damaged(folder, f"{name} is missing") from error
        if found != sizes[name]:
            raise damaged(folder, f"{name} has {found:,} bytes and should have {sizes[name]:,}")


def damaged(folder: Path, why: str) -> FeatureStoreError:
    """The error that says so."""
    return FeatureStoreError(f"The feature store in {folder} is damaged", why, "build it again")


@contextmanager
def checked(folder: Path) -> Iterator[None]:
    """Turn what damaged files do into errors that name the store."""
    try:
        yield
    except (
        sqlite3.Error,
        SafetensorError,
        TensorFileError,
        OSError,
        ValueError,
        IndexError,
        OverflowError,
    ) as error:
        raise damaged(folder, str(error)) from error


def made_at(folder: Path) -> Optional[tuple[int, int, int]]:
    """Tells one building of a store from the next in the same folder; None: there is none."""
    try:
        found = (folder / ABOUT).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def now() -> str:
    """The time as stores keep it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
