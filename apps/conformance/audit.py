"""What must hold of every session, whatever is said in it: the promises of docs/protocol.md, watched all the time."""

from __future__ import annotations

from typing import Any

from apps.conformance.line import AUDIO, CONFIGURATION, FIRST, KEY_FRAME, LAST, VIDEO, Heard

FRAME_US = 40_000
FRAME_SAMPLES = 640
AUDIO_BYTES = 2 * FRAME_SAMPLES

REASONS = {
    "complete": False,
    "empty": False,
    "interrupted": True,
    "worker_lost": True,
    "speech_failed": True,
    "disconnected": True,
    "closed": True,
}
"""By `reason`, whether the utterance was cut."""


class Audit:
    """Of one session. Faults are collected, not raised, so that the conversation is played to its end."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._event = 0
        self._epoch: int | None = None
        self._opened: list[int] = []
        self._started: list[int] = []
        self._finished: list[int] = []
        self._heard_samples: dict[int, int] = {}
        self._pts_us = {VIDEO: -1, AUDIO: -1}
        self._answered: set[Any] = set()
        self.connected()

    def connected(self) -> None:
        """Another connection of the same session begins."""
        self._sequences = {VIDEO: 0, AUDIO: 0}
        self._pictures = 0
        self._drops = False

    def hear(self, heard: Heard) -> None:
        """The next message."""
        if heard.text is None:
            self._media(heard)
            return
        text = heard.text
        if "event" in text:
            self._count_event(text)
        check = {
            "welcome": self._welcome,
            "utterance.opened": self._open,
            "playback.started": self._start,
            "playback.finished": self._finish,
            "interrupted": self._interrupted,
        }.get(text["type"])
        if check is not None:
            check(text)

    def ended(self) -> None:
        """The session is over."""
        for utterance in self._opened:
            if utterance not in self._finished:
                self._fault(f"utterance {utterance} has no playback.finished")

    def _fault(self, text: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(text)

    def _expect(self, holds: bool, text: str) -> None:
        if not holds:
            self._fault(text)

    def _count_event(self, text: dict[str, Any]) -> None:
        event = text["event"]
        self._expect(event == self._event + 1, f"event {event} of {text['type']} follows {self._event}")
        self._event = event

    def _welcome(self, text: dict[str, Any]) -> None:
        self._epoch = text.get("epoch")

    def _open(self, text: dict[str, Any]) -> None:
        utterance = text["utterance"]
        self._expect(utterance > max(self._opened, default=0), f"utterance {utterance} opened out of order")
        self._opened.append(utterance)

    def _start(self, text: dict[str, Any]) -> None:
        utterance = text["utterance"]
        self._expect(utterance in self._opened, f"utterance {utterance} started and was not opened")
        self._expect(utterance not in self._started, f"utterance {utterance} started twice")
        self._started.append(utterance)

    def _finish(self, text: dict[str, Any]) -> None:
        utterance, reason, samples = text["utterance"], text["reason"], text["position_samples"]
        name = f"utterance {utterance}"
        self._expect(utterance in self._opened, f"{name} finished and was not opened")
        self._expect(utterance not in self._finished, f"{name} finished twice")
        self._expect(utterance > max(self._finished, default=0), f"{name} finished out of order")
        self._expect(REASONS.get(reason) is text["interrupted"], f"{name}: {reason}, interrupted {text['interrupted']}")
        self._expect(abs(text["position_s"] * 16_000 - samples) < 1, f"{name}: position_s is not position_samples")
        self._check_position(utterance, reason, samples)
        self._finished.append(utterance)

    def _check_position(self, utterance: int, reason: str, samples: int) -> None:
        heard = self._heard_samples.get(utterance)
        if heard is None or self._drops or reason == "disconnected":
            # Some of it was sent, and not heard.
            return
        # The last frame need not be full.
        self._expect(
            heard - FRAME_SAMPLES <= samples <= heard, f"utterance {utterance}: position {samples} of {heard} heard"
        )

    def _interrupted(self, text: dict[str, Any]) -> None:
        cut, epoch = text["utterances"], text["epoch"]
        if self._epoch is not None:
            expected = (self._epoch + bool(cut)) % 65_536
            self._expect(epoch == expected, f"interrupted: epoch {epoch} follows {self._epoch}, {cut} were cut")
        self._expect(text["utterance"] in (None, *cut), "interrupted: the utterance that was heard is not cut")
        self._expect(not set(cut) & set(self._finished), f"interrupted: {cut} were finished before")
        self._epoch = epoch

    def _media(self, heard: Heard) -> None:
        if heard.kind not in self._sequences:
            self._fault(f"a binary message of kind {heard.kind:#x}")
            return
        name = f"{'video' if heard.kind == VIDEO else 'audio'} {heard.sequence}"
        expected, self._sequences[heard.kind] = self._sequences[heard.kind], heard.sequence + 1
        self._expect(heard.sequence == expected, f"{name} comes where {expected} should")
        self._expect(heard.epoch == self._epoch, f"{name} is of epoch {heard.epoch}, not {self._epoch}")
        if heard.flags & CONFIGURATION:
            return
        self._check_clock(heard, name)
        self._check_utterance(heard, name)
        if heard.kind == AUDIO:
            self._expect(len(heard.payload) == AUDIO_BYTES, f"{name} has {len(heard.payload)} bytes")
        elif not self._pictures:
            self._expect(bool(heard.flags & KEY_FRAME), f"{name} is the first picture and no key frame")
        self._pictures += heard.kind == VIDEO

    def _check_clock(self, heard: Heard, name: str) -> None:
        before = self._pts_us[heard.kind]
        self._expect(heard.pts_us % FRAME_US == 0, f"{name}: {heard.pts_us} us is no whole number of frames")
        self._expect(heard.pts_us > before, f"{name}: {heard.pts_us} us comes after {before} us")
        if heard.kind == AUDIO:
            self._expect(heard.pts_us > self._pts_us[VIDEO], f"{name} comes after its picture")
        elif before >= 0 and heard.pts_us - before != FRAME_US:
            self._drops = True
        self._pts_us[heard.kind] = heard.pts_us

    def _check_utterance(self, heard: Heard, name: str) -> None:
        utterance = heard.utterance
        if not utterance:
            self._expect(not heard.flags & (FIRST | LAST), f"{name}: first or last frame of no utterance")
            return
        self._expect(utterance in self._started, f"{name} is of utterance {utterance}, which has not started")
        self._expect(utterance not in self._finished, f"{name} is of utterance {utterance}, which is over")
        self._expect(
            bool(heard.flags & FIRST) is (heard.value == 0), f"{name}: flags {heard.flags:#x} at {heard.value}"
        )
        self._heard_samples[utterance] = max(self._heard_samples.get(utterance, 0), heard.value + FRAME_SAMPLES)
