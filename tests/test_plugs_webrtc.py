"""WebRTC calls, and the wire of Simli under its real Python client, through aiortc on loopback."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: make test-plugs")
pytest.importorskip("aiortc", reason="aiortc is not installed: make test-plugs")

import aiohttp  # noqa: E402
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription  # noqa: E402
from aiortc.mediastreams import MediaStreamError  # noqa: E402

from apps.cli import main as main_of  # noqa: E402
from apps.plugs.avatar import load_engine  # noqa: E402
from apps.plugs.desk import Settings  # noqa: E402
from apps.plugs.lookalike import serving  # noqa: E402
from apps.plugs.speaker import Sound  # noqa: E402
from apps.plugs.webrtc import AUDIO_RATE_HZ, _Sound  # noqa: E402
from apps.server.access import AccessConfig  # noqa: E402
from engine.errors import EXIT_USAGE, ArgumentError  # noqa: E402
from engine.types import FRAME_US, AvatarState, VideoFrame  # noqa: E402
from tests.plugs import KEY, MOCK, PATIENCE_S, PORTRAIT, keep_webrtc_here, tone, until  # noqa: E402


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_webrtc_here(monkeypatch)


@asynccontextmanager
async def server(**settings: Any) -> AsyncIterator[str]:
    engine = await load_engine("mock")
    try:
        source = replace(MOCK, engine=engine)
        async with serving(Settings(source, {"anna": PORTRAIT}, **settings), port=0) as port:
            yield f"http://127.0.0.1:{port}"
    finally:
        await engine.aclose()


class Caller:
    """An aiortc client that counts what comes."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.addTransceiver("audio", direction="recvonly")
        self.channel = self.connection.createDataChannel("visavis")
        self.messages: list[dict[str, Any]] = []
        self.pictures: list[tuple[int, int]] = []
        self.loud = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.connection.on("track", self._on_track)

    def _on_track(self, track: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._take(track)))

    async def _take(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.pictures.append((frame.width, frame.height))
                elif np.abs(frame.to_ndarray().astype(np.int32)).max() > 1000:
                    self.loud += frame.samples / frame.sample_rate
        except MediaStreamError:
            return

    async def call(self, url: str, **body: Any) -> None:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        status, answer = await post(f"{url}/v1/webrtc", sdp=self.connection.localDescription.sdp, **body)
        assert status == 200, answer
        await self.connection.setRemoteDescription(RTCSessionDescription(**answer))
        await until(lambda: self.channel.readyState == "open")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    async def aclose(self) -> None:
        await self.connection.close()
        await asyncio.gather(*self._tasks)


async def post(url: str, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


def test_a_call_shows_speaks_and_is_cut() -> None:
    async def main() -> None:
        async with server() as url:
            caller = Caller()
            await caller.call(url, sample_rate=24_000)
            caller.channel.send(tone(0.4, 24_000))
            caller.channel.send('{"type": "utterance.end"}')
            await until(lambda: caller.of("playback.finished"))
            caller.channel.send(tone(20, 24_000)[:48_000])
            await until(lambda: len(caller.of("playback.started")) == 2)
            caller.channel.send('{"type": "interrupt"}')
            await until(lambda: len(caller.of("playback.finished")) == 2)
            whole, cut = caller.of("playback.finished")
            assert (whole["position_samples"], whole["interrupted"]) == (6400, False)
            assert cut["interrupted"] and cut["position_samples"] < 16_000
            await until(lambda: len(caller.pictures) > 10)
            assert set(caller.pictures) == {(128, 128)}
            assert caller.loud >= 0.3
            await caller.aclose()

    asyncio.run(main())


def test_what_is_wrong_with_a_call_is_said() -> None:
    async def main() -> None:
        async with server(sessions=1) as url:
            assert (await post(f"{url}/v1/webrtc", sdp="nonsense"))[0] == 400
            assert (await post(f"{url}/v1/webrtc", sdp="v=0", sample_rate=1))[0] == 400
            assert (await post(f"{url}/v1/webrtc", {"Origin": "http://elsewhere.example"}))[0] == 403
            assert (await post(f"{url}/v1/webrtc", {"Host": "elsewhere.example"}))[0] == 403
            caller = Caller()
            await caller.call(url)
            for message in ("nonsense", '{"type": "state.set", "state": "dancing"}'):
                caller.channel.send(message)
            await until(lambda: len(caller.of("error")) == 2)
            status, full = await post(f"{url}/v1/webrtc", sdp="v=0")
            assert (status, full["error"]["code"]) == (503, "engine_full")
            await caller.aclose()

    asyncio.run(main())


def test_a_server_for_others_wants_a_token() -> None:
    async def main() -> None:
        with pytest.raises(ArgumentError, match="--token"):
            async with serving(Settings(MOCK, {}, access=AccessConfig(host="0.0.0.0")), port=0):
                pass
        async with server(access=AccessConfig(token=KEY)) as url:
            assert (await post(f"{url}/v1/webrtc", {"Authorization": "Bearer wrong"}, sdp=""))[0] == 401
            assert (await post(f"{url}/v1/webrtc", {"Authorization": f"Bearer {KEY}"}, sdp=""))[0] == 400

    asyncio.run(main())


def test_pages_of_an_allowed_origin_may_read_answers() -> None:
    async def main() -> None:
        page = "http://page.example"
        async with server(access=AccessConfig(origins=(page,))) as url, aiohttp.ClientSession() as http:
            for method, status in (("OPTIONS", 204), ("POST", 400)):
                async with http.request(method, f"{url}/v1/webrtc", headers={"Origin": page}) as answer:
                    assert answer.status == status
                    assert answer.headers["Access-Control-Allow-Origin"] == page

    asyncio.run(main())


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    arguments = ["plugs", "--model", "mock", "--port", "0", "--size", "128", "--json"]
    command = [sys.executable, "-m", "apps.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            with urllib.request.urlopen(f"{ready['url']}/compose/ice", timeout=PATIENCE_S) as answer:
                assert json.load(answer) == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    assert main_of(["plugs", "--host", "0.0.0.0", "--model", "mock"]) == EXIT_USAGE


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 48_000])
def test_sound_follows_the_frames_without_a_gap(rate_hz: int) -> None:
    """A tone of any rate comes out as one piece of the same length."""
    pcm, sound, out = tone(1, rate_hz), _Sound(), []
    for index in range(30):
        start, stop = (min(rate_hz, rate_hz * (index + i) // 25) for i in (0, 1))
        said = Sound(pcm[2 * start : 2 * stop], rate_hz) if stop > start else None
        frame = VideoFrame(np.zeros((2, 2, 3), np.uint8), np.zeros(640, np.float32), index * FRAME_US, AvatarState.IDLE)
        out += [packet.to_ndarray()[0] for packet in sound.packets(frame, said)]
    (loud,) = np.nonzero(np.abs(np.concatenate(out).astype(np.int32)) > 0)
    assert loud[-1] - loud[0] == pytest.approx(AUDIO_RATE_HZ, abs=100)
    assert np.diff(loud).max() < 5


def test_simlis_client_speaks_and_interrupts() -> None:
    simli = pytest.importorskip("simli", reason="simli-ai is not installed: make test-plugs")
    from simli.events import SimliEvent

    async def main() -> None:
        async with server(access=AccessConfig(token=KEY)) as url:
            client = simli.SimliClient(KEY, simli.SimliConfig("anna"), simliURL=url)
            await client.start()
            told: list[SimliEvent] = []

            async def note(event: SimliEvent) -> None:
                told.append(event)

            for event in (SimliEvent.SPEAK, SimliEvent.SILENT):
                client.registerEventCallback(event, lambda event=event: note(event))
            await client.sendSilence()
            pictures = aiter(client.getVideoStreamIterator(targetFormat="rgb24"))
            assert (await anext(pictures)).width == 128
            await asyncio.sleep(0.6)
            assert told == [], "silence is nothing to say"
            await client.send(tone(0.5, 16_000))
            await until(lambda: told == [SimliEvent.SPEAK, SimliEvent.SILENT])
            await client.send(tone(30, 16_000))
            await until(lambda: len(told) == 3)
            await client.clearBuffer()
            await until(lambda: len(told) == 4)
            await client.sendImmediate(tone(0.3, 16_000))
            await until(lambda: len(told) == 6)
            assert told == [SimliEvent.SPEAK, SimliEvent.SILENT] * 3
            await client.setCamera(None)
            assert (await anext(pictures)).height == 128, "an order that is not supported must not end the session"
            await client.stop()

    asyncio.run(main())


def test_simlis_client_is_refused_by_name() -> None:
    simli = pytest.importorskip("simli", reason="simli-ai is not installed: make test-plugs")

    async def main() -> None:
        async with server(access=AccessConfig(token=KEY), strict=True) as url:
            with pytest.raises(simli.SimliAPIError) as key:
                await simli.SimliClient("wrong", simli.SimliConfig("anna"), simliURL=url).start()
            assert key.value.code == simli.SimliExceptions.INVALID_API_KEY
            with pytest.raises(simli.SimliAPIError) as face:
                await simli.SimliClient(KEY, simli.SimliConfig("nobody"), simliURL=url).start()
            assert face.value.code == simli.SimliExceptions.INVALID_FACE_ID

    asyncio.run(main())


def test_simlis_client_is_told_why_it_ends() -> None:
    simli = pytest.importorskip("simli", reason="simli-ai is not installed: make test-plugs")

    async def main() -> None:
        async with server() as url:
            client = simli.SimliClient("any", simli.SimliConfig("anna", maxIdleTime=1), simliURL=url)
            await client.start()
            await until(lambda: client.stopReason)
            assert client.stopReason == "IDLE"

    asyncio.run(main())
