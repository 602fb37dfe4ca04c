"""Agents in words: who is asked, what is missing for it, what it may take, what was said. Knows no
Qt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import urlsplit

from attention_studio.ui.text import duration

if TYPE_CHECKING:
    from attention_studio.agents.answers import Answer
    from attention_studio.agents.circuit_estimate import StoryEstimate
    from attention_studio.agents.circuit_story import Link, Sentence, Story
    from attention_studio.agents.explanations import Attack, Evidence, FeatureVerdict, Score
    from attention_studio.agents.proposals import GraphProposal
    from attention_studio.ui.work_talking import AgentRequest, Who
    from attention_studio.utils.config import Settings

_KINDS = {
    "example": "Example",
    "token": "Token",
    "logit": "Effect on the output",
    "neighbour": "Feature like it",
    "attack": "Attack",
}
_MOST_TITLE = 80
_MOST_SHOWN = 200_000
"""Characters of a transcript that the window shows; its file has all."""


def lacking(settings: Settings, who: Who) -> str:
    """Why this model cannot be asked, and what to do; "": it can."""
    if who != "endpoint":
        return ""
    missing = [
        name
        for name, value in (
            ("ATTENTION_STUDIO_AGENT_URL", settings.agent_url),
            ("ATTENTION_STUDIO_AGENT_MODEL", settings.agent_model),
        )
        if value is None
    ]
    if missing:
        return (
            f"No endpoint can be asked: {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. Set them in the environment or in a "
            "file .env and start the studio again"
        )
    if settings.offline:
        return (
            "The settings forbid connections: ATTENTION_STUDIO_OFFLINE is set. Take it away and "
            "start the studio again"
        )
    return ""


def described(settings: Settings, who: Who) -> str:
    """Who that is, and what is sent where."""
    if who == "none":
        return (
            "No language model is asked: tokens, contexts and logit effects are counted. Questions "
            "cannot be answered so"
        )
    if who == "local":
        return (
            f"{settings.agent_local_model} runs in this process: nothing is sent anywhere. Small "
            "models explain badly; what does not beat the deterministic explanation does not stand"
        )
    host = urlsplit(settings.agent_url or "").hostname or "the endpoint"
    return (
        f"{settings.agent_model} at {host} is asked: examples of the feature are sent there, and "
        "for a question what the tools tell of the workspace. What does not beat the deterministic "
        "explanation does not stand"
    )


def cannot_ask(settings: Settings, who: Who) -> str:
    """Why this model cannot be asked questions, and what to do; "": it can."""
    if who == "none":
        return (
            "Questions need a language model: counting cannot answer them. Choose one under "
            "Settings: the model in this process, or an endpoint (ATTENTION_STUDIO_AGENT_URL and "
            "_AGENT_MODEL)"
        )
    return lacking(settings, who)


def who_answers(settings: Settings, who: Who) -> str:
    """Who answers a question, and what is sent where."""
    if who == "local":
        return (
            f"{settings.agent_local_model} answers in this process; models of its size seldom call "
            "tools, and say much that nothing shows"
        )
    host = urlsplit(settings.agent_url or "").hostname or "the endpoint"
    return f"{settings.agent_model} at {host} answers, and is sent what its tools look at"


def priced(settings: Settings) -> bool:
    """Whether it is known what the endpoint's tokens cost."""
    return settings.agent_price_in is not None or settings.agent_price_out is not None


def bound(request: AgentRequest) -> str:
    """What a run takes at most, by its budget."""
    if request.who == "none":
        return "Costs nothing but time"
    words = (
        f"At most {request.max_tokens:,} tokens, {request.max_calls:,} questions and "
        f"{duration(request.max_seconds)}"
    )
    settings = request.settings
    if request.who == "local":
        return f"{words}; it costs nothing"
    if not priced(settings):
        return f"{words}; no price is set, so what it costs is not known"
    dear = max(settings.agent_price_in or 0.0, settings.agent_price_out or 0.0)
    most = request.max_tokens * dear / 1e6
    if request.max_cost is not None:
        most = min(most, request.max_cost)
    return f"{words}; at most {most:.4g} in money"


