"""Global weights are sums of prompts' exact edges, and lists of the largest keep their promise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from attention_studio.core import global_statistics
from attention_studio.core.attribution import Targets, edges_into
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.global_checkpoint import checkpoint_path
from attention_studio.core.global_files import load_global_weights, save_global_weights
from attention_studio.core.global_statistics import GlobalSettings, gather
from attention_studio.core.global_weights import GlobalWeights, GlobalWeightsError, LatentTable
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.sites import Site
from attention_studio.core.virtual_weights import VirtualWeights
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import FAMILIES, random_dictionaries, tiny_loaded

PROMPT = [0, 5, 9, 14, 3, 21, 8]
PLAIN: dict[str, Any] = {"skip": False}
COMPLETE: dict[str, Any] = {"mlp": PLAIN, "attention": {}}
CROSS: dict[str, Any] = {"clt": {}, "attention": {}}
MIXED: dict[str, Any] = {
    "mlp": {"layers": (1,), "skip": False},
    "attention": {"layers": (0, 1, 2)},
    "clt": {"layers": (0, 2)},
}
SEQUENTIAL = {"use_parallel_residual": False}
WHOLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((family, {}, COMPLETE) for family in FAMILIES),
    *((family, {}, CROSS) for family in FAMILIES),
    *((family, {}, MIXED) for family in ("llama", "gpt_neox", "gemma2")),
    *(("gpt_neox", SEQUENTIAL, dictionaries) for dictionaries in (COMPLETE, CROSS)),
    ("llama", {}, {"mlp": {"activation": "relu", **PLAIN}, "attention": {"activation": "relu"}}),
    ("gpt2", {}, {"mlp": PLAIN, "attention": {"n_qk_heads": 2}}),
]
"""Mixes in which features are connected by the residual stream alone."""
PARTIAL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {"mlp": {}}),
    ("llama", {}, {"mlp": {}, "attention": {}}),
    ("gpt_neox", {}, {"clt": {}}),
    ("gemma2", {}, {"mlp": {"layers": (0, 2)}, "attention": {"layers": (1,)}}),
]


def replaced(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any]
) -> CompleteReplacementModel:
    loaded = tiny_loaded(family, **model)
    return CompleteReplacementModel(loaded, random_dictionaries(loaded.adapter, **dictionaries))


def corpus_of(rows: list[list[int]]) -> TokenCorpus:
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return TokenCorpus.of(tokens, lengths, 0)


def some_text(n_rows: int = 12, length: int = 9, seed: int = 3) -> TokenCorpus:
    rng = np.random.default_rng(seed)
    rows = [[0, *rng.integers(1, 60, length - 1).tolist()] for _ in range(n_rows)]
    rows[1][4] = 0  # a text that begins within the row
    rows[-1] = rows[-1][:5]
    return corpus_of(rows)


def dense(found: GlobalWeights, column: NDArray[Any]) -> NDArray[np.float64]:
    """A column of the pairs as [targets, sources]."""
    n = len(found.table)
    full = np.zeros((n, n))
    full[np.repeat(np.arange(n), np.diff(found.bounds)), found.source] = column
    return full


def by_hand(
    local: LocalModel, table: LatentTable, counted: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Sums over the pairs of active features of one prompt, one feature after the other."""
    features = local.features
    n = len(table)
    number = [
        table.of_site(Site.of_number(int(site))).start + int(index)
        for site, index in zip(features.site, features.index, strict=True)
    ]
    found = {name: np.zeros((n, n)) for name in ("edges", "weighted", "count")}
    for j in range(len(features)):
        position = int(features.position[j])
        if not counted[position]:
            continue
        site = Site.of_number(int(features.site[j]))
        norm, scale = local.norm_at(site)
        reading = local.reading_weights(site, torch.tensor([j]))[0]
        gradient = norm.pull(features.encoder[j].repeat(len(scale), 1), scale)
        gradient = gradient * reading.unsqueeze(1)
        for place, writes in features.writes.items():
            if not table.reads(site, place):
                continue
            for write in writes:
                at = features.position[write.features]
                edges = (gradient[at] * write.rows).sum(1) * features.activation[write.features]
                first_write = place == Site.of_number(int(features.site[write.features.start]))
                for i, edge, seen in zip(
                    range(write.features.start, write.features.stop),
                    edges.tolist(),
                    reading[at].tolist(),
                    strict=True,
                ):
                    if counted[int(features.position[i])]:
                        pair = (number[j], number[i])
                        found["edges"][pair] += edge
                        found["weighted"][pair] += edge * float(features.activation[j])
                        found["count"][pair] += seen * first_write
    return found


