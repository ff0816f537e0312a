"""What answers the user: a parrot, or a language model behind an OpenAI-compatible address.

Of the address only `/chat/completions` (streaming, server-sent events) and `/audio/transcriptions` are used, as
OpenAI's API reference has them; Ollama, vLLM, llama.cpp and others answer the same.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import threading
import uuid
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from engine.errors import ArgumentError, AvatarError
from engine.types import SAMPLE_RATE_HZ

ANSWER_S = 60.0
MOST_TURNS = 20
"""Of the conversation that the model is told again each time."""
PIECES = 64
"""Pieces of text that may come ahead of the voice."""
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)])\s+|(?<=[。！？])|\n+")
_LONGEST_SENTENCE = 300
_PERSONA = "You are a friendly person in a video call. Answer in one to three short spoken sentences, without lists."


class BrainError(AvatarError):
    """The language model does not answer, or not as it should."""

    code = "brain"
    retryable = True


class Brain(Protocol):
    async def understand(self, pcm: NDArray[np.float32]) -> str:
        """Speech, float32 [N] at 16 kHz, as text. Raises BrainError."""
        ...

    def answer(self, text: str) -> AsyncGenerator[str]:
        """What to say, sentence by sentence, as it comes. Raises BrainError."""
        ...


class Echo:
    """Says again what it is told; of speech it knows only how long it was."""

    async def understand(self, pcm: NDArray[np.float32]) -> str:
        return f"something for {len(pcm) / SAMPLE_RATE_HZ:.0f} seconds"

    async def answer(self, text: str) -> AsyncGenerator[str]:
        yield f"You said {text}."


@dataclass(slots=True)
class Model:
    """url: up to and with `/v1`. key: for the Authorization header, or none."""

    url: str
    model: str
    key: str | None = None
    hearing_model: str = "whisper-1"
    persona: str = _PERSONA
    history: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ArgumentError(
                f"{self.url!r} is no address of a language model; give one like http://127.0.0.1:11434/v1"
            )

    async def understand(self, pcm: NDArray[np.float32]) -> str:
        form, body = _form({"model": self.hearing_model}, _wav(pcm))
        answer = await asyncio.to_thread(self._read_all, "/audio/transcriptions", form, body)
        return str(answer.get("text", "")).strip()

    async def answer(self, text: str) -> AsyncGenerator[str]:
        self.history = [*self.history, {"role": "user", "content": text}][-MOST_TURNS:]
        said: list[str] = []
        try:
            async with aclosing(self._pieces()) as pieces:
                async for sentence in sentences(pieces):
                    said.append(sentence)
                    yield sentence
        finally:
            # What was cut was not said, and must not be remembered as if it were.
            self.history.append({"role": "assistant", "content": " ".join(said)})

    def _pieces(self) -> AsyncGenerator[str]:
        messages = [{"role": "system", "content": self.persona}, *self.history]
        body = json.dumps({"model": self.model, "messages": messages, "stream": True}).encode()
        return from_thread(lambda stopped: self._stream(body, stopped))

    def _stream(self, body: bytes, stopped: threading.Event) -> Iterator[str]:
        connection, response = self._post("/chat/completions", "application/json", body)
        try:
            while not stopped.is_set() and (line := response.readline(1 << 16)):
                data = line.decode("utf-8", "replace").strip().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if data.startswith("{"):
                    yield _piece_of(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrainError(f"the language model's answer broke off: {error}") from error
        finally:
            connection.close()

    def _read_all(self, path: str, form: str, body: bytes) -> dict[str, Any]:
        connection, response = self._post(path, form, body)
        try:
            answer = json.loads(response.read(1 << 20))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrainError(f"{self.url}{path} gave no JSON: {error}") from error
        finally:
            connection.close()
        return answer if isinstance(answer, dict) else {}

    def _post(self, path: str, form: str, body: bytes) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        place = urlsplit(self.url)
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        connection = kind(place.netloc, timeout=ANSWER_S)
        headers = {"Content-Type": form} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            connection.request("POST", place.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise BrainError(f"no language model answers at {self.url}: {error}") from error
        if response.status != 200:
            reason = response.read(500).decode("utf-8", "replace")
            connection.close()
            raise BrainError(f"{self.url}{path} answered HTTP {response.status}: {reason}")
        return connection, response


def _piece_of(data: str) -> str:
    """The text of one event of the stream."""
    choices = json.loads(data).get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


async def sentences(pieces: AsyncIterator[str]) -> AsyncGenerator[str]:
    """Text that comes in pieces, sentence by sentence, each as soon as it is whole."""
    text = ""
    async for piece in pieces:
        text += piece
        *whole, text = _SENTENCE.split(text)
        if len(text) > _LONGEST_SENTENCE and (place := text.rfind(" ", 0, _LONGEST_SENTENCE)) > 0:
            whole, text = [*whole, text[:place]], text[place:]
        for sentence in filter(None, map(str.strip, whole)):
            yield sentence
    if text.strip():
        yield text.strip()


async def from_thread(work: Callable[[threading.Event], Iterator[str]]) -> AsyncGenerator[str]:
    """What a blocking generator gives, made in a thread, at most PIECES ahead. Leaving it stops the thread soon."""
    loop, stopped, places = asyncio.get_running_loop(), threading.Event(), threading.Semaphore(PIECES)
    queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def fill() -> None:
        last: BaseException | None = None
        try:
            for piece in work(stopped):
                places.acquire()
                if stopped.is_set():
                    break
                loop.call_soon_threadsafe(queue.put_nowait, piece)
        except BaseException as error:  # Raised again where the text is read.
            last = error
        if not stopped.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, last)

    thread = threading.Thread(target=fill, name="brain", daemon=True)
    thread.start()
    try:
        while isinstance(piece := await queue.get(), str):
            places.release()
            yield piece
        if piece is not None:
            raise piece
    finally:
        stopped.set()
        places.release()


def _wav(pcm: NDArray[np.float32]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(np.round(pcm.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    return out.getvalue()


def _form(fields: dict[str, str], wav: bytes) -> tuple[str, bytes]:
    """multipart/form-data (RFC 7578): its content type and its body."""
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
    ]
    head = 'Content-Disposition: form-data; name="file"; filename="speech.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    body = b"".join((*parts, f"--{edge}\r\n{head}".encode(), wav, f"\r\n--{edge}--\r\n".encode()))
    return f"multipart/form-data; boundary={edge}", body
