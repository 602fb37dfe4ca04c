"""What one does with nodes that are chosen together: pin, follow their edges, write about them.

Works on the session alone, whether or not a table of nodes is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QObject, Signal, Slot

from attention_studio.core.graph_notes import feature_of
from attention_studio.core.query_language import Query
from attention_studio.ui import work_nodes
from attention_studio.ui.feature_labels import FeatureLabelling
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.widgets.message_bar import Message

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.node_table import NodeTable
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.work_nodes import LinkedNodes


class ChosenNodes(QObject):
    """The commands on chosen nodes; where none are chosen, on the selected one.

    ``whole`` says whether all edges of the graph are followed, or those that are shown; ``known``
    is a graph and its columns, where somebody has made them. ``message`` carries a ``Message``
    for the message bar.
    """

    message = Signal(object)

    def __init__(self, session: Session, runner: JobRunner, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._runner = session, runner
        self.whole = False
        self.known: Optional[tuple[AttributionGraph, NodeTable]] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that are meant."""
        chosen, selected = self._session.chosen, self._session.selection
        return chosen or (() if selected is None else (selected,))

    def _words(self, names: Collection[str]) -> str:
        """Some nodes in words, for the history."""
        return self._session.words(next(iter(names))) if len(names) == 1 else f"{len(names)} nodes"

    # -- pins -----------------------------------------------------------------------------------

    @Slot()
    def pin(self) -> None:
        """Pin them."""
        names = self.names
        if names:
            pinned = (*self._session.pinned, *names)
            self._session.set_pinned(pinned, text=f"Pin {self._words(names)}")

    @Slot()
    def unpin(self) -> None:
        """Let those go that are pinned."""
        gone = set(self.names) & set(self._session.pinned)
        if gone:
            rest = (name for name in self._session.pinned if name not in gone)
            self._session.set_pinned(rest, text=f"Unpin {self._words(gone)}")

    @Slot()
    def toggle_pins(self) -> None:
        """Pin them, or let them go where all are pinned."""
        if set(self.names) <= set(self._session.pinned):
            self.unpin()
        else:
            self.pin()

    # -- choosing -------------------------------------------------------------------------------

    @Slot()
    def choose_none(self) -> None:
        """Choose nothing."""
        self._session.set_chosen(())

    @Slot()
    def choose_inputs(self) -> None:
        """Choose what feeds them, instead of them."""
        self._choose_linked(inputs=True)

    @Slot()
    def choose_outputs(self) -> None:
        """Choose what they feed, instead of them."""
        self._choose_linked(inputs=False)

    def _choose_linked(self, inputs: bool) -> None:
        session, graph = self._session, self._session.graph
        if graph is None:
            return
        known = self.known
        table = known[1] if known is not None and known[0] is graph else None
        request = work_nodes.NodesRequest(
            graph, table, session.pruned, self.whole, Query(""), session.notes, self.names
        )
        job = self._runner.submit(
            work_nodes.linked_nodes, request, inputs, title="Follow edges", lane="quick",
            key="nodes.linked", quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_linked)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_linked(self, linked: LinkedNodes) -> None:
        if linked.graph is not self._session.graph:
            return
        if linked.names:
            self._session.set_chosen(linked.names)
        else:
            todo = "" if self.whole else "Raise the thresholds, or look at all nodes in the table"
            self.message.emit(Message("info", "No edge leads there", "", todo))

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    # -- writing --------------------------------------------------------------------------------

    def write(self, texts: Mapping[str, str], remark: bool) -> None:
        """Give nodes a remark, or their features a label; "" takes it away.

        Args:
            texts: by the names of nodes. What is no feature gets no label.
        """
        notes = self._session.notes
        for name, text in texts.items():
            feature = feature_of(name)
            if remark:
                notes = notes.remarked(name, text) if text or name in notes.remarks else notes
            elif feature is not None and (text or feature in notes.labels):
                notes = notes.labelled(feature, text)
            elif feature is not None:
                FeatureLabelling.of(self._session, self._runner).take_away(feature)
        verb = "Remark on" if remark else "Label"
        if not any(texts.values()):
            verb = "Remove the remark on" if remark else "Remove the label of"
        if texts:
            self._session.set_notes(notes, f"{verb} {self._words(texts)}")
