"""Fills a feature store from a text: all features of all dictionaries in one pass of the model.

Three stages. The text is read, and of every feature the counts and the best examples so far are
kept (``feature_candidates``). Features are compared (``feature_neighbours``) and the tokens that
they promote are read off. The store is written beside its place and renamed into it.

Until then a folder ``NAME.gathering`` lies there (``gathering_checkpoint``). Whoever is stopped or
killed goes on from it and ends with the same pages: what is kept depends on the set of activations
alone, not on when it was written to the disk.

Memory: some hundred bytes a feature, a pass of the model over ``PASS_TOKENS`` tokens, and
``memory_mib`` for examples; when those are more they go to the disk.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_assembly import (
    GROUP_NAMES,
    assembled,
    chosen_examples,
    no_neighbours,
    padded,
)
from attention_studio.core.feature_candidates import (
    N_BINS,
    N_DRAWS,
    ExampleShape,
    LookAt,
    PartState,
)
from attention_studio.core.feature_columns import (
    N_NEIGHBOURS,
    N_WORDS,
    PART_FEATURES,
    Columns,
    bounds_of,
    part_name,
)
from attention_studio.core.feature_extractor import promoted_and_suppressed
from attention_studio.core.feature_firing import FiringReader
from attention_studio.core.feature_neighbours import DecoderFile, FiringSample, Nearest
from attention_studio.core.feature_store_about import SiteSize, StoreAbout
from attention_studio.core.feature_store_writing import StoreWriter, check_labels, store_folder
from attention_studio.core.gathering_checkpoint import (
    GatheringError,
    GatheringFolder,
    Progress,
)
from attention_studio.core.gathering_settings import GatheringSettings
from attention_studio.core.global_statistics import dictionaries_hash
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import explain_write_errors
from attention_studio.utils.locks import FolderLock
from attention_studio.utils.progress import WorkContext

__all__ = [
    "GatheringError",
    "GatheringEstimate",
    "GatheringSettings",
    "estimate_gathering",
    "gather_features",
    "gathering_folder",
]

_MOST_FIRINGS = 8_000_000
_MOST_PAIRS, _PAIRS_PER_FEATURE = 500_000_000, 20_000
_TRIAL_ROWS = 4
_LOCK = "gathering.lock"
_EXAMPLE_BYTES = 120
_PAGE_BYTES = 600
_PAGE_SECONDS = 4e-4
_STATE_BYTES = 4 * N_BINS + 4 * N_DRAWS + 18


@dataclass(frozen=True)
class GatheringEstimate:
    """What gathering will take: seconds, bytes on the disk while it runs, bytes of main memory
    beyond those of the model and its dictionaries; of so many features and positions."""

    seconds: float
    disk_bytes: int
    memory_bytes: int
    n_features: int
    n_tokens: int


def gathering_folder(folder: Path) -> Path:
    """Where a run that fills ``folder`` keeps what it has so far."""
    return folder.with_name(f"{folder.name}.gathering")


def estimate_gathering(
    crm: CompleteReplacementModel,
    corpus: TokenCorpus,
    settings: Optional[GatheringSettings] = None,
    ctx: Optional[WorkContext] = None,
) -> GatheringEstimate:
    """Try a few rows of the text, and say what all of it will take.

    Raises:
        CorpusError: there is no position in the text that dictionaries see.
        Cancelled: through ``ctx``.
    """
    settings, ctx = settings or GatheringSettings(), ctx or WorkContext()
    rows = np.arange(min(_TRIAL_ROWS, corpus.n_sequences))
    trial = corpus.take(rows)
    parts = _parts(crm)
    n_features = parts[-1].first + parts[-1].n
    n_tokens = min(corpus.n_kept, settings.max_tokens or corpus.n_kept)
    shape = _shape(corpus, settings)
    firings, held = 0, 0
    started = time.perf_counter()
    states = {(part.site, part.number): PartState(part.n, part.first, shape) for part in parts}
    for found in FiringReader(crm, trial, settings.sink_factor).passes(ctx=ctx):
        for firing in found.firings:
            firings += len(firing.events.latent)
            for part in parts:
                if part.site == firing.site:
                    events = firing.events.of(part.begin, part.begin + part.n)
                    states[part.site, part.number].add(events, part.looks(firing.looks))
    held = sum(state.n_bytes for state in states.values())
    seconds = (time.perf_counter() - started) * n_tokens / max(trial.n_kept, 1)
    d, vocabulary = crm.adapter.d_model, crm.adapter.vocab_size
    products = n_features * d * (vocabulary + (n_features if settings.neighbours else 0))
    seconds += products / _products_per_second(crm, d) + n_features * _PAGE_SECONDS
    per_feature = settings.strongest + N_DRAWS * settings.per_interval
    slots = min(n_features * per_feature, 2 * firings * n_tokens // max(trial.n_kept, 1))
    disk = 2 * slots * _EXAMPLE_BYTES + n_features * (_PAGE_BYTES + _STATE_BYTES + 4 * d)
    memory = int(settings.memory_mib * (1 << 20)) + n_features * _STATE_BYTES + 2 * held
    return GatheringEstimate(seconds, int(disk), memory, n_features, n_tokens)


def gather_features(
    crm: CompleteReplacementModel,
    corpus: TokenCorpus,
    folder: Path,
    settings: Optional[GatheringSettings] = None,
    ctx: Optional[WorkContext] = None,
    anew: bool = False,
) -> StoreAbout:
    """Gather all features over a text and write them to the store ``folder``, replacing what is
    there; labels stay where they are of the same replacement model.

    A run that was stopped is taken up where it was; a cancelled one writes where it stands.

    Args:
        crm: whose features.
        corpus: the text.
        folder: the store to be.
        settings: what is gathered.
        ctx: for progress and cancelling.
        anew: forget a run that was stopped.

    Raises:
        GatheringError: there are no features, or a run that was stopped is of something else.
        CorpusError: there is no position in the text that dictionaries see.
        FeatureFiringError: an activation is not finite.
        FolderHeldError: somebody gathers there already.
        FileWriteError: the disk is full, and the like.
        FeatureStoreError: the folder holds labels of another replacement model.
        Cancelled: through ``ctx``.
    """
    if not crm.sites:
        raise GatheringError(f"{crm.name} has no features", "it has no dictionary")
    work = gathering_folder(folder)
    lock = FolderLock(work, _LOCK)
    try:
        if anew:
            with explain_write_errors(work):
                _empty(work)
        run = _Gathering(crm, corpus, work, settings or GatheringSettings(), ctx or WorkContext())
        about = run.gather(folder)
        with suppress(OSError):  # the store is there, whatever stays behind
            _empty(work)  # while it is held: afterwards it may be somebody else's
    finally:
        lock.release()
    with suppress(OSError):  # somebody else has begun there
        work.rmdir()
    return about


def _empty(work: Path) -> None:
    """Remove what a run keeps in its folder, but not the lock."""
    for path in work.iterdir():
        if path.is_file() and path.name != _LOCK:
            path.unlink()


@dataclass(frozen=True)
class _Part:
    """Some features of one dictionary: latents ``begin`` to ``begin + n`` of ``site``; ``first`` is
    the number of the first among all features."""

    site: Site
    number: int
    begin: int
    n: int
    first: int

    @property
    def name(self) -> str:
        return Path(part_name(self.site.name, self.number)).stem

    def looks(self, looks: Optional[LookAt]) -> Optional[LookAt]:
        """Where features look, latents counted from this part's first."""
        if looks is None or not self.begin:
            return looks
        return lambda latent, place, begin: looks(latent + self.begin, place, begin)


