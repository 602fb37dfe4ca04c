"""JSON in what models write."""

from __future__ import annotations

from typing import Literal, Optional

import pytest
from pydantic import BaseModel, Field

from attention_studio.agents.backends.json_answers import (
    JsonAnswerError,
    ask_for_json,
    end_of_object,
    json_objects,
    read_json_answer,
)
from attention_studio.agents.backends.json_forms import (
    ask_to_fill_in,
    beginning_of,
    form_of,
)
from attention_studio.agents.backends.records import Message


class Label(BaseModel):
    label: str
    sure: float = 0.5


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "capitals"}',
        '```json\n{"label": "capitals"}\n```',
        'Sure! Here it is: {"label": "capitals", "sure": 0.9} I hope it helps {you}.',
        'As {asked}: {"note": 1} and {"label": "capitals"}',
        '{{"label": "capitals"}',
    ],
)
def test_the_first_that_fits_is_read(text: str) -> None:
    assert read_json_answer(text, Label).label == "capitals"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it answered: nothing"),
        ("I do not know.", "it answered: I do not know."),
        ('{"label": 3}', "label: Input should be a valid string"),
        ('{"sure": 0.1, "note": "cut of', "label: Field required"),
        ('["label"]', "it answered"),
        ("{" * 100_000, "it answered"),
        ('{"a":' * 20_000, "it answered"),
        ("x" * 5000, "…"),
    ],
)
def test_what_does_not_fit_is_said(text: str, words: str) -> None:
    with pytest.raises(JsonAnswerError) as caught:
        read_json_answer(text, Label)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_halves_of_characters_become_whole_ones() -> None:
    found = read_json_answer('{"label": "a\\ud800b \\ud83d\\ude00 \\u00e9"}', Label)
    assert found.label == "a?b 😀 é"


def test_objects_within_others_are_not_read_twice() -> None:
    assert json_objects('{"a": {"b": 1}} {"c": 2}') == [{"a": {"b": 1}}, {"c": 2}]


def test_it_is_known_where_an_object_is_complete() -> None:
    text = '{"label": "a } in a text", "more": {"x": 1}}'
    assert [end_of_object(text[:end]) for end in range(len(text))] == [None] * len(text)
    assert end_of_object(f"{text}, {{") == len(text)
    assert end_of_object("no object }") is None


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "capitals", "sure": 0.5',
        '{"label": "capitals", "sure": 0.5,',
        '{"label": "capitals", "notes": ["a", {"b": "cut o',
        'Here: {"label": "capitals", "note": "ends with \\',
    ],
)
def test_an_object_that_breaks_off_is_closed(text: str) -> None:
    assert read_json_answer(text, Label) == Label(label="capitals")


class Part(BaseModel):
    kind: Literal["token", "context"]
    words: list[str]


class Story(BaseModel):
    title: str = Field(description="in a few words")
    parts: list[Part]
    sure: Optional[float] = None
    done: bool


def test_a_form_is_filled_in_by_its_own_hints() -> None:
    schema = Story.model_json_schema()
    assert form_of(schema) == {
        "title": "in a few words",
        "parts": [{"kind": "token | context", "words": ["..."]}],
        "sure": 0,
        "done": True,
    }
    assert beginning_of(schema) == '{"title": "'
    assert beginning_of(Part.model_json_schema()) == '{"kind": "'
    assert beginning_of({"type": "object", "properties": {"n": {"type": "integer"}}}) == '{"n":'
    assert beginning_of({"type": "object", "properties": {"n": {"type": "array"}}}) == '{"n": ['
    assert beginning_of({"type": "object"}) == "{"
    assert beginning_of({"type": "array"}) == ""
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}
    assert "..." in str(form_of(loop))
    asked = ask_to_fill_in([Message("system", "s"), Message("user", "Tell.")], schema)
    assert [message.role for message in asked] == ["system", "user"]
    assert asked[1].content.startswith("Tell.") and asked[1].content.endswith('"done": true}')


def test_the_schema_is_told_in_the_first_message() -> None:
    asked = ask_for_json([Message("user", "Name it.")], {"type": "object"})
    assert [message.role for message in asked] == ["system", "user"]
    assert '{"type": "object"}' in asked[0].content
