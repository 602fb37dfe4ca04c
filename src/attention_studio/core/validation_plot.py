"""A validation as a picture: predicted against measured, and how well it holds module by module.

Written as SVG, so that it needs no plotting library and prints sharply at any size. Colours are
those of Okabe and Ito (2008), which colour-blind readers tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.validation_report import Agreement, Pairs, ValidationReport
from attention_studio.utils.files import atomic_write

_MEASURED, _CONTROL, _GROUP, _INK, _FAINT = "#0072b2", "#999999", "#d55e00", "#222222", "#dddddd"
_SIDE, _LEFT, _TOP, _GAP, _BOTTOM = 250, 62, 62, 74, 58
_MAX_POINTS = 1500
"""Of each kind: more are one blot, and slow to draw."""
_ROW = 16
_TITLE = 90


def save_plot(report: ValidationReport, path: Path) -> None:
    """Write the picture of a validation.

    Raises:
        FileWriteError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(validation_svg(report), encoding="utf-8")


def validation_svg(report: ValidationReport) -> str:
    """The picture: changes of logits, changes of downstream features, and the slope of each module.

    Points are measurements in the model with nothing frozen; grey ones are random directions of
    the same norm. On the dashed line prediction and measurement are equal.
    """
    n = report.n_samples
    logits = report.logit_pairs
    single, groups = logits.of_samples(range(n)), _without(logits, n)
    panels = (
        _scatter(_LEFT, "Logits of the likeliest tokens", single, groups, report.logits),
        _scatter(
            _LEFT + _SIDE + _GAP,
            "Pre-activations of features downstream",
            report.feature_pairs,
            _without(report.feature_pairs, n),
            report.features,
        ),
        _bars(_LEFT + 2 * (_SIDE + _GAP), report),
    )
    width = _LEFT + 3 * _SIDE + 2 * _GAP + 24
    height = _TOP + max(_SIDE, _ROW * len(report.sites) + 8) + _BOTTOM
    prompt = report.prompt if len(report.prompt) <= _TITLE else report.prompt[: _TITLE - 1] + "…"
    title = f"{n} features ablated one at a time in “{prompt}” ({report.crm_name})"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" '
            f'font-size="11" fill="{_INK}">',
            f"<title>{_clean(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text x="{_LEFT}" y="22" font-size="13" font-weight="bold">{_clean(title)}</text>',
            *panels,
            "</svg>",
            "",
        ]
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many: steps of 1, 2 or 5 times a power of
    ten."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _without(pairs: Pairs, n: int) -> Pairs:
    """Those of supernodes, which come after the ``n`` samples."""
    return pairs.of_samples(sorted({int(sample) for sample in pairs.sample if sample >= n}))


def _scatter(left: float, title: str, pairs: Pairs, groups: Pairs, figures: Agreement) -> str:
    pairs = pairs.thinned(_MAX_POINTS, 0)
    values = [pairs.predicted, pairs.measured, pairs.control, groups.predicted, groups.measured]
    limit = max((float(np.abs(column).max()) for column in values if len(column)), default=0.0)
    limit = 1.05 * limit or 1.0

    def x(value: float) -> float:
        return left + _SIDE * (value + limit) / (2 * limit)

    def y(value: float) -> float:
        return _TOP + _SIDE * (limit - value) / (2 * limit)

    parts = [_frame(left, title)]
    for tick in ticks(-limit, limit):
        label = f"{tick:.6g}"
        parts += [
            _line(x(tick), _TOP, x(tick), _TOP + _SIDE, _FAINT),
            _line(left, y(tick), left + _SIDE, y(tick), _FAINT),
            _text(x(tick), _TOP + _SIDE + 15, label, "middle"),
            _text(left - 6, y(tick) + 4, label, "end"),
        ]
    parts += [
        _line(x(-limit), y(-limit), x(limit), y(limit), _INK, dashed=True),
        _dots(pairs.predicted, pairs.control, x, y, _CONTROL, 1.6, "random directions"),
        _dots(pairs.predicted, pairs.measured, x, y, _MEASURED, 2.0, "ablations"),
        _dots(groups.predicted, groups.measured, x, y, _GROUP, 3.5, "supernodes"),
        _text(left + _SIDE / 2, _TOP + _SIDE + 32, "predicted change", "middle"),
        f'<text transform="translate({left - 44:.1f} {_TOP + _SIDE / 2:.1f}) rotate(-90)" '
        'text-anchor="middle">measured change</text>',
        _text(
            left + _SIDE / 2,
            _TOP + _SIDE + 50,
            f"r {figures.correlation:.2f}, slope {figures.slope:.2f}, "
            f"error {figures.relative_error:.2f} ({figures.n:,} pairs)",
            "middle",
        ),
    ]
    return "\n".join(parts)


