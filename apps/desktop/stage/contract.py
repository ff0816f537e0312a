"""What the stage takes and tells: plain values, and the interfaces of who listens and of what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apps.desktop.notice import Notice
from engine.engine import DEFAULT_SIZE_PX
from engine.events import SessionEvent
from engine.types import AvatarState

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SPEAK, LISTEN = "speak", "listen"
MODES = (SPEAK, LISTEN)
"""speak: the sound that is heard is the person's own voice. listen: it is the voice of whom the person listens to."""


@dataclass(frozen=True, slots=True)
class StageConfig:
    """portrait: a picture file. model, backend, threads: see engine.engine.load. size_px: side of the square pictures.
    server: address of a visavis server that computes instead of this machine, see apps.desktop.stage.remote; token:
    what it asks for. With a server, model, backend and threads say nothing.
    """

    portrait: Path
    model: str = "auto"
    backend: str = "auto"
    size_px: int = DEFAULT_SIZE_PX
    threads: int | None = None
    seed: int = 0
    server: str | None = None
    token: str | None = None


class PhaseKind(StrEnum):
    """loading: the model is opened and warmed up. building: it is compiled for this machine, which may take minutes.
    opening: a portrait is read. ready: somebody is on stage. failed: nobody can be; see the text. closed: the end.
    """

    LOADING = "loading"
    BUILDING = "building"
    OPENING = "opening"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Phase:
    """progress: share of the steps from start to ready that are done, 0 to 1; steps take unequal time. text: what is
    being done, or why it failed and what to do.
    """

    kind: PhaseKind
    progress: float
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture at its moment. image: uint8 [H, W, 3], RGB; alpha: uint8 [H, W], straight, None when the background was
    not cut out; rgba: both in one array [H, W, 4], of which the other two are views. None of them may be written to.

    pts_us: moment of the stage's own stream, which goes on when the person changes. turn_id: utterance that is heard, 0
    for none. captured_us: when the first sample of the frame's sound was captured, on the clock of time.monotonic; None
    for silence, or for sound of which that is not known. frozen: an earlier picture once more, for lack of a fresh one.
    """

    image: Pixels
    alpha: Pixels | None
    pts_us: int
    state: AvatarState
    turn_id: int
    captured_us: int | None
    rgba: Pixels | None = None
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class StageStats:
    """Figures of the last ten seconds, or NaN where there are none; counts are since the start.

    first_frame_ms: from start, show or use to the first picture of that person. interval_p95_ms: between pictures.
    drift_ms: how far the sound that the speaker plays is ahead of the picture, NaN when it plays none. buffered_ms:
    sound that waits to be shown. late: pictures that came after their moment. dropped: pictures that nobody took in
    time; lost_packets: sound that came faster than it could be taken. microphone_to_shown: from the capture of a
    picture's first sample to the listener's on_frame; the time to paint it comes on top.
    """

    first_frame_ms: float = math.nan
    fps: float = math.nan
    interval_p95_ms: float = math.nan
    drift_ms: float = math.nan
    buffered_ms: float = 0.0
    late: int = 0
    dropped: int = 0
    lost_packets: int = 0
    microphone_to_shown_p50_ms: float = math.nan
    microphone_to_shown_p95_ms: float = math.nan


class Packet(Protocol):
    """Sound as sources deliver it, see apps.desktop.audio.source. samples: float32 [N], mono, at rate_hz. captured_us:
    of the first of them, on the clock of time.monotonic.
    """

    @property
    def samples(self) -> Floats: ...

    @property
    def rate_hz(self) -> int: ...

    @property
    def captured_us(self) -> int: ...


class Listener(Protocol):
    """Who watches the stage. Called in the stage's thread; must return at once. What it raises is logged."""

    def on_frame(self, shown: Shown) -> None: ...

    def on_phase(self, phase: Phase) -> None: ...

    def on_event(self, event: SessionEvent) -> None: ...

    def on_notice(self, notice: Notice) -> None: ...


class Loudspeaker(Protocol):
    """What the person's sound is played by, see apps.desktop.audio.speaker.Speaker."""

    def start(self, notice: Callable[[Notice], None]) -> None:
        """notice: told in any thread."""
        ...

    def stop(self) -> None:
        """May take seconds."""
        ...

    def play(self, samples: Floats, pts_us: int) -> None:
        """float32 [N] at 16 kHz, and when in the stream they are; never blocks."""
        ...

    def flush(self) -> None:
        """Fall silent at once."""
        ...

    @property
    def latency_us(self) -> int:
        """From `play` to the ear, of what would be played now."""
        ...

    def playing_pts_us(self) -> int | None:
        """The moment that sounds now; None for none."""
        ...

    @property
    def heard_until_us(self) -> int:
        """When the last loud sound is over, on the clock of time.monotonic."""
        ...
