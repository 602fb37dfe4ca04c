"""What a training run has reported so far, ready to be drawn. Plain numbers, no plots."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from attention_studio.core.crm_quality import DEAD_LIMIT, DENSE_LIMIT, defects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from attention_studio.core.sites import Site
    from attention_studio.core.training_events import Evaluated, SiteMetrics, StepDone

MAX_POINTS = 1_000
OTHER_MARKS = (("s", "■"), ("t", "▼"), ("d", "◆"), ("+", "✚"), ("star", "★"))
"""Marks of runs that are drawn beside: as the plots call them, and as a letter."""


def module_text(site: Site) -> str:
    """A module's name for people: ``"MLP 3"``, ``"Attention 3"``."""
    return f"{'MLP' if site.kind == 'mlp' else 'Attention'} {site.layer}"


@dataclass(frozen=True)
class Metric:
    """What one curve shows. ``least_range`` keeps a flat curve from being blown up to noise;
    ``together``: what several modules reach at once is shown instead of their mean."""

    key: str
    title: str
    help: str
    least_range: float
    positive: bool = True
    together: bool = False


METRICS = (
    Metric(
        "fvu", "FVU", "Share of the output's variance that is not explained; lower is better", 0.05
    ),
    Metric("l0", "L0", "Active latents per token", 2.0),
    Metric("dead", "Dead latents", "Share of latents that never fire", 0.02),
    Metric(
        "recovered",
        "Loss recovered",
        "On held-out text; 1 is as good as the model itself. With all modules of the run in place, "
        "or with the chosen one alone",
        0.1,
        positive=False,
        together=True,
    ),
)


@dataclass
class Series:
    """Values of all modules over tokens; thinned out by half whenever it grows too long."""

    tokens: list[float] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, tokens: float, values: NDArray[np.float64]) -> None:
        """Add one point: ``values`` [modules]."""
        self._seen += 1
        if self._seen % self._stride:
            return
        self.tokens.append(tokens)
        self.values.append(values)
        if len(self.tokens) > MAX_POINTS:
            self.tokens, self.values = self.tokens[1::2], self.values[1::2]
            self._stride *= 2

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tokens [n] and values [n, modules]."""
        if not self.tokens:
            return np.zeros(0), np.zeros((0, 0))
        return np.asarray(self.tokens), np.stack(self.values)


@dataclass(frozen=True)
class Choice:
    """Some modules to look at: what they are called, and their places in ``RunHistory.sites``."""

    text: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class OtherRun:
    """A run whose curves are drawn beside: what it is called, and what it measured."""

    name: str
    history: RunHistory

    @classmethod
    def of(cls, name: str, rows: Sequence[SiteMetrics]) -> OtherRun:
        """From the rows of a run's history, in order of training."""
        sites = tuple(sorted({row.site for row in rows}))
        history = RunHistory(sites)
        history.add_earlier(rows)
        return cls(name, history)

    def places(self, choice: Choice, sites: tuple[Site, ...]) -> tuple[int, ...]:
        """Which of this run's modules are what a choice among the ``sites`` of another means: the
        same module, or all of the same kind."""
        chosen = tuple(sites[place] for place in choice.places)
        if len(chosen) > 1:
            return tuple(
                n for n, site in enumerate(self.history.sites) if site.kind == chosen[0].kind
            )
        return tuple(n for n, site in enumerate(self.history.sites) if site in chosen)


_ALARMS = {
    "fvu": "worse than the best affine map: lower the learning rate, or train longer",
    "dead_fraction": f"more than {DEAD_LIMIT:.0%} of the latents dead: fewer latents, a larger K "
    "at first, or more tokens",
    "dense_fraction": f"more than {DENSE_LIMIT:.0%} of the latents dense: a smaller K, or more "
    "latents",
}


def alarm_text(rows: Sequence[SiteMetrics]) -> str:
    """What is wrong with which modules, and what may help; "" where nothing is."""
    wrong: dict[str, list[str]] = {}
    for found in sorted(rows, key=lambda one: one.site):
        for name in defects(found):
            wrong.setdefault(name, []).append(module_text(found.site))
    lines = []
    for name, modules in wrong.items():
        more = f" and {len(modules) - 4} more" if len(modules) > 4 else ""
        lines.append(f"⚠ {', '.join(modules[:4])}{more}: {_ALARMS[name]}.")
    return "\n".join(lines)


class RunHistory:
    """What a run has reported so far, on its batches and on held-out text.

    ``newest`` are the rows of the last evaluation, in no particular order; ``together`` is the loss
    recovered with all modules in place, a single column. (A mean over modules would not do: the
    share that a module recovers is divided by what the model loses without it, which may be next
    to nothing.)
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self.sites = sites
        self.newest: tuple[SiteMetrics, ...] = ()
        self.batch = {metric.key: Series() for metric in METRICS}
        self.heldout = {metric.key: Series() for metric in METRICS}
        self.together = Series()

    def add_step(self, done: StepDone) -> None:
        """Take over the numbers of one batch."""
        by_site = {m.site: m for m in done.metrics}
        ordered = [by_site.get(site) for site in self.sites]
        rows = {
            "fvu": [m.fvu if m else np.nan for m in ordered],
            "l0": [m.l0 if m else np.nan for m in ordered],
            "dead": [m.dead_fraction if m else np.nan for m in ordered],
        }
        for key, values in rows.items():
            self.batch[key].add(done.tokens, np.asarray(values, dtype=float))

    def add_evaluation(self, seen: Evaluated) -> None:
        """Take over the numbers of one evaluation."""
        self._add_heldout(seen.tokens, seen.metrics)
        if seen.loss_recovered is not None:
            self.together.add(seen.tokens, np.array([seen.loss_recovered]))

    def add_earlier(self, rows: Sequence[SiteMetrics]) -> None:
        """Take over what a resumed run had measured before, in order of training."""
        for tokens, group in itertools.groupby(rows, key=lambda row: row.tokens):
            self._add_heldout(tokens, tuple(group))

    def choices(self) -> tuple[Choice, ...]:
        """What can be looked at: the mean of the MLPs, the mean of attention, each module."""
        found = []
        for kind, text in (("mlp", "MLPs"), ("attention", "attention blocks")):
            places = tuple(n for n, site in enumerate(self.sites) if site.kind == kind)
            if len(places) > 1:
                found.append(Choice(f"Mean of {len(places)} {text}", places))
        singles = (Choice(module_text(site), (n,)) for n, site in enumerate(self.sites))
        return (*found, *singles)

    def _add_heldout(self, tokens: int, metrics: Sequence[SiteMetrics]) -> None:
        self.newest = tuple(metrics)
        by_site = {m.site: m for m in metrics}
        ordered = [by_site.get(site) for site in self.sites]
        rows: dict[str, list[float]] = {
            "fvu": [m.fvu if m else np.nan for m in ordered],
            "l0": [m.l0 if m else np.nan for m in ordered],
            "dead": [m.dead_fraction if m else np.nan for m in ordered],
            "recovered": [
                m.loss_recovered if m and m.loss_recovered is not None else np.nan for m in ordered
            ],
        }
        for key, values in rows.items():
            self.heldout[key].add(tokens, np.asarray(values, dtype=float))
