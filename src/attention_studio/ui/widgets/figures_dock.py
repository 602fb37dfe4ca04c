"""The Figures dock: any view as a figure, as it will be on paper, to be saved or copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from PySide6.QtCore import QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QImage, QPixmap, QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QLabel,
    QPlainTextEdit,
    QScrollArea,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from attention_studio.ui.bindings import QtBindings
from attention_studio.ui.clipboard import copy_picture
from attention_studio.ui.figures import render
from attention_studio.ui.figures.figure import Figure, FigureOffer
from attention_studio.ui.figures.palettes import PALETTES
from attention_studio.ui.figures.style import PRESETS, FigureStyle
from attention_studio.ui.jobs import JobFailure
from attention_studio.ui.session import SessionPart
from attention_studio.ui.text import size
from attention_studio.ui.widgets.all_figures import AllFigures, TakenFigures
from attention_studio.ui.widgets.controls import (
    CommandButton,
    ElidedLabel,
    icon_button,
    label,
    named,
    row,
)
from attention_studio.ui.widgets.dialogs import ask_folder, ask_save
from attention_studio.ui.widgets.form_fields import combo, form_column, grid, spin
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.ui.widgets.studio_dock import StudioDock

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.jobs import Job, JobRunner
    from attention_studio.ui.session import Session
    from attention_studio.ui.theme import Theme

_KINDS = (
    ("PDF document", "pdf"),
    ("SVG drawing", "svg"),
    ("PNG picture", "png"),
)
_OWN = "own"
"""The entry of the presets for what is none of them."""
_WAIT_MS = 150
_KEY = "figure.preview"
_MARGIN = 16
_MOST_PIXELS = 2400


class FigurePreview(QLabel):
    """The figure as it will be, as wide as there is room.

    ``resized`` says that there is other room now.
    """

    resized = Signal()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Say that there is other room."""
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self.resized.emit()


