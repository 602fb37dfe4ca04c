"""Scoring the graphs of the demo's standard prompts against their ground truth.

For each prompt the answer is asked for in two ways: as a logit (less the mean logit), and as a
contrast, the answer less the mean of its foils: all else that the grammar says in that role (and
after the same word, where that is common). A contrast leaves out what only says that some name, or
some year, is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.core.active_features import N_LEFT_OUT
from attention_studio.core.attribution import Targets, edges_into
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.feature_extractor import logit_effects
from attention_studio.core.graph_builder import GraphBuilder
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.core.validation import ablate_together
from attention_studio.demo.samples import Sample
from attention_studio.demo.text import TASKS, DemoText
from attention_studio.demo.tokenizer import piece_ids
from attention_studio.demo.truth import (
    AnswerFlow,
    MarkScore,
    answer_flow,
    carried_from,
    chance_of,
    score_marks,
    telling_latents,
    token_values,
)
from attention_studio.utils.progress import WorkContext

ABLATED = 10
"""Features that are taken out at once."""
_DRAWS = 8
_REFERENCES = 480
"""Samples of a task that say which latents tell an unsaid step."""
_ROLE_SAMPLES = 200
_COMMON = 20
_TOP_TOKENS = 5


@dataclass(frozen=True)
class StepScore:
    """Whether a graph shows a step that the text leaves unsaid.

    A latent tells a value if it is active in at least half of the samples with that value and in at
    most a tenth of the others; asked are only samples whose marked words all differ from the
    prompt's, so that neither word nor answer gives the value away. Positions that say it are left
    out.

    Attributes:
        role, value: the step.
        read: whether the telling latents of the true value have more influence than any other's.
        among: how many values were compared; a guess is right in one of them.
        influence: share of the features' influence that latents telling the value have.
        nodes: their share of the active features.
        promoted: the same as ``read`` for the influence of features that have the value's token
            among the five that they promote most; None where values are no tokens.
    """

    role: str
    value: str
    read: bool
    among: int
    influence: float
    nodes: float
    promoted: Optional[bool]


@dataclass(frozen=True)
class AblationScore:
    """How far the answer falls, against its foils in logits, when features are taken out of the
    model: those that carry most from the marks to it, and as many of the others that are active in
    the same modules at the same positions.

    ``marked``; ``drawn``: mean over the draws; ``beats``: whether no draw does as much.
    """

    marked: float
    drawn: float
    beats: bool


@dataclass(frozen=True)
class PromptScore:
    """All scores of one prompt. ``by_logit``, ``by_contrast`` and ``by_effect`` (the signed effects
    on the contrast, by size) score the marks."""

    task: str
    prompt: str
    says: str
    probability: float
    replacement: float
    completeness: float
    by_logit: MarkScore
    by_contrast: MarkScore
    by_effect: MarkScore
    shares: tuple[float, ...]
    marks: tuple[int, ...]
    step: Optional[StepScore]
    ablation: Optional[AblationScore]


@dataclass(frozen=True)
class _Reference:
    """A sample that says which latents tell a step: the words at its marks, and what is active."""

    value: str
    words: frozenset[str]
    active: NDArray[np.int64]


class CircuitScorer:
    """Scores graphs of one complete replacement model of the demo.

    Args:
        replacement: of the demo's model.
        text: of the seed that the model was built with.
        references: how many samples say which latents tell an unsaid step.
    """

    def __init__(
        self,
        replacement: CompleteReplacementModel,
        text: DemoText,
        references: int = _REFERENCES,
    ) -> None:
        self.replacement = replacement
        self.text = text
        self._n_references = references
        self._ids = piece_ids(replacement.loaded.tokenizer)
        configs = [replacement.dictionaries.config_at(site) for site in replacement.sites]
        self._width = max(config[0] for config in configs)
        self._said = _what_is_said(text)
        self._references: dict[str, list[_Reference]] = {}

    def score(self, record: Mapping[str, Any], ctx: Optional[WorkContext] = None) -> PromptScore:
        """Score one standard prompt (a record of ``prompts.json``).

        Raises:
            EmptyPromptError, PromptTooLongError, GraphError: as ``GraphBuilder.build``.
            Cancelled: through ``ctx``.
        """
        ctx = ctx or WorkContext()
        answer = record["answer"]
        graph = GraphBuilder(self.replacement).build(record["prompt"], ctx=ctx)
        local = self.replacement.localize(graph.token_ids)
        allowed = [self._ids[piece] for piece in answer["allowed"]]
        probabilities = local.record.logits[-1].float().softmax(-1)[allowed]
        targets = self._targets(
            local, allowed, probabilities, self._foils(answer, record["tokens"][-1])
        )
        rows = edges_into(local, targets).weights.cpu().numpy()
        by_logit, by_contrast = (answer_flow(graph, row) for row in rows)
        marks = tuple(mark["position"] for mark in answer["marks"])
        misleading = [mark["position"] for mark in answer["distractors"]]
        shares = token_values(graph, by_contrast.influence)
        return PromptScore(
            task=record["task"],
            prompt=record["prompt"],
            says=record["says"],
            probability=float(probabilities.sum()),
            replacement=graph.scores.replacement,
            completeness=graph.scores.completeness,
            by_logit=score_marks(token_values(graph, by_logit.influence), marks, misleading),
            by_contrast=score_marks(shares, marks, misleading),
            by_effect=score_marks(token_values(graph, by_contrast.effect), marks, misleading),
            shares=tuple(float(share) for share in shares),
            marks=marks,
            step=self._step(local, record, by_contrast, ctx),
            ablation=self._ablate(graph, local, targets, by_contrast, marks, ctx),
        )

    def _foils(self, answer: Mapping[str, Any], before: str) -> list[int]:
        role = (answer["task"], answer["steps"][-1]["role"])
        said = self._said.get((*role, before)) or self._said[role]
        return [self._ids[piece] for piece in sorted(said - set(answer["allowed"]))]

    def _targets(
        self, local: LocalModel, allowed: list[int], probabilities: torch.Tensor, foils: list[int]
    ) -> Targets:
        """The answer as a logit, and as a contrast to its foils; several right answers count by
        their probabilities."""
        weight = probabilities / probabilities.sum()
        directions, bias = local.logit_directions(allowed)
        right, right_bias = weight @ directions, weight @ bias
        other, other_bias = local.logit_directions(foils)
        last = torch.full((2,), len(local.ids) - 1, device=right.device)
        return Targets(
            torch.stack([right, right - other.mean(0)]),
            torch.stack([right_bias, right_bias - other_bias.mean()]),
            last,
            last[:0],
        )

    # ---- unsaid steps --------------------------------------------------------------------------

    def _step(
        self, local: LocalModel, record: Mapping[str, Any], flow: AnswerFlow, ctx: WorkContext
    ) -> Optional[StepScore]:
        answer = record["answer"]
        unsaid = [step for step in answer["steps"] if step["position"] is None]
        if not unsaid:
            return None
        role, value = unsaid[0]["role"], unsaid[0]["value"]
        pieces = record["tokens"]
        words = {pieces[mark["position"] - 1].strip() for mark in answer["marks"]}
        references = self._references_of(answer["task"], ctx)
        usable = np.array(
            [not (words - {value}) & (other.words - {other.value}) for other in references]
        )
        active = np.zeros((len(references), self._width * 2 * local.adapter.n_layers), dtype=bool)
        for row, reference in enumerate(references):
            active[row, reference.active] = True
        telling = telling_latents(active, [other.value for other in references], usable)
        if value not in telling:
            return None
        influence = flow.influence[: len(local.features)]
        here = self._counted(local, pieces, value)
        latents = self._latents(local)
        weight = {name: influence[here & mask[latents]].sum() for name, mask in telling.items()}
        return StepScore(
            role=role,
            value=value,
            read=_leads(weight, value),
            among=len(weight),
            influence=float(weight[value] / influence.sum()),
            nodes=float((here & telling[value][latents]).mean()),
            promoted=self._promoted(local, influence * here, value, list(telling)),
        )

    def _promoted(
        self, local: LocalModel, influence: NDArray[np.float64], value: str, values: list[str]
    ) -> Optional[bool]:
        if any(f" {name}" not in self._ids for name in values):
            return None
        top = logit_effects(local.adapter, local.features.decoder).topk(_TOP_TOKENS).indices
        names = {name: self._ids[f" {name}"] for name in values}
        weight = {
            name: influence[(top == token).any(1).cpu().numpy()].sum()
            for name, token in names.items()
        }
        return _leads(weight, value)

    def _latents(self, local: LocalModel) -> NDArray[np.int64]:
        """A number for the latent of each active feature, whatever the prompt."""
        features = local.features
        latents: NDArray[np.int64] = (features.site * self._width + features.index).cpu().numpy()
        return latents

    @staticmethod
    def _counted(local: LocalModel, pieces: Sequence[str], value: str) -> NDArray[np.bool_]:
        """The active features at positions that do not say the value."""
        silent = [True] * N_LEFT_OUT + [piece.strip() != value for piece in pieces]
        counted: NDArray[np.bool_] = np.array(silent)[local.features.position.cpu().numpy()]
        return counted

    def _references_of(self, task: str, ctx: WorkContext) -> list[_Reference]:
        if task not in self._references:
            samples = self.text.samples(task, self._n_references, held_out=False)
            self._references[task] = [self._reference(sample, ctx) for sample in samples]
        return self._references[task]

    def _reference(self, sample: Sample, ctx: WorkContext) -> _Reference:
        ctx.check()
        answer = sample.answers[-1]
        value = next(step.value for step in answer.steps if step.position is None)
        ids = self.replacement.loaded.encode(sample.prompt(answer))
        local = self.replacement.localize(ids)
        counted = self._counted(local, sample.pieces[: answer.position - 1], value)
        return _Reference(
            value=value,
            words=frozenset(sample.piece_at(mark.position).strip() for mark in answer.marks),
            active=np.unique(self._latents(local)[counted]),
        )

    # ---- interventions -------------------------------------------------------------------------

    def _ablate(
        self,
        graph: AttributionGraph,
        local: LocalModel,
        targets: Targets,
        flow: AnswerFlow,
        marks: Sequence[int],
        ctx: WorkContext,
    ) -> Optional[AblationScore]:
        position = local.features.position.cpu().numpy()
        site = local.features.site.cpu().numpy()
        carried = carried_from(graph, flow, marks)[: len(position)]
        chosen = np.argsort(-carried, kind="stable")[:ABLATED]
        others = np.setdiff1d(np.arange(len(position)), chosen)
        place = site * len(local.ids) + position
        pools = [others[place[others] == place[feature]] for feature in chosen]
        if not pools or min(len(pool) for pool in pools) < ABLATED:
            return None
        rng = np.random.default_rng(0)
        groups = [chosen, *(_drawn(pools, rng) for _ in range(_DRAWS))]
        device = local.features.position.device
        changed = ablate_together(
            local,
            targets,
            [torch.as_tensor(np.sort(group), device=device) for group in groups],
            ctx,
        )
        falls = -changed[:, 1].cpu().numpy()
        return AblationScore(
            marked=float(falls[0]),
            drawn=float(falls[1:].mean()),
            beats=bool(falls[0] > falls[1:].max()),
        )


def _leads(weight: Mapping[str, float], value: str) -> bool:
    """Whether a value has more weight than every other."""
    return bool(weight[value] > max((weight[name] for name in weight if name != value), default=0))


def _drawn(pools: Iterable[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """One of each pool, none twice."""
    drawn: list[int] = []
    for pool in pools:
        drawn.append(int(rng.choice(np.setdiff1d(pool, drawn))))
    return np.array(drawn)


def _what_is_said(text: DemoText) -> dict[tuple[str, ...], set[str]]:
    """All that the grammar allows as an answer, by task and role, and by task, role and the piece
    before where that is common and leaves a choice."""
    said: dict[tuple[str, ...], set[str]] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for task in TASKS:
        for held_out in (False, True):
            for sample in text.samples(task, _ROLE_SAMPLES, held_out):
                for answer in sample.answers:
                    role = (answer.task, answer.steps[-1].role)
                    before = (*role, sample.piece_at(answer.position - 1))
                    seen[before] += 1
                    said.setdefault(role, set()).update(answer.allowed)
                    said.setdefault(before, set()).update(answer.allowed)
    return {
        slot: pieces
        for slot, pieces in said.items()
        if len(slot) == 2 or (seen[slot] >= _COMMON and len(pieces) > 1)
    }


@dataclass(frozen=True)
class TaskScore:
    """Means over the standard prompts of a task; see ``MarkScore``, ``StepScore`` and
    ``AblationScore``.

    ``chance``: of a mean ``auc`` as good, for the contrast. ``guess``: mean of one over the number
    of values that a step is read among. None: the task has no such thing.
    """

    task: str
    prompts: int
    probability: float
    replacement: float
    completeness: float
    logit_share: float
    logit_auc: float
    share: float
    uniform: float
    auc: float
    nearness: float
    chance: float
    found: float
    effect_auc: float
    per_mark: float
    per_distractor: Optional[float]
    steps: int
    read: Optional[float]
    guess: Optional[float]
    step_influence: Optional[float]
    step_nodes: Optional[float]
    promoted: Optional[float]
    ablated: int
    marked_fall: Optional[float]
    drawn_fall: Optional[float]
    beats: Optional[float]


def summarise(scores: Sequence[PromptScore]) -> list[TaskScore]:
    """The means by task, in the order in which tasks come."""
    by_task: dict[str, list[PromptScore]] = {}
    for score in scores:
        by_task.setdefault(score.task, []).append(score)
    return [_task_score(task, found) for task, found in by_task.items()]


def _task_score(task: str, scores: Sequence[PromptScore]) -> TaskScore:
    marks = [score.by_contrast for score in scores]
    steps = [score.step for score in scores if score.step is not None]
    ablations = [score.ablation for score in scores if score.ablation is not None]
    return TaskScore(
        task=task,
        prompts=len(scores),
        probability=_mean(score.probability for score in scores) or 0.0,
        replacement=_mean(score.replacement for score in scores) or 0.0,
        completeness=_mean(score.completeness for score in scores) or 0.0,
        logit_share=_mean(score.by_logit.share for score in scores) or 0.0,
        logit_auc=_mean(score.by_logit.auc for score in scores) or 0.0,
        share=_mean(mark.share for mark in marks) or 0.0,
        uniform=_mean(mark.uniform for mark in marks) or 0.0,
        auc=_mean(mark.auc for mark in marks) or 0.0,
        nearness=_mean(mark.nearness for mark in marks) or 0.0,
        chance=chance_of([(np.array(score.shares), score.marks) for score in scores]),
        found=_mean(mark.found for mark in marks) or 0.0,
        effect_auc=_mean(score.by_effect.auc for score in scores) or 0.0,
        per_mark=_mean(mark.per_mark for mark in marks if mark.per_distractor is not None)
        or _mean(mark.per_mark for mark in marks)
        or 0.0,
        per_distractor=_mean(
            mark.per_distractor for mark in marks if mark.per_distractor is not None
        ),
        steps=len(steps),
        read=_mean(step.read for step in steps),
        guess=_mean(1 / step.among for step in steps),
        step_influence=_mean(step.influence for step in steps),
        step_nodes=_mean(step.nodes for step in steps),
        promoted=_mean(step.promoted for step in steps if step.promoted is not None),
        ablated=len(ablations),
        marked_fall=_mean(ablation.marked for ablation in ablations),
        drawn_fall=_mean(ablation.drawn for ablation in ablations),
        beats=_mean(ablation.beats for ablation in ablations),
    )


def _mean(values: Iterable[float]) -> Optional[float]:
    """The mean; None of nothing."""
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def as_record(scores: Sequence[PromptScore]) -> dict[str, Any]:
    """Everything that was measured, for JSON: means by task, and each prompt."""
    return {
        "tasks": [asdict(task) for task in summarise(scores)],
        "prompts": [asdict(score) for score in scores],
    }
