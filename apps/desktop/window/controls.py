"""Controls that Qt lacks: a row of which one is chosen, buttons that flow, a level meter, a pad for the gaze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAccessible, QAccessibleEvent, QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLayoutItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from apps.desktop.window import theme

W = TypeVar("W", bound=QWidget)

QUIETEST_DB = -60.0
"""Left end of the meter."""


class Segments(QFrame):
    """A row of which exactly one is chosen."""

    chosen = Signal(str)

    def __init__(self, label: str, choices: Sequence[tuple[str, str]]) -> None:
        """label: for screen readers; choices: values and texts."""
        super().__init__()
        self.setObjectName("segments")
        self.setAccessibleName(label)
        row = QHBoxLayout(self)
        row.setContentsMargins(3, 3, 3, 3)
        row.setSpacing(2)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QPushButton] = {}
        for value, text in choices:
            button = named(QPushButton(text), value, checkable=True)
            button.setAccessibleName(f"{label}: {text}")
            button.setSizePolicy(QSizePolicy.Policy.MinimumExpanding, QSizePolicy.Policy.Fixed)
            button.clicked.connect(lambda _=False, value=value: self.chosen.emit(value))
            self._group.addButton(button)
            self._buttons[value] = button
            row.addWidget(button)

    def choose(self, value: str) -> None:
        """Show what is chosen, without telling."""
        if value in self._buttons:
            self._buttons[value].setChecked(True)


class Chips(QWidget):
    """Small buttons that flow into as many lines as they need; one of them may be chosen."""

    chosen = Signal(str)

    def __init__(self, label: str, choices: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.setAccessibleName(label)
        flow = Flow(self)
        self._buttons: dict[str, QPushButton] = {}
        group = QButtonGroup(self)
        for value, text in choices:
            button = named(QPushButton(text), "chip", checkable=True)
            button.setAccessibleName(f"{label}: {text}")
            button.clicked.connect(lambda _=False, value=value: self.chosen.emit(value))
            group.addButton(button)
            self._buttons[value] = button
            flow.addWidget(button)

    def choose(self, value: str) -> None:
        self._buttons[value].setChecked(True)


class Flow(QLayout):
    """Left to right, then the next line."""

    def __init__(self, parent: QWidget, gap_px: int = 6) -> None:
        super().__init__(parent)
        self.setContentsMargins(0, 0, 0, 0)
        self._gap_px = gap_px
        self._items: list[QLayoutItem] = []

    def addItem(self, item: QLayoutItem) -> None:
        self._items.append(item)

    def count(self) -> int:
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def expandingDirections(self) -> Qt.Orientation:
        return Qt.Orientation(0)

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._place(QRect(0, 0, width, 0), move=False)

    def setGeometry(self, area: QRect) -> None:
        super().setGeometry(area)
        self._place(area, move=True)

    def sizeHint(self) -> QSize:
        return self.minimumSize()

    def minimumSize(self) -> QSize:
        size = QSize()
        for item in self._items:
            size = size.expandedTo(item.sizeHint())
        return size

    def _place(self, area: QRect, move: bool) -> int:
        """The height that the lines need."""
        x, y, line_px = area.x(), area.y(), 0
        for item in self._items:
            if (widget := item.widget()) is not None and widget.isHidden():
                continue
            size = item.sizeHint()
            if x > area.x() and x + size.width() > area.right() + 1:
                x, y, line_px = area.x(), y + line_px + self._gap_px, 0
            if move:
                item.setGeometry(QRect(QPoint(x, y), size))
            x, line_px = x + size.width() + self._gap_px, max(line_px, size.height())
        return y + line_px - area.y()


class Meter(QWidget):
    """How loud it is, and whether it passes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(8)
        self.setAccessibleName("Microphone level")
        self._level_db, self._passes = QUIETEST_DB, False

    def show_level(self, level_db: float, passes: bool) -> None:
        # A meter that falls at once flickers with every syllable.
        shown_db = max(level_db, self._level_db - 3.0, QUIETEST_DB)
        if (shown_db, passes) != (self._level_db, self._passes):
            self._level_db, self._passes = shown_db, passes
            self.update()

    def paintEvent(self, _: QPaintEvent) -> None:
        look = theme.colours()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        whole = QRectF(0, 2, self.width(), 4)
        painter.setBrush(QColor(look.sunken))
        painter.drawRoundedRect(whole, 2, 2)
        share = min(1.0, 1 - self._level_db / QUIETEST_DB)
        if share > 0:
            painter.setBrush(QColor(look.accent if self._passes else look.muted))
            painter.drawRoundedRect(QRectF(0, 2, max(4.0, share * self.width()), 4), 2, 2)


