"""Numbers and tokens for people to read."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from attention_studio.core.crm_quality import coverage

if TYPE_CHECKING:
    from attention_studio.core.dictionaries.crm_folder import CRMManifest

_BINARY = ("B", "KB", "MB", "GB", "TB")


def size(n_bytes: float) -> str:
    """Bytes, in the unit that gives one to three digits before the point: ``"1.4 GB"``."""
    value = float(max(0.0, n_bytes))
    for unit in _BINARY:
        if value < 1000 or unit == _BINARY[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def count(number: float) -> str:
    """A count, shortened from ten thousand on: ``"9,999"``, ``"134.5 M"``."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """A time span: ``"0.4 s"``, ``"42 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


@lru_cache(maxsize=65_536)
def visible_token(token: str, *, spaces: bool = True) -> str:
    """A token with its line ends and tabs made visible, and the spaces around it.

    Args:
        token: as the tokenizer has it.
        spaces: mark the spaces (``"␣the"``), or leave them out where many tokens stand together
            and marks would be noise. A token of nothing but spaces is marked in any case.
    """
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    body = shown.strip(" ")
    if not body:
        return "␣" * max(1, len(shown)) if spaces else "␣"
    if not spaces:
        return body
    before = len(shown) - len(shown.lstrip(" "))
    after = len(shown) - len(shown.rstrip(" "))
    return "␣" * before + body + "␣" * after


def percent(share: float) -> str:
    """A share of one: ``"12.3%"``, ``"0.02%"``; ``"?"`` for NaN, where it is not known."""
    value = 100 * share
    if math.isnan(value):
        return "?"
    if value >= 99.95 or value == 0:
        return f"{value:.0f}%"
    return f"{value:.1f}%" if value >= 0.1 else f"{value:.2g}%"


def covered(crm: CRMManifest) -> str:
    """What a replacement model covers: ``"30 of 30 MLPs, 30 of 30 attention blocks"``."""
    mlps, attentions = len(crm.layers_of("mlp")), len(crm.layers_of("attention"))
    return coverage(mlps, attentions, crm.model.n_layers)
