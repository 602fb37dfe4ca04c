"""What lanes run for features: pages of stores, lists, searches, and questions to the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import Neighbour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.core.feature_records import FeatureLabel, FeaturePage
    from attention_studio.core.feature_store import FeatureFilter, FeatureRow, FeatureStore, Order
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.sites import Site
    from attention_studio.utils.progress import WorkContext


MOST_FOUND = 500
"""Features that a search lists at most."""


@dataclass(frozen=True)
class StoredPage:
    """A page, and the store that it is from."""

    store: FeatureStore
    site: Site
    index: int
    page: Optional[FeaturePage]


def read_page(ctx: WorkContext, store: FeatureStore, site: Site, index: int) -> StoredPage:
    """The page of a feature; None where the store has no such feature."""
    ctx.check()
    page = store.page(site, index) if holds(store, site, index) else None
    return StoredPage(store, site, index, page)


def holds(store: FeatureStore, site: Site, index: int) -> bool:
    """Whether a store has a page about a feature."""
    return store.has(site, index)


@dataclass(frozen=True)
class LookedUp:
    """What the model says of a feature on a prompt (None: there is no prompt), and its kin."""

    site: Site
    index: int
    report: Optional[FeatureReport]
    record: Optional[FeatureRecord]
    near: tuple[Neighbour, ...]


def look_up(
    ctx: WorkContext,
    crm: CompleteReplacementModel,
    site: Site,
    index: int,
    ids: Sequence[int],
    position: Optional[int],
) -> LookedUp:
    """Where a feature fires on a prompt, what it says and what is like it."""
    from attention_studio.core.feature_sheet import feature_sheet

    asked = tuple(ids) or tuple(crm.loaded.encode("."))
    at = position if position is not None and position < len(asked) else None
    sheet = feature_sheet(crm, site, index, asked, at, ctx)
    report = sheet.report if ids else None
    return LookedUp(site, index, report, sheet.record, sheet.nearest)


@dataclass(frozen=True)
class TriedText:
    """Where a feature fires in a text that somebody typed."""

    site: Site
    index: int
    report: FeatureReport


def try_text(
    ctx: WorkContext, crm: CompleteReplacementModel, site: Site, index: int, text: str
) -> TriedText:
    """Where a feature fires in another text."""
    from attention_studio.core.feature_sheet import feature_sheet

    sheet = feature_sheet(crm, site, index, crm.loaded.encode(text), ctx=ctx)
    return TriedText(site, index, sheet.report)


@dataclass(frozen=True)
class ListedFeature:
    """A row of a list of features.

    Attributes:
        site, index: which.
        density: at what share of the text's tokens it fires; 0: it is dead, NaN: not known.
        max_activation: the largest; NaN: not known.
        promotes: the tokens that it promotes most.
        label, label_by: what it is called and who says so, or "".
    """

    site: Site
    index: int
    density: float
    max_activation: float
    promotes: tuple[str, ...]
    label: str
    label_by: str

    @property
    def name(self) -> str:
        """For people: ``L12 #1043``."""
        return f"{self.site.label} #{self.index}"

    @property
    def feature(self) -> str:
        """For notes: ``L12/F1043``."""
        return f"{self.site.label}/F{self.index}"

    @property
    def dead(self) -> bool:
        """Whether it never fired."""
        return self.density == 0


@dataclass(frozen=True)
class ListRequest:
    """Which features of a store are to be listed.

    Attributes:
        wanted: which ones, in which order.
        words: only those that a search for these finds, the best first; "": all.
        among: only these, such as those with a note; None: any.
    """

    store: FeatureStore
    wanted: FeatureFilter
    order: Order = "index"
    words: str = ""
    among: Optional[tuple[tuple[Site, int], ...]] = None

    @property
    def picked(self) -> bool:
        """Whether the list is picked one by one, and comes whole."""
        return bool(self.words.strip()) or self.among is not None


@dataclass(frozen=True)
class ListedPage:
    """Some rows of a list: those from ``offset`` on, of ``total``."""

    request: ListRequest
    offset: int
    rows: tuple[ListedFeature, ...]
    total: int


def list_features(
    ctx: WorkContext, request: ListRequest, offset: int, limit: int, total: Optional[int] = None
) -> ListedPage:
    """Read some rows of a list. ``total``: how many rows it has, where that is known."""
    store = request.store
    ctx.check()
    if request.picked:
        rows = _picked(request)
        return ListedPage(request, 0, rows, len(rows))
    found = store.rows(request.wanted, request.order, limit, offset)
    ctx.check()
    if total is None:
        total = store.count(request.wanted)
    return ListedPage(request, offset, tuple(_listed(store, row) for row in found), total)


