"""A face for FastRTC: wraps any audio handler, whose voice then has a person.

    voice = ReplyOnPause(answer)                       # what you have
    stream = Stream(AvatarHandler(voice, portrait="anna"), modality="audio-video", mode="send-receive")

Interface: fastrtc 0.0.34 (fastrtc/tracks.py). The microphone goes to both the voice and the avatar, which listens;
what the voice emits is spoken, and ends when it emits nothing for `GAP_S`. `clear_queue`, by which a voice drops its
reply when the user interrupts, silences the avatar. The camera is not looked at.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from apps.plugs.avatar import Avatar, Source, open_avatar
from apps.plugs.given import needs
from apps.plugs.speaker import Sound, Speaker, mono, to_int16
from engine.errors import AvatarError
from engine.types import FPS

try:
    from fastrtc import AdditionalOutputs, AsyncAudioVideoStreamHandler, CloseStream
    from fastrtc.tracks import StreamHandlerBase
    from fastrtc.utils import split_output
except ImportError as error:
    raise needs("fastrtc", error) from error

_LOG = logging.getLogger(__name__)

GAP_S = 0.3
REST_S = 0.02
"""A voice that has nothing to say is asked again after so long."""

TAIL_S = 0.2

SOUNDS_WAITING, PICTURES_WAITING = 50, 2


class AvatarHandler(AsyncAudioVideoStreamHandler):  # type: ignore[misc]
    """One for each connection: FastRTC copies it. Its voice is copied with it."""

    def __init__(self, voice: StreamHandlerBase, source: Source | None = None, **options: Any) -> None:
        """voice: a StreamHandler or AsyncStreamHandler. source, or its fields: portrait, url, token, model, size."""
        super().__init__("mono", voice.output_sample_rate, input_sample_rate=voice.input_sample_rate, fps=FPS)
        self.voice, self.source = voice, source or Source(**options)
        self._speaker = Speaker()
        self._stack = AsyncExitStack()
        self._avatar: Avatar | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sounds: asyncio.Queue[Any] = asyncio.Queue(SOUNDS_WAITING)
        self._pictures: asyncio.Queue[np.ndarray] = asyncio.Queue(PICTURES_WAITING)

    def copy(self) -> AvatarHandler:
        """For one more connection."""
        return AvatarHandler(self.voice.copy(), self.source)

    async def start_up(self) -> None:
        """Open the avatar and begin to ask the voice. Without an avatar, the voice is heard alone."""
        loop = asyncio.get_running_loop()
        self.voice._loop = loop
        self.voice._clear_queue = lambda: loop.call_soon_threadsafe(self._interrupt)
        self.voice.phone_mode = self.phone_mode
        try:
            self._avatar = await self._stack.enter_async_context(open_avatar(self.source, self._speaker.on_event))
        except AvatarError as error:
            _LOG.error("no avatar, the voice is heard alone: %s: %s", error.code, error)
        else:
            self._speaker.attach(self._avatar)
            self._tasks.append(loop.create_task(self._show(self._avatar), name="fastrtc-show"))
        await _call(self.voice.start_up)
        self._tasks.append(loop.create_task(self._ask(), name="fastrtc-voice"))

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        """The microphone."""
        if self._avatar is not None:
            rate_hz, pcm = frame
            self._avatar.push_listening_audio(_pcm(pcm), rate_hz)
        await _call(self.voice.receive, frame)

    async def emit(self) -> Any:
        """The next sound, or whatever else the voice emits."""
        return await self._sounds.get()

    async def video_receive(self, frame: np.ndarray) -> None:
        """The camera; not looked at."""

    async def video_emit(self) -> np.ndarray:
        """The next picture, BGR."""
        return await self._pictures.get()

    async def shutdown(self) -> None:
        """The connection is gone; idempotent."""
        self._avatar = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        await _call(self.voice.shutdown)

    def set_channel(self, channel: Any) -> None:
        super().set_channel(channel)
        self.voice.set_channel(channel)

    def set_args(self, args: list[Any]) -> None:
        super().set_args(args)
        self.voice.set_args(args)

    def reset(self) -> None:
        super().reset()
        self.voice.reset()

    def _interrupt(self) -> None:
        while not self._sounds.empty():
            self._sounds.get_nowait()
        if self._clear_queue is not None:
            self._clear_queue()
        if self._avatar is not None:
            self._speaker.interrupt()

    async def _show(self, avatar: Avatar) -> None:
        try:
            async for frame in avatar.frames():
                _put_newest(self._pictures, np.ascontiguousarray(frame.image[:, :, ::-1]))
                sound = self._speaker.sound(frame)
                if sound is not None and sound.samples:
                    _put_newest(self._sounds, _emitted(sound))
                if self._speaker.over(frame):
                    _put_newest(self._sounds, _silence(self.output_sample_rate))
        except AvatarError as error:
            _LOG.error("the avatar is lost, the voice is heard alone: %s: %s", error.code, error)
        self._avatar = None

    async def _ask(self) -> None:
        """Take what the voice emits; an emit that waits is not cancelled, since it may hold a reply."""
        emitting: asyncio.Task[Any] | None = None
        try:
            while True:
                emitting = emitting or asyncio.ensure_future(_call(self.voice.emit))
                done, _ = await asyncio.wait({emitting}, timeout=GAP_S)
                if not done:
                    self._finish()
                    continue
                emitted, emitting = emitting.result(), None
                if emitted is None:
                    self._finish()
                    await asyncio.sleep(REST_S)
                else:
                    await self._take(emitted)
        finally:
            if emitting is not None:
                emitting.cancel()

    async def _take(self, emitted: Any) -> None:
        sound, other = split_output(emitted)
        if isinstance(other, AdditionalOutputs | CloseStream):
            await self._sounds.put(other)
        if sound is None:
            return
        if self._avatar is None:
            await self._sounds.put(sound)
            return
        await self._speaker.say(_pcm(np.asarray(sound[1])), sound[0])

    def _finish(self) -> None:
        if self._avatar is not None:
            self._speaker.finish()


def _pcm(samples: np.ndarray) -> bytes:
    """int16 or float [n] or [channels, n] to one channel of int16."""
    if samples.dtype != np.int16:
        return to_int16(np.atleast_2d(samples).mean(0))
    return mono(np.atleast_2d(samples).T.astype("<i2").tobytes(), np.atleast_2d(samples).shape[0])


def _emitted(sound: Sound) -> tuple[int, np.ndarray]:
    return sound.rate_hz, np.frombuffer(sound.pcm, "<i2").astype(np.int16).reshape(1, -1)


def _silence(rate_hz: int) -> tuple[int, np.ndarray]:
    """After an utterance, since a receiver may hold its end back until more comes."""
    return rate_hz, np.zeros((1, round(rate_hz * TAIL_S)), np.int16)


def _put_newest(queue: asyncio.Queue[Any], item: Any) -> None:
    """Drops the oldest when the queue is full: who takes too slowly wants what is recent."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(item)


async def _call(function: Any, *arguments: Any) -> Any:
    """A handler's method, which may be a coroutine function or block."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    return await asyncio.to_thread(function, *arguments)