def story_outlook(found: StoryEstimate, who: Who) -> str:
    """About what a story takes."""
    here = f"{duration(found.seconds)} of computing"
    if found.interventions:
        here += f" for {found.interventions:,} interventions"
    if who == "none":
        return f"Describing takes about {here}; no model is asked"
    money = "no price is known" if found.cost is None else f"{found.cost:.4g} in money"
    money = "it costs nothing" if who == "local" else money
    return (
        f"Describing takes about {found.calls:,} questions, {found.tokens_in:,} tokens read, "
        f"{found.tokens_out:,} written, {money}; {here}, and what the model takes to answer"
    )


_VERBS = {"score": "scored", "describe": "described", "ask": "answered"}
_ASKED = {"none": "no model", "local": "local model", "endpoint": "endpoint"}


def run_title(record: Mapping[str, Any]) -> str:
    """A run in a list."""
    what = str(record.get("what", ""))
    about = str(record.get({"describe": "prompt", "ask": "question"}.get(what, "feature"), ""))
    if what in ("describe", "ask"):
        about = f"“{_cut(' '.join(about.split()), _MOST_TITLE)}”"
    when = str(record.get("when", ""))[:16].replace("T", " ")
    ended = any(record.get(result) is not None for result in ("verdict", "story", "answer"))
    who = _ASKED.get(str(record.get("who")), "")
    stopped = "" if ended else ", stopped"
    return f"{about} · {_VERBS.get(what, 'explained')} by {who}{stopped} · {when}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def answer_about(answer: Answer, took: str) -> str:
    """What there is to say of an answer as a whole; ``took``: what it took."""
    parts = [took] if took else []
    if not answer.sentences:
        parts.append("no sentence stands")
    elif not any(not tool.failed for tool in answer.tools):
        parts.append("the model looked at nothing, so this says nothing about what is open")
    if answer.ended == "rounds":
        parts.append("it was made to answer before it wanted to")
    return " · ".join(parts)


_DOES = {"pin": "Pin", "group": "Group", "label": "Label", "remark": "Remark on"}


def proposal_words(proposal: GraphProposal, here: str = "") -> str:
    """A proposed change in one line; ``here`` is the key of the graph that need not be named."""
    said = proposal.proposal
    nodes = ", ".join(said.nodes[:4]) + (f" and {len(said.nodes) - 4} more" * (len(said.nodes) > 4))
    words = f" “{said.text}”" if said.text else ""
    of = "" if proposal.graph == here else f" (graph {proposal.graph})"
    return f"{_DOES[said.kind]} {nodes}{words}{of}"


def spent_words(record: Mapping[str, Any]) -> str:
    """What a run took."""
    spent = record.get("spent")
    if not isinstance(spent, Mapping):
        return ""
    try:
        cost = float(spent.get("cost") or 0.0)
        words = (
            f"{int(spent.get('questions') or 0):,} questions, "
            f"{int(spent.get('tokens') or 0):,} tokens, "
            f"{duration(float(spent.get('seconds') or 0.0))}"
        )
    except (TypeError, ValueError):
        return ""
    return words + (f", {cost:.4g} in money" if cost else "")


def score_words(score: Score) -> tuple[str, str, str]:
    """A score: what it is with how large, its judge, and what speaks against it."""
    value = "none" if score.value is None else f"{score.value:.2f}"
    between = "" if score.low is None else f" ({score.low:.2f} to {score.high:.2f})"
    judge = score.judge or "unknown"
    if score.judge_score is not None:
        judge += f", {score.judge_score:.2f} on {score.judge_cases} known cases"
    return f"{value}{between}", judge, score.caution


def evidence_words(evidence: Evidence) -> str:
    """A piece of evidence in one line."""
    kind = _KINDS.get(evidence.kind, evidence.kind)
    return f"{kind} {evidence.reference}: {evidence.says}"


