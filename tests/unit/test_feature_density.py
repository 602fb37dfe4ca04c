"""How often features are active, against counting them prompt by prompt."""

from __future__ import annotations

import numpy as np
import pytest

from attention_studio.core.corpus import CorpusError, TokenCorpus
from attention_studio.core.density_measurement import measure_density
from attention_studio.core.feature_density import FeatureDensity
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.crms import replacement
from tests.hand_graphs import hand_graph


@pytest.fixture(scope="module")
def crm() -> CompleteReplacementModel:
    return replacement()


def text(crm: CompleteReplacementModel, rows: int = 11) -> TokenCorpus:
    rng = np.random.default_rng(0)
    start = crm.loaded.start_token_id
    tokens = rng.integers(1, crm.loaded.info.vocab_size, (rows, 9)).astype(np.int32)
    if start is not None:
        tokens[:, 0] = start
    lengths = np.full(rows, 9, dtype=np.int32)
    lengths[-1] = 4
    return TokenCorpus.of(tokens, lengths, start)


def test_it_counts_what_a_pass_over_each_row_finds(crm: CompleteReplacementModel) -> None:
    corpus = text(crm)
    found = measure_density(crm, corpus)
    assert found.n_tokens == corpus.n_kept
    assert set(found.times) == set(crm.sites)
    counted = {site: np.zeros_like(times) for site, times in found.times.items()}
    kept = corpus.kept()
    for row in range(corpus.n_sequences):
        features = crm.localize(corpus.tokens[row, : corpus.lengths[row]].tolist()).features
        for number, position, index in zip(
            features.site.tolist(),
            features.position.tolist(),
            features.index.tolist(),
            strict=True,
        ):
            counted[Site.of_number(number)][index] += kept[row, position]
    for site, times in found.times.items():
        assert times.tolist() == counted[site].tolist()
        assert times.sum() > 0
        assert found.of(site, 3) == times[3] / corpus.n_kept


def test_it_stops_after_so_many_tokens(crm: CompleteReplacementModel) -> None:
    found = measure_density(crm, text(crm), max_tokens=10)
    assert found.n_tokens == 10
    assert all(times.max() <= 10 for times in found.times.values())


def test_it_can_be_cancelled_and_refuses_text_without_a_token(
    crm: CompleteReplacementModel,
) -> None:
    ctx = WorkContext()
    ctx.cancel()
    with pytest.raises(Cancelled):
        measure_density(crm, text(crm), ctx=ctx)
    with pytest.raises(CorpusError):
        empty = np.zeros((1, 1), dtype=np.int32)
        measure_density(crm, TokenCorpus.of(empty, np.ones(1, dtype=np.int32), 0))


def test_nodes_are_looked_up_by_module_and_latent() -> None:
    graph = hand_graph()
    sites = [Site.of_number(number) for number in range(5)]  # the last module has none
    times = {site: np.arange(40) + 100 * site.number for site in sites}
    found = FeatureDensity(DictionariesId("by hand"), "0" * 64, 1000, times)
    densities = found.of_nodes(graph.nodes)
    for node in range(len(graph.nodes)):
        site, index = graph.nodes.site(node), int(graph.nodes.index[node])
        if site is None or index < 0 or site.number == 5 or index >= 40:
            assert np.isnan(densities[node])
        else:
            assert densities[node] == (index + 100 * site.number) / 1000
            assert densities[node] == found.of(site, index)
    assert np.isfinite(densities).sum() > 10
    assert np.isnan(found.of(Site(2, "mlp"), 0)) and np.isnan(found.of(sites[0], 40))
