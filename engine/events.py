"""What a session tells its user beside frames."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.types import SAMPLE_RATE_HZ


class EventKind(StrEnum):
    """turn_started: the first frame of an utterance was shown. turn_finished: exactly once for each utterance, however
    it ended. worker_lost, worker_back: the model crashed or hung, and runs again. reanchored: the picture had drifted
    and starts from the portrait again. quality: the machine is too slow or quick enough again; see `detail`.
    """

    TURN_STARTED = "turn_started"
    TURN_FINISHED = "turn_finished"
    WORKER_LOST = "worker_lost"
    WORKER_BACK = "worker_back"
    REANCHORED = "reanchored"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """turn_samples: how much of the turn was heard, at 16 kHz. complete: the turn was heard to its end."""

    kind: EventKind
    turn_id: int = 0
    turn_samples: int = 0
    complete: bool = False
    detail: str = ""

    @property
    def turn_ms(self) -> int:
        return self.turn_samples * 1000 // SAMPLE_RATE_HZ


class Turns:
    """Which utterances are under way, so that each is finished exactly once."""

    def __init__(self) -> None:
        self._heard: dict[int, int] = {}
        self._newest = 0

    def begin(self) -> int:
        """A new turn; ids rise from 1."""
        self._newest += 1
        self._heard[self._newest] = 0
        return self._newest

    def heard(self, turn_id: int, samples: int, last: bool) -> list[SessionEvent]:
        """A frame of the turn was shown."""
        if turn_id not in self._heard:
            return []
        started = self._heard[turn_id] == 0
        self._heard[turn_id] = samples
        events = [SessionEvent(EventKind.TURN_STARTED, turn_id)] if started else []
        if last:
            del self._heard[turn_id]
            events.append(SessionEvent(EventKind.TURN_FINISHED, turn_id, samples, complete=True))
        return events

    def stop_all(self, detail: str) -> list[SessionEvent]:
        """Every turn under way ends here."""
        ended = [
            SessionEvent(EventKind.TURN_FINISHED, turn_id, samples, detail=detail)
            for turn_id, samples in self._heard.items()
        ]
        self._heard.clear()
        return ended
