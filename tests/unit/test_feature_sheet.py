"""A feature that is looked up is the one that extraction and the decoders know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_studio.core.feature_extractor import FeatureError, FeatureExtractor
from attention_studio.core.feature_sheet import N_NEAREST, feature_sheet
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from tests.tiny import PROMPT, random_dictionaries, tiny_loaded

TEXT = PROMPT


@pytest.fixture(scope="module")
def crm() -> CompleteReplacementModel:
    loaded = tiny_loaded("llama")
    dictionaries = random_dictionaries(loaded.adapter, mlp={}, attention={})
    return CompleteReplacementModel(loaded, dictionaries)


def test_it_fires_and_speaks_as_extraction_says(crm: CompleteReplacementModel) -> None:
    report = FeatureExtractor(crm).extract_features(TEXT, top_k=5)
    for record in (*report.overall[:2], *report.by_position[-1][:2]):
        sheet = feature_sheet(
            crm, record.site, record.index, report.token_ids, position=record.position
        )
        wanted = report.activations(record.site, record.index)
        assert np.allclose(sheet.report.activations(record.site, record.index), wanted, atol=1e-5)
        assert sheet.record.activation == pytest.approx(record.activation, abs=1e-5)
        for said, known in (
            (sheet.record.promoted, record.promoted),
            (sheet.record.suppressed, record.suppressed),
        ):
            assert [token for token, _ in said] == [token for token, _ in known]
            assert np.allclose([e for _, e in said], [e for _, e in known], atol=1e-5)
        assert sheet.report.tokens == report.tokens


def test_the_nearest_have_the_largest_cosines(crm: CompleteReplacementModel) -> None:
    site, index = crm.sites[0], 3
    rows = {
        other: (
            crm.dictionaries.lorsas[other.layer].W_O
            if other.kind == "attention"
            else crm.dictionaries.transcoders[other.layer].W_D
        ).detach()
        for other in crm.sites
    }
    own = rows[site][index]
    cosines = [
        (float(torch.cosine_similarity(row, own, dim=0)), other, place)
        for other, all_rows in rows.items()
        for place, row in enumerate(all_rows)
        if (other, place) != (site, index)
    ]
    wanted = sorted(cosines, key=lambda entry: -entry[0])[:N_NEAREST]
    near = feature_sheet(crm, site, index, crm.loaded.encode(TEXT)).nearest
    assert [(n.site, n.index) for n in near] == [(other, place) for _, other, place in wanted]
    assert [n.score for n in near] == pytest.approx([cosine for cosine, _, _ in wanted], abs=1e-5)
    assert all(n.promotes for n in near)


def test_a_feature_that_there_is_not_is_refused(crm: CompleteReplacementModel) -> None:
    ids = crm.loaded.encode(TEXT)
    for site, index in ((crm.sites[0], 10**6), (Site(99, "mlp"), 0), (crm.sites[0], -1)):
        with pytest.raises(FeatureError, match="There is no feature"):
            feature_sheet(crm, site, index, ids)
