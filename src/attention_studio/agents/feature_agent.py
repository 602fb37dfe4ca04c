"""Explains features: the deterministic baseline, and a chat model that has to beat it.

The model sees examples and logit effects, says what the feature is, and is held against other
examples. What it got wrong goes back to it until it holds, then it attacks what it said with texts
of its own, which the real model is run on. It stands in the end only if it foretells texts that
nobody has seen better than the baseline does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from attention_studio.agents.backends.json_answers import JsonAnswerError
from attention_studio.agents.backends.records import Backend, BackendError
from attention_studio.agents.base_agent import BaseAgent, Rules
from attention_studio.agents.budget import BudgetSpentError
from attention_studio.agents.choice_explainer import choose_explanation
from attention_studio.agents.choice_judge import ChoiceJudge
from attention_studio.agents.deterministic_explainer import (
    explain_in_ways,
    explain_page,
    feature_name,
    page_examples,
)
from attention_studio.agents.explanation_scoring import (
    JudgeRecord,
    detection_score,
    measure_judge,
    score_explanation,
)
from attention_studio.agents.explanations import (
    DETERMINISTIC,
    MAX_LABEL,
    MAX_SENTENCE,
    SCORE_KINDS,
    Assessment,
    Attack,
    Evidence,
    Explanation,
    FeatureVerdict,
    ScoreKind,
    now,
)
from attention_studio.agents.feature_attacks import MAX_TEXT, attack_rule, run_attack
from attention_studio.agents.feature_material import FeatureMaterial
from attention_studio.agents.feature_texts import ScoringExamples
from attention_studio.agents.firing_rules import printable, quoted, rule_from_words
from attention_studio.agents.judges import Judge, ModelJudge, RuleJudge, plain, shown_text
from attention_studio.core.feature_records import Example
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext

_EXPLAIN = (
    "You explain features, units inside a language model that fire on some tokens of a text and "
    "are silent on all others. In the examples the tokens on which the feature fires are marked "
    "with << >>. Texts are between <text> and </text>. Say what the marked tokens have in common "
    "that other tokens do not have: which tokens, what kind of word, what stands before them, or "
    "what comes next. Quote tokens like 'this'. Answer in JSON only."
)
_EXPLAIN_COUNTS = (
    "You explain features, units inside a language model that fire on some tokens of a text. Say "
    "on which tokens it fires: these tokens, that kind of word, or whatever stands right after "
    "others. Quote tokens like 'this'. Answer in JSON only."
)
_ATTACK = (
    "You test explanations of a feature, a unit inside a language model that fires on some tokens "
    "of a text. Write short texts that would refute the explanation if it were wrong: some on "
    "which it says that the feature fires, unlike any that were shown, and some that come close "
    "and on which it says that it does not. Answer in JSON only."
)
_MOST_MISTAKES = 6


@dataclass(frozen=True)
class AgentSettings:
    """How features are explained.

    Attributes:
        kinds: which scores are made of what stands in the end.
        shown_fires, shown_silent: examples that a model is shown.
        texts: whether a model is shown these as texts, or only which tokens the feature fires on in
            them. Small models say parts of the texts again.
        chooses: whether a model chooses among explanations that code finds, instead of writing its
            own, which small models cannot.
        checked: examples of either sort that an attempt is checked on before it is scored.
        holds: balanced accuracy on those from which on an attempt holds.
        revisions: attempts after the first.
        attacks: texts of either sort in an attack; 0: none.
        seed: of draws.
    """

    kinds: tuple[ScoreKind, ...] = SCORE_KINDS
    shown_fires: int = 10
    shown_silent: int = 4
    texts: bool = True
    chooses: bool = False
    checked: int = 8
    holds: float = 0.85
    revisions: int = 2
    attacks: int = 4
    seed: int = 0


class _Told(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Proposal(_Told):
    """What a model says of a feature."""

    # Without descriptions: small models give them back as their answer.
    label: str = Field(min_length=1, max_length=2000)
    sentence: str = Field(min_length=1, max_length=8000)


class AttackTexts(_Told):
    """Texts that may refute an explanation: on which it says that the feature fires, and not."""

    should_fire: list[str] = Field(max_length=32)
    should_not_fire: list[str] = Field(max_length=32)


def explain_without_model(
    material: FeatureMaterial,
    settings: Optional[AgentSettings] = None,
    known: Optional[JudgeRecord] = None,
    ctx: Optional[WorkContext] = None,
) -> FeatureVerdict:
    """What the deterministic explainer makes of a feature, scored and attacked.

    Args:
        known: how the deterministic judge did on known cases; None: measured on this material.
    """
    baseline = assess_baseline(material, settings or AgentSettings(), known, ctx)
    return FeatureVerdict(baseline, baseline, (), "no language model was asked")


def assess_baseline(
    material: FeatureMaterial,
    settings: AgentSettings,
    known: Optional[JudgeRecord] = None,
    ctx: Optional[WorkContext] = None,
) -> Assessment:
    """The deterministic explanation of a feature with its scores and attacks."""
    explanation = explain_page(material.page, material.silent, material.fires)
    if material.page.dead:
        return Assessment(explanation)
    judge = RuleJudge()
    if known is None:
        known = measure_judge(judge, judge_texts(material), settings.kinds, settings.seed, ctx)
    scores = score_explanation(
        judge, explanation, material.held_out, settings.kinds, known, settings.seed, ctx
    )
    attacks: tuple[Attack, ...] = ()
    if explanation.rule is not None and settings.attacks:
        attacks = attack_rule(
            explanation.rule, material, explanation.author, settings.attacks, settings.seed
        )
    return Assessment(explanation, scores, attacks)


def judge_texts(material: FeatureMaterial) -> tuple[Example, ...]:
    """Texts that known cases are made of."""
    return (*page_examples(material.page, material.fires), *material.silent)


class FeatureAgent(BaseAgent):
    """Explains features with a chat model. Several threads may use one agent.

    Args:
        backend: the model.
        settings: how.
        judge: who scores the model's explanations: ``model`` (itself, some texts at a time in
            writing), ``choices`` (itself, each text by yes or no, weighed) or ``deterministic``
            (code that reads the tokens they name; for models too small to judge).
        options: of ``BaseAgent``: the budget, the transcript, cancellation.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Optional[AgentSettings] = None,
        judge: str = "model",
        per_question: int = 5,
        **options: Any,
    ) -> None:
        options.setdefault("rules", Rules(max_tokens=200))
        super().__init__(backend, **options)
        self.settings = settings or AgentSettings()
        self.judge: Judge = RuleJudge()
        if judge == "model":
            self.judge = ModelJudge(backend.name, self.answer_as, per_question)
        elif judge == "choices":
            self.judge = ChoiceJudge(backend.name, self.choose)
        self._known: dict[str, JudgeRecord] = {}
        self._measuring = threading.Lock()

    def measure_judges(self, texts: Sequence[Example]) -> None:
        """Hold the judges against known cases once, for all features of a run.

        Raises:
            BackendError, BudgetSpentError, Cancelled: as ``ask``.
        """
        with self._measuring:  # others wait for what one finds out
            for judge in (RuleJudge(), self.judge):
                if judge.name not in self._known:
                    self._known[judge.name] = measure_judge(
                        judge, texts, self.settings.kinds, self.settings.seed, self.ctx
                    )

    def explain(self, material: FeatureMaterial) -> FeatureVerdict:
        """Explain one feature.

        Where the model fails or the budget ends, what was reached stands, and the verdict says so.

        Raises:
            Cancelled: through the context.
        """
        baseline = assess_baseline(
            material, self.settings, self._known.get(RuleJudge.name), self.ctx
        )
        if material.page.dead:
            return FeatureVerdict(
                baseline, baseline, (), "it never fires: there is nothing to explain"
            )
        tried: list[Assessment] = []
        try:
            self.measure_judges(judge_texts(material))
            self._attempt(material, tried)
            best = self._best(tried)
            assert best is not None  # _attempt made one, or raised
            scores = score_explanation(
                self.judge,
                best.explanation,
                material.held_out,
                self.settings.kinds,
                self._known[self.judge.name],
                self.settings.seed,
                self.ctx,
            )
            scored = replace(best, scores=scores)
            chosen, reason = _compared(scored, baseline)
            if chosen is scored and not scored.attacks:  # it never held where it was checked
                scored = replace(scored, attacks=self._attack(material, scored.explanation))
                chosen, reason = _compared(scored, baseline)
        except Cancelled:
            raise
        except (BackendError, BudgetSpentError) as error:
            return FeatureVerdict(baseline, baseline, tuple(tried), str(error))
        return FeatureVerdict(
            chosen, baseline, (*(t for t in tried if t is not best), scored), reason
        )

    def question(self, material: FeatureMaterial) -> str:
        """What the model is told of a feature at first."""
        shown, silent, _ = self._parted(material)
        return self._examples(material, shown, silent)

    # ---- attempts --------------------------------------------------------------------------------

    def _attempt(self, material: FeatureMaterial, tried: list[Assessment]) -> None:
        """Try, check, attack, and try again, into ``tried``."""
        shown, silent, checked = self._parted(material)
        said = self._examples(material, shown, silent)
        if self.settings.chooses:
            explanation = self._choice(material, said)
            check = detection_score(self.judge, explanation, checked, self.settings.seed, self.ctx)
            tried.append(Assessment(explanation, (check,)))
            return
        feedback = ""
        for number in range(1 + self.settings.revisions):
            try:
                system = _EXPLAIN if self.settings.texts else _EXPLAIN_COUNTS
                proposal = self.answer_as(Proposal, system, said + feedback)
            except JsonAnswerError:
                if tried:  # it cannot do better than before
                    return
                raise
            explanation = self._explanation(material, proposal, (*shown, *silent))
            check = detection_score(
                self.judge, explanation, checked, self.settings.seed + number, self.ctx
            )
            tried.append(Assessment(explanation, (check,)))
            holds = check.value is not None and check.value >= self.settings.holds
            attacks = self._attack(material, explanation) if holds else ()
            tried[-1] = replace(tried[-1], attacks=attacks)
            refuted = [attack for attack in attacks if attack.refutes]
            if holds and not refuted:
                return
            if number < self.settings.revisions:
                wrong = self._mistakes(explanation, checked)
                feedback = _feedback(explanation, wrong, refuted)

    def _choice(self, material: FeatureMaterial, said: str) -> Explanation:
        """The explanation that the model chooses of those that code finds."""
        ways = explain_in_ways(material.page, material.silent, material.fires)
        if len(ways) < 2:
            raise BackendError("There is nothing to choose from", "code found one rule or none")
        chosen = ways[choose_explanation(self.choose, said, ways)]
        return replace(chosen, author=f"{chosen.author}, chosen by {self.backend.name}")

    def _parted(
        self, material: FeatureMaterial
    ) -> tuple[list[Example], list[Example], ScoringExamples]:
        """Examples for the model to see, and others to check what it says on."""
        wanted, quiet = self.settings.shown_fires, self.settings.shown_silent
        fires = page_examples(material.page, material.fires)
        fires.sort(key=lambda example: -float(example.values.max()))
        # The strongest ones first, then some of all strengths.
        strongest, rest = fires[: wanted // 2], fires[wanted // 2 :]
        step = max(len(rest) // max(wanted - len(strongest), 1), 2)
        shown = strongest + rest[::step][: wanted - len(strongest)]
        taken = {id(example) for example in shown}
        left = [example for example in fires if id(example) not in taken]
        rng = np.random.default_rng([self.settings.seed, material.page.index])
        order = rng.permutation(len(left))[: self.settings.checked]
        checked = ScoringExamples(
            tuple(left[place] for place in order.tolist()),
            tuple(material.silent[quiet:][: self.settings.checked]),
            (),
            material.page.max_activation,
        )
        return shown, list(material.silent[:quiet]), checked

    def _examples(
        self, material: FeatureMaterial, shown: Sequence[Example], silent: Sequence[Example]
    ) -> str:
        """All that the model is told of a feature: data, on one line each."""
        top = max(material.page.max_activation, 1e-12)
        lines: list[str] = []
        if self.settings.texts:
            lines.append("Texts on which it fires, with its strength from 1 to 10:")
            for example in shown:
                marks = np.flatnonzero(example.values > 0).tolist()
                strength = max(1, round(10 * float(example.values.max()) / top))
                lines.append(f"{strength}: <text>{shown_text(example.tokens, marks)}</text>")
        if self.settings.texts and silent:
            lines.append("Texts on which it is silent:")
            lines += [f"<text>{shown_text(example.tokens)}</text>" for example in silent]
        if material.page.promoted:
            words = quoted([token for token, _ in material.page.promoted])
            lines.append(f"Next tokens that it makes likelier: {plain(words)}")
        lines.append(f"Marked tokens, the commonest first: {plain(quoted(_marked(shown, 0)))}")
        lines.append(f"Tokens right before them: {plain(quoted(_marked(shown, 1)))}")
        if not self.settings.chooses:
            lines.append("What does it fire on? Give a label of a few words, and one sentence.")
        return "\n".join(lines)

    def _explanation(
        self, material: FeatureMaterial, proposal: Proposal, shown: Sequence[Example]
    ) -> Explanation:
        """What the model said, on one line, with what of it is in the examples it was shown."""
        label, sentence = (_one_line(text) for text in (proposal.label, proposal.sentence))
        evidence = [
            Evidence(
                "example",
                f"text {example.sequence}:{example.start + int(example.values.argmax())}",
                f"was shown; fires with {float(example.values.max()):.3g}",
            )
            for example in shown
            if example.values.any()
        ]
        pieces = [
            (token, value)
            for example in shown
            for token, value in zip(example.tokens, example.values.tolist(), strict=True)
        ]
        rule = rule_from_words(f"{label}. {sentence}", [token for token, _ in pieces])
        for token in rule.tokens if rule is not None else ():
            on = [value > 0 for piece, value in pieces if piece == token]
            says = f"fires at {sum(on)} of {len(on)} in the examples shown"
            evidence.append(Evidence("token", token, says))
        return Explanation(
            feature=feature_name(material.page),
            label=label[:MAX_LABEL],
            sentence=sentence[:MAX_SENTENCE],
            evidence=tuple(evidence),
            author=self.backend.name,
            made_at=now(),
        )

    def _attack(self, material: FeatureMaterial, explanation: Explanation) -> tuple[Attack, ...]:
        """Texts that the model writes, run through the real one; where it writes none that can be
        run, or chose what code found, those that code makes."""
        if material.probe is None or not self.settings.attacks:
            return ()
        each, author = self.settings.attacks, self.backend.name
        texts = AttackTexts(should_fire=[], should_not_fire=[])
        if not self.settings.chooses:
            texts = self._attack_texts(material, explanation)
        attacks = tuple(
            run_attack(material.probe, text[:MAX_TEXT], should_fire, author)
            for should_fire, some in ((True, texts.should_fire), (False, texts.should_not_fire))
            for text in some[:each]
        )
        rule = RuleJudge.rule(explanation, [one.tokens for one in judge_texts(material)])
        if rule is None or any(attack.activation is not None for attack in attacks):
            return attacks
        return attacks + attack_rule(rule, material, DETERMINISTIC, each, self.settings.seed)

    def _attack_texts(self, material: FeatureMaterial, explanation: Explanation) -> AttackTexts:
        """What the model writes to refute an explanation; none where it writes something else."""
        each = self.settings.attacks
        some = page_examples(material.page, material.fires)[:3]
        like = "\n".join(f"<text>{shown_text(example.tokens)}</text>" for example in some)
        task = (
            f"Explanation: {plain(explanation.words)}\n\nWrite {each} texts of each sort, each of "
            f"5 to 20 words, like these:\n{like}"
        )
        try:
            return self.answer_as(AttackTexts, _ATTACK, task)
        except JsonAnswerError:
            return AttackTexts(should_fire=[], should_not_fire=[])

    def _mistakes(
        self, explanation: Explanation, checked: ScoringExamples
    ) -> list[tuple[Example, bool]]:
        """Texts that the judge got wrong by the explanation, and whether they fire."""
        asked = [*checked.fires, *checked.quiet]
        told = self.judge.fires(explanation, [example.tokens for example in asked], self.ctx)
        return [
            (example, bool(example.values.any()))
            for example, answer in zip(asked, told, strict=True)
            if answer is not bool(example.values.any())
        ][:_MOST_MISTAKES]

    @staticmethod
    def _best(tried: Sequence[Assessment]) -> Optional[Assessment]:
        """The attempt that did best where it was checked, and then where it was attacked."""

        def worth(attempt: Assessment) -> tuple[float, float]:
            withstood = attempt.withstood
            return attempt.overall or 0.0, 0.5 if withstood is None else withstood

        return max(tried, key=worth, default=None)


def _marked(shown: Sequence[Example], before: int) -> list[str]:
    """The tokens on which a feature fires, or those so many before them, the commonest first."""
    counts: Counter[str] = Counter()
    for example in shown:
        for place in np.flatnonzero(example.values > 0).tolist():
            if place >= before:
                counts[example.tokens[place - before]] += 1
    return [token for token, _ in counts.most_common()]


def _feedback(
    explanation: Explanation, wrong: Sequence[tuple[Example, bool]], refuted: Sequence[Attack]
) -> str:
    """What goes back to the model: what it said and where that is wrong."""
    lines = ["", "", f"You said: {plain(explanation.words)}", "That is wrong on these texts:"]
    for example, fires in wrong:
        marks = np.flatnonzero(example.values > 0).tolist()
        does = "it fires" if fires else "it is silent"
        lines.append(f"{does}: <text>{shown_text(example.tokens, marks)}</text>")
    for attack in refuted:
        does = "it is silent" if attack.should_fire else f"it fires at '{attack.at}'"
        lines.append(f"{does}: <text>{plain(attack.text)}</text>")
    lines.append("Say better what the feature fires on.")
    return "\n".join(lines)


def _compared(scored: Assessment, baseline: Assessment) -> tuple[Assessment, str]:
    """Which of the two stands, and why: what foretells unseen texts better, unless most texts
    that attack it refute it."""
    mine, theirs = scored.overall, baseline.overall
    if mine is None or theirs is None:
        return (
            (baseline, "neither can be scored") if mine is None else (scored, "only it has scores")
        )
    figures = f"{mine:.2f} against {theirs:.2f} of the deterministic explanation"
    ran = [attack for attack in scored.attacks if attack.activation is not None]
    refuted = sum(attack.refutes for attack in ran)
    if mine > theirs and 2 * refuted > len(ran):
        return baseline, f"{refuted} of {len(ran)} texts that attack it refute it: {figures}"
    if mine > theirs:
        return scored, f"it foretells unseen texts better: {figures}"
    return baseline, f"the model does not beat the deterministic explanation: {figures}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
