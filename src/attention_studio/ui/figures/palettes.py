"""The colours that figures can have, by meaning, as the window's have. Knows no Qt.

Sources: Okabe and Ito, "Color Universal Design" (2008); Paul Tol, "Colour schemes", technical note
SRON/EPS/TN/09-002 (2021), schemes "bright" and "high-contrast". All of them were made so that
colour-blind readers tell the colours apart; the last one stays apart in greyscale too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attention_studio.ui.tokens import DARK, LIGHT, Tokens


@dataclass(frozen=True)
class Palette:
    """Colours to choose: what they are called, why one would take them, and what they are."""

    name: str
    text: str
    help: str
    tokens: Tokens


_PAPER = replace(
    LIGHT,
    name="paper",
    window="#ffffff",
    sunken="#ffffff",
    text="#1a1a1a",
    muted="#4d4d4d",
    border="#bfbfbf",
    border_strong="#8c8c8c",
    grid="#e3e3e3",
    neutral="#737373",
    node_error="#7f7f7f",
)
"""White paper, dark ink."""


def _with_colours(name: str, positive: str, negative: str, third: str, series: str) -> Tokens:
    """Paper with these colours: of signs, of embeddings, and of curves."""
    return replace(
        _PAPER,
        name=name,
        accent=positive,
        focus=positive,
        positive=positive,
        negative=negative,
        node_feature=positive,
        node_embedding=third,
        node_logit=negative,
        series=tuple(series.split()),
    )


PALETTES: tuple[Palette, ...] = (
    Palette(
        "okabe-ito",
        "Okabe and Ito",
        "The colours that most journals recommend to colour-blind readers",
        _with_colours(
            "okabe-ito",
            "#0072b2",
            "#d55e00",
            "#009e73",
            "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #000000",
        ),
    ),
    Palette(
        "tol-bright",
        "Tol bright",
        "Softer colours that colour-blind readers tell apart",
        _with_colours(
            "tol-bright",
            "#4477aa",
            "#ee6677",
            "#228833",
            "#4477aa #ee6677 #228833 #ccbb44 #66ccee #aa3377 #bbbbbb",
        ),
    ),
    Palette(
        "tol-high-contrast",
        "Tol high contrast",
        "Few colours that stay apart in greyscale too",
        _with_colours(
            "tol-high-contrast",
            "#004488",
            "#bb5566",
            "#997700",
            "#004488 #bb5566 #ddaa33 #000000",
        ),
    ),
    Palette("studio", "Studio, light", "The colours of the light window on white paper",
            replace(LIGHT, name="studio", window="#ffffff")),
    Palette("studio-dark", "Studio, dark", "The colours of the dark window, for dark slides", DARK),
)  # fmt: skip
"""All palettes; the first is taken unless another is chosen."""


def palette(name: str) -> Palette:
    """The palette of that name, or the first one."""
    return next((one for one in PALETTES if one.name == name), PALETTES[0])
