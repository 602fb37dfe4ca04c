"""Gathers what is known of a feature, from the session, a store and the model, for a detail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui import work_features
from attention_studio.ui.feature_labels import FeatureLabelling, feature_notes
from attention_studio.ui.feature_view import FeatureView
from attention_studio.ui.session import SessionPart
from attention_studio.ui.work_dashboards import imported_from

if TYPE_CHECKING:
    from attention_studio.core.feature_extractor import FeatureRecord, FeatureReport
    from attention_studio.core.sites import Site
    from attention_studio.ui.jobs import JobFailure, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.widgets.feature_detail import FeatureDetail
    from attention_studio.ui.work_features import LookedUp, StoredPage, TriedText


_LATE_MS = 150
"""How long a feature may wait for its page, so that it is laid out once."""
_ANEW = (SessionPart.CRM, SessionPart.STORE, SessionPart.GRAPH)
_NOTED = (SessionPart.NOTES, SessionPart.PINNED, SessionPart.RECORDS)


class FeatureLookup(QObject):
    """Keeps one detail filled.

    What the session has is shown at once; the page of a store follows from the ``quick`` lane
    within milliseconds, and what only the model knows (where the feature fires on the prompt, what
    is like it where no store says so) from the ``compute`` lane, once somebody sees the detail.

    ``failed`` carries a ``JobFailure`` for the message bar; ``went`` module and index of a feature
    to go to; ``shown`` says that the detail shows what it was given to look at.
    """

    failed = Signal(object)
    shown = Signal()
    went = Signal(object, int)

    def __init__(
        self, session: Session, runner: JobRunner, detail: FeatureDetail, name: str,
        parent: Optional[QObject] = None,
    ) -> None:  # fmt: skip
        """``name``: by which the jobs of this detail are known."""
        super().__init__(parent)
        self._session, self._runner, self._detail = session, runner, detail
        self._page_key, self._sheet_key, self._try_key = (
            f"{name}.page", f"{name}.sheet", f"{name}.try",
        )  # fmt: skip
        self._view: Optional[FeatureView] = None
        # What the model was last asked about, and the prompt that it was asked with.
        self._asked: Optional[tuple[Site, int, Optional[int], str]] = None
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(_LATE_MS)
        self._late.timeout.connect(self.show_notes)
        detail.came.connect(self._on_came)
        detail.tried.connect(self._on_tried)
        detail.went.connect(self.went)
        detail.labelled.connect(self._on_labelled)
        detail.noted.connect(self._on_noted)
        session.leaving.connect(detail.leave)
        session.changed.connect(self._on_session)
        self._labelling = FeatureLabelling.of(session, runner)
        self._labelling.written.connect(self._on_written)

    @property
    def view(self) -> Optional[FeatureView]:
        """What is shown."""
        return self._view

    # -- asking -------------------------------------------------------------------------------

    def look_at(
        self,
        feature: Optional[tuple[Site, int]],
        node: Optional[str] = None,
        position: Optional[int] = None,
        report: Optional[FeatureReport] = None,
        record: Optional[FeatureRecord] = None,
    ) -> None:
        """Show a feature, or none.

        Args:
            feature: module and index.
            node: its name where it is a node of the graph or of the report.
            position: of the token that is meant.
            report, record: what is known of the prompt already.
        """
        shown = self._view
        if shown is not None and feature != (shown.site, shown.index):
            self._detail.leave()
        if feature is None:
            self._view = None
            self._late.stop()
            self._detail.show_view(None)
            return
        site, index = feature
        before = self._view
        fresh = FeatureView(site, index, position, node, report, record)
        if before is not None and (before.site, before.index) == (site, index):
            fresh = replace(
                fresh,
                page=before.page,
                source=before.source,
                near=before.near,
                report=report if report is not None else before.report,
                record=record if record is not None else before.record,
            )
        self._view = fresh
        if self._ask_store() and fresh.page is None:
            self._late.start()
        else:
            self.show_notes()
        self.ask_model()

    @Slot()
    def show_notes(self) -> None:
        """Take over labels and pins, which may have changed."""
        self._late.stop()
        view, session = self._view, self._session
        if view is None:
            return
        noted = session.notes.labels.get(view.feature, "")
        stored = view.page.label if view.page is not None else None
        label = noted or (stored.text if stored is not None else "")
        by = stored.by if stored is not None and stored.text == label else ""
        pinned = view.node is not None and view.node in session.pinned
        self._view = replace(
            view,
            label=label,
            label_by=by,
            note=feature_notes(session).get(view.feature, ""),
            can_label=self._labelling.can_label(view),
            pinned=pinned,
        )
        self._detail.show_view(self._view)
        self.shown.emit()

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if self._view is None:
            return
        typed = part is SessionPart.PROMPT_VIEW and self._session.graph is None
        if typed or part in _ANEW:
            self.forget()
            self._ask_store()
            self.show_notes()
            self.ask_model()
        elif part in _NOTED:
            self.show_notes()

    def forget(self) -> None:
        """Another store, prompt or replacement model: what was known of the feature is not."""
        view, self._asked = self._view, None
        if view is not None:
            self._view = replace(
                view, page=None, near=(), report=None, record=None, lacking="", source=""
            )

    def _ask_store(self) -> bool:
        """Ask for the page of the feature; whether it was."""
        store, view = self._session.store, self._view
        if store is None or view is None or self._of_others():
            self._runner.cancel_key(self._page_key)
            return False
        if not self._detail.isVisible():
            return False
        job = self._runner.submit(
            work_features.read_page, store, view.site, view.index,
            title="Read the page of a feature", lane="quick", key=self._page_key, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_page)
        job.failed.connect(self.failed)
        return True

    def _of_others(self) -> bool:
        """Whether the open pages are about other features than those of the graph that is meant."""
        store, view, graph = self._session.store, self._view, self._session.graph
        if store is None or view is None or view.node is None or graph is None:
            return False
        return graph.has(view.node) and not store.about.may_be_of(graph)

    def _prompt_ids(self) -> Optional[tuple[int, ...]]:
        """The tokens of what counts as the prompt: the graph's, or the one that was typed."""
        session = self._session
        graph, crm = session.graph, session.crm
        if graph is not None and crm is not None and made_by(graph, crm):
            return tuple(graph.token_ids)
        view = session.prompt_view
        return tuple(view.token_ids) if view is not None else None

    @Slot()
    def _on_came(self) -> None:
        if self._view is not None and self._view.page is None:
            self._ask_store()
        self.ask_model()

    def ask_model(self) -> None:
        """Ask the model what it alone knows, if somebody sees the detail and it is not known."""
        view, crm = self._view, self._session.crm
        if view is None or not self._detail.isVisible():
            return
        unlike = view.page is None and not view.near and self._session.store is None
        if view.report is not None and not unlike:
            return
        refusal = self._refusal()
        ids = self._prompt_ids()
        if refusal or crm is None:
            self._say_lacking(refusal)
            return
        wanted = (view.site, view.index, view.position, repr(ids))
        if wanted == self._asked:
            return
        self._asked = wanted
        job = self._runner.submit(
            work_features.look_up, crm, view.site, view.index, ids or (), view.position,
            title="Look a feature up", key=self._sheet_key, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_looked_up)
        job.failed.connect(self._on_look_up_failed)

    def _refusal(self) -> str:
        """Why the model cannot be asked; "" where it can."""
        session, view = self._session, self._view
        if view is None:
            return ""
        crm, graph = session.crm, session.graph
        if crm is None:
            said = "Open the replacement model to see where the feature fires."
            if session.store is not None and self._of_others():
                said += f" The dashboards that are open are of another one, {self._dashboards()}."
            return said
        of_graph = view.node is not None and graph is not None and graph.has(view.node)
        if graph is not None and of_graph and not made_by(graph, crm):
            return f"The graph is of another {graph.crm_name}: open that to see more."
        if view.site not in crm.sites:
            return f"{crm.name} has no dictionary for {view.site.label}."
        return ""

    def _dashboards(self) -> str:
        """Whose dashboards are open."""
        store = self._session.store
        return "" if store is None else store.about.crm_name

    def _say_lacking(self, why: str) -> None:
        if self._view is not None and self._view.lacking != why:
            self._view = replace(self._view, lacking=why)
            self._show()

    def _show(self) -> None:
        """Show what is known, unless its page comes in a moment and shows it along."""
        if not self._late.isActive():
            self._detail.show_view(self._view)

    # -- answers ------------------------------------------------------------------------------

    def _is_shown(self, site: Site, index: int) -> bool:
        return self._view is not None and (self._view.site, self._view.index) == (site, index)

    @Slot(object)
    def _on_page(self, found: StoredPage) -> None:
        if self._view is None or not self._is_shown(found.site, found.index):
            return
        if found.store is self._session.store:
            source = imported_from(found.store.about) if found.page is not None else ""
            self._view = replace(self._view, page=found.page, source=source)
            self.show_notes()

    @Slot(object)
    def _on_looked_up(self, found: LookedUp) -> None:
        if self._view is None or not self._is_shown(found.site, found.index):
            return
        known = found.report is not None and self._view.report is None
        self._view = replace(
            self._view,
            near=found.near,
            report=found.report if known else self._view.report,
            record=found.record if self._view.record is None else self._view.record,
            lacking="",
        )
        self._show()

    @Slot(object)
    def _on_look_up_failed(self, failure: JobFailure) -> None:
        self._say_lacking(". ".join(part for part in (failure.what, failure.why) if part))

    # -- one's own text -------------------------------------------------------------------------

    @Slot(str)
    def _on_tried(self, text: str) -> None:
        view, crm = self._view, self._session.crm
        if view is None or not text:
            self._runner.cancel_key(self._try_key)
            return
        if crm is None:
            self._detail.show_tried(None, "Open the replacement model to try a text.")
            return
        job = self._runner.submit(
            work_features.try_text, crm, view.site, view.index, text,
            title="Try a feature", key=self._try_key, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_text_tried)
        job.failed.connect(self._on_try_failed)

    @Slot(object)
    def _on_text_tried(self, found: TriedText) -> None:
        if self._is_shown(found.site, found.index):
            self._detail.show_tried(found.report)

    @Slot(object)
    def _on_try_failed(self, failure: JobFailure) -> None:
        parts = (failure.what, failure.why)
        self._detail.show_tried(None, ". ".join(part for part in parts if part))

    @Slot(str)
    def _on_labelled(self, label: str) -> None:
        if self._view is not None:
            self._labelling.label(self._view, label)

    @Slot(str)
    def _on_noted(self, note: str) -> None:
        if self._view is not None:
            self._labelling.note(self._view.feature, note)

    @Slot(object, int)
    def _on_written(self, site: Site, index: int) -> None:
        if self._is_shown(site, index):
            self._ask_store()
