"""The replacement models that come along hold what is said of them."""

from __future__ import annotations

import pytest

from attention_studio.core.dictionaries.crm_folder import load_manifest
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.model_manager import ModelManager
from attention_studio.core.training_config import TrainConfig
from attention_studio.demo.building import PROMPTS_FILE
from attention_studio.demo.dictionaries import CRMRecipe, crm_config, report
from attention_studio.utils.files import read_json
from attention_studio.utils.paths import BUILT_IN_CRMS, DEMO_ASSETS

MAX_BYTES = 20_000_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return ModelManager(cache_dir=tmp_path_factory.mktemp("cache")).load_model_sync("demo")


@pytest.mark.parametrize("name", BUILT_IN_CRMS)
def test_a_complete_replacement_model_of_the_demo(demo: LoadedModel, name: str) -> None:
    folder = BUILT_IN_CRMS[name]
    manifest = load_manifest(folder)
    assert manifest.model.weights_hash == demo.info.weights_hash
    layers = tuple(range(demo.info.n_layers))
    assert manifest.layers_of("mlp") == manifest.layers_of("attention") == layers
    assert (manifest.clt_config() is not None) == (name == "demo-clt")
    every = [record for record in read_json(DEMO_ASSETS / PROMPTS_FILE) if record["classic"]]
    found = report(demo, folder, every)
    assert found.fvu_mlp < 0.05
    assert found.fvu_attention < 0.10
    assert found.recovered > 0.98
    assert found.dead < 0.05
    assert found.replacement > 0.8
    assert found.completeness > 0.9


@pytest.mark.parametrize("name", BUILT_IN_CRMS)
def test_the_recipe_is_the_one_that_made_it(demo: LoadedModel, name: str) -> None:
    training = load_manifest(BUILT_IN_CRMS[name]).training
    folder = BUILT_IN_CRMS[name].name
    expected = crm_config(folder, demo.info.n_layers, training.seed, CRMRecipe())
    assert TrainConfig.model_validate(training.settings) == expected


def test_all_that_comes_along_is_small() -> None:
    files = [path for path in DEMO_ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
