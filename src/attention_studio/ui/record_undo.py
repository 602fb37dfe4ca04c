"""Throwing a record away, and getting it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtGui import QUndoCommand

if TYPE_CHECKING:
    from attention_studio.ui.session import Session


class DropRecord(QUndoCommand):
    """Takes one record out of those of its kind; undo puts it back where it was. Records that came
    meanwhile stay."""

    def __init__(
        self,
        session: Session,
        kind: str,
        record: dict[str, Any],
        text: str,
        initiator: Optional[object] = None,
    ) -> None:
        super().__init__(text)
        self._session = session
        self._kind = kind
        self._record = record
        self._initiator = initiator
        self._place = 0

    def redo(self) -> None:
        """Take it out."""
        kept = self._session.records.get(self._kind, ())
        for place, record in enumerate(kept):
            if record is self._record:
                self._place = place
                self._set((*kept[:place], *kept[place + 1 :]))
                return

    def undo(self) -> None:
        """Put it back."""
        kept = self._session.records.get(self._kind, ())
        place = min(self._place, len(kept))
        self._set((*kept[:place], self._record, *kept[place:]))

    def _set(self, records: tuple[dict[str, Any], ...]) -> None:
        initiator, self._initiator = self._initiator, None
        self._session.set_records({**self._session.records, self._kind: records}, initiator)
