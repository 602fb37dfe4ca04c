"""How the studio looks: scheme, palette, style sheet, fonts, icons, colours of plots.

One ``Theme`` is made at start and handed to everybody. It follows the system's colour scheme until
a person chooses one, and tells everybody who paints by hand through ``changed``.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal, Optional, Union

from PySide6.QtCore import QObject, Qt, QTemporaryDir, Signal, Slot
from PySide6.QtGui import QAction, QColor, QFont, QFontDatabase, QIcon, QPalette
from PySide6.QtWidgets import QAbstractButton, QApplication

from attention_studio.ui.icons import icon_pixmap, icon_svg, make_icon
from attention_studio.ui.stylesheet import style_sheet
from attention_studio.ui.tokens import DARK, LIGHT, Tokens, diverging

SchemeChoice = Literal["system", "light", "dark"]

# The platform's own family comes first where it is a good one; the rest are common free families.
_SANS = (
    "Inter",
    "Segoe UI Variable Text",
    "Segoe UI",
    "SF Pro Text",
    "Noto Sans",
    "Cantarell",
    "Ubuntu",
    "Open Sans",
    "Roboto",
    "Liberation Sans",
    "DejaVu Sans",
)
_MONO = (
    "JetBrains Mono",
    "Cascadia Mono",
    "SF Mono",
    "Menlo",
    "Consolas",
    "Noto Sans Mono",
    "Ubuntu Mono",
    "DejaVu Sans Mono",
    "Liberation Mono",
)
_BASE_PT = 10.0
ICON, LARGE_ICON = 16, 28
"""Logical pixels of icons at ordinary text size: beside text, and of empty views."""
_ICON_PROPERTY = "studioIcon"
MIN_SCALE, MAX_SCALE = 0.7, 2.5


def _first_installed(candidates: tuple[str, ...], fallback: QFont) -> str:
    installed = set(QFontDatabase.families())
    for family in candidates:
        if family in installed:
            return family
    return fallback.family()


class Theme(QObject):
    """The current look, and the switch between looks.

    Args:
        choice: follow the system, or force a scheme.
        scale: factor on every text size.
        asset_dir: where the few pictures that a style sheet needs as files are kept; a temporary
            folder if None.
    """

    changed = Signal()

    def __init__(
        self,
        choice: SchemeChoice = "system",
        scale: float = 1.0,
        asset_dir: Optional[Path] = None,
        parent: Optional[QObject] = None,
    ) -> None:
        super().__init__(parent)
        self._choice: SchemeChoice = choice
        self._scale = min(MAX_SCALE, max(MIN_SCALE, scale))
        self._temporary: Optional[QTemporaryDir] = None
        if asset_dir is None:
            self._temporary = QTemporaryDir()
            asset_dir = Path(self._temporary.path())
        self._asset_dir = asset_dir
        self._icons: dict[tuple[str, str], QIcon] = {}
        self._fonts: dict[tuple[float, bool, bool], QFont] = {}
        app = self._app()
        # The family that the platform would use, kept before ours is set.
        self.sans = _first_installed(_SANS, app.font())
        self.mono = _first_installed(
            _MONO, QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        )
        self._tokens = self._resolve()
        app.styleHints().colorSchemeChanged.connect(self._on_system_scheme)

    # -- what it is now -----------------------------------------------------------------------

    @property
    def tokens(self) -> Tokens:
        """The colours in use."""
        return self._tokens

    @property
    def dark(self) -> bool:
        """Whether the dark scheme is in use."""
        return self._tokens.dark

    @property
    def choice(self) -> SchemeChoice:
        """What the person chose: the system's scheme, or one of the two."""
        return self._choice

    @property
    def scale(self) -> float:
        """The factor on every text size."""
        return self._scale

    @property
    def pixel_ratio(self) -> float:
        """Device pixels per logical pixel of the sharpest screen."""
        return self._app().devicePixelRatio()

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of curves, in the order in which they are handed out."""
        return self._tokens.series

    def series_colour(self, index: int) -> str:
        """The colour of curve ``index``; the list begins anew after its end."""
        return self._tokens.series[index % len(self._tokens.series)]

    def diverging(self, steps: int = 15) -> tuple[str, ...]:
        """Opaque colours from fully negative to fully positive on the canvas."""
        return diverging(self._tokens, steps)

    def colour(self, token: str) -> QColor:
        """The token of that name (``"accent"``, ``"canvas"`` …) as a QColor."""
        return QColor(getattr(self._tokens, token))

    def font(self, factor: float = 1.0, *, bold: bool = False, mono: bool = False) -> QFont:
        """A font relative to ordinary text, for those who paint by hand."""
        key = (factor, bold, mono)
        font = self._fonts.get(key)
        if font is None:
            font = QFont(self.mono if mono else self.sans)
            font.setPointSizeF(_BASE_PT * self._scale * factor)
            font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
            self._fonts[key] = font
        return QFont(font)  # whoever changes it changes their own

    def icon_size(self, at_ordinary_size: float = ICON) -> int:
        """Logical pixels of an icon beside text of today's size. Icons grow three quarters as fast
        as letters, so that they do not make rows higher than their text does."""
        return round(at_ordinary_size * (0.25 + 0.75 * self._scale))

    # -- changing it --------------------------------------------------------------------------

    def set_choice(self, choice: SchemeChoice) -> None:
        """Follow the system, or force a scheme."""
        self._choice = choice
        self._apply_if_new()

    def toggle(self) -> None:
        """Force the other scheme than the one in use."""
        self.set_choice("light" if self.dark else "dark")

    def set_scale(self, scale: float) -> None:
        """Set the factor on every text size, kept between 0.7 and 2.5."""
        scale = min(MAX_SCALE, max(MIN_SCALE, round(scale, 2)))
        if scale != self._scale:
            self._scale = scale
            self.apply()

    def begin(self) -> None:
        """Put fonts and palette on the application, before there is a window; then :meth:`dress`.

        Under a style sheet every widget that is put into another is polished anew: a window that is
        dressed when it is whole takes half the time.
        """
        app = self._app()
        self._tokens = self._resolve()
        self._icons.clear()
        self._fonts.clear()
        app.setFont(self.font())
        app.setPalette(_palette(self._tokens))

    def dress(self) -> None:
        """Put the style sheet on the application."""
        self._app().setStyleSheet(
            style_sheet(
                self._tokens,
                base_pt=_BASE_PT * self._scale,
                icon=self.icon_size(),
                mono=self.mono,
                assets=self._write_assets(),
            )
        )

    def apply(self) -> None:
        """Put fonts, palette and style sheet on the application and tell everybody."""
        self.begin()
        self.dress()
        for widget in self._app().allWidgets():
            name = widget.property(_ICON_PROPERTY)
            if name and isinstance(widget, QAbstractButton):
                widget.setIcon(self.icon(name))
        self.changed.emit()

    # -- icons --------------------------------------------------------------------------------

    def icon(self, name: str, token: str = "text") -> QIcon:
        """The icon in today's colours. Prefer ``set_icon``, which follows the theme."""
        key = (name, token)
        if key not in self._icons:
            t = self._tokens
            self._icons[key] = make_icon(
                name, getattr(t, token), t.disabled, t.accent,
                (self.icon_size(), self.icon_size(LARGE_ICON)), self.pixel_ratio,
            )  # fmt: skip
        return self._icons[key]

    def set_icon(self, target: Union[QAbstractButton, QAction], name: str) -> None:
        """Give a button an icon that follows the theme (an action's owner sets it anew itself)."""
        target.setProperty(_ICON_PROPERTY, name)
        target.setIcon(self.icon(name))

    # -- inside -------------------------------------------------------------------------------

    @staticmethod
    def _app() -> QApplication:
        app = QApplication.instance()
        if not isinstance(app, QApplication):
            raise RuntimeError("a Theme needs a QApplication")
        return app

    def _resolve(self) -> Tokens:
        if self._choice == "system":
            dark = self._app().styleHints().colorScheme() == Qt.ColorScheme.Dark
        else:
            dark = self._choice == "dark"
        return DARK if dark else LIGHT

    def _apply_if_new(self) -> None:
        if self._resolve() is not self._tokens:
            self.apply()

    @Slot(Qt.ColorScheme)
    def _on_system_scheme(self, _scheme: Qt.ColorScheme) -> None:
        self._apply_if_new()

    def _write_assets(self) -> str:
        pictures = {
            "chevron-down": ("chevron-down", self._tokens.muted),
            "chevron-up": ("chevron-up", self._tokens.muted),
            "check": ("check", self._tokens.on_accent),
            "check-text": ("check", self._tokens.text),
        }
        # Named by what is in it, so that pictures of another version are never taken for ours.
        digest = zlib.crc32(repr((pictures, icon_svg("chevron-down", ""))).encode())
        folder = self._asset_dir / f"{self._tokens.name}-{digest:08x}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, (icon, colour) in pictures.items():
            for suffix, pixels in (("", 16), ("@2x", 32)):
                file = folder / f"{name}{suffix}.png"
                if not file.exists():
                    icon_pixmap(icon, colour, pixels).save(str(file))
        return folder.as_posix()


def _palette(t: Tokens) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for group in (QPalette.ColorGroup.Active, QPalette.ColorGroup.Inactive):
        for entry, colour in (
            (role.Window, t.window),
            (role.WindowText, t.text),
            (role.Base, t.surface),
            (role.AlternateBase, t.sunken),
            (role.Text, t.text),
            (role.Button, t.surface),
            (role.ButtonText, t.text),
            (role.BrightText, t.error),
            (role.ToolTipBase, t.raised),
            (role.ToolTipText, t.text),
            (role.PlaceholderText, t.muted),
            (role.Highlight, t.accent),
            (role.HighlightedText, t.on_accent),
            (role.Link, t.accent),
            (role.LinkVisited, t.accent),
            (role.Light, t.raised),
            (role.Midlight, t.hover),
            (role.Mid, t.border_strong),
            (role.Dark, t.border_strong),
            (role.Shadow, t.border_strong),
        ):
            palette.setColor(group, entry, QColor(colour))
    disabled = QPalette.ColorGroup.Disabled
    for entry in (role.WindowText, role.Text, role.ButtonText, role.PlaceholderText):
        palette.setColor(disabled, entry, QColor(t.disabled))
    return palette
