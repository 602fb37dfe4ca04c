"""How a figure is to look: width, text, colours, caption; and presets for the usual places."""

from __future__ import annotations

from dataclasses import dataclass

from attention_studio.ui.figures.look import FigureLook
from attention_studio.ui.figures.palettes import PALETTES, palette

MM_PER_INCH = 25.4
_SCREEN_DPI, _SCREEN_PT = 96.0, 10.0


@dataclass(frozen=True)
class FigureStyle:
    """How a figure is to look.

    Attributes:
        width_mm: of the paper, in millimetres.
        font_pt: of ordinary text, in points.
        palette: name of one in ``palettes.PALETTES``.
        dpi: dots per inch of a PNG.
        caption: what is written below it; "" for nothing.
        sans, mono: families of the fonts.
    """

    width_mm: float = 180.0
    font_pt: float = 8.0
    palette: str = PALETTES[0].name
    dpi: int = 300
    caption: str = ""
    sans: str = "sans-serif"
    mono: str = "monospace"

    @property
    def unit_mm(self) -> float:
        """Millimetres of one of the figure's own units."""
        return self.font_pt / _SCREEN_PT * MM_PER_INCH / _SCREEN_DPI

    def look(self) -> FigureLook:
        """Its colours and fonts."""
        return FigureLook(palette(self.palette).tokens, self.sans, self.mono)


@dataclass(frozen=True)
class Preset:
    """A style for a place where figures go."""

    name: str
    text: str
    help: str
    style: FigureStyle


PRESETS: tuple[Preset, ...] = (
    Preset("full", "Page, both columns", "180 mm: the whole width of a journal's page",
           FigureStyle(180.0, 8.0)),
    Preset("column", "One column", "88 mm: one of a page's two columns", FigureStyle(88.0, 7.0)),
    Preset("conference", "Conference text", "140 mm: the text of a paper in one column",
           FigureStyle(140.0, 8.0)),
    Preset("slide", "Slide", "254 mm: a slide of 16 to 9, with text to read from afar",
           FigureStyle(254.0, 14.0, dpi=200)),
    Preset("poster", "Poster", "400 mm: a column of a poster", FigureStyle(400.0, 20.0, dpi=200)),
    Preset("web", "Web page", "240 mm: as large as on a screen, 192 dots an inch",
           FigureStyle(240.0, 10.0, dpi=192)),
)  # fmt: skip
