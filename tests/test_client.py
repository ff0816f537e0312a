"""The Python client: the engine's verbs over a WebSocket, credit, resuming, pairing, and the server's own errors."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("websockets")
from serving import Running, mock_config, running, tone
from websockets.asyncio.server import ServerConnection, serve

from apps.client import ConnectionLostError, NoServerError, RefusedError, connect
from apps.client.outbox import LIVE_MS, VOICE_MS, Outbox
from apps.client.pictures import WAITING, DamagedPictureError, Frames
from apps.server.access import AccessConfig
from apps.server.errors import UnknownPortraitError
from apps.server.limits import Limits
from apps.server.protocol import AUDIO, HEADER, LAST_PART, VIDEO, VOICE, Media
from apps.server.refusals import UnauthorizedError
from engine.errors import ArgumentError, AudioBufferFullError, FileMissingError, NotAnImageError, SessionClosedError
from engine.events import EventKind, SessionEvent
from engine.session import Interrupted
from engine.types import FRAME_US, SAMPLE_RATE_HZ, VideoFrame

EXAMPLES = Path(__file__).resolve().parent.parent / "apps" / "examples"
PATIENCE_S = 60.0


class Parrot:
    """Speaks by a tone, one tenth of a second a letter."""

    voices = ("default",)

    def say(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        return tone(len(text) / 10, 22_050), 22_050


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(mock_config(limits=Limits(sessions=2), grace_s=5.0), Parrot()) as served:
        yield served


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work

    asyncio.run(bounded())


def with_this_code() -> dict[str, str]:
    """The environment of a program that imports what these tests import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


async def until_end(avatar: Any) -> list[VideoFrame]:
    """Frames up to the last one of an utterance."""
    seen: list[VideoFrame] = []
    async for frame in avatar.frames():
        seen.append(frame)
        if frame.end_of_turn:
            break
    return seen


def test_it_speaks_with_the_engines_verbs(server: Running) -> None:
    events: list[SessionEvent] = []

    async def talk() -> None:
        async with connect(server.url, "anna", on_event=events.append) as avatar:
            avatar.set_state("auto")
            avatar.set_expression("happy", 0.5, at_ms=100)
            avatar.set_pose({"yaw": 5})
            turn_id = avatar.push_audio(tone(1.0, 24_000), 24_000)
            avatar.push_listening_audio(tone(0.1))
            avatar.flush()
            seen = await until_end(avatar)
            await avatar.finished(turn_id)
        spoken = [frame for frame in seen if frame.turn_id == turn_id]
        assert len(spoken) == 25 and spoken[-1].end_of_turn
        assert [b.pts_us - a.pts_us for a, b in zip(seen, seen[1:], strict=False)] == [FRAME_US] * (len(seen) - 1)
        assert spoken[0].image.shape == (128, 128, 3)
        heard, wanted = np.concatenate([frame.audio for frame in spoken]), tone(1.0) / 32_768
        assert np.corrcoef(heard[320:-320], wanted[320:-320])[0, 1] > 0.99, "the sound is not the one that was pushed"

    run(talk())
    assert [(event.kind, event.turn_id) for event in events] == [
        (EventKind.TURN_STARTED, 1),
        (EventKind.TURN_FINISHED, 1),
    ]
    assert events[-1].complete and events[-1].turn_samples == SAMPLE_RATE_HZ


def test_codecs_show_the_same_person(server: Running) -> None:
    async def first_picture(codec: str) -> np.ndarray:
        async with connect(server.url, "anna", codec=codec, quality=95) as avatar:
            async for frame in avatar.frames():
                return frame.image
        raise AssertionError("no frame came")

    async def look() -> None:
        raw = (await first_picture("rgb24")).astype(int)
        for codec in ("jpeg", "h264"):
            difference = (await first_picture(codec)).astype(int) - raw
            assert np.abs(difference.mean((0, 1))).max() < 1.5, f"{codec} shifts the colours"
            assert np.abs(difference).mean() < 4
        cut_out = await first_picture("rgba")
        assert cut_out.shape == (128, 128, 4)
        assert cut_out[70, 64, 3] == 255 and cut_out[4, 2, 3] == 0

    run(look())


