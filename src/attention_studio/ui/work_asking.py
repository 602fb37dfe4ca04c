"""What lanes run for questions about what is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

from attention_studio.ui.work_talking import AgentRequest, AgentRun, Spoken, asking, common

if TYPE_CHECKING:
    from attention_studio.agents.answers import Answer
    from attention_studio.agents.open_workspace import OpenWorkspace
    from attention_studio.agents.transcript import ToolRun
    from attention_studio.ui.session_desk import SessionView
    from attention_studio.utils.progress import WorkContext
    from attention_studio.utils.turns import Turn

_MOST_SAID, _MOST_ARGUMENTS = 20_000, 300


@dataclass(frozen=True)
class QuestionAsked:
    """A question: its words, whether changes may be proposed, and the key of the shown graph."""

    question: str
    propose: bool
    key: str

    def record(
        self,
        request: AgentRequest,
        spoken: Spoken,
        answer: Optional[Answer] = None,
        desk: Optional[OpenWorkspace] = None,
    ) -> dict[str, Any]:
        """The run as the workspace keeps it; ``answer`` None: it was stopped.

        ``graph`` is the key of the graph that links without one mean, ``runs`` the interventions
        that links mean by their numbers, ``traced`` the prompts of graphs that nobody kept.
        """
        from attention_studio.agents.answers import answer_record

        record: dict[str, Any] = {
            **common("ask", request, spoken),
            "question": self.question,
            "propose": self.propose,
            "graph": self.key,
            "answer": None if answer is None else answer_record(answer),
        }
        if answer is not None and desk is not None:
            numbers = sorted({link.number for link in answer.links if link.kind == "run"})
            traced = desk.overview()["traced_here"]
            record |= {
                "graph": desk.key,
                "runs": {str(number): desk.run(number).to_json() for number in numbers},
                "traced": {one["graph"]: one["prompt"] for one in traced},
            }
        return record


@dataclass(frozen=True)
class Heard:
    """Something that was heard while a question is answered: what the model writes, or a tool that
    was called for it, with its arguments."""

    kind: Literal["said", "tool"]
    text: str
    failed: bool = False


class Hearing:
    """Gathers what is heard, and hands it over as it comes."""

    def __init__(self, ctx: WorkContext) -> None:
        self._ctx = ctx
        self._done: tuple[Heard, ...] = ()
        self._said = ""

    def text(self, piece: str) -> None:
        """The model writes on."""
        self._said = (self._said + piece)[:_MOST_SAID]
        self._tell()

    def tool(self, run: ToolRun) -> None:
        """A tool was carried out."""
        self.end()
        words = f"{run.name} {run.arguments_json}"[:_MOST_ARGUMENTS]
        self._done += (Heard("tool", " ".join(words.split()), run.failed),)
        self._tell()

    def end(self) -> None:
        """What was written is complete: what comes next is another turn."""
        if self._said.strip():
            self._done += (Heard("said", self._said),)
        self._said = ""

    def _tell(self) -> None:
        writing = (Heard("said", self._said),) if self._said.strip() else ()
        self._ctx.partial((*self._done, *writing))


def ask(
    ctx: WorkContext,
    turn: Turn,
    view: SessionView,
    asked: QuestionAsked,
    request: AgentRequest,
    spoken: Spoken,
) -> AgentRun:
    """Answer a question about what the window shows. Only what computes takes the turn.

    Raises:
        StudioError: there is nobody to ask, no answer, or the budget is spent.
        Cancelled: through ``ctx``.
    """
    from attention_studio.agents.ask_agent import AskAgent

    loaded = None if view.crm is None else view.crm.loaded
    options = asking(ctx, turn, loaded, request, spoken, "ask")
    desk, hearing, told = view.desk(turn), Hearing(ctx), options.pop("on_text")
    calls = -1

    def heard(piece: str) -> None:
        nonlocal calls
        if (now := options["meter"].spending.calls) != calls:
            calls = now
            hearing.end()
        hearing.text(piece)
        told(piece)

    agent = AskAgent(
        options.pop("backend"), desk, propose=asked.propose, on_text=heard,
        on_tool=hearing.tool, **options,
    )  # fmt: skip
    answer = agent.ask(asked.question)
    return AgentRun(asked.record(request, spoken, answer, desk), answer)
