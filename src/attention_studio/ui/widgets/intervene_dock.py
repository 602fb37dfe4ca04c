"""The Intervene dock: change features and see what the model does; test edges and graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QHideEvent
from PySide6.QtWidgets import (
    QSplitter,
    QStackedWidget,
    QTabWidget,
    QWidget,
)

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.intervention_specs import FeatureAt, features_named
from attention_studio.ui import work_interventions as work
from attention_studio.ui.figures.figure import FigureOffer
from attention_studio.ui.highlight import Highlight
from attention_studio.ui.intervention_costs import intervention_cost, verify_cost
from attention_studio.ui.intervention_marks import (
    latest_report,
    moved_features,
    verified_edges,
    with_report,
)
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.node_text import title
from attention_studio.ui.pass_timer import PassTimer
from attention_studio.ui.record_undo import DropRecord
from attention_studio.ui.session import SessionPart
from attention_studio.ui.when import can_verify
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    EmptyState,
    named,
    row,
)
from attention_studio.ui.widgets.form_fields import form_column
from attention_studio.ui.widgets.intervention_form import InterventionForm
from attention_studio.ui.widgets.intervention_result import InterventionResult
from attention_studio.ui.widgets.job_strip import JobStrip
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.run_history import RunHistory
from attention_studio.ui.widgets.studio_dock import StudioDock
from attention_studio.ui.widgets.validate_panel import ValidatePanel
from attention_studio.ui.widgets.verify_panel import CONTROLS, VerifyPanel
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.edge_choice import EdgeChoice
    from attention_studio.core.intervention_running import PassCost
    from attention_studio.core.intervention_runs import InterventionPlan
    from attention_studio.core.workspace import Workspace

RUN_KEY, VERIFY_KEY = "intervene.run", "intervene.verify"
_CHOICE_KEY = "intervene.edges"
_SCROLL_BAR = 14
_OPEN_KEY, _REPORT_KEY = "intervene.open", "intervene.report"


class InterveneDock(StudioDock):
    """Interventions, verified edges, and what was run before.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "interveneDock"
    TITLE = "Intervene"
    ICON = "intervene"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.CRM,
            SessionPart.PROMPT,
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.SELECTION,
            SessionPart.PINNED,
            SessionPart.NOTES,
            SessionPart.RECORDS,
        )
    )

    message = Signal(object)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._timer = PassTimer(self.runner, self)
        self._timer.known.connect(self._show_cost)
        self._choice: Optional[EdgeChoice] = None
        self._choice_of: Optional[AttributionGraph] = None
        self._edges_of: Optional[AttributionGraph] = None
        self._own_highlight: Optional[Highlight] = None
        self._show_when_read = False
        # The workspaces that what runs was asked for in.
        self._run_home: Optional[Workspace] = None
        self._verify_home: Optional[Workspace] = None
        self.form = InterventionForm(self.theme, self.commands)
        self.result = InterventionResult(self.theme, self.commands)
        self.verify_panel = VerifyPanel(self.theme, self.commands, self.runner)
        self.strip = JobStrip(self.runner, "intervene.job")
        self.cost = named(
            ElidedLabel(role="caption"), "intervene.cost", "What the intervention will take"
        )
        self.tabs = QTabWidget()
        named(self.tabs, "intervene.tabs", "Intervene, verify or look back",
              "Change features, test edges or the graph, or open what was run before",
        )  # fmt: skip
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self._make_intervene(), "Intervention")
        self.tabs.addTab(self.verify_panel, "Verify edges")
        self.validate_panel = ValidatePanel(
            self.theme, self.commands, self.runner, self.session, self._timer, self._words
        )
        self.tabs.addTab(self.validate_panel, "Validate graph")
        self.history = RunHistory(self.theme, self.commands)
        self.tabs.addTab(self.history, "History")
        self.set_content(self.tabs)
        self.set_empty(
            "Change features and see what follows",
            "Switch features off, make them stronger or give them what they say on another prompt, "
            "and read the model's answer beside its own. Or test whether the edges of a graph say "
            "what really happens. Open a replacement model first.",
            CommandButton(self.commands, "crm.open", look="primary"),
        )
        self.form.changed.connect(self._show_cost)
        self.result.feature_chosen.connect(self._on_node)
        self.verify_panel.node_chosen.connect(self._on_node)
        self.verify_panel.settings_changed.connect(self._ask_edges)
        self.verify_panel.tolerance_changed.connect(self._on_judged)
        self.validate_panel.node_chosen.connect(self._on_node)
        self.validate_panel.message.connect(self.message)

    def _make_intervene(self) -> QWidget:
        self.run_button = CommandButton(self.commands, "intervene.run", look="primary")
        self.clear_button = CommandButton(
            self.commands, "intervene.clear", look="quiet", text="Begin anew"
        )
        column = form_column(
            self.form, "intervene.form", "Settings of the intervention",
            self.cost, row(self.run_button, self.clear_button), self.strip,
        )  # fmt: skip
        nothing = EmptyState(
            self.theme, "intervene", "Nothing was run yet",
            "Select a feature or a supernode in the graph and press I, or choose several and press "
            "Shift+I. Say what becomes of it, and run: original and changed output appear here.",
        )  # fmt: skip
        self._results = QStackedWidget()
        self._results.addWidget(nothing)
        self._results.addWidget(self.result)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("intervene.splitter")
        splitter.addWidget(column)
        splitter.addWidget(self._results)
        splitter.setChildrenCollapsible(False)
        splitter.setStretchFactor(0, 0)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([350, 700])
        return splitter

    # -- what it is about ---------------------------------------------------------------------

    @property
    def prompt(self) -> str:
        """The prompt that is changed: the graph's, whose positions its features have, or else the
        one that is typed."""
        graph = self.session.graph
        return (
            graph.prompt if graph is not None and can_verify(self.session) else self.session.prompt
        )

    def _words(self, name: str) -> str:
        """What a node of the graph is called."""
        graph = self.session.graph
        if FeatureName.read(name) is None and graph is not None and graph.has(name):
            return title(graph, graph.find(name), self.session.named_notes)
        return self.session.words(name)

    def _label(self, name: str) -> str:
        """What a feature is called, besides its number."""
        own = self.session.named_notes.label_of(name)
        graph = self.session.graph
        if own or graph is None or not graph.has(name):
            return own
        return graph.captions.get(graph.find(name), "")

    # -- commands: interventions --------------------------------------------------------------

    @Slot()
    def add_selected(self) -> None:
        """Add the selected feature or supernode to the changes."""
        features, name = self._selected_features()
        if features:
            self._show_form()
            self.form.add(features, name)
            self.form.editor.action.setFocus(Qt.FocusReason.ShortcutFocusReason)

    @Slot()
    def add_chosen(self) -> None:
        """Add the chosen features as one change."""
        features = features_named(self.session.chosen)
        if features:
            self._show_form()
            groups = self.session.notes.supernodes
            chosen = set(self.session.chosen)
            name = next((group.name for group in groups if set(group.nodes) == chosen), "")
            self.form.add(features, name)
            self.form.editor.action.setFocus(Qt.FocusReason.ShortcutFocusReason)

    @Slot()
    def switch_off(self) -> None:
        """Ablate the selected feature or supernode alone, at once."""
        features, name = self._selected_features()
        if features:
            self._show_form()
            self.form.show_drafts(())
            self.form.add(features, name)
            self.run()

    @Slot()
    def clear(self) -> None:
        """Forget the changes."""
        self._show_form()
        self.form.show_drafts(())

    def _selected_features(self) -> tuple[tuple[FeatureAt, ...], str]:
        """The features that are selected, and the supernode that they are."""
        name = self.session.selection
        if name is None:
            return (), ""
        notes = self.session.notes
        group = notes.supernode(name)
        if group is not None:
            return features_named(group.nodes), group.name
        return features_named((name,)), ""

    def _show_form(self) -> None:
        self.go_there()
        self.tabs.setCurrentIndex(0)

    @Slot()
    def run(self) -> None:
        """Carry out what the form says."""
        crm = self.session.crm
        if crm is None:
            return
        try:
            plan = self.asked_plan()
        except StudioError as error:
            self.message.emit(Message.of(error))
            return
        self._run_home = self.session.home
        job = self.runner.submit(work.run_plan, crm, plan, title="Intervene", key=RUN_KEY)
        job.finished.connect(self._on_run)
        job.failed.connect(self._on_failed)
        self.strip.follow(job)

    def asked_plan(self) -> InterventionPlan:
        """What the form says.

        Raises:
            StudioError: it says nothing that can be carried out.
        """
        cost, info = self._known_cost, self.session.model_info
        n_tokens = None if cost is None else cost.n_tokens
        return self.form.plan(self.prompt, n_tokens, 0 if info is None else info.n_layers)

    @Slot(object)
    def _on_run(self, kept: work.KeptRun) -> None:
        if self.session.add_record("intervention", kept.record, home=self._run_home):
            self._show_run(kept)

    def _show_run(self, kept: work.KeptRun) -> None:
        self.result.show_run(kept.run, self._label)
        self._results.setCurrentWidget(self.result)

    @Slot()
    def show_effects(self) -> None:
        """Mark in the graph what the intervention moved."""
        run = self.result.run
        if run is None:
            self.message.emit(
                Message(
                    "info", "No intervention is shown", "", "Run one, or open one of the history"
                )
            )
            return
        self.session.set_highlight(moved_features(run))
        self.commands.run("go.graph")

    # -- commands: history --------------------------------------------------------------------

    @Slot()
    def open_run(self) -> None:
        """Show the marked intervention of the history again."""
        self.catch_up()
        record = self.history.marked
        if record is not None:
            self._open(record)

    @Slot(object)
    def open_record(self, record: dict[str, Any]) -> None:
        """Go to an intervention that was run elsewhere: by an agent."""
        self.go_there()
        self.catch_up()
        self._open(record)

    def _open(self, record: dict[str, Any]) -> None:
        job = self.runner.submit(
            work.read_run, record, title="Open intervention", lane="quick", key=_OPEN_KEY,
            quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_opened)
        job.failed.connect(self._on_failed)

    @Slot()
    def delete_run(self) -> None:
        """Throw the marked intervention of the history away (undoable)."""
        if not self.history.isVisible():
            # Nothing is thrown away unseen.
            self.go_there()
            self.tabs.setCurrentWidget(self.history)
            return
        record = self.history.marked
        if record is not None:
            self.session.undo_stack.push(
                DropRecord(self.session, "intervention", record, "Delete intervention")
            )

    @Slot(object)
    def _on_opened(self, kept: work.KeptRun) -> None:
        self.form.show_plan(kept.run.plan)
        self._show_run(kept)
        self._show_form()

    # -- commands: edges ----------------------------------------------------------------------

    @Slot()
    def verify(self) -> None:
        """Test the edges that the panel names."""
        crm, graph, pruned = self.session.crm, self.session.graph, self.session.pruned
        if crm is None or graph is None or pruned is None:
            return
        self.go_there()
        self.tabs.setCurrentWidget(self.verify_panel)
        panel = self.verify_panel
        self._verify_home = self.session.home
        job = self.runner.submit(
            work.verify_edges, crm, graph, pruned, panel.asked_scope, self.scope_nodes(),
            panel.limit.value(), panel.asked_reach, CONTROLS, 0,
            title="Verify edges", key=VERIFY_KEY,
        )  # fmt: skip
        job.finished.connect(self._on_verified)
        job.failed.connect(self._on_failed)
        panel.strip.follow(job)

    @Slot(object)
    def _on_verified(self, kept: work.KeptReport) -> None:
        graph, home = self.session.graph, self._verify_home
        # Another graph may have taken its place; what was found is kept all the same.
        mine = self.session.is_home(home) and kept.report.belongs_to(graph)
        if mine:
            self._edges_of = graph
        self.session.add_record("verification", kept.record, self, home, with_report)
        if mine:
            self.verify_panel.show_report(kept.report, self._words)
            self._highlight_edges()

    @Slot()
    def show_edges(self) -> None:
        """Mark in the graph what verifying found."""
        self.catch_up()
        if self.runner.running(_REPORT_KEY) is not None:
            self._show_when_read = True
            return
        if self.verify_panel.report is None:
            self.message.emit(
                Message("info", "No edges of this graph were verified", "", "Verify them first")
            )
            return
        self._highlight_edges()
        self.commands.run("go.graph")

    def _highlight_edges(self) -> None:
        report, verdicts = self.verify_panel.report, self.verify_panel.edges.verdicts
        if report is None or not report.belongs_to(self.session.graph):
            return
        self._own_highlight = verified_edges(report, verdicts)
        self.session.set_highlight(self._own_highlight)

    @Slot()
    def _on_judged(self) -> None:
        mine = self._own_highlight is not None and self.session.highlight is self._own_highlight
        if mine:
            self._highlight_edges()

    # -- commands: the graph ------------------------------------------------------------------

    @Slot()
    def validate(self) -> None:
        """Hold the graph against the model."""
        self.go_there()
        self.tabs.setCurrentWidget(self.validate_panel)
        self.validate_panel.start()

    # -- from the person ----------------------------------------------------------------------

    @Slot(str)
    def _on_node(self, name: str) -> None:
        self.session.set_selection(name, initiator=self)

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- costs --------------------------------------------------------------------------------

    @property
    def _known_cost(self) -> Optional[PassCost]:
        """What a pass over the prompt takes, where that is known by now."""
        return self._timer.cost(self.session.crm, self.prompt)

    @Slot()
    def _ask_edges(self) -> None:
        """Have the edges counted that would be verified."""
        graph, pruned = self.session.graph, self.session.pruned
        self._choice = None
        self._show_cost()
        if graph is None or pruned is None or not can_verify(self.session):
            return
        panel = self.verify_panel
        self._choice_of = graph
        job = self.runner.submit(
            work.choose_edges, graph, pruned, panel.asked_scope, self.scope_nodes(),
            panel.limit.value(), title="Count edges", lane="quick", key=_CHOICE_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_choice)
        job.failed.connect(self._on_failed)

    def scope_nodes(self) -> tuple[str, ...]:
        """The nodes that the edges to verify are about."""
        scope = self.verify_panel.asked_scope
        if scope == "pinned":
            return self.session.pinned
        selection = self.session.selection
        if scope != "selected" or selection is None:
            return ()
        group = self.session.notes.supernode(selection)
        return (selection,) if group is None else group.nodes

    @Slot(object)
    def _on_choice(self, choice: EdgeChoice) -> None:
        if self._choice_of is self.session.graph:
            self._choice = choice
            self._show_cost()

    @Slot()
    def _show_cost(self) -> None:
        self.cost.set_whole(self._intervention_cost())
        self.verify_panel.cost.set_whole(self._verify_cost())

    def _intervention_cost(self) -> str:
        if not self.form.drafts:
            return f"Nothing is to be changed in “{self.prompt}”"
        frozen = self.form.freeze.currentData() == "all"
        n_text = 0 if frozen else self.form.n_tokens.value()
        return intervention_cost(self._known_cost, n_text, self.prompt)

    def _verify_cost(self) -> str:
        if not can_verify(self.session):
            return "Trace a prompt with the replacement model that is open"
        if self._choice is None:
            return "Counting edges…"
        return verify_cost(self._known_cost, self._choice, CONTROLS)

    # -- drawing ------------------------------------------------------------------------------

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Show what changed in the session."""
        self.show_empty(self.session.crm is None and not self.session.records.get("intervention"))
        if SessionPart.RECORDS in parts:
            self.history.show_records(self.session.records.get("intervention", ()))
        if parts & {SessionPart.GRAPH, SessionPart.CRM, SessionPart.RECORDS}:
            self._find_report()
        self._timer.ask(self.session.crm, self.prompt)
        if (
            parts & {SessionPart.GRAPH, SessionPart.PRUNED, SessionPart.CRM}
            or (self.verify_panel.asked_scope == "pinned" and SessionPart.PINNED in parts)
            or (self.verify_panel.asked_scope == "selected" and SessionPart.SELECTION in parts)
        ):
            self._ask_edges()
        self._show_cost()
        self.validate_panel.refresh(parts)

    def _find_report(self) -> None:
        """Show what was found of this graph before, if anything was."""
        graph = self.session.graph
        if graph is self._edges_of and (graph is None or self.verify_panel.report is not None):
            return
        self._edges_of = graph
        self.verify_panel.show_report(None, self._words)
        kept = self.session.records.get("verification", ())
        record = None if graph is None else latest_report(kept, graph)
        if record is not None:
            job = self.runner.submit(
                work.read_report, record, title="Open verified edges", lane="quick",
                key=_REPORT_KEY, quiet=True,
            )  # fmt: skip
            job.finished.connect(self._on_report)
            job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_report(self, kept: work.KeptReport) -> None:
        if kept.report.belongs_to(self.session.graph):
            self.verify_panel.show_report(kept.report, self._words)
            if self._show_when_read:
                self.show_edges()
        self._show_when_read = False

    def hideEvent(self, event: QHideEvent) -> None:
        """A cost that nobody sees need not be measured."""
        super().hideEvent(event)
        if self._made and self._timer.give_up():
            self._dirty.add(SessionPart.PROMPT)

    # -- figures ------------------------------------------------------------------------------

    def figures(self) -> tuple[FigureOffer, ...]:
        """Figures of what is shown."""
        if not self._made:
            return ()
        found = []
        if self.result.run is not None:
            found.append(
                FigureOffer("intervene.effects", "What features did", self.result.effects_figure)
            )
        panel = self.verify_panel
        if panel.report is not None:
            found.append(
                FigureOffer("verify.plot", "Predicted against measured", panel.plot_figure)
            )
            found.append(FigureOffer("verify.table", "Verified edges", panel.table_figure))
        return (*found, *self.validate_panel.figures())
