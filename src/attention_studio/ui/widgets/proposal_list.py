"""Changes that an agent proposes, to be accepted one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from attention_studio.ui.agent_words import proposal_words
from attention_studio.ui.widgets.controls import CommandButton, label, named, plain_tip, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attention_studio.agents.proposals import GraphProposal
    from attention_studio.core.graph_notes import GraphNotes
    from attention_studio.ui.commands import Commands

_SHOWN_ROWS = 5


class _List(QListWidget):
    entered = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter accepts."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.entered.emit()
        else:
            super().keyPressEvent(event)


class ProposalList(QWidget):
    """Proposals with what became of each; hidden while there are none."""

    def __init__(self, commands: Commands, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._commands = commands
        self._proposals: tuple[GraphProposal, ...] = ()
        self.list = _List()
        named(self.list, "agents.proposals", "Proposed changes",
              "What the model proposes; Enter accepts the one that is chosen")  # fmt: skip
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 2, 12, 8)
        layout.setSpacing(4)
        self._head = label("", "section", name="agents.proposals.head")
        accept = CommandButton(commands, "agents.accept", text="Accept")
        layout.addLayout(row(self._head, accept, stretch=0))
        layout.addWidget(self.list)
        self.list.entered.connect(self._on_entered)
        self.list.itemDoubleClicked.connect(self._on_entered)
        self.hide()

    @property
    def current(self) -> Optional[GraphProposal]:
        """The one that is chosen."""
        place = self.list.currentRow()
        return self._proposals[place] if 0 <= place < len(self._proposals) else None

    def show_proposals(
        self, proposals: Sequence[GraphProposal], graph: str, notes: GraphNotes
    ) -> None:
        """Show these; ``graph`` is the key of the open graph, ``notes`` what it has already."""
        if tuple(proposals) != self._proposals:
            self._proposals = tuple(proposals)
            self.list.clear()
            for _ in self._proposals:
                self.list.addItem(QListWidgetItem())
            self.list.setCurrentRow(0)
        made = 0
        for place, one in enumerate(self._proposals):
            done = one.graph == graph and one.proposal.made_in(notes)
            made += done
            words = proposal_words(one, graph)
            item = self.list.item(place)
            item.setText(f"✓ {words}" if done else words)
            item.setToolTip(plain_tip(f"{words}. {one.proposal.why}".rstrip(". ")))
            item.setData(
                Qt.ItemDataRole.AccessibleTextRole, f"{words}, {'accepted' if done else 'open'}"
            )
        self._head.setText(f"Proposed changes: {made} of {len(self._proposals)} accepted")
        rows = min(_SHOWN_ROWS, max(1, len(self._proposals)))
        high = self.list.sizeHintForRow(0) if self._proposals else 0
        self.list.setFixedHeight(rows * high + 2 * self.list.frameWidth() + 4)
        self.setVisible(bool(self._proposals))

    def go_on(self) -> None:
        """Choose the next one, if there is one."""
        self.list.setCurrentRow(min(self.list.currentRow() + 1, self.list.count() - 1))

    @Slot()
    def _on_entered(self) -> None:
        self._commands.run("agents.accept")
