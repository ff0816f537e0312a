"""An avatar's pictures and sound as WebRTC tracks, and the other side's microphone as what it hears. Needs aiortc.

    peer = Peer(on_voice)
    answer = await peer.answer(offer_sdp)
    async for frame in avatar.frames():
        peer.show(frame, sound)

Offer and answer carry all candidates at once (aiortc 1.16 does not trickle). No server outside this machine is asked
for addresses unless `ice_urls` names one: on one machine or network none is needed.
"""

from __future__ import annotations

import asyncio
import fractions
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from apps.plugs.given import needs
from apps.plugs.speaker import Sound
from engine.errors import ArgumentError
from engine.types import FRAME_US, SAMPLE_RATE_HZ, VideoFrame

try:
    import av
    from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
    from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
    from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
except ImportError as error:
    raise needs("webrtc", error) from error

_LOG = logging.getLogger(__name__)

AUDIO_RATE_HZ = 48_000
PACKET_SAMPLES = AUDIO_RATE_HZ // 50
"""20 ms, what WebRTC sends at once."""

LEAD_SAMPLES = AUDIO_RATE_HZ // 200
"""5 ms of silence before speech, more than a resampler of it holds back."""

VIDEO_CLOCK_HZ = 90_000
PICTURES_WAITING, PACKETS_WAITING = 2, 25
LARGEST_SDP = 64 << 10
ANSWER_S, CONNECT_S = 10.0, 30.0

_BAD_OFFER = (
    ValueError, AssertionError, IndexError, KeyError, AttributeError, TypeError,
    InvalidAccessError, InvalidStateError, OperationError, TimeoutError,
)  # fmt: skip
"""What aiortc raises for an offer that it cannot read or use."""


class _Track(MediaStreamTrack):  # type: ignore[misc]
    """Media that wait to be sent; when too many do, the oldest is dropped, since only recent ones are worth sending."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__()
        self.kind = kind
        self.dropped = 0
        self._waiting: deque[Any] = deque(maxlen=most)
        self._came = asyncio.Event()

    def put(self, media: Any) -> None:
        self.dropped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(media)
        self._came.set()

    async def recv(self) -> Any:
        """The next frame for aiortc."""
        while not self._waiting:
            if self.readyState != "live":
                raise MediaStreamError
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    def stop(self) -> None:
        super().stop()
        self._came.set()


class _Sound:
    """Sound of any rate, cut into packets of 20 ms at 48 kHz that follow the frames without a gap."""

    def __init__(self) -> None:
        # Of libswresample, since soxr gives nothing for its first 40 ms.
        self._resampler: Any = None
        self._rate_hz = 0
        self._samples = np.zeros(0, np.int16)

    def packets(self, frame: VideoFrame, sound: Sound | None) -> list[Any]:
        """Two for each frame; silence where nothing is said."""
        if sound is not None:
            self._push(np.frombuffer(sound.pcm, "<i2"), sound.rate_hz)
        elif self._resampler is not None:
            self._append(self._resampler.resample(None))
            self._resampler = None
        pcm = np.zeros(2 * PACKET_SAMPLES, np.int16)
        taken, self._samples = self._samples[: len(pcm)], self._samples[len(pcm) :]
        pcm[: len(taken)] = taken
        start = round(frame.pts_us * AUDIO_RATE_HZ / 1_000_000)
        return [_packet(part, start + i * PACKET_SAMPLES) for i, part in enumerate(np.split(pcm, 2))]

    def _push(self, pcm: np.ndarray, rate_hz: int) -> None:
        if self._resampler is None or self._rate_hz != rate_hz:
            self._rate_hz = rate_hz
            self._resampler = av.AudioResampler("s16", "mono", AUDIO_RATE_HZ)
            # What the resampler holds back must not be a gap within the speech.
            self._samples = np.concatenate([self._samples, np.zeros(LEAD_SAMPLES, np.int16)])
        if len(pcm):
            self._append(self._resampler.resample(_frame(pcm, rate_hz)))

    def _append(self, frames: list[Any]) -> None:
        self._samples = np.concatenate([self._samples, *(frame.to_ndarray()[0] for frame in frames)])


class Peer:
    """One connection, which sends video and audio and may receive a microphone."""

    def __init__(self, on_voice: Callable[[bytes, int], None] | None = None, ice_urls: Sequence[str] = ()) -> None:
        """on_voice: called with PCM int16 mono and its rate when the other side sends sound. ice_urls: STUN servers."""
        servers = [RTCIceServer(urls=list(ice_urls))] if ice_urls else []
        # Without a configuration, aiortc would ask a public server.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.closed = asyncio.Event()
        self.connected = asyncio.Event()
        self.video, self.audio = _Track("video", PICTURES_WAITING), _Track("audio", PACKETS_WAITING)
        self._sound = _Sound()
        self._on_voice = on_voice
        self._hearing: asyncio.Task[None] | None = None
        self.connection.on("connectionstatechange", self._on_state)
        self.connection.on("track", self._on_track)

    async def answer(self, sdp: str) -> str:
        """The SDP that answers an offer. Raises ArgumentError for an offer that cannot be used."""
        if len(sdp) > LARGEST_SDP:
            raise ArgumentError(f"the offer has {len(sdp)} characters; the limit is {LARGEST_SDP}")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
                for track in (self.video, self.audio):
                    self.connection.addTrack(track)
                await self.connection.setLocalDescription(await self.connection.createAnswer())
        except _BAD_OFFER as error:
            raise ArgumentError(f"the WebRTC offer cannot be answered: {error or type(error).__name__}") from error
        return str(self.connection.localDescription.sdp)

    def show(self, frame: VideoFrame, sound: Sound | None) -> None:
        """Send a picture and its sound, once the connection stands; before that they are dropped."""
        packets = self._sound.packets(frame, sound)
        if not self.connected.is_set():
            return
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.image), format="rgb24")
        picture.pts = frame.pts_us * VIDEO_CLOCK_HZ // 1_000_000
        picture.time_base = fractions.Fraction(1, VIDEO_CLOCK_HZ)
        self.video.put(picture)
        for packet in packets:
            self.audio.put(packet)

    async def aclose(self) -> None:
        """Idempotent."""
        self.closed.set()
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
        for track in (self.video, self.audio):
            track.stop()
        await self.connection.close()

    def _on_state(self) -> None:
        state = self.connection.connectionState
        if state == "connected":
            self.connected.set()
        elif state in ("failed", "closed"):
            self.closed.set()

    def _on_track(self, track: Any) -> None:
        if track.kind == "audio" and self._on_voice is not None and self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear(track, self._on_voice))

    async def _hear(self, track: Any, on_voice: Callable[[bytes, int], None]) -> None:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
        try:
            while True:
                for frame in resampler.resample(await track.recv()):
                    on_voice(frame.to_ndarray().tobytes(), SAMPLE_RATE_HZ)
        except MediaStreamError:
            _LOG.debug("the microphone ended")


def _packet(pcm: np.ndarray, start: int) -> Any:
    packet = _frame(pcm, AUDIO_RATE_HZ)
    packet.pts, packet.time_base = start, fractions.Fraction(1, AUDIO_RATE_HZ)
    return packet


def _frame(pcm: np.ndarray, rate_hz: int) -> Any:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm).reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = rate_hz
    return frame


assert FRAME_US * AUDIO_RATE_HZ == 2 * PACKET_SAMPLES * 1_000_000, "two packets are one frame"