def close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    largest = float(np.abs(expected).max())
    assert largest > 0
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-5 * largest))


@pytest.mark.parametrize(("family", "model", "dictionaries"), WHOLE)
def test_on_one_prompt_they_are_the_sums_of_its_exact_edges(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any], tmp_path: Path
) -> None:
    replacement = replaced(family, model, dictionaries)
    found = gather(replacement, corpus_of([PROMPT]), tmp_path / "w.safetensors")
    local = replacement.localize(PROMPT)
    features = local.features
    every = torch.arange(len(features))
    directions, bias = local.logit_directions([1])
    targets = Targets(directions[:0], bias[:0], every[:0], every)
    edges = edges_into(local, targets).weights
    offsets = [found.table.of_site(Site.of_number(int(s))).start for s in features.site]
    place = np.zeros((len(features), len(found.table)))
    place[np.arange(len(features)), np.array(offsets) + features.index.numpy()] = 1
    between = edges[:, : len(features)].double().numpy()
    activation = features.activation.double().numpy()
    assert found.about.left_out == ()
    assert close(dense(found, found.virtual * found.total), place.T @ between @ place)
    expected = (place * activation[:, None]).T @ between @ place
    assert close(dense(found, found.virtual * found.weighted), expected)


@pytest.mark.parametrize(("family", "model", "dictionaries"), [*WHOLE[1::4], *PARTIAL])
def test_over_a_text_they_are_the_sums_of_direct_edges(
    family: str, model: dict[str, Any], dictionaries: dict[str, Any], tmp_path: Path
) -> None:
    replacement = replaced(family, model, dictionaries)
    text = some_text(4)
    found = gather(replacement, text, tmp_path / "w.safetensors")
    kept = text.kept()
    assert not kept[1, 4]
    expected: dict[str, NDArray[np.float64]] = {}
    for row, length in enumerate(text.lengths):
        local = replacement.localize(text.tokens[row, :length].tolist())
        for name, sums in by_hand(local, found.table, kept[row]).items():
            expected[name] = expected.get(name, np.zeros_like(sums)) + sums
    assert close(dense(found, found.virtual * found.total), expected["edges"])
    assert close(dense(found, found.virtual * found.weighted), expected["weighted"])
    assert close(dense(found, found.count), expected["count"])
    reads = np.abs(expected["weighted"]).sum(1)
    assert np.allclose(found.reads, reads, rtol=1e-4, atol=1e-6 * reads.max())


def test_what_edges_do_not_run_through_is_named(tmp_path: Path) -> None:
    kept = {"mlp": {"layers": (0, 2)}, "attention": {"layers": (1,)}}
    found = gather(replaced("llama", {}, kept), some_text(), tmp_path / "w.safetensors")
    assert found.about.left_out == ("attention 0", "skip 0", "attention 2", "skip 2")


def test_latents_statistics_are_those_of_the_features_of_every_row(tmp_path: Path) -> None:
    replacement = replaced("qwen3", {}, COMPLETE)
    text = some_text()
    found = gather(replacement, text, tmp_path / "w.safetensors")
    kept = text.kept()
    times, sums, peak = (np.zeros(len(found.table)) for _ in range(3))
    for row, length in enumerate(text.lengths):
        features = replacement.localize(text.tokens[row, :length].tolist()).features
        for site, position, index, value in zip(
            features.site, features.position, features.index, features.activation, strict=True
        ):
            if kept[row, position]:
                number = found.table.of_site(Site.of_number(int(site))).start + int(index)
                times[number] += 1
                sums[number] += float(value)
                peak[number] = max(peak[number], float(value))
    assert (found.times == times).all()
    assert np.allclose(found.activation, sums)
    assert np.allclose(found.peak, peak)
    assert found.about.n_tokens == kept.sum()
    ever = int(np.argmax(times))
    assert found.frequency(ever) == pytest.approx(times[ever] / kept.sum())
    assert found.mean_activation(ever) == pytest.approx(sums[ever] / times[ever])
    assert len(found.promotes(ever)) == 5
    assert all(not found.promotes(int(latent)) for latent in np.flatnonzero(times == 0))