def _listed(store: FeatureStore, row: FeatureRow) -> ListedFeature:
    site, index = row.site, row.index
    label = store.label(site, index)
    return ListedFeature(
        site, index, row.density, row.max_activation,
        store.promotes(site, index), label.text if label else "", label.by if label else "",
    )  # fmt: skip


def _picked(request: ListRequest) -> tuple[ListedFeature, ...]:
    """The rows that were searched for, or are among some, as far as the filter lets them."""
    store, among = request.store, request.among
    if request.words.strip():
        found = [(one.site, one.index) for one in store.search(request.words, MOST_FOUND)]
        names = list(dict.fromkeys((*named_features(store, request.words), *found)))
        names = [name for name in names if among is None or name in set(among)]
    else:
        names = [name for name in among or () if holds(store, *name)]
    rows = {(row.site, row.index): row for row in store.rows_of(names, request.wanted)}
    return tuple(_listed(store, rows[name]) for name in names if name in rows)


_NUMBER = re.compile(r"(?:([LA])([0-9]{1,4}) *)?#([0-9]{1,9})", re.IGNORECASE)


def named_features(store: FeatureStore, words: str) -> list[tuple[Site, int]]:
    """The features of a store that a text names: ``L12/F1043``, ``A3 #7``, or ``#7`` of every
    module."""
    name = FeatureName.read(words)
    if name is not None and isinstance(name.latent, int) and "/" in words:
        named = [(name.site, name.latent)]
    else:
        match = _NUMBER.fullmatch(words.strip())
        if match is None:
            return []
        kind, layer, number = match.groups()
        wanted = None if kind is None else f"{kind.upper()}{int(layer)}"
        sites = (size.site for size in store.about.sites)
        named = [(site, int(number)) for site in sites if wanted in (None, site.label)]
    return [(site, index) for site, index in named if holds(store, site, index)]


@dataclass(frozen=True)
class Neighbouring:
    """The feature that a step or chance led to; None: there is none."""

    request: ListRequest
    feature: Optional[tuple[Site, int]]


def step(
    ctx: WorkContext, request: ListRequest, feature: Optional[tuple[Site, int]], by: int
) -> Neighbouring:
    """The feature after (or before) one by module and number, or (``by`` 0) one by chance, among
    those that the filter lets through."""
    ctx.check()
    store, wanted = request.store, request.wanted
    if by == 0:
        return Neighbouring(request, store.random(wanted))
    if feature is None or not holds(store, *feature):
        first = store.ids(wanted, limit=1)
        return Neighbouring(request, first[0] if first else None)
    go = store.next if by > 0 else store.previous
    return Neighbouring(request, go(*feature, wanted))


@dataclass(frozen=True)
class Labelled:
    """A label that was written."""

    store: FeatureStore
    site: Site
    index: int
    label: FeatureLabel


def write_label(
    ctx: WorkContext, store: FeatureStore, site: Site, index: int, text: str, by: str
) -> Labelled:
    """Call a feature something."""
    ctx.check()
    return Labelled(store, site, index, store.set_label(site, index, text, by))


LabelsBefore = dict[tuple["Site", int], tuple[str, str]]
"""What features were called before somebody labelled them, and by whom. Filled and read on one lane
alone."""


def change_label(
    ctx: WorkContext,
    store: FeatureStore,
    site: Site,
    index: int,
    text: Optional[str],
    by: str,
    before: LabelsBefore,
) -> Labelled:
    """Call a feature something, or (None) what it was called before; ``before`` remembers that."""
    ctx.check()
    key = (site, index)
    if key not in before:
        label = store.label(site, index)
        before[key] = ("", by) if label is None else (label.text, label.by)
    return write_label(ctx, store, site, index, *((text, by) if text is not None else before[key]))


@dataclass(frozen=True)
class PlacedFeature:
    """The row of a feature in a list; None: the list has not got it."""

    request: ListRequest
    feature: tuple[Site, int]
    row: Optional[int]


def find_row(ctx: WorkContext, request: ListRequest, feature: tuple[Site, int]) -> PlacedFeature:
    """Where a list by module and number has a feature."""
    ctx.check()
    if not holds(request.store, *feature):
        return PlacedFeature(request, feature, None)
    return PlacedFeature(request, feature, request.store.place(*feature, request.wanted))