def test_an_interrupt_tells_what_was_heard_and_nothing_comes_after_it(server: Running) -> None:
    async def cut_in() -> None:
        async with connect(server.url, "anna") as avatar:
            turn_id = avatar.push_audio(tone(20.0))
            frames = avatar.frames()
            async for frame in frames:
                if frame.turn_samples >= 3_200:
                    break
            heard = await avatar.interrupt()
            assert heard.turn_id == turn_id and 3_200 <= heard.turn_samples < 10 * SAMPLE_RATE_HZ
            assert await avatar.interrupt() == Interrupted(0, 0)
            assert not (await avatar.finished(turn_id)).complete
            after = [await anext(frames) for _ in range(5)]
            assert all(frame.turn_id != turn_id for frame in after)
            assert avatar.push_audio(tone(0.2)) > turn_id

    run(cut_in())


def test_it_speaks_texts_in_order_with_sound(server: Running) -> None:
    async def talk() -> None:
        finished: list[int] = []

        def note(event: SessionEvent) -> None:
            if event.kind is EventKind.TURN_FINISHED:
                finished.append(event.turn_id)

        async with connect(server.url, "anna", codec="none", on_event=note) as avatar:
            first = avatar.push_audio(tone(0.3))
            second = await avatar.speak("four")
            await avatar.finished(second)
            with pytest.raises(ArgumentError):
                await avatar.speak("more", voice="nobody")
        assert finished[:2] == [first, second]

    run(talk())


def test_a_lost_connection_is_resumed(server: Running) -> None:
    async def talk() -> None:
        finished: list[SessionEvent] = []
        async with cuttable(server.url) as (url, cut):
            async with connect(url, "anna", on_event=finished.append) as avatar:
                session = avatar.welcome["session"]
                turn_id = avatar.push_audio(tone(20.0))
                frames = avatar.frames()
                before = next_pts = 0
                async for frame in frames:
                    before = frame.pts_us
                    if frame.turn_samples:
                        break
                cut()
                event = await avatar.finished(turn_id)
                async for frame in frames:
                    next_pts = frame.pts_us
                    if avatar.welcome["resumed"] and frame.turn_id == 0:
                        break
                assert avatar.welcome["session"] == session and next_pts > before
                again = avatar.push_audio(tone(0.2))
                avatar.flush()
                assert (await avatar.finished(again)).complete
        assert (event.complete, event.detail) == (False, "disconnected")
        ends = [one.turn_id for one in finished if one.kind is EventKind.TURN_FINISHED]
        assert ends == [turn_id, again], "each turn ends exactly once"

    run(talk())


