"""Texts that clients send to be spoken, one after the other for each session, in a thread."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from apps.server.errors import SpeechBusyError, SpeechFailedError, SpeechUnavailableError
from apps.server.protocol import Speak
from apps.server.session import ServedSession
from apps.server.utterances import Utterance
from apps.speech import Speaker
from engine.errors import ArgumentError, AvatarError

_LOG = logging.getLogger(__name__)

MAX_WAITING = 4
"""Texts of one session."""


class SpeechDesk:
    """Speaks for all sessions of a server. One text at a time: speech must not take the model's cores."""

    def __init__(self, speaker: Speaker | None) -> None:
        self._speaker = speaker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="visavis-speech")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def voices(self) -> list[str] | None:
        """None when nothing can speak."""
        return None if self._speaker is None else list(self._speaker.voices)

    def speak(self, session: ServedSession, wish: Speak) -> None:
        """Open an utterance for a text; its sound follows. Raises SpeechUnavailableError, SpeechBusyError,
        ArgumentError or UtteranceOrderError.
        """
        if self._speaker is None:
            raise SpeechUnavailableError("this server has no speech; start it with --speech")
        voices = self._speaker.voices
        voice = wish.voice or voices[0]
        if voice not in voices:
            raise ArgumentError(f"there is no such voice; known are {', '.join(voices)}")
        if sum(one.being_made for one in session.utterances.live) >= MAX_WAITING:
            raise SpeechBusyError(f"{MAX_WAITING} texts wait to be spoken; send this one later")
        one = session.open_utterance(wish.utterance, wish.id)
        one.complete = one.being_made = True
        task = asyncio.create_task(self._make(self._speaker, session, one, wish.text, voice), name="server-speech")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _make(self, speaker: Speaker, session: ServedSession, one: Utterance, text: str, voice: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            pcm, rate_hz = await loop.run_in_executor(self._thread, speaker.say, text, voice)
            if session.utterances.is_live(one.number):
                one.held.append((pcm.astype("<i2").tobytes(), rate_hz))
                one.being_made = False
                session.hand_over()
        except AvatarError as error:
            self._fail(session, one, SpeechFailedError(f"the text could not be spoken: {error}"))
        except Exception:
            _LOG.exception("speech failed")
            self._fail(session, one, SpeechFailedError("the text could not be spoken; see the server's log"))

    def _fail(self, session: ServedSession, one: Utterance, error: SpeechFailedError) -> None:
        if session.utterances.is_live(one.number):
            one.being_made = False
            session.complain(error, utterance=one.number)
            session.fail_utterance(one, "speech_failed")
