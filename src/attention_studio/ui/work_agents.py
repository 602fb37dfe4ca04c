"""What lanes run for agents about features: explaining them, and scoring explanations."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

from attention_studio.ui.work_talking import (
    AgentRequest,
    AgentRun,
    Outlook,
    Spoken,
    asking,
    common,
)

if TYPE_CHECKING:
    from attention_studio.agents.explanations import FeatureVerdict
    from attention_studio.agents.feature_agent import FeatureAgent
    from attention_studio.agents.feature_material import FeatureMaterial
    from attention_studio.agents.feature_texts import FeatureTexts
    from attention_studio.core.corpus import TokenCorpus
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.sites import Site
    from attention_studio.utils.progress import WorkContext
    from attention_studio.utils.turns import Turn

SEQ_LEN, SAMPLES = 128, "samples:2000"


class TextKeeper:
    """Keeps the text that was read last, so that a second question about a feature starts at once.

    Used by whoever has the turn to compute alone.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._crm: Optional[weakref.ref[CompleteReplacementModel]] = None
        self._texts: Optional[FeatureTexts] = None

    def forget(self) -> None:
        """Keep nothing."""
        self._key = self._crm = self._texts = None

    def material(
        self,
        ctx: WorkContext,
        crm: CompleteReplacementModel,
        store: Optional[FeatureStore],
        feature: tuple[Site, int],
        request: AgentRequest,
    ) -> FeatureMaterial:
        """What a feature is explained with.

        Raises:
            StudioError: there is no text, or too little.
            Cancelled: through ``ctx``.
        """
        from attention_studio.agents.feature_material import MaterialSource, features_like
        from attention_studio.agents.feature_texts import FeatureTexts

        key = (feature, request.sources, request.tokens, None if store is None else store.folder)
        mine = self._crm is not None and self._crm() is crm
        texts = self._texts if mine and key == self._key else None
        if texts is None:
            self.forget()
            corpus = _corpus(ctx, crm, request)
            asked = [feature, *features_like(store, *feature)]
            texts = FeatureTexts.read(crm, corpus, asked, ctx=ctx)
            self._key, self._crm, self._texts = key, weakref.ref(crm), texts
        return MaterialSource(crm, texts, store)(*feature)


@dataclass(frozen=True)
class FeatureAsked:
    """A feature that is to be explained, or an explanation of it to be scored."""

    what: Literal["explain", "score"]
    feature: tuple[Site, int]

    @property
    def name(self) -> str:
        """Of the feature: ``L12/F1043``."""
        return f"{self.feature[0].label}/F{self.feature[1]}"

    def record(
        self, request: AgentRequest, spoken: Spoken, verdict: Optional[FeatureVerdict] = None
    ) -> dict[str, Any]:
        """The run as the workspace keeps it: what came of it (None: it was stopped), what it took,
        and all that was said."""
        from attention_studio.agents.explanations import verdict_record

        return {
            **common(self.what, request, spoken),
            "feature": self.name,
            "text": list(request.sources),
            "tokens": request.tokens,
            "verdict": None if verdict is None else verdict_record(verdict),
        }


