"""Features of the demo that are known, explained by scripted models: one that knows, one that lies.

What the scores make of all of them: ``scripts/score_agents.py --backend knowing`` and ``lying``.
"""

from __future__ import annotations

import json
from functools import cache

import pytest

from attention_studio.agents.backends.scripted import ScriptedBackend
from attention_studio.agents.explanations import Assessment, FeatureVerdict
from attention_studio.agents.feature_agent import AgentSettings, FeatureAgent
from attention_studio.agents.feature_material import FeatureMaterial, MaterialSource
from attention_studio.agents.feature_texts import FeatureTexts
from attention_studio.core.feature_activations import feature_activations
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.demo.known_features import Concept, demo_corpus, known_feature, truth_of
from attention_studio.utils.paths import crm_folder

FEATURES = ((Site(0, "mlp"), 293), (Site(1, "mlp"), 217))
N_TOKENS = 4096
# Attacked whether it holds or not.
SETTINGS = AgentSettings(revisions=0, holds=0.0)


@cache
def known() -> dict[int, tuple[FeatureMaterial, Concept, Concept]]:
    """By index of a feature its material, what it is known to be, and what it is not."""
    loaded = ModelManager().load_model_sync(ModelConfig(name="demo", device="cpu"))
    crm = CompleteReplacementModel.from_folder(loaded, crm_folder("demo"))
    truth = truth_of(loaded, N_TOKENS)
    firings = feature_activations(crm, FEATURES, truth.corpus)
    source = MaterialSource(crm, FeatureTexts.read(crm, demo_corpus(loaded, N_TOKENS), FEATURES))
    found = {}
    for feature in FEATURES:
        match = known_feature(truth, firings[feature].where)
        assert match is not None
        concept = truth.concepts[match.concept]
        like = [one for one in truth.concepts if one.family == concept.family]
        other = next(one for one in like if not one.tokens & concept.tokens)
        found[feature[1]] = (source(*feature), concept, other)
    return found


def explained(material: FeatureMaterial, said: Concept, attacks: list[str]) -> FeatureVerdict:
    """By a model that says of a feature what ``said`` is."""
    answer = {"label": said.family, "sentence": said.sentence}
    backend = ScriptedBackend(
        [json.dumps(answer)],
        otherwise=json.dumps({"should_fire": attacks, "should_not_fire": []}),
    )
    return FeatureAgent(backend, SETTINGS, "deterministic").explain(material)


def overall(assessment: Assessment) -> float:
    """The mean of its scores."""
    value = assessment.overall
    assert value is not None
    return value


@pytest.mark.parametrize("index", [293, 217])
def test_who_knows_is_scored_above_who_lies(index: int) -> None:
    material, concept, other = known()[index]
    texts = [f"the {next(iter(one.tokens)).strip()}" for one in (concept, other)]
    knowing = explained(material, concept, texts[:1])
    lying = explained(material, other, texts[1:])
    assert overall(knowing.tried[-1]) > overall(lying.tried[-1]) + 0.3
    assert lying.chosen is lying.baseline
    # The model itself refutes what the one who lies says that the feature fires on.
    assert [attack.refutes for attack in lying.tried[-1].attacks] == [True]


def test_who_knows_replaces_what_code_gets_wrong() -> None:
    """Latent 217 of the second MLP fires on full stops, not all of them; code lists what stood
    before them, and the scores tell that it does not hold."""
    material, concept, _ = known()[217]
    verdict = explained(material, concept, [])
    assert concept.name == "'.'"
    assert verdict.chosen is verdict.tried[-1]
    assert verdict.chosen.explanation.author == "scripted"
    assert overall(verdict.chosen) > overall(verdict.baseline) + 0.2


def test_who_knows_only_ties_where_code_is_right() -> None:
    material, concept, _ = known()[293]
    verdict = explained(material, concept, [])
    assert concept.name == "' and'"
    assert verdict.chosen is verdict.baseline
    assert overall(verdict.tried[-1]) == pytest.approx(overall(verdict.baseline))
