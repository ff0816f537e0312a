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
_LEAST_FACE_PX = 240
"""Where less than this is left for the picture, the panel lies over it instead of beside it."""
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

    def stay_on_top(self, on: bool) -> None:
        """A change of its flags hides a window, so it is shown again."""
        flag = Qt.WindowType.WindowStaysOnTopHint
        if bool(self.windowFlags() & flag) != on:
            visible = self.isVisible()
            self.setWindowFlag(flag, on)
            self.setVisible(visible)

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
        """Everything to its place; to be called when the size, or what is shown, has changed."""
        area, full = self.rect(), self.isFullScreen()
        shows_panel = self.desk.settings.panel and not full
        beside = shows_panel and area.width() >= WIDTH_PX + _LEAST_FACE_PX
        width = area.width() - (WIDTH_PX if beside else 0)
        dock_px = 0 if full else HEIGHT_PX + 12
        wanted_px = self.dock.sizeHint().width()
        # Where the dock is wider than the picture it goes below the panel, too.
        dock_room = width if wanted_px + 8 <= width and beside else area.width()
        panel_height = area.height() - (0 if dock_room == width and beside else dock_px)
        self.panel.setVisible(shows_panel)
        self.panel.setAutoFillBackground(shows_panel and not beside)
        self.panel.setGeometry(area.width() - WIDTH_PX, 0, WIDTH_PX, panel_height)
        self.face.set_square(not full)
        self.face.setGeometry(0, 0, width, area.height() - dock_px)
        self.dock.setVisible(not full)
        dock_width = min(wanted_px, dock_room - 8)
        self.dock.setGeometry((dock_room - dock_width) // 2, area.height() - HEIGHT_PX - 10, dock_width, HEIGHT_PX)
        self._lay_over(width)

    def _lay_over(self, width: int) -> None:
        """Notices over the picture, whose place is that wide; sheets over all."""
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
