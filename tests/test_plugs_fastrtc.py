"""The FastRTC plug in a real Stream, called by aiortc on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastrtc", reason="fastrtc is not installed: make test-plugs")

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription  # noqa: E402
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack  # noqa: E402
from fastrtc import AsyncStreamHandler, Stream, StreamHandler  # noqa: E402
from fastrtc.stream import Body  # noqa: E402

from tests.plugs import MOCK, keep_webrtc_here, tone, until  # noqa: E402
from visavis.fastrtc import AvatarHandler  # noqa: E402

RATE_HZ = 24_000


def pieces(seconds: float) -> list[tuple[int, np.ndarray]]:
    pcm = np.frombuffer(tone(seconds, RATE_HZ), np.int16)
    return [(RATE_HZ, piece.reshape(1, -1)) for piece in np.split(pcm, round(seconds * 10))]


class Answers(StreamHandler):
    """Answers once it has heard something, as ReplyOnPause does: in a thread, None when there is nothing to say."""

    def __init__(self) -> None:
        super().__init__(output_sample_rate=RATE_HZ, input_sample_rate=16_000)
        self.heard, self.reply = 0, pieces(0.6)

    def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.heard += 1

    def emit(self) -> Any:
        return self.reply.pop(0) if self.heard > 5 and self.reply else None

    def copy(self) -> Answers:
        return Answers()


class Talks(AsyncStreamHandler):
    """Says one thing, then waits for ever, until it is interrupted."""

    def __init__(self) -> None:
        super().__init__(output_sample_rate=RATE_HZ)
        self.reply: asyncio.Queue[Any] = asyncio.Queue()

    async def start_up(self) -> None:
        for piece in pieces(20):
            self.reply.put_nowait(piece)

    async def receive(self, frame: tuple[int, np.ndarray]) -> None: ...

    async def emit(self) -> Any:
        return await self.reply.get()

    def copy(self) -> Talks:
        return Talks()


class Visitor:
    """A browser's part."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.createDataChannel("text")
        self.pictures, self.loud = 0, 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self.connection.on("track", lambda track: self.tasks.append(asyncio.ensure_future(self.take(track))))
        for track in (AudioStreamTrack(), VideoStreamTrack()):
            self.connection.addTrack(track)

    async def take(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.pictures += 1
                elif np.abs(frame.to_ndarray().astype(np.int32)).max() > 1000:
                    self.loud += frame.samples / frame.sample_rate
        except MediaStreamError:
            return

    async def call(self) -> AvatarHandler:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        body = Body(sdp=self.connection.localDescription.sdp, type="offer", webrtc_id="visitor")
        await self.connection.setRemoteDescription(RTCSessionDescription(**await self.stream.offer(body)))
        handler = self.stream.handlers["visitor"]
        assert isinstance(handler, AvatarHandler)
        return handler

    async def leave(self) -> None:
        await self.connection.close()
        await asyncio.gather(*self.tasks)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_webrtc_here(monkeypatch)


def test_a_voice_gets_a_face_and_hears_the_microphone() -> None:
    async def main() -> None:
        visitor = Visitor(Stream(AvatarHandler(Answers(), MOCK), modality="audio-video", mode="send-receive"))
        handler = await visitor.call()
        await until(lambda: visitor.loud >= 0.55)
        await until(lambda: visitor.pictures > 15)
        assert visitor.loud <= 0.7
        await visitor.leave()
        await until(lambda: handler._avatar is None and all(task.done() for task in handler._tasks))

    asyncio.run(main())


def test_a_voice_that_drops_its_reply_silences_the_avatar() -> None:
    async def main() -> None:
        visitor = Visitor(Stream(AvatarHandler(Talks(), MOCK), modality="audio-video", mode="send-receive"))
        handler = await visitor.call()
        await until(lambda: visitor.loud > 0.2)
        while not handler.voice.reply.empty():  # type: ignore[attr-defined]
            handler.voice.reply.get_nowait()  # type: ignore[attr-defined]
        handler.voice.clear_queue()
        await asyncio.sleep(0.5)
        loud = visitor.loud
        await asyncio.sleep(0.5)
        assert visitor.loud == loud < 10
        await visitor.leave()

    asyncio.run(main())
