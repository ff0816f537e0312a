"""The people to choose from, and what a picture that somebody offers would look like."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QIcon, QImage, QPainter, QPainterPath, QPixmap
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from apps.desktop.desk import Examined
from apps.desktop.examination import Pixels
from apps.desktop.library import Card
from apps.desktop.window import icons, theme
from apps.desktop.window.controls import Flow, Section, named, wrapped
from apps.desktop.window.face import image_of
from apps.desktop.window.keys import tip

_FACE_PX, _PREVIEW_PX = 44, 200


class People(Section):
    """A card with one button for each person; the last one opens a picture."""

    chosen = Signal(object)
    opened = Signal()
    removed = Signal(str)

    def __init__(self) -> None:
        super().__init__("Face")
        self._faces = QWidget()
        self._flow = Flow(self._faces, gap_px=4)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QToolButton] = {}
        self.cards: tuple[Card, ...] = ()
        self._current = ""
        self._plus = named(QToolButton(), "face")
        self._plus.setAccessibleName("Open a picture")
        self._plus.setToolTip(tip("open_picture", "Open a picture, or drop one on the window"))
        self._plus.setFixedSize(_FACE_PX + 6, _FACE_PX + 6)
        self._plus.clicked.connect(self.opened)
        self._flow.addWidget(self._plus)
        self.add(self._faces)
        self.dress()

    def dress(self) -> None:
        """In the colours of now."""
        self._plus.setIcon(icons.icon("plus", theme.colours().muted))

    def show_cards(self, cards: tuple[Card, ...], current: str) -> None:
        """Of those that are there already the buttons stay, with the focus they may have."""
        names = [card.name for card in cards]
        for name in [name for name in self._buttons if name not in names]:
            self._buttons.pop(name).deleteLater()
        self.cards = cards
        self._flow.removeWidget(self._plus)
        for card in cards:
            if card.name not in self._buttons:
                self._buttons[card.name] = self._button(card)
                self._flow.addWidget(self._buttons[card.name])
        self._flow.addWidget(self._plus)
        self.choose(current or (names[0] if names else ""))

    def choose(self, name: str) -> None:
        self._current = name
        if name in self._buttons:
            self._buttons[name].setChecked(True)
        self.value.setText(name.capitalize())

    def neighbour(self, step: int) -> Card | None:
        """Who comes after, or before, the one who is chosen."""
        names = [card.name for card in self.cards]
        if not names:
            return None
        at = names.index(self._current) if self._current in names else -step
        return self.cards[(at + step) % len(names)]

    def _button(self, card: Card) -> QToolButton:
        button = named(QToolButton(), "face", checkable=True)
        button.setIcon(QIcon(rounded(card.thumbnail, _FACE_PX, self.devicePixelRatioF())))
        button.setIconSize(QSize(_FACE_PX, _FACE_PX))
        button.setFixedSize(_FACE_PX + 6, _FACE_PX + 6)
        button.setAccessibleName(f"Face: {card.name.capitalize()}")
        button.setToolTip("\n".join([card.name.capitalize(), *(doubt.text for doubt in card.warnings)]))
        button.clicked.connect(lambda: self.chosen.emit(card))
        if card.own:
            button.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
            button.addAction("Remove", lambda: self.removed.emit(card.name))
        self._group.addButton(button)
        return button


class Preview(QWidget):
    """What will be seen of a picture, what speaks against it, and whether to take it."""

    taken = Signal(str)
    another = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._path = ""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        self._picture = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        self._picture.setAccessibleName("Preview of the face")
        self._doubts = QVBoxLayout()
        self._doubts.setSpacing(6)
        self._consent = wrapped("Use pictures of yourself, or of people who have agreed.", "muted")
        self._take = named(QPushButton("Use this face"), "main")
        self._other = QPushButton("Another picture")
        self._take.clicked.connect(lambda: self.taken.emit(self._path))
        self._other.clicked.connect(self.another)
        column.addWidget(self._picture)
        column.addLayout(self._doubts)
        column.addWidget(self._consent)
        row = QHBoxLayout()
        row.addWidget(self._other)
        row.addStretch(1)
        row.addWidget(self._take)
        column.addLayout(row)

    def show_examined(self, examined: Examined) -> None:
        self._path = str(examined.path)
        seen = examined.seen
        while (item := self._doubts.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.deleteLater()
        self._picture.setVisible(seen is not None)
        self._take.setEnabled(seen is not None)
        self._consent.setVisible(seen is not None)
        if seen is None:
            self._doubts.addWidget(wrapped(examined.refusal, "refusal"))
            self._other.setFocus()
            return
        self._picture.setPixmap(rounded(seen.preview, _PREVIEW_PX, self.devicePixelRatioF()))
        for doubt in seen.warnings:
            self._doubts.addWidget(wrapped(doubt.text, "warning"))
        self._take.setFocus()


def rounded(pixels: Pixels, side_px: int, ratio: float) -> QPixmap:
    """A square picture with round corners. pixels: uint8 [H, W, 3]; ratio: device pixels per pixel."""
    target = QPixmap(QSize(side_px, side_px) * ratio)
    target.setDevicePixelRatio(ratio)
    target.fill(Qt.GlobalColor.transparent)
    painter = QPainter(target)
    painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
    path = QPainterPath()
    path.addRoundedRect(0, 0, side_px, side_px, side_px / 5, side_px / 5)
    painter.setClipPath(path)
    whole: QImage = image_of(pixels)
    painter.drawImage(target.rect().adjusted(0, 0, -target.width() + side_px, -target.height() + side_px), whole)
    painter.end()
    return target