def _parts(crm: CompleteReplacementModel) -> list[_Part]:
    parts = []
    total = 0
    for site in crm.sites:
        size = crm.dictionaries.config_at(site)[0]
        for number, begin in enumerate(range(0, size, PART_FEATURES)):
            n = min(PART_FEATURES, size - begin)
            parts.append(_Part(site, number, begin, n, total))
            total += n
    return parts


def _shape(corpus: TokenCorpus, settings: GatheringSettings) -> ExampleShape:
    return ExampleShape(
        seq_len=corpus.seq_len,
        strongest=settings.strongest,
        per_interval=settings.per_interval,
        before=settings.before,
        after=settings.after,
        seed=settings.seed,
    )


def _products_per_second(crm: CompleteReplacementModel, d: int) -> float:
    """Multiplications a second in a product of matrices as large as those that compare features."""
    a = torch.ones(256, d, device=crm.adapter.device)
    b = torch.ones(2048, d, device=crm.adapter.device)
    started = time.perf_counter()
    float((a @ b.T)[0, 0])
    return 256 * 2048 * d / max(time.perf_counter() - started, 1e-6)


class _Gathering:
    """One run."""

    def __init__(
        self,
        crm: CompleteReplacementModel,
        corpus: TokenCorpus,
        work: Path,
        settings: GatheringSettings,
        ctx: WorkContext,
    ) -> None:
        self.crm, self.corpus, self.work = crm, corpus, work
        self.settings, self.ctx = settings, ctx
        self.parts = _parts(crm)
        self.n_features = self.parts[-1].first + self.parts[-1].n
        self.first_of = {part.site: part.first for part in reversed(self.parts)}
        self.shape = _shape(corpus, settings)
        self.limit = min(corpus.n_kept, settings.max_tokens or corpus.n_kept)
        self.states = [PartState(part.n, part.first, self.shape) for part in self.parts]
        share = settings.firing_tokens / max(self.limit, 1) if settings.neighbours else 0.0
        self.sample = FiringSample(share, _MOST_FIRINGS, settings.seed)
        info = crm.loaded.info
        self.about = StoreAbout(
            model_name=info.name,
            model_hash=info.weights_hash,
            crm_name=crm.name,
            crm_hash=crm.fingerprint or dictionaries_hash(crm.dictionaries),
            text_hash=corpus.text_hash,
            n_tokens=0,
            sites=tuple(
                SiteSize(site.layer, site.kind, crm.dictionaries.config_at(site)[0])
                for site in crm.sites
            ),
            n_rows=corpus.n_sequences,
            seq_len=corpus.seq_len,
            settings=settings.of_pages(),
            group_names=GROUP_NAMES,
        )
        identity = {
            "model": self.about.model_hash,
            "replacement model": self.about.crm_hash,
            "text": corpus.text_hash,
            "modules": [[size.site.label, size.n_features] for size in self.about.sites],
            **self.about.settings,
        }
        self.folder = GatheringFolder(work, identity)
        self.progress = Progress()

    def gather(self, folder: Path) -> StoreAbout:
        check_labels(folder, self.about)  # before the work, not after it
        self.progress = self.folder.read()
        self._read()
        firing, near = self._compare()
        return self._write(folder, firing, near)

    # ---- reading ---------------------------------------------------------------------------------

    def _read(self) -> None:
        medians = self._restore() if self.progress.number else None
        reader = FiringReader(self.crm, self.corpus, self.settings.sink_factor, medians)
        saved, pause = time.monotonic(), self.settings.checkpoint_seconds
        of_site: dict[Site, list[int]] = {}
        for i, part in enumerate(self.parts):
            of_site.setdefault(part.site, []).append(i)
        seen = self.progress.n_tokens + self.progress.n_sinks
        if seen >= self.limit or self.progress.rows_done >= self.corpus.n_sequences:
            return
        fresh = False
        try:
            for found in reader.passes(self.progress.rows_done, self.limit - seen, self.ctx):
                self.sample.meet(found.places)
                for firing in found.firings:
                    events = firing.events
                    self.sample.add(events.place, events.latent + self.first_of[firing.site])
                    for i in of_site[firing.site]:
                        part = self.parts[i]
                        mine = events.of(part.begin, part.begin + part.n)
                        self.states[i].add(mine, part.looks(firing.looks))
                self.progress = replace(
                    self.progress,
                    rows_done=found.rows.stop,
                    n_tokens=self.progress.n_tokens + len(found.places),
                    n_sinks=self.progress.n_sinks + found.n_sinks,
                )
                fresh = True
                held = sum(state.n_bytes for state in self.states)
                if held > self.settings.memory_mib * (1 << 20) or time.monotonic() - saved > pause:
                    began = time.monotonic()
                    self._checkpoint(reader.medians)
                    fresh, saved = False, time.monotonic()
                    pause = max(self.settings.checkpoint_seconds, 20 * (saved - began))
        except Cancelled:
            if fresh:
                self._checkpoint(reader.medians)
            raise
        self._checkpoint(reader.medians)

    def _checkpoint(self, medians: Optional[NDArray[np.float64]]) -> None:
        number = self.progress.number + 1
        files = dict(self.progress.files)
        state: Columns = {f"sample.{n}": c for n, c in self.sample.columns().items()}
        state["medians"] = np.zeros(0) if medians is None else medians
        for part, mine in zip(self.parts, self.states, strict=True):
            if mine.has_new:
                stored = self.folder.candidates(self.progress, part.name)
                files[part.name] = self.folder.save_candidates(
                    number, part.name, mine.settle(stored)
                )
            for name, column in mine.statistics().items():
                state[f"{part.name}.{name}"] = column
        self.progress = replace(self.progress, number=number, files=files)
        self.folder.commit(self.progress, state)

    def _restore(self) -> Optional[NDArray[np.float64]]:
        state = self.folder.state(self.progress)
        try:
            self.sample.restore({name: state[f"sample.{name}"] for name in self.sample.columns()})
            for part, mine in zip(self.parts, self.states, strict=True):
                columns = {name: state[f"{part.name}.{name}"] for name in mine.statistics()}
                mine.restore(columns, self.folder.candidates(self.progress, part.name))
        except KeyError as error:
            raise GatheringError(
                f"The run in {self.work} cannot be taken up",
                f"it has no {error}",
                "begin anew",
            ) from error
        medians = state["medians"]
        return medians if len(medians) else None

    # ---- comparing -------------------------------------------------------------------------------

    def _compare(self) -> tuple[Nearest, DecoderFile]:
        """Who fires with whom; and all decoders, on the disk."""
        none = Nearest(
            np.full((self.n_features, N_NEIGHBOURS), -1, dtype=np.int64),
            np.zeros((self.n_features, N_NEIGHBOURS), dtype=np.float32),
        )
        if self.settings.neighbours:
            text = "Comparing when features fire"
            self.ctx.progress(0, self.n_features, text)
            pairs = max(_MOST_PAIRS, _PAIRS_PER_FEATURE * self.n_features)
            parts = self.sample.nearest(self.n_features, N_NEIGHBOURS, pairs, self.ctx)
            for first, found in parts:
                end = first + len(found.feature)
                none.feature[first:end], none.score[first:end] = found.feature, found.score
                self.ctx.progress(end, self.n_features, text)
        adapter = self.crm.adapter
        path = self.work / "decoders.f32"
        with explain_write_errors(path), path.open("wb") as stream:
            for part in self.parts:
                self.ctx.check()
                latents = SiteLatents(self.crm.dictionaries, part.site)
                rows = latents.written(slice(part.begin, part.begin + part.n))
                rows.float().cpu().numpy().tofile(stream)
        return none, DecoderFile(path, self.n_features, adapter.d_model, adapter.device)

    def _said(self, part: _Part, firing: Nearest, decoders: DecoderFile) -> Columns:
        """The tokens that the features of a part promote, and their neighbours. Kept on the disk
        for a run that is stopped meanwhile."""
        name = f"said_{part.name}.safetensors"
        if (self.work / name).exists():
            return self.folder.load(name)
        here = slice(part.first, part.first + part.n)
        k = min(N_WORDS, self.crm.adapter.vocab_size)
        rows = decoders.rows(here.start, here.stop).to(self.crm.adapter.device)
        promoted, suppressed = promoted_and_suppressed(self.crm.adapter, rows, k)
        columns: Columns = no_neighbours(part.n)
        for side, found in (("promoted", promoted), ("suppressed", suppressed)):
            columns[f"{side}_word"] = padded(found.tokens.cpu().numpy(), -1)
            columns[f"{side}_effect"] = padded(found.effects.float().cpu().numpy(), 0.0)
        if self.settings.neighbours:
            near = decoders.nearest(here.start, here.stop, N_NEIGHBOURS, self.ctx)
            together = Nearest(firing.feature[here], firing.score[here])
            columns |= self._named("decoder", near) | self._named("firing", together)
        self.folder.save(name, columns)
        return columns

    def _named(self, side: str, near: Nearest) -> Columns:
        """Numbers among all features, as modules and latents."""
        sites = list(self.first_of)
        firsts = sorted(self.first_of.values())
        sites.sort(key=self.first_of.__getitem__)
        which = np.maximum(np.searchsorted(firsts, near.feature, side="right") - 1, 0)
        numbers = np.array([site.number for site in sites])
        there = near.feature >= 0
        return {
            f"{side}_site": np.where(there, numbers[which], -1),
            f"{side}_index": np.where(there, near.feature - np.array(firsts)[which], 0),
            f"{side}_score": near.score,
        }

    # ---- writing ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _write(self, folder: Path, firing: Nearest, decoders: DecoderFile) -> StoreAbout:
        corpus = self.corpus
        text_start, text = self._text()
        loaded = self.crm.loaded
        strings = loaded.token_strings(list(range(self.crm.adapter.vocab_size)))
        about = replace(
            self.about,
            n_tokens=self.progress.n_tokens,
            n_left_out=self.progress.n_sinks,
            n_firing_tokens=self.sample.n_tokens,
        )
        with store_folder(folder, about) as staging:
            writer = StoreWriter(staging, about.sites, text, strings)
            try:
                for i, (part, state) in enumerate(zip(self.parts, self.states, strict=True)):
                    self.ctx.check()
                    self.ctx.progress(i, len(self.parts), "Writing pages")
                    statistics = state.statistics()
                    top, drawn = self.folder.candidates(self.progress, part.name)
                    examples, heading = chosen_examples(
                        statistics, top, drawn, self.shape, part.first
                    )
                    columns = assembled(
                        statistics, examples, heading, self.shape, text_start, corpus.lengths
                    )
                    said = self._said(part, firing, decoders)
                    writer.part(part.site, part.number, {**columns, **said})
                about = writer.finish(about)
            finally:
                writer.close()
        return about

    def _text(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where in the store's text each row begins, and that text: the rows with examples."""
        corpus = self.corpus
        used = np.zeros(corpus.n_sequences, dtype=bool)
        for part in self.parts:
            for found in self.folder.candidates(self.progress, part.name):
                used[found.place // corpus.seq_len] = True
        lengths = np.where(used, corpus.lengths, 0)
        starts = bounds_of(lengths)[:-1]
        inside = np.arange(corpus.seq_len) < lengths[:, None]
        return starts, corpus.tokens[inside].astype(np.int32)
