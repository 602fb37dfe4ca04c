"""What people call features and note about them, and where that is kept.

One rule says which label wins: the label that a person gave with the open graph (``session.notes``)
is what that graph's feature is called; where there is none, it is the label in the store, which
counts for all prompts and is what agents write. Whoever labels a feature of the open graph, or
takes that back, changes both; whoever labels another feature changes the store alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, QTimer, Signal, Slot
from PySide6.QtGui import QUndoCommand

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.feature_records import PERSON
from attention_studio.core.graph_notes import MAX_TEXT
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui import work_features
from attention_studio.ui.session import SessionPart

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.feature_store import FeatureStore
    from attention_studio.core.sites import Site
    from attention_studio.ui.feature_view import FeatureView
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_features import Labelled, LabelsBefore

NOTES = "feature_note"
"""Kind of the session's records that hold notes about features."""


class FeatureLabelling(QObject):
    """Carries out what a person calls features, and keeps the store in step with the graph.

    ``written`` carries module and index of a feature whose label in the store is another now,
    ``failed`` a ``JobFailure``.
    """

    written = Signal(object, int)
    failed = Signal(object)

    def __init__(
        self, session: Session, runner: JobRunner, parent: Optional[QObject] = None
    ) -> None:
        super().__init__(parent)
        self._session, self._runner = session, runner
        # The graph whose labels were seen last, and these. Another graph brings its own along:
        # nobody has just given those.
        self._seen: tuple[Optional[AttributionGraph], Mapping[str, str]] = (None, {})
        # What the store said before the graph's labels went over it: the lane's alone.
        self._before: LabelsBefore = {}
        # A graph and its notes change one after the other: looked at when both have.
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(0)
        self._settling.timeout.connect(self._follow_graph)
        session.changed.connect(self._on_session)

    @staticmethod
    def of(session: Session, runner: JobRunner) -> FeatureLabelling:
        """The one that a session has; made when it is first asked for."""
        found = session.findChild(FeatureLabelling)
        return found if found is not None else FeatureLabelling(session, runner, session)

    def label(self, view: FeatureView, text: str) -> None:
        """Call a feature something ("": nothing), undoable; nothing happens where it cannot be
        kept."""
        session, graph = self._session, self._session.graph
        if not text and self.take_away(view.feature):
            return
        if graph is not None and in_graph(graph, view.feature):
            what = f"Label {view.feature}" if text else f"Take the label of {view.feature} away"
            session.set_notes(session.notes.labelled(view.feature, text), what)
        elif session.store is not None:
            self._label_in_store(session.store, view.site, view.index, text)

    def take_away(self, feature: str) -> bool:
        """Have the dashboards call a feature of the open graph (``L12/F1043``) nothing, undoable,
        where the graph's own notes do not call it anything; returns whether there was a label."""
        session, name = self._session, FeatureName.read(feature)
        store, notes = session.store, session.notes
        if store is None or name is None or not isinstance(name.latent, int):
            return False
        if feature in notes.labels or feature not in session.named_notes.labels:
            return False
        if feature not in session.store_labels:
            return False
        self._label_in_store(store, name.site, name.latent, "")
        return True

    def _label_in_store(self, store: FeatureStore, site: Site, index: int, text: str) -> None:
        self._session.undo_stack.push(_LabelInStore(self, store, site, index, text))

    def can_label(self, view: FeatureView) -> bool:
        """Whether there is a place to keep a label of this feature."""
        session = self._session
        if session.store is not None and work_features.holds(session.store, view.site, view.index):
            return True
        return session.graph is not None and in_graph(session.graph, view.feature)

    def write(
        self,
        store: FeatureStore,
        site: Site,
        index: int,
        text: Optional[str],
        before: LabelsBefore,
    ) -> None:
        """Write a person's label into a store, or (None) the one that ``before`` remembers."""
        job = self._runner.submit(
            work_features.change_label, store, site, index, text, PERSON, before,
            title="Label a feature", lane="quick", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_written)
        job.failed.connect(self.failed)

    # -- notes ------------------------------------------------------------------------------------

    def note(self, feature: str, text: str) -> None:
        """Note something about a feature (``L12/F1043``), or ("") nothing any more; undoable."""
        if text != feature_notes(self._session).get(feature, ""):
            self._session.undo_stack.push(_NoteFeature(self._session, feature, text))

    # -- keeping the store in step ----------------------------------------------------------------

    @Slot(object, object)
    def _on_session(self, part: SessionPart, _initiator: object) -> None:
        if part in (SessionPart.NOTES, SessionPart.GRAPH):
            self._settling.start()

    @Slot()
    def _follow_graph(self) -> None:
        session = self._session
        graph, labels = session.graph, session.notes.labels
        (seen, before), self._seen = self._seen, (graph, labels)
        store, crm = session.store, session.crm
        if graph is not seen:
            self._before = {}
            return
        if graph is None or store is None or crm is None or not made_by(graph, crm):
            return
        for feature in {*before, *labels}:
            old, new = before.get(feature, ""), labels.get(feature, "")
            name = FeatureName.read(feature)
            if old == new or name is None or not isinstance(name.latent, int):
                continue
            if work_features.holds(store, name.site, name.latent):
                self.write(store, name.site, name.latent, new or None, self._before)

    @Slot(object)
    def _on_written(self, done: Labelled) -> None:
        session = self._session
        if done.store is not session.store:
            return
        name = f"{done.site.label}/F{done.index}"
        rest = {key: text for key, text in session.store_labels.items() if key != name}
        session.set_store_labels({**rest, name: done.label.text} if done.label.text else rest)
        self.written.emit(done.site, done.index)


