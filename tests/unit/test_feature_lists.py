"""What the window's lanes read from a store of features: lists, searches, steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attention_studio.core.feature_store import FeatureFilter, FeatureStore, SiteSize
from attention_studio.core.feature_store_writing import write_store
from attention_studio.core.sites import Site
from attention_studio.ui import work_features as work
from attention_studio.utils.progress import WorkContext
from tests.unit.test_feature_store import ATTENTION, MLP, about, page

CTX = WorkContext()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    sites = (SiteSize(1, "attention", 3), SiteSize(1, "mlp", 5))
    pages = [page(site, index) for site in (ATTENTION, MLP) for index in range(3)]
    write_store(tmp_path / "store", about(sites=sites), pages)
    found = FeatureStore.open(tmp_path / "store")
    yield found
    found.close()


def names(found: work.ListedPage) -> list[str]:
    return [row.name for row in found.rows]


def test_rows_come_by_the_page(store: FeatureStore) -> None:
    request = work.ListRequest(store, FeatureFilter(), "-max")
    first = work.list_features(CTX, request, 0, 3)
    assert first.total == store.about.n_features and len(first.rows) == 3
    rest = work.list_features(CTX, request, 3, 100, first.total)
    assert [(row.site, row.index) for row in (*first.rows, *rest.rows)] == store.ids(order="-max")
    last = rest.rows[-1]
    assert last.dead and last.max_activation == 0 and last.promotes == ()
    top = first.rows[0]
    shown = store.page(top.site, top.index)
    assert (top.density, top.max_activation) == (shown.density, shown.max_activation)


def test_searches_are_filtered_like_lists(store: FeatureStore) -> None:
    store.set_label(MLP, 4, "Paris perhaps", "Ann")
    request = work.ListRequest(store, FeatureFilter(), words="paris")
    found = work.list_features(CTX, request, 0, 100)
    assert names(found)[0] == "L1 #4" and found.total == 7
    assert found.rows[0].label_by == "Ann"
    alive = work.list_features(CTX, replace(request, wanted=FeatureFilter(dead=False)), 0, 100)
    assert alive.total == 6 and "L1 #4" not in names(alive)
    among = work.list_features(CTX, replace(request, among=((MLP, 1),)), 0, 100)
    assert names(among) == ["L1 #1"]
    noted = work.ListRequest(store, FeatureFilter(), among=((MLP, 2), (Site(9, "mlp"), 0)))
    assert names(work.list_features(CTX, noted, 0, 100)) == ["L1 #2"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("L1 #4", [(MLP, 4)]),
        ("a1#2", [(ATTENTION, 2)]),
        ("L1/F3", [(MLP, 3)]),
        ("#2", [(ATTENTION, 2), (MLP, 2)]),
        ("#4", [(MLP, 4)]),
        ("L1 #99", []),
        ("Paris", []),
        ("#", []),
    ],
)
def test_a_feature_is_found_by_its_number(
    store: FeatureStore, typed: str, expected: list[tuple[Site, int]]
) -> None:
    assert work.named_features(store, typed) == expected


def test_steps_stay_among_those_that_are_meant(store: FeatureStore) -> None:
    request = work.ListRequest(store, FeatureFilter(dead=False))
    assert work.step(CTX, request, (MLP, 1), 1).feature == (MLP, 2)
    assert work.step(CTX, request, (MLP, 2), 1).feature is None
    assert work.step(CTX, request, (MLP, 0), -1).feature == (ATTENTION, 2)
    assert work.step(CTX, request, None, 1).feature == (ATTENTION, 0)
    dead = work.ListRequest(store, FeatureFilter(dead=True))
    assert work.step(CTX, dead, None, 0).feature in [(MLP, 3), (MLP, 4)]


def test_a_page_that_a_store_has_not_is_none(store: FeatureStore) -> None:
    assert work.read_page(CTX, store, Site(7, "mlp"), 0).page is None
    assert work.read_page(CTX, store, MLP, 5).page is None
    found = work.read_page(CTX, store, MLP, 2).page
    assert found is not None and found.index == 2


def test_a_label_is_written_with_who_gave_it(store: FeatureStore) -> None:
    done = work.write_label(CTX, store, MLP, 1, "a city", "Ann")
    assert store.label(MLP, 1) == done.label and done.label.by == "Ann"
