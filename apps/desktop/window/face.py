"""The picture, large, with what is written on it: state, badge, recording mark, figures, caption.

A picture is copied once, into the screen's own format: scaling from there takes a third of the time that it takes from
the stage's 24 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRect, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QDropEvent,
    QFontMetricsF,
    QImage,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import QProgressBar, QWidget

from apps.desktop.examination import Pixels
from apps.desktop.stage.contract import Phase, PhaseKind, Shown
from apps.desktop.window import theme
from apps.desktop.window.chips import BADGE, ON_SHADE, SHADE, chip_width, draw_chip
from engine.types import AvatarState

_RECORD = QColor("#ff5a48")
_DOTS = {
    AvatarState.SPEAKING: QColor("#71cdb9"),
    AvatarState.LISTENING: QColor("#f2c46b"),
    AvatarState.IDLE: QColor("#a3a19a"),
}
_GAP_PX = 12


def image_of(pixels: Pixels, opaque: bool = False) -> QImage:
    """RGB or RGBA uint8 [H, W, 3 or 4] without a copy; the array must outlive the image, and have packed rows. opaque:
    what the fourth number says is left out.
    """
    height, width, channels = pixels.shape
    kind = QImage.Format.Format_RGB888
    if channels == 4:
        kind = QImage.Format.Format_RGBX8888 if opaque else QImage.Format.Format_RGBA8888
    return QImage(pixels.data, width, height, channels * width, kind)


@dataclass(slots=True)
class Written:
    """What is written on the picture. figures: lines; recording: its time; away: what is shown instead of a person."""

    badge: bool = True
    figures: tuple[str, ...] = ()
    caption: str = ""
    recording: str = ""
    away: str = ""


class FaceView(QWidget):
    """Takes the focus, so that keys belong to the window while no control has them."""

    dropped = Signal(str)
    """A picture file was let go over the window."""
    opened_full = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("picture")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAcceptDrops(True)
        self.setMinimumSize(160, 160)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setAccessibleName("Picture")
        self.written = Written()
        self.square = True
        """Round corners and room around; False fills the window, as on a full screen."""
        self.painted = 0
        self._shown: Shown | None = None
        self._image = QImage()
        self._target = QRect()
        self._dragged_over = False
        self._bar = QProgressBar(self)
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._bar.setAccessibleName("Getting ready")
        self._bar.hide()

    @property
    def shown(self) -> Shown | None:
        return self._shown

    @property
    def picture_area(self) -> QRect:
        """Where the picture lies in this widget."""
        return self._target

    def show_frame(self, shown: Shown) -> None:
        told = self._shown is None or self._shown.state != shown.state
        self._shown = shown
        pixels = image_of(shown.image if shown.rgba is None else shown.rgba, opaque=True)
        self._image = pixels.convertToFormat(QImage.Format.Format_RGB32)
        if told:
            self.setAccessibleDescription(shown.state.name.capitalize())
        if self._bar.isVisible() or self.written.away:
            self._bar.hide()
            self.written.away = ""
            self.update()
        else:
            self.update(self._target)

    def show_phase(self, phase: Phase) -> None:
        """Until the first picture: what is being done. Later the old picture stays."""
        waiting = phase.kind in (PhaseKind.LOADING, PhaseKind.BUILDING, PhaseKind.OPENING)
        if self._shown is None:
            self.written.away = phase.text if phase.kind != PhaseKind.READY else ""
            self._bar.setValue(round(1000 * phase.progress))
            self._bar.setVisible(waiting)
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        margin = _GAP_PX if self.square else 0
        room = self.rect().adjusted(margin, margin, -margin, -margin)
        side = max(1, min(room.width(), room.height()))
        self._target = QRect(0, 0, side, side)
        self._target.moveCenter(room.center())
        width = min(260, side - 40)
        self._bar.setGeometry(self._target.center().x() - width // 2, self._target.center().y() + 26, width, 6)
        super().resizeEvent(event)

    def set_square(self, square: bool) -> None:
        self.square = square
        self.resizeEvent(QResizeEvent(self.size(), self.size()))
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        super().mousePressEvent(event)

    def mouseDoubleClickEvent(self, _: QMouseEvent) -> None:
        self.opened_full.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()
            self._dragged_over = True
            self.update()

    def dragLeaveEvent(self, _: object) -> None:
        self._dragged_over = False
        self.update()

    def dropEvent(self, event: QDropEvent) -> None:
        self._dragged_over = False
        self.update()
        files = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if files:
            event.acceptProposedAction()
            self.dropped.emit(files[0])

    def paintEvent(self, event: QPaintEvent) -> None:
        look = theme.colours()
        painter = QPainter(self)
        area = event.rect()
        paper = QColor(look.paper if self.square else "#000000")
        if not self._target.contains(area) or self._shown is None:
            painter.fillRect(area, paper)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if self._shown is None:
            painter.fillRect(self._target, QColor(look.sunken))
        else:
            painter.drawImage(self._target, self._image)
            self.painted += 1
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.square:
            # Painting over the corners costs a hundredth of clipping the picture to a path.
            painter.fillPath(self._corners(), paper)
        self._write(painter, look)
        if self._dragged_over:
            self._invite(painter, look)
        if self.hasFocus() and self.square:
            self._ring(painter, QColor(look.accent))

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()

    def _corners(self) -> QPainterPath:
        path = QPainterPath()
        path.addRect(QRectF(self._target))
        path.addRoundedRect(QRectF(self._target), theme.RADIUS_PX, theme.RADIUS_PX)
        return path

    def _ring(self, painter: QPainter, colour: QColor) -> None:
        painter.setPen(colour)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(QRectF(self._target).adjusted(0.5, 0.5, -0.5, -0.5), theme.RADIUS_PX, theme.RADIUS_PX)

    def _write(self, painter: QPainter, look: theme.Colours) -> None:
        written, inside = self.written, self._target.adjusted(_GAP_PX, _GAP_PX, -_GAP_PX, -_GAP_PX)
        if written.away:
            painter.setPen(QColor(look.ink))
            painter.setFont(theme.font(1.1))
            text_area = self._target.adjusted(20, 20, -20, -(self._target.height() // 2) - 4)
            if not self._bar.isVisible():
                text_area = self._target.adjusted(20, 20, -20, -20)
            centred = Qt.AlignmentFlag.AlignHCenter | Qt.TextFlag.TextWordWrap
            vertical = Qt.AlignmentFlag.AlignBottom if self._bar.isVisible() else Qt.AlignmentFlag.AlignVCenter
            painter.drawText(text_area, int(centred | vertical), written.away)
            return
        if self._shown is None:
            return
        painter.setFont(theme.font(0.92, bold=True))
        left = draw_chip(
            painter, QPointF(inside.topLeft()), self._shown.state.name.capitalize(), _DOTS[self._shown.state]
        )
        if written.recording:
            below = QPointF(inside.left(), left.bottom() + 6)
            draw_chip(painter, below, written.recording, _RECORD)
        if written.badge:
            width = chip_width(painter, BADGE, dot=False)
            if left.right() + 8 + width <= inside.right():
                at = QPointF(inside.right() + 1 - width, inside.top())
            else:
                at = QPointF(inside.left(), left.bottom() + 6 + (left.height() + 6) * bool(written.recording))
            draw_chip(painter, at, BADGE)
        if written.figures:
            self._figures(painter, inside)
        if written.caption:
            self._caption(painter, inside)

    def _figures(self, painter: QPainter, inside: QRect) -> None:
        painter.setFont(theme.font(0.88))
        metrics = QFontMetricsF(painter.font())
        lines = self.written.figures
        width = max(metrics.horizontalAdvance(line) for line in lines) + 22
        height = metrics.height() * len(lines) + 16
        bottom = inside.bottom() - (self._caption_height(painter, inside) + 8 if self.written.caption else 0)
        area = QRectF(inside.left(), bottom - height, width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(SHADE)
        painter.drawRoundedRect(area, 10, 10)
        painter.setPen(ON_SHADE)
        for number, line in enumerate(lines):
            painter.drawText(
                QPointF(area.left() + 11, area.top() + 8 + metrics.ascent() + number * metrics.height()), line
            )

    def _caption_area(self, painter: QPainter, inside: QRect) -> QRectF:
        painter.setFont(theme.font(1.2))
        metrics = QFontMetricsF(painter.font())
        room = QRectF(0, 0, inside.width() - 28, inside.height() / 2)
        flags = int(Qt.AlignmentFlag.AlignHCenter | Qt.TextFlag.TextWordWrap)
        return metrics.boundingRect(room, flags, self.written.caption)

    def _caption_height(self, painter: QPainter, inside: QRect) -> float:
        before = painter.font()
        height = self._caption_area(painter, inside).height() + 16
        painter.setFont(before)
        return height

    def _caption(self, painter: QPainter, inside: QRect) -> None:
        text = self._caption_area(painter, inside)
        area = QRectF(0, 0, text.width() + 28, text.height() + 16)
        area.moveCenter(QPointF(inside.center().x(), inside.bottom() - area.height() / 2))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(SHADE)
        painter.drawRoundedRect(area, 12, 12)
        painter.setPen(ON_SHADE)
        flags = int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap)
        painter.drawText(area.adjusted(12, 6, -12, -6), flags, self.written.caption)

    def _invite(self, painter: QPainter, look: theme.Colours) -> None:
        veil = QColor(look.surface)
        veil.setAlpha(215)
        painter.fillRect(self._target, veil)
        painter.setPen(QColor(look.accent))
        painter.setFont(theme.font(1.3, bold=True))
        painter.drawText(self._target, Qt.AlignmentFlag.AlignCenter, "Let go to look at this picture")
