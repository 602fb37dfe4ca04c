"""What the window remembers between two starts, in one small file below ``settings.state_dir``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional, cast

from PySide6.QtCore import QByteArray, QSettings

if TYPE_CHECKING:
    from pathlib import Path

    from attention_studio.ui.theme import SchemeChoice

# Raise it when docks change their names, so that an old layout is not half restored.
LAYOUT_VERSION = 1


class WindowState:
    """Typed access to the remembered values. Broken values read as if they were not there."""

    def __init__(self, state_dir: Path) -> None:
        self._settings = QSettings(str(state_dir / "window.ini"), QSettings.Format.IniFormat)

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
    def prompt(self) -> str:
        """The prompt that was typed last."""
        return self._text("prompt/text")

    @prompt.setter
    def prompt(self, value: str) -> None:
        self._settings.setValue("prompt/text", value[:20_000])

    @property
    def crm(self) -> str:
        """The folder of the replacement model that was opened last."""
        return self._text("recent/crm")

    @crm.setter
    def crm(self, value: str) -> None:
        self._settings.setValue("recent/crm", value)

    def _text(self, key: str) -> str:
        value = self._settings.value(key, "")
        return value if isinstance(value, str) else ""

    def _bytes(self, key: str) -> Optional[QByteArray]:
        value = self._settings.value(key)
        return value if isinstance(value, QByteArray) and not value.isEmpty() else None
