"""Rebuilding what the package brings along, from nothing but a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from attention_studio.demo.accuracy import Score, score
from attention_studio.demo.model_training import ModelRecipe, train_model
from attention_studio.demo.prompts import standard_prompts
from attention_studio.demo.text import TASKS, DemoText
from attention_studio.demo.tokenizer import START, build_tokenizer, piece_ids
from attention_studio.utils.files import atomic_folder, write_json_atomic
from attention_studio.utils.progress import WorkContext

MODEL_FOLDER = "model"
PROMPTS_FILE = "prompts.json"
NOTE_FILE = "studio.json"
SCORED_SAMPLES = 500
"""Held-out samples of each task that a finished model is scored on."""


@dataclass(frozen=True)
class ModelReport:
    """What a trained model reached on held-out samples, by task, and its size."""

    scores: dict[str, Score]
    n_parameters: int


def build_model(
    seed: int,
    out: Path,
    recipe: Optional[ModelRecipe] = None,
    ctx: Optional[WorkContext] = None,
    watch: Optional[Callable[[int, float, Any], None]] = None,
    scored_samples: int = SCORED_SAMPLES,
) -> ModelReport:
    """Train the demo's model and write it with its tokenizer and standard prompts into ``out``.

    Writes ``model/`` (configuration, float16 safetensors, tokenizer and a note of seed, recipe and
    scores) and ``prompts.json``, each whole or not at all.

    Args:
        seed: of the world, the text and the weights.
        out: the folder; what it has of these files is replaced.
        recipe: by default that of the demo.
        ctx: progress and cancellation.
        watch: see ``train_model``.
        scored_samples: held-out samples of each task that the model is scored on.

    Raises:
        FileWriteError: the files cannot be written.
        Cancelled: through ``ctx``.
    """
    recipe = recipe or ModelRecipe()
    text = DemoText(seed)
    tokenizer = build_tokenizer(text)
    ids = piece_ids(tokenizer)
    model = train_model(text, ids, ids[START], recipe, ctx, watch)
    scores = score_tasks(model, ids, text, scored_samples)
    with atomic_folder(out / MODEL_FOLDER) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        note = {
            "name": "demo",
            "source": "comes with AttentionStudio",
            "seed": seed,
            "recipe": asdict(recipe),
            "held_out_scores": {task: asdict(score) for task, score in scores.items()},
        }
        write_json_atomic(folder / NOTE_FILE, note)
    write_json_atomic(out / PROMPTS_FILE, standard_prompts(text))
    return ModelReport(scores, sum(parameter.numel() for parameter in model.parameters()))


def score_tasks(
    model: Any, ids: Mapping[str, int], text: DemoText, count: int, held_out: bool = True
) -> dict[str, Score]:
    """The score of each task on ``count`` samples of one side of the split.

    A task's own samples count for it; the answers within stories count together, as ``stories``.
    """
    scores = {}
    for task in TASKS:
        samples = text.samples(task, count, held_out)
        scores[task] = score(model, ids, ids[START], samples)
    return scores
