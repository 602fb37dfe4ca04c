#!/usr/bin/env python3
"""Holds explanations of the demo's features against what its grammar knows of them.

    python scripts/score_agents.py [--others 200] [--attacked] [--json FILE]
    python scripts/score_agents.py --backend local --features 40 --others 0 [--judge]
    python scripts/score_agents.py --backend local --features 24 --others 0 --choose
    python scripts/score_agents.py --backend knowing --others 0

Known features are those that fire at the places of something that the grammar knows
(demo/known_features.py), found on text of its own. Explanations are made from other text and count
as right if they pick out the same places in the first, or name what is known in words; both are
printed, with every feature that is wrong. Scores on held-out examples stand beside them, for known
features and for others drawn from all that fire.

A model is asked of some features of each family, the same number as far as there are so many
(``--features``). Where it fails is counted as well (``FAILURES``), and with ``--judge`` how it does
as a judge where the truth follows from the text, beside code and beside chance.

``knowing`` is a scripted model that says of each feature what it is known to be, ``lying`` one that
says what another feature of the same family is: what the scores and the choice make of either.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray

from attention_studio.agents.backends.local_chat import LocalChat
from attention_studio.agents.backends.scripted import ScriptedBackend
from attention_studio.agents.base_agent import Rules
from attention_studio.agents.budget import Budget, Meter
from attention_studio.agents.choice_judge import ChoiceJudge
from attention_studio.agents.deterministic_explainer import (
    explain_in_ways,
    explain_page,
    page_examples,
)
from attention_studio.agents.explanation_scoring import (
    JudgeRecord,
    balanced_accuracy,
    known_cases,
    measure_judge,
    score_explanation,
)
from attention_studio.agents.explanations import (
    SCORE_KINDS,
    Assessment,
    FeatureVerdict,
    verdict_record,
)
from attention_studio.agents.feature_agent import (
    AgentSettings,
    FeatureAgent,
    explain_without_model,
    judge_texts,
)
from attention_studio.agents.feature_attacks import attack_rule
from attention_studio.agents.feature_material import FeatureMaterial, MaterialSource
from attention_studio.agents.feature_texts import FeatureTexts, ScoringExamples
from attention_studio.agents.firing_rules import named_tokens, rule_from_words
from attention_studio.agents.judges import Judge, ModelJudge, RuleJudge
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.feature_activations import feature_activations
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import Example
from attention_studio.core.model_manager import ModelConfig, ModelManager
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.demo.known_features import (
    KNOWN_FIT,
    LEAST_FIRED,
    KnownFeature,
    Truth,
    agreement,
    demo_corpus,
    known_feature,
    truth_of,
)
from attention_studio.utils.config import load_settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import write_json_atomic
from attention_studio.utils.paths import crm_folder
from attention_studio.utils.progress import WorkContext

Feature = tuple[Site, int]

BACKENDS = ("deterministic", "local", "knowing", "lying")
FAILURES = (
    "no answer in the form that was asked for",
    "quotes what is in no text that it was shown",
    "names no token of the texts",
    "names tokens on which the feature never fires",
    "names some that are right and others, or too few",
)
"""How an explanation of a model fails, the first that holds."""


@dataclass(frozen=True)
class Held:
    """An explanation of a known feature against what is known.

    ``same``: how well the places that it picks out go with the concept's (F1); ``named``: whether
    its words name the concept.
    """

    feature: str
    family: str
    truth: str
    label: str
    sentence: str
    author: str
    same: float
    named: bool

    @property
    def right(self) -> bool:
        """By either."""
        return self.named or self.same >= KNOWN_FIT


def main() -> int:
    """Score, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crm", default="demo", help="demo, demo-clt or a folder")
    parser.add_argument("--tokens", type=int, default=49_152, help="of either text")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    parser.add_argument("--features", type=int, help="so many known ones, evenly of all families")
    parser.add_argument("--others", type=int, default=200, help="features that are not known")
    parser.add_argument("--revisions", type=int, default=0, help="of a model's explanations")
    parser.add_argument("--shown", type=int, nargs=2, metavar=("FIRES", "SILENT"))
    parser.add_argument("--counts", action="store_true", help="show a model tokens, no texts")
    parser.add_argument("--attacked", action="store_true", help="find rules by attacks, too")
    parser.add_argument("--choose", action="store_true", help="have a model choose, not write")
    parser.add_argument(
        "--judge",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="FEATURES",
        help="hold the model against known cases, two from the texts of each of so many features",
    )
    parser.add_argument("--unwritten", action="store_true", help="only judges that write nothing")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for a model, at most")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = _score(arguments)
    except StudioError as error:
        print(f"score_agents.py: {error}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        write_json_atomic(arguments.json, found)
    return 0


def _score(arguments: argparse.Namespace) -> dict[str, Any]:
    loaded = ModelManager().load_model_sync(ModelConfig(name="demo", device="cpu"))
    crm = CompleteReplacementModel.from_folder(loaded, crm_folder(arguments.crm))
    features = [(s, i) for s in crm.sites for i in range(crm.dictionaries.config_at(s)[0])]
    truth = truth_of(loaded, arguments.tokens)
    firings = feature_activations(crm, features, truth.corpus)
    alive = [one for one in features if len(firings[one].where) >= LEAST_FIRED]
    known = {}
    for one in alive:
        match = known_feature(truth, firings[one].where)
        if match is not None:
            known[one] = match
    print(f"{len(known)} known of {len(alive)} features that fire, of {len(features)}")
    rng = np.random.default_rng(0)
    wanted = list(known)
    if arguments.features is not None and arguments.features < len(wanted):
        family = {one: truth.concepts[match.concept].family for one, match in known.items()}
        wanted = _evenly(wanted, family, arguments.features, rng)
    unknown = [one for one in alive if one not in known]
    drawn = rng.choice(len(unknown), min(arguments.others, len(unknown)), replace=False)
    others = [unknown[place] for place in np.sort(drawn).tolist()]
    corpus = demo_corpus(loaded, arguments.tokens)
    texts = FeatureTexts.read(crm, corpus, [*wanted, *others])
    source = MaterialSource(crm, texts)
    settings = AgentSettings(revisions=arguments.revisions)
    settings = replace(settings, texts=not arguments.counts, chooses=arguments.choose)
    if arguments.shown is not None:
        fires, silent = arguments.shown
        settings = replace(settings, shown_fires=fires, shown_silent=silent)
    explain, agent = _explainer(arguments, settings, source(*wanted[0]))
    if arguments.backend in ("knowing", "lying"):
        explain = _scripted(truth, known, settings, arguments.backend == "lying")
    if arguments.attacked:
        explain = _by_attacks(settings)
    rows = _rows(truth.corpus, loaded.token_strings)
    found: dict[str, Any] = {"known": len(known), "alive": len(alive), "features": len(features)}
    started = time.process_time()
    verdicts = []
    for one in wanted:
        verdicts.append(explain(source(*one)))
        if arguments.json is not None:  # a run that is stopped leaves what it has
            saved = arguments.json.with_suffix(".verdicts.json")
            write_json_atomic(saved, [verdict_record(verdict) for verdict in verdicts])
        if len(verdicts) % 10 == 0:
            print(f"{len(verdicts)} of {len(wanted)}", file=sys.stderr, flush=True)
    found["cpu_seconds_each"] = (time.process_time() - started) / max(len(wanted), 1)
    baselines = [verdict.baseline for verdict in verdicts]
    found["deterministic"] = _against(truth, known, wanted, baselines, rows)
    if arguments.backend != "deterministic":
        last = [v.tried[-1] if v.tried else v.baseline for v in verdicts]
        tried = [(f, a) for f, a, v in zip(wanted, last, verdicts, strict=True) if v.tried]
        model = _against(truth, known, [f for f, _ in tried], [a for _, a in tried], rows)
        model["unexplained"] = len(verdicts) - len(tried)
        model["chosen"] = sum(v.chosen is not v.baseline for v in verdicts)
        found["model"] = model
    if agent is not None:
        model["spent"] = asdict(agent.meter.spending)
        questions = {str(FeatureName(one[0], None, one[1])): one for one in wanted}
        model["failures"] = _failures(
            verdicts,
            model["held"],
            lambda name: agent.question(source(*questions[name])),
            [token for row in rows for token in row],
        )
        if arguments.choose:
            found["candidates"] = _drawn(truth, known, wanted, source, rows)
        if arguments.judge:
            judged = [source(*one) for one in wanted[: arguments.judge]]
            found["judges"] = _judges(agent, judged, not arguments.unwritten)
    plainly = explain if arguments.attacked else explain_without_model
    found["others"] = _scores([plainly(source(*one)).baseline for one in others])
    _print(found)
    return found


def _evenly(
    features: Sequence[Feature], family: dict[Feature, str], n: int, rng: np.random.Generator
) -> list[Feature]:
    """So many features, drawn from all families in turn until they are there."""
    piles: dict[str, list[Feature]] = defaultdict(list)
    for place in rng.permutation(len(features)).tolist():
        piles[family[features[place]]].append(features[place])
    drawn: list[Feature] = []
    while len(drawn) < n and any(piles.values()):
        drawn += [pile.pop() for pile in piles.values() if pile][: n - len(drawn)]
    return [one for one in features if one in set(drawn)]


def _by_attacks(settings: AgentSettings) -> Callable[[FeatureMaterial], FeatureVerdict]:
    """Explains without a model, from rules that were attacked: what the real model made of the
    texts counts among the examples from which the next rule is found, twice."""

    def explain(material: FeatureMaterial) -> FeatureVerdict:
        fires = page_examples(material.page, material.fires)
        seen = ScoringExamples(tuple(fires), material.silent, (), material.page.max_activation)
        told: list[Example] = []
        for number in range(3):
            silent = (*material.silent, *told)
            said = explain_page(material.page, silent, material.fires)
            if said.rule is None or material.probe is None or number == 2:
                break
            shown = replace(material, held_out=seen)  # not those that scores are made of
            for attack in attack_rule(said.rule, shown, said.author, 8, settings.seed + number):
                if attack.activation is not None:
                    tokens, values = material.probe(attack.text)
                    told.append(Example(tokens, values, int(values.argmax())))
        scores = score_explanation(RuleJudge(), said, material.held_out)
        attacks = attack_rule(said.rule, material, said.author) if said.rule is not None else ()
        found = Assessment(said, scores, attacks)
        return FeatureVerdict(found, found)

    return explain


def _drawn(
    truth: Truth,
    known: dict[Feature, KnownFeature],
    features: Sequence[Feature],
    source: MaterialSource,
    rows: Sequence[Sequence[str]],
) -> dict[str, float]:
    """How many would be right if one of those that a model chooses from were drawn, and if it were
    always the best one; and how many there are of each."""
    drawn = best = count = 0.0
    for one in features:
        material = source(*one)
        ways = explain_in_ways(material.page, material.silent, material.fires)
        told = [Assessment(way) for way in ways]
        held = _against(truth, known, [one] * len(ways), told, rows)["held"]
        right = [each["right"] for each in held]
        drawn, best, count = drawn + float(np.mean(right)), best + any(right), count + len(ways)
    return {"drawn": drawn, "best": best, "each": count / max(len(features), 1)}


def _failures(
    verdicts: Sequence[FeatureVerdict],
    held: Sequence[dict[str, Any]],
    question: Callable[[str], str],
    vocabulary: Sequence[str],
) -> dict[str, Any]:
    """How often a model fails in which way, and one answer of each; of what it wrote last.

    ``question`` says what the model was told of a feature; ``vocabulary`` are the texts' tokens.
    """
    by_feature = {one["feature"]: one for one in held}
    counts, shown = dict.fromkeys(FAILURES, 0), dict.fromkeys(FAILURES, "")
    for verdict in verdicts:
        if not verdict.tried:
            kind, said = FAILURES[0], verdict.reason
        else:
            explanation = verdict.tried[-1].explanation
            one = by_feature[explanation.feature]
            if one["right"]:
                continue
            told = question(explanation.feature).casefold()
            quoted = [token.strip().casefold() for token in named_tokens(explanation.words)]
            if not all(token in told for token in quoted):
                kind = FAILURES[1]
            elif rule_from_words(explanation.words, vocabulary) is None:
                kind = FAILURES[2]
            else:
                kind = FAILURES[3] if one["same"] == 0 else FAILURES[4]
            said = f"{one['truth']} | {explanation.label} | {explanation.sentence}"
        counts[kind] += 1
        shown[kind] = shown[kind] or said
    return {"counts": counts, "one of each": shown}


def _judges(
    agent: FeatureAgent, materials: Sequence[FeatureMaterial], written: bool
) -> dict[str, Any]:
    """A model as a judge, beside code: known cases from the texts of some features."""
    judges: dict[str, Judge] = {"deterministic": RuleJudge()}
    for each in (1, 5) if written else ():
        # No longer than the answers are: small models do not end their lists.
        asker = FeatureAgent(agent.backend, rules=Rules(max_tokens=16 + 4 * each))
        judges[f"model, {each} a question"] = ModelJudge(agent.backend.name, asker.answer_as, each)
    for name, weighed in (("weighed alone", False), ("against no explanation", True)):
        judges[f"model's choices, {name}"] = ChoiceJudge(agent.backend.name, agent.choose, weighed)
    found: dict[str, Any] = {}
    for name, judge in judges.items():
        started = time.process_time()
        told: dict[str, list[float]] = defaultdict(list)
        yes: list[Optional[bool]] = []
        for material in materials:
            texts = judge_texts(material)
            for explanation, examples in known_cases(texts)[:2]:
                asked = [one.tokens for one in (*examples.fires, *examples.quiet)]
                said = judge.fires(explanation, asked, WorkContext())
                yes += said
                split = len(examples.fires)
                right = [a is (n < split) for n, a in enumerate(said)]
                value = balanced_accuracy(right[:split], right[split:])
                told["detection"] += [] if value is None else [value]
                (fuzzed,) = score_explanation(judge, explanation, examples, ("fuzzing",))
                told["fuzzing"] += [] if fuzzed.value is None else [fuzzed.value]
            print(name, dict(told), file=sys.stderr, flush=True)
        found[name] = {kind: float(np.mean(values)) for kind, values in told.items()}
        found[name]["says yes"] = sum(one is True for one in yes) / max(len(yes), 1)
        found[name]["no usable answer"] = sum(one is None for one in yes) / max(len(yes), 1)
        found[name]["processor seconds"] = time.process_time() - started
    return found


def _explainer(
    arguments: argparse.Namespace, settings: AgentSettings, material: FeatureMaterial
) -> tuple[Callable[[FeatureMaterial], FeatureVerdict], Optional[FeatureAgent]]:
    known = measure_judge(RuleJudge(), judge_texts(material))
    print("deterministic judge on known cases:", _record(known))
    if arguments.backend != "local":
        return lambda one: explain_without_model(one, settings, known), None
    backend = LocalChat.from_settings(load_settings())
    meter = Meter(Budget(max_seconds=arguments.seconds))
    agent = FeatureAgent(backend, settings, "deterministic", meter=meter)
    return agent.explain, agent


def _scripted(
    truth: Truth, known: dict[Feature, KnownFeature], settings: AgentSettings, lying: bool
) -> Callable[[FeatureMaterial], FeatureVerdict]:
    """Explains with a model that says what a feature is known to be, or what another one is."""

    def explain(material: FeatureMaterial) -> FeatureVerdict:
        concept = truth.concepts[known[material.page.site, material.page.index].concept]
        if lying:
            like = [one for one in truth.concepts if one.family == concept.family]
            concept = next(one for one in like if not one.tokens & concept.tokens)
        said = json.dumps({"label": concept.family, "sentence": concept.sentence})
        nothing = json.dumps({"should_fire": [], "should_not_fire": []})
        backend = ScriptedBackend(
            otherwise=lambda messages: (
                said if "Texts on which it fires" in messages[-1].content else nothing
            )
        )
        return FeatureAgent(backend, settings, "deterministic").explain(material)

    return explain


def _record(known: JudgeRecord) -> dict[str, Any]:
    return {kind: value for kind, (value, _) in known.scores.items()}


def _rows(
    corpus: TokenCorpus, token_strings: Callable[[Sequence[int]], list[str]]
) -> list[list[str]]:
    return [token_strings(row.tolist()) for row in corpus.tokens]


def _against(
    truth: Truth,
    known: dict[Feature, KnownFeature],
    features: Sequence[Feature],
    assessments: Sequence[Assessment],
    rows: Sequence[Sequence[str]],
) -> dict[str, Any]:
    held = []
    for feature, assessment in zip(features, assessments, strict=True):
        explanation = assessment.explanation
        concept = truth.concepts[known[feature].concept]
        rule = RuleJudge.rule(explanation, [tuple(row) for row in rows])
        places: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if rule is not None:
            where = np.stack([rule.matches(row) for row in rows])
            places = np.flatnonzero(where & truth.corpus.kept())
        tokens = (
            [t for clause in explanation.rule.clauses for t in clause.named]
            if explanation.rule is not None
            else named_tokens(explanation.words)
        )
        held.append(
            Held(
                explanation.feature,
                concept.family,
                concept.name,
                explanation.label,
                explanation.sentence,
                explanation.author,
                agreement(places, truth.places[known[feature].concept]),
                concept.named(explanation.words, tokens),
            )
        )
    families: dict[str, list[Held]] = defaultdict(list)
    for one in held:
        families[one.family].append(one)
    return {
        "explained": len(held),
        "same places": sum(one.same >= KNOWN_FIT for one in held),
        "named": sum(one.named for one in held),
        "right": sum(one.right for one in held),
        "families": {
            family: {
                "explained": len(some),
                "same places": sum(one.same >= KNOWN_FIT for one in some),
                "named": sum(one.named for one in some),
                "right": sum(one.right for one in some),
            }
            for family, some in families.items()
        },
        "scores": _scores(assessments),
        "held": [asdict(one) | {"right": one.right} for one in held],
    }


def _scores(assessments: Sequence[Assessment]) -> dict[str, Any]:
    found: dict[str, Any] = {"features": len(assessments)}
    for kind in SCORE_KINDS:
        scores = [one.score(kind) for one in assessments]
        values = [score.value for score in scores if score is not None and score.value is not None]
        found[kind] = float(np.mean(values)) if values else None
    near = [one.score("detection") for one in assessments]
    told = [s.near_accuracy for s in near if s is not None and s.near_accuracy is not None]
    found["near misses told apart"] = float(np.mean(told)) if told else None
    attacks = [a for one in assessments for a in one.attacks if a.activation is not None]
    for name, should in (("should fire", True), ("should not", False)):
        some = [attack for attack in attacks if attack.should_fire is should]
        found[f"attacks, {name}"] = len(some)
        found[f"withstood, {name}"] = (
            sum(not attack.refutes for attack in some) / len(some) if some else None
        )
    return found


def _print(found: dict[str, Any]) -> None:
    for author in ("deterministic", "model"):
        result = found.get(author)
        if result is None:
            continue
        print(f"\n{author}: {result['right']} of {result['explained']} right")
        print("family | explained | same places | named | right")
        for family, row in result["families"].items():
            print(" | ".join([family, *(str(value) for value in row.values())]))
        for name, value in result["scores"].items():
            print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
        for name in ("unexplained", "chosen", "spent"):
            if name in result:
                print(f"{name}: {result[name]}")
        for kind, count in result.get("failures", {}).get("counts", {}).items():
            print(f"{kind}: {count}; {result['failures']['one of each'][kind]}")
        print("wrong:")
        for one in result["held"]:
            if not one["right"]:
                print(f"  {one['feature']} {one['truth']} | {one['label']} | {one['same']:.2f}")
    if "candidates" in found:
        print(f"right among what it chose from: {found['candidates']}")
    for name, judge in found.get("judges", {}).items():
        print(f"judge on known cases, {name}: {judge}")
    print("\nfeatures that are not known, deterministic:")
    for name, value in found["others"].items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    print(f"processor seconds a feature: {found['cpu_seconds_each']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