# ---- questions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> GlobalWeights:
    replacement = replaced("llama", {}, COMPLETE)
    return gather(replacement, some_text(40), tmp_path_factory.mktemp("w") / "w.safetensors")


def test_upstream_is_ranked_by_expected_effect(found: GlobalWeights) -> None:
    latent = int(np.argmax(found.times * (np.arange(len(found.table)) >= found.table.offsets[4])))
    effects = dense(found, found.virtual * found.weighted.astype(np.float64))[latent]
    effects /= found.activation[latent]
    best = np.argsort(-np.abs(effects))[:7]
    answer = found.upstream(latent, 7)
    assert answer.others.tolist() == best.tolist()
    assert np.allclose(answer.effect, effects[best])
    assert np.allclose(answer.share, effects[best] / np.abs(effects).sum())
    mean = dense(found, found.virtual * found.total.astype(np.float64))[latent]
    assert np.allclose(answer.edge, mean[best] / found.times[latent])
    everything = found.upstream(latent)
    assert np.abs(everything.share).sum() == pytest.approx(1.0, rel=1e-5)
    assert everything.others[:7].tolist() == best.tolist()


def test_downstream_is_ranked_by_the_share_of_what_the_target_reads(found: GlobalWeights) -> None:
    latent = int(np.argmax(found.times * (np.arange(len(found.table)) < found.table.offsets[2])))
    effects = dense(found, found.virtual * found.weighted.astype(np.float64))
    shares = np.zeros(len(effects))
    used = found.reads > 0
    shares[used] = effects[used, latent] / found.reads[used]
    best = np.argsort(-np.abs(shares))[:7]
    answer = found.downstream(latent, 7)
    assert answer.others.tolist() == best.tolist()
    assert np.allclose(answer.share, shares[best])


def test_interference_is_large_and_never_meets(found: GlobalWeights) -> None:
    counts = dense(found, found.count)
    n = found.about.n_tokens
    seen = 0
    for latent in np.flatnonzero(found.times):
        answer = found.interference(int(latent), "upstream", 3)
        assert (np.diff(np.abs(answer.virtual)) <= 0).all()
        for other, virtual in zip(answer.others, answer.virtual, strict=True):
            seen += 1
            assert counts[latent, other] < 1
            assert found.times[latent] * found.times[other] / n >= 1
            ranked = np.sort(np.abs(_all_virtual(found, int(latent))))
            assert abs(virtual) >= ranked[-found.about.strongest] * (1 - 1e-5)
    assert seen > 0


def _all_virtual(found: GlobalWeights, latent: int) -> NDArray[np.float64]:
    replacement = replaced("llama", {}, COMPLETE)
    virtual = VirtualWeights(replacement)
    site = found.table.site_of(latent)
    index = found.table.index_of(latent)
    readers = virtual.readers(site, slice(index, index + 1))
    return (virtual.decoders(site) @ readers.T).squeeze(1).double().numpy()


def test_names_lead_to_latents_and_back(found: GlobalWeights) -> None:
    for latent in (0, 23, 24, len(found.table) - 1):
        assert found.table.find(found.table.name(latent)) == latent
    assert found.table.name(24 + 3) == "L0/F3"
    assert found.table.find("l0/3") == found.table.find("L0/F3")
    for name in ("L0/F24", "L3/F0", "B0/F1", "L0F1", "L0/P1/F3", "L0/*", ""):
        with pytest.raises(GlobalWeightsError):
            found.table.find(name)
    with pytest.raises(GlobalWeightsError):
        found.upstream(len(found.table))
    for k in (0, -1):
        for ask in (found.upstream, found.downstream):
            with pytest.raises(GlobalWeightsError, match="one or more"):
                ask(0, k)
        with pytest.raises(GlobalWeightsError, match="one or more"):
            found.interference(0, "upstream", k)


