"""LiveAvatar LITE, bitHuman and Simli in a LiveKit room: the stock plugins of livekit-agents drive our server.

HTTP and WebSocket are real, on loopback; the LiveKit server between the rooms is tests/livekit_rooms.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: make test-plugs")

import aiohttp  # noqa: E402
from livekit import api, rtc  # noqa: E402
from livekit.agents import AgentSession, APIConnectionError, APIConnectOptions  # noqa: E402

from apps.plugs.avatar import load_engine  # noqa: E402
from apps.plugs.desk import LiveKitAccount, Settings  # noqa: E402
from apps.plugs.livekit_agents import AvatarGenerator  # noqa: E402
from apps.plugs.lookalike import serving  # noqa: E402
from apps.plugs.rooms import WireReceiver  # noqa: E402
from apps.server.access import AccessConfig  # noqa: E402
from tests.livekit_rooms import FakeRoom  # noqa: E402
from tests.plugs import KEY, MOCK, PORTRAIT, tone, until  # noqa: E402

ACCOUNT = {"livekit_url": "ws://127.0.0.1:7880", "livekit_api_key": "key", "livekit_api_secret": "s" * 32}
ONCE = APIConnectOptions(max_retry=1, retry_interval=0.1)


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit.rtc.Room", FakeRoom)
    FakeRoom.rooms.clear()


@asynccontextmanager
async def server(**settings: Any) -> AsyncIterator[str]:
    engine = await load_engine("mock")
    try:
        source = replace(MOCK, engine=engine)
        async with serving(
            Settings(source, {"anna": PORTRAIT}, access=AccessConfig(token=KEY), **settings), port=0
        ) as port:
            yield f"http://127.0.0.1:{port}"
    finally:
        await engine.aclose()


@asynccontextmanager
async def agent_room() -> AsyncIterator[tuple[FakeRoom, aiohttp.ClientSession]]:
    room, token = FakeRoom(), api.AccessToken("key", "s" * 32).with_identity("agent").with_kind("agent")
    await room.connect("ws://127.0.0.1:7880", token.with_grants(api.VideoGrants(room_join=True, room="hall")).to_jwt())
    async with aiohttp.ClientSession() as http:
        yield room, http
    await room.disconnect()


async def say(output: Any, seconds: float, rate_hz: int) -> None:
    pcm, step = tone(seconds, rate_hz), 2 * (rate_hz // 10)
    for start in range(0, len(pcm), step):
        piece = pcm[start : start + step]
        await output.capture_frame(rtc.AudioFrame(piece, rate_hz, 1, len(piece) // 2))
    output.flush()


def listened(agent: AgentSession) -> tuple[Any, list[Any]]:
    """The agent's output, and what it is told as finished."""
    output, finished = agent.output.audio, []
    assert output is not None
    output.on("playback_finished", finished.append)
    return output, finished


def test_liveavatars_plugin_speaks_and_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    liveavatar = pytest.importorskip("livekit.plugins.liveavatar", reason="the plugin is not installed")
    order: list[str | None] = []
    set_state, ended = AvatarGenerator.set_state, WireReceiver.notify_playback_finished

    def noting(generator: AvatarGenerator, state: str | None) -> None:
        order.append(state)
        set_state(generator, state)

    def noting_end(receiver: WireReceiver, playback_position: float, interrupted: bool) -> None:
        order.append("end")
        ended(receiver, playback_position, interrupted)

    monkeypatch.setattr(AvatarGenerator, "set_state", noting)
    monkeypatch.setattr(WireReceiver, "notify_playback_finished", noting_end)

    async def main() -> None:
        async with server() as url, agent_room() as (room, http):
            avatar = liveavatar.AvatarSession(avatar_id="anna", api_url=f"{url}/v1/sessions", api_key=KEY)
            avatar._api._session = http
            agent = AgentSession()
            await avatar.start(agent, room, **ACCOUNT)
            output, finished = listened(agent)
            await avatar.wait_for_join(timeout=20)
            await say(output, 0.7, 24_000)
            await until(lambda: finished)
            assert not finished[0].interrupted
            assert finished[0].playback_position == pytest.approx(0.7, abs=0.01)
            # The plugin says start_listening as soon as it has sent an utterance, long before it was heard.
            assert order[-2:] == ["end", "listening"] and order.count("listening") == 1
            await say(output, 20, 24_000)
            await until(lambda: avatar._avatar_speaking)
            output.clear_buffer()
            await until(lambda: avatar._avatar_interrupted)
            await asyncio.sleep(0.3)
            assert [event.interrupted for event in finished] == [False, True]
            (face,) = room.remote_participants.values()
            assert set(face.track_publications) == {"avatar_audio", "avatar_video"}
            avatar._msg_ch.close()
            await until(lambda: not room.remote_participants)
            await avatar.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("options", [{"model": "expression"}, {}], ids=["form", "json"])
