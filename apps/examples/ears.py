"""Hears the user: sound in real time from a recording or a program, cut into what was said in one go."""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.media import read_sound
from engine.audio.silero import OFF, ON, WINDOW, Probability, silero
from engine.errors import ArgumentError
from engine.types import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]

WINDOW_S = WINDOW / SAMPLE_RATE_HZ
BEGIN_WINDOWS = 3
"""Windows of speech in a row that are somebody speaking, 96 ms: a cough must not stop the bot."""
END_WINDOWS = 20
"""Windows without speech that end what is said, 640 ms."""
LEAD_WINDOWS = 10
"""Windows before the beginning that belong to it: the first sound of a word is quiet."""
LONGEST_S = 30.0


async def recording(path: str) -> AsyncIterator[Samples]:
    """A file's sound as if it were spoken now, in windows of 512 samples at 16 kHz. Raises MediaError or FileError."""
    sound = await asyncio.to_thread(read_sound, path)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, start in enumerate(range(0, len(sound.pcm) - WINDOW + 1, WINDOW)):
        await asyncio.sleep(began + number * WINDOW_S - loop.time())
        yield sound.pcm[start : start + WINDOW]


async def microphone(command: str) -> AsyncIterator[Samples]:
    """What a program writes to its standard output, 16-bit mono at 16 kHz, as
    `arecord -q -t raw -f S16_LE -r 16000 -c 1` does. It is run without a shell. Raises ArgumentError.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except (OSError, ValueError, TypeError) as error:
        raise ArgumentError(f"the microphone's command {command!r} cannot be run: {error}") from error
    assert process.stdout is not None
    try:
        while True:
            data = await process.stdout.readexactly(2 * WINDOW)
            yield np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)
    except asyncio.IncompleteReadError:
        return
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        # Waiting alone would never end while sound that nobody reads fills the pipe.
        await process.communicate()


@dataclass(frozen=True, slots=True)
class Begun:
    """The user has begun to speak."""


@dataclass(frozen=True, slots=True)
class Said:
    """The user has stopped; pcm is all of it, float32 [N] at 16 kHz."""

    pcm: Samples


class Ear:
    """Voice activity over windows of 512 samples."""

    def __init__(self, probability: Probability | None = None) -> None:
        """probability: of speech in a window, Silero's when None."""
        self._probability = probability or silero()
        self._before: deque[Samples] = deque(maxlen=LEAD_WINDOWS)
        self._said: list[Samples] = []
        self._run = 0
        """Windows in a row that speak against the present state."""

    def hear(self, window: Samples) -> Begun | Said | None:
        """What the window changes. What goes on for longer than LONGEST_S is cut in pieces."""
        speaking = bool(self._said)
        voiced = self._probability(window) >= (OFF if speaking else ON)
        self._run = self._run + 1 if voiced != speaking else 0
        if not speaking:
            return self._listen(window)
        self._said.append(window)
        if self._run < END_WINDOWS and len(self._said) * WINDOW_S < LONGEST_S:
            return None
        return self.end()

    def end(self) -> Said | None:
        """The sound is over: what was being said."""
        pcm, self._said, self._run = self._said, [], 0
        return Said(np.concatenate(pcm)) if pcm else None

    def _listen(self, window: Samples) -> Begun | None:
        self._before.append(window)
        if self._run < BEGIN_WINDOWS:
            return None
        self._said, self._run = list(self._before), 0
        self._before.clear()
        return Begun()
