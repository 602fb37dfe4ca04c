"""The Agents dock: what features stand for, how circuits come to their answers, and questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from attention_studio.core.feature_names import FeatureName
from attention_studio.ui import work_agents, work_asking, work_stories, work_talking
from attention_studio.ui.agent_edits import accept_proposal, take_label, take_supernodes
from attention_studio.ui.agent_links import LinkFollower
from attention_studio.ui.agent_runs import AgentRuns
from attention_studio.ui.agent_words import cannot_ask, run_title, spent_words, who_answers
from attention_studio.ui.feature_labels import whose
from attention_studio.ui.record_undo import DropRecord
from attention_studio.ui.session import SessionPart
from attention_studio.ui.session_desk import SessionView, graph_key
from attention_studio.ui.shown_run import ShownRun
from attention_studio.ui.widgets.agent_form import AgentForm
from attention_studio.ui.widgets.ask_page import AskPage
from attention_studio.ui.widgets.controls import CommandButton, named, row
from attention_studio.ui.widgets.dialogs import ask_save
from attention_studio.ui.widgets.explain_page import ExplainPage
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.run_list import Run, RunList
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.transcript_page import TranscriptPage
from attention_studio.ui.work_talking import RUN

if TYPE_CHECKING:
    from attention_studio.agents.references import Reference
    from attention_studio.ui.jobs import Job, JobFailure

_READ_KEY, _ESTIMATE_KEY = "agents.read", "agents.estimate"


class AgentsDock(StudioDock):
    """Explains features, scores explanations, describes circuits, and answers questions.

    ``message`` carries a ``Message`` for the message bar; ``run_wanted``, ``example_wanted`` and
    ``graph_wanted`` what somebody wants to see, as ``LinkFollower`` has them.
    """

    NAME = "agentsDock"
    TITLE = "Agents"
    ICON = "agents"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.CRM,
            SessionPart.FEATURE,
            SessionPart.GRAPH,
            SessionPart.NOTES,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)
    run_wanted = Signal(object)
    example_wanted = Signal(object, int, int, int)
    graph_wanted = Signal(str)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._texts = work_agents.TextKeeper()
        self._shown = ShownRun()
        # The one that was drawn last: drawing is not done over for what has not changed.
        self._drawn: Optional[ShownRun] = None
        self.form = AgentForm(self.theme, self.session.settings)
        self.strip = JobStrip(self.runner, "agents.job")
        self.runs = RunList()
        self.explaining = ExplainPage(self.theme, self.commands)
        self.asking = AskPage(self.theme, self.commands)
        self.transcript = TranscriptPage(self.commands)
        self._running = AgentRuns(self.session, self.runner, self)
        self._links = LinkFollower(self.session, self.commands, self)
        self._lay_out()
        self._connect()
        self._show_cost()

    def _lay_out(self) -> None:
        self.pages = QTabWidget()
        named(self.pages, "agents.pages", "Explain, ask, transcript or settings")
        self.pages.setDocumentMode(True)
        # In a low dock with large text the pages give way, rather than what stands above them.
        self.pages.setMinimumHeight(40)
        for page, text, tip in (
            (self.explaining, "Explain", "Features and circuits, with what it rests on"),
            (self.asking, "Ask", "Questions about what is open"),
            (self.transcript, "Transcript", "All that was asked and answered"),
            (self.form, "Settings", "Who explains and answers, and what it may take"),
        ):
            self.pages.setTabToolTip(self.pages.addTab(page, text), tip)
        body = QWidget()
        body.setObjectName("formBody")
        whole = QVBoxLayout(body)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(2)
        listed = row(self.runs, stretch=0)
        listed.setContentsMargins(12, 8, 12, 4)
        whole.addLayout(listed)
        whole.addWidget(self.strip)
        whole.addWidget(self.pages, 1)
        self.set_content(body)
        self.set_empty(
            "No replacement model yet",
            "Agents say what a feature stands for, with the texts that show it, and hold what they "
            "say against texts that they have not seen. They work without any language model, with "
            "a small one in this process, or with an endpoint of yours. Questions about what is "
            "open are answered by a model.",
            CommandButton(self.commands, "demo.open", look="primary", text="Open the demo"),
        )

    def _connect(self) -> None:
        self.runs.chosen.connect(self._on_run_chosen)
        self.explaining.went.connect(self._on_went)
        self.asking.went.connect(self._on_answer_link)
        self.asking.settings_wanted.connect(self._on_settings_wanted)
        self.form.changed.connect(self._show_cost)
        self._running.kept.connect(self._on_kept)
        self._running.heard.connect(self.asking.answer.show_heard)
        self._running.failed.connect(self._on_failed)
        for name in ("message", "run_wanted", "example_wanted", "graph_wanted"):
            getattr(self._links, name).connect(getattr(self, name))

    # -- commands: asking -----------------------------------------------------------------------

    @Slot()
    def explain(self) -> None:
        """Explain the feature that is looked at."""
        self._go_to(self.explaining)
        self._ask_about_feature("explain")

    @Slot()
    def score(self) -> None:
        """Score the explanation that was typed; where none is, go to its field."""
        if not self.typed_words():
            self.type_explanation()
            self._say(Message("info", "No explanation is typed", "", "Type one, then press Enter"))
            return
        self._go_to(self.explaining)
        self._ask_about_feature("score")

    @Slot()
    def type_explanation(self) -> None:
        """Go to the field for an explanation of one's own."""
        self._go_to(self.explaining)
        self.explaining.go_to_typed()

    @Slot()
    def describe(self) -> None:
        """Tell how the open graph comes to its answer."""
        self._go_to(self.explaining)
        circuit = self._circuit()
        if circuit is None or self._refused():
            return
        asked = work_stories.CircuitAsked(self.session.graph_key, circuit.graph.prompt)
        self._follow(
            self._running.start(
                asked, self.request(), work_stories.describe_circuit, circuit,
                title="Describe the circuit",
            )
        )  # fmt: skip

    @Slot()
    def ask(self) -> None:
        """Answer the question that is typed; where none is, go to its field."""
        self._go_to(self.asking)
        question = self.question()
        if not question:
            self.asking.question.setFocus(Qt.FocusReason.ShortcutFocusReason)
            return
        if self._refused(asking=True):
            return
        asked = work_asking.QuestionAsked(question, self.may_propose(), graph_key(self.session))
        view = SessionView.of(self.session)
        job = self._running.start(
            asked, self.request(), work_asking.ask, view, title="Answer a question"
        )
        if job is not None:
            self.asking.begin(question)
        self._follow(job)

    @Slot()
    def estimate(self) -> None:
        """Count about what explaining the feature takes."""
        self._go_to(self.explaining)
        feature, crm = self.session.feature, self.session.crm
        if crm is not None and feature is not None:
            self._estimate(
                "an explanation", work_agents.estimate_explaining, crm, self.session.store,
                feature, self.request(), self._texts,
            )  # fmt: skip

    @Slot()
    def estimate_story(self) -> None:
        """Count and measure about what describing the graph takes."""
        self._go_to(self.explaining)
        circuit = self._circuit()
        if circuit is not None:
            self._estimate(
                "a description", work_stories.estimate_describing, circuit, self.request()
            )

    @Slot()
    def stop(self) -> None:
        """Stop what runs; what was said until then is kept."""
        self.runner.cancel_key(_ESTIMATE_KEY)
        if self.made:
            self._running.stop()

    def leave(self, then: Callable[[], object]) -> bool:
        """Before the window goes, see ``AgentRuns.leave``."""
        return self.made and self._running.leave(then)

    # -- commands: what came of it --------------------------------------------------------------

    @Slot()
    def use_label(self) -> None:
        """Call the feature what the shown explanation calls it."""
        shown = self._shown
        if shown.record is not None and shown.verdict is not None:
            self._say(take_label(self.session, self.runner, shown.record, shown.verdict))

    @Slot()
    def use_supernodes(self) -> None:
        """Group the nodes of the open graph as the shown story does."""
        self._say(take_supernodes(self.session, self._shown.story))

    @Slot()
    def accept(self) -> None:
        """Make the proposed change that is chosen, and go on to the next."""
        self._go_to(self.asking)
        message = accept_proposal(self.session, self.asking.proposals.current)
        self._say(message)
        if message is None:
            self.asking.proposals.go_on()

    @Slot()
    def show_transcript(self) -> None:
        """Show what was asked and answered."""
        self._go_to(self.transcript)

    @Slot()
    def save_transcript(self) -> None:
        """Ask where to, and write the transcript of the run that is shown."""
        if self._shown.transcript is None:
            self._say(Message("info", "This run has no transcript", "No model was asked"))
            return
        ask_save(self, "Save the transcript", self.save_to, (("Transcript", "json"),), "transcript")

    @Slot(str)
    def save_to(self, path: str) -> None:
        """Write the transcript of the run that is shown."""
        transcript = self._shown.transcript
        if transcript is not None:
            job = self.runner.submit(
                work_talking.write_transcript, transcript, Path(path),
                title="Save a transcript", lane="quick", quiet=True,
            )  # fmt: skip
            job.failed.connect(self._on_failed)

    @Slot()
    def delete_run(self) -> None:
        """Throw the run that is shown away."""
        record = self._shown.record
        if record is not None:
            self.session.undo_stack.push(
                DropRecord(self.session, RUN, record, f"Delete {run_title(record)}")
            )

    def _say(self, message: Optional[Message]) -> None:
        if message is not None:
            self.message.emit(message)

    # -- running --------------------------------------------------------------------------------

    def request(self) -> work_talking.AgentRequest:
        """What the form asks for."""
        return self.form.request()

    def typed_words(self) -> str:
        """The explanation that was typed."""
        return self.explaining.words

    def question(self) -> str:
        """The question that was typed."""
        return self.asking.text

    def last_question(self) -> str:
        """The question that is typed, else the one that is shown."""
        asked = (self._shown.record or {}).get("question", "")
        return self.question() or (str(asked) if self._shown.what == "ask" else "")

    def may_propose(self) -> bool:
        """Whether the model may propose changes."""
        return self.asking.propose.isChecked()

    def _go_to(self, page: QWidget) -> None:
        if not self.in_front:
            self.go_there()
        self.catch_up()
        self.pages.setCurrentWidget(page)

    def _circuit(self) -> Optional[work_stories.Circuit]:
        session, graph = self.session, self.session.graph
        if graph is None:
            return None
        return work_stories.Circuit(
            graph, session.pruned, session.notes, session.crm, session.store
        )

    def _refused(self, asking: bool = False) -> bool:
        """Whether nobody can be asked now; says why."""
        if self._running.busy:
            self._say(Message("info", "An agent is at work already", "", "Wait for it, or stop it"))
            return True
        message = self.form.refusal(asking, self.session.training is not None)
        if message is not None:
            self._say(message)
            self.pages.setCurrentWidget(self.form)
        return message is not None

    def _ask_about_feature(self, what: Literal["explain", "score"]) -> None:
        crm, feature = self.session.crm, self.session.feature
        if crm is None or feature is None or self._refused():
            return
        asked = work_agents.FeatureAsked(what, feature)
        name, request = f"{feature[0].label} #{feature[1]}", self.request()
        if what == "explain":
            job = self._running.start(
                asked, request, work_agents.explain_feature, crm, self.session.store, self._texts,
                title=f"Explain {name}",
            )  # fmt: skip
        else:
            job = self._running.start(
                asked, request, work_agents.score_words, crm, self.session.store, self._texts,
                self.typed_words(), title=f"Score an explanation of {name}",
            )  # fmt: skip
        self._follow(job)

    def _follow(self, job: Optional[Job]) -> None:
        if job is not None:
            self.strip.follow(job)

    def _estimate(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        if self._refused():
            return
        job = self.runner.submit(
            function, self.runner.turn, *arguments, title=f"Estimate {what}", key=_ESTIMATE_KEY
        )
        job.finished.connect(self._on_outlook)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    @Slot(object, object)
    def _on_kept(self, record: Run, result: object) -> None:
        self._shown = ShownRun(record, result)
        # The next question may be typed already.
        answered = result is not None and record.get("what") == "ask"
        if answered and self.question() == str(record.get("question", "")).strip():
            self.asking.question.clear()
        self._show_runs()

    @Slot(object)
    def _on_outlook(self, outlook: work_talking.Outlook) -> None:
        session = self.session
        if outlook.about is session.graph or outlook.about == session.feature:
            self.explaining.cost.setText(f"{outlook.words}. {self.form.bound}.")

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self._say(Message.of(failure))

    # -- showing --------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        session = self.session
        self.show_empty(
            session.crm is None and session.graph is None and not session.records.get(RUN)
        )
        if SessionPart.CRM in parts:
            self._texts = work_agents.TextKeeper()
        if parts & {SessionPart.CRM, SessionPart.FEATURE}:
            self.explaining.show_feature(session.feature)
            self._show_cost()
            # What is said of graphs stays while one looks at what it says.
            if self._shown.record is None or self._shown.feature:
                self._show(self._newest_of_feature())
        if parts & {SessionPart.NOTES, SessionPart.GRAPH}:
            self._show_proposals()
        self._show_runs()

    def _newest_of_feature(self) -> Optional[Run]:
        """What was last said of the feature that is looked at."""
        feature = self.session.feature
        if feature is None:
            return None
        name = f"{feature[0].label}/F{feature[1]}"
        records: tuple[Run, ...] = self.session.records.get(RUN, ())
        for record in reversed(records):
            if record.get("feature") == name and self._is_of_open(record):
                return record
        return None

    def _is_of_open(self, record: Run) -> bool:
        """Whether a run is about features of the open replacement model."""
        return record.get("crm") == whose(self.session)

    @Slot()
    def _show_cost(self) -> None:
        missing = self.form.lacking
        said = "It cannot be asked: see Settings" if missing else f"{self.form.bound}."
        self.explaining.cost.setText(said)
        settings, who = self.session.settings, self.form.who
        lacking = cannot_ask(settings, who)
        self.asking.show_who(
            lacking or f"{who_answers(settings, who)}. {self.form.bound}.", bool(lacking)
        )

    def _show(self, record: Optional[Run]) -> None:
        if record is not self._shown.record:
            self._shown = ShownRun(record)

    def _show_runs(self) -> None:
        records = self.session.records.get(RUN, ())
        if not any(one is self._shown.record for one in records):
            self._show(self._newest_of_feature())
        self.runs.show_runs(records, self._shown.record)
        if self._shown is not self._drawn:
            self._show_run()

    def _show_run(self) -> None:
        shown = self._drawn = self._shown
        self.transcript.show_record(shown.record)
        if shown.problem is not None:
            self._say(Message.of(shown.problem))
        if shown.record is None:
            self.explaining.show_nothing()
        elif shown.what == "ask":
            if shown.answer is None:
                self.asking.show_stopped(str(shown.record.get("question", "")))
            else:
                self.asking.answer.show_answer(shown.answer, spent_words(shown.record))
            self._show_proposals()
        else:
            self._show_finding(shown, spent_words(shown.record))

    def _show_finding(self, shown: ShownRun, took: str) -> None:
        page = self.explaining
        page.use_label.setVisible(shown.verdict is not None)
        page.use_supernodes.setVisible(shown.story is not None)
        if shown.verdict is not None:
            page.result.show_verdict(shown.verdict, took)
        elif shown.story is not None:
            page.result.show_story(shown.story, took)
        elif shown.unread:
            page.result.show_words("", "", "Reading the story…")
            job = self.runner.submit(
                work_stories.read_story_record, shown.record, title="Read a story", lane="quick",
                key=_READ_KEY, quiet=True,
            )  # fmt: skip
            job.finished.connect(self._on_story)
            job.failed.connect(self._on_failed)
        else:
            page.result.show_words(
                "", "", "Stopped before it came to anything. The transcript has what was said."
            )

    @Slot(object)
    def _on_story(self, run: work_talking.AgentRun) -> None:
        if run.record is self._shown.record:
            self._shown = ShownRun(run.record, run.result)
            self._show_run()

    def _show_proposals(self) -> None:
        answer = self._shown.answer
        if self._shown.what == "ask":
            self.asking.proposals.show_proposals(
                () if answer is None else answer.proposals,
                graph_key(self.session),
                self.session.notes,
            )

    # -- from the person ------------------------------------------------------------------------

    @Slot(object)
    def _on_run_chosen(self, record: Run) -> None:
        self._show(record)
        name = FeatureName.read(str(record.get("feature", "")))
        if name is not None and isinstance(name.latent, int) and self._is_of_open(record):
            self.session.set_feature((name.site, name.latent), initiator=self)
            self.explaining.show_feature(self.session.feature)
        if self.pages.currentWidget() is not self.transcript:
            asked = record.get("what") == "ask"
            self.pages.setCurrentWidget(self.asking if asked else self.explaining)
        self._show_runs()

    @Slot()
    def _on_settings_wanted(self) -> None:
        self.pages.setCurrentWidget(self.form)

    @Slot(object)
    def _on_went(self, link: tuple[str, str]) -> None:
        """Go to what a sentence rests on."""
        self._links.follow(*link, self._shown.story, self._shown.feature)

    @Slot(object)
    def _on_answer_link(self, link: Reference) -> None:
        if self._shown.record is not None:
            self._links.follow_reference(link, self._shown.record)
