"""Colours that can be read, icons that can be drawn."""

from __future__ import annotations

import re

import pytest
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication, QToolButton
from pytestqt.qtbot import QtBot

from attention_studio.ui import stylesheet
from attention_studio.ui.icons import ICONS, icon_pixmap
from attention_studio.ui.theme import MAX_SCALE, Theme
from attention_studio.ui.tokens import DARK, LIGHT, Tokens, contrast, diverging, mix

SCHEMES = [pytest.param(LIGHT, id="light"), pytest.param(DARK, id="dark")]
SURFACES = ("window", "surface", "raised", "sunken", "canvas", "hover", "pressed")
TEXT_ON = [
    *(("text", surface) for surface in SURFACES),
    *(("muted", surface) for surface in ("window", "surface", "raised", "sunken", "canvas")),
    ("text", "accent_soft"),
    ("text", "info_soft"),
    ("muted", "info_soft"),
    *((level, f"{level}_soft") for level in ("success", "warning", "error")),
    *(("text", f"{level}_soft") for level in ("success", "warning", "error")),
    *(("muted", f"{level}_soft") for level in ("success", "warning", "error")),
    *((level, "surface") for level in ("success", "warning", "error", "accent")),
    *((level, "sunken") for level in ("success", "warning", "error", "accent")),
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
    ("on_accent", "accent_pressed"),
]
SHAPES = (
    "focus",
    "accent",
    "positive",
    "negative",
    "neutral",
    "node_feature",
    "node_error",
    "node_embedding",
    "node_logit",
)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("tokens", SCHEMES)
@pytest.mark.parametrize(("text", "surface"), TEXT_ON)
def test_text_can_be_read(tokens: Tokens, text: str, surface: str) -> None:
    ratio = contrast(getattr(tokens, text), getattr(tokens, surface))
    assert ratio >= 4.5, f"{text} on {surface}: {ratio:.2f}"


@pytest.mark.parametrize("tokens", SCHEMES)
def test_shapes_can_be_told_from_the_canvas(tokens: Tokens) -> None:
    for name in SHAPES:
        assert contrast(getattr(tokens, name), tokens.canvas) >= 3, name
    for number, colour in enumerate(tokens.series):
        assert contrast(colour, tokens.canvas) >= 3, f"series {number}"


@pytest.mark.parametrize("tokens", SCHEMES)
def test_the_diverging_scale_grows_towards_both_ends(tokens: Tokens) -> None:
    scale = diverging(tokens, 15)
    assert len(scale) == 15
    assert scale[0] == tokens.negative and scale[-1] == tokens.positive
    strength = [contrast(colour, tokens.canvas) for colour in scale]
    assert strength[7] == min(strength)


def test_mix_goes_from_one_end_to_the_other() -> None:
    assert mix("#000000", "#ffffff", 0) == "#000000"
    assert mix("#000000", "#ffffff", 1) == "#ffffff"
    assert mix("#000000", "#ffffff", 0.5) == "#808080"


@pytest.mark.parametrize("tokens", SCHEMES)
def test_the_style_sheet_uses_the_schemes_own_colours(tokens: Tokens) -> None:
    sheet = stylesheet.style_sheet(tokens, base_pt=10, icon=16, mono="Mono", assets="/assets")
    known = {value for value in vars(tokens).values() if isinstance(value, str)}
    assert set(re.findall(r"#[0-9a-f]{6}", sheet)) <= known


@pytest.mark.parametrize("name", sorted(ICONS))
def test_every_icon_draws_something_within_its_frame(qapp: QApplication, name: str) -> None:
    image = icon_pixmap(name, "#000000", 48).toImage()
    opaque = [(x, y) for x in range(48) for y in range(48) if image.pixelColor(x, y).alpha() > 40]
    assert len(opaque) > 40
    # Nothing is cut off: the outermost pixels stay free.
    assert all(0 < x < 47 and 0 < y < 47 for x, y in opaque)


def test_a_chosen_scheme_wins_over_the_systems(qapp: QApplication) -> None:
    theme = Theme("dark")
    theme.apply()
    assert theme.dark
    assert qapp.palette().window().color() == QColor(DARK.window)
    theme.toggle()
    assert not theme.dark and theme.choice == "light"
    assert qapp.palette().window().color() == QColor(LIGHT.window)
    qapp.setStyleSheet("")


def test_text_scales_within_bounds(qapp: QApplication) -> None:
    theme = Theme("light")
    theme.apply()
    normal = qapp.font().pointSizeF()
    theme.set_scale(1.5)
    assert qapp.font().pointSizeF() == pytest.approx(1.5 * normal)
    theme.set_scale(99)
    assert theme.scale == MAX_SCALE
    qapp.setStyleSheet("")


def test_buttons_icons_follow_the_theme(qtbot: QtBot) -> None:
    theme = Theme("light")
    theme.apply()
    button = QToolButton()
    qtbot.addWidget(button)
    theme.set_icon(button, "search")
    before = button.icon().pixmap(20, 20).toImage()
    theme.toggle()
    assert button.icon().pixmap(20, 20).toImage() != before
    theme._app().setStyleSheet("")
