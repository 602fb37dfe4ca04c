"""What agents say of features, as calls of the core and of the agents."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attention_studio.core.feature_records import PERSON
from attention_studio.core.script_text import ScriptError
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui.demo_opener import MODEL
from attention_studio.ui.work_agents import SAMPLES, SEQ_LEN

if TYPE_CHECKING:
    from attention_studio.ui.scripts.steps import Steps
    from attention_studio.ui.scripts.table import Source
    from attention_studio.ui.work_talking import AgentRequest

_AGENTS, _CORE = "attention_studio.agents", "attention_studio.core"


def _material(steps: Steps, source: Source, request: AgentRequest) -> None:
    """Write how to read the text that a feature is explained from."""
    session, script = source.session, steps.script
    feature, info = session.feature, session.model_info
    if feature is None or info is None:
        raise ScriptError("No feature is looked at", "there is nothing to explain", "choose one")
    steps.need("crm")
    site, index = feature
    kind = script.use(f"{_CORE}.sites", "Site")
    script.assign("feature", f"({kind}({site.layer}, {site.kind!r}), {index})")
    if session.store is not None:
        opened = script.use(f"{_CORE}.feature_store", "FeatureStore")
        script.assign("store", f"{opened}.open({script.value(session.store.folder)})")
    else:
        script.assign("store", "None")
    if not request.sources and info.name == MODEL:
        read = script.use("attention_studio.demo.known_features", "demo_corpus")
        script.assign("corpus", f"{read}(crm.loaded, {request.tokens})")
    else:
        read = script.use(f"{_CORE}.corpus", "build_corpus")
        sources = script.value(request.sources or (SAMPLES,))
        length = min(SEQ_LEN, info.context_length)
        script.assign("corpus", f"{read}(crm.loaded, {sources}, {length}, {request.tokens})")
    texts = script.use(f"{_AGENTS}.feature_texts", "FeatureTexts")
    like = script.use(f"{_AGENTS}.feature_material", "features_like")
    script.assign("texts", f"{texts}.read(crm, corpus, [feature, *{like}(store, *feature)])")
    made = script.use(f"{_AGENTS}.feature_material", "MaterialSource")
    script.assign("material", f"{made}(crm, texts, store)(*feature)")


def _agent(
    steps: Steps, request: AgentRequest, module: str = "feature_agent", kind: str = "FeatureAgent"
) -> None:
    """Write who is asked."""
    steps.need("settings")
    script = steps.script
    choose = script.use(f"{_AGENTS}.backends.choice", "choose_backend")
    script.assign("backend", f"{choose}(settings, {request.who!r})")
    budget = script.use(f"{_AGENTS}.budget", "Budget")
    meter = script.use(f"{_AGENTS}.budget", "Meter")
    limits = (request.max_tokens, request.max_calls, request.max_seconds, request.max_cost)
    script.assign("budget", f"{budget}({', '.join(map(repr, limits))})")
    agent = script.use(f"{_AGENTS}.{module}", kind)
    judge = ""
    if kind == "FeatureAgent":
        judge = f"judge={'deterministic' if request.who == 'local' else 'model'!r}, "
    script.assign("agent", f"{agent}(backend, {judge}meter={meter}(budget, backend.price))")


def _explain(steps: Steps, source: Source) -> None:
    request = source.handler("agents.explain").request()
    _material(steps, source, request)
    if request.who == "none":
        explain = steps.script.use(f"{_AGENTS}.feature_agent", "explain_without_model")
        steps.script.assign("verdict", f"{explain}(material)")
    else:
        _agent(steps, request)
        steps.script.assign("verdict", "agent.explain(material)")
    steps.show("verdict.chosen.explanation.label, verdict.chosen.explanation.sentence")
    steps.show("[(one.kind, one.value, one.judge_score) for one in verdict.chosen.scores]")


def _score(steps: Steps, source: Source) -> None:
    dock = source.handler("agents.score")
    request, words, script = dock.request(), dock.typed_words(), steps.script
    if not words:
        raise ScriptError("No explanation is typed", "there is nothing to score", "type one first")
    _material(steps, source, request)
    kind = script.use(f"{_AGENTS}.explanations", "Explanation")
    script.assign("said", f'{kind}("", "", {words!r}, (), {PERSON!r})')
    if request.who == "none":
        judge = script.use(f"{_AGENTS}.judges", "RuleJudge")
        script.assign("judge", f"{judge}()")
    else:
        _agent(steps, request)
        script.assign("judge", "agent.judge")
    measure = script.use(f"{_AGENTS}.explanation_scoring", "measure_judge")
    texts = script.use(f"{_AGENTS}.feature_agent", "judge_texts")
    script.assign("known", f"{measure}(judge, {texts}(material))")
    score = script.use(f"{_AGENTS}.explanation_scoring", "score_explanation")
    script.assign("scores", f"{score}(judge, said, material.held_out, known=known)")
    steps.show("[(one.kind, one.value, one.judge_score) for one in scores]")


def _circuit(steps: Steps, source: Source) -> str:
    """Write what a story is told from, and return it as arguments."""
    session, script = source.session, steps.script
    steps.need("pruned", "notes")
    mine = (
        session.crm is not None
        and session.graph is not None
        and made_by(session.graph, session.crm)
    )
    if mine:
        steps.need("crm")
    crm = "crm" if mine else "None"
    if mine and session.store is not None:
        opened = script.use(f"{_CORE}.feature_store", "FeatureStore")
        script.assign("store", f"{opened}.open({script.value(session.store.folder)})")
    else:
        script.assign("store", "None")
    return f"graph, {crm}, pruned=pruned, notes=notes, store=store"


def _describe(steps: Steps, source: Source) -> None:
    request, script = source.handler("agents.describe").request(), steps.script
    given = _circuit(steps, source)
    if request.who == "none":
        tell = script.use(f"{_AGENTS}.circuit_writer", "tell_story")
        script.assign("story", f"{tell}({given})")
    else:
        _agent(steps, request, "circuit_agent", "CircuitAgent")
        script.assign("story", f"agent.tell({given})")
    steps.show("story.text")


def _ask(steps: Steps, source: Source) -> None:
    """The ``ask`` command, as one types it, and run from here."""
    dock, session = source.handler("agents.ask"), source.session
    request, question = dock.request(), dock.last_question()
    if not question:
        raise ScriptError("No question is typed", "there is nothing to ask", "type one first")
    if request.who == "none":
        raise ScriptError(
            "No model is asked", "counting cannot answer questions",
            "choose a model under “Settings”",
        )  # fmt: skip
    words = ["ask", question]
    workspace, config, info = session.workspace, session.model_config, session.model_info
    if workspace is not None:
        words += ["--workspace", str(workspace.folder)]
    if session.crm is not None and session.crm_folder is not None and info is not None:
        path = None if config is None else config.path
        words += ["--model", str(path) if path is not None else (config or info).name]
        words += ["--crm", str(session.crm_folder)]
    if session.store is not None:
        words += ["--store", str(session.store.folder)]
    if dock.may_propose():
        words.append("--propose")
    words += ["--backend", request.who, "--max-tokens", str(request.max_tokens)]
    words += ["--max-calls", str(request.max_calls), "--max-seconds", f"{request.max_seconds:g}"]
    if request.max_cost is not None:
        words += ["--max-cost", f"{request.max_cost:g}"]
    main = steps.script.use("attention_studio.cli", "main")
    steps.script.note(shlex.join(["attention-studio", *words]))
    steps.script.line(f"raise SystemExit({main}({steps.script.value(words)}))")


def _estimate_story(steps: Steps, source: Source) -> None:
    request, script = source.handler("agents.estimate_story").request(), steps.script
    given = _circuit(steps, source)
    price = "None"
    if request.who != "none":
        steps.need("settings")
        choose = script.use(f"{_AGENTS}.backends.choice", "choose_backend")
        price = f"{choose}(settings, {request.who!r}).price"
    estimate = script.use(f"{_AGENTS}.circuit_estimate", "estimate_story")
    script.assign("outlook", f"{estimate}({given}, price={price})")
    steps.show("outlook")


def _estimate(steps: Steps, source: Source) -> None:
    request = source.handler("agents.estimate").request()
    if request.who == "none":
        raise ScriptError(
            "No model is asked", "it costs nothing but time", "choose a model under “Settings”"
        )
    _material(steps, source, request)
    _agent(steps, request)
    estimate = steps.script.use(f"{_AGENTS}.explanation_batch", "estimate")
    steps.script.assign("outlook", f"{estimate}(agent, [material], 1)")
    steps.show("outlook")


AGENT_SCRIPTS: Mapping[str, Callable[[Steps, Source], None]] = {
    "agents.explain": _explain,
    "agents.score": _score,
    "agents.estimate": _estimate,
    "agents.describe": _describe,
    "agents.estimate_story": _estimate_story,
    "agents.ask": _ask,
}
"""By id of the command."""
