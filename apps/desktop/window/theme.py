"""Colours, light and dark, and the style sheet: the web page's own, so that both are one product."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

_SCHEMES = {"light": Qt.ColorScheme.Light, "dark": Qt.ColorScheme.Dark}
_CHOSEN = "visavis_scheme"

RADIUS_PX = 18
"""Of the picture's corners."""


@dataclass(frozen=True, slots=True)
class Colours:
    """paper: behind everything; surface: cards; sunken: wells and meters; accent: what is on, and focus."""

    paper: str
    surface: str
    sunken: str
    raised: str
    ink: str
    muted: str
    line: str
    accent: str
    accent_ink: str
    accent_soft: str
    alarm: str
    alarm_soft: str
    warn: str
    warn_soft: str
    good: str


LIGHT = Colours(
    paper="#f3f1ec", surface="#fffdf9", sunken="#ece9e2", raised="#ffffff", ink="#1d1c1a", muted="#67635b",
    line="#dfdbd2", accent="#1d6b60", accent_ink="#ffffff", accent_soft="#dcebe6", alarm="#a8382a",
    alarm_soft="#f7e3dd", warn="#8a5a00", warn_soft="#f8ecd2", good="#2f7d43",
)  # fmt: skip
DARK = Colours(
    paper="#131514", surface="#1c1f1e", sunken="#272b29", raised="#3a413e", ink="#f0eeea", muted="#a3a19a",
    line="#303533", accent="#71cdb9", accent_ink="#0c1f1b", accent_soft="#203a35", alarm="#f28f7f",
    alarm_soft="#43241f", warn="#e9b95b", warn_soft="#3a2f18", good="#7fcf92",
)  # fmt: skip


def application() -> QApplication:
    """The one of this process, which must have been made; see apps.desktop.window.run.make_app."""
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    return app


def set_scheme(theme: str) -> None:
    """auto follows the system; light and dark do not."""
    QGuiApplication.styleHints().setColorScheme(_SCHEMES.get(theme, Qt.ColorScheme.Unknown))
    # Platforms without a scheme of their own forget what they were told.
    application().setProperty(_CHOSEN, theme)


def colours() -> Colours:
    """Of the scheme that the system, or set_scheme, has now."""
    chosen = str(application().property(_CHOSEN))
    scheme = _SCHEMES.get(chosen, QGuiApplication.styleHints().colorScheme())
    if scheme == Qt.ColorScheme.Unknown:
        window = QApplication.style().standardPalette().color(QPalette.ColorRole.Window)
        return DARK if window.lightness() < 128 else LIGHT
    return DARK if scheme == Qt.ColorScheme.Dark else LIGHT


def apply(app: QApplication) -> Colours:
    """Give every window the colours of now; to be called again when the scheme changes."""
    look = colours()
    palette = QPalette()
    roles = {
        QPalette.ColorRole.Window: look.paper,
        QPalette.ColorRole.WindowText: look.ink,
        QPalette.ColorRole.Base: look.surface,
        QPalette.ColorRole.AlternateBase: look.sunken,
        QPalette.ColorRole.Text: look.ink,
        QPalette.ColorRole.Button: look.surface,
        QPalette.ColorRole.ButtonText: look.ink,
        QPalette.ColorRole.Highlight: look.accent,
        QPalette.ColorRole.HighlightedText: look.accent_ink,
        QPalette.ColorRole.ToolTipBase: look.raised,
        QPalette.ColorRole.ToolTipText: look.ink,
        QPalette.ColorRole.PlaceholderText: look.muted,
        QPalette.ColorRole.Link: look.accent,
    }
    for role, colour in roles.items():
        palette.setColor(role, QColor(colour))
    for role in (QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText, QPalette.ColorRole.WindowText):
        palette.setColor(QPalette.ColorGroup.Disabled, role, QColor(look.muted))
    app.setPalette(palette)
    values = {name: getattr(look, name) for name in Colours.__slots__}
    scheme = "dark" if look is DARK else "light"
    app.setStyleSheet(_SHEET.format(**values, scheme=scheme, folder=Path(__file__).parent.as_posix()))
    return look


def font(scale: float = 1.0, bold: bool = False) -> QFont:
    """The system's own, larger or smaller, so that what the user has set for their eyes holds here too."""
    found = QFont(QApplication.font())
    found.setPointSizeF(found.pointSizeF() * scale)
    if bold:
        found.setWeight(QFont.Weight.DemiBold)
    return found


