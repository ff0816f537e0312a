"""From the threads of the desk into the window's: signals, which Qt delivers where they are connected.

Pictures do not queue: one waits at most, and a newer one takes its place.
"""

from __future__ import annotations

from threading import Lock

from PySide6.QtCore import QObject, Signal

from apps.desktop.desk import Devices, Examined
from apps.desktop.firstrun import Progress, Verdict
from apps.desktop.library import Card
from apps.desktop.notice import Notice
from apps.desktop.stage.contract import Phase, Shown
from engine.events import SessionEvent


class Bridge(QObject):
    """A DeskListener. Signals that are emitted in another thread arrive in the window's, in order."""

    frame_came = Signal()
    phase_came = Signal(object)
    event_came = Signal(object)
    notice_came = Signal(object)
    devices_came = Signal(object)
    cards_came = Signal(object)
    examined_came = Signal(object)
    caption_came = Signal(str)
    talk_came = Signal(bool)
    progress_came = Signal(object)
    verdict_came = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.overtaken = 0
        """Pictures that a newer one replaced before the window had looked."""
        self._lock = Lock()
        self._newest: Shown | None = None

    def take(self) -> Shown | None:
        """The newest picture, once."""
        with self._lock:
            shown, self._newest = self._newest, None
            return shown

    def on_frame(self, shown: Shown) -> None:
        with self._lock:
            waited, self._newest = self._newest is not None, shown
            self.overtaken += waited
        if not waited:
            self.frame_came.emit()

    def on_phase(self, phase: Phase) -> None:
        self.phase_came.emit(phase)

    def on_event(self, event: SessionEvent) -> None:
        self.event_came.emit(event)

    def on_notice(self, notice: Notice) -> None:
        self.notice_came.emit(notice)

    def on_devices(self, devices: Devices) -> None:
        self.devices_came.emit(devices)

    def on_cards(self, cards: tuple[Card, ...]) -> None:
        self.cards_came.emit(cards)

    def on_examined(self, examined: Examined) -> None:
        self.examined_came.emit(examined)

    def on_progress(self, progress: Progress) -> None:
        self.progress_came.emit(progress)

    def on_verdict(self, verdict: Verdict) -> None:
        self.verdict_came.emit(verdict)

    def on_talk(self, pressed: bool) -> None:
        self.talk_came.emit(pressed)

    def on_caption(self, text: str) -> None:
        self.caption_came.emit(text)
