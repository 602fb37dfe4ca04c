"""The colours of the studio by meaning, for light and dark. Knows no Qt.

Every pair of a text colour and the surfaces that it is drawn on reaches WCAG 2.1 AA (4.5 to 1), and
every colour that carries meaning as a shape (focus ring, edges, nodes, curves) reaches 3 to 1.
``tests/ui/test_theme.py`` computes both from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Tokens:
    """One colour scheme. All colours are ``#rrggbb``.

    ``window`` lies behind the docks, ``surface`` is a dock's own background, ``raised`` floats
    above it (menus, tooltips, the palette), ``sunken`` lies below it (inputs, tracks), ``canvas``
    is what plots and graphs are drawn on.
    """

    name: str
    dark: bool
    window: str
    surface: str
    raised: str
    sunken: str
    canvas: str
    hover: str
    pressed: str
    border: str
    border_strong: str
    grid: str
    text: str
    muted: str
    disabled: str
    accent: str
    accent_hover: str
    accent_pressed: str
    on_accent: str
    accent_soft: str
    focus: str
    success: str
    success_soft: str
    warning: str
    warning_soft: str
    error: str
    error_soft: str
    info_soft: str
    # Signed quantities (edges of a graph, logits): blue against orange survives every common
    # colour-vision deficiency.
    positive: str
    negative: str
    neutral: str
    # Kinds of node in an attribution graph.
    node_feature: str
    node_error: str
    node_embedding: str
    node_logit: str
    # Curves, in the order in which they are handed out.
    series: tuple[str, ...]


LIGHT = Tokens(
    name="light",
    dark=False,
    window="#eceef2",
    surface="#ffffff",
    raised="#ffffff",
    sunken="#f4f5f8",
    canvas="#ffffff",
    hover="#eef0f5",
    pressed="#e2e6ee",
    border="#dde1e8",
    border_strong="#c3c9d4",
    grid="#e6e9ef",
    text="#1c2027",
    muted="#586172",
    disabled="#a0a7b4",
    accent="#3d56d0",
    accent_hover="#3349b8",
    accent_pressed="#2a3d9d",
    on_accent="#ffffff",
    accent_soft="#e6eafb",
    focus="#5a72e6",
    success="#1b7a48",
    success_soft="#e3f4ea",
    warning="#8a5700",
    warning_soft="#fdf1da",
    error="#b4232a",
    error_soft="#fce8e8",
    info_soft="#e6eafb",
    positive="#2069b0",
    negative="#bf5a0c",
    neutral="#737c8c",
    node_feature="#3d56d0",
    node_error="#8a8f99",
    node_embedding="#1b7a48",
    node_logit="#a2411f",
    series=(
        "#3d56d0",
        "#bf5a0c",
        "#1b7f6b",
        "#a33a8e",
        "#8a6400",
        "#2b7fb5",
        "#b4232a",
        "#5f6b7d",
    ),
)

DARK = Tokens(
    name="dark",
    dark=True,
    window="#101216",
    surface="#191c22",
    raised="#22262e",
    sunken="#12151a",
    canvas="#14171c",
    hover="#252a33",
    pressed="#2d333e",
    border="#2a2f39",
    border_strong="#3f4755",
    grid="#262b34",
    text="#e7eaf0",
    muted="#a1abbb",
    disabled="#5f6878",
    accent="#8ea2ff",
    accent_hover="#a4b5ff",
    accent_pressed="#7b90f2",
    on_accent="#0f1322",
    accent_soft="#2a3358",
    focus="#8ea2ff",
    success="#5fcf92",
    success_soft="#163325",
    warning="#e8b252",
    warning_soft="#38290d",
    error="#ff8a85",
    error_soft="#411b1d",
    info_soft="#252d4d",
    positive="#63adf2",
    negative="#f2994f",
    neutral="#8b95a6",
    node_feature="#8ea2ff",
    node_error="#7d8696",
    node_embedding="#5fcf92",
    node_logit="#f0a07c",
    series=(
        "#8ea2ff",
        "#f2994f",
        "#54c9ae",
        "#e08bd0",
        "#d9bd4c",
        "#63b8ea",
        "#ff8a85",
        "#a1abbb",
    ),
)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` in [0, 1] (WCAG 2.1)."""
    linear = []
    for channel in _channels(colour):
        value = channel / 255
        linear.append(value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, from 1 (equal) to 21 (black on white) (WCAG 2.1)."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@lru_cache(maxsize=1024)
def ink_on(ground: str) -> str:
    """Black or white, whichever is the better one to write with on ``#rrggbb``; one of them always
    reaches 4.5 to 1."""
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, ground))


def mix(first: str, second: str, share: float) -> str:
    """The colour that lies ``share`` (0 to 1) of the way from ``first`` to ``second``."""
    pairs = zip(_channels(first), _channels(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def diverging(tokens: Tokens, steps: int = 15) -> tuple[str, ...]:
    """Opaque colours from fully negative over the canvas's neutral to fully positive.

    Blended with the canvas beforehand, since translucent pens cost ten times as much to draw.
    """
    half = steps // 2
    faint = mix(tokens.canvas, tokens.neutral, 0.35)
    colours = []
    for step in range(-half, steps - half):
        end = tokens.negative if step < 0 else tokens.positive
        colours.append(mix(faint, end, abs(step) / max(1, half)))
    return tuple(colours)
