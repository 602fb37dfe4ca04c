"""Whether a graph may be believed: its scores, each with a mark and plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from attention_studio.ui.text import percent
from attention_studio.ui.widgets.controls import Role, label, set_role

if TYPE_CHECKING:
    from attention_studio.core.graph_pruning import GraphScores

# Below the first the graph misses much of what the model does; the identity is exact to rounding.
GOOD_REPLACEMENT = 0.5
GOOD_COMPLETENESS = 0.75
MAX_IDENTITY_ERROR = 1e-4


@dataclass(frozen=True)
class _Verdict:
    """A score as text, whether it is good, and what it means."""

    text: str
    good: bool
    meaning: str


class ScoreBadges(QWidget):
    """Scores in a row. The mark, not only the colour, says whether each is good.

    ``of`` names what they are of: "graph" has all three, a "subgraph" no identity error of its own.
    """

    def __init__(self, of: str = "graph", parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName(f"{of}.scores")
        self.setAccessibleName(f"Scores of the {of}")
        names = ("Replacement", "Completeness", "Identity")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self._values: dict[str, QLabel] = {}
        self._names: dict[str, QLabel] = {}
        for number, name in enumerate(names if of == "graph" else names[:2]):
            key = name.split()[0].lower()
            caption = label(name, "caption")
            value = label("", "text", name=f"{of}.score.{key}")
            if number:
                layout.addSpacing(6)
            layout.addWidget(caption)
            layout.addWidget(value)
            self._names[key], self._values[key] = caption, value

    def show_scores(self, scores: Optional[GraphScores]) -> None:
        """Show other scores, or none."""
        self.setVisible(scores is not None)
        if scores is None:
            return
        verdicts = _verdicts(scores)
        for key, value in self._values.items():
            verdict = verdicts[key]
            value.setText(f"{'✓' if verdict.good else '⚠'} {verdict.text}")
            role: Role = "success" if verdict.good else "warning"
            set_role(value, role)
            for part in (value, self._names[key]):
                part.setToolTip(verdict.meaning)
            state = "good" if verdict.good else "take care"
            value.setAccessibleName(f"{self._names[key].text()} {verdict.text}, {state}")
            value.setAccessibleDescription(verdict.meaning)


def _verdicts(scores: GraphScores) -> dict[str, _Verdict]:
    known = not math.isnan(scores.max_identity_error)  # another tool's file does not tell
    exact = known and scores.max_identity_error < MAX_IDENTITY_ERROR
    return {
        "replacement": _Verdict(
            percent(scores.replacement),
            scores.replacement >= GOOD_REPLACEMENT,
            "Of all influence on the output, so much comes from the prompt's tokens through "
            "features. The rest comes from what the dictionaries do not explain (error nodes).",
        ),
        "completeness": _Verdict(
            percent(scores.completeness),
            scores.completeness >= GOOD_COMPLETENESS,
            "Of what feeds the nodes that matter, so much is features and tokens rather than "
            "errors. Where it is low, look at the error nodes before you trust a path.",
        ),
        "identity": _Verdict(
            f"{scores.max_identity_error:.1e}" if known else "not known",
            exact,
            "Identity error: each node's edges and bias must add up to the value that the model "
            "computed; this is the largest deviation, relative to the node's edges. "
            + (
                "It is rounding: the edges are exact."
                if exact
                else "It is more than rounding: do not trust this graph."
                if known
                else "The file that this graph comes from does not hold those values."
            ),
        ),
    }