def _bars(left: float, report: ValidationReport) -> str:
    """The slope of every module's logits, beside that of its random directions."""
    height = max(_SIDE, _ROW * len(report.sites) + 8)
    slopes = [slope for site in report.sites for slope in (site.logits.slope, site.control.slope)]
    low, high = min([0.0, *slopes]), max([1.0, *slopes])
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return left + _SIDE * (value - low) / (high - low)

    parts = [_frame(left, "Slope of measured on predicted logits", height)]
    for tick in ticks(low, high):
        parts.append(_line(x(tick), _TOP, x(tick), _TOP + height, _FAINT))
        parts.append(_text(x(tick), _TOP + height + 15, f"{tick:.6g}", "middle"))
    parts.append(_line(x(1.0), _TOP, x(1.0), _TOP + height, _INK, dashed=True))
    for row, site in enumerate(report.sites):
        middle = _TOP + 4 + _ROW * (row + 0.5)
        for slope, colour, dy in (
            (site.logits.slope, _MEASURED, -5.0),
            (site.control.slope, _CONTROL, 1.0),
        ):
            first, last = sorted((x(0.0), x(slope)))
            parts.append(
                f'<rect x="{first:.1f}" y="{middle + dy:.1f}" width="{last - first:.1f}" '
                f'height="5" fill="{colour}"/>'
            )
        parts.append(_text(left - 6, middle + 4, f"{site.label} ({site.n_samples})", "end"))
    parts.append(
        _text(left + _SIDE / 2, _TOP + height + 32, "by module (features ablated)", "middle")
    )
    legend = [("ablations", _MEASURED), ("random directions", _CONTROL)]
    if report.groups:
        legend.append(("supernodes", _GROUP))
    at = left
    for name, colour in legend:
        y = _TOP + height + 46
        parts.append(f'<circle cx="{at + 4:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        parts.append(_text(at + 11, y + 4, name, "start"))
        at += 22 + 5.6 * len(name)
    return "\n".join(parts)


# ---- marks -------------------------------------------------------------------------------------


def _frame(left: float, title: str, height: float = _SIDE) -> str:
    return (
        f'<text x="{left:.1f}" y="{_TOP - 12}" font-weight="bold">{_clean(title)}</text>\n'
        f'<rect x="{left:.1f}" y="{_TOP}" width="{_SIDE}" height="{height:.1f}" fill="none" '
        f'stroke="{_INK}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_clean(text)}</text>'


def _dots(
    xs: NDArray[np.float32],
    ys: NDArray[np.float32],
    x: Callable[[float], float],
    y: Callable[[float], float],
    colour: str,
    radius: float,
    name: str,
) -> str:
    marks: Sequence[str] = [
        f'<circle cx="{x(float(a)):.1f}" cy="{y(float(b)):.1f}" r="{radius}"/>'
        for a, b in zip(xs, ys, strict=True)
    ]
    return f'<g fill="{colour}" fill-opacity="0.6"><title>{name}</title>{"".join(marks)}</g>'


def _clean(text: str) -> str:
    """Text for XML: escaped, without the control characters that it forbids."""
    return escape("".join(c if c.isprintable() else " " for c in text))
