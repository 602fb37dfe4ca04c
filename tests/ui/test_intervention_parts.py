"""What the Intervene dock is made of: drafts, costs, marks, tables that sort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import numpy as np
import pytest
from numpy.typing import NDArray
from PySide6.QtCore import QPersistentModelIndex, Qt

from attention_studio.core.edge_checks import EdgeReport
from attention_studio.core.edge_choice import EdgeChoice
from attention_studio.core.intervention_running import PassCost
from attention_studio.core.intervention_specs import Edit, FeatureAt, InterventionError
from attention_studio.ui.edit_draft import EditDraft, parse_features
from attention_studio.ui.highlight import Role
from attention_studio.ui.intervention_costs import intervention_cost, verify_cost
from attention_studio.ui.intervention_marks import latest_report, verified_edges, with_report
from attention_studio.ui.widgets.ordered_model import OrderedModel
from attention_studio.ui.widgets.runs_table import RunColumn, run_cell
from attention_studio.utils.ranges import RangeError
from tests.ui.synthetic import synthetic_graph

TWO = parse_features("L0/3/5, A1/*/2")


def test_a_draft_says_what_an_edit_does() -> None:
    assert EditDraft(TWO).edit() == Edit(TWO, "ablate")
    scaled = EditDraft(TWO, "a name", "scale", -2.0, "*")
    assert scaled.edit() == Edit(parse_features("L0/*/5, A1/*/2"), "scale", -2.0)
    assert str(scaled) == "Scale by -2 · a name: L0/P3/F5, A1/*/F2 everywhere"
    swap = EditDraft(TWO[:1], "", "swap", 0.0, "", "Another prompt", "P4")
    assert swap.edit() == Edit(TWO[:1], "swap", 0.0, "Another prompt", 4)
    assert EditDraft.of(swap.edit()).edit() == swap.edit()
    assert EditDraft(TWO, "", "set", 3.0, "1-2").edit(3) == Edit(
        parse_features("L0/1/5, L0/2/5, A1/1/2, A1/2/2"), "set", 3.0
    )
    # A value that was typed for another action is no part of this one.
    assert EditDraft(TWO, "", "ablate", 7.0).edit() == Edit(TWO, "ablate")


@pytest.mark.parametrize(
    ("draft", "error"),
    [
        (EditDraft(()), InterventionError),
        (EditDraft(TWO, where="1-9"), RangeError),
        (EditDraft(TWO, action="swap"), InterventionError),
        (EditDraft(TWO[:1], "", "swap", 0.0, "", "x", "there"), InterventionError),
    ],
)
def test_a_draft_that_says_nothing_is_refused(draft: EditDraft, error: type[Exception]) -> None:
    with pytest.raises(error):
        draft.edit(9)


def test_typed_features_are_read_once_each() -> None:
    assert parse_features(" 0/3/5 ;L0/P3/F5,, a1/*/2") == TWO
    assert all(isinstance(at, FeatureAt) for at in TWO)
    for text in ("", " , ", "L0"):
        with pytest.raises(InterventionError):
            parse_features(text)


def test_costs_are_said_in_words() -> None:
    cost = PassCost(10, 0.5, 0.1)
    assert intervention_cost(cost, 0, "a b") == "3 passes of 10 tokens; about 1.5 s: “a b”"
    said = intervention_cost(cost, 20, "a b")
    assert said == "3 passes of 10 tokens, then 20 tokens for 2 texts; about 3.5 s: “a b”"
    assert intervention_cost(None, 0, "x") == "3 passes: “x”"
    assert "under 0.1 s" in intervention_cost(PassCost(10, 1e-3, 1e-3), 5, "x")
    two = np.array([4, 9, 9])
    choice = EdgeChoice(two, two + 10, np.ones(3, dtype=np.float32), 5, 7)
    assert verify_cost(cost, choice, 3) == (
        "3 edges of 2 features: 9 passes, about 0.9 s · not tested: 5 from tokens and errors, "
        "7 of other features"
    )
    none = EdgeChoice(two[:0], two[:0], np.ones(0, dtype=np.float32))
    assert verify_cost(cost, none, 3).startswith("No edges")


def report(prompt: str = "p", reach: Any = "total") -> EdgeReport:
    columns = [
        np.array(c, dtype=np.float32) for c in ([1, 1, 1], [1, 1, 0.1], [1, 0, 1], [0.2] * 3)
    ]
    return EdgeReport(prompt, "hash", "crm", reach, 0, 3, ("a", "b", "c"), ("d",) * 3, *columns)


def test_unclear_edges_are_not_marked() -> None:
    found = report()
    marked = verified_edges(found, found.verdicts())
    assert marked.edges == {("a", "d"): Role.CONFIRMED, ("b", "d"): Role.REFUTED}
    assert marked.title == "Verified edges: 1 confirmed, 1 refuted"
    assert marked.dim_rest


def test_the_newest_report_of_a_graph_is_kept() -> None:
    graph = synthetic_graph(n_layers=2, n_features=8)
    first, other = report().to_json(), report("q").to_json()
    kept = with_report((first, other), report().to_json())
    assert kept[0] is other
    assert kept[1] == first
    direct = report(reach="direct").to_json()
    assert with_report(kept, direct) == (*kept, direct)
    assert latest_report(kept, graph) is None
    mine = {**direct, "prompt": graph.prompt, "model_hash": graph.model_hash}
    mine["crm_name"] = graph.crm_name
    assert latest_report((mine, *kept, {"prompt": None}), graph) is mine


def test_reports_of_dictionaries_of_one_name_are_told_apart() -> None:
    graph = replace(synthetic_graph(n_layers=2, n_features=8), made_with={"dictionaries": "a"})
    old = {**report().to_json(), "prompt": graph.prompt, "model_hash": graph.model_hash}
    old["crm_name"] = graph.crm_name
    mine, theirs = {**old, "crm_fingerprint": "a"}, {**old, "crm_fingerprint": "b"}
    assert latest_report((mine, theirs), graph) is mine
    assert latest_report((theirs,), graph) is None
    assert with_report((theirs,), mine) == (theirs, mine)
    again = {**mine, "crm_name": "the same folder, moved"}
    assert with_report((theirs, mine), again) == (theirs, again)
    # One of an older version says nothing but the name.
    del old["crm_fingerprint"]
    assert latest_report((theirs, old), graph) is old


@pytest.mark.parametrize("record", [{}, {"plan": None}, {"plan": {"edits": "x"}}, {"plan": []}])
def test_a_strange_record_is_a_row_of_question_marks(record: dict[str, Any]) -> None:
    assert {run_cell(record, column) for column in RunColumn} == {"?"}


class _Squares(OrderedModel):
    HEADS = ("number", "square")
    NUMBERS_FROM = 1
    numbers = (3, -1, 2)

    @property
    def n_records(self) -> int:
        return len(self.numbers)

    def keys(self, column: int) -> NDArray[Any]:
        return np.array(self.numbers) ** (column + 1)

    def cell(self, record: int, column: int, role: int) -> Optional[str]:
        value = self.numbers[record] ** (column + 1)
        return str(value) if role == Qt.ItemDataRole.DisplayRole else None


def test_rows_are_sorted_and_what_points_at_them_goes_along() -> None:
    model = _Squares()
    model.reload()

    def column(number: int) -> list[str]:
        return [model.index(row, number).data() for row in range(model.rowCount())]

    kept = QPersistentModelIndex(model.index(0, 1))
    assert column(0) == ["3", "-1", "2"]
    model.sort(0)
    assert column(0) == ["-1", "2", "3"]
    assert (kept.row(), kept.column(), kept.data()) == (2, 1, "9")
    model.sort(1, Qt.SortOrder.DescendingOrder)
    assert column(1) == ["9", "4", "1"]
    assert model.record_at(0) == 0
    assert model.row_of(1) == 2
    model.sort(-1)
    assert column(0) == ["3", "-1", "2"]
    assert model.index(0, 1).data(Qt.ItemDataRole.AccessibleTextRole) == "square 9"
    assert model.index(0, 1).data(Qt.ItemDataRole.TextAlignmentRole) is not None
