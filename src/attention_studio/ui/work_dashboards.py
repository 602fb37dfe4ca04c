"""What lanes run for dashboards: finding, opening and building stores of features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.core.feature_store import FeatureStore, StoreAbout
    from attention_studio.core.interchange.feature_export import Tool
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext


@dataclass(frozen=True)
class FoundStore:
    """A store of a replacement model (None: of whichever, for none is open); None: there is none.
    ``refused`` says why one that was expected cannot be opened, ``density`` how often features fire
    over the store's text, ``labels`` what it calls features, by their names without position."""

    crm: Optional[CompleteReplacementModel]
    store: Optional[FeatureStore]
    refused: Optional[StudioError] = None
    density: Optional[FeatureDensity] = None
    labels: Mapping[str, str] = field(default_factory=dict)


def open_store(
    ctx: WorkContext, crm: Optional[CompleteReplacementModel], folder: Path
) -> FoundStore:
    """Open a store for a replacement model, or any where none is open.

    Raises:
        FeatureStoreError: it is none, damaged, or of another replacement model.
    """
    from attention_studio.core.feature_density import FeatureDensity
    from attention_studio.core.feature_store import FeatureStore, FeatureStoreError

    ctx.check()
    store = FeatureStore.open(folder)
    if crm is not None and not belongs(store, crm):
        about = store.about
        store.close()
        raise FeatureStoreError(
            f"{folder.name} is of another replacement model",
            (
                f"it has pages about modules or features that {crm.name} has not"
                if about.anonymous
                else f"it is of {about.crm_name} for {about.model_name}; {crm.name} is open"
            ),
            "open that replacement model first, or build dashboards of this one",
        )
    about = store.about
    try:
        times = {size.site: store.fired(size.site) for size in about.sites}
        labels = {
            f"{site.label}/F{index}": label.text
            for (site, index), label in store.labels.all().items()
        }
    except StudioError:
        store.close()
        raise
    of = about.dictionaries_id if crm is None else crm.dictionaries_id
    density = FeatureDensity(of, about.text_hash, about.n_tokens, times)
    return FoundStore(crm, store, density=density, labels=labels)


def find_store(
    ctx: WorkContext, crm: CompleteReplacementModel, folders: tuple[Path, ...]
) -> FoundStore:
    """Open the first store in some folders that is of a replacement model."""
    from attention_studio.core.feature_store import ABOUT

    refused: Optional[StudioError] = None
    for folder in folders:
        if not (folder / ABOUT).is_file():
            continue
        try:
            return open_store(ctx, crm, folder)
        except StudioError as error:
            refused = error
    return FoundStore(crm, None, refused)


def belongs(store: FeatureStore, crm: CompleteReplacementModel) -> bool:
    """Whether a store is of the weights of a replacement model and of its model; one that nothing
    is said of (it was imported) if the model has all of its modules and features."""
    about = store.about
    if not about.anonymous:
        return about.fits(crm.loaded.info.weights_hash, crm.dictionaries_id)
    return all(
        size.site in crm.sites and size.n_features <= crm.dictionaries.config_at(size.site)[0]
        for size in about.sites
    )


def imported_from(about: StoreAbout) -> str:
    """Where pages were imported from and what they cannot say, for people; "": gathered here."""
    if not about.partial:
        return ""
    told = f"Imported from {about.origin} ({about.crm_name})"
    if about.anonymous:
        told += ", which does not say of which weights: layers and numbers were compared"
    if about.lacks:
        told += f". Not in its files: {', '.join(about.lacks)}"
    return told


def close_store(_ctx: WorkContext, store: FeatureStore) -> None:
    """Let go of a store's files."""
    store.close()


# -- other tools ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class MovedStore:
    """Pages that came in or went out: where they are, how many, and what else there is to say."""

    folder: Path
    n_pages: int
    notes: tuple[str, ...]


