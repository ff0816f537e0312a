"""A server on a thread of its own, and peers that talk to it by docs/protocol.md alone."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from apps.server.app import AvatarServer
from apps.server.config import ServeConfig
from apps.speech import Speaker
from engine.bundle import shipped_models

HEADER = struct.Struct("<BBHIIIQ")
VOICE, LISTENING, PORTRAIT, VIDEO, AUDIO = 0x01, 0x02, 0x03, 0x11, 0x12
PORTRAITS = shipped_models().parent / "portraits"
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A binary message from the server."""

    kind: int
    flags: int
    epoch: int
    utterance: int
    sequence: int
    value: int
    pts_us: int
    payload: bytes = field(repr=False)


class Running:
    """A server that serves meanwhile."""

    def __init__(self, server: AvatarServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self._loop = server, loop

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}/v1/avatar"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def ask(self, question: Callable[[AvatarServer], Any]) -> Any:
        """Look at the server in its own thread."""

        async def answer() -> Any:
            return question(self.server)

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(PATIENCE_S)

    def start(self, work: Callable[[AvatarServer], Awaitable[Any]]) -> None:
        """Let the server begin something."""

        async def do() -> Any:
            return await work(self.server)

        asyncio.run_coroutine_threadsafe(do(), self._loop)


@contextmanager
def running(config: ServeConfig, speaker: Speaker | None = None) -> Iterator[Running]:
    """Serve until left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> AvatarServer:
        server = AvatarServer(config, speaker)
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    try:
        yield Running(server, loop)
    finally:
        asyncio.run_coroutine_threadsafe(server.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def mock_config(**more: Any) -> ServeConfig:
    """The model without weights, on any free port."""
    return ServeConfig(portraits=PORTRAITS, port=0, model="mock", size_px=128, **more)


class Peer:
    """A client. Notes everything in the order in which it came, and waits for what is wanted."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any] | Heard] = []
        self.acknowledges = True
        self.reading = True
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @property
    def said(self) -> list[dict[str, Any]]:
        return [one for one in self.heard if isinstance(one, dict)]

    def media(self, kind: int) -> list[Heard]:
        return [one for one in self.heard if isinstance(one, Heard) and one.kind == kind]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one["type"] == kind]

    async def tell(self, kind: str, /, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def sound(self, pcm: NDArray[Any] | bytes, utterance: int = 0, last: bool = False, **more: int) -> None:
        payload = pcm if isinstance(pcm, bytes) else pcm.astype("<i2").tobytes()
        head = HEADER.pack(more.get("kind", VOICE), int(last), 0, utterance, 0, more.get("value", 0), 0)
        await self.socket.send(head + payload)

    async def until(self, fits: Callable[[Any], bool], after: int = 0) -> Any:
        """The first message from number `after` on that fits."""
        place = after
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while place < len(self.heard):
                    if fits(self.heard[place]):
                        return self.heard[place]
                    place += 1
                self._changed.clear()
                await self._changed.wait()

    async def until_type(self, kind: str, after: int = 0, /, **fields: Any) -> dict[str, Any]:
        def fits(one: Any) -> bool:
            return isinstance(one, dict) and one["type"] == kind and all(one.get(k) == v for k, v in fields.items())

        found: dict[str, Any] = await self.until(fits, after)
        return found

    async def until_media(self, kind: int, fits: Callable[[Heard], bool] = lambda one: True, after: int = 0) -> Heard:
        found: Heard = await self.until(lambda one: isinstance(one, Heard) and one.kind == kind and fits(one), after)
        return found

    async def closed(self) -> tuple[int | None, str | None]:
        """Code and reason, once the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            await self.socket.wait_closed()
            await asyncio.gather(self._task, return_exceptions=True)
        return self.socket.close_code, self.socket.close_reason

    def cut_wire(self) -> None:
        """Lose the connection without a word."""
        self.socket.transport.abort()

    async def stop_reading(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def go_on_reading(self) -> None:
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if isinstance(message, str):
                self.heard.append(json.loads(message))
            else:
                got = Heard(*HEADER.unpack_from(message), payload=message[HEADER.size :])
                self.heard.append(got)
                if got.kind == VIDEO and self.acknowledges:
                    # What came before a close is still to be read after it.
                    with suppress(ConnectionClosed):
                        await self.tell("ack", sequence=got.sequence)
            self._changed.set()


@asynccontextmanager
async def peer(url: str, **hello: Any) -> Any:
    """A client that has said hello."""
    async with connect(url, compression=None, max_size=None, ping_interval=None) as socket:
        one = Peer(socket)
        try:
            await one.tell("hello", **{"protocol": 1, "video": {"codec": "jpeg", "size": 128, "window": 8}, **hello})
            yield one
        finally:
            await one.stop_reading()


def tone(seconds: float, rate_hz: int = 16_000) -> NDArray[np.int16]:
    """A loud one, without a zero sample, so that gaps can be seen."""
    n = np.arange(round(seconds * rate_hz))
    wave = 12_000 * np.sin(2 * np.pi * 220 * n / rate_hz)
    return np.where(np.abs(wave) < 1, 1, wave).astype(np.int16)