_SHEET = """
QWidget {{ color: {ink}; }}
QToolTip {{ background: {raised}; color: {ink}; border: 1px solid {line}; padding: 4px 6px; }}
QFrame#card {{ background: {surface}; border: 1px solid {line}; border-radius: 14px; }}
QLabel#muted, QLabel#value {{ color: {muted}; }}
QLabel#warning {{ color: {warn}; background: {warn_soft}; border-radius: 8px; padding: 6px 8px; }}
QLabel#refusal {{ color: {alarm}; background: {alarm_soft}; border-radius: 8px; padding: 6px 8px; }}
QLabel#key {{ background: {sunken}; border: 1px solid {line}; border-radius: 5px; padding: 1px 6px; }}

QPushButton {{ background: {surface}; border: 1px solid {line}; border-radius: 9px; padding: 6px 11px; }}
QPushButton:hover {{ background: {sunken}; }}
QPushButton:checked {{ background: {accent_soft}; border-color: {accent}; color: {accent}; }}
QPushButton:disabled {{ color: {muted}; background: {paper}; }}
QPushButton:focus, QToolButton:focus, QComboBox:focus {{ border: 2px solid {accent}; }}
QLineEdit:focus, QCheckBox:focus {{ border: 2px solid {accent}; }}
QPushButton:focus {{ padding: 5px 10px; }}
QPushButton#main {{ background: {accent}; color: {accent_ink}; border-color: {accent}; font-weight: 600; }}
QPushButton#main:hover {{ background: {accent}; }}
QPushButton#main:focus {{ border: 2px solid {ink}; }}
QPushButton#main:disabled {{ background: {sunken}; color: {muted}; border-color: {line}; }}

QFrame#segments {{ background: {sunken}; border-radius: 10px; }}
QFrame#segments QPushButton {{ background: transparent; border: 2px solid transparent; border-radius: 8px;
    padding: 5px 6px; color: {muted}; font-weight: 600; }}
QFrame#segments QPushButton:hover {{ color: {ink}; }}
QFrame#segments QPushButton:checked {{ background: {raised}; color: {ink}; }}
QFrame#segments QPushButton:focus {{ border: 2px solid {accent}; padding: 5px 6px; }}

QPushButton#chip {{ border-radius: 11px; padding: 3px 10px; }}
QPushButton#chip:focus {{ padding: 2px 9px; }}

QToolButton {{ background: transparent; border: 2px solid transparent; border-radius: 12px; padding: 7px; }}
QToolButton:hover {{ background: {sunken}; }}
QToolButton:checked {{ background: {accent_soft}; }}
QToolButton#face {{ padding: 2px; border-radius: 13px; }}
QToolButton#face:checked {{ border: 2px solid {accent}; background: transparent; }}
QToolButton#face:focus {{ border: 2px solid {ink}; }}
QToolButton#small {{ padding: 3px; border-radius: 8px; }}

QComboBox {{ background: {surface}; border: 1px solid {line}; border-radius: 9px; padding: 5px 8px; }}
QComboBox::drop-down {{ border: 0; width: 20px; }}
QComboBox::down-arrow {{ image: url({folder}/chevron.svg); width: 12px; height: 12px; }}
QComboBox QAbstractItemView {{ background: {surface}; border: 1px solid {line}; outline: 0;
    selection-background-color: {accent_soft}; selection-color: {ink}; }}
QLineEdit, QSpinBox {{ background: {surface}; border: 1px solid {line}; border-radius: 9px; padding: 5px 8px; }}
QCheckBox {{ border: 2px solid transparent; border-radius: 6px; padding: 2px; spacing: 8px; }}
QCheckBox::indicator {{ width: 16px; height: 16px; border: 1px solid {muted}; border-radius: 5px;
    background: {surface}; }}
QCheckBox::indicator:checked {{ background: {accent}; border-color: {accent};
    image: url({folder}/check-{scheme}.svg); }}
QSlider {{ border: 2px solid transparent; border-radius: 8px; min-height: 22px; }}
QSlider:focus {{ border: 2px solid {accent}; }}
QSlider::groove:horizontal {{ height: 4px; background: {sunken}; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {accent}; border-radius: 2px; }}
QSlider::handle:horizontal {{ width: 14px; height: 14px; margin: -5px 0; border-radius: 7px; background: {accent}; }}
QProgressBar {{ background: {sunken}; border: 0; border-radius: 3px; max-height: 6px; min-height: 6px; }}
QProgressBar::chunk {{ background: {accent}; border-radius: 3px; }}

QScrollArea, QScrollArea > QWidget > QWidget#inside {{ background: transparent; border: 0; }}
QScrollBar:vertical {{ background: transparent; width: 9px; margin: 2px; }}
QScrollBar::handle:vertical {{ background: {line}; border-radius: 3px; min-height: 30px; }}
QScrollBar::handle:vertical:hover {{ background: {muted}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ background: none; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: none; }}
QMenu {{ background: {surface}; border: 1px solid {line}; padding: 5px; }}
QMenu::item {{ padding: 5px 22px 5px 12px; border-radius: 6px; }}
QMenu::item:selected {{ background: {accent_soft}; }}
QMenu::separator {{ height: 1px; background: {line}; margin: 5px 8px; }}

QFrame#notice {{ border-radius: 11px; border: 1px solid {line}; background: {raised}; }}
QFrame#notice[level="warning"] {{ background: {warn_soft}; border-color: {warn}; }}
QFrame#notice[level="error"] {{ background: {alarm_soft}; border-color: {alarm}; }}
QFrame#sheet {{ background: {surface}; border: 1px solid {line}; border-radius: 18px; }}
QFrame#dock {{ background: {surface}; border: 1px solid {line}; border-radius: 21px; }}
"""
