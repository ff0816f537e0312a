"""The icons: strokes on a field of 24 by 24, drawn in any colour and sharp at any scale."""

from __future__ import annotations

from functools import lru_cache

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt
from PySide6.QtGui import QGuiApplication, QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

_MARK = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#1d6b60"/>'
    '<path d="M13.5 7.500c-5 1.5-6 5-5.5 8.5.5 4 2 7.5 5.5 9M18.5 7.500c5 1.5 6 5 5.5 8.5-.5 4-2 7.5-5.5 9" fill="none"'
    ' stroke="#fff" stroke-width="2.6" stroke-linecap="round"/><circle cx="12.5" cy="14" r="1.5" fill="#fff"/>'
    '<circle cx="19.5" cy="14" r="1.5" fill="#fff"/></svg>'
)
_MICROPHONE = '<rect x="9" y="3" width="6" height="11" rx="3"/><path d="M5.500 11.500a6.500 6.500 0 0 0 13 0M12 18v3"/>'
_STROKES = {
    "microphone": _MICROPHONE,
    "microphone_off": _MICROPHONE + '<path d="M4 4l16 16"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="2" fill="COLOUR"/>',
    "record": '<circle cx="12" cy="12" r="8"/><circle cx="12" cy="12" r="3.500" fill="COLOUR"/>',
    "screenshot": '<path d="M4 8.5a2 2 0 0 1 2-2h2l1.500-2h5l1.500 2h2a2 2 0 0 1 2 2V17a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2z'
    '"/>'
    '<circle cx="12" cy="12.500" r="3.200"/>',
    "camera": '<rect x="3" y="6.500" width="12" height="11" rx="2.500"/><path d="M15 11l6-3.500v9L15 13z"/>',
    "pet": '<circle cx="12" cy="9" r="4.500"/>'
    '<path d="M4.500 20.500c1-4 4-6 7.500-6s6.500 2 7.500 6" stroke-dasharray="3 2.600"/>',
    "panel": '<rect x="3.500" y="5" width="17" height="14" rx="2.500"/><path d="M14.500 5v14"/>',
    "help": '<circle cx="12" cy="12" r="8.500"/>'
    '<path d="M9.600 9.500a2.500 2.500 0 1 1 3.400 2.300c-.700.300-1 .800-1 1.700M12 16.500v.1"/>',
    "settings": '<path d="M4 7h9M17 7h3M4 12h3M11 12h9M4 17h11M19 17h1"/><circle cx="15" cy="7" r="2"/>'
    '<circle cx="9" cy="12" r="2"/><circle cx="17" cy="17" r="2"/>',
    "plus": '<path d="M12 5v14M5 12h14"/>',
    "close": '<path d="M6 6l12 12M18 6L6 18"/>',
    "folder": '<path d="M3.500 7a2 2 0 0 1 2-2h4l2 2.500h7a2 2 0 0 1 2 2V17a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2z"/>',
    "full": '<path d="M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"/>',
}


@lru_cache(maxsize=128)
def pixmap(name: str, colour: str, side_px: int, ratio: float) -> QPixmap:
    """A square drawing; ratio: device pixels per pixel."""
    picture = QPixmap(QSize(side_px, side_px) * ratio)
    picture.setDevicePixelRatio(ratio)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    QSvgRenderer(QByteArray(_svg(name, colour).encode())).render(painter, QRectF(0, 0, side_px, side_px))
    painter.end()
    return picture


def icon(name: str, colour: str, checked: str | None = None, side_px: int = 20) -> QIcon:
    """checked: the colour while the button is on."""
    ratio = QGuiApplication.primaryScreen().devicePixelRatio() if QGuiApplication.primaryScreen() else 1.0
    made = QIcon(pixmap(name, colour, side_px, ratio))
    if checked:
        made.addPixmap(pixmap(name, checked, side_px, ratio), QIcon.Mode.Normal, QIcon.State.On)
    return made


def mark() -> QIcon:
    """The program's own."""
    made = QIcon()
    for side_px in (16, 24, 32, 48, 128):
        made.addPixmap(pixmap("mark", "", side_px, 1.0))
    return made


def _svg(name: str, colour: str) -> str:
    if name == "mark":
        return _MARK
    strokes = _STROKES[name].replace("COLOUR", colour)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><g fill="none" stroke="{colour}"'
        f' stroke-width="1.700" stroke-linecap="round" stroke-linejoin="round">{strokes}</g></svg>'
    )
