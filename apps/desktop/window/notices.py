"""What went wrong, or right, and what to do: a bar over the picture. Never a box that has to be clicked away."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QAccessible, QAccessibleEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QToolButton, QWidget

from apps.desktop.notice import Notice
from apps.desktop.window import icons, theme
from apps.desktop.window.controls import named, wrapped

MOST = 8
"""That wait for their turn; of more the oldest is forgotten. All are in the log."""
_INFO_MS = 6000
"""How long good news stay. Warnings and errors stay until they are closed, or are over."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way on. action: of apps.desktop.window.actions."""

    text: str
    action: str


_SOUND = Way("Choose another", "show_sound")
WAYS: dict[str, Way] = {
    "no_such_device": _SOUND,
    "no_microphone": _SOUND,
    "no_speaker": _SOUND,
    "no_loopback": _SOUND,
    "microphone_busy": _SOUND,
    "microphone_failed": _SOUND,
    "microphone_lost": _SOUND,
    "speaker_busy": _SOUND,
    "speaker_failed": _SOUND,
    "speaker_lost": _SOUND,
    "file_over": Way("Play again", "listen_again"),
    "file_missing": Way("Choose another", "open_sound"),
    "unreadable_media": Way("Choose another", "open_sound"),
    "recording_saved": Way("Show folder", "show_recordings"),
    "screenshot_saved": Way("Show folder", "show_recordings"),
    "recording_failed": Way("Settings", "settings"),
    "output_not_writable": Way("Settings", "settings"),
    "no_face": Way("Open another", "open_picture"),
    "backend_unavailable": Way("Settings", "settings"),
    "bundle_missing": Way("Settings", "settings"),
}
"""By the notice's code; those that are not here can only be closed."""

_TROUBLES = ("no_{}", "{}_busy", "{}_failed", "{}_lost")
OVER: dict[str, tuple[str, ...]] = {
    "microphone_back": tuple(trouble.format("microphone") for trouble in _TROUBLES),
    "speaker_back": tuple(trouble.format("speaker") for trouble in _TROUBLES),
    "camera_on": ("camera_lost", "camera_driver", "extra_missing"),
    "worker_back": ("worker_lost",),
}
"""Good news, and the bad ones which they end."""


class NoticeBar(QFrame):
    """One notice at a time; the gravest first, then the newest."""

    asked = Signal(str)
    """The action of the way that was clicked."""
    changed = Signal()
    """Another height, or none."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("notice")
        self.setAccessibleName("Notice")
        row = QHBoxLayout(self)
        row.setContentsMargins(13, 8, 8, 8)
        self._text = wrapped()
        self._way = QPushButton()
        self._close = named(QToolButton(), "small")
        self._close.setAccessibleName("Close the notice")
        self._close.setToolTip("Close")
        self._close.clicked.connect(self.close_notice)
        self._way.clicked.connect(self._ask)
        row.addWidget(self._text, 1)
        row.addWidget(self._way)
        row.addWidget(self._close)
        self._notices: deque[Notice] = deque(maxlen=MOST)
        self._timer = QTimer(self, singleShot=True, interval=_INFO_MS)
        self._timer.timeout.connect(self.close_notice)
        self.hide()

    @property
    def notice(self) -> Notice | None:
        """What is shown."""
        order = {"error": 2, "warning": 1, "info": 0}
        return max(reversed(self._notices), key=lambda notice: order[notice.level], default=None)

    def tell(self, notice: Notice) -> None:
        over = OVER.get(notice.code, ())
        kept = [one for one in self._notices if one.code != notice.code and one.code not in over]
        self._notices = deque([*kept, notice], maxlen=MOST)
        self._show()

    def close_notice(self) -> None:
        if (notice := self.notice) is not None:
            self._notices.remove(notice)
        self._show()

    def fit(self, width: int) -> None:
        """Take that width, and the height that the text then needs."""
        text_width = (
            width
            - 26
            - self._close.sizeHint().width()
            - (0 if self._way.isHidden() else 12 + self._way.sizeHint().width())
        )
        height = max(
            self._text.heightForWidth(text_width), self._close.sizeHint().height(), self._way.sizeHint().height()
        )
        self.resize(width, height + 18)

    def _ask(self) -> None:
        notice = self.notice
        if notice is not None and (way := WAYS.get(notice.code)) is not None:
            self.close_notice()
            self.asked.emit(way.action)

    def _show(self) -> None:
        notice = self.notice
        self.setVisible(notice is not None)
        self._timer.stop()
        if notice is not None:
            way = WAYS.get(notice.code)
            self._text.setText(notice.text)
            self._way.setVisible(way is not None)
            if way is not None:
                self._way.setText(way.text)
                self._way.setAccessibleName(way.text)
            self.setProperty("level", notice.level)
            self.style().unpolish(self)
            self.style().polish(self)
            self._close.setIcon(icons.icon("close", theme.colours().ink, side_px=16))
            if notice.level == "info":
                self._timer.start()
            self.setAccessibleDescription(notice.text)
            QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.Alert))
            self.raise_()
        self.changed.emit()

    def keyPressEvent(self, event: object) -> None:
        """The window's keys hold here too."""
        event.ignore()  # type: ignore[attr-defined]
