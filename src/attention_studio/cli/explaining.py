"""The headless command that explains features."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.cli.budget_words import add_budget_words, meter_of
from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    load_model,
    not_negative,
    open_corpus,
    open_crm,
    positive,
)
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.sites import Site
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.agents.explanations import Assessment, FeatureVerdict
    from attention_studio.agents.feature_agent import AgentSettings, FeatureAgent
    from attention_studio.agents.feature_material import FeatureMaterial
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.replacement_model import CompleteReplacementModel

_MEASURED = 2
"""Features whose questions an estimate is made from."""

Feature = tuple[Site, int]


def explain(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Say what features stand for, with scores and evidence."""
    from attention_studio.agents.explanation_batch import ExplanationLog, estimate, explain_many
    from attention_studio.agents.explanations import verdict_record
    from attention_studio.agents.feature_agent import explain_without_model
    from attention_studio.agents.feature_material import MaterialSource
    from attention_studio.agents.feature_texts import FeatureTexts
    from attention_studio.core.feature_store import FeatureStore

    loaded = load_model(arguments, settings, ctx)
    crm = open_crm(arguments, loaded, ctx)
    features = _features(arguments, crm)
    corpus = open_corpus(arguments, loaded, ctx)
    wanted = _settings(arguments)
    agent = _agent(arguments, settings, wanted, ctx)
    if agent is None and arguments.estimate:
        return Report({"estimate": None}, ["No model is asked: it costs nothing but time"])
    store, near = None, list[Feature]()
    if arguments.store is not None:
        store = FeatureStore.open(Path(arguments.store))
        near = _near(store, features, crm)
    log = None
    if arguments.out is not None and not arguments.estimate:
        about = {
            "model": loaded.info.name,
            "weights": loaded.info.weights_hash,
            "crm": crm.name,
            "dictionaries": crm.dictionaries_id.fingerprint,
            "text": corpus.text_hash,
            "store": None if store is None else store.about.text_hash,
            "author": "deterministic" if agent is None else agent.backend.name,
            "judge": "deterministic" if agent is None else agent.judge.name,
            "settings": _plain(wanted),
        }
        log = ExplanationLog(Path(arguments.out), about)
    # The text is read for those that something is said of: of most, an estimate says nothing.
    read = features[:_MEASURED] if arguments.estimate else [*features, *near]
    source = MaterialSource(crm, FeatureTexts.read(crm, corpus, read, ctx=ctx), store)
    if agent is not None:
        told = estimate(agent, [source(*one) for one in features[:_MEASURED]], len(features))
        if arguments.estimate:
            return Report({"estimate": _plain(told)}, [f"About {told}"])
        ctx.progress(0, len(features), f"About {told}")
    work: Callable[[FeatureMaterial], FeatureVerdict] = (
        agent.explain
        if agent is not None
        else lambda material: explain_without_model(material, wanted, ctx=ctx)
    )
    verdicts = []
    others_labels = 0
    try:
        for verdict in explain_many(features, source, work, log, arguments.workers, ctx):
            verdicts.append(verdict)
            if store is not None and arguments.label:
                others_labels += not _labelled(store, verdict)
    finally:
        if agent is not None and arguments.transcript is not None:
            agent.transcript.save(Path(arguments.transcript))
    order = {str(FeatureName(site, None, index)): n for n, (site, index) in enumerate(features)}
    verdicts.sort(key=lambda one: order[one.chosen.explanation.feature])
    data: dict[str, Any] = {"features": [verdict_record(verdict) for verdict in verdicts]}
    lines = [line for verdict in verdicts for line in _lines(verdict)]
    if others_labels:
        lines.append(f"{others_labels:,} labels that somebody else gave were left as they are")
    if agent is not None:
        spent = agent.meter.spending
        data["spent"] = _plain(spent)
        lines.append(
            f"{spent.calls:,} questions, {spent.usage.total:,} tokens, {spent.seconds:,.0f} s"
            + (f", {spent.cost:.4g} in money" if agent.backend.price is not None else "")
        )
    return Report(data, lines)


def add_explain_words(sub: argparse.ArgumentParser) -> None:
    """What ``explain`` can be told."""
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--feature", action="append", metavar="L2/F33", help="may be repeated")
    which.add_argument("--site", help="all features of a module: L2 its MLP, A2 its attention")
    which.add_argument("--all", action="store_true", help="all features of all modules")
    sub.add_argument("--first", type=positive, help="of these only so many")
    sub.add_argument(
        "--text",
        nargs="+",
        default=[],
        help="files or folders; half of the text explains, the other half is for scoring. The "
        "demo brings its own",
    )
    sub.add_argument("--tokens", type=positive, default=49_152, help="of the text, at most so many")
    sub.add_argument("--seq-len", type=positive, default=128, help="tokens per sequence")
    sub.add_argument("--store", help="take what is known of features from these dashboards")
    sub.add_argument("--label", action="store_true", help="write the labels into --store")
    sub.add_argument(
        "--backend",
        choices=("deterministic", "local", "endpoint"),
        default="deterministic",
        help="who explains: no model (if left out), the local chat model, or the endpoint of the "
        "settings; a model stands only where it beats the deterministic explanation",
    )
    sub.add_argument(
        "--judge",
        choices=("model", "choices", "deterministic"),
        help="who scores a model's explanations: the model itself, some texts at a time in writing "
        "(an endpoint, if left out) or each by yes or no, weighed; or code that reads the tokens "
        "that they name (the local model, if left out)",
    )
    sub.add_argument(
        "--shown",
        choices=("texts", "tokens"),
        help="what a model is shown of a feature: the texts (an endpoint, if left out), or only "
        "which tokens it fires on in them (the local model, which says texts again)",
    )
    sub.add_argument(
        "--choose",
        action="store_true",
        help="have the model choose among explanations that code finds, instead of writing one",
    )
    sub.add_argument("--revisions", type=not_negative, default=2, help="attempts after the first")
    sub.add_argument(
        "--attacks", type=not_negative, default=4, help="texts of either sort; 0: none"
    )
    sub.add_argument("--workers", type=positive, default=1, help="features at a time")
    sub.add_argument("--out", help="a file of JSON lines; if it is there, the run goes on")
    sub.add_argument("--transcript", help="everything that was asked and answered, as JSON")
    sub.add_argument("--estimate", action="store_true", help="say what it would take, and stop")
    add_budget_words(sub)


