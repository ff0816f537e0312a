"""Which utterances are under way, so that each is finished exactly once. Knows no clock, no socket and no engine.

The client numbers utterances, the engine numbers turns; an utterance has a turn once there is sound for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from apps.server.errors import UtteranceOrderError
from apps.server.messages import Finish
from engine.errors import AudioBufferFullError

MAX_LIVE = 256
"""Utterances under way; a sentence each is half an hour."""


@dataclass(slots=True)
class Utterance:
    """complete: no more sound comes from the client. being_made: a text whose sound is not there yet. held: sound and
    its rate in Hz that waits for that of an earlier utterance. handed_over: the engine has all of it. began_us: when
    it had the first. started: its first frame was sent. samples: of it that were sent, at 16 kHz.
    """

    number: int
    turn_id: int = 0
    complete: bool = False
    being_made: bool = False
    held: list[tuple[bytes, int]] = field(default_factory=list)
    handed_over: bool = False
    began_us: int = 0
    started: bool = False
    samples: int = 0


class Utterances:
    """Those of one session, in the order in which they opened."""

    def __init__(self) -> None:
        self._live: dict[int, Utterance] = {}
        self._newest = 0

    @property
    def open(self) -> Utterance | None:
        """The one that still takes sound."""
        newest = self._live.get(self._newest)
        return None if newest is None or newest.complete else newest

    @property
    def heard(self) -> Utterance | None:
        """The one whose frames are being sent."""
        return next((one for one in self._live.values() if one.started), None)

    @property
    def live(self) -> list[Utterance]:
        return list(self._live.values())

    def is_live(self, number: int) -> bool:
        return number in self._live

    def takes(self, number: int) -> Utterance | None:
        """The utterance that sound of this number goes to; None when it has to be opened, or is over."""
        one = self.open
        return one if one is not None and number in (0, one.number) else None

    def is_new(self, number: int) -> bool:
        return not number or number > self._newest

    def begin(self, number: int) -> Utterance:
        """A new one; 0 for the next number. The one before must be complete. Raises UtteranceOrderError, or
        AudioBufferFullError when too many wait.
        """
        if not self.is_new(number):
            raise UtteranceOrderError(
                f"utterance {number} cannot be opened, since {self._newest} was; numbers rise, or are 0"
            )
        if len(self._live) >= MAX_LIVE:
            raise AudioBufferFullError(f"{MAX_LIVE} utterances wait to be heard; open the next one later")
        assert self.open is None, "an utterance opens before the one before it is complete"
        self._newest = number or self._newest + 1
        one = self._live[self._newest] = Utterance(self._newest)
        return one

    def to_hand_over(self) -> list[Utterance]:
        """Those whose sound may go to the engine now, in order: up to the first that is still being made."""
        ready = list(takewhile(lambda one: not one.being_made, self._live.values()))
        return [one for one in ready if not one.handed_over]

    def of_turn(self, turn_id: int) -> Utterance | None:
        return next((one for one in self._live.values() if one.turn_id == turn_id), None) if turn_id else None

    def finish(self, number: int, reason: str) -> Finish | None:
        """End one; None when it has ended before."""
        one = self._live.pop(number, None)
        return None if one is None else Finish(number, one.samples, reason)

    def finish_empty(self) -> Finish | None:
        """End the foremost one if nothing is to be heard of it; ask again until it is None."""
        foremost = next(iter(self._live.values()), None)
        if foremost is None or foremost.turn_id or not foremost.handed_over:
            return None
        return self.finish(foremost.number, "empty")

    def finish_all(self, reason: str) -> list[Finish]:
        """End all, in order."""
        finished = [Finish(one.number, one.samples, reason) for one in self._live.values()]
        self._live.clear()
        return finished
