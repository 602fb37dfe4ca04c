"""Answers about what is open: what stands, what was struck, what is proposed; and their JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attention_studio.agents.backends.records import Usage
from attention_studio.agents.budget import Spending
from attention_studio.agents.proposals import GraphProposal, Proposal
from attention_studio.agents.references import Reference, links_in
from attention_studio.agents.transcript import ToolRun
from attention_studio.utils.errors import StudioError

MAX_ANSWER = 20_000
"""Characters of an answer that are looked at."""
_MOST = 2_000
_Words = Annotated[str, Field(max_length=2 * MAX_ANSWER)]


class AnswerFormatError(StudioError):
    """A record of an answer cannot be read."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of an answer.

    Attributes:
        text: plain text, with its links in brackets.
        links: what it points at; all of it is there.
        problem: why it was struck; "": it was not.
    """

    text: str
    links: tuple[Reference, ...]
    problem: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        question: as it was asked.
        sentences: what stands, in order. Those without links were not checked by anybody.
        struck: what does not, each with its problem.
        proposals: changes that the model proposes; none was made.
        tools: what was looked at, failures included.
        ended: ``rounds``: the model was made to answer before it wanted to.
        spent: what it took.
    """

    question: str
    sentences: tuple[Sentence, ...]
    struck: tuple[Sentence, ...]
    proposals: tuple[GraphProposal, ...]
    tools: tuple[ToolRun, ...]
    ended: str
    spent: Spending

    @property
    def text(self) -> str:
        """What stands, as one text."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def links(self) -> tuple[Reference, ...]:
        """What it points at, each once."""
        return tuple(dict.fromkeys(link for one in self.sentences for link in one.links))


def answer_record(answer: Answer) -> dict[str, Any]:
    """An answer as plain values."""

    def told(one: Sentence) -> dict[str, Any]:
        links = [{"kind": link.kind, "link": link.text} for link in one.links]
        return {"text": one.text, "links": links, **({"why": one.problem} if one.problem else {})}

    spent = answer.spent
    return {
        "question": answer.question,
        "answer": answer.text,
        "sentences": [told(one) for one in answer.sentences],
        "struck": [told(one) for one in answer.struck],
        "proposals": [one.told for one in answer.proposals],
        "tools": [{"name": one.name, "failed": one.failed} for one in answer.tools],
        "ended": answer.ended,
        "spent": {
            "questions": spent.calls,
            "tokens": spent.usage.total,
            "seconds": spent.seconds,
            "cost": spent.cost,
        },
    }


# -- out of records ------------------------------------------------------------------------------


class _Kept(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _KeptSentence(_Kept):
    text: _Words
    why: _Words = ""


class _KeptProposal(_Kept):
    graph: str = Field(max_length=20)
    kind: Literal["pin", "group", "label", "remark"]
    nodes: list[Annotated[str, Field(max_length=200)]] = Field(min_length=1, max_length=_MOST)
    text: _Words = ""
    why: _Words = ""


class _KeptTool(_Kept):
    name: _Words
    failed: bool = False


class _KeptSpending(_Kept):
    questions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0


class _KeptAnswer(_Kept):
    question: _Words
    sentences: list[_KeptSentence] = Field(max_length=_MOST)
    struck: list[_KeptSentence] = Field(default=[], max_length=_MOST)
    proposals: list[_KeptProposal] = Field(default=[], max_length=_MOST)
    tools: list[_KeptTool] = Field(default=[], max_length=_MOST)
    ended: _Words = "answer"
    spent: _KeptSpending = _KeptSpending()


def read_answer(record: Any) -> Answer:
    """An answer out of ``answer_record``; of tools, their names are left.

    Raises:
        AnswerFormatError: it is none.
    """
    try:
        kept = _KeptAnswer.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise AnswerFormatError(
            "This is no record of an answer", f"{place or 'it'}: {first['msg']}"
        ) from None

    def sentence(one: _KeptSentence) -> Sentence:
        return Sentence(one.text, links_in(one.text), one.why)

    return Answer(
        kept.question,
        tuple(map(sentence, kept.sentences)),
        tuple(map(sentence, kept.struck)),
        tuple(
            GraphProposal(one.graph, Proposal(one.kind, tuple(one.nodes), one.text, one.why))
            for one in kept.proposals
        ),
        tuple(ToolRun(one.name, "", "", one.failed) for one in kept.tools),
        kept.ended,
        # Read and written tokens were counted together.
        Spending(
            Usage(kept.spent.tokens), kept.spent.questions, kept.spent.seconds, kept.spent.cost
        ),
    )
