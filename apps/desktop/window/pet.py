"""Pet mode: the person alone, cut out, on top of everything. Drag to move, turn the wheel to scale.

A click-through pet takes no clicks at all, so there must be another way back: the tray, or the window in the task bar.
"""

from __future__ import annotations

from PySide6.QtCore import QPoint, QPointF, QRect, Qt, Signal
from PySide6.QtGui import (
    QContextMenuEvent,
    QFontMetricsF,
    QGuiApplication,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QMenu, QWidget

from apps.desktop.notice import Notice
from apps.desktop.settings import Place
from apps.desktop.stage.contract import Shown
from apps.desktop.window import theme
from apps.desktop.window.actions import Actions
from apps.desktop.window.chips import BADGE, chip_width, draw_chip
from apps.desktop.window.face import image_of
from apps.desktop.window.tray import Tray

_SMALLEST_PX, _LARGEST_PX, _USUAL_PX = 96, 1600, 320
_WHEEL_STEP = 1.08
_EDGE_PX = 24


class PetWindow(QWidget):
    """Frameless and see-through; where nothing composes windows, what should be see-through is black."""

    back_asked = Signal()
    key = Signal(int, bool, bool)

    def __init__(self, menu: QMenu) -> None:
        super().__init__()
        # A tool window has no place in the task bar, and macOS hides it with its program unless told otherwise.
        self.setWindowFlags(Qt.WindowType.FramelessWindowHint | Qt.WindowType.WindowStaysOnTopHint | Qt.WindowType.Tool)
        self.setAttribute(Qt.WidgetAttribute.WA_TranslucentBackground)
        self.setAttribute(Qt.WidgetAttribute.WA_MacAlwaysShowToolWindow)
        self.setWindowTitle("visavis pet")
        self.setAccessibleName("Pet: the person alone")
        self.setMinimumSize(_SMALLEST_PX, _SMALLEST_PX)
        self._menu = menu
        self._image = QImage()
        self._shown: Shown | None = None
        self._grip: QPoint | None = None
        self.badge = True

    def show_frame(self, shown: Shown) -> None:
        self._shown = shown
        pixels = image_of(shown.image if shown.rgba is None else shown.rgba)
        self._image = pixels.convertToFormat(QImage.Format.Format_ARGB32_Premultiplied)
        self.update()

    def set_click_through(self, on: bool) -> None:
        """A change of its flags hides a window, so it is shown again."""
        visible = self.isVisible()
        self.setWindowFlag(Qt.WindowType.WindowTransparentForInput, on)
        if visible:
            self.show()

    def paintEvent(self, _: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_Source)
        painter.fillRect(self.rect(), Qt.GlobalColor.transparent)
        painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceOver)
        painter.setRenderHints(QPainter.RenderHint.SmoothPixmapTransform | QPainter.RenderHint.Antialiasing)
        if self._shown is None:
            return
        if self._shown.rgba is None:
            # Not cut out yet, or a model that cannot: a round picture hides least of the desktop.
            path = QPainterPath()
            path.addEllipse(self.rect())
            painter.setClipPath(path)
        painter.drawImage(self.rect(), self._image)
        if self.badge:
            painter.setClipping(False)
            self._draw_badge(painter)

    def _draw_badge(self, painter: QPainter) -> None:
        """Below the person, smaller on a small pet, since it has to be there on any."""
        painter.setFont(theme.font(0.8, bold=True))
        width = chip_width(painter, BADGE, dot=False)
        scale = min(1.0, (self.width() - 8) / width)
        painter.translate(self.width() / 2, self.height() - 4)
        painter.scale(scale, scale)
        draw_chip(painter, QPointF(-width / 2, -QFontMetricsF(painter.font()).height() - 10), BADGE)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._grip = event.globalPosition().toPoint() - self.pos()
            self.activateWindow()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._grip is None:
            return
        if QGuiApplication.platformName().startswith("wayland"):
            # There a window cannot move itself.
            self._grip = None
            self.windowHandle().startSystemMove()
        else:
            self.move(event.globalPosition().toPoint() - self._grip)

    def mouseReleaseEvent(self, _: QMouseEvent) -> None:
        self._grip = None

    def mouseDoubleClickEvent(self, _: QMouseEvent) -> None:
        self.back_asked.emit()

    def wheelEvent(self, event: QWheelEvent) -> None:
        steps = event.angleDelta().y() / 120
        side = max(_SMALLEST_PX, min(_LARGEST_PX, round(self.width() * _WHEEL_STEP**steps)))
        # It grows upwards from where it stands.
        area = QRect(0, 0, side, side)
        area.moveBottom(self.geometry().bottom())
        area.moveLeft(self.geometry().center().x() - side // 2)
        self.setGeometry(area)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self._menu.popup(event.globalPos())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not event.isAutoRepeat():
            self._tell_key(event, True)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        if not event.isAutoRepeat():
            self._tell_key(event, False)

    def _tell_key(self, event: QKeyEvent, down: bool) -> None:
        self.key.emit(event.key(), bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier), down)


