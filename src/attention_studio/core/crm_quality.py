"""What is measured of complete replacement models, and how several compare.

Records without torch, so that the window can show and save them; ``core.crm_comparison`` makes
them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from attention_studio.core.sites import SiteKind
from attention_studio.core.training_events import DENSITY_EDGES, ERROR_EDGES, SiteMetrics
from attention_studio.utils.files import atomic_write, write_json_atomic

DEAD_LIMIT, DENSE_LIMIT = 0.10, 0.05
"""More dead or dense latents than these shares are a defect of a dictionary."""

MODULE_METRICS = (
    "fvu",
    "affine_fvu",
    "l0",
    "dead_fraction",
    "dense_fraction",
    "loss_recovered",
    "kl",
)
"""The numbers of ``SiteMetrics`` that say how good a dictionary is, in the order of reports."""
MEAN_METRICS = ("fvu", "l0", "dead_fraction", "dense_fraction")
"""Those of them whose mean over modules says something about a whole CRM."""
_ROW_NAMES = (
    *(f"mean_{name}" for name in MEAN_METRICS),
    "loss_recovered",
    "kl",
    "replacement",
    "completeness",
)


def coverage(mlps: int, attentions: int, n_layers: int) -> str:
    """What a CRM covers, in words: ``"30 of 30 MLPs, 30 of 30 attention blocks"``."""
    parts = []
    if mlps or not attentions:
        parts.append(f"{mlps} of {n_layers} MLPs")
    if attentions:
        parts.append(f"{attentions} of {n_layers} attention blocks")
    return ", ".join(parts)


def defects(found: SiteMetrics) -> dict[str, str]:
    """What is wrong with a dictionary: the name of the metric, and why it is too bad."""
    wrong = {}
    if found.affine_fvu is not None and found.fvu > found.affine_fvu:
        wrong["fvu"] = "Worse than the best affine map, which has no latents at all"
    if found.dead_fraction > DEAD_LIMIT:
        wrong["dead_fraction"] = f"More than {DEAD_LIMIT:.0%} of the latents never fire"
    if found.dense_fraction > DENSE_LIMIT:
        wrong["dense_fraction"] = (
            f"More than {DENSE_LIMIT:.0%} of the latents fire at over a tenth of the tokens"
        )
    return wrong


@dataclass(frozen=True)
class EvaluationRequest:
    """What is measured on.

    Attributes:
        folders: of the CRMs, all of one model.
        sources: of the text, best none that they were trained on; as ``core.corpus.read_texts``
            takes them.
        prompts: that are traced, for the scores of their graphs.
        tokens: of the text, at most.
        downstream_tokens: tokens on which the model's own loss is measured; 0: it is not.
        seq_len: tokens per sequence, at most what the model takes.
    """

    folders: tuple[Path, ...]
    sources: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    tokens: int = 16_384
    downstream_tokens: int = 1024
    seq_len: int = 128


@dataclass(frozen=True)
class PromptScores:
    """The scores of one prompt's attribution graph, as in ``GraphScores``."""

    prompt: str
    replacement: float
    completeness: float
    max_identity_error: float


@dataclass(frozen=True)
class CRMQuality:
    """Everything that is measured of one CRM.

    Attributes:
        folder: where it is.
        n_layers: of its model.
        tokens: how many were measured on.
        modules: its dictionaries, in order of the forward pass; ``affine_fvu`` is what was measured
            when they were trained, and ``tokens`` what they were trained on.
        together: cross-entropies, ``loss_recovered`` and ``kl`` with all modules replaced at once;
            empty if they were not measured.
        prompts: the scores of each prompt's graph.
    """

    folder: Path
    n_layers: int
    tokens: int
    modules: tuple[SiteMetrics, ...]
    together: dict[str, Optional[float]]
    prompts: tuple[PromptScores, ...]

    def count(self, kind: SiteKind) -> int:
        """How many modules of a kind it replaces."""
        return sum(found.site.kind == kind for found in self.modules)

    @property
    def coverage(self) -> str:
        """What it covers, in words."""
        return coverage(self.count("mlp"), self.count("attention"), self.n_layers)

    def mean(self, name: str) -> Optional[float]:
        """The mean of a number of ``SiteMetrics`` over modules, or of one of ``PromptScores`` over
        prompts; None where it was not measured."""
        rows: tuple[Any, ...] = self.modules if name in MODULE_METRICS else self.prompts
        return _mean(getattr(found, name) for found in rows)

    def summary(self) -> dict[str, Optional[float]]:
        """One row of a comparison: means over modules, what holds for all of them at once, and
        means over prompts."""
        return {
            **{f"mean_{name}": self.mean(name) for name in MEAN_METRICS},
            "loss_recovered": self.together.get("loss_recovered"),
            "kl": self.together.get("kl"),
            "replacement": self.mean("replacement"),
            "completeness": self.mean("completeness"),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "crm": str(self.folder),
            "tokens": self.tokens,
            "metrics": {
                found.site.name: {name: getattr(found, name) for name in MODULE_METRICS}
                for found in self.modules
            },
            "together": dict(self.together),
            "graphs": [asdict(scores) for scores in self.prompts],
            "summary": self.summary(),
            "density": {found.site.name: list(found.density) for found in self.modules},
            "density_edges": list(DENSITY_EDGES),
            "errors": {found.site.name: list(found.errors) for found in self.modules},
            "error_edges": list(ERROR_EDGES),
        }


@dataclass(frozen=True)
class CRMComparison:
    """Several CRMs of one model, measured on the same text and prompts."""

    model: str
    crms: tuple[CRMQuality, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"model": self.model, "crms": [crm.as_dict() for crm in self.crms]}

    def csv(self) -> str:
        """A row for each CRM as a whole, and one for each of its modules; cells of what was not
        measured are empty."""
        text = io.StringIO()
        names = ["crm", "module", "tokens", *MODULE_METRICS]
        names += [name for name in _ROW_NAMES if name not in names]
        rows = csv.DictWriter(text, names, lineterminator="\n")
        rows.writeheader()
        for crm in self.crms:
            whole = {"crm": str(crm.folder), "module": "all", "tokens": crm.tokens}
            rows.writerow({**whole, **crm.summary()})
            for found in crm.modules:
                numbers = {name: getattr(found, name) for name in MODULE_METRICS}
                rows.writerow({**whole, "module": found.site.name, **numbers})
        return text.getvalue()

    def save(self, path: Path) -> None:
        """Write it as CSV if the file's name ends so, else as JSON.

        Raises:
            FileWriteError: the disk is full, the folder is read-only, and the like.
        """
        if path.suffix.lower() != ".csv":
            write_json_atomic(path, self.as_dict())
            return
        with atomic_write(path) as staging:
            staging.write_text(self.csv(), encoding="utf-8")


def _mean(values: Iterable[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
