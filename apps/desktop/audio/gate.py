"""What of a microphone reaches the avatar: open with voice detection, push to talk, or nothing.

Echo: without headphones the microphone hears the avatar, which would answer itself. Where nothing cancels echo (see
apps.desktop.audio.echo), the gate is half duplex: shut while the avatar is heard, and a little longer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from apps.desktop.audio.rate import QuickRateChange
from apps.desktop.audio.source import QUIET_DB, Deliver, Packet, Samples, level_db
from engine.audio.silero import OFF, ON, WINDOW, Probability, silero
from engine.types import SAMPLE_RATE_HZ

Mode = Literal["open", "push", "muted"]
State = Literal["open", "waiting", "echo", "muted"]

_NEVER_US = -(10**12)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Milliseconds. headphones: there is no echo, so the gate never shuts for it. detect: an open microphone lets
    only voices through; False lets everything. before_ms: sound that goes along from before a voice was noticed; no
    more than the session gathers before it begins to speak anyway, so that it costs no delay. pause_ms: silence that
    ends an utterance. tail_ms: after push to talk was let go. echo_ms: after the avatar fell silent, for the room.
    """

    mode: Mode = "open"
    headphones: bool = False
    detect: bool = True
    before_ms: int = 120
    pause_ms: int = 1000
    tail_ms: int = 300
    echo_ms: int = 250


class Player(Protocol):
    """What the microphone may hear of the avatar; apps.desktop.audio.speaker.Speaker is one."""

    @property
    def heard_until_us(self) -> int: ...


class Canceller(Protocol):
    """Takes the avatar's sound out of the microphone's; see apps.desktop.audio.echo."""

    def clean(self, samples: Samples, captured_us: float) -> tuple[Samples, float]:
        """float32 [N] at 16 kHz and when its first sample was captured, in and out; what comes out may be older."""
        ...


class Gate:
    """Give `take` to a Source as its `deliver`. What passes comes out at 16 kHz. Settings may change in any thread."""

    def __init__(
        self,
        deliver: Deliver,
        finished: Callable[[], None],
        config: GateConfig | None = None,
        *,
        player: Player | None = None,
        canceller: Canceller | None = None,
        probability: Probability | None = None,
    ) -> None:
        """finished: called when an utterance is over. player: what causes echo, None for nothing. probability: of
        speech in 512 samples; Silero, opened at the first sound, when None.
        """
        self.config = config or GateConfig()
        self.state: State = "waiting"
        """For people: whether sound passes, and why not."""
        self.level_db = QUIET_DB
        """Of what came last, whether it passes or not."""
        self._deliver, self._finished = deliver, finished
        self._player, self._canceller, self._probability = player, canceller, probability
        self._lock = threading.Lock()
        self._rate: QuickRateChange | None = None
        self._window = np.zeros(0, np.float32)
        self._voiced = False
        self._before: deque[Packet] = deque()
        self._held = False
        self._newest_us = 0
        self._let_go_us = self._voice_us = _NEVER_US
        self._passing = False

    def set_mode(self, mode: Mode) -> None:
        self.config = replace(self.config, mode=mode)

    def set_headphones(self, worn: bool) -> None:
        self.config = replace(self.config, headphones=worn)

    def hold(self, pressed: bool) -> None:
        """The push-to-talk key."""
        with self._lock:
            if self._held and not pressed:
                self._let_go_us = self._newest_us
            self._held = pressed

    def take(self, packet: Packet) -> None:
        """Called by one source at a time."""
        self.level_db = level_db(packet.samples)
        if (heard := self._prepared(packet)) is None:
            return
        end_us = heard.captured_us + heard.duration_us
        with self._lock:
            self._newest_us = end_us
            self.state = self._decide(heard, end_us)
        if self.state == "open":
            self._pass(heard)
        else:
            self._keep(heard)

    def close(self) -> None:
        """The source has ended: what was being said is over."""
        self._end()
        self._before.clear()

    def _prepared(self, packet: Packet) -> Packet | None:
        if self._rate is None or self._rate.from_hz != packet.rate_hz:
            self._rate = QuickRateChange(packet.rate_hz, SAMPLE_RATE_HZ)
        samples, captured_us = self._rate.push(packet.samples, packet.captured_us)
        if self._canceller is not None and not self.config.headphones:
            samples, captured_us = self._canceller.clean(samples, captured_us)
        return Packet(samples, SAMPLE_RATE_HZ, round(captured_us)) if len(samples) else None

    def _decide(self, heard: Packet, end_us: int) -> State:
        config = self.config
        if config.mode == "muted":
            return "muted"
        if self._is_echo(heard):
            return "echo"
        if config.mode == "push":
            return "open" if self._held or end_us - self._let_go_us < config.tail_ms * 1000 else "waiting"
        if not config.detect:
            return "open"
        if self._hears_voice(heard.samples):
            self._voice_us = end_us
        return "open" if end_us - self._voice_us < config.pause_ms * 1000 else "waiting"

    def _is_echo(self, heard: Packet) -> bool:
        if self._player is None or self._canceller is not None or self.config.headphones:
            return False
        return heard.captured_us < self._player.heard_until_us + self.config.echo_ms * 1000

    def _hears_voice(self, samples: Samples) -> bool:
        """Whether a voice is heard now, by the newest whole window of 32 ms."""
        if self._probability is None:
            self._probability = silero()
        self._window = np.concatenate((self._window, samples))
        while len(self._window) >= WINDOW:
            threshold = OFF if self._voiced else ON
            self._voiced = self._probability(self._window[:WINDOW]) >= threshold
            self._window = self._window[WINDOW:]
        return self._voiced

    def _pass(self, heard: Packet) -> None:
        if not self._passing:
            self._passing = True
            while self._before:
                self._deliver(self._before.popleft())
        self._deliver(heard)

    def _keep(self, heard: Packet) -> None:
        self._end()
        if self.state in ("echo", "muted"):
            self._before.clear()
            self._voice_us = _NEVER_US
            return
        self._before.append(heard)
        start_us = heard.captured_us + heard.duration_us - self.config.before_ms * 1000
        while self._before and self._before[0].captured_us < start_us:
            self._before.popleft()

    def _end(self) -> None:
        if self._passing:
            self._passing = False
            self._finished()
