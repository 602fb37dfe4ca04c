"""The demo's model, as it comes with the package: it loads unaided and knows its world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attention_studio import cli
from attention_studio.core.model_manager import LoadedModel, ModelManager
from attention_studio.demo.accuracy import score
from attention_studio.demo.building import MODEL_FOLDER, NOTE_FILE, PROMPTS_FILE
from attention_studio.demo.prompts import standard_prompts
from attention_studio.demo.text import TASKS, DemoText
from attention_studio.demo.tokenizer import START, UNKNOWN, build_tokenizer, piece_ids
from attention_studio.utils.config import Settings
from attention_studio.utils.files import read_json
from attention_studio.utils.paths import DEMO_ASSETS

SAMPLES = 60
NOTE = read_json(DEMO_ASSETS / MODEL_FOLDER / NOTE_FILE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    cache = tmp_path_factory.mktemp("cache")
    settings = Settings(_env_file=None, cache_dir=cache, offline=True)  # type: ignore[call-arg]
    return ModelManager(settings=settings).load_model_sync("demo")


@pytest.fixture(scope="module")
def text() -> DemoText:
    return DemoText(NOTE["seed"])


def test_it_comes_along(demo: LoadedModel) -> None:
    assert (demo.info.name, demo.info.family) == ("demo", "llama")
    assert demo.info.source == NOTE["source"]
    assert demo.info.start_token == START
    assert (demo.info.dtype, demo.info.n_layers) == ("float32", 4)


def test_it_is_small() -> None:
    folder = DEMO_ASSETS / MODEL_FOLDER
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    assert sum(path.stat().st_size for path in DEMO_ASSETS.rglob("*")) < 20_000_000
    assert not [path for path in DEMO_ASSETS.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("task", TASKS)
def test_it_knows_what_it_never_read(demo: LoadedModel, text: DemoText, task: str) -> None:
    ids = piece_ids(demo.tokenizer)
    found = score(demo.model, ids, ids[START], text.samples(task, SAMPLES, held_out=True))
    # What was noted over many samples; a few dozen may fall a little short of it by chance.
    noted = NOTE["held_out_scores"][task]["accuracy"]
    assert found.accuracy >= noted - 0.1
    assert noted > 0.95
    if task == "greater_than":
        assert found.probability > 0.9


def test_its_tokens_are_those_of_its_text(demo: LoadedModel, text: DemoText) -> None:
    assert piece_ids(demo.tokenizer) == piece_ids(build_tokenizer(text))
    sample = text.samples("greater_than", 1, held_out=False)[0]
    assert tuple(demo.token_strings(demo.encode(sample.text))) == (START, *sample.pieces)
    assert demo.token_strings(demo.encode("Dallas zyx"))[1:] == [" Dallas", UNKNOWN]


def test_it_says_what_the_standard_prompts_call_for(demo: LoadedModel, text: DemoText) -> None:
    prompts = read_json(DEMO_ASSETS / PROMPTS_FILE)
    assert prompts == json.loads(json.dumps(standard_prompts(text)))
    right = 0
    for prompt in prompts:
        view = demo.next_tokens(prompt["prompt"], top_k=1)
        assert list(view.tokens[1:]) == prompt["tokens"]
        right += view.candidates[0].token in prompt["answer"]["allowed"]
    assert right >= 0.95 * len(prompts)


def test_the_command_line_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTENTION_STUDIO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ATTENTION_STUDIO_OFFLINE", "1")
    assert cli.main(["models", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["models"]}
    assert listed["demo"]["cached"]
    assert listed["demo"]["size_bytes"] < 5_000_000
    assert not list(tmp_path.glob("models/demo*"))