class Pets:
    """Into pet mode and out of it. There is one pet at most."""

    def __init__(self, actions: Actions, tray: Tray) -> None:
        self._actions, self._tray = actions, tray
        self._pet: PetWindow | None = None
        self._through = False
        self._leaving = False
        actions.pet_asked.connect(self.toggle)
        actions.click_through_asked.connect(self.toggle_click_through)
        actions.window.came_back.connect(self.leave)
        actions.bridge.frame_came.connect(self._mirror)
        tray.back_asked.connect(self.leave)

    @property
    def pet(self) -> PetWindow | None:
        return self._pet

    @property
    def click_through(self) -> bool:
        return self._through

    def toggle(self) -> None:
        if self._pet is None:
            self.enter()
        else:
            self.leave()

    def enter(self) -> None:
        pet = PetWindow(self._tray.menu)
        pet.badge = self._actions.desk.settings.badge
        pet.back_asked.connect(self.leave)
        pet.key.connect(self._actions.on_key)
        pet.setGeometry(self._area())
        shown = self._actions.window.face.shown
        if shown is not None:
            pet.show_frame(shown)
        self._pet = pet
        self._actions.desk.transparent(True)
        pet.show()
        pet.activateWindow()
        main = self._actions.window
        if self._tray.available:
            main.hide()
        else:
            # Without a tray the task bar is the way back.
            main.showMinimized()
        self._tray.show_pet(True, self._through)

    def leave(self) -> None:
        pet, self._pet = self._pet, None
        if pet is None or self._leaving:
            return
        self._leaving = True
        self._remember(pet)
        pet.close()
        pet.deleteLater()
        self._through = False
        self._actions.desk.transparent(False)
        main = self._actions.window
        main.showNormal()
        main.raise_()
        main.activateWindow()
        main.face.setFocus()
        self._tray.show_pet(False, False)
        self._leaving = False

    def toggle_click_through(self) -> None:
        if self._pet is None:
            return
        self._through = not self._through
        self._pet.set_click_through(self._through)
        self._tray.show_pet(True, self._through)
        if self._through:
            way = (
                "The tray icon brings it back."
                if self._tray.available
                else "Open the window in the task bar to end it."
            )
            self._actions.bridge.on_notice(Notice("click_through", f"Clicks now go through the pet. {way}", "info"))

    def close(self) -> None:
        """For good, without the window."""
        pet, self._pet = self._pet, None
        if pet is not None:
            self._remember(pet)
            pet.close()

    def _mirror(self) -> None:
        # The window has taken the picture first, since it is connected first.
        shown = self._actions.window.face.shown
        if self._pet is not None and shown is not None:
            self._pet.badge = self._actions.desk.settings.badge
            self._pet.show_frame(shown)

    def _area(self) -> QRect:
        """Where it was, or at the lower right; always where some screen is."""
        place = self._actions.desk.settings.pet
        if place is not None:
            area = QRect(place.x_px, place.y_px, place.width_px, place.height_px)
            if any(screen.availableGeometry().intersects(area) for screen in QGuiApplication.screens()):
                return area
        screen = self._actions.window.screen().availableGeometry()
        side = min(_USUAL_PX, screen.height() // 2)
        return QRect(screen.right() - side - _EDGE_PX, screen.bottom() - side, side, side)

    def _remember(self, pet: PetWindow) -> None:
        area = pet.geometry()
        self._actions.desk.remember(pet=Place(area.x(), area.y(), area.width(), area.height()))
