"""What a run measures on its held-out text, by one process or by several that share it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Optional

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.division import Division
from attention_studio.core.evaluation import Evaluator, Predictor
from attention_studio.core.sites import Site
from attention_studio.core.training_checkpoint import (
    Progress,
    read_metrics,
    site_named,
    written_metrics,
)
from attention_studio.core.training_checks import diverged
from attention_studio.utils.progress import WorkContext


class RunEvaluator:
    """Fills in what a run's progress says of its quality.

    Args:
        evaluator: has the held-out text.
        division: who does what where several processes share the run. Each measures its own
            modules, and all come to know everything.
    """

    def __init__(self, evaluator: Evaluator, division: Optional[Division]) -> None:
        self._evaluator = evaluator
        self._division = division

    def measure_affine(
        self,
        affine: Mapping[Site, Predictor],
        progress: Progress,
        ctx: Optional[WorkContext] = None,
    ) -> None:
        """Set ``progress.affine_fvu``, from the best affine maps at all sites.

        Raises:
            Cancelled: through ``ctx``.
        """
        if self._division is None:
            progress.affine_fvu = self._evaluator.fvu_of(affine, ctx)
            return
        mine = self._evaluator.fvu_of({site: affine[site] for site in self._division.own}, ctx)
        everyone = self._division.peers.gather({site.name: fvu for site, fvu in mine.items()})
        found = {site_named(name): fvu for some in everyone for name, fvu in some.items()}
        progress.affine_fvu = {site: found[site] for site in self._division.everything}

    def measure(
        self,
        dictionaries: DictionarySet,
        progress: Progress,
        ctx: Optional[WorkContext] = None,
    ) -> None:
        """Add a row per module to ``progress.history``, and set ``progress.overall``.

        Args:
            dictionaries: this process's own.

        Raises:
            TrainingDivergedError: an FVU is no number.
            Cancelled: through ``ctx``.
        """
        found = self._evaluator.evaluate(dictionaries, ctx)
        for site, quality in found.sites.items():
            if not math.isfinite(quality.fvu):
                raise diverged(site, progress.step, "held-out FVU", quality.fvu)
        rows = found.rows(progress.tokens, progress.affine_fvu)
        if self._division is not None:
            everyone = self._division.peers.gather([written_metrics(row) for row in rows])
            rows = [read_metrics(row) for some in everyone for row in some]
            rows.sort(key=lambda row: row.site)
        progress.history.extend(rows)
        progress.overall = found.overall
