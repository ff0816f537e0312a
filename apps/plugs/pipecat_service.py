"""A face for Pipecat: a video service between the TTS and the transport's output.

    face = VisavisVideoService(url="ws://gpu-box:8765/v1/avatar", portrait="anna")
    Pipeline([transport.input(), stt, ..., llm, tts, face, transport.output(), ...])

Interface: pipecat-ai 1.14.0. Sound of the TTS goes in and does not pass; what passes instead is the avatar's pictures
and the same sound at the same rate, paired, and each `TTSStoppedFrame` once its last sound was sent, so that the
transport says "bot stopped speaking" when the person does. When the avatar is lost, the voice passes without it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from apps.plugs.avatar import Avatar, Source, open_avatar
from apps.plugs.given import needs
from apps.plugs.speaker import Speaker, mono
from engine.errors import AvatarError
from engine.types import VideoFrame

try:
    from pipecat.frames.frames import (
        BotStartedSpeakingFrame,
        CancelFrame,
        EndFrame,
        Frame,
        InputAudioRawFrame,
        InterruptionFrame,
        OutputImageRawFrame,
        StartFrame,
        TTSAudioRawFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
        UserStartedSpeakingFrame,
        UserStoppedSpeakingFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.services.ai_service import AIService
    from pipecat.services.settings import ServiceSettings
except ImportError as error:
    raise needs("pipecat", error) from error

END_WAIT_S = 130.0
"""How long an end of the pipeline waits for what was said to be heard: what an avatar's buffer holds, and a little."""


class VisavisVideoService(AIService):
    """See the module. One avatar from StartFrame to EndFrame or CancelFrame."""

    def __init__(
        self,
        source: Source | None = None,
        *,
        portrait: Any = None,
        url: str | None = None,
        token: str | None = None,
        model: str | None = None,
        size: int = 512,
        sync_with_audio: bool = False,
        **kwargs: Any,
    ) -> None:
        """source, or its fields. size: video_out_width and video_out_height of the transport must be the same.
        sync_with_audio: the transport shows each picture after the sound before it; for transports without
        `video_out_is_live`, which would not show such pictures at all.
        """
        super().__init__(settings=ServiceSettings(model=model), **kwargs)
        self.source = source or Source(portrait, url, token, model, size=size)
        self._sync_with_audio = sync_with_audio
        self._speaker = Speaker()
        self._stack = AsyncExitStack()
        self._avatar: Avatar | None = None
        self._showing: asyncio.Task[None] | None = None
        self._context_id: str | None = None
        """The TTS context that is being said."""
        self._stopped: dict[int, TTSStoppedFrame] = {}
        """Segments whose sound is complete, and what to push when it was heard."""
        self._silent = asyncio.Event()
        self._silent.set()

    def can_generate_metrics(self) -> bool:
        """From the TTS's start to the first sound that is played."""
        return True

    async def start(self, frame: StartFrame) -> None:
        """Open the avatar. Without one, the voice passes and the pipeline is told why."""
        await super().start(frame)
        try:
            self._avatar = await self._stack.enter_async_context(open_avatar(self.source, self._speaker.on_event))
        except AvatarError as error:
            await self._lost(error)
            return
        self._speaker.attach(self._avatar)
        self._showing = self.create_task(self._show(self._avatar))

    async def stop(self, frame: EndFrame) -> None:
        """End the avatar once everything that was said was heard."""
        await super().stop(frame)
        try:
            async with asyncio.timeout(END_WAIT_S):
                await self._silent.wait()
        except TimeoutError:
            await self.push_error(error_msg="the avatar did not finish speaking in time")
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        await super().cleanup()
        await self._close()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Sound and its end stay here; everything else passes."""
        await super().process_frame(frame, direction)
        if self._avatar is not None and await self._takes(self._avatar, frame):
            return
        await self.push_frame(frame, direction)

    async def _takes(self, avatar: Avatar, frame: Frame) -> bool:
        """React to a frame; True when it must not pass."""
        if isinstance(frame, TTSAudioRawFrame):
            await self._say(frame)
            return True
        if isinstance(frame, TTSStoppedFrame):
            return self._finish(frame)
        if isinstance(frame, TTSStartedFrame):
            await self.start_ttfb_metrics()
        elif isinstance(frame, BotStartedSpeakingFrame):
            await self.stop_ttfb_metrics()
        elif isinstance(frame, InterruptionFrame):
            self._interrupt()
        elif isinstance(frame, InputAudioRawFrame):
            avatar.push_listening_audio(mono(frame.audio, frame.num_channels), frame.sample_rate)
        elif isinstance(frame, UserStartedSpeakingFrame):
            avatar.set_state("listening")
        elif isinstance(frame, UserStoppedSpeakingFrame):
            avatar.set_state(None)
        return False

    async def _say(self, frame: TTSAudioRawFrame) -> None:
        self._silent.clear()
        self._context_id = frame.context_id
        await self._speaker.say(frame.audio, frame.sample_rate, frame.num_channels)
        self._look_silent()

    def _finish(self, frame: TTSStoppedFrame) -> bool:
        segment = self._speaker.finish()
        if segment:
            self._stopped[segment] = frame
        return bool(segment)

    def _interrupt(self) -> None:
        self._stopped.clear()
        self._speaker.interrupt()
        self._look_silent()

    async def _show(self, avatar: Avatar) -> None:
        try:
            async for picture in avatar.frames():
                await self._push_picture(picture)
                await self._push_ends(self._speaker.over(picture))
        except AvatarError as error:
            await self._lost(error)

    async def _push_picture(self, picture: VideoFrame) -> None:
        height, width = picture.image.shape[:2]
        image = OutputImageRawFrame(picture.image.tobytes(), (width, height), "RGB")
        sound = self._speaker.sound(picture)
        image.sync_with_audio = self._sync_with_audio and sound is not None
        await self.push_frame(image)
        if sound is not None and sound.samples:
            spoken = TTSAudioRawFrame(sound.pcm, sound.rate_hz, 1, context_id=self._heard_context())
            await self.push_frame(spoken)

    def _heard_context(self) -> str | None:
        """The context of the oldest segment that is not over."""
        heard = next(iter(self._stopped.values()), None)
        return heard.context_id if heard is not None else self._context_id

    async def _push_ends(self, segments: list[int]) -> None:
        for segment in segments:
            await self.push_frame(self._stopped.pop(segment))
        self._look_silent()

    def _look_silent(self) -> None:
        if self._speaker.silent:
            self._silent.set()

    async def _lost(self, error: AvatarError) -> None:
        """From now on, the voice passes."""
        self._avatar = None
        await self._push_ends(self._speaker.lost())
        self._silent.set()
        await self.push_error(error_msg=f"{error.code}: {error}", exception=error)

    async def _close(self) -> None:
        self._avatar = None
        showing, self._showing = self._showing, None
        if showing is not None:
            await self.cancel_task(showing)
        await self._stack.aclose()