# ---- lists of the largest ------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [3, 12, 200])
@pytest.mark.parametrize("dictionaries", [COMPLETE, CROSS], ids=["transcoders", "clt"])
def test_lists_of_the_largest_keep_their_bound(
    keep: int, dictionaries: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_statistics, "_CHUNK_TOKENS", 18)
    replacement = replaced("llama", {}, dictionaries)
    text = some_text(40)
    exact = gather(replacement, text, tmp_path / "exact.safetensors")
    settings = GlobalSettings(keep=keep, strongest=2)
    short = gather(replacement, text, tmp_path / "short.safetensors", settings)
    true = dense(exact, np.abs(exact.virtual) * exact.weighted.astype(np.float64))
    listed = dense(short, np.abs(short.virtual) * short.weighted.astype(np.float64))
    slack = short.slack[:, None].astype(np.float64)
    rounding = 1e-5 * true.max()
    assert (listed <= true + rounding).all()
    assert (true - listed <= slack + rounding).all()
    assert np.allclose(short.reads, exact.reads, rtol=1e-5)
    assert (short.slack <= short.reads / keep + rounding).all()
    assert (np.diff(short.bounds) <= keep + 2).all()
    followed = dense(short, short.followed) > 0
    assert np.allclose(dense(short, short.count)[followed], dense(exact, exact.count)[followed])
    targets = np.flatnonzero(exact.table.offsets[1] <= np.arange(len(exact.table)))
    assert followed[targets].sum(1).min() >= 2
    if keep == 200:
        assert short.exact
        assert np.allclose(listed, true)
    else:
        assert not short.exact
        # The bound is worth something: the largest pair of each target that stands out is there.
        largest = true.argmax(1)
        stands_out = true.max(1) > short.slack + rounding
        assert stands_out.sum() > 10
        assert (listed[np.arange(len(true)), largest] > 0)[stands_out].all()


def test_what_does_not_fit_memory_is_kept_in_lists_or_refused(tmp_path: Path) -> None:
    replacement = replaced("llama", {}, COMPLETE)
    out = tmp_path / "w.safetensors"
    gib = 24 * 144 * (16 + 5) / (1 << 30)
    found = gather(replacement, some_text(), out, GlobalSettings(memory_gib=gib))
    assert found.about.keep == 5
    with pytest.raises(GlobalWeightsError, match="memory"):
        gather(replacement, some_text(), out, GlobalSettings(memory_gib=gib, keep=6))
    with pytest.raises(GlobalWeightsError):
        GlobalSettings(keep=0)
    with pytest.raises(GlobalWeightsError, match="memory_gib"):
        GlobalSettings(memory_gib=float("inf"))
    alone = replaced("llama", {}, {"mlp": {"layers": (1,)}})
    with pytest.raises(GlobalWeightsError, match="no connections"):
        gather(alone, some_text(), out)


# ---- stopping and going on -----------------------------------------------------------------------


