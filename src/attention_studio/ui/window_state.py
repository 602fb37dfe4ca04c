"""What the window remembers between two starts, in one small file below ``settings.state_dir``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, cast

from PySide6.QtCore import QByteArray, QSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attention_studio.ui.theme import SchemeChoice

# Raise it when docks change their names, so that an old layout is not half restored.
LAYOUT_VERSION = 1
RECENT_WORKSPACES = 6
OWN_LAYOUTS = 6


@dataclass(frozen=True)
class OwnLayout:
    """An arrangement of docks that a person has given a name; ``places`` is the window's state."""

    name: str
    places: QByteArray


class WindowState:
    """Typed access to the remembered values. Broken values read as if they were not there."""

    def __init__(self, state_dir: Path) -> None:
        self._settings = QSettings(str(state_dir / "window.ini"), QSettings.Format.IniFormat)

    @property
    def is_new(self) -> bool:
        """Whether nothing is remembered: the first start on this machine."""
        return not self._settings.allKeys()

    def flush(self) -> None:
        """Write to the disk now."""
        self._settings.sync()

    @property
    def geometry(self) -> Optional[QByteArray]:
        """Place and size of the window."""
        return self._bytes("window/geometry")

    @geometry.setter
    def geometry(self, value: QByteArray) -> None:
        self._settings.setValue("window/geometry", value)

    @property
    def layout(self) -> Optional[QByteArray]:
        """Places of docks and toolbar."""
        return self._bytes("window/layout")

    @layout.setter
    def layout(self, value: QByteArray) -> None:
        self._settings.setValue("window/layout", value)

    @property
    def scheme(self) -> SchemeChoice:
        """Light, dark or as the system does."""
        value = self._text("theme/scheme")
        return cast("SchemeChoice", value) if value in ("light", "dark") else "system"

    @scheme.setter
    def scheme(self, value: SchemeChoice) -> None:
        self._settings.setValue("theme/scheme", value)

    @property
    def text_scale(self) -> float:
        """Factor on every text size."""
        try:
            scale = float(self._text("theme/scale") or 1.0)
        except ValueError:
            return 1.0
        # "nan" and "inf" are floats too, and no bounds hold a nan.
        return scale if math.isfinite(scale) else 1.0

    @text_scale.setter
    def text_scale(self, value: float) -> None:
        self._settings.setValue("theme/scale", str(value))

    @property
    def model(self) -> str:
        """The model that was chosen last."""
        return self._text("model/choice")

    @model.setter
    def model(self, value: str) -> None:
        self._settings.setValue("model/choice", value)

    @property
    def crm(self) -> str:
        """The folder of the replacement model that was opened last."""
        return self._text("recent/crm")

    @crm.setter
    def crm(self, value: str) -> None:
        self._settings.setValue("recent/crm", value)

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The folders of the workspaces that were open, the last one first."""
        return tuple(item for item in self._json("recent/workspaces") if isinstance(item, str))

    @workspaces.setter
    def workspaces(self, value: Sequence[str]) -> None:
        # One more than are offered: the open one is none of them.
        kept = list(dict.fromkeys(value))[: RECENT_WORKSPACES + 1]
        self._settings.setValue("recent/workspaces", json.dumps(kept))

    @property
    def own_layouts(self) -> tuple[OwnLayout, ...]:
        """The person's own arrangements of docks, in the order in which they were saved."""
        found = []
        for item in self._json("layouts/own"):
            name, places = [*item, None, None][:2] if isinstance(item, list) else (None, None)
            if isinstance(name, str) and isinstance(places, str) and places.isascii():
                found.append(OwnLayout(name, QByteArray.fromBase64(places.encode())))
        return tuple(found)[:OWN_LAYOUTS]

    @own_layouts.setter
    def own_layouts(self, value: Sequence[OwnLayout]) -> None:
        kept = [[one.name, one.places.toBase64().toStdString()] for one in value]
        self._settings.setValue("layouts/own", json.dumps(kept[:OWN_LAYOUTS]))

    @property
    def tour_done(self) -> bool:
        """Whether the person has seen the tour, or wants to see no more of it."""
        return self._text("tour/done") == "yes"

    @tour_done.setter
    def tour_done(self, value: bool) -> None:
        self._settings.setValue("tour/done", "yes" if value else "no")

    def _json(self, key: str) -> list[Any]:
        try:
            found = json.loads(self._text(key) or "[]")
        except (ValueError, RecursionError):
            return []
        return found if isinstance(found, list) else []

    def _text(self, key: str) -> str:
        value = self._settings.value(key, "")
        return value if isinstance(value, str) else ""

    def _bytes(self, key: str) -> Optional[QByteArray]:
        value = self._settings.value(key)
        return value if isinstance(value, QByteArray) and not value.isEmpty() else None
