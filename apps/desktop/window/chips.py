"""Short texts on a dark, rounded ground, readable on any picture."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter

BADGE = "AI-generated"
SHADE, ON_SHADE = QColor(18, 18, 16, 185), QColor("#ffffff")


def chip_width(painter: QPainter, text: str, dot: bool) -> float:
    """In the painter's font."""
    return QFontMetricsF(painter.font()).horizontalAdvance(text) + 20 + 13 * dot


def draw_chip(painter: QPainter, at: QPointF, text: str, dot: QColor | None = None) -> QRectF:
    """at: its upper left corner. dot: before the text. Returns where it is."""
    metrics = QFontMetricsF(painter.font())
    area = QRectF(at.x(), at.y(), chip_width(painter, text, dot is not None), metrics.height() + 10)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(SHADE)
    painter.drawRoundedRect(area, area.height() / 2, area.height() / 2)
    left = area.left() + 10
    if dot is not None:
        painter.setBrush(dot)
        painter.drawEllipse(QPointF(left + 3.5, area.center().y()), 3.5, 3.5)
        left += 13
    painter.setPen(ON_SHADE)
    painter.drawText(QRectF(left, area.top(), area.right() - left, area.height()), Qt.AlignmentFlag.AlignVCenter, text)
    return area
