"""The detail of a feature by itself: what it says, its examples, its list of all features."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, QRect, Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtWidgets import QApplication, QLabel

from attention_studio.core.feature_records import Example, FeaturePage, Histogram
from attention_studio.core.sites import Site
from attention_studio.ui.feature_view import FeatureView
from attention_studio.ui.figures.feature_figure import FeatureFigure
from attention_studio.ui.theme import Theme
from attention_studio.ui.widgets import example_list
from attention_studio.ui.widgets.activation_histogram import HistogramView
from attention_studio.ui.widgets.example_list import (
    LINES,
    REACH,
    WHOLE_REACH,
    ExampleList,
    look_shares,
)
from attention_studio.ui.widgets.feature_detail import FeatureDetail
from attention_studio.ui.widgets.store_model import DENSITY, FEATURE, NOTE, PAGE, StoreModel
from attention_studio.ui.widgets.token_text import (
    TextLayout,
    lay_out_tokens,
    shown_token,
    token_at,
)
from attention_studio.ui.work_features import ListedFeature
from tests.ui.stage import Stage, unnamed_controls
from tests.ui.store_scene import WORDS, example, page
from tests.ui.synthetic import synthetic_report

MLP, ATTENTION = Site(2, "mlp"), Site(2, "attention")


@pytest.fixture
def detail(stage: Stage) -> FeatureDetail:
    made = FeatureDetail(stage.theme)
    stage.window.setCentralWidget(made)
    stage.window.resize(620, 1500)
    stage.window.show()
    stage.qtbot.waitExposed(stage.window)
    return made


def view_of(site: Site, index: int = 3, **more: object) -> FeatureView:
    return FeatureView(site, index, page=page(site, index), **more)  # type: ignore[arg-type]


def texts(widget: FeatureDetail) -> list[str]:
    return [child.text() for child in widget.findChildren(QLabel) if child.isVisible()]


def test_a_page_is_shown_whole(stage: Stage, detail: FeatureDetail) -> None:
    detail.show_view(view_of(MLP, label="Texas", label_by="Ann"))
    stage.settle()
    assert detail.title == "L2 #3 · Texas"
    assert "0.8% of 10,000 tokens" in detail.facts or "0.8% of 10 k tokens" in detail.facts
    assert detail.label_edit.text() == "Texas"
    assert "Called so by Ann" in texts(detail)
    assert detail.histogram.isVisible() and detail.histogram.view is not None
    assert detail.promoted._effects == page(MLP, 3).promoted
    assert detail.near.near.n_rows == detail.near_by_firing.near.n_rows == 1
    assert [detail.groups.itemText(row) for row in range(2)] == [
        "Strongest · 0.00 to 7.70 · 2", "Weak · 0.00 to 1.00 · 1",
    ]  # fmt: skip
    assert len(detail.examples.examples) == 2
    detail.groups.setCurrentIndex(1)
    assert len(detail.examples.examples) == 1
    # The heading that one looks at stays for the next feature.
    detail.show_view(view_of(MLP, 4))
    assert detail.groups.currentIndex() == 1
    assert unnamed_controls(detail) == []
    assert all(
        child.textFormat() == Qt.TextFormat.PlainText
        for child in detail.findChildren(QLabel) if child.text()
    )  # fmt: skip


def test_a_page_is_painted_once_where_it_belongs(stage: Stage, detail: FeatureDetail) -> None:
    """All of it is laid out before it is painted, however much more it holds than the last one."""

    class Painted(QObject):
        """Where texts were painted."""

        def __init__(self) -> None:
            super().__init__()
            self.places: list[QRect] = []

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
            if event.type() == QEvent.Type.Paint:
                self.places.append(detail.examples.geometry())
            return False

    short = page(MLP, 3)
    long = replace(short, groups=(replace(short.groups[0], examples=short.groups[0].examples * 9),))
    detail.show_view(FeatureView(MLP, 3, page=short))
    stage.settle()
    painted = Painted()
    detail.examples.installEventFilter(painted)
    high = detail.examples.height()
    detail.show_view(FeatureView(MLP, 4, page=long))
    stage.settle()
    assert painted.places == [detail.examples.geometry()]
    assert detail.examples.height() > 4 * high


def test_a_dead_feature_says_so(detail: FeatureDetail) -> None:
    nothing = Histogram(np.array([0.0, 1.0]), np.zeros(1, dtype=np.int64))
    dead = FeaturePage(MLP, 7, 0, 10_000, 0.0, nothing)
    detail.show_view(FeatureView(MLP, 7, page=dead))
    assert detail.facts.startswith("Dead: it fired at none of")
    assert not detail.histogram.isVisible() and not detail.examples.isVisible()


def test_the_prompt_is_marked_in_the_histogram(stage: Stage, detail: FeatureDetail) -> None:
    report = synthetic_report(n_layers=3, top_k=5)
    record = report.overall[0]
    known = FeatureView(record.site, record.index, record.position, "node", report, record)
    detail.show_view(replace(known, page=page(record.site, record.index)))
    stage.settle()
    shown = detail.histogram.view
    assert shown is not None and shown.here == pytest.approx(record.activation)
    assert "on your prompt" in detail.histogram.accessibleDescription()
    assert detail.chips.isVisible() and detail.promoted._effects == record.promoted


def test_words_of_a_histogram() -> None:
    view = HistogramView((0.0, 1.0, 2.0, 3.0), (6, 3, 1), 2.5)
    assert view.total == 10 and view.below() == pytest.approx(0.9)
    assert "most of them, 6, from 0 to 1" in view.words()
    assert HistogramView((0.0, 1.0), (0,)).words() == "The feature never fired"


def test_labels_and_notes_are_kept_by_enter_and_leaving(
    stage: Stage, detail: FeatureDetail
) -> None:
    said: list[tuple[str, str]] = []
    detail.labelled.connect(lambda text: said.append(("label", text)))
    detail.noted.connect(lambda text: said.append(("note", text)))
    detail.show_view(view_of(MLP))
    stage.qtbot.keyClicks(detail.label_edit, "  a   city ")
    stage.qtbot.keyClick(detail.label_edit, Qt.Key.Key_Return)
    stage.qtbot.keyClicks(detail.label_edit, "x")
    stage.qtbot.keyClick(detail.label_edit, Qt.Key.Key_Escape)
    assert detail.label_edit.text() == "a city"
    stage.qtbot.keyClicks(detail.note_edit, "look again")
    detail.leave()
    assert said == [("label", "a city"), ("note", "look again")]
    detail.show_view(view_of(MLP, can_label=False))
    assert not detail.label_edit.isEnabled()


def test_a_text_is_tried_once_it_rests(stage: Stage, detail: FeatureDetail) -> None:
    detail.show_view(view_of(MLP))
    with stage.qtbot.waitSignal(detail.tried, timeout=5000) as tried:
        stage.qtbot.keyClicks(detail.text, "The capital")
    assert tried.args == ["The capital"]
    # Another feature is tried on the same text by itself.
    with stage.qtbot.waitSignal(detail.tried, timeout=5000):
        detail.show_view(view_of(MLP, 4))


def test_neighbours_are_gone_to(stage: Stage, detail: FeatureDetail) -> None:
    detail.show_view(view_of(MLP))
    stage.settle()
    went: list[tuple[Site, int]] = []
    detail.went.connect(lambda site, index: went.append((site, index)))
    table = detail.near_by_firing
    place = table.visualRect(table.near.index(0, 0)).center()
    stage.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert went == [(Site(1, "mlp"), 1)]


# -- examples -------------------------------------------------------------------------------------


@pytest.fixture
def examples(stage: Stage) -> ExampleList:
    made = ExampleList(stage.theme, "examples")
    stage.window.setCentralWidget(made)
    stage.window.resize(520, 600)
    stage.window.show()
    stage.qtbot.waitExposed(stage.window)
    return made


def test_what_is_pointed_at_is_told(stage: Stage, examples: ExampleList) -> None:
    examples.show_examples((example(ATTENTION, 4.0, 1), example(ATTENTION, 2.0, 2)), 4.0)
    stage.settle()
    told: list[str] = []
    examples.told.connect(told.append)
    at = examples.box_of(1, 5).center().toPoint()
    stage.qtbot.mouseMove(examples, at)
    stage.until(lambda: any(told))
    assert told[-1].startswith("␣containing activation 2.000")
    assert "looks at ␣capital 75%, ␣containing 25%" in told[-1]
    idle = examples.box_of(1, 2).center().toPoint()
    stage.qtbot.mouseMove(examples, idle)
    stage.until(lambda: told[-1].startswith("␣of does not fire"))


def test_keys_go_through_examples_and_tokens(stage: Stage, examples: ExampleList) -> None:
    examples.show_examples((example(MLP, 4.0, 1), example(MLP, 2.0, 2, repeated=True)), 4.0)
    stage.settle()
    examples.setFocus(Qt.FocusReason.TabFocusReason)
    stage.qtbot.keyClick(examples, Qt.Key.Key_Home)
    assert examples.accessibleDescription().startswith("Text 1 of 2. ␣containing activation 4")
    stage.qtbot.keyClick(examples, Qt.Key.Key_Left)
    assert "␣state activation 1.000" in examples.accessibleDescription()
    stage.qtbot.keyClick(examples, Qt.Key.Key_Down)
    assert examples.accessibleDescription().startswith("Text 2 of 2. ␣containing")
    assert "stands further up already" in examples.accessibleDescription()
    stage.qtbot.keyClick(examples, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QApplication.clipboard().text() == "".join(WORDS)


def test_long_texts_show_the_lines_around_the_peak(stage: Stage, examples: ExampleList) -> None:
    examples.show_examples((example(MLP, 4.0, 1, 300, 150),), 4.0)
    stage.settle()
    few = examples.heightForWidth(500)
    assert not examples.box_of(0, 150).isEmpty() and examples.box_of(0, 0).isEmpty()
    examples.setFocus()
    stage.qtbot.keyClick(examples, Qt.Key.Key_Return)
    assert examples.heightForWidth(500) > 3 * few > LINES
    assert not examples.box_of(0, 0).isEmpty()


def test_colour_is_not_the_only_sign_of_the_peak(stage: Stage, examples: ExampleList) -> None:
    """Without the shading the peak is still told: it is underlined."""
    one = example(MLP, 4.0, 1)
    flat = Example(one.tokens, np.zeros(9, dtype=np.float32), one.peak)
    examples.show_examples((flat,), 1.0)
    stage.settle()
    picture = examples.grab().toImage()

    def inks(token: int) -> int:
        """Dark dots in the row in which a line below the letters lies."""
        box = examples.box_of(0, token)
        rows = range(int(box.center().y()) + 3, int(box.bottom()) + 1)
        return max(
            sum(
                picture.pixelColor(x, y).lightness() < 110
                for x in range(int(box.left()) + 2, int(box.right()) - 2)
            )
            for y in rows
        )

    width = examples.box_of(0, 5).width()
    assert inks(5) > 0.8 * (width - 4)
    assert inks(2) < 0.8 * (examples.box_of(0, 2).width() - 4)


def test_where_tokens_stand() -> None:
    theme = Theme("light")
    tokens = WORDS * 20
    layout = lay_out_tokens(tokens, 5, theme, 300.0)
    assert layout.n_lines > 3
    assert all(place.box.right() <= 300.0 for place in layout.places)
    last = layout.places[-1]
    lines = (layout.n_lines - 1, layout.n_lines)
    spot = last.box.center() - QPointF(0.0, lines[0] * layout.pitch)
    assert token_at(layout, lines, spot) == len(tokens) - 1
    assert token_at(layout, lines, QPointF(299.9, 999.0)) == -1
    assert layout.window(0, 3) == (0, 3)
    assert layout.window(layout.n_lines - 1, 3)[1] == layout.n_lines
    assert shown_token(" a\n") == " a⏎" and shown_token("") == "∅"


def test_looks_are_shares_of_the_activation() -> None:
    looks = look_shares(example(ATTENTION, 4.0, 1))
    assert looks is not None and looks.sum() == pytest.approx(1.0)
    assert look_shares(example(MLP, 4.0, 1)) is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scale", [0.8, 2.0])
def test_it_fits_at_every_text_size(
    stage: Stage, detail: FeatureDetail, scheme: str, scale: float
) -> None:
    stage.theme.set_choice(scheme)  # type: ignore[arg-type]
    stage.theme.set_scale(scale)
    detail.show_view(view_of(ATTENTION, label="Texas"))
    stage.window.resize(430, 900)
    stage.settle()
    inside = detail.widget()
    assert inside is not None
    assert inside.width() <= detail.viewport().width()
    for child in (detail.examples, detail.histogram, detail.promoted, detail.near):
        right = child.mapTo(inside, QPoint(child.width(), 0)).x()
        assert 0 < right <= inside.width()
    assert not detail.grab().isNull()


def test_the_page_is_a_figure(stage: Stage) -> None:
    report = synthetic_report(n_layers=3, top_k=5)
    view = FeatureView(ATTENTION, 3, None, None, report, page=page(ATTENTION, 3), label="Texas")
    figure = FeatureFigure("feature", "Feature A2 #3", "", view)
    height = figure.height(stage.theme, 600.0)
    without = replace(view, page=None, report=None)
    assert height > FeatureFigure("feature", "", "", without).height(stage.theme, 600.0) + 200
    image = QImage(600, round(height), QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    figure.paint(painter, stage.theme, 600.0, height)
    painter.end()
    rows = [
        any(image.pixelColor(x, y).name() != "#ffffff" for x in range(0, 600, 2))
        for y in range(image.height())
    ]
    assert rows.count(True) > 0.5 * len(rows)
    assert any(rows[-40:])


# -- the list of all features ---------------------------------------------------------------------


def listed(first: int, n: int) -> tuple[ListedFeature, ...]:
    return tuple(
        ListedFeature(MLP, index, 0.001 * (index % 5), 2.0, (" a",), "", "")
        for index in range(first, first + n)
    )


def test_a_hundred_thousand_rows_are_held_by_the_page(stage: Stage) -> None:
    model = StoreModel()
    asked: list[int] = []
    model.wanted.connect(asked.append)
    started = time.perf_counter()
    model.show(100_000, listed(0, PAGE))
    assert model.rowCount() == 100_000
    assert model.index(5, FEATURE).data() == "L2 #5"
    assert model.index(0, DENSITY).data() == "dead"
    for row in range(50_000, 50_040):
        for column in range(model.columnCount()):
            model.index(row, column).data()
    assert time.perf_counter() - started < 0.5
    assert model.index(50_000, FEATURE).data() == "…"
    # A page is asked for once, however many of its cells are painted.
    assert asked == [50_000 // PAGE]
    model.put(50_000 // PAGE, listed(50_000 // PAGE * PAGE, PAGE))
    assert model.index(50_000, FEATURE).data() == "L2 #50000"
    assert model.row_of(MLP, 50_000) == 50_000
    for number in range(300):
        model.put(number, listed(number * PAGE, PAGE))
    assert len(model._pages) < 100, "what was scrolled past long ago is let go"
    assert model.row_of(MLP, 50_000) is None and model.row_of(MLP, 299 * PAGE) == 299 * PAGE
    model.set_notes({"L2/F38300": "look again"})
    assert model.index(38_300, NOTE).data() == "look again"


def test_headings_put_the_store_in_order(stage: Stage) -> None:
    model = StoreModel()
    with stage.qtbot.waitSignal(model.reordered):
        model.sort(DENSITY, Qt.SortOrder.DescendingOrder)
    assert model.order == "-density"
    with stage.qtbot.waitSignal(model.reordered):
        model.sort(FEATURE, Qt.SortOrder.AscendingOrder)
    assert model.order == "index"


def test_of_a_long_text_no_more_is_placed_than_is_looked_at(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[int] = []

    def counted(*arguments: object) -> TextLayout:
        found = lay_out_tokens(*arguments)  # type: ignore[arg-type]
        placed.append(len(found.places))
        return found

    monkeypatch.setattr(example_list, "lay_out_tokens", counted)
    n, peak = 20_000, 9_000
    long = Example((" word",) * n, np.ones(n, dtype=np.float32), peak)
    shown = ExampleList(stage.theme, "examples.long")
    stage.window.setCentralWidget(shown)
    shown.show_examples([long] * 3, 1.0)
    shown.resize(400, 300)
    few = shown.heightForWidth(400)
    assert placed and max(placed) <= 2 * REACH + 1
    one = shown._place(400.0)[0]
    assert one.more == (True, True) and one.lines[1] - one.lines[0] == LINES
    assert not shown.box_of(0, peak).isEmpty() and shown.box_of(0, 0).isEmpty()
    # Shown whole it is bounded as well, and what lies beyond can still be gone to.
    shown.go_to(0, peak + 2 * REACH)
    assert shown.heightForWidth(400) > 3 * few
    assert max(placed) == 2 * WHOLE_REACH + 1
    shown.go_to(0, n - 1)
    assert not shown.box_of(0, peak + 2 * REACH).isEmpty()
