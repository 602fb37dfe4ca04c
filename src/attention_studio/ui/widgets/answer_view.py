"""An answer to be read, as it comes and when it is there, with links that can be followed.

What a model writes is put in as text, never read as markup; links are those that code found in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

from PySide6.QtCore import QMimeData, QUrl, Signal, Slot
from PySide6.QtGui import QColor, QFont, QTextBlockFormat, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QFrame, QTextBrowser, QWidget

from attention_studio.ui.agent_words import answer_about
from attention_studio.ui.widgets.controls import named

if TYPE_CHECKING:
    from attention_studio.agents.answers import Answer, Sentence
    from attention_studio.agents.references import Reference
    from attention_studio.ui.theme import Theme
    from attention_studio.ui.work_asking import Heard

_NO_EVIDENCE = "(no evidence)"


class AnswerView(QTextBrowser):
    """One question with what is heard of it, or its answer. ``went`` carries the ``Reference`` that
    somebody wants to follow."""

    went = Signal(object)

    def __init__(self, theme: Theme, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        named(self, "agents.answer", "The answer", "Links lead to what the answer rests on")
        self._theme = theme
        self.setOpenLinks(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setProperty("look", "reading")
        self.setUndoRedoEnabled(False)
        self.document().setDocumentMargin(12)
        self._links: list[Reference] = []
        self._heard: tuple[Heard, ...] = ()
        # What is shown, to show it again in other colours.
        self._content: tuple[Any, ...] = ("words", "")
        self.anchorClicked.connect(self._on_link)
        theme.changed.connect(self._on_theme)

    @property
    def links(self) -> tuple[Reference, ...]:
        """The links that can be followed, in their order."""
        return tuple(self._links)

    def show_words(self, words: str) -> None:
        """Say something, such as what this is for."""
        self._begin("words", words)
        self._put(words, self._format(self._theme.tokens.muted))
        self._end(False)

    def begin(self, question: str) -> None:
        """A question was asked; nothing is heard of it yet."""
        self._begin("heard", question)
        self._question(question)

    def show_heard(self, heard: tuple[Heard, ...]) -> None:
        """Show what is heard of the question until now; what stands there already is added to.
        Where somebody looks at another answer meanwhile, nothing is."""
        if self._content[0] != "heard":
            return
        bar = self.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 4
        old, self._heard = self._heard, heard
        more = list(heard[len(old) :])
        if old and heard[len(old) - 1 : len(old)] != old[-1:]:
            last, now = old[-1], heard[len(old) - 1] if len(heard) >= len(old) else None
            if now is None or now.kind != last.kind or not now.text.startswith(last.text):
                self.begin(self._content[1])
                self._heard, more = heard, list(heard)
            else:
                self._put(now.text[len(last.text) :], self._format(self._theme.tokens.text))
        for one in more:
            self._put_heard(one)
        if at_end:
            bar.setValue(bar.maximum())

    def add(self, words: str) -> None:
        """Say something below what is shown."""
        self._paragraph()
        self._put(words, self._small(self._theme.tokens.muted))

    def show_answer(self, answer: Answer, took: str) -> None:
        """Show an answer; ``took``: what it took."""
        tokens = self._theme.tokens
        self._begin("answer", answer, took)
        self._question(answer.question)
        for sentence in answer.sentences:
            self._paragraph()
            self._sentence(sentence)
        for sentence in answer.struck:
            self._paragraph()
            struck = self._format(tokens.muted)
            struck.setFontStrikeOut(True)
            self._put(sentence.text, struck)
            self._put(f"  Struck: {sentence.problem}", self._small(tokens.muted))
        about = answer_about(answer, took)
        if about:
            self._paragraph()
            self._put(about[0].upper() + about[1:], self._small(tokens.muted))
        if answer.tools:
            self._paragraph(2)
            looked = ", ".join(
                f"{tool.name} (failed)" if tool.failed else tool.name for tool in answer.tools
            )
            self._put(f"Looked with: {looked}", self._small(tokens.muted))
        self._end(False)

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self, *content: Any) -> None:
        self._content, self._heard, self._links = content, (), []
        self.clear()

    def _end(self, at_end: bool) -> None:
        bar = self.verticalScrollBar()
        bar.setValue(bar.maximum() if at_end else 0)

    def _question(self, question: str) -> None:
        bold = self._format(self._theme.tokens.text)
        bold.setFontWeight(QFont.Weight.DemiBold)
        self._put(question, bold)

    def _put_heard(self, one: Heard) -> None:
        tokens = self._theme.tokens
        self._paragraph(4)
        if one.kind == "said":
            self._put(one.text, self._format(tokens.text))
            return
        head = "Tool failed: " if one.failed else "Looked: "
        self._put(head + one.text, self._small(tokens.warning if one.failed else tokens.muted))

    def _sentence(self, sentence: Sentence) -> None:
        from attention_studio.agents.references import placed_links

        tokens, done = self._theme.tokens, 0
        plain = self._format(tokens.text)
        for start, end, link in placed_links(sentence.text):
            self._put(sentence.text[done:start], plain)
            anchor = self._format(tokens.accent)
            anchor.setFontUnderline(True)
            anchor.setAnchor(True)
            anchor.setAnchorHref(str(len(self._links)))
            self._put(sentence.text[start:end], anchor)
            self._links.append(link)
            done = end
        self._put(sentence.text[done:], plain)
        if not sentence.links:
            self._put(f" {_NO_EVIDENCE}", self._small(tokens.warning))

    def _paragraph(self, above: int = 8) -> None:
        form = QTextBlockFormat()
        form.setTopMargin(above)
        self._cursor().insertBlock(form)

    def _put(self, text: str, form: QTextCharFormat) -> None:
        # What ends paragraphs in a text must not end them here.
        self._cursor().insertText(text.replace("\u2029", " "), form)

    def _cursor(self) -> QTextCursor:
        cursor = self.textCursor()
        cursor.movePosition(QTextCursor.MoveOperation.End)
        return cursor

    def _format(self, colour: str) -> QTextCharFormat:
        form = QTextCharFormat()
        form.setForeground(QColor(colour))
        form.setFontPointSize(self.font().pointSizeF())
        return form

    def _small(self, colour: str) -> QTextCharFormat:
        form = self._format(colour)
        form.setFontPointSize(self.font().pointSizeF() * 0.9)
        return form

    @Slot(QUrl)
    def _on_link(self, url: QUrl) -> None:
        number = url.toString()
        if number.isdecimal() and int(number) < len(self._links):
            self.went.emit(self._links[int(number)])

    @Slot()
    def _on_theme(self) -> None:
        kind, *content = self._content
        if kind == "words":
            self.show_words(*content)
        elif kind == "answer":
            self.show_answer(*content)
        else:
            heard = self._heard
            self.begin(*content)
            self.show_heard(heard)

    def loadResource(self, _kind: int, _name: Union[QUrl, str]) -> Any:
        """Nothing that a text names is fetched."""
        return None

    def createMimeDataFromSelection(self) -> QMimeData:
        """What is copied is text."""
        data = QMimeData()
        data.setText(self.textCursor().selectedText().replace("\u2029", "\n"))
        return data
