"""Training the complete replacement models that come along with the demo's model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.crm_trainer import CRMTrainer, run_to_end
from attention_studio.core.dictionaries.crm_folder import load_manifest
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import SiteKind
from attention_studio.core.training_config import TrainConfig
from attention_studio.core.training_events import TrainEvent
from attention_studio.core.training_folder import HISTORY_NAME
from attention_studio.demo.building import MODEL_FOLDER, PROMPTS_FILE
from attention_studio.demo.rows import pack
from attention_studio.demo.text import DemoText
from attention_studio.demo.tokenizer import START, piece_ids
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import read_json
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

CRM_FOLDERS = ("crm", "clt")
"""Transcoders and Lorsas on every layer; a cross-layer transcoder and Lorsas as the alternative."""

_HELD_OUT_ROWS = 160
_KINDS: tuple[SiteKind, ...] = ("mlp", "attention")
_SETTINGS: Mapping[str, Any] = {
    "d_latent": 768,
    "k": 24,
    "attention_latents": 384,
    "attention_k": 24,
    "tokens": 600_000,
    "batch_tokens": 1024,
    "block_tokens": 32_768,
    "harvest_dtype": "float32",
    "selection_dtype": "float32",
    "decay": 0.5,
    "dead_after_tokens": 20_000,
    "heldout_tokens": 16_384,
    "downstream_tokens": 4_096,
    "checkpoint_every": 1_000_000,
}


class NotMeasuredError(StudioError):
    """A number that a report needs is missing; names it."""


@dataclass(frozen=True)
class CRMRecipe:
    """How the demo's dictionaries are trained. All of it decides the weights.

    Attributes:
        row_length: tokens of a row of text, as the model was trained with.
        rows: distinct rows to train on.
        settings: fields of ``TrainConfig`` by name; layers, seed and row length come by themselves.
            Types are given, so that the same weights come out whatever the processor can do.
    """

    row_length: int = 128
    rows: int = 6_000
    settings: Mapping[str, Any] = field(default_factory=lambda: dict(_SETTINGS))


@dataclass(frozen=True)
class CRMReport:
    """What a complete replacement model reached on held-out text and on the standard prompts.

    ``fvu_mlp``, ``fvu_attention``, ``dead``: means over modules; ``worst_dead``: of the worst
    module; ``recovered``, ``kl``: with every module in place and no error terms; ``replacement``,
    ``completeness``: means over the standard prompts' graphs.
    """

    fvu_mlp: float
    fvu_attention: float
    dead: float
    worst_dead: float
    recovered: float
    kl: float
    replacement: float
    completeness: float
    n_bytes: int


def crm_config(name: str, n_layers: int, seed: int, recipe: CRMRecipe) -> TrainConfig:
    """The training settings of one complete replacement model of a demo model.

    Args:
        name: one of ``CRM_FOLDERS``.
        n_layers: of the model; every layer's MLP and attention is replaced.
        seed: of the weights.
        recipe: how to train.
    """
    layers = tuple(range(n_layers))
    return TrainConfig(
        **{
            "layers": layers,
            "attention_layers": layers,
            "mlp": "clt" if name == "clt" else "transcoder",
            "seed": seed,
            "seq_len": recipe.row_length,
            **recipe.settings,
        }
    )


def build_crm(
    seed: int,
    out: Path,
    name: str,
    recipe: Optional[CRMRecipe] = None,
    ctx: Optional[WorkContext] = None,
    on_event: Optional[Callable[[TrainEvent], None]] = None,
) -> CRMReport:
    """Train one complete replacement model of the model in ``out`` and write it beside it.

    Args:
        seed: the one that the model was built with.
        out: holds ``model/`` and ``prompts.json``, as ``build_model`` wrote them.
        name: one of ``CRM_FOLDERS``.
        recipe: how to train; None: as the package's own were.

    Raises:
        StudioError: whatever the trainer refuses, or a file that cannot be written.
        Cancelled: through ``ctx``.
    """
    recipe = recipe or CRMRecipe()
    text = DemoText(seed)
    loaded = ModelManager().load_model_sync(ModelConfig("demo", out / MODEL_FOLDER, "cpu"), ctx)
    config = crm_config(name, loaded.info.n_layers, seed, recipe)
    ids = piece_ids(loaded.tokenizer)
    corpus = demo_corpus(text, ids, recipe.rows, recipe.row_length, held_out=False)
    heldout = demo_corpus(text, ids, _HELD_OUT_ROWS, recipe.row_length, held_out=True)
    shutil.rmtree(out / name, ignore_errors=True)
    trainer = CRMTrainer(loaded, corpus, heldout, config, out / name)
    folder = run_to_end(trainer, ctx, on_event)
    (folder / HISTORY_NAME).unlink()  # what is shipped is the result
    return report(loaded, folder, read_json(out / PROMPTS_FILE))


def report(loaded: LoadedModel, folder: Path, prompts: Sequence[Mapping[str, Any]]) -> CRMReport:
    """What the CRM in ``folder`` reached, from its manifest and from graphs of ``prompts``.

    Raises:
        NotMeasuredError: a number of the report is missing.
        CRMFormatError, CRMMismatchError: ``folder`` holds no CRM of this model.
    """
    manifest = load_manifest(folder)
    builder = GraphBuilder(CompleteReplacementModel.from_folder(loaded, folder))
    scores = [builder.build(prompt["prompt"]).scores for prompt in prompts]
    rows = {
        kind: [e.metrics for e in manifest.dictionaries.values() if e.site.kind == kind]
        for kind in _KINDS
    }
    dead = _known("dead_fraction", rows["mlp"] + rows["attention"])
    together = [manifest.training.metrics]
    return CRMReport(
        fvu_mlp=_mean(_known("fvu", rows["mlp"])),
        fvu_attention=_mean(_known("fvu", rows["attention"])),
        dead=_mean(dead),
        worst_dead=max(dead),
        recovered=_mean(_known("loss_recovered", together)),
        kl=_mean(_known("kl", together)),
        replacement=_mean(_known("replacement", [asdict(score) for score in scores])),
        completeness=_mean(_known("completeness", [asdict(score) for score in scores])),
        n_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _known(name: str, rows: Sequence[Mapping[str, Optional[float]]]) -> list[float]:
    """A number of each of the rows, all of which must have it: a zero would look perfect."""
    values = [row.get(name) for row in rows]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        raise NotMeasuredError(
            f"{name} of this replacement model was not measured",
            f"{len(known)} of {len(values)} values are known",
            "Train dictionaries for all modules, with downstream_tokens above 0, and give prompts",
        )
    return known


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def demo_corpus(
    text: DemoText, ids: Mapping[str, int], n_rows: int, length: int, held_out: bool
) -> TokenCorpus:
    """Rows of the demo's text, from the side of the split that is asked for."""
    start = ids[START]
    # Other samples than those that the model was trained on.
    rows = pack(text.stream(held_out, part=1), ids, start, n_rows, length)
    lengths = np.full(n_rows, length, dtype=np.int32)
    return TokenCorpus.of(rows.tokens.astype(np.int32), lengths, start)
