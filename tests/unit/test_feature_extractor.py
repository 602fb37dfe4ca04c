"""Features of a prompt, and the tokens that they promote."""

from __future__ import annotations

import pytest

from attention_studio.core.feature_extractor import FeatureError, FeatureExtractor, promoted_tokens
from tests.crms import complete, replacement
from tests.tiny import PROMPT


def test_features_are_ranked_by_what_they_write_and_found_again() -> None:
    model = replacement()
    report = FeatureExtractor(model).extract_features(PROMPT, top_k=5)
    assert len(report.overall) == 5
    assert len(report.by_position) == len(report.tokens)
    assert report.by_position[0] == ()
    norms = [
        record.activation * float(model.transcoders[record.layer].W_D[record.index].norm())
        for record in report.overall
    ]
    assert norms == sorted(norms, reverse=True)
    first = report.overall[0]
    assert first.kind == "mlp"
    fires = report.activations(first.site, first.index)
    assert fires[first.position] == pytest.approx(first.activation)
    assert fires[0] == 0
    promoted = [effect for _, effect in first.promoted]
    suppressed = [effect for _, effect in first.suppressed]
    assert promoted == sorted(promoted, reverse=True)
    assert suppressed == sorted(suppressed)
    assert promoted[-1] >= suppressed[-1]
    with pytest.raises(FeatureError):
        FeatureExtractor(model).extract_features(PROMPT, top_k=0)


def test_features_of_lorsas_and_of_several_layers_are_found_too() -> None:
    model = complete(dictionaries={"clt": {}, "attention": {}})
    report = FeatureExtractor(model).extract_features(PROMPT, top_k=40)
    clt = model.dictionaries.clt
    assert clt is not None
    seen = set()
    for record in report.overall:
        seen.add(record.kind)
        decoder = (
            model.dictionaries.lorsas[record.layer].W_O[record.index]
            if record.kind == "attention"
            else clt.W_D[record.layer][:, record.index].sum(0)
        )
        expected = promoted_tokens(model.adapter, decoder.unsqueeze(0), 3)
        found = [effect for _, effect in record.promoted[:3]]
        assert found == pytest.approx(expected.effects[0].tolist(), abs=1e-4)
        fires = report.activations(record.site, record.index)
        assert fires[record.position] == pytest.approx(record.activation)
        assert fires[0] == 0
    assert seen == {"attention", "mlp"}