def explain_feature(
    ctx: WorkContext,
    turn: Turn,
    crm: CompleteReplacementModel,
    store: Optional[FeatureStore],
    texts: TextKeeper,
    asked: FeatureAsked,
    request: AgentRequest,
    spoken: Spoken,
) -> AgentRun:
    """Explain a feature, with or without a model.

    Raises:
        StudioError: there is too little text, or nobody to ask.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.feature_agent import explain_without_model

    with turn.held(ctx):
        agent = _feature_agent(ctx, turn, crm.loaded, request, spoken, f"explain {asked.name}")
        material = texts.material(ctx, crm, store, asked.feature, request)
        verdict = agent.explain(material) if agent else explain_without_model(material, ctx=ctx)
    return AgentRun(asked.record(request, spoken, verdict), verdict)


def score_words(
    ctx: WorkContext,
    turn: Turn,
    crm: CompleteReplacementModel,
    store: Optional[FeatureStore],
    texts: TextKeeper,
    words: str,
    asked: FeatureAsked,
    request: AgentRequest,
    spoken: Spoken,
) -> AgentRun:
    """Score an explanation that a person typed, beside what the deterministic explainer reaches.

    Raises:
        StudioError: there is too little text, nobody to ask, or the budget is spent.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.explanation_scoring import measure_judge, score_explanation
    from attention_studio.agents.explanations import (
        MAX_SENTENCE,
        Assessment,
        Explanation,
        FeatureVerdict,
        now,
    )
    from attention_studio.agents.feature_agent import AgentSettings, assess_baseline, judge_texts
    from attention_studio.agents.judges import RuleJudge
    from attention_studio.core.feature_records import PERSON

    with turn.held(ctx):
        agent = _feature_agent(ctx, turn, crm.loaded, request, spoken, f"score {asked.name}")
        material = texts.material(ctx, crm, store, asked.feature, request)
        settings = AgentSettings()
        baseline = assess_baseline(material, settings, ctx=ctx)
        judge = RuleJudge() if agent is None else agent.judge
        feature = baseline.explanation.feature
        said = Explanation(feature, "", words[:MAX_SENTENCE], (), PERSON, now())
        chosen = Assessment(said)
        if not material.page.dead:
            known = measure_judge(judge, judge_texts(material), settings.kinds, settings.seed, ctx)
            scores = score_explanation(
                judge, said, material.held_out, settings.kinds, known, settings.seed, ctx
            )
            chosen = Assessment(said, scores)
    reason = "it never fires" if material.page.dead else "scored as it was typed"
    verdict = FeatureVerdict(chosen, baseline, (), reason)
    return AgentRun(asked.record(request, spoken, verdict), verdict)


def estimate_explaining(
    ctx: WorkContext,
    turn: Turn,
    crm: CompleteReplacementModel,
    store: Optional[FeatureStore],
    feature: tuple[Site, int],
    request: AgentRequest,
    texts: TextKeeper,
) -> Outlook:
    """Count about what explaining a feature takes; nobody is asked.

    Raises:
        StudioError: there is too little text, or nobody to ask.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.explanation_batch import estimate

    agent = _feature_agent(ctx, turn, crm.loaded, request, Spoken(), "estimate")
    if agent is None:
        return Outlook(feature, "No model is asked: it costs nothing but time")
    found = estimate(agent, [texts.material(ctx, crm, store, feature, request)], 1)
    money = "no price is known" if found.cost is None else f"{found.cost:.4g} in money"
    return Outlook(
        feature,
        f"This feature takes about {found.calls:,} questions, {found.tokens_in:,} tokens read, "
        f"{found.tokens_out:,} written, {money}",
    )


# -- who is asked ------------------------------------------------------------------------------


def _feature_agent(
    ctx: WorkContext,
    turn: Turn,
    loaded: LoadedModel,
    request: AgentRequest,
    spoken: Spoken,
    purpose: str,
) -> Optional[FeatureAgent]:
    """The agent that is asked about features; None: no model."""
    if request.who == "none":
        return None
    from attention_studio.agents.feature_agent import AgentSettings, FeatureAgent

    options = asking(ctx, turn, loaded, request, spoken, purpose)
    # A model of the local one's size says texts again that it is shown, and cannot judge: it is
    # told tokens alone, and code reads those that it names.
    small = request.who == "local"
    judge, settings = "deterministic" if small else "model", AgentSettings(texts=not small)
    return FeatureAgent(options.pop("backend"), settings, judge, **options)


def _corpus(ctx: WorkContext, crm: CompleteReplacementModel, request: AgentRequest) -> TokenCorpus:
    """The text that features are explained from."""
    from attention_studio.core.corpus import build_corpus
    from attention_studio.demo.known_features import demo_corpus
    from attention_studio.ui.demo_opener import MODEL

    loaded = crm.loaded
    if not request.sources and loaded.info.name == MODEL:
        return demo_corpus(loaded, request.tokens)
    sources = request.sources or (SAMPLES,)
    length = min(SEQ_LEN, loaded.info.context_length)
    return build_corpus(loaded, sources, length, request.tokens, ctx=ctx)
