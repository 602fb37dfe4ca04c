"""Tokens to a Qt style sheet.

Widgets choose among a few looks by dynamic properties, set before they are shown:
``look`` on buttons ("primary", "quiet", "danger"), ``role`` on labels ("title", "muted", "caption",
"mono", "error", "figure"), ``panel`` on frames ("card", "sunken", "bar").
"""

from __future__ import annotations

from attention_studio.ui.tokens import Tokens


def style_sheet(t: Tokens, *, base_pt: float, icon: int, mono: str, assets: str) -> str:
    """The application's style sheet.

    Args:
        t: the colours.
        base_pt: size of ordinary text in points.
        icon: size of an icon beside ordinary text in pixels.
        mono: family for text that must align.
        assets: folder, with forward slashes, that holds the small pictures ``<name>.png`` that a
            style sheet can only take from a file.
    """
    small = base_pt * 0.9
    title = base_pt * 1.12
    figure = base_pt * 1.5
    # Room for a line of text: stated, it is also the least, below which no layout may squeeze.
    line = round(base_pt * 1.9)
    # Boxes that are ticked, and the arrows of fields.
    box, arrow = icon - 1, min(icon - 2, 18)
    return f"""
* {{ outline: none; }}
QWidget {{ color: {t.text}; }}
QPushButton, QToolButton, QToolBar, QTabBar, QMenu, QAbstractItemView {{
  icon-size: {icon}px; }}
QMainWindow, QDialog, QWidget#head {{ background: {t.window}; }}
QMainWindow::separator {{ background: {t.window}; width: 5px; height: 5px; }}
QMainWindow::separator:hover {{ background: {t.accent}; }}
QToolTip {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.border_strong};
  padding: 5px 7px; }}

QDockWidget {{ color: {t.muted}; }}
QDockWidget > QWidget#dockBody {{ background: {t.surface}; }}
QWidget#dockTitle {{ background: {t.surface}; border-bottom: 1px solid {t.border}; }}
QWidget#dockTitle QLabel {{ color: {t.text}; font-weight: 600; }}
QWidget#dockTitle QLabel[role="caption"] {{ color: {t.muted}; font-weight: 400; }}
QWidget#dockTitle QLabel[role="error"] {{ color: {t.error}; }}
QStackedWidget#dockBody {{ background: {t.surface}; }}
QWidget#formBody {{ background: {t.surface}; }}

QLabel[role="title"] {{ font-size: {title:.1f}pt; font-weight: 600; }}
QLabel[role="muted"] {{ color: {t.muted}; }}
QLabel[role="caption"] {{ color: {t.muted}; font-size: {small:.1f}pt; }}
QLabel[role="section"] {{ color: {t.muted}; font-size: {small:.1f}pt; font-weight: 600; }}
QLabel[role="figure"] {{ font-size: {figure:.1f}pt; font-weight: 600; }}
QLabel[role="mono"] {{ font-family: "{mono}"; }}
QLabel[role="error"] {{ color: {t.error}; }}
QLabel[role="warning"] {{ color: {t.warning}; }}
QLabel[role="success"] {{ color: {t.success}; }}
QLabel[role="chip"] {{ background: {t.sunken}; color: {t.text}; border: 1px solid {t.border};
  border-radius: 4px; padding: 1px 5px; font-family: "{mono}"; }}
QLabel:disabled {{ color: {t.disabled}; }}

QFrame[panel="card"] {{ background: {t.sunken}; border: 1px solid {t.border}; border-radius: 8px; }}
QFrame[panel="sunken"] {{ background: {t.sunken}; border: none; border-radius: 6px; }}
QFrame[panel="line"] {{ background: {t.border}; border: none; max-height: 1px; min-height: 1px; }}

QPushButton {{ background: {t.surface}; color: {t.text}; border: 1px solid {t.border_strong};
  border-radius: 6px; padding: 5px 12px; min-height: {line - 1}px; }}
QPushButton:hover {{ background: {t.hover}; }}
QPushButton:pressed {{ background: {t.pressed}; }}
QPushButton:focus {{ border: 1px solid {t.focus}; }}
QPushButton:disabled {{ color: {t.disabled}; border-color: {t.border}; background: {t.surface}; }}
QPushButton[look="primary"] {{ background: {t.accent}; color: {t.on_accent};
  border: 1px solid {t.accent}; font-weight: 600; }}
QPushButton[look="primary"]:hover {{ background: {t.accent_hover};
  border-color: {t.accent_hover}; }}
QPushButton[look="primary"]:pressed {{ background: {t.accent_pressed}; }}
QPushButton[look="primary"]:focus {{ border: 1px solid {t.text}; }}
QPushButton[look="primary"]:disabled {{ background: {t.pressed}; color: {t.disabled};
  border-color: {t.pressed}; }}
QPushButton[look="quiet"] {{ background: transparent; border: 1px solid transparent;
  color: {t.accent}; padding: 4px 8px; }}
QPushButton[look="quiet"]:hover {{ background: {t.hover}; }}
QPushButton[look="quiet"]:focus {{ border: 1px solid {t.focus}; }}
QPushButton[look="quiet"]:disabled {{ color: {t.disabled}; }}
QPushButton[look="danger"] {{ color: {t.error}; }}
QPushButton[look="danger"]:disabled {{ color: {t.disabled}; }}

QToolButton {{ background: transparent; border: 1px solid transparent; border-radius: 5px;
  padding: 4px; color: {t.text}; }}
QToolButton:hover {{ background: {t.hover}; }}
QToolButton:pressed {{ background: {t.pressed}; }}
QToolButton:checked {{ background: {t.accent_soft}; }}
QToolButton:focus {{ border: 1px solid {t.focus}; }}
QToolButton:disabled {{ color: {t.disabled}; }}
QToolButton::menu-indicator {{ image: none; }}

QLineEdit, QPlainTextEdit, QTextEdit, QComboBox, QSpinBox, QDoubleSpinBox {{
  background: {t.sunken}; color: {t.text}; border: 1px solid {t.border_strong};
  border-radius: 6px; padding: 4px 7px; selection-background-color: {t.accent};
  selection-color: {t.on_accent}; }}
QLineEdit, QComboBox, QSpinBox, QDoubleSpinBox {{ min-height: {line}px; }}
QLineEdit:hover, QComboBox:hover, QSpinBox:hover, QDoubleSpinBox:hover {{
  border-color: {t.neutral}; }}
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QComboBox:focus, QSpinBox:focus,
QDoubleSpinBox:focus {{ border: 1px solid {t.focus}; }}
QLineEdit:disabled, QPlainTextEdit:disabled, QComboBox:disabled, QSpinBox:disabled,
QDoubleSpinBox:disabled {{ color: {t.disabled}; border-color: {t.border};
  background: {t.surface}; }}
QTextEdit[look="reading"] {{ border-color: {t.surface}; border-radius: 0px; padding: 0px;
  background: {t.surface}; }}
QPlainTextEdit[look="log"] {{ font-family: "{mono}"; font-size: {small:.1f}pt; border: none;
  border-radius: 0; background: {t.canvas}; }}
QAbstractSpinBox QLineEdit, QComboBox QLineEdit {{ background: transparent; border: none;
  border-radius: 0; padding: 0 2px; min-height: 0; }}
QComboBox::drop-down {{ border: none; width: 22px; }}
QComboBox::down-arrow {{ image: url("{assets}/chevron-down.png"); width: {arrow}px;
  height: {arrow}px; }}
QComboBox QAbstractItemView {{ background: {t.raised}; color: {t.text};
  border: 1px solid {t.border_strong}; selection-background-color: {t.accent_soft};
  selection-color: {t.text}; padding: 3px; }}
QSpinBox::up-button, QDoubleSpinBox::up-button {{ subcontrol-origin: border;
  subcontrol-position: top right; width: 20px; border: none; margin: 2px 2px 0 0; }}
QSpinBox::down-button, QDoubleSpinBox::down-button {{ subcontrol-origin: border;
  subcontrol-position: bottom right; width: 20px; border: none; margin: 0 2px 2px 0; }}
QSpinBox::up-button:hover, QDoubleSpinBox::up-button:hover,
QSpinBox::down-button:hover, QDoubleSpinBox::down-button:hover {{ background: {t.pressed};
  border-radius: 3px; }}
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow {{ image: url("{assets}/chevron-up.png");
  width: 10px; height: 10px; }}
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow {{ image: url("{assets}/chevron-down.png");
  width: 10px; height: 10px; }}

QCheckBox, QRadioButton {{ spacing: 7px; background: transparent; }}
QCheckBox:disabled {{ color: {t.disabled}; }}
QCheckBox::indicator {{ width: {box}px; height: {box}px; border: 1px solid {t.neutral};
  border-radius: 4px; background: {t.sunken}; }}
QCheckBox::indicator:hover {{ border-color: {t.accent}; }}
QCheckBox::indicator:focus {{ border-color: {t.focus}; }}
QCheckBox::indicator:checked {{ background: {t.accent}; border-color: {t.accent};
  image: url("{assets}/check.png"); }}
QCheckBox::indicator:disabled {{ border-color: {t.border}; background: {t.surface}; }}
QCheckBox:focus {{ color: {t.accent}; }}

QSlider::groove:horizontal {{ height: 4px; background: {t.border_strong}; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {t.accent}; border-radius: 2px; }}
QSlider::handle:horizontal {{ background: {t.surface}; border: 2px solid {t.accent}; width: 12px;
  height: 12px; margin: -6px 0; border-radius: 8px; }}
QSlider::handle:horizontal:hover {{ background: {t.accent_soft}; }}
QSlider::handle:horizontal:focus {{ background: {t.accent}; }}
QSlider::groove:horizontal:disabled, QSlider::sub-page:horizontal:disabled {{
  background: {t.border}; }}
QSlider::handle:horizontal:disabled {{ border-color: {t.border_strong}; }}

QProgressBar {{ background: {t.border}; border: none; border-radius: 3px; min-height: 6px;
  max-height: 6px; text-align: center; }}
QProgressBar::chunk {{ background: {t.accent}; border-radius: 3px; }}

QTableView, QTreeView, QListView {{ background: {t.surface}; alternate-background-color: {t.sunken};
  color: {t.text}; border: none; gridline-color: {t.border};
  selection-background-color: {t.accent_soft}; selection-color: {t.text}; }}
QTableView::item, QTreeView::item {{ padding: 3px 6px; }}
QListView::item {{ padding: 5px 8px; border-radius: 5px; }}
QTableView::item:hover, QTreeView::item:hover, QListView::item:hover {{ background: {t.hover}; }}
QTableView::item:selected, QTreeView::item:selected, QListView::item:selected {{
  background: {t.accent_soft}; color: {t.text}; }}
QHeaderView {{ background: {t.surface}; }}
QHeaderView::section {{ background: {t.surface}; color: {t.muted}; border: none;
  border-bottom: 1px solid {t.border}; padding: 5px 6px; font-weight: 600;
  font-size: {small:.1f}pt; }}
QHeaderView::section:hover {{ color: {t.text}; }}
QHeaderView::down-arrow {{ image: url("{assets}/chevron-down.png"); width: 12px; height: 12px; }}
QHeaderView::up-arrow {{ image: url("{assets}/chevron-up.png"); width: 12px; height: 12px; }}
QTableCornerButton::section {{ background: {t.surface}; border: none; }}

QTabBar {{ background: transparent; }}
QMainWindow > QTabBar {{ qproperty-elideMode: ElideNone; qproperty-usesScrollButtons: true; }}
QTabBar::tab {{ background: transparent; color: {t.muted}; padding: 6px 12px; margin: 0 1px;
  border: none; border-bottom: 2px solid transparent; }}
QTabBar::tab:hover {{ color: {t.text}; }}
QTabBar::tab:selected {{ color: {t.text}; border-bottom: 2px solid {t.accent}; }}
QTabBar::tab:focus {{ color: {t.accent}; }}
QTabWidget::pane {{ border: none; border-top: 1px solid {t.border}; }}

QMenuBar {{ background: {t.window}; padding: 2px 4px; }}
QMenuBar::item {{ background: transparent; padding: 4px 9px; border-radius: 5px; }}
QMenuBar::item:selected {{ background: {t.hover if t.dark else t.pressed}; }}
QMenu {{ background: {t.raised}; border: 1px solid {t.border_strong}; padding: 5px; }}
QMenu::item {{ padding: 5px 26px 5px 10px; border-radius: 5px; }}
QMenu::item:selected {{ background: {t.accent_soft}; }}
QMenu::item:disabled {{ color: {t.disabled}; }}
QMenu::separator {{ height: 1px; background: {t.border}; margin: 5px 6px; }}
QMenu::icon {{ padding-left: 6px; }}
QMenu::indicator {{ width: 14px; height: 14px; padding-left: 6px; }}
QMenu::indicator:checked {{ image: url("{assets}/check-text.png"); }}

QToolBar {{ background: {t.window}; border: none; spacing: 3px; padding: 3px 6px; }}
QToolBar::separator {{ background: {t.border_strong}; width: 1px; margin: 5px 5px; }}
QToolBar QToolButton {{ padding: 4px 7px; }}
QToolBar QToolButton:hover {{ background: {t.hover if t.dark else t.pressed}; }}
QStatusBar {{ background: {t.window}; color: {t.muted}; }}
QStatusBar::item {{ border: none; }}
QStatusBar QLabel {{ color: {t.muted}; padding: 0 6px; }}

QScrollArea {{ background: transparent; border: none; }}
QScrollBar:vertical {{ background: transparent; width: 11px; margin: 0; }}
QScrollBar:horizontal {{ background: transparent; height: 11px; margin: 0; }}
QScrollBar::handle {{ background: {t.border_strong}; border-radius: 3px; margin: 2px; }}
QScrollBar::handle:vertical {{ min-height: 28px; }}
QScrollBar::handle:horizontal {{ min-width: 28px; }}
QScrollBar::handle:hover {{ background: {t.neutral}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
QSplitter::handle {{ background: {t.border}; }}
QSplitter::handle:hover {{ background: {t.accent}; }}
QSplitter::handle:horizontal {{ width: 1px; }}
QSplitter::handle:vertical {{ height: 1px; }}
QGroupBox {{ border: 1px solid {t.border}; border-radius: 8px; margin-top: 9px; padding: 8px; }}
QGroupBox::title {{ subcontrol-origin: margin; left: 9px; padding: 0 4px; color: {t.muted}; }}

QFrame#messageBar[level="info"] {{ background: {t.info_soft}; }}
QFrame#messageBar[level="success"] {{ background: {t.success_soft}; }}
QFrame#messageBar[level="warning"] {{ background: {t.warning_soft}; }}
QFrame#messageBar[level="error"] {{ background: {t.error_soft}; }}
QFrame#messageBar {{ border: none; border-bottom: 1px solid {t.border}; }}
QFrame#messageBar QLabel {{ background: transparent; }}
QFrame#messageBar QPlainTextEdit {{ background: {t.canvas}; }}
QFrame#tourCard {{ background: {t.raised}; border: 1px solid {t.accent}; border-radius: 10px; }}
QFrame#suggestions {{ background: {t.raised}; border: 1px solid {t.border_strong};
  border-radius: 8px; }}
QFrame#suggestions QTreeView {{ background: transparent; }}
QFrame#paletteFrame {{ background: {t.raised}; border: 1px solid {t.border_strong};
  border-radius: 10px; }}
QFrame#paletteFrame QLineEdit {{ border: none; border-bottom: 1px solid {t.border};
  border-radius: 0; background: transparent; padding: 9px 10px; font-size: {title:.1f}pt; }}
QFrame#paletteFrame QListView {{ background: transparent; }}
"""
