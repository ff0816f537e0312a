"""A bot with a face: it hears you or reads what you type, thinks, speaks, and falls silent when you speak.

    visavis serve &
    python -m apps.examples.bot                                            # type; it says again what you typed
    python -m apps.examples.bot --llm http://127.0.0.1:11434/v1 --model llama3.2
    python -m apps.examples.bot --llm ... --microphone "arecord -q -t raw -f S16_LE -r 16000 -c 1"
    python -m apps.examples.bot --voice question.wav --film call.mp4       # a recording instead of a microphone

The picture is filmed where --film says. A key for the language model is read from OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

from apps.client import RemoteAvatar, connect, film
from apps.examples.brains import Brain, Echo, Model
from apps.examples.ears import Begun, Ear, Said, Samples, microphone, recording
from apps.speech import Speaker, open_speaker
from engine.errors import AvatarError
from engine.types import SAMPLE_RATE_HZ, VideoFrame

KEY_VARIABLE = "OPENAI_API_KEY"
Tell = Callable[[str], None]
Heard = TypeVar("Heard")


class Bot:
    """One conversation. At most one answer is under way; whatever the user says ends it."""

    def __init__(self, avatar: RemoteAvatar, brain: Brain, speaker: Speaker, tell: Tell = lambda line: None) -> None:
        """tell: gets each line of the conversation, for a log or a terminal."""
        self._avatar, self._brain, self._speaker, self._tell = avatar, brain, speaker, tell
        self._answering: asyncio.Task[None] | None = None
        # One text at a time: a sentence that was cut is still being made when the next one comes.
        self._voice = ThreadPoolExecutor(1, thread_name_prefix="bot-voice")

    async def read(self, lines: AsyncIterator[str]) -> None:
        """Answer what is typed, until there is no more; then wait for the last answer."""
        async for line in lines:
            await self.fall_silent()
            self._begin(self._answer, line)
        await self.finish()

    async def listen(self, windows: AsyncIterator[Samples], ear: Ear) -> None:
        """Answer what is said, until the sound ends; speaking while the bot speaks interrupts it."""
        async for window in windows:
            self._avatar.push_listening_audio(window, SAMPLE_RATE_HZ)
            match ear.hear(window):
                case Begun():
                    await self.fall_silent()
                case Said(pcm):
                    self._begin(self._answer_speech, pcm)
        if (last := ear.end()) is not None:
            self._begin(self._answer_speech, last.pcm)
        await self.finish()

    async def fall_silent(self) -> None:
        """Stop thinking and speaking at once; nothing happens when the bot is silent."""
        answering, self._answering = self._answering, None
        if answering is None or answering.done():
            return
        answering.cancel()
        heard = await self._avatar.interrupt()
        await asyncio.gather(answering, return_exceptions=True)
        self._tell(f"(interrupted after {heard.turn_ms} ms)")

    async def finish(self) -> None:
        """Wait for the answer that is under way."""
        if self._answering is not None:
            await self._answering

    def _begin(self, answer: Callable[[Heard], Awaitable[None]], what: Heard) -> None:
        if self._answering is not None:
            self._answering.cancel()
        self._answering = asyncio.create_task(self._guard(answer, what), name="bot-answer")

    async def _guard(self, answer: Callable[[Heard], Awaitable[None]], what: Heard) -> None:
        """An answer that fails costs the answer, not the conversation."""
        try:
            await answer(what)
        except AvatarError as error:
            self._tell(f"(no answer: {error.code}: {error})")

    async def _answer_speech(self, pcm: Samples) -> None:
        self._avatar.set_expression("thinking", 0.5)
        text = await self._brain.understand(pcm)
        self._avatar.set_expression(None)
        if text:
            await self._answer(text)

    async def _answer(self, text: str) -> None:
        """One utterance: each sentence is spoken while the next one is thought of."""
        self._tell(f"you: {text}")
        turn_id, loop = 0, asyncio.get_running_loop()
        async with aclosing(self._brain.answer(text)) as sentences:
            async for sentence in sentences:
                self._tell(f"bot: {sentence}")
                say, voice = self._speaker.say, self._speaker.voices[0]
                pcm, rate_hz = await loop.run_in_executor(self._voice, say, sentence, voice)
                turn_id = self._avatar.push_audio(pcm, rate_hz)
        self._avatar.flush()
        await self._avatar.finished(turn_id)


async def typed() -> AsyncIterator[str]:
    """Lines of standard input."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            yield line.strip()


async def watch(frames: AsyncIterator[VideoFrame], path: str | None) -> None:
    """Film what is shown, or let it go by: whoever takes no frames gets no more of them."""
    if path is not None:
        await film(frames, path)
        return
    async for _ in frames:
        pass


async def converse(args: argparse.Namespace) -> None:
    """Raises AvatarError."""
    brain: Brain = Model(args.llm, args.model, os.environ.get(KEY_VARIABLE)) if args.llm else Echo()
    speaker = await asyncio.to_thread(open_speaker, args.speech)
    async with connect(args.url, args.portrait, token=args.token) as avatar:
        watching = asyncio.create_task(watch(avatar.frames(), args.film))
        bot = Bot(avatar, brain, speaker, lambda line: print(line, flush=True))
        try:
            if args.voice or args.microphone:
                windows = recording(args.voice) if args.voice else microphone(args.microphone)
                await bot.listen(windows, Ear())
            else:
                await bot.read(typed())
        finally:
            await avatar.aclose()
            await watching


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bot", description="A bot with a face.")
    parser.add_argument("--url", default="ws://127.0.0.1:8765", help="of `visavis serve` (default %(default)s)")
    parser.add_argument("--token", help="of the server")
    parser.add_argument("--portrait", metavar="NAME|FILE", help="of the server's library, or a picture")
    parser.add_argument("--llm", metavar="URL", help="OpenAI-compatible address, with /v1 (default: an echo)")
    parser.add_argument("--model", default="gpt-4o-mini", help="of that address (default %(default)s)")
    parser.add_argument("--speech", default="auto", help="hibari, espeak-ng, kokoro or a command (default %(default)s)")
    parser.add_argument("--microphone", metavar="COMMAND", help="a program that writes 16-bit mono sound at 16 kHz")
    parser.add_argument("--voice", metavar="FILE", help="a recording, instead of a microphone")
    parser.add_argument("--film", metavar="MP4", help="where to film the conversation")
    try:
        asyncio.run(converse(parser.parse_args(argv)))
    except AvatarError as error:
        sys.stderr.write(f"bot: {error.code}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
