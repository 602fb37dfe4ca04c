"""Questions about what is open, answered through the tools by a chat model.

Every link of an answer is looked up (``references``). Sentences whose links lead nowhere go back to
the model once; those that still do are struck, with the reason, and are no part of the answer.
Sentences without a link stay and are marked: nobody has checked them. What the model proposes is
handed over as a list and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Optional, Protocol

from attention_studio.agents.answers import MAX_ANSWER, Answer, Sentence
from attention_studio.agents.backends.records import Backend, Message, OnText
from attention_studio.agents.base_agent import BaseAgent, Rules
from attention_studio.agents.budget import Meter
from attention_studio.agents.proposals import GraphProposal
from attention_studio.agents.references import (
    LINKS_HELP,
    Reference,
    Sources,
    links_in,
    missing,
    without_links,
)
from attention_studio.agents.tools import Toolbox, ToolError
from attention_studio.agents.transcript import ToolRun, Transcript
from attention_studio.utils.progress import WorkContext

MAX_QUESTION = 8_000

_SYSTEM = f"""You answer questions about a language model that is taken apart in AttentionStudio: \
about its features, and about attribution graphs of prompts, which say what feeds what on the way \
to the next token. Look with the tools before you answer; begin with “workspace”. Say only what \
they show, in few plain sentences. Every sentence ends with links to what shows it. {LINKS_HELP} \
Write names exactly as tools give them. Where the tools do not show it, say that it is not known."""
_PROPOSING = (
    " You may propose changes to the person's notes, with the tools whose names begin with "
    "“propose_”. Propose only what was asked for; the person decides."
)
_AGAIN = (
    "These links lead nowhere:\n{problems}\nWrite the whole answer again, with links to what is "
    "there, and without what nothing shows."
)
_SENTENCE = re.compile(r"(?<=[.!?…])[)\"”’]*\s+")  # noqa: RUF001
_WORD = re.compile(r"\w")


class Desk(Sources, Protocol):
    """What is open, with its tools: ``OpenWorkspace``, or the window's own."""

    @property
    def proposals(self) -> tuple[GraphProposal, ...]:
        """What was proposed, in order."""

    def tools(self, proposals: bool = False) -> Toolbox:
        """What can be asked for."""


class AskAgent:
    """Asks one chat model about one desk.

    Args:
        backend: the model.
        desk: what is open.
        propose: whether it may propose changes.
        meter, transcript, rules, ctx, on_text, on_tool: see ``BaseAgent``.
    """

    def __init__(
        self,
        backend: Backend,
        desk: Desk,
        *,
        propose: bool = False,
        meter: Optional[Meter] = None,
        transcript: Optional[Transcript] = None,
        rules: Optional[Rules] = None,
        ctx: Optional[WorkContext] = None,
        on_text: Optional[OnText] = None,
        on_tool: Optional[Callable[[ToolRun], None]] = None,
    ) -> None:
        self._desk, self._propose = desk, propose
        self._agent = BaseAgent(
            backend,
            tools=desk.tools(propose),
            meter=meter,
            transcript=transcript or Transcript(backend.name, "ask"),
            rules=rules or Rules(max_rounds=12),
            ctx=ctx,
            on_text=on_text,
            on_tool=on_tool,
        )

    @property
    def transcript(self) -> Transcript:
        """Everything that was said."""
        return self._agent.transcript

    def ask(self, question: str) -> Answer:
        """Answer a question.

        Raises:
            ToolError: the question is empty or too long.
            BackendError, BudgetSpentError, Cancelled: see ``BaseAgent.converse``.
        """
        asked = question.strip()
        if not 0 < len(asked) <= MAX_QUESTION:
            raise ToolError(
                "That is no question that can be asked",
                f"it has {len(asked):,} characters",
                f"Ask in 1 to {MAX_QUESTION:,}",
            )
        before = len(self._desk.proposals)
        system = _SYSTEM + (_PROPOSING if self._propose else "")
        found = self._agent.converse(system, asked)
        sentences = checked(found.text, self._desk)
        problems = list(dict.fromkeys(one.problem for one in sentences if one.problem))
        if problems:
            told = _AGAIN.format(problems="\n".join(f"- {problem}" for problem in problems))
            reply = self._agent.ask((*found.messages, Message("user", told)))
            again = checked(reply.message.content, self._desk)
            # What was struck the first time stays on record, unless it stands now as it was.
            kept = {one.text for one in again}
            first = tuple(one for one in sentences if one.problem and one.text not in kept)
            sentences = (*again, *first) if again else sentences
        return Answer(
            asked,
            tuple(one for one in sentences if not one.problem),
            tuple(one for one in sentences if one.problem),
            self._desk.proposals[before:],
            found.tools,
            found.ended,
            self._agent.meter.spending,
        )


def checked(text: str, sources: Sources) -> tuple[Sentence, ...]:
    """The sentences of a text, with the problem of each whose links lead nowhere."""
    known: dict[Reference, str] = {}
    found = []
    for part in sentences_of(text[:MAX_ANSWER]):
        links = links_in(part)
        for link in links:
            if link not in known:
                known[link] = missing(link, sources)
        problem = "; ".join(dict.fromkeys(known[link] for link in links if known[link]))
        found.append(Sentence(part, links, problem))
    return tuple(found)


def sentences_of(text: str) -> tuple[str, ...]:
    """A text cut into sentences; links that follow a full stop belong to the sentence before."""
    found: list[str] = []
    for line in text.splitlines():
        parts = [" ".join(part.split()) for part in _SENTENCE.split(line)]
        for place, part in enumerate(part for part in parts if part):
            rest = without_links(part)
            if place and rest != part:
                # "… the capital. [L2/P5/F3] It feeds …": the link speaks for what was before it.
                lead = part[: len(part) - len(_after_links(part))].strip()
                if lead:
                    found[-1] = f"{found[-1]} {lead}"
                    part = _after_links(part).strip()
            if _WORD.search(without_links(part)):
                found.append(part)
            elif part and found:
                found[-1] = f"{found[-1]} {part}"
    return tuple(found)


def _after_links(text: str) -> str:
    """What follows the links that a text begins with."""
    rest = text
    while (end := rest.find("]")) > 0 and rest.startswith("["):
        if not links_in(rest[: end + 1]):
            break
        rest = rest[end + 1 :].lstrip(" .,;")
    return rest
