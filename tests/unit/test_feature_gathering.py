"""Gathered pages against every activation of a tiny model, listed one by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attention_studio.core import (
    feature_candidates,
    feature_firing,
    feature_gathering,
    feature_neighbours,
    feature_pages,
    feature_store_about,
    feature_store_writing,
)
from attention_studio.core.active_features import N_LEFT_OUT, latents_at
from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.density_measurement import measure_density
from attention_studio.core.feature_assembly import GROUP_NAMES, N_INTERVALS, chosen_examples
from attention_studio.core.feature_candidates import N_BINS, N_DRAWS, row_hash
from attention_studio.core.feature_columns import Columns
from attention_studio.core.feature_density import density_of
from attention_studio.core.feature_extractor import promoted_tokens
from attention_studio.core.feature_gathering import (
    GatheringError,
    GatheringSettings,
    estimate_gathering,
    gather_features,
    gathering_folder,
)
from attention_studio.core.feature_neighbours import LEAST_TOGETHER
from attention_studio.core.feature_records import FeaturePage
from attention_studio.core.feature_store import FeatureStore
from attention_studio.core.gathering_checkpoint import GatheringFolder, Progress
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.locks import FolderHeldError, FolderLock
from attention_studio.utils.progress import WorkContext
from tests.crms import COMPLETE, CROSS, complete

SEQ_LEN, ROWS = 12, 31
FEW_ROWS = 15
SMALL = GatheringSettings(
    strongest=4, per_interval=2, before=3, after=2, checkpoint_seconds=0, memory_mib=0.001
)
MIXES: dict[str, dict[str, Any]] = {
    "complete": COMPLETE,
    "cross": CROSS,
    "relu": {"mlp": {"activation": "relu"}},
}
TWO_SITES = {"mlp": {"layers": (0,)}, "attention": {"layers": (1,)}}


def corpus_of(crm: CompleteReplacementModel, rows: int = ROWS) -> TokenCorpus:
    """Random words; a start token amid the second row, and a last row that is short."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(4, crm.adapter.vocab_size, (rows, SEQ_LEN)).astype(np.int32)
    tokens[:, 0] = 0
    tokens[1, 6] = 0
    lengths = np.full(rows, SEQ_LEN, dtype=np.int32)
    lengths[-1] = 7
    tokens[-1, 7:] = 0
    return TokenCorpus.of(tokens, lengths, 0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes, and several parts of a dictionary. Nobody pulls the plug of the machine here,
    so no file waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(feature_firing, "PASS_TOKENS", 4 * SEQ_LEN)
    for module in (feature_gathering, feature_pages, feature_store_about, feature_store_writing):
        monkeypatch.setattr(module, "PART_FEATURES", 14)
    monkeypatch.setattr(feature_neighbours, "_COLUMNS", 17)
    monkeypatch.setattr(feature_neighbours, "_ROWS", 4)
    monkeypatch.setattr(feature_neighbours, "_CELLS", 1000)
    monkeypatch.setattr(feature_neighbours, "_COUNTED_AT_ONCE", 64)


Fired = dict[tuple[Site, int], dict[int, float]]


def every_activation(
    crm: CompleteReplacementModel, corpus: TokenCorpus, left_out: frozenset[int] = frozenset()
) -> Fired:
    """By feature and place, row by row."""
    found: Fired = {}
    kept = corpus.kept()
    for row in range(corpus.n_sequences):
        record = crm.adapter.record(corpus.tokens[row, : corpus.lengths[row]].tolist())
        for site in crm.sites:
            latents, _ = latents_at(crm.adapter, crm.dictionaries, record, site)
            rows = zip(*(column.tolist() for column in latents), strict=True)
            for token, latent, value in rows:
                place = row * SEQ_LEN + token + N_LEFT_OUT
                if kept[row, token + N_LEFT_OUT] and place not in left_out:
                    found.setdefault((site, latent), {})[place] = value
    return found


@pytest.fixture(scope="module", params=list(MIXES))
def crm(request: pytest.FixtureRequest) -> CompleteReplacementModel:
    return complete("llama", MIXES[request.param])


@pytest.fixture(scope="module")
def small() -> CompleteReplacementModel:
    """For what holds of any dictionaries: one of an MLP, one of an attention."""
    return complete("llama", TWO_SITES)


@pytest.fixture(scope="module")
def gathered(crm: CompleteReplacementModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store, gathered once for all who only read it."""
    folder = tmp_path_factory.mktemp("gathered") / "store"
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        gather_features(crm, corpus_of(crm), folder, SMALL)
    assert not gathering_folder(folder).exists()
    return folder


@pytest.fixture
def store(gathered: Path) -> Iterator[FeatureStore]:
    found = FeatureStore.open(gathered)
    yield found
    found.close()


@pytest.fixture(scope="module")
def fired(crm: CompleteReplacementModel) -> Fired:
    return every_activation(crm, corpus_of(crm))


def pages(store: FeatureStore) -> Iterator[FeaturePage]:
    for site, index in store.ids(limit=100_000):
        yield store.page(site, index)


def around(peak: int, values: dict[int, float], corpus: TokenCorpus) -> list[float]:
    row, at = divmod(peak, SEQ_LEN)
    begin, end = max(at - SMALL.before, 0), min(at + SMALL.after + 1, int(corpus.lengths[row]))
    return [values.get(row * SEQ_LEN + p, 0.0) for p in range(begin, end)]


# ---- against the obvious -------------------------------------------------------------------------


def test_counts_and_histograms(
    store: FeatureStore, crm: CompleteReplacementModel, fired: Fired
) -> None:
    corpus = corpus_of(crm)
    assert store.about.n_tokens == corpus.n_kept and store.about.n_left_out == 0
    n_dead = 0
    for page in pages(store):
        values = np.array(list(fired.get((page.site, page.index), {}).values()))
        assert page.n_fired == len(values)
        assert page.density == len(values) / corpus.n_kept
        n_dead += page.dead
        assert page.dead == (not len(values))
        assert page.max_activation == pytest.approx(values.max(initial=0.0), rel=1e-4)
        edges = page.histogram.edges
        assert page.histogram.counts.sum() == len(values)
        if len(values):
            assert edges[0] == 0 and edges[-2] <= page.max_activation < edges[-1]
            assert N_BINS // 2 < len(edges) - 1 <= N_BINS
            nudged = [np.histogram(values * f, edges)[0] for f in (1 - 1e-5, 1, 1 + 1e-5)]
            least, most = np.min(nudged, 0) - 1, np.max(nudged, 0) + 1
            assert ((page.histogram.counts >= least) & (page.histogram.counts <= most)).all()
            assert np.abs(page.histogram.counts - nudged[1]).sum() <= 2
    assert n_dead < store.about.n_features


def test_the_strongest_examples(
    store: FeatureStore, crm: CompleteReplacementModel, fired: Fired
) -> None:
    corpus = corpus_of(crm)
    for page in pages(store):
        values = fired.get((page.site, page.index), {})
        best: dict[int, int] = {}
        for place in sorted(values, key=lambda p: (-values[p], p)):
            best.setdefault(place // SEQ_LEN, place)
        expected = list(best.values())[: SMALL.strongest]
        if not expected:
            assert not page.groups
            continue
        group = page.groups[0]
        assert group.name == "Strongest" and group.low is None
        assert [e.sequence * SEQ_LEN + e.start + e.peak for e in group.examples] == expected
        for example, place in zip(group.examples, expected, strict=True):
            assert example.values == pytest.approx(around(place, values, corpus), rel=1e-4)
            row = corpus.tokens[example.sequence]
            ids = row[example.start : example.start + len(example.tokens)].tolist()
            assert list(example.tokens) == crm.loaded.token_strings(ids)


def test_examples_of_intervals(
    store: FeatureStore, crm: CompleteReplacementModel, fired: Fired
) -> None:
    corpus = corpus_of(crm)
    first, shown = {}, 0
    for size in store.about.sites:
        first[size.site] = shown
        shown += size.n_features
    n_groups = 0
    for page in pages(store):
        values = fired.get((page.site, page.index), {})
        if not values:
            continue
        number = np.array([first[page.site] + page.index])
        top = max(values.values())
        reach = 2.0 ** np.frexp(np.float32(top))[1]
        drawn: list[tuple[int, int]] = []
        best: dict[int, int] = {}
        for place in sorted(values, key=lambda p: (-values[p], p)):
            best.setdefault(place // SEQ_LEN, place)
        strongest = [
            (int(row_hash(number, np.array([row]), 0)[0]), place)
            for row, place in list(best.items())[: SMALL.strongest]
        ]
        for part in range(N_DRAWS):
            low, high = reach * part / N_DRAWS, reach * (part + 1) / N_DRAWS
            rows: dict[int, int] = {}
            for place in sorted(values):
                if low <= values[place] < high:
                    rows.setdefault(place // SEQ_LEN, place)
            hashed = sorted((int(row_hash(number, np.array([r]), 0)[0]), r) for r in rows)
            drawn += [(h, rows[r]) for h, r in hashed[: SMALL.per_interval]]
        expected: dict[str, list[int]] = {}
        for i in reversed(range(N_INTERVALS)):
            low, high = top * i / N_INTERVALS, top * (i + 1) / N_INTERVALS
            chosen: dict[int, int] = {}
            for _, place in sorted(drawn):
                if low < values[place] <= high:
                    chosen.setdefault(place // SEQ_LEN, place)
            if not chosen:
                chosen = {
                    place // SEQ_LEN: place
                    for _, place in sorted(strongest)
                    if low < values[place] <= high
                }
            some = list(chosen.values())[: SMALL.per_interval]
            if some:
                name = GROUP_NAMES[N_INTERVALS - i]
                expected[name] = sorted(some, key=lambda p: (-values[p], p))
        found = {
            group.name: [e.sequence * SEQ_LEN + e.start + e.peak for e in group.examples]
            for group in page.groups[1:]
        }
        assert found == expected
        n_groups += len(found)
        for group in page.groups[1:]:
            assert group.low is not None and group.high is not None
            for example in group.examples:
                assert group.low * 0.9999 < example.value <= group.high * 1.0001
                place = example.sequence * SEQ_LEN + example.start + example.peak
                assert example.values == pytest.approx(around(place, values, corpus), rel=1e-4)
    assert n_groups > 20


def test_where_attention_features_look(store: FeatureStore, crm: CompleteReplacementModel) -> None:
    corpus, checked = corpus_of(crm), 0

    @cache
    def inputs(row: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        record = crm.adapter.record(corpus.tokens[row, : corpus.lengths[row]].tolist())
        norm = crm.adapter.attention_norm(layer)
        x = norm.apply(record.resid_pre[layer], record.attention_scale[layer])
        return x, crm.dictionaries.lorsas[layer].pattern(x)

    for page in pages(store):
        for example in (e for group in page.groups for e in group.examples):
            if page.site.kind == "mlp":
                assert example.looks_at is None
                continue
            lorsa = crm.dictionaries.lorsas[page.site.layer]
            x, pattern = inputs(example.sequence, page.site.layer)
            at = example.start + example.peak
            looked = lorsa.z_pattern(x, page.index, pattern)[at].detach().numpy()
            assert example.looks_at is not None
            inside = looked[example.start : example.start + len(example.tokens)]
            assert example.looks_at == pytest.approx(inside, abs=1e-4)
            assert example.looks_before == pytest.approx(looked[: example.start].sum(), abs=1e-4)
            total = example.looks_at.sum() + example.looks_before
            assert total == pytest.approx(example.value, rel=1e-3)
            checked += 1
    assert checked > 0 or not crm.dictionaries.lorsas


def test_tokens_and_neighbours(
    store: FeatureStore, crm: CompleteReplacementModel, fired: Fired
) -> None:
    every = list(store.ids(limit=100_000))
    rows = torch.cat(
        [SiteLatents(crm.dictionaries, site).written(slice(None)) for site in crm.sites]
    )
    units = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    cosines = units @ units.T
    tops = [promoted_tokens(crm.adapter, rows, 8, side) for side in (False, True)]
    n_kin = 0
    for number, (site, index) in enumerate(every):
        page = store.page(site, index)
        for found, top in zip((page.promoted, page.suppressed), tops, strict=True):
            words = crm.loaded.token_strings(top.tokens[number].tolist())
            assert [word for word, _ in found] == words
            assert [effect for _, effect in found] == pytest.approx(
                top.effects[number].tolist(), rel=1e-4
            )
        others = np.delete(np.arange(len(every)), number)
        order = others[np.argsort(-cosines[number, others], kind="stable")][:8]
        assert [n.score for n in page.near_by_decoder] == pytest.approx(
            cosines[number, order].tolist(), abs=1e-5
        )
        assert [(n.site, n.index) for n in page.near_by_decoder] == [every[i] for i in order]
        mine = set(fired.get((site, index), {}))
        kin = []
        for other, feature in enumerate(every):
            theirs = set(fired.get(feature, {}))
            if other != number and len(mine & theirs) >= LEAST_TOGETHER:
                kin.append((-len(mine & theirs) / np.sqrt(len(mine) * len(theirs)), other))
        kin.sort()
        n_kin += len(kin)
        assert [n.score for n in page.near_by_firing] == pytest.approx([-k[0] for k in kin[:8]])
        firm = [every[o] for score, o in kin[:8] if len(kin) <= 8 or score < kin[8][0]]
        assert {(n.site, n.index) for n in page.near_by_firing} >= set(firm)
    assert n_kin > 10


def test_norm_sinks_are_left_out_and_counted(tmp_path: Path) -> None:
    crm = complete("llama", TWO_SITES)
    corpus = corpus_of(crm)
    huge = int(corpus.tokens[3, 5])
    with torch.no_grad():
        crm.adapter.model.get_input_embeddings().weight[huge] *= 400.0
    sinks = frozenset(np.flatnonzero((corpus.tokens == huge) & corpus.kept()).tolist())
    assert 2 <= len(sinks) < 20
    gather_features(crm, corpus, tmp_path / "s", SMALL)
    fired = every_activation(crm, corpus, sinks)
    store = FeatureStore.open(tmp_path / "s")
    assert store.about.n_left_out == len(sinks)
    assert store.about.n_tokens == corpus.n_kept - len(sinks)
    for site, index in store.ids(limit=100_000):
        assert store.page(site, index).n_fired == len(fired.get((site, index), {}))
    store.close()
    every = GatheringSettings(sink_factor=0, neighbours=False)
    assert gather_features(crm, corpus, tmp_path / "s", every).n_left_out == 0


def test_a_limit_on_tokens(small: CompleteReplacementModel, tmp_path: Path) -> None:
    limit = GatheringSettings(max_tokens=50, neighbours=False)
    about = gather_features(small, corpus_of(small), tmp_path / "s", limit)
    assert about.n_tokens == 50
    store = FeatureStore.open(tmp_path / "s")
    corpus = corpus_of(small)
    seen = set(np.flatnonzero(corpus.kept())[:50].tolist())
    fired = every_activation(small, corpus)
    for site, index in store.ids(limit=100_000):
        page = store.page(site, index)
        assert page.n_fired == len(seen & set(fired.get((site, index), {})))
        assert not page.near_by_decoder and not page.near_by_firing
    store.close()


def test_densities_are_those_that_are_counted_alone(
    store: FeatureStore, crm: CompleteReplacementModel
) -> None:
    counted, kept = measure_density(crm, corpus_of(crm)), density_of(store)
    assert (kept.text_hash, kept.n_tokens) == (counted.text_hash, counted.n_tokens)
    assert set(kept.times) == set(counted.times)
    for site, times in counted.times.items():
        assert kept.times[site].tolist() == times.tolist()
        assert kept.of(site, 3) == store.page(site, 3).density


def test_few_tokens_are_compared_where_firings_are_many(
    small: CompleteReplacementModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_gathering, "_MOST_FIRINGS", 400)
    about = gather_features(small, corpus_of(small), tmp_path / "s", SMALL)
    assert 0 < about.n_firing_tokens < about.n_tokens / 2


# ---- stopped, killed, taken up -------------------------------------------------------------------


class Stops(WorkContext):
    """Is cancelled at a check."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def check(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.cancel()
        super().check()


def assert_same_store(a: Path, b: Path) -> None:
    names = sorted(path.name for path in a.iterdir() if path.name != "about.json")
    assert names == sorted(path.name for path in b.iterdir() if path.name != "about.json")
    for name in names:
        if name.endswith(".safetensors"):
            columns = load_file(b / name)
            for key, column in load_file(a / name).items():
                assert column.tobytes() == columns[key].tobytes(), f"{key} of {name}"
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize(
    ("mix", "every"),
    [
        ("two sites", 3),
        *(pytest.param(mix, every, marks=pytest.mark.slow) for mix in MIXES for every in (1, 7)),
    ],
)
def test_what_is_cancelled_again_and_again_ends_the_same(
    mix: str, every: int, tmp_path: Path
) -> None:
    crm = complete("llama", {**MIXES, "two sites": TWO_SITES}[mix])
    corpus = corpus_of(crm, FEW_ROWS)
    gather_features(crm, corpus, tmp_path / "whole", GatheringSettings(memory_mib=64))
    at, stopped = 1, 0
    for _ in range(500):
        ctx = Stops(at)
        try:
            gather_features(crm, corpus, tmp_path / "cut", GatheringSettings(), ctx)
            break
        except Cancelled:
            stopped += 1
            at += every
            assert not (tmp_path / "cut").exists()
    assert stopped >= 3
    assert_same_store(tmp_path / "whole", tmp_path / "cut")


def gather_until_killed(folder: str, checkpoint: int) -> None:
    """In a process of its own: is killed when all files of a checkpoint lie there but nothing says
    yet that they count."""
    patch = pytest.MonkeyPatch()
    cut_small(patch)
    commit = GatheringFolder.commit

    def killed(self: GatheringFolder, progress: Progress, state: Columns) -> None:
        if progress.number == checkpoint:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, progress, state)

    patch.setattr(GatheringFolder, "commit", killed)
    crm = complete("llama", TWO_SITES)
    gather_features(crm, corpus_of(crm, FEW_ROWS), Path(folder), SMALL)


def test_what_is_killed_ends_the_same(small: CompleteReplacementModel, tmp_path: Path) -> None:
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("processes cannot be killed here")
    script = "import sys; from tests.unit.test_feature_gathering import gather_until_killed as g; "
    script += "g(sys.argv[1], 3)"
    arguments = [sys.executable, "-c", script, str(tmp_path / "cut")]
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    work = gathering_folder(tmp_path / "cut")
    progress = json.loads((work / "progress.json").read_text())["progress"]
    assert progress["number"] == 2 and 0 < progress["rows_done"] < FEW_ROWS
    assert len(list(work.glob("mlp_00_00000_*"))) == 2 and not (tmp_path / "cut").exists()
    corpus = corpus_of(small, FEW_ROWS)
    gather_features(small, corpus, tmp_path / "cut", SMALL)
    assert not work.exists()
    gather_features(small, corpus, tmp_path / "whole", SMALL)
    assert_same_store(tmp_path / "whole", tmp_path / "cut")


def test_a_torn_checkpoint_is_not_taken_up(small: CompleteReplacementModel, tmp_path: Path) -> None:
    corpus, folder = corpus_of(small), tmp_path / "s"
    with pytest.raises(Cancelled):
        gather_features(small, corpus, folder, SMALL, Stops(4))
    work = gathering_folder(folder)
    other = GatheringSettings(strongest=5)
    with pytest.raises(GatheringError, match="strongest"):
        gather_features(small, corpus, folder, other)
    state = next(work.glob("state_*.safetensors"))
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(GatheringError, match="taken up"):
        gather_features(small, corpus, folder, SMALL)
    assert gather_features(small, corpus, folder, other, anew=True).n_tokens == corpus.n_kept


def test_two_do_not_gather_at_once(small: CompleteReplacementModel, tmp_path: Path) -> None:
    lock = FolderLock(gathering_folder(tmp_path / "s"), "gathering.lock")
    with pytest.raises(FolderHeldError):
        gather_features(small, corpus_of(small), tmp_path / "s", SMALL)
    lock.release()


def test_what_somebody_else_begins_afterwards_is_left_alone(
    small: CompleteReplacementModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the lock is released the folder may be another run's."""
    theirs = gathering_folder(tmp_path / "s") / "progress.json"
    release = FolderLock.release

    def released(self: FolderLock) -> None:
        release(self)
        theirs.write_text("theirs")

    monkeypatch.setattr(FolderLock, "release", released)
    gather_features(small, corpus_of(small, 4), tmp_path / "s", GatheringSettings(neighbours=False))
    assert [path.name for path in theirs.parent.iterdir()] == ["progress.json"]


def test_labels_outlive_a_rebuild(small: CompleteReplacementModel, tmp_path: Path) -> None:
    settings = GatheringSettings(neighbours=False)
    gather_features(small, corpus_of(small), tmp_path / "s", settings)
    store = FeatureStore.open(tmp_path / "s")
    site = small.sites[0]
    store.set_label(site, 3, "of mine", "Ann")
    store.close()
    gather_features(small, corpus_of(small, 9), tmp_path / "s", settings)
    again = FeatureStore.open(tmp_path / "s")
    label = again.label(site, 3)
    assert label is not None and label.text == "of mine" and again.about.n_rows == 9
    again.close()


# ---- the rest ------------------------------------------------------------------------------------


def test_the_estimate_knows_how_much_there_is(small: CompleteReplacementModel) -> None:
    corpus = corpus_of(small)
    found = estimate_gathering(small, corpus, GatheringSettings(max_tokens=100))
    assert found.n_tokens == 100
    assert found.n_features == sum(small.dictionaries.config_at(site)[0] for site in small.sites)
    assert found.seconds > 0 and found.disk_bytes > 0 and found.memory_bytes > 256 << 20


def test_text_without_a_token_is_refused(small: CompleteReplacementModel, tmp_path: Path) -> None:
    tokens = np.zeros((2, SEQ_LEN), dtype=np.int32)
    corpus = TokenCorpus.of(tokens, np.ones(2, dtype=np.int32), 0)
    with pytest.raises(CorpusError):
        gather_features(small, corpus, tmp_path / "s", SMALL)


@pytest.mark.parametrize(
    "changes", [{"strongest": 0}, {"before": -1}, {"sink_factor": 0.5}, {"memory_mib": 0}]
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Optional[float]]) -> None:
    with pytest.raises(GatheringError):
        GatheringSettings(**changes)  # type: ignore[arg-type]


def test_a_histogram_that_grows_is_that_of_the_end() -> None:
    generator = np.random.default_rng(5)
    shape = feature_candidates.ExampleShape(8, 3, 2, 2, 2, 0)
    value = np.exp(generator.normal(0, 4, 4000)).astype(np.float32)
    latent, place = generator.integers(0, 5, 4000), np.arange(4000)
    state = feature_candidates.PartState(5, 0, shape)
    for first in range(0, 4000, 8):
        here = slice(first, first + 8)
        events = feature_candidates.Events(latent[here], place[here], value[here])
        state.add(events.sorted())
    for i in range(5):
        mine = value[latent == i]
        reach = 2.0 ** np.frexp(mine.max())[1]
        expected = np.histogram(mine, N_BINS, (0, reach))[0]
        assert state.counts[i].tolist() == expected.tolist()


def test_no_interval_looks_empty_that_the_strongest_have_rows_of() -> None:
    """Of the cell from 8/16 to 9/16 rows are drawn for two fifths of a range up to 0.9."""
    value = np.array([0.9] + [0.55] * 12 + [0.53], dtype=np.float32)
    place = np.arange(len(value)) * 8
    for seed in range(6):
        shape = feature_candidates.ExampleShape(8, 16, 2, 2, 2, seed)
        state = feature_candidates.PartState(1, 0, shape)
        state.add(feature_candidates.Events(np.zeros_like(place), place, value).sorted())
        none = feature_candidates.Candidates.none()
        top, drawn = state.settle((none, none))
        found, heading = chosen_examples(state.statistics(), top, drawn, shape, 0)
        shown = {GROUP_NAMES[h]: found.value[heading == h].tolist() for h in set(heading.tolist())}
        assert shown.keys() == {GROUP_NAMES[0], GROUP_NAMES[1], GROUP_NAMES[2], GROUP_NAMES[3]}
        assert shown[GROUP_NAMES[3]] == pytest.approx([0.53])


def test_files_of_a_run_are_those_it_names(small: CompleteReplacementModel, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        gather_features(small, corpus_of(small), tmp_path / "s", SMALL, Stops(6))
    work = gathering_folder(tmp_path / "s")
    text = (work / "progress.json").read_text()
    for path in work.glob("*.safetensors"):
        assert path.name in text or path.name.startswith("state_")
        assert load_file(path)
    assert len(list(work.glob("state_*"))) == 1