class FiguresDock(StudioDock):
    """Which view, how it is to look, and what it will look like.

    ``message`` carries a ``Message`` for the message bar.
    """

    NAME = "figuresDock"
    TITLE = "Figures"
    ICON = "figure"
    LAZY = True
    WATCHES = frozenset(
        (
            SessionPart.GRAPH,
            SessionPart.PRUNED,
            SessionPart.FEATURES,
            SessionPart.SELECTION,
            SessionPart.CHOSEN,
            SessionPart.NOTES,
            SessionPart.HIGHLIGHT,
            SessionPart.COMPARISON,
        )
    )

    message = Signal(object)

    def __init__(
        self,
        session: Session,
        runner: JobRunner,
        commands: Commands,
        theme: Theme,
        parent: Optional[QWidget] = None,
    ) -> None:
        self._offers: tuple[FigureOffer, ...] = ()
        self._figure: Optional[Figure] = None
        self._chosen = ""
        """The name of the view that is wanted, while it is drawn anew, too."""
        self._captions: dict[tuple[str, str], str] = {}
        """Captions that a person wrote, by the figure and what it was of."""
        self._ready = False
        self._copied: Optional[Figure] = None
        super().__init__(session, runner, commands, theme, parent)

    def make_body(self) -> None:
        """Make what the dock shows."""
        self._make_fields()
        self._all = AllFigures(self.runner, self)
        self._all.taken.connect(self._on_all_taken)
        self._folder = Path()
        """Where all figures go."""
        self._left_out = ""
        self._unready = False
        """Whether some dock was not done with what it shows when it was asked for figures."""
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(0)
        self._again.timeout.connect(self._list)
        self.runner.job_changed.connect(self._on_job_changed)
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_WAIT_MS)
        self._wait.timeout.connect(self._draw)
        self._bindings = QtBindings(self)
        self._bindings.ready.connect(self._on_ready)
        self.set_content(self._make_content())
        self.set_empty(
            "No figures yet",
            "Whatever a view shows can be saved here as a figure: PDF or SVG for papers, PNG for "
            "slides, in the width of a column and with colours that everyone tells apart.",
            CommandButton(self.commands, "demo.open", look="primary", text="Open the demo"),
        )
        self._connect()
        self._on_preset()
        self._bindings.start()

    # -- building -----------------------------------------------------------------------------

    def _make_fields(self) -> None:
        style = PRESETS[0].style
        self.view = combo("figures.view", "View", "Which view becomes a figure", ())
        self.renew = icon_button(
            self.theme, "refresh", "figures.renew", "Take the figure anew",
            "Look for views again, and take down what they show now",
        )  # fmt: skip
        self.preset = combo(
            "figures.preset", "Preset", "Width and text for the place where the figure goes",
            [*((preset.text, preset.name) for preset in PRESETS), ("Own", _OWN)],
        )  # fmt: skip
        for place, preset in enumerate(PRESETS):
            self.preset.setItemData(place, preset.help, Qt.ItemDataRole.ToolTipRole)
        self.wide = spin(
            "figures.width", "Width in millimetres", round(style.width_mm), 30, 1200, 5,
            "Width of the figure on paper, in millimetres",
        )  # fmt: skip
        self.wide.setSuffix(" mm")
        self.points = spin(
            "figures.points", "Text size in points", round(style.font_pt), 4, 48, 1,
            "Size of ordinary text on paper, in points",
        )  # fmt: skip
        self.points.setSuffix(" pt")
        self.colours = combo(
            "figures.palette", "Colours", "Colours of the figure",
            [(palette.text, palette.name) for palette in PALETTES],
        )  # fmt: skip
        for place, one in enumerate(PALETTES):
            self.colours.setItemData(place, one.help, Qt.ItemDataRole.ToolTipRole)
        self.dpi = spin(
            "figures.dpi", "Dots per inch of a PNG", style.dpi, 50, 1200, 50,
            "How fine a PNG is; PDF and SVG are sharp at any size",
        )  # fmt: skip
        self.with_caption = named(
            QCheckBox("Caption below the figure"), "figures.with_caption", "Caption below",
            "Write the caption below the figure",
        )  # fmt: skip
        self.with_caption.setChecked(True)
        self.caption = named(
            QPlainTextEdit(), "figures.caption", "Caption",
            "What a reader must know; it begins as what the view says of itself",
        )  # fmt: skip
        self.caption.setTabChangesFocus(True)
        self.caption.setFixedHeight(96)
        self.kinds = {
            kind: named(
                QCheckBox(kind.upper()), f"figures.all.{kind}", f"Save all as {kind.upper()}",
                f"“Save all” writes every view as {kind.upper()}",
            )
            for _, kind in _KINDS
        }  # fmt: skip
        self.kinds["pdf"].setChecked(True)

    def _make_content(self) -> QSplitter:
        form = QWidget()
        form.setObjectName("formBody")
        fields = QVBoxLayout(form)
        fields.setContentsMargins(12, 10, 12, 8)
        fields.setSpacing(4)
        fields.addWidget(label("View", "section"))
        fields.addLayout(row(self.view, self.renew, stretch=0, spacing=4))
        fields.addSpacing(8)
        fields.addWidget(label("Look", "section"))
        for caption, field in (("Preset", self.preset), ("Colours", self.colours)):
            fields.addWidget(label(caption, "caption"))
            fields.addWidget(field)
        fields.addLayout(
            grid(
                ("Width", self.wide),
                ("Text", self.points),
                ("PNG dots per inch", self.dpi),
            )
        )
        fields.addSpacing(8)
        fields.addWidget(label("Caption", "section"))
        fields.addWidget(self.with_caption)
        fields.addWidget(self.caption)
        fields.addSpacing(8)
        fields.addWidget(label("Formats of “Save all”", "section"))
        fields.addLayout(row(*self.kinds.values()))
        fields.addStretch(1)
        left = form_column(
            form, "figures.form", "How the figure is to look",
            row(
                CommandButton(self.commands, "figure.save", look="primary", text="Save"),
                CommandButton(self.commands, "figure.copy", text="Copy", icon=False),
                CommandButton(self.commands, "figure.save_all", text="Save all", icon=False),
            ),
        )  # fmt: skip
        self.preview = FigurePreview()
        named(self.preview, "figures.preview", "The figure", "As it will be on paper")
        self.preview.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        self.preview.setContentsMargins(_MARGIN, _MARGIN, _MARGIN, _MARGIN)
        # A picture would otherwise hold its place as wide as it was drawn when there was more room.
        self.preview.setMinimumWidth(1)
        area = named(QScrollArea(), "figures.area", "The figure", "As it will be on paper")
        area.setWidgetResizable(True)
        area.setWidget(self.preview)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        # Always there: a bar that comes and goes changes the width that decides whether it comes.
        area.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self._facts = ElidedLabel("", "caption")
        named(self._facts, "figures.facts", "Size of the figure")
        self._facts.setContentsMargins(12, 6, 12, 6)
        right = QWidget()
        right.setObjectName("formBody")
        shown = QVBoxLayout(right)
        shown.setContentsMargins(0, 0, 0, 0)
        shown.setSpacing(0)
        shown.addWidget(area, 1)
        shown.addWidget(self._facts)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setObjectName("figures.splitter")
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(left)
        splitter.addWidget(right)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([290, 700])
        return splitter

    def _connect(self) -> None:
        self.view.currentIndexChanged.connect(self._on_view)
        self.renew.clicked.connect(self._list)
        self.preset.currentIndexChanged.connect(self._on_preset)
        for field in (self.wide, self.points, self.dpi):
            field.valueChanged.connect(self._on_number)
        self.colours.currentIndexChanged.connect(self._draw_soon)
        self.with_caption.toggled.connect(self._on_with_caption)
        self.caption.textChanged.connect(self._on_caption)
        self.preview.resized.connect(self._draw_soon)

    @property
    def facts(self) -> str:
        """What is said of the figure's size, or why there is none."""
        return self._facts.whole()

    @property
    def drawing(self) -> bool:
        """Whether the preview is not yet as the fields say."""
        return self._wait.isActive() or self.runner.running(_KEY) is not None

    # -- which figure -------------------------------------------------------------------------

    @property
    def figure(self) -> Optional[Figure]:
        """The figure that is shown."""
        return self._figure

    def _others(self) -> list[StudioDock]:
        return [dock for dock in self.commands.docks if dock is not self]

    def _drawn_docks(self) -> list[StudioDock]:
        """The docks that somebody has looked at, up to date even behind another tab."""
        docks = [dock for dock in self._others() if dock.made]
        for dock in docks:
            dock.catch_up()
        return docks

    def _described(self, offer: FigureOffer, figure: Figure) -> tuple[str, str]:
        """A figure and what it is of: a caption that was written for one graph says nothing of the
        next. What a figure says of itself names that; a picture of the screen says nothing."""
        graph = self.session.graph
        return offer.name, figure.caption or ("" if graph is None else graph.prompt)

    def _caption_of(self, offer: FigureOffer, figure: Figure) -> str:
        return self._captions.get(self._described(offer, figure), figure.caption)

    @Slot()
    def _list(self) -> None:
        """Ask every dock anew what figures there are, and take the chosen one anew."""
        docks = self._drawn_docks()
        found = [offer for dock in docks for offer in dock.figures()]
        self._unready = any(dock.preparing for dock in docks)
        self._offers = tuple(sorted(found, key=lambda offer: offer.screen))
        blocked = self.view.blockSignals(True)
        self.view.clear()
        for offer in self._offers:
            self.view.addItem(offer.title, offer.name)
        place = self.view.findData(self._chosen)
        # What is being drawn is waited for; what is gone gives way to the first.
        self.view.setCurrentIndex(place if place >= 0 or self._unready else 0)
        self._chosen = self._chosen or self.view.currentData() or ""
        self.view.blockSignals(blocked)
        self.show_empty(not self._offers and not self._unready)
        self._take()

    @Slot(object)
    def _on_job_changed(self, job: Job) -> None:
        # The dock that waits for the job hears of it after this.
        if self._unready and job.ended_at is not None and self.in_front:
            self._again.start()

    def _offer(self) -> Optional[FigureOffer]:
        name = self.view.currentData()
        return next((offer for offer in self._offers if offer.name == name), None)

    def _take(self) -> None:
        """Take down what the chosen view shows."""
        offer = self._offer()
        self._drawn_docks()
        self._figure = None if offer is None else offer.make()
        blocked = self.caption.blockSignals(True)
        figure = self._figure
        told = "" if offer is None or figure is None else self._caption_of(offer, figure)
        if told != self.caption.toPlainText():
            self.caption.setPlainText(told)
        self.caption.blockSignals(blocked)
        self._draw_soon()

    def style_asked(self) -> FigureStyle:
        """How the figure is to look."""
        return FigureStyle(
            width_mm=float(self.wide.value()),
            font_pt=float(self.points.value()),
            palette=self.colours.currentData(),
            dpi=self.dpi.value(),
            caption=self.caption.toPlainText().strip() if self.with_caption.isChecked() else "",
            sans=self.theme.sans,
            mono=self.theme.mono,
        )

    @Slot()
    def _on_view(self) -> None:
        self._chosen = self.view.currentData() or ""
        self._take()

    @Slot()
    def _on_preset(self) -> None:
        name = self.preset.currentData()
        preset = next((one for one in PRESETS if one.name == name), None)
        if preset is not None:
            for field, value in (
                (self.wide, round(preset.style.width_mm)),
                (self.points, round(preset.style.font_pt)),
                (self.dpi, preset.style.dpi),
            ):
                blocked = field.blockSignals(True)
                field.setValue(value)
                field.blockSignals(blocked)
        self._draw_soon()

    @Slot()
    def _on_number(self) -> None:
        # What a person has set is no preset any more, unless it is one after all.
        now = (self.wide.value(), self.points.value(), self.dpi.value())
        fits = next(
            (
                preset.name
                for preset in PRESETS
                if (preset.style.width_mm, preset.style.font_pt, preset.style.dpi) == now
            ),
            _OWN,
        )
        blocked = self.preset.blockSignals(True)
        self.preset.setCurrentIndex(self.preset.findData(fits))
        self.preset.blockSignals(blocked)
        self._draw_soon()

    @Slot(bool)
    def _on_with_caption(self, on: bool) -> None:
        self.caption.setEnabled(on)
        self._draw_soon()

    @Slot()
    def _on_caption(self) -> None:
        offer, figure = self._offer(), self._figure
        if offer is not None and figure is not None:
            self._captions[self._described(offer, figure)] = self.caption.toPlainText()
        self._draw_soon()

    # -- drawing ------------------------------------------------------------------------------

    @Slot()
    def _on_ready(self) -> None:
        self._ready = True
        self._draw_soon()

    @Slot()
    def _draw_soon(self) -> None:
        self._wait.start()

    @Slot()
    def _draw(self) -> None:
        if not self._ready or not self.in_front:
            return
        figure = self._figure
        if figure is None:
            self.preview.setPixmap(QPixmap())
            self._facts.set_whole("The view shows nothing now" if self._offers else "")
            return
        ratio = self.preview.devicePixelRatioF()
        room = max(80, self.preview.width() - 2 * _MARGIN)
        job = self.runner.submit(
            render.preview, figure, self.style_asked(), min(_MOST_PIXELS, round(room * ratio)),
            title="Draw the figure", lane="quick", key=_KEY, quiet=True,
        )  # fmt: skip
        job.finished.connect(self._on_drawn)
        job.failed.connect(self._on_not_drawn)

    @Slot(object)
    def _on_drawn(self, image: QImage) -> None:
        image.setDevicePixelRatio(self.preview.devicePixelRatioF())
        self.preview.setPixmap(QPixmap.fromImage(image))
        style = self.style_asked()
        high = style.width_mm * image.height() / max(1, image.width())
        dots = style.width_mm / 25.4 * style.dpi
        self._facts.set_whole(
            f"{style.width_mm:.0f} by {high:.0f} mm on paper · as PNG {dots:.0f} by "
            f"{dots * image.height() / max(1, image.width()):.0f} pixels"
        )
        figure = self._figure
        if figure is not None:
            self.preview.setAccessibleDescription(f"{figure.title}. {figure.caption}")

    @Slot(object)
    def _on_not_drawn(self, failure: JobFailure) -> None:
        self.preview.setPixmap(QPixmap())
        self._facts.set_whole(
            ". ".join(part for part in (failure.what, failure.why, failure.todo) if part)
        )

    def refresh(self, parts: frozenset[SessionPart]) -> None:
        """Take the figure anew."""
        self._list()

    def figures(self) -> tuple[FigureOffer, ...]:
        """None: it shows those of others."""
        return ()

    # -- commands -----------------------------------------------------------------------------

    @Slot()
    def show_current(self) -> None:
        """Show the view that has the keyboard as a figure."""
        widget: Optional[QWidget] = QApplication.focusWidget()
        while widget is not None and not isinstance(widget, StudioDock):
            widget = widget.parentWidget()
        wanted = ""
        if isinstance(widget, StudioDock) and widget is not self:
            wanted = next((offer.name for offer in widget.figures()), "")
        self.go_there()
        self._list()
        place = self.view.findData(wanted)
        if place >= 0:
            self.view.setCurrentIndex(place)

    def _ready_figure(self) -> Optional[Figure]:
        self._list()
        if self._figure is None:
            self.message.emit(
                Message(
                    "info",
                    "There is nothing to make a figure of",
                    "No view shows anything yet",
                    "Trace a prompt first",
                )
            )
        return self._figure

    @Slot()
    def save(self) -> None:
        """Choose a file and save the figure to it."""
        figure = self._ready_figure()
        if figure is not None:
            ask_save(self, "Save figure", self.save_to, _KINDS, figure.name)

    @Slot(str)
    def save_to(self, file: str) -> None:
        """Save the figure as the file's ending says."""
        figure = self._figure
        if figure is None:
            return
        path = Path(file)
        job = self.runner.submit(
            render.save_figure, figure, self.style_asked(), path,
            title=f"Save {path.name}", lane="quick",
        )  # fmt: skip
        job.finished.connect(self._on_saved)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_saved(self, path: Path) -> None:
        self.message.emit(
            Message(
                "success",
                f"The figure was written to {path.name}",
                f"{path} ({size(path.stat().st_size)})" if path.exists() else str(path),
            )
        )

    @Slot()
    def save_all(self) -> None:
        """Choose a folder and save a figure of every view into it."""
        if self._ready_figure() is not None:
            ask_folder(self, "Save figures of all views", self.save_all_to)

    @Slot(str)
    def save_all_to(self, folder: str) -> None:
        """Save a figure of every view into a folder, in the formats that are ticked. Views that
        nobody has looked at draw what is open first."""
        self._folder = Path(folder)
        self._all.start(self._others())

    @Slot(object)
    def _on_all_taken(self, found: TakenFigures) -> None:
        style, self._left_out = self.style_asked(), found.left_out
        wanted, taken = [], set[str]()
        for offer, figure in found.figures:
            name = figure.name
            while name in taken:
                name += "-2"
            taken.add(name)
            caption = self._caption_of(offer, figure).strip()
            shown = caption if self.with_caption.isChecked() else ""
            wanted.append((replace(figure, name=name), replace(style, caption=shown)))
        kinds = [kind for kind, box in self.kinds.items() if box.isChecked()] or ["pdf"]
        job = self.runner.submit(
            render.save_figures, wanted, self._folder, kinds,
            title="Save all figures", lane="quick",
        )  # fmt: skip
        job.finished.connect(self._on_all_saved)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_all_saved(self, files: tuple[Path, ...]) -> None:
        folder = files[0].parent if files else Path()
        self.message.emit(
            Message(
                "success",
                f"{len(files)} figures were written to {folder.name}",
                str(folder),
                self._left_out,
            )
        )

    @Slot()
    def copy(self) -> None:
        """Put the figure on the clipboard as a picture."""
        figure = self._ready_figure()
        if figure is None:
            return
        job = self.runner.submit(
            render.for_clipboard, figure, self.style_asked(),
            title="Copy the figure", lane="quick", key="figure.copy",
        )  # fmt: skip
        job.finished.connect(self._on_copied)
        job.failed.connect(self._on_failed)

    @Slot(object)
    def _on_copied(self, made: tuple[QImage, bytes]) -> None:
        image, svg = made
        copy_picture(image, {"image/svg+xml": svg})
        self.message.emit(
            Message("success", "The figure is on the clipboard", "as a picture and as SVG")
        )

    @Slot(object)
    def _on_failed(self, failure: JobFailure) -> None:
        self.message.emit(Message.of(failure))

    def sizeHint(self) -> QSize:
        """Room for form and figure."""
        return QSize(900, 600)
