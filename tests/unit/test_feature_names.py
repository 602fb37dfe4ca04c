"""One grammar for the names of features, wherever they are typed or written."""

from __future__ import annotations

import pytest

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.sites import Site


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("L12/P5/F1043", FeatureName(Site(12, "mlp"), 5, 1043)),
        ("A12/P5/F7", FeatureName(Site(12, "attention"), 5, 7)),
        ("A3/*/F7", FeatureName(Site(3, "attention"), "*", 7)),
        ("L3/P0/*", FeatureName(Site(3, "mlp"), 0, "*")),
        ("L3/*/*", FeatureName(Site(3, "mlp"), "*", "*")),
        ("L3/F17", FeatureName(Site(3, "mlp"), None, 17)),
        ("L3/*", FeatureName(Site(3, "mlp"), None, "*")),
    ],
)
def test_names_are_read_and_written(text: str, name: FeatureName) -> None:
    assert FeatureName.read(text) == name
    assert str(name) == text
    assert FeatureName.read(f" {text.lower()} ") == name
    if name.site.kind == "mlp":
        assert FeatureName.read(text.replace("L", "").replace("P", "").replace("F", "")) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "L1", "B1/P5/F3", "L1/F5/P3", "L1-5-3", "L1/5/3/2", "L1/P-5/F3", "L/P5/F3"),
        "L1/P\N{ARABIC-INDIC DIGIT FIVE}/F3",
        *(f"L{'9' * 5000}/P1/F1", f"L1/P{'9' * 5000}/F1", f"L1/P1/F{'9' * 5000}"),
    ],
)
def test_anything_else_is_no_name(text: str) -> None:
    assert FeatureName.read(text) is None
