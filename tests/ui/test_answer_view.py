"""An answer by itself: what is heard of it belongs to its question alone."""

from __future__ import annotations

from attention_studio.ui.widgets.answer_view import AnswerView
from attention_studio.ui.work_asking import Heard
from tests.ui.stage import Stage


def test_what_is_heard_is_added_where_its_question_is_shown(stage: Stage) -> None:
    view = AnswerView(stage.theme)
    stage.window.setCentralWidget(view)
    view.begin("Why Austin?")
    view.show_heard((Heard("said", "Texas"),))
    view.show_heard((Heard("said", "Texas feeds it"),))
    assert view.toPlainText().count("Texas") == 1 and "Texas feeds it" in view.toPlainText()
    # Somebody opens an older answer while this one is still written.
    view.show_words("An older answer")
    view.show_heard((Heard("said", "Texas feeds it, and more"),))
    assert view.toPlainText() == "An older answer"
