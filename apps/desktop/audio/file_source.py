"""A sound file as a source, at the pace of life."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from apps.desktop.audio.source import PACKET_MS, Deliver, Packet, Samples, Tell, clock_us
from apps.desktop.notice import Notice
from apps.media import read_sound
from engine.errors import FileError, MediaError
from engine.types import SAMPLE_RATE_HZ

_PACKET = SAMPLE_RATE_HZ * PACKET_MS // 1000
_STOP_S = 1.0
_ASLEEP_US = 500_000
"""A machine that was asleep does not catch up."""


class FileSource:
    """See apps.desktop.audio.source.Source."""

    def __init__(self, path: Path, loop: bool = False, finished: Callable[[], None] | None = None) -> None:
        """loop: begin again at the end, until stopped. finished: called each time that the end is reached."""
        self._finished = finished
        self.path, self.name, self.loop = path, path.name, loop
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, deliver: Deliver, notice: Tell) -> None:
        """A file that cannot be read is told as a notice."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, args=(deliver, notice), name="visavis-file", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    def _run(self, deliver: Deliver, notice: Tell) -> None:
        try:
            pcm = read_sound(self.path).pcm
        except (FileError, MediaError) as error:
            notice(Notice(error.code, f"{error}. Choose another file.", "error"))
            return
        self._play(pcm, deliver)
        if not self._stopping.is_set():
            notice(Notice("file_over", f"“{self.name}” is over. Choose it again, or another one.", "info"))

    def _play(self, pcm: Samples, deliver: Deliver) -> None:
        due_us, position = clock_us(), 0
        while position < len(pcm):
            samples = pcm[position : position + _PACKET]
            position += len(samples)
            ends = position == len(pcm)
            if ends and self.loop:
                position = 0
            # As a microphone does, a packet comes when its last sample has sounded.
            due_us += len(samples) * 1_000_000 // SAMPLE_RATE_HZ
            if self._stopping.wait(max(0, due_us - clock_us()) / 1e6):
                return
            if clock_us() - due_us > _ASLEEP_US:
                due_us = clock_us()
            deliver(Packet(samples, SAMPLE_RATE_HZ, due_us - len(samples) * 1_000_000 // SAMPLE_RATE_HZ))
            if ends and self._finished is not None:
                self._finished()