@asynccontextmanager
async def cuttable(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A way to a server that can be cut, and another connection made on it."""
    host, port = url.split("/")[2].split(":")
    open_writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        open_writers.extend((writer, back))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    def cut() -> None:
        while open_writers:
            open_writers.pop().transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/avatar", cut
        cut()


def test_refusals_have_the_servers_names(server: Running, tmp_path: Path) -> None:
    async def ask() -> None:
        with pytest.raises(UnknownPortraitError):
            await connect(server.url, "nobody").start()
        with pytest.raises(NotAnImageError):
            await connect(server.url, b"no picture at all").start()
        with pytest.raises(NoServerError, match="visavis serve"):
            await connect("ws://127.0.0.1:9").start()
        with pytest.raises(RefusedError) as refused:
            await connect(server.url.replace("avatar", "other")).start()
        assert refused.value.code == "not_found"

    run(ask())
    with pytest.raises(FileMissingError):
        connect(server.url, tmp_path / "nobody.jpg")
    with pytest.raises(ArgumentError, match="fmp4"):
        connect(server.url, codec="fmp4")
    with pytest.raises(ArgumentError, match="known are"):
        connect(server.url, colour="red")
    with pytest.raises(ArgumentError, match="address"):
        run(connect("localhost:8765").start())


def test_a_token_opens_the_door() -> None:
    token = "a-token-of-enough-length"
    with running(mock_config(access=AccessConfig(token=token))) as served:

        async def ask() -> None:
            with pytest.raises(UnauthorizedError):
                await connect(served.url, token="another-token-of-that-length").start()
            async with connect(served.http, token=token) as avatar:
                assert avatar.welcome["resumed"] is False

        run(ask())


WELCOME = {
    "type": "welcome",
    "protocol": 1,
    "session": "1",
    "epoch": 0,
    "resumed": False,
    "resume": "token",
    "grace_s": 0.5,
    "video": None,
    "audio": {},
    "input": {"sample_rate": 16_000, "live": False, "high_ms": 1_000},
}


@asynccontextmanager
async def scripted(script: Callable[[ServerConnection], Awaitable[None]], **welcome: Any) -> AsyncIterator[str]:
    """A server that welcomes, and then does as it is told."""

    async def answer(socket: ServerConnection) -> None:
        assert json.loads(await socket.recv())["type"] == "hello"
        await socket.send(json.dumps({**WELCOME, **welcome}))
        await script(socket)

    async with serve(answer, "127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{next(iter(listener.sockets)).getsockname()[1]}"


def test_no_more_sound_is_under_way_than_the_server_wants() -> None:
    async def talk() -> None:
        got, enough = 0, asyncio.Event()

        async def script(socket: ServerConnection) -> None:
            nonlocal got
            async for message in socket:
                if isinstance(message, bytes):
                    got += (len(message) - HEADER.size) // 2
                    enough.set()
                    if got == 2 * SAMPLE_RATE_HZ:
                        # So much of it is heard: room for as much more.
                        await socket.send(Media(AUDIO, utterance=1, value=got, payload=bytes(1_280)).to_bytes())

        async with scripted(script) as url, connect(url) as avatar:
            for _ in range(20):
                avatar.push_audio(tone(1.0))
            await enough.wait()
            await asyncio.sleep(0.3)
            assert got == 4 * SAMPLE_RATE_HZ, "one second is wanted ahead of what was heard, and one more is on its way"

    run(talk())


def test_a_server_that_goes_away_ends_every_turn_once_and_the_frames_with_an_error() -> None:
    async def talk() -> None:
        events: list[SessionEvent] = []

        async def script(socket: ServerConnection) -> None:
            await socket.recv()
            await socket.send(json.dumps({"type": "utterance.opened", "event": 1, "utterance": 1}))
            socket.transport.abort()

        async with scripted(script) as url:
            avatar = connect(url, on_event=events.append, resume=False)
            await avatar.start()
            turn_id = avatar.push_audio(tone(0.1))
            waiting = asyncio.create_task(avatar.finished(turn_id))
            with pytest.raises(ConnectionLostError):
                async for _ in avatar.frames():
                    pass
            assert not (await waiting).complete
            with pytest.raises(ConnectionLostError):
                avatar.push_audio(tone(0.1))
            await avatar.aclose()
        assert [event.kind for event in events] == [EventKind.TURN_FINISHED]

    run(talk())


def test_unknown_messages_are_passed_over() -> None:
    async def talk() -> None:
        async def script(socket: ServerConnection) -> None:
            await socket.send(json.dumps({"type": "from.the.future", "event": 1}))
            await socket.send(Media(0x77, payload=b"?").to_bytes())
            await socket.send(b"short")
            await socket.send(json.dumps(["no object"]))
            await socket.send(json.dumps({"type": "notice", "kind": "unheard of"}))
            await socket.send(Media(AUDIO, pts_us=40_000, payload=bytes(1_280)).to_bytes())
            await socket.wait_closed()

        messages: list[Any] = []
        async with scripted(script) as url, connect(url, on_message=messages.append) as avatar:
            frame = await anext(avatar.frames())
            assert frame.pts_us == 40_000
        assert "from.the.future" in [message.get("type") for message in messages]

    run(talk())


def test_a_closed_session_says_so(server: Running) -> None:
    async def talk() -> None:
        avatar = connect(server.url, "anna")
        with pytest.raises(SessionClosedError, match="begun"):
            avatar.push_audio(tone(0.1))
        await avatar.start()
        await avatar.aclose()
        await avatar.aclose()
        with pytest.raises(SessionClosedError, match="closed"):
            avatar.flush()
        assert [frame async for frame in avatar.frames()][WAITING:] == []

    run(talk())


def test_voice_waits_within_bounds() -> None:
    async def fill() -> None:
        box = Outbox()
        box.voice(b"", 1, VOICE_MS)
        with pytest.raises(AudioBufferFullError):
            box.check_room(1)
        box.clear_voice()
        box.check_room(VOICE_MS)
        box.live = True
        for _ in range(10):
            box.voice(b"x", 1, LIVE_MS / 2)
        assert box.voice_ms <= LIVE_MS and box.skipped_ms == 8 * LIVE_MS / 2

    run(fill())


def test_sound_of_left_out_pictures_and_damaged_ones_are_mended() -> None:
    async def take() -> None:
        asked: list[str] = []
        frames = Frames(lambda sequence: asked.append(f"ack {sequence}"), lambda: asked.append("key"))

        def decode(payload: bytes | memoryview) -> np.ndarray:
            if bytes(payload) == b"bad":
                raise DamagedPictureError
            return np.full((2, 2, 3), payload[0], np.uint8)

        frames.begin(decode, epoch=0)
        sound = np.full(640, 3_277, "<i2").tobytes()
        frames.add(Media(VIDEO, sequence=0, pts_us=0, payload=b"\x05"))
        for moment in (1, 2, 3):
            frames.add(Media(AUDIO, utterance=1, value=640 * moment, pts_us=moment * FRAME_US, payload=sound))
        frames.add(Media(VIDEO, sequence=1, utterance=1, value=1_920, pts_us=3 * FRAME_US, payload=b"\x07"))
        frames.add(Media(VIDEO, sequence=2, pts_us=4 * FRAME_US, payload=b"bad"))
        frames.close()
        got = []
        while (frame := await frames.take()) is not None:
            got.append((frame.index, int(frame.image[0, 0, 0]), round(float(frame.audio[0]), 2), frame.frozen))
        assert got == [(0, 5, 0, False), (1, 5, 0.1, True), (2, 5, 0.1, True), (3, 7, 0.1, False), (4, 7, 0, True)]
        assert asked == ["ack 0", "ack 1", "ack 2", "key"]

    run(take())


def test_frames_of_an_earlier_epoch_are_decoded_and_not_shown() -> None:
    async def take() -> None:
        decoded: list[int] = []

        def decode(payload: bytes | memoryview) -> np.ndarray:
            decoded.append(payload[0])
            return np.zeros((2, 2, 3), np.uint8)

        frames = Frames(lambda sequence: None, lambda: None)
        frames.begin(decode, epoch=0)
        for number, epoch in enumerate((0, 0, 1)):
            frames.add(Media(VIDEO, epoch=epoch, sequence=number, pts_us=number * FRAME_US, payload=bytes([number])))
        frames.cut(1)
        frame = await frames.take()
        assert frame is not None and frame.index == 2 and decoded == [0, 1, 2]

    run(take())


def test_the_ten_lines_are_a_chat(server: Running, tmp_path: Path) -> None:
    text = (EXAMPLES / "ten_lines.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    program = tmp_path / "chat.py"
    program.write_text(text.replace("ws://127.0.0.1:8765", server.url))
    done = subprocess.run(
        [sys.executable, program],
        input="hi\n\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=with_this_code(),
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "chat.mp4")) as film:
        assert film.streams.video[0].frames == int(done.stdout.split("you: ")[-1].split()[0])
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in film.decode(audio=0)])
        assert film.metadata["comment"].startswith("This video is AI-generated")
    # "You said: hi" by the parrot.
    assert 1.0 < (np.abs(sound) > 0.05).sum() / SAMPLE_RATE_HZ < 1.5


def test_voice_messages_are_as_the_page_has_them() -> None:
    """The header that docs/protocol.md prints."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "protocol.md").read_text()
    assert Media(VOICE, utterance=1).to_bytes().hex() == "010000000100000000000000000000000000000000000000"
    assert "`01 00 0000 01000000 00000000 00000000 0000000000000000`" in page
    assert Media(VOICE, flags=LAST_PART, utterance=2).to_bytes()[:8].hex() == "0101000002000000"