class Stops(WorkContext):
    """Cancels, or dies, when so many chunks were begun."""

    def __init__(self, after: int, dies: bool) -> None:
        super().__init__()
        self.after, self.dies = after, dies

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        self.after -= 1
        if self.after < 0:
            if self.dies:
                raise KeyboardInterrupt
            self.cancel()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("keep", [None, 6])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    keep: Optional[int], dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_statistics, "_CHUNK_TOKENS", 27)
    replacement = replaced("llama", {}, CROSS)
    text = some_text(20)
    settings = GlobalSettings(keep=keep, checkpoint_seconds=0)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    gather(replacement, text, whole, settings)
    assert not checkpoint_path(whole).exists()
    for _ in range(2):
        with pytest.raises((Cancelled, KeyboardInterrupt)):
            gather(replacement, text, parts, settings, resume=True, ctx=Stops(2, dies))
        assert checkpoint_path(parts).exists()
        assert not parts.exists()
    gather(replacement, text, parts, settings, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    assert not checkpoint_path(parts).exists()


def test_a_run_that_was_stopped_before_its_first_chunk_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    model, text = replaced("llama", {}, COMPLETE), some_text()
    at_once = WorkContext()
    at_once.cancel()
    with pytest.raises(Cancelled):
        gather(model, text, out, ctx=at_once)
    assert not checkpoint_path(out).exists()
    assert gather(model, text, out, resume=True).n_pairs


def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_statistics, "_CHUNK_TOKENS", 27)
    out = tmp_path / "w.safetensors"
    replacement = replaced("llama", {}, COMPLETE)
    settings = GlobalSettings(checkpoint_seconds=0)
    with pytest.raises(Cancelled):
        gather(replacement, some_text(20), out, settings, ctx=Stops(2, False))
    with pytest.raises(GlobalWeightsError, match="text_hash"):
        gather(replacement, some_text(20, seed=4), out, settings, resume=True)
    other = replaced("llama", {}, {**COMPLETE, "attention": {"seed": 9}})
    with pytest.raises(GlobalWeightsError, match="crm_hash"):
        gather(other, some_text(20), out, settings, resume=True)
    with pytest.raises(GlobalWeightsError, match="strongest"):
        gather(replacement, some_text(20), out, GlobalSettings(strongest=3), resume=True)
    checkpoint_path(out).write_bytes(checkpoint_path(out).read_bytes()[:-3])
    with pytest.raises(GlobalWeightsError):
        gather(replacement, some_text(20), out, settings, resume=True)
    gather(replacement, some_text(20), out, settings)


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_gives_back_everything(found: GlobalWeights, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_global_weights(found, path)
    again = load_global_weights(path)
    for part in dataclasses.fields(GlobalWeights):
        mine, other = getattr(found, part.name), getattr(again, part.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            assert np.array_equal(mine, other)
        else:
            assert mine == other
    first = path.read_bytes()
    save_global_weights(again, path)
    assert path.read_bytes() == first


def _manifest(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    manifest: dict[str, Any] = json.loads(header["__metadata__"]["manifest"])
    return manifest


COLUMNS: list[tuple[str, Any]] = [
    ("source", lambda a: np.where(np.arange(a.size) == 5, -1, a).astype(a.dtype)),
    ("source", lambda a: np.full_like(a, a.max())),
    ("source", lambda a: a[:-1].copy()),
    ("source", lambda a: a.astype(np.int64)),
    ("bounds", lambda a: a[::-1].copy()),
    ("bounds", lambda a: a + 1),
    ("virtual", lambda a: np.full_like(a, np.nan)),
    ("count", lambda a: -a - 1),
    ("times", lambda a: -a - 1),
    ("promoted", lambda a: a[:, :2].copy()),
    ("word_bounds", lambda a: a * 2),
    ("word_text", lambda a: a[:-1].copy()),
    ("extra", None),
]


@pytest.mark.parametrize(("name", "change"), COLUMNS)
def test_columns_that_do_not_fit_are_refused(
    name: str, change: Any, found: GlobalWeights, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_global_weights(found, path)
    manifest, columns = _manifest(path), load_file(path)
    columns[name] = np.zeros(2) if change is None else change(columns[name])
    save_file(columns, path, {"manifest": json.dumps(manifest)})
    with pytest.raises(GlobalWeightsError):
        load_global_weights(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "attention-studio-graph"),
        ("version", 2),
        ("sites", [[0, "mlp"], [0, "attention"]]),
        ("sites", [[0, "head"]]),
        ("sites", 3),
        ("offsets", [0, 5]),
        ("offsets", [0, 24, 24, 72, 96, 120, 144]),
        ("about", {}),
        ("about", {"n_tokens": 10**400}),
        ("about", {"n_tokens": -5}),
        ("sites", {5: [10**30, "mlp"]}),
    ],
)
def test_manifests_that_make_no_sense_are_refused(
    key: str, value: Any, found: GlobalWeights, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_global_weights(found, path)
    manifest = _manifest(path)
    # Of a list or table, the parts that are given; else the whole.
    if isinstance(value, dict) and value:
        for part, other in value.items():
            manifest[key][part] = other
    else:
        manifest[key] = value
    save_file(load_file(path), path, {"manifest": json.dumps(manifest)})
    with pytest.raises(GlobalWeightsError):
        load_global_weights(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(GlobalWeightsError, match="no global weights"):
        load_global_weights(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(GlobalWeightsError):
        load_global_weights(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(GlobalWeightsError, match="something else"):
        load_global_weights(path)