def test_bithumans_plugin_gets_a_worker_that_speaks(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    bithuman = pytest.importorskip("livekit.plugins.bithuman", reason="the plugin is not installed: make test-plugs")
    job = SimpleNamespace(local_participant_identity="agent")
    monkeypatch.setattr("livekit.plugins.bithuman.avatar.get_job_context", lambda: job)

    async def main() -> None:
        async with server() as url, agent_room() as (room, http):
            avatar = bithuman.AvatarSession(
                api_url=f"{url}/bithuman", api_secret=KEY, avatar_image=str(PORTRAIT), **options
            )
            avatar._http_session = http
            agent = AgentSession()
            await avatar.start(agent, room, **ACCOUNT)
            output, finished = listened(agent)
            await say(output, 0.3, 24_000)
            await until(lambda: finished)
            assert finished[0].playback_position == pytest.approx(0.3, abs=0.01)
            await avatar.aclose()

    asyncio.run(main())


def test_bithumans_plugin_is_refused_with_a_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    bithuman = pytest.importorskip("livekit.plugins.bithuman", reason="the plugin is not installed: make test-plugs")
    job = SimpleNamespace(local_participant_identity="agent")
    monkeypatch.setattr("livekit.plugins.bithuman.avatar.get_job_context", lambda: job)

    async def main() -> None:
        async with server() as url, agent_room() as (room, http):
            avatar = bithuman.AvatarSession(
                api_url=f"{url}/bithuman", api_secret="wrong", avatar_id="anna", model="expression", conn_options=ONCE
            )
            avatar._http_session = http
            with pytest.raises(APIConnectionError):
                await avatar.start(AgentSession(), room, **ACCOUNT)

    asyncio.run(main())


def test_simlis_livekit_plugin_gets_a_worker_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    simli = pytest.importorskip("livekit.plugins.simli", reason="the plugin is not installed: make test-plugs")
    job = SimpleNamespace(local_participant_identity="agent")
    monkeypatch.setattr("livekit.plugins.simli.avatar.get_job_context", lambda: job)

    async def main() -> None:
        async with server() as url, agent_room() as (room, http):
            monkeypatch.setattr("livekit.agents.utils.http_context.http_session", lambda: http)
            avatar = simli.AvatarSession(simli_config=simli.SimliConfig(KEY, "anna"), api_url=url)
            agent = AgentSession()
            await avatar.start(agent, room, **ACCOUNT)
            output, finished = listened(agent)
            await say(output, 0.3, 16_000)
            await until(lambda: finished)
            assert finished[0].playback_position == pytest.approx(0.3, abs=0.01)
            await avatar.aclose()

    asyncio.run(main())


def test_simlis_client_in_livekit_mode_hears_of_its_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    simli = pytest.importorskip("simli", reason="simli-ai is not installed: make test-plugs")
    from simli.events import SimliEvent
    from simli.simli import TransportMode

    async def main() -> None:
        account = LiveKitAccount(ACCOUNT["livekit_url"], "key", "s" * 32)
        async with server(livekit=account) as url:
            config = simli.SimliConfig("anna")
            client = simli.SimliClient(KEY, config, simliURL=url, transport_mode=TransportMode.LIVEKIT)
            await client.start()
            told = []

            async def note(event: SimliEvent) -> None:
                told.append(event)

            for event in (SimliEvent.SPEAK, SimliEvent.SILENT):
                client.registerEventCallback(event, lambda event=event: note(event))
            await client.send(tone(0.4, 16_000))
            await until(lambda: told == [SimliEvent.SPEAK, SimliEvent.SILENT])
            await client.stop()

    asyncio.run(main())


def test_pipecats_liveavatar_api_opens_and_stops_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    heygen = pytest.importorskip("pipecat.services.heygen.api_liveavatar", reason="pipecat-ai is not installed")

    async def main() -> None:
        account = LiveKitAccount(ACCOUNT["livekit_url"], "key", "s" * 32)
        async with server(livekit=account) as url, aiohttp.ClientSession() as http:
            # Pipecat has no option for the address.
            monkeypatch.setattr(heygen.LiveAvatarApi, "BASE_URL", f"{url}/v1")
            client = heygen.LiveAvatarApi(KEY, http)
            session = await client.new_session(heygen.LiveAvatarNewSessionRequest(avatar_id="anna"))
            assert session.livekit_url == account.url
            async with http.ws_connect(session.ws_url) as ws:
                states = [json.loads((await ws.receive()).data)["state"] for _ in range(2)]
                assert states == ["connecting", "connected"]
                await client.close_session(session.session_id)
                assert json.loads((await ws.receive()).data)["state"] == "closed"

    asyncio.run(main())
