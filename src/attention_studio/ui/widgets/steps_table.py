"""Original and changed text token by token, as a table."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

from PySide6.QtCore import QObject, Qt
from PySide6.QtGui import QFont

from attention_studio.ui.text import percent, visible_token
from attention_studio.ui.widgets.columns_model import ColumnsModel, Index

if TYPE_CHECKING:
    from attention_studio.core.generation_records import Continuation
    from attention_studio.core.intervention_runs import InterventionRun

Candidates = tuple[tuple[str, int, float], ...]
FIRST_SIGN, OTHER_SIGN = "◆", "≠"
NOTHING = "—"


class StepColumn(IntEnum):
    """The columns."""

    NUMBER = 0
    ORIGINAL = 1
    ORIGINAL_SHARE = 2
    CHANGED = 3
    CHANGED_SHARE = 4


class StepsTable(ColumnsModel):
    """A row for each token that was generated, original and changed beside each other; without text
    one for the next token alone. Where the texts part first, the row is bold and has a sign."""

    HEADS = ("", "Original", "", "Changed", "")
    TIPS = (
        f"Which token after the prompt, of the original and of the changed text where they are not "
        f"the same; {OTHER_SIGN} where the texts differ, {FIRST_SIGN} where they do so first",
        "The untouched model's token",
        "Its probability there",
        "The changed model's token",
        "Its probability there",
    )

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._numbers: list[tuple[Optional[int], Optional[int]]] = []
        self._cells: list[tuple[str, ...]] = []
        self._tops: list[tuple[Candidates, Candidates]] = []
        self.first: Optional[int] = None
        """The row in which the texts part; None where they are the same."""

    def show(self, run: Optional[InterventionRun]) -> None:
        """Show what a run gave."""
        self.beginResetModel()
        self._numbers, self._cells, self._tops = [], [], []
        self.first = None
        if run is not None and run.generation is not None:
            found = run.generation
            texts = (found.original, found.changed[0])
            self.first = found.first_difference(0)
            for row, numbers in enumerate(found.aligned(0)):
                sides, tops = zip(*(_side(*each) for each in zip(texts, numbers, strict=True)),
                                  strict=True)  # fmt: skip
                self._add(row, (numbers[0], numbers[1]), (sides[0], sides[1]), (tops[0], tops[1]))
        elif run is not None:
            before, after = (
                tuple((t.token, t.token_id, t.probability) for t in run.top(after=side))
                for side in (False, True)
            )
            told = tuple((visible_token(top[0][0]), percent(top[0][2])) if top else (NOTHING, "")
                         for top in (before, after))  # fmt: skip
            same = [top[1] for top in before[:1]] == [top[1] for top in after[:1]]
            self.first = None if same else 0
            self._add(0, (0, 0), (told[0], told[1]), (before, after))
        self.endResetModel()

    def _add(
        self,
        row: int,
        numbers: tuple[Optional[int], Optional[int]],
        sides: tuple[tuple[str, str], tuple[str, str]],
        tops: tuple[Candidates, Candidates],
    ) -> None:
        sign = ""
        if self.first is not None and row >= self.first and sides[0][0] != sides[1][0]:
            sign = FIRST_SIGN if row == self.first else OTHER_SIGN
        self._numbers.append(numbers)
        self._cells.append(
            (" ".join(filter(None, (_number(*numbers), sign))), *sides[0], *sides[1])
        )
        self._tops.append(tops)

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        one, other = self._numbers[row] if 0 <= row < len(self._numbers) else (0, 0)
        if (one, other) == (0, 0):
            return "Next token"
        if one == other:
            return f"Token {_number(one, other)} after the prompt"
        if one is None or other is None:
            side = "changed" if one is None else "original"
            number = other if one is None else one
            return f"Token {_number(number, number)} after the prompt, {side} text alone"
        return f"Tokens {one + 1} and {other + 1} after the prompt"

    def parting(self) -> str:
        """Where the texts part, in a sentence; "" where there is nothing to say."""
        if not self._cells:
            return ""
        if self.first is None:
            return "Both are the same, token for token"
        cells = self._cells[self.first]
        one, other = cells[StepColumn.ORIGINAL], cells[StepColumn.CHANGED]
        where = self.place(self.first)
        return f"{FIRST_SIGN} They part here: {where[0].lower()}{where[1:]}, {one} → {other}"

    def tops(self, row: int) -> tuple[Candidates, Candidates]:
        """The likeliest tokens of a row, original and changed: (token, id, probability)."""
        return self._tops[row] if 0 <= row < len(self._tops) else ((), ())

    @property
    def n_rows(self) -> int:
        """How many tokens there are."""
        return len(self._tops)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell says."""
        if not index.isValid():
            return None
        column = StepColumn(index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole and column in (
            StepColumn.NUMBER, StepColumn.ORIGINAL_SHARE, StepColumn.CHANGED_SHARE,
        ):  # fmt: skip
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.FontRole and index.row() == self.first:
            font = QFont()
            font.setBold(True)
            return font
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return None
        text = self._cells[index.row()][column]
        if role == Qt.ItemDataRole.DisplayRole:
            return text
        if column == StepColumn.NUMBER:
            signs = {FIRST_SIGN: ", the first difference", OTHER_SIGN: ", different"}
            for sign, words in signs.items():
                text = text.replace(f" {sign}", words)
            return text
        side = "Changed" if column >= StepColumn.CHANGED else "Original"
        return f"{side} {text}"


def _side(text: Continuation, number: Optional[int]) -> tuple[tuple[str, str], Candidates]:
    """What a row says of one text: the token and its probability, and what could have come."""
    if number is None:
        return (NOTHING, ""), ()
    token = text.tokens[number]
    tops = tuple((c.token, c.token_id, c.probability) for c in token.candidates)
    return (visible_token(token.text), percent(token.probability)), tops


def _number(one: Optional[int], other: Optional[int]) -> str:
    """Numbers of tokens from 1 on, one where both are the same."""
    if one == other and one is not None:
        return str(one + 1)
    return " / ".join(NOTHING if number is None else str(number + 1) for number in (one, other))
