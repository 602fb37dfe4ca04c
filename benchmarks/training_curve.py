#!/usr/bin/env python3
"""Draws what a run measured on held-out text against the tokens it had seen, as SVG.

    python benchmarks/training_curve.py docs/smollm2-curve.json docs/images/smollm2-curve.svg

The points are means over layers, with the best affine map's FVU for comparison. Tokens are on a
logarithmic axis, where steady progress is a straight line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from attention_studio.core.validation_plot import ticks

_KINDS = {"mlp": ("MLPs", "#0072b2"), "attention": ("attention", "#d55e00")}
"""Colours of Okabe and Ito (2008), which colour-blind readers tell apart."""
_PANELS = {
    "fvu": "FVU",
    "recovered": "loss recovered, one module replaced",
    "silent": "silent on the held-out text",
}
_SIDE, _LEFT, _TOP, _GAP, _BOTTOM = 230, 56, 62, 64, 52
_INK, _FAINT = "#222222", "#dddddd"


def curve_svg(figures: dict[str, Any]) -> str:
    """The picture, a panel for each quantity.

    Args:
        figures: ``points``, each with ``tokens`` and ``{kind}_{quantity}``; ``affine``, an FVU for
            each kind; ``model``, the title.
    """
    points = figures["points"]
    tokens = [point["tokens"] for point in points]
    panels = []
    for i, (quantity, title) in enumerate(_PANELS.items()):
        curves = {kind: [point[f"{kind}_{quantity}"] for point in points] for kind in _KINDS}
        levels = figures["affine"] if quantity == "fvu" else {}
        panels.append(_panel(_LEFT + i * (_SIDE + _GAP), title, tokens, curves, levels))
    width = _LEFT + len(_PANELS) * (_SIDE + _GAP)
    height = _TOP + _SIDE + _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" '
            f'font-size="11" fill="{_INK}">',
            f"<title>{escape(figures['model'])}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text x="{_LEFT}" y="22" font-size="13" font-weight="bold">'
            f"{escape(figures['model'])}</text>",
            *panels,
            "</svg>",
            "",
        ]
    )


def _panel(
    left: float,
    title: str,
    tokens: Sequence[int],
    curves: dict[str, list[float]],
    levels: dict[str, float],
) -> str:
    top = max(value for values in [*curves.values(), list(levels.values())] for value in values)
    limit = min(1.0, 1.1 * top)
    first, last = math.log(tokens[0]) - 0.15, math.log(tokens[-1]) + 0.15

    def x(count: float) -> float:
        return left + _SIDE * (math.log(count) - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + _SIDE * (1 - value / limit)

    parts = [f'<text x="{left}" y="{_TOP - 12}" font-weight="bold">{escape(title)}</text>']
    for tick in ticks(0.0, limit):
        parts.append(_line(left, y(tick), left + _SIDE, y(tick), _FAINT))
        parts.append(_text(left - 6, y(tick) + 4, f"{tick:.6g}", "end"))
    for count in tokens:
        parts.append(_line(x(count), _TOP, x(count), _TOP + _SIDE, _FAINT))
        parts.append(_text(x(count), _TOP + _SIDE + 15, f"{count / 1000:.0f}k", "middle"))
    parts.append(
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" '
        f'stroke="{_INK}"/>'
    )
    for kind, values in curves.items():
        parts.append(_curve(tokens, values, x, y, *_KINDS[kind]))
        if kind in levels:
            at = y(levels[kind])
            parts.append(_line(left, at, left + _SIDE, at, _KINDS[kind][1], "4 3"))
            parts.append(_text(left + _SIDE - 4, at - 4, "best affine map", "end"))
    parts.append(_text(left + _SIDE / 2, _TOP + _SIDE + 34, "tokens", "middle"))
    return "\n".join(parts)


def _curve(
    tokens: Sequence[int],
    values: Sequence[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
    name: str,
    colour: str,
) -> str:
    places = [(x(count), y(value)) for count, value in zip(tokens, values, strict=True)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places)
    # Above the curve, where it leaves room: at its end if it rises, else before it has fallen far.
    if values[-1] > values[0]:
        label = _text(places[-1][0] - 6, places[-1][1] - 8, name, "end")
    else:
        label = _text(places[1][0] + 4, places[1][1] - 6, name, "start")
    return (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
        f'<g fill="{colour}">{dots}{label}</g>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    """Read the points, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", type=Path, help="JSON, as docs/smollm2-curve.json")
    parser.add_argument("picture", type=Path, help="where to write the SVG")
    arguments = parser.parse_args()
    figures = json.loads(arguments.points.read_text(encoding="utf-8"))
    arguments.picture.write_text(curve_svg(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
