"""Feature stores: what is written is what is read; what is damaged or hostile is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attention_studio.core.feature_columns import PART_FEATURES
from attention_studio.core.feature_labels import FeatureLabelError, FeatureLabels
from attention_studio.core.feature_records import (
    Example,
    ExampleGroup,
    FeaturePage,
    FeaturePageError,
    Histogram,
    Neighbour,
)
from attention_studio.core.feature_store import (
    ABOUT,
    TEXT,
    FeatureFilter,
    FeatureStore,
    FeatureStoreError,
    SiteSize,
    StoreAbout,
    search_expression,
)
from attention_studio.core.feature_store_writing import write_store
from attention_studio.core.sites import Site
from attention_studio.utils import files

MLP, ATTENTION = Site(1, "mlp"), Site(1, "attention")
TOKENS = ("The", " capital", " of", " France", " is", " <b>Paris</b>")
WORDS = ("zero", "one", "two", "three", "four", "five")


def example(peak: int, value: float, sequence: int, site: Site) -> Example:
    values = np.zeros(6, dtype=np.float32)
    values[[0, peak]] = 0.25, value
    looks = None
    if site.kind == "attention":
        looks = np.zeros(6, dtype=np.float32)
        looks[: peak + 1] = np.arange(1, peak + 2) * value / 16
    before = 0.5 * value if looks is not None else 0.0
    tokens = (*TOKENS[:-1], f" {WORDS[peak]}")
    return Example(tokens, values, peak, sequence, 3, looks, before)


def page(site: Site, index: int) -> FeaturePage:
    first = example(5, 4.0, index, site)
    groups = (
        ExampleGroup("Strongest", 0.0, 4.0, (first, example(3, 2.0, 7, site))),
        ExampleGroup("Some", None, None, (replace(first, repeated=True),)),
        ExampleGroup("Weak", 0.5, 1.0, (example(index % 5 + 1, 0.75, 9, site),)),
    )
    return FeaturePage(
        site=site,
        index=index,
        n_fired=10 * (index + 1),
        n_tokens=1000,
        max_activation=4.0 - index / 8,
        histogram=Histogram(np.linspace(0, 4, 5), np.array([5, 3, 1, index])),
        groups=groups,
        promoted=((" Paris", 2.5), (f" {WORDS[index]}", 1.0)),
        suppressed=((" Rome", -2.5),),
        near_by_decoder=(Neighbour(ATTENTION, (index + 1) % 3, 0.75),),
        near_by_firing=(Neighbour(MLP, (index + 1) % 3, 0.5), Neighbour(ATTENTION, 0, 0.25)),
    )


def about(**changes: object) -> StoreAbout:
    values = {"model_name": "m", "model_hash": "1", "crm_name": "c", "crm_hash": "2"}
    return StoreAbout(**{**values, "text_hash": "3", "n_tokens": 1000, "sites": (), **changes})  # type: ignore[arg-type]


PAGES = [page(site, index) for site in (ATTENTION, MLP) for index in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sites = (SiteSize(1, "attention", 3), SiteSize(1, "mlp", 5))
    write_store(tmp_path / "store", about(sites=sites), PAGES)
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[FeatureStore]:
    found = FeatureStore.open(folder)
    yield found
    found.close()


def assert_same(found: FeaturePage, expected: FeaturePage) -> None:
    plain = (
        "site", "index", "n_fired", "n_tokens", "density", "dead", "max_activation", "promoted",
        "suppressed",
    )  # fmt: skip
    for name in plain:
        assert getattr(found, name) == getattr(expected, name), name
    assert np.array_equal(found.histogram.edges, expected.histogram.edges)
    assert np.array_equal(found.histogram.counts, expected.histogram.counts)
    for side in ("near_by_decoder", "near_by_firing"):
        kin = [(n.site, n.index, n.score) for n in getattr(found, side)]
        assert kin == [(n.site, n.index, n.score) for n in getattr(expected, side)]
    assert [(g.name, g.low, g.high, len(g.examples)) for g in found.groups] == [
        (g.name, g.low, g.high, len(g.examples)) for g in expected.groups
    ]
    for mine, theirs in zip(found.groups, expected.groups, strict=True):
        for a, b in zip(mine.examples, theirs.examples, strict=True):
            for name in ("tokens", "peak", "sequence", "start", "repeated", "looks_before"):
                assert getattr(a, name) == getattr(b, name), name
            assert np.array_equal(a.values, b.values)
            assert (a.looks_at is None) == (b.looks_at is None)
            if a.looks_at is not None and b.looks_at is not None:
                assert np.array_equal(a.looks_at, b.looks_at)


def test_a_page_is_read_as_it_was_written(store: FeatureStore) -> None:
    for expected in PAGES:
        assert_same(store.page(expected.site, expected.index), expected)


def test_neighbours_say_what_they_promote_and_are_called(store: FeatureStore) -> None:
    store.set_label(MLP, 1, "Capitals", "Ann")
    near = store.page(MLP, 0).near_by_firing
    assert near[0].promotes == (" Paris", " one") and near[0].label == "Capitals"
    assert near[1].label == ""


def test_latents_without_a_page_are_dead(store: FeatureStore) -> None:
    found = store.page(MLP, 4)
    assert found.dead and found.density == 0.0 and not found.groups
    assert store.about.n_features == 8


def test_a_feature_that_is_not_there_is_refused(store: FeatureStore) -> None:
    for site, index in ((MLP, 5), (MLP, -1), (ATTENTION, 3), (Site(0, "mlp"), 0)):
        with pytest.raises(FeatureStoreError):
            store.page(site, index)


def test_densities_of_a_module(store: FeatureStore) -> None:
    assert store.density(MLP).tolist() == [0.01, 0.02, 0.03, 0.0, 0.0]
    assert store.fired(ATTENTION).tolist() == [10, 20, 30]


def test_lists_are_filtered_and_ordered(store: FeatureStore) -> None:
    assert store.ids() == [(ATTENTION, i) for i in range(3)] + [(MLP, i) for i in range(5)]
    assert store.ids(FeatureFilter(dead=True)) == [(MLP, 3), (MLP, 4)]
    alive = FeatureFilter(kinds=("mlp",), dead=False)
    assert store.ids(alive, "-density") == [(MLP, 2), (MLP, 1), (MLP, 0)]
    assert store.ids(alive, "max", limit=1, offset=1) == [(MLP, 1)]
    dense = FeatureFilter(least_density=0.02, most_density=0.02)
    assert store.ids(dense) == [(ATTENTION, 1), (MLP, 1)] and store.count(dense) == 2
    assert store.count(FeatureFilter(layers=(0,))) == 0
    assert store.ids(FeatureFilter(sites=(ATTENTION,))) == store.ids()[:3]
    store.set_label(MLP, 3, "quiet", "Ann")
    assert store.ids(FeatureFilter(labelled=True)) == [(MLP, 3)]
    assert store.count(FeatureFilter(labelled=False)) == 7


def test_next_previous_and_by_chance_stay_among_those_meant(store: FeatureStore) -> None:
    dense = FeatureFilter(least_density=0.02)
    assert store.next(ATTENTION, 2, dense) == (MLP, 1)
    assert store.previous(MLP, 1, dense) == (ATTENTION, 2)
    assert store.next(MLP, 4) is None and store.previous(ATTENTION, 0) is None
    seen = {store.random(dense, seed) for seed in range(40)}
    assert seen == {(ATTENTION, 1), (ATTENTION, 2), (MLP, 1), (MLP, 2)}
    assert store.random(FeatureFilter(layers=(7,))) is None


def test_labels_tokens_and_examples_are_found(store: FeatureStore) -> None:
    every = {(site, i) for site in (ATTENTION, MLP) for i in range(3)}
    assert {(f.site, f.index) for f in store.search("capital three")} == every
    assert {(f.site, f.index) for f in store.search("two")} == {(ATTENTION, 2), (MLP, 2)}
    assert {(f.site, f.index) for f in store.search("tw")} == {(ATTENTION, 2), (MLP, 2)}
    assert store.search("Rome") == [] and store.search("  ") == []
    store.set_label(MLP, 4, "France and two more", "Ann")
    found = store.search("two")
    assert (found[0].site, found[0].index, found[0].label) == (MLP, 4, "France and two more")
    assert len(store.search("paris", limit=2)) == 2


@pytest.mark.parametrize(
    "typed", ['"', "paris OR", "NEAR(", "examples:paris", "a AND NOT b", "^x", "*", "\0", "'; --"]
)
def test_what_is_typed_is_no_language(store: FeatureStore, typed: str) -> None:
    for found in store.search(typed):
        assert found.site in (MLP, ATTENTION)
    assert "OR" not in search_expression("a OR b").replace('"OR"', "")


def test_labels_keep_who_and_when_and_what_was_before(store: FeatureStore, folder: Path) -> None:
    assert store.label(MLP, 0) is None
    store.set_label(MLP, 0, "  Capital\ncities ", "Ann")
    label = store.set_label(MLP, 0, "Capitals of countries", "agent")
    assert (label.text, label.by) == ("Capitals of countries", "agent") and label.when
    other = FeatureStore.open(folder)
    assert other.label(MLP, 0) == label == other.page(MLP, 0).label
    assert [h.text for h in other.labels.history(MLP, 0)] == ["Capital cities", label.text]
    other.set_label(MLP, 0, "", "Ann")
    assert store.label(MLP, 0) is None and store.search("countries") == []
    with pytest.raises(FeatureLabelError):
        other.set_label(MLP, 0, "x" * 3000, "Ann")
    other.close()


def test_labels_outlive_a_store_of_the_same_model_and_are_not_lost_to_another(
    folder: Path,
) -> None:
    store = FeatureStore.open(folder)
    store.set_label(MLP, 0, "Capitals", "Ann")
    store.close()
    write_store(folder, about(), PAGES)
    again = FeatureStore.open(folder)
    label = again.label(MLP, 0)
    assert label is not None and label.by == "Ann"
    assert [(f.site, f.index) for f in again.search("capitals")] == [(MLP, 0)]
    again.close()
    with pytest.raises(FeatureStoreError, match="another replacement model"):
        write_store(folder, about(crm_hash="another"), PAGES)
    still = FeatureStore.open(folder)
    assert still.label(MLP, 0) == label
    still.close()


def test_features_beyond_the_first_part(tmp_path: Path) -> None:
    index = PART_FEATURES + 3
    late = replace(page(MLP, 1), index=index, near_by_decoder=(Neighbour(MLP, index, 1.0),))
    late = replace(late, near_by_firing=())
    write_store(tmp_path / "s", about(), [late, replace(late, index=1)])
    store = FeatureStore.open(tmp_path / "s")
    assert_same(store.page(MLP, index), late)
    assert store.page(MLP, index).near_by_decoder[0].promotes == (" Paris", " one")
    assert len(store.density(MLP)) == index + 1
    assert store.ids(FeatureFilter(dead=False)) == [(MLP, 1), (MLP, index)]
    store.close()


def test_threads_read_and_label_at_once(store: FeatureStore) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(30):
                found = store.page(MLP, (number + i) % 5)
                assert found.index == (number + i) % 5
                store.set_label(MLP, number % 5, f"label {i}", f"thread {number}")
                store.search("paris")
        except BaseException as error:  # told to the thread that waits
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(store.labels.history(MLP, 2)) == 30


def test_pages_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="two pages"):
        write_store(tmp_path / "s", about(), [PAGES[0], PAGES[0]])
    with pytest.raises(FeatureStoreError, match="no feature"):
        write_store(tmp_path / "s", about(sites=(SiteSize(1, "mlp", 2),)), PAGES)
    uneven = Histogram(np.array([0.0, 1.0, 5.0]), np.array([1, 2]))
    with pytest.raises(FeaturePageError, match="equal width"):
        write_store(tmp_path / "s", about(), [replace(PAGES[0], histogram=uneven)])
    assert not (tmp_path / "s").exists()
    with pytest.raises(FeaturePageError):
        Example(("a", "b"), np.zeros(3, dtype=np.float32), 0)


# ---- damaged and foreign folders -----------------------------------------------------------------


def refused(folder: Path, part: str = "store") -> None:
    with pytest.raises(FeatureStoreError, match=part):
        store = FeatureStore.open(folder)
        for site, index in store.ids():
            store.page(site, index)
        store.search("paris")


def test_a_folder_of_something_else_is_refused(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "nothing", "no feature store")
    refused(tmp_path, "no feature store")
    (folder / ABOUT).write_text("[]")
    refused(folder, "no feature store")
    (folder / ABOUT).write_text("{")
    refused(folder)


def test_another_version_is_refused(folder: Path) -> None:
    value = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**value, "version": 2}))
    refused(folder, "version 2")


@pytest.mark.parametrize("name", ["index.sqlite", TEXT, "mlp_01_00000.safetensors"])
def test_missing_and_cut_files_are_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    refused(folder, "bytes")
    (folder / name).unlink()
    refused(folder, "missing")
    (folder / name).write_bytes(bytes(len(whole)))
    refused(folder, "damaged")


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("text_at", 1 << 40),
        ("text_at", -5),
        ("length", -1),
        ("at", 77),
        ("value_at", 50),
        ("value_bounds", -3),
        ("example_bounds", 1 << 50),
        ("group_bounds", 10),
        ("group_name", 40),
        ("promoted_word", 1 << 20),
        ("decoder_index", 1 << 30),
        ("decoder_site", 501),
        ("hist_bounds", 99),
        ("look_bounds", 1 << 33),
        ("hist_counts", -5),
        ("hist_high", float("nan")),
        ("value", float("inf")),
    ],
)
def test_columns_that_lie_are_refused(folder: Path, column: str, change: float) -> None:
    path = folder / "attention_01_00000.safetensors"
    columns = load_file(path)
    columns[column] = np.array(columns[column])
    columns[column][...] = change
    size = path.stat().st_size
    save_file(columns, path)
    assert path.stat().st_size == size
    refused(folder, "damaged")


def test_columns_of_another_shape_are_refused(folder: Path) -> None:
    path = folder / "mlp_01_00000.safetensors"
    columns = load_file(path)
    columns["peak"] = columns["peak"][:-1]
    columns["look"] = np.append(columns["look"], np.float32(0))
    save_file(columns, path)
    value = json.loads((folder / ABOUT).read_text())
    value["files"][path.name] = path.stat().st_size
    (folder / ABOUT).write_text(json.dumps(value))
    refused(folder, "damaged")


def test_a_damaged_file_of_labels_is_one_error(folder: Path) -> None:
    (folder / "labels.sqlite").write_bytes(b"no database at all" * 99)
    store = FeatureStore.open(folder)
    with pytest.raises(FeatureLabelError):
        store.page(MLP, 0)
    store.close()
    shutil.rmtree(folder)


def test_rows_say_of_features_what_their_pages_do(store: FeatureStore) -> None:
    rows = store.rows(order="-max")
    assert [(row.site, row.index) for row in rows] == store.ids(order="-max")
    for row in rows:
        found = store.page(row.site, row.index)
        assert (row.n_fired, row.max_activation) == (found.n_fired, found.max_activation)
    some = [(MLP, 2), (ATTENTION, 1), (MLP, 4), (MLP, 99), (Site(7, "mlp"), 0)]
    assert [(row.site, row.index) for row in store.rows_of(some)] == some[:3]
    alive = store.rows_of(some, FeatureFilter(sites=(MLP,), dead=False))
    assert [(row.site, row.index) for row in alive] == [(MLP, 2)]


def test_the_place_of_a_feature_is_where_lists_have_it(store: FeatureStore) -> None:
    for wanted in (None, FeatureFilter(dead=False), FeatureFilter(kinds=("mlp",))):
        listed = store.ids(wanted)
        for feature in store.ids():
            expected = listed.index(feature) if feature in listed else None
            assert store.place(*feature, wanted) == expected


@pytest.mark.parametrize("harm", ["cut", "version", "about"])
def test_labels_outlive_a_store_that_is_built_again_because_it_is_damaged(
    folder: Path, harm: str
) -> None:
    store = FeatureStore.open(folder)
    store.set_label(MLP, 0, "Capitals", "Ann")
    store.close()
    if harm == "cut":
        (folder / "mlp_01_00000.safetensors").write_bytes(b"")
    elif harm == "version":
        value = json.loads((folder / ABOUT).read_text())
        (folder / ABOUT).write_text(json.dumps({**value, "version": 0}))
    else:
        (folder / ABOUT).write_text("{")
    refused(folder, "store")
    if harm == "about":  # nothing says whose they are: neither lost nor given to others
        with pytest.raises(FeatureStoreError, match="would be lost"):
            write_store(folder, about(), PAGES)
        (folder / "labels.sqlite").unlink()
        write_store(folder, about(), PAGES)
        return
    write_store(folder, about(), PAGES)
    again = FeatureStore.open(folder)
    label = again.label(MLP, 0)
    assert label is not None and (label.text, label.by) == ("Capitals", "Ann")
    again.close()


@pytest.mark.parametrize("name", ["thesis.txt", ".git", "weights.safetensors", "about.json.bak"])
def test_what_is_no_store_is_not_replaced(name: str, tmp_path: Path) -> None:
    place = tmp_path / "work"
    place.mkdir()
    (place / name).write_text("years of it")
    with pytest.raises(FeatureStoreError, match="is in use"):
        write_store(place, about(), PAGES)
    assert (place / name).read_text() == "years of it"
    with pytest.raises(FeatureStoreError, match="is in use"):
        write_store(place / name, about(), PAGES)
    assert (place / name).is_file()
    (place / name).unlink()
    write_store(place, about(), PAGES)  # an empty folder may be filled
    FeatureStore.open(place).close()


def test_a_store_that_was_built_anew_meanwhile_is_not_mixed_with_the_one_before(
    folder: Path, store: FeatureStore
) -> None:
    store.set_label(MLP, 0, "before", "Ann")
    other = [replace(one, promoted=((" Rome", 9.0),)) for one in PAGES]
    write_store(folder, about(text_hash="another"), other)
    # Its text is of the one before: what was not read yet is refused rather than shown with that.
    with pytest.raises(FeatureStoreError, match="built anew"):
        store.page(MLP, 0)
    # A label goes where the labels are now.
    store.set_label(MLP, 1, "meanwhile", "Ann")
    again = FeatureStore.open(folder)
    texts = [label.text for label in again.labels.all().values()]
    assert texts == ["before", "meanwhile"]
    again.close()


def test_a_label_given_while_a_store_takes_its_place_is_not_lost(
    folder: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_label(MLP, 0, "before", "Ann")
    swap, others = files._swap_folder, []

    def swapped(new: Path, path: Path) -> None:
        """Somebody gives a label when all labels are copied and the old store is still there."""
        thread = threading.Thread(target=store.set_label, args=(MLP, 1, "meanwhile", "Ann"))
        thread.start()
        others.append(thread)
        thread.join(0.2)
        swap(new, path)

    monkeypatch.setattr(files, "_swap_folder", swapped)
    write_store(folder, about(), PAGES)
    others[0].join()
    again = FeatureStore.open(folder)
    texts = [label.text for label in again.labels.all().values()]
    assert texts == ["before", "meanwhile"]
    again.close()


def test_labelled_features_are_asked_for_in_one_query_however_many(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads all labels to list some; labels of features that the store has not are none."""
    for site, index in ((MLP, 4), (ATTENTION, 1), (Site(7, "mlp"), 0), (MLP, 77)):
        store.labels.set(site, index, "named", "Ann")
    store.set_label(MLP, 0, "named", "Ann")
    store.set_label(MLP, 0, "", "Ann")

    def all_read(self: FeatureLabels) -> None:
        raise AssertionError("all labels are read")

    monkeypatch.setattr(FeatureLabels, "all", all_read)
    asked: list[str] = []
    store._index.set_trace_callback(asked.append)
    some, others = FeatureFilter(labelled=True), FeatureFilter(labelled=False)
    assert store.ids(some) == [(ATTENTION, 1), (MLP, 4)] and store.count(some) == 2
    assert store.next(ATTENTION, 1, some) == (MLP, 4) and store.place(MLP, 4, some) == 1
    assert store.count(others) == 6 and store.previous(MLP, 4, others) == (MLP, 3)
    assert max(map(len, asked)) < 1000


def test_where_there_is_no_label_none_has_one(store: FeatureStore) -> None:
    assert store.ids(FeatureFilter(labelled=True)) == []
    assert store.count(FeatureFilter(labelled=False)) == 8
    store.labels.path.write_bytes(b"no database at all" * 99)
    with pytest.raises(FeatureLabelError):
        store.count(FeatureFilter(labelled=True))