def import_store(ctx: WorkContext, source: Path, folder: Path) -> MovedStore:
    """Make dashboards of another tool's pages.

    Raises:
        StudioError: the files are not what they should be, or the folder cannot be written; see
            ``core.interchange.feature_import``.
        Cancelled: through ``ctx``; nothing is left.
    """
    from attention_studio.core.interchange.feature_import import import_dashboards

    found = import_dashboards([source], folder, ctx=ctx)
    return MovedStore(folder, found.n_pages, found.notes)


def export_store(ctx: WorkContext, store: FeatureStore, tool: Tool, folder: Path) -> MovedStore:
    """Write dashboards as another tool reads them.

    Raises:
        StudioError: the folder is there already or cannot be written; see
            ``core.interchange.feature_export``.
        Cancelled: through ``ctx``; nothing is left.
    """
    from attention_studio.core.interchange.feature_export import export_dashboards

    # Of its own, since the window's may be closed while this goes on.
    mine = type(store).open(store.folder)
    try:
        found = export_dashboards(mine, tool, folder, ctx=ctx)
    finally:
        mine.close()
    return MovedStore(folder, found.n_pages, found.notes)


# -- building ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildRequest:
    """Dashboards that are to be built.

    Attributes:
        sources: of text, as ``core.corpus.read_texts`` takes them.
        tokens: at most so many; seq_len: in rows of so many.
        folder: where to.
        anew: forget a building there that was stopped, rather than go on with it.
    """

    sources: tuple[str, ...]
    tokens: int
    seq_len: int
    folder: Path
    anew: bool = False


@dataclass(frozen=True)
class BuildOutlook:
    """What building will take."""

    n_features: int
    n_tokens: int
    seconds: float
    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class BuiltStore:
    """A store that was built, and for which replacement model."""

    crm: CompleteReplacementModel
    folder: Path


_TRIAL_TOKENS, _MOST_ROWS = 2_048, 20_000


def build_outlook(
    ctx: WorkContext, crm: CompleteReplacementModel, request: BuildRequest
) -> BuildOutlook:
    """What building will take, from a try on the beginning of the text.

    Raises:
        CorpusError: there is no text, or a source cannot be used.
    """
    import numpy as np

    from attention_studio.core.corpus import build_corpus
    from attention_studio.core.feature_gathering import estimate_gathering

    begin = build_corpus(
        crm.loaded, _shortened(request.sources), request.seq_len,
        min(request.tokens, max(_TRIAL_TOKENS, 4 * request.seq_len)), ctx=ctx,
    )  # fmt: skip
    ctx.check()
    # As though the text went on as it begins.
    wanted = max(1, request.tokens // request.seq_len)
    rows = min(wanted, _MOST_ROWS)
    trial = begin.take(np.resize(np.arange(begin.n_sequences), rows))
    found = estimate_gathering(crm, trial, ctx=ctx)
    more = wanted / rows
    return BuildOutlook(
        found.n_features, int(found.n_tokens * more), found.seconds * more,
        found.disk_bytes, found.memory_bytes,
    )  # fmt: skip


def _shortened(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Of samples that the model is to write, a few are enough to try."""
    return tuple("samples:20" if one.startswith("samples:") else one for one in sources)


def build_store(
    ctx: WorkContext, crm: CompleteReplacementModel, request: BuildRequest
) -> BuiltStore:
    """Gather the features of a replacement model over a text into a store.

    Raises:
        StudioError: there is no text, the folder cannot be written, and the like; see
            ``core.feature_gathering.gather_features``.
        Cancelled: through ``ctx``; what was gathered stays for the next start.
    """
    from attention_studio.core.corpus import build_corpus
    from attention_studio.core.feature_gathering import gather_features

    corpus = build_corpus(crm.loaded, request.sources, request.seq_len, request.tokens, ctx=ctx)
    ctx.check()
    gather_features(crm, corpus, request.folder, ctx=ctx, anew=request.anew)
    return BuiltStore(crm, request.folder)