class GazePad(QWidget):
    """Where the eyes and, a little, the head go: a dot that is drawn about, or moved by the arrow keys."""

    moved = Signal(float, float)
    """Right and down, each in [-1, 1]."""
    released = Signal()
    """Nothing is given any more."""

    STEP = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(76)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setToolTip("Drag to turn the eyes; double-click to let them go  (arrow keys, Home)")
        self.point: QPointF | None = None
        self._name()

    def nudge(self, direction: str) -> None:
        """left, right, up, down, or free."""
        if direction == "free":
            self._go(None)
            return
        right, down = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[direction]
        at = self.point or QPointF(0, 0)
        self._go(QPointF(at.x() + right * self.STEP, at.y() + down * self.STEP))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self._go(None)
        else:
            # Arrows and Home are keys of the whole window.
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            at = event.position()
            self._go(QPointF(2 * at.x() / self.width() - 1, 2 * at.y() / self.height() - 1))

    def mouseDoubleClickEvent(self, _: QMouseEvent) -> None:
        self._go(None)

    def changeEvent(self, event: QEvent) -> None:
        self.update()
        super().changeEvent(event)

    def _go(self, point: QPointF | None) -> None:
        if point is None:
            self.point = None
            self.released.emit()
        else:
            self.point = QPointF(max(-1.0, min(1.0, point.x())), max(-1.0, min(1.0, point.y())))
            self.moved.emit(self.point.x(), self.point.y())
        self._name()
        self.update()

    def _name(self) -> None:
        where = "free" if self.point is None else f"{self.point.x():+.0%} right, {self.point.y():+.0%} down"
        self.setAccessibleName(f"Gaze: {where}")
        QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.NameChanged))

    def paintEvent(self, _: QPaintEvent) -> None:
        look = theme.colours()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(look.accent if self.hasFocus() else look.line), 2 if self.hasFocus() else 1))
        painter.setBrush(QColor(look.paper))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 10, 10)
        middle = QPointF(self.width() / 2, self.height() / 2)
        painter.setPen(QPen(QColor(look.line), 1))
        painter.drawLine(QPointF(middle.x(), 8), QPointF(middle.x(), self.height() - 8))
        painter.drawLine(QPointF(8, middle.y()), QPointF(self.width() - 8, middle.y()))
        at = self.point or QPointF(0, 0)
        dot = QPointF(middle.x() + at.x() * (middle.x() - 10), middle.y() + at.y() * (middle.y() - 10))
        painter.setPen(QPen(QColor(look.accent), 2))
        painter.setBrush(QColor(look.accent) if self.point is not None else QColor(look.surface))
        painter.drawEllipse(dot, 6, 6)


class Section(QFrame):
    """A card of the panel: a title, something small beside it, and what belongs to it."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.setObjectName("card")
        self.setAccessibleName(title)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(13, 11, 13, 13)
        self.column.setSpacing(9)
        row = QHBoxLayout()
        heading = QLabel(title)
        heading.setFont(theme.font(1.05, bold=True))
        self.value = named(QLabel(), "value")
        self.value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(heading)
        row.addWidget(self.value, 1)
        self.column.addLayout(row)

    def add(self, widget: QWidget) -> None:
        self.column.addWidget(widget)

    def add_row(self, *widgets: QWidget, stretch: int = 0) -> None:
        """stretch: index of the widget that takes what is left."""
        row = QHBoxLayout()
        row.setSpacing(8)
        for index, widget in enumerate(widgets):
            row.addWidget(widget, int(index == stretch))
        self.column.addLayout(row)


def named(widget: W, name: str, checkable: bool = False) -> W:
    """The widget, with the name that the style sheet knows it by."""
    widget.setObjectName(name)
    if checkable and isinstance(widget, QAbstractButton):
        widget.setCheckable(True)
    return widget


def wrapped(text: str = "", name: str = "") -> QLabel:
    """A label whose text takes as many lines as it needs."""
    label = named(QLabel(text), name)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label