def attack_words(attack: Attack) -> str:
    """An attack and what came of it in one line."""
    if attack.activation is None:
        return f"Not run: “{attack.text}”"
    does = f"fires with {attack.activation:.3g}" if attack.activation > 0 else "is silent"
    ought = "fires" if attack.should_fire else "is silent"
    if attack.refutes:
        return f"Refuted: it {does} on “{attack.text}”, the explanation says that it {ought}"
    return f"Withstood: it {does} on “{attack.text}”, as the explanation says"


def beside(verdict: FeatureVerdict) -> list[str]:
    """What was said of the feature as well and does not stand, with its scores."""
    chosen, lines = verdict.chosen, []
    for attempt in verdict.tried:
        if attempt != chosen:
            lines.append(_other("Does not stand", attempt.explanation.words, attempt.overall))
    if verdict.baseline != chosen:
        said = verdict.baseline
        lines.append(_other("Deterministic", said.explanation.words, said.overall))
    return lines


def _other(lead: str, words: str, overall: Optional[float]) -> str:
    score = "not scored" if overall is None else f"mean score {overall:.2f}"
    return f"{lead}, {score}: {words}"


def transcript_words(transcript: Optional[Mapping[str, Any]]) -> str:
    """A transcript to be read: every question with its last message, and what was answered.

    A damaged one is shown as far as it goes.
    """
    if not isinstance(transcript, Mapping):
        return "No model was asked in this run."
    messages = _items(transcript.get("messages"))
    shown: set[object] = set()
    parts = [f"{transcript.get('purpose', '')} · {transcript.get('backend', '')}"]
    for number, one in enumerate(_items(transcript.get("exchanges")), 1):
        parts.append(f"\n—— Question {number} ——")
        for place in _numbers(one.get("messages")):
            if place in shown or not 0 <= place < len(messages):
                continue
            shown.add(place)
            said = messages[place]
            parts.append(f"[{said.get('role', '')}]\n{said.get('content', '')}")
        reply = one.get("reply")
        if isinstance(reply, Mapping):
            message = reply.get("message")
            answer: Mapping[str, Any] = message if isinstance(message, Mapping) else {}
            parts.append(f"[answer]\n{answer.get('content', '')}")
            for call in _items(answer.get("tool_calls")):
                parts.append(f"[asks for {call.get('name', '')}]\n{call.get('arguments_json', '')}")
        else:
            parts.append(f"[no answer]\n{one.get('error', '')}")
    for run in _items(transcript.get("tools")):
        state = "failed" if run.get("failed") else "gave"
        parts.append(f"\n—— Tool {run.get('name', '')} {state} ——\n{run.get('result', '')}")
    text = "\n".join(parts)
    if len(text) > _MOST_SHOWN:
        text = f"{text[:_MOST_SHOWN]}\n… The file of the transcript has the rest."
    return text


def _items(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, (list, tuple)) else []
    return [one for one in items if isinstance(one, Mapping)]


def _numbers(value: Any) -> list[int]:
    return (
        [one for one in value if isinstance(one, int)] if isinstance(value, (list, tuple)) else []
    )


_SUPPORT = {"measured": "Measured", "graph": "By the graph", "shown": "There to see"}


def sentence_caption(sentence: Sentence) -> str:
    """How far a sentence of a story is borne out, and by whom it is."""
    return f"{_SUPPORT[sentence.support]} · by {sentence.author}"


def link_words(story: Story, link: Link) -> str:
    """What a link of a story leads to."""
    if link.kind == "supernode":
        group = story.supernode(link.reference)
        return f"Supernode {link.reference}" + (f" “{group.name}”" if group is not None else "")
    if link.kind == "run":
        run = story.run(link.reference)
        return f"Run {link.reference}" + (f": {run.subject} changed" if run is not None else "")
    return f"{link.kind.capitalize()} {link.reference}"
