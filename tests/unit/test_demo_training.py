"""Training the demo's model, at a size that takes seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attention_studio.core.model_manager import ModelManager
from attention_studio.demo.accuracy import score
from attention_studio.demo.building import MODEL_FOLDER, NOTE_FILE, PROMPTS_FILE, build_model
from attention_studio.demo.model_training import (
    ModelRecipe,
    learning_rate,
    new_model,
    train_model,
)
from attention_studio.demo.prompts import standard_prompts
from attention_studio.demo.text import TASKS, DemoText
from attention_studio.demo.tokenizer import START, build_tokenizer, piece_ids
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.files import read_json
from attention_studio.utils.progress import WorkContext

TINY = ModelRecipe(
    d_model=16, n_layers=1, n_heads=2, d_mlp=16, row_length=32, short_length=16, rows=2, steps=6
)


@pytest.fixture(scope="module")
def text() -> DemoText:
    return DemoText(3)


@pytest.fixture(scope="module")
def ids(text: DemoText) -> dict[str, int]:
    return piece_ids(build_tokenizer(text))


def test_same_seed_same_weights(text: DemoText, ids: dict[str, int]) -> None:
    one, other = (train_model(text, ids, ids[START], TINY).state_dict() for _ in range(2))
    fresh = new_model(TINY, len(ids), text.seed).state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])
    assert not torch.equal(one["model.embed_tokens.weight"], fresh["model.embed_tokens.weight"])


def test_training_lowers_the_loss_and_half_the_bytes_hold_the_weights(
    text: DemoText, ids: dict[str, int]
) -> None:
    losses: list[float] = []
    recipe = replace(TINY, steps=60, rows=8, learning_rate=1e-2, warm_up=5)
    model = train_model(
        text, ids, ids[START], recipe, watch=lambda step, loss, model: losses.append(loss)
    )
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    for parameter in model.parameters():
        assert torch.equal(parameter, parameter.half().float())


def test_the_rate_rises_then_falls() -> None:
    recipe = replace(TINY, steps=1000, warm_up=100)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates.index(max(rates)) == 99
    assert rates[0] < 0.02 * recipe.learning_rate
    assert rates[-1] == pytest.approx(0.02 * recipe.learning_rate, rel=0.01)
    assert rates[99:] == sorted(rates[99:], reverse=True)


def test_a_cancelled_training_stops(text: DemoText, ids: dict[str, int]) -> None:
    ctx = WorkContext()
    with pytest.raises(Cancelled):
        train_model(text, ids, ids[START], TINY, ctx, watch=lambda step, loss, model: ctx.cancel())


def test_scores_tell_knowing_from_guessing(text: DemoText, ids: dict[str, int]) -> None:
    samples = text.samples("sums", 70, held_out=True)

    class Knowing(torch.nn.Module):
        """Gives the right token a probability of about 0.9 on every second row."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor) -> object:
            logits = torch.zeros(*input_ids.shape, len(ids))
            for row in range(0, len(input_ids), 2):
                for position, token in enumerate(input_ids[row, 1:].tolist()):
                    logits[row, position, token] = 9.0
            return type("Output", (), {"logits": logits})

    found = score(Knowing(), ids, ids[START], samples)
    assert found.answers == 70
    assert found.accuracy == pytest.approx(0.5)
    right = torch.tensor([9.0] + [0.0] * (len(ids) - 1)).softmax(0)[0].item()
    assert found.probability == pytest.approx((right + 1 / len(ids)) / 2, rel=1e-4)


def test_what_is_built_loads(tmp_path: Path) -> None:
    report = build_model(3, tmp_path, TINY, scored_samples=10)
    assert set(report.scores) == set(TASKS)
    names = {path.name for path in (tmp_path / MODEL_FOLDER).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", NOTE_FILE} <= names
    loaded = ModelManager(cache_dir=tmp_path / "cache").load_model_sync(tmp_path / MODEL_FOLDER)
    assert (loaded.info.family, loaded.info.start_token) == ("llama", START)
    assert loaded.info.n_parameters == report.n_parameters
    note = read_json(tmp_path / MODEL_FOLDER / NOTE_FILE)
    assert note["seed"] == 3
    assert set(note["held_out_scores"]) == set(TASKS)
    prompts = read_json(tmp_path / PROMPTS_FILE)
    assert len(prompts) == len(standard_prompts(DemoText(3)))
    ids = loaded.encode(prompts[0]["prompt"])
    assert loaded.token_strings(ids)[1:] == prompts[0]["tokens"]