def in_graph(graph: AttributionGraph, feature: str) -> bool:
    """Whether a graph has a feature (``L12/F1043``) at any position."""
    name = FeatureName.read(feature)
    if name is None or not isinstance(name.latent, int):
        return False
    nodes = graph.nodes
    mine = (nodes.index == name.latent) & (nodes.site_kind >= 0) & (nodes.depth == name.site.number)
    return bool(mine.any())


def feature_notes(session: Session) -> dict[str, str]:
    """What was noted about features of the open replacement model, by name."""
    mine = whose(session)
    return {
        str(record.get("feature", "")): str(record.get("text", ""))
        for record in session.records.get(NOTES, ())
        if record.get("crm") == mine and record.get("text")
    }


def whose(session: Session) -> str:
    """By which records know the open replacement model: its weights, or its name where nothing
    is known of those."""
    info, folder = session.crm_info, session.crm_folder
    if info is not None:
        return info.fingerprint
    return folder.name if folder is not None else ""


class _LabelInStore(QUndoCommand):
    """One label in a store."""

    def __init__(
        self, labelling: FeatureLabelling, store: FeatureStore, site: Site, index: int, text: str
    ) -> None:
        super().__init__(f"Label {site.label} #{index}")
        self._labelling, self._store = labelling, store
        self._site, self._index, self._text = site, index, text
        self._before: LabelsBefore = {}

    def redo(self) -> None:
        """Give the label."""
        self._labelling.write(self._store, self._site, self._index, self._text, self._before)

    def undo(self) -> None:
        """Give the label that was there before."""
        self._labelling.write(self._store, self._site, self._index, None, self._before)


class _NoteFeature(QUndoCommand):
    """One note about a feature, kept among the session's records."""

    def __init__(self, session: Session, feature: str, text: str) -> None:
        super().__init__(f"Note about {feature}" if text else f"Drop the note about {feature}")
        self._session, self._feature, self._text = session, feature, text[:MAX_TEXT]
        self._old = feature_notes(session).get(feature, "")
        self._crm = whose(session)

    def redo(self) -> None:
        """Note it."""
        self._set(self._text)

    def undo(self) -> None:
        """Note what was noted before."""
        self._set(self._old)

    def _set(self, text: str) -> None:
        rest = tuple(
            record
            for record in self._session.records.get(NOTES, ())
            if (record.get("crm"), record.get("feature")) != (self._crm, self._feature)
        )
        mine = ({"crm": self._crm, "feature": self._feature, "text": text},) if text else ()
        self._session.set_records({**self._session.records, NOTES: (*rest, *mine)})
