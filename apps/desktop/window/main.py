"""The window: the picture with its dock, the panel beside or over it, notices and sheets."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QCloseEvent, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QWidget

from apps.desktop.desk import Desk
from apps.desktop.window import icons
from apps.desktop.window.dock import HEIGHT_PX, Dock
from apps.desktop.window.face import FaceView
from apps.desktop.window.notices import NoticeBar
from apps.desktop.window.panel import WIDTH_PX, Panel
from apps.desktop.window.sheets import Sheet

TITLE = "visavis"
_NARROW_PX = 720
"""Below this the panel lies over the picture instead of beside it."""
_SMALLEST = (400, 360)
_USUAL = (1080, 720)


class MainWindow(QWidget):
    """Knows where things lie; what they do is in apps.desktop.window.actions."""

    key = Signal(int, bool, bool)
    """A key that no control took: its number, whether control was held, whether it went down."""
    closing = Signal()
    came_back = Signal()
    """Out of the task bar."""
    left = Signal()
    """The focus went to another program."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.setWindowTitle(TITLE)
        self.setWindowIcon(icons.mark())
        self.setMinimumSize(*_SMALLEST)
        self.resize(*_USUAL)
        self.face = FaceView()
        self.face.setParent(self)
        self.dock = Dock(self)
        self.panel = Panel(self)
        self.notices = NoticeBar(self)
        self.sheet: Sheet | None = None
        self.notices.changed.connect(self.lay_out)
        order = (self.face, self.dock.buttons["mute"], self.panel)
        for before, after in zip(order, order[1:], strict=False):
            QWidget.setTabOrder(before, after)

    def dress(self) -> None:
        """In the colours of now."""
        self.dock.dress()
        self.panel.dress()
        self.update()

    def open_sheet(self, title: str, content: QWidget, width_px: int = 520) -> None:
        """In place of the one that is open."""
        self.close_sheet()
        self.sheet = Sheet(self, title, content, width_px)
        self.sheet.closed.connect(self._sheet_closed)

    def close_sheet(self) -> bool:
        """Whether one was open."""
        if self.sheet is None:
            return False
        self.sheet.leave()
        return True

    def lay_out(self) -> None:
        area = self.rect()
        full = self.isFullScreen()
        shows_panel = self.desk.settings.panel and not full
        beside = shows_panel and area.width() >= _NARROW_PX
        self.panel.setVisible(shows_panel)
        width = area.width() - (WIDTH_PX if beside else 0)
        dock_px = 0 if full else HEIGHT_PX + 12
        # Over the picture the panel leaves the dock in reach.
        panel_height = area.height() - (0 if beside else dock_px)
        self.panel.setGeometry(area.width() - WIDTH_PX, 0, WIDTH_PX, panel_height)
        self.panel.setAutoFillBackground(shows_panel and not beside)
        self.face.set_square(not full)
        self.face.setGeometry(0, 0, width, area.height() - dock_px)
        self.dock.setVisible(not full)
        wanted = self.dock.sizeHint()
        dock_width = min(wanted.width(), width - 8)
        self.dock.setGeometry((width - dock_width) // 2, area.height() - HEIGHT_PX - 10, dock_width, HEIGHT_PX)
        if not self.notices.isHidden():
            self.notices.fit(min(560, width - 24))
            self.notices.move((width - self.notices.width()) // 2, 54)
            self.notices.raise_()
        if self.sheet is not None:
            self.sheet.fit()
            self.sheet.raise_()

    def picture_on_screen(self) -> QRect:
        """Of the picture itself, in the screen's own pixels."""
        area = self.face.picture_area
        corner = self.face.mapToGlobal(area.topLeft())
        ratio = self.devicePixelRatioF()
        return QRect(QPoint(round(corner.x() * ratio), round(corner.y() * ratio)), area.size() * ratio)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.lay_out()
        super().resizeEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not event.isAutoRepeat():
            self._tell_key(event, True)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        if not event.isAutoRepeat():
            self._tell_key(event, False)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.ActivationChange and not self.isActiveWindow():
            self.left.emit()
        if event.type() == QEvent.Type.WindowStateChange:
            self.lay_out()
            if not self.isMinimized():
                self.came_back.emit()
        super().changeEvent(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.hide()
        self.closing.emit()
        event.accept()

    def _tell_key(self, event: QKeyEvent, down: bool) -> None:
        control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        self.key.emit(event.key(), control, down)

    def _sheet_closed(self) -> None:
        self.sheet = None
        self.face.setFocus()