def _features(arguments: argparse.Namespace, crm: CompleteReplacementModel) -> list[Feature]:
    """Which features are meant."""
    found: list[Feature] = []
    if arguments.feature:
        for text in arguments.feature:
            name = FeatureName.read(text)
            if name is None or not isinstance(name.latent, int):
                raise UsageError(f"{text} names no feature", "", "write L2/F33, or A2/F33")
            found.append((name.site, name.latent))
    else:
        sites = [site for site in crm.sites if arguments.all or site.label == arguments.site]
        if not sites:
            labels = ", ".join(site.label for site in crm.sites)
            raise UsageError(f"{arguments.site} has no dictionary", "", f"choose one of {labels}")
        for site in sites:
            found += [(site, index) for index in range(crm.dictionaries.config_at(site)[0])]
    return list(dict.fromkeys(found))[: arguments.first]


def _labelled(store: FeatureStore, verdict: FeatureVerdict) -> bool:
    """Write what was found out as the feature's label, unless a person or another model has given
    one; whether that is what it is called now."""
    from attention_studio.agents.explanations import DETERMINISTIC

    said = verdict.chosen.explanation
    name = FeatureName.read(said.feature)
    if name is None or not isinstance(name.latent, int):
        return False
    before = store.label(name.site, name.latent)
    if before is not None and before.by not in (said.author, DETERMINISTIC):
        return False
    if before is None or (before.text, before.by) != (said.label, said.author):
        store.set_label(name.site, name.latent, said.label, said.author)
    return True


def _near(
    store: FeatureStore, features: Sequence[Feature], crm: CompleteReplacementModel
) -> list[Feature]:
    """Features like some: where they fire are near misses.

    Raises:
        UsageError: the dashboards are of another replacement model.
    """
    fits = store.about.fits(crm.loaded.info.weights_hash, crm.dictionaries_id)
    if not fits or any(site not in crm.sites for site, _ in features):
        raise UsageError(
            f"These dashboards are of {store.about.crm_name}",
            f"the replacement model is {crm.name}",
            "name dashboards of this one",
        )
    from attention_studio.agents.feature_material import features_like

    like = (other for one in features for other in features_like(store, *one))
    return list(dict.fromkeys(like))


def _settings(arguments: argparse.Namespace) -> AgentSettings:
    from attention_studio.agents.feature_agent import AgentSettings

    shown = arguments.shown or ("tokens" if arguments.backend == "local" else "texts")
    return AgentSettings(
        texts=shown == "texts",
        chooses=arguments.choose,
        revisions=arguments.revisions,
        attacks=arguments.attacks,
    )


def _agent(
    arguments: argparse.Namespace,
    settings: Settings,
    wanted: AgentSettings,
    ctx: ConsoleContext,
) -> Optional[FeatureAgent]:
    """The agent that is asked for; None: no model."""
    if arguments.backend == "deterministic":
        return None
    from attention_studio.agents.backends.choice import choose_backend
    from attention_studio.agents.feature_agent import FeatureAgent

    backend = choose_backend(settings, arguments.backend)
    own = "deterministic" if arguments.backend == "local" else "model"
    judge = arguments.judge or own
    return FeatureAgent(
        backend, wanted, judge, meter=meter_of(arguments, settings, backend), ctx=ctx
    )


def _plain(value: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _lines(verdict: FeatureVerdict) -> list[str]:
    """A verdict for people."""
    said = verdict.chosen.explanation
    lines = [f"{said.feature}: {said.label}", f"  {said.sentence}", f"  by {said.author}"]
    if verdict.reason:
        lines[-1] += f" ({verdict.reason})"
    lines += _score_lines(verdict.chosen)
    for attack in verdict.chosen.attacks:
        if attack.refutes:
            does = f"fires with {attack.activation:.3g}" if attack.activation else "is silent"
            lines.append(f"  refuted: it {does} on {attack.text!r}")
    return lines


def _score_lines(assessment: Assessment) -> list[str]:
    lines = []
    for score in assessment.scores:
        value = "none" if score.value is None else f"{score.value:.2f}"
        between = "" if score.low is None else f" ({score.low:.2f} to {score.high:.2f})"
        known = "" if score.judge_score is None else f", judge {score.judge_score:.2f} where known"
        caution = f"; {score.caution}" if score.caution else ""
        lines.append(f"  {score.kind} {value}{between}{known}{caution}")
    withstood = assessment.withstood
    if withstood is not None:
        lines.append(f"  withstood {withstood:.0%} of {len(assessment.attacks)} attacks")
    return lines
