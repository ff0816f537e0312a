"""A server and its clients over real sockets, with the model that needs no weights."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

from serving import AUDIO, LISTENING, PORTRAITS, VIDEO, Peer, Running, mock_config, peer, running, tone
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from apps.server.app import AvatarServer
from apps.server.limits import Limits


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(mock_config(limits=Limits(sessions=6), grace_s=1.0)) as one:
        yield one


def finished(one: Peer) -> list[tuple[int, str, int]]:
    return [(m["utterance"], m["reason"], m["position_samples"]) for m in one.of_type("playback.finished")]


def test_an_utterance_comes_back_whole_and_paired(server: Running) -> None:
    voice = tone(1.0)

    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)
            for start in range(0, len(voice), 700):
                await one.sound(voice[start : start + 700], utterance=3, last=start + 700 >= len(voice))
            await one.until_type("playback.finished")
            await one.tell("bye")
            assert (await one.closed())[0] == 1000
            return one

    one = asyncio.run(talk())
    sounds, videos = one.media(AUDIO), one.media(VIDEO)
    assert [s.sequence for s in sounds] == list(range(25))
    assert [s.value for s in sounds] == [640 * i for i in range(25)]
    assert {s.utterance for s in sounds} == {3}
    heard = np.concatenate([np.frombuffer(s.payload, "<i2") for s in sounds]).astype(int)
    assert np.abs(heard - voice).max() <= 1
    assert [v.sequence for v in videos] == list(range(len(videos)))
    assert np.diff([v.pts_us for v in videos]).tolist() == [40_000] * (len(videos) - 1)
    assert {s.pts_us for s in sounds} <= {v.pts_us for v in videos}
    assert sounds[0].flags & 8 and sounds[-1].flags & 4 and not any(s.flags & 12 for s in sounds[1:-1])
    assert finished(one) == [(3, "complete", 16_000)]
    started = one.of_type("playback.started")
    assert [m["pts_us"] for m in started] == [sounds[0].pts_us]
    assert one.heard.index(started[0]) < one.heard.index(sounds[0])
    assert [m["event"] for m in one.said if "event" in m] == [1, 2, 3]
    assert one.said[-1]["type"] == "goodbye"


def test_every_way_an_utterance_ends_is_told_once(server: Running) -> None:
    async def talk() -> Peer:
        async with peer(server.url, input={"sample_rate": 24_000}) as one:
            await one.tell("utterance.start", utterance=1, id="first")
            await one.tell("utterance.end", utterance=1)
            await one.tell("utterance.end", utterance=1)
            await one.sound(tone(0.2, 24_000), utterance=2)
            await one.sound(b"", utterance=4, last=True)
            await one.sound(tone(0.2, 24_000))
            await one.sound(tone(0.1, 24_000), utterance=4)
            await one.tell("utterance.end")
            await one.until_type("playback.finished", utterance=5)
            await one.sound(tone(0.1), utterance=2, last=True)
            await one.tell("utterance.start", utterance=5, id="late")
            await one.until_type("error", id="late")
            await one.sound(tone(5, 24_000), utterance=6)
            await one.until_type("playback.started", utterance=6)
            await one.tell("bye")
            await one.closed()
            return one

    one = asyncio.run(talk())
    assert [(u, why) for u, why, _ in finished(one)] == [
        (1, "empty"),
        (2, "complete"),
        (4, "empty"),
        (5, "complete"),
        (6, "closed"),
    ]
    assert [m["utterance"] for m in one.of_type("utterance.opened")] == [1, 2, 4, 5, 6]
    assert one.of_type("utterance.opened")[0]["id"] == "first"
    assert one.of_type("error")[0]["code"] == "utterance_order"
    assert {position for u, _, position in finished(one) if u in (2, 5)} == {3200}


def test_an_interrupt_is_answered_once_and_nothing_old_follows(server: Running) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.sound(tone(5), utterance=1, last=True)
            await one.sound(tone(1), utterance=2)
            await one.until_media(AUDIO, lambda m: m.sequence == 8)
            await one.tell("interrupt", id=1)
            await one.tell("interrupt", id=2)
            await one.tell("interrupt", utterance=1, id=3)
            await one.sound(tone(0.5), utterance=2)
            await one.sound(tone(0.1), utterance=3, last=True)
            await one.until_type("playback.finished", utterance=3)
            return one

    one = asyncio.run(talk())
    first, *others = one.of_type("interrupted")
    assert (first["id"], first["epoch"], first["utterance"], first["utterances"]) == (1, 1, 1, [1, 2])
    assert [(m["id"], m["epoch"], m["utterance"], m["utterances"]) for m in others] == [
        (2, 1, None, []),
        (3, 1, None, []),
    ]
    cut = one.heard.index(first)
    sent = [m for m in one.heard[:cut] if not isinstance(m, dict) and m.kind == AUDIO and m.utterance == 1]
    assert first["position_samples"] in (640 * len(sent), 640 * (len(sent) + 1))
    assert finished(one)[:2] == [(1, "interrupted", first["position_samples"]), (2, "interrupted", 0)]
    later = [m for m in one.heard[cut:] if not isinstance(m, dict)]
    assert {m.epoch for m in later} == {1}
    assert {m.utterance for m in later} <= {0, 3}
    assert finished(one)[2][:2] == (3, "complete")


def test_an_interrupt_before_the_first_frame(server: Running) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.until_type("welcome")
            await one.sound(tone(3), utterance=1)
            await one.tell("interrupt", id=1)
            await one.until_type("playback.finished")
            await one.until_media(VIDEO, lambda m: m.epoch == 1)
            return one

    one = asyncio.run(talk())
    assert finished(one) == [(1, "interrupted", 0)]
    assert not one.of_type("playback.started")


@pytest.mark.parametrize("codec", ["h264", "fmp4", "jpeg", "rgb24"])
def test_pictures_can_be_decoded(server: Running, codec: str) -> None:
    async def look() -> Peer:
        async with peer(server.url, video={"codec": codec, "size": 128}, portrait={"library": "anna"}) as one:
            await one.until_media(VIDEO, lambda m: m.sequence == 8)
            await one.tell("keyframe", id=1)
            await one.until_type("ok", id=1)
            await one.until_media(VIDEO, lambda m: bool(m.flags & 1), after=len(one.heard))
            await one.until_media(VIDEO, after=len(one.heard))
            return one

    one = asyncio.run(look())
    videos = one.media(VIDEO)
    welcome = one.of_type("welcome")[0]["video"]
    assert (welcome["codec"], welcome["width"], welcome["fps"]) == (codec, 128, 25)
    if codec in ("h264", "fmp4"):
        stream = io.BytesIO(b"".join(v.payload for v in videos))
        with av.open(stream, format="h264" if codec == "h264" else "mp4") as film:
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert welcome["codec_string"].startswith("avc1.42")
        assert (codec == "fmp4") == bool(videos[0].flags & 2)
        assert len(pictures) == len(videos) - (codec == "fmp4")
    elif codec == "jpeg":
        pictures = [cv2.imdecode(np.frombuffer(v.payload, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for v in videos]
    else:
        pictures = [np.frombuffer(v.payload, np.uint8).reshape(128, 128, 3) for v in videos]
    anna = server.ask(lambda s: s.house.desk._faces["anna", 128, False]).picture[0]
    wanted = ((anna.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255)
    assert np.abs(pictures[-1].astype(float) - wanted).mean() < 4


def test_a_person_without_the_background(server: Running) -> None:
    async def look() -> Peer:
        async with peer(server.url, video={"codec": "rgba", "size": 128}, portrait={"library": "anna"}) as one:
            await one.until_media(VIDEO, lambda m: m.sequence == 2)
            return one

    picture = np.frombuffer(asyncio.run(look()).media(VIDEO)[-1].payload, np.uint8).reshape(128, 128, 4)
    assert picture[64, 64, 3] == 255 and picture[4, 4, 3] < 128


def test_states_and_cues(server: Running) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)
            await one.tell("state.set", state="listening", id=1)
            await one.until_type("state.changed", to="listening")
            await one.tell("expression.set", vector={"happy": 0.5, "sad": 0.1}, delay_ms=10, id=2)
            await one.tell("pose.set", angles={"yaw": 10}, at_ms=0, utterance=7, id=3)
            await one.tell("expression.set", name="glum", id=4)
            await one.tell("ping", t=5, id=5)
            await one.sound(tone(0.1), kind=LISTENING)
            await one.sound(b"odd", utterance=7)
            await one.sound(tone(0.1), utterance=7, value=5)
            await one.sound(tone(0.1), utterance=7, last=True)
            await one.until_type("playback.finished")
            return one

    one = asyncio.run(talk())
    assert [m["id"] for m in one.of_type("ok")] == [1, 2, 3]
    assert [(m["code"], m.get("id"), m.get("utterance")) for m in one.of_type("error")] == [
        ("bad_field", 4, None),
        ("audio_format", None, 7),
        ("audio_format", None, 7),
    ]
    assert one.of_type("pong")[0]["t"] == 5
    assert finished(one) == [(7, "complete", 1600)]
    changed = one.of_type("state.changed")[-1]
    frame = next(m for m in one.media(VIDEO) if m.pts_us == changed["pts_us"])
    assert frame.flags >> 4 & 3 == 1


@pytest.mark.parametrize(
    ("hello", "code", "close"),
    [
        ({"protocol": 2}, "unsupported_version", 1002),
        ({"video": {"codec": "vp8"}}, "unsupported_codec", 1002),
        ({"video": {"size": 130}}, "bad_field", 1002),
        ({"portrait": {"library": "../anna"}}, "unknown_portrait", 4006),
        ({"portrait": {"upload_bytes": 9_000_000}}, "bad_field", 1002),
        ({"resume": "nobody"}, "session_gone", 4005),
    ],
)
def test_a_hello_that_cannot_be_served(server: Running, hello: dict[str, object], code: str, close: int) -> None:
    async def talk() -> tuple[Peer, int | None, str | None]:
        async with peer(server.url, **hello) as one:
            return one, *await one.closed()

    one, got, reason = asyncio.run(talk())
    assert (got, reason) == (close, code)
    assert [(m["code"], m["fatal"]) for m in one.said] == [(code, True)]
    assert server.ask(lambda s: s.gate.taken) == 0


@pytest.mark.parametrize(
    ("message", "code", "close"),
    [
        ("no json", "bad_message", 1007),
        (b"short", "bad_header", 1002),
        ('{"type":"hello","protocol":1}', "hello_expected", 1002),
    ],
)
def test_what_breaks_the_protocol_ends_the_session(
    server: Running, message: str | bytes, code: str, close: int
) -> None:
    async def talk() -> tuple[Peer, int | None]:
        async with peer(server.url) as one:
            await one.sound(tone(2), utterance=1)
            await one.until_type("playback.started")
            await one.socket.send(message)
            return one, (await one.closed())[0]

    one, got = asyncio.run(talk())
    assert got == close
    assert one.said[-1]["code"] == code and one.said[-1]["fatal"]
    assert [why for _, why, _ in finished(one)] == ["closed"]


def test_a_lost_client_comes_back_and_misses_no_event(server: Running) -> None:
    async def talk() -> tuple[Peer, Peer]:
        async with peer(server.url) as one:
            welcome = await one.until_type("welcome")
            await one.sound(tone(5), utterance=1)
            await one.until_type("playback.started")
            await one.until_media(VIDEO)
            one.cut_wire()
        await asyncio.sleep(0.2)
        assert server.ask(lambda s: s.gate.taken) == 1
        async with peer(server.url, resume=welcome["resume"], after=1) as two:
            await two.until_type("playback.finished")
            await two.until_media(VIDEO)
            await two.sound(tone(0.1), last=True)
            await two.until_type("playback.finished", utterance=2)
            async with peer(server.url, resume=welcome["resume"]) as three:
                assert (await three.closed()) == (4005, "session_gone")
            async with peer(server.url, resume=two.of_type("welcome")[0]["resume"], after=99) as four:
                await four.until_media(VIDEO)
                assert (await two.closed()) == (4000, "replaced")
                await four.tell("bye")
                await four.closed()
        return one, two

    one, two = asyncio.run(talk())
    first, again = one.of_type("welcome")[0], two.of_type("welcome")[0]
    assert (again["session"], again["resumed"], again["epoch"]) == (first["session"], True, 1)
    assert again["resume"] != first["resume"]
    assert [(m["type"], m["event"]) for m in two.said if "event" in m][:2] == [
        ("playback.started", 2),
        ("playback.finished", 3),
    ]
    assert [(u, why) for u, why, _ in finished(two)] == [(1, "disconnected"), (2, "complete")]
    assert two.media(VIDEO)[0].pts_us > one.media(VIDEO)[-1].pts_us
    assert two.media(VIDEO)[0].sequence == 0


def test_a_session_that_nobody_comes_back_to_ends(server: Running) -> None:
    async def vanish() -> None:
        async with peer(server.url) as one:
            await one.until_type("welcome")
            one.cut_wire()
        await asyncio.sleep(0.3)
        assert server.ask(lambda s: (s.gate.taken, len(s.house.seats))) == (1, 1)
        await asyncio.sleep(1.5)

    asyncio.run(vanish())
    assert server.ask(lambda s: (s.gate.taken, len(s.house.seats))) == (0, 0)


def test_a_reader_that_acknowledges_nothing_gets_its_window_and_then_the_newest(server: Running) -> None:
    async def watch() -> Peer:
        async with peer(server.url, video={"codec": "h264", "size": 128, "window": 4}) as one:
            one.acknowledges = False
            await one.until_media(VIDEO, lambda m: m.sequence == 3)
            await asyncio.sleep(0.6)
            assert len(one.media(VIDEO)) == 4
            waiting = server.ask(lambda s: s.house.seats.all[0].session.outbox._waiting)
            assert sum(frame.image is not None for frame in waiting) <= 2 and len(waiting) <= 50
            one.acknowledges = True
            await one.tell("ack", sequence=3)
            await one.until_media(VIDEO, lambda m: m.sequence == 12)
            return one

    videos = asyncio.run(watch()).media(VIDEO)
    assert videos[4].pts_us - videos[3].pts_us > 400_000
    assert [v.sequence for v in videos] == list(range(len(videos)))
    assert np.diff([v.pts_us for v in videos[5:]]).max() <= 80_000
    with av.open(io.BytesIO(b"".join(v.payload for v in videos)), format="h264") as film:
        assert len(list(film.decode(video=0))) == len(videos)


def test_sound_is_kept_while_pictures_are_not_taken(server: Running) -> None:
    async def listen() -> Peer:
        async with peer(server.url, video={"codec": "jpeg", "size": 128, "window": 2}) as one:
            one.acknowledges = False
            await one.until_media(VIDEO, lambda m: m.sequence == 1)
            await one.sound(tone(0.5), last=True)
            await asyncio.sleep(1.0)
            one.acknowledges = True
            await one.tell("ack", sequence=1)
            await one.until_type("playback.finished")
            return one

    one = asyncio.run(listen())
    heard = np.concatenate([np.frombuffer(s.payload, "<i2") for s in one.media(AUDIO)])
    assert np.abs(heard[:8000].astype(int) - tone(0.5)).max() <= 1
    assert finished(one) == [(1, "complete", 8000)]


def test_too_much_sound_is_told_before_it_is_refused(server: Running) -> None:
    minute = np.zeros(16_000 * 8, np.int16)

    async def flood() -> Peer:
        async with peer(server.url) as one:
            for _ in range(16):
                await one.sound(minute, utterance=1)
            await one.until_type("error")
            await one.tell("interrupt")
            await one.until_type("audio.buffer", paused=False)
            return one

    one = asyncio.run(flood())
    assert one.of_type("error")[0]["code"] == "audio_buffer_full"
    assert [m["paused"] for m in one.of_type("audio.buffer")] == [True, False]


def test_a_portrait_of_ones_own(server: Running) -> None:
    picture = (PORTRAITS / "mei.jpg").read_bytes()

    async def bring(data: bytes, announced: int) -> tuple[Peer, int | None]:
        async with peer(server.url, portrait={"upload_bytes": announced}) as one:
            wanted = await one.until_type("portrait.wanted")
            size = wanted["chunk_bytes"]
            for start in range(0, len(data), size):
                part = data[start : start + size]
                await one.sound(part, kind=3, value=start, last=start + size >= len(data))
            ended = (
                await one.until_type("welcome") if announced == len(data) and data == picture else await one.closed()
            )
            if isinstance(ended, dict):
                await one.until_media(VIDEO)
                await one.tell("bye")
            return one, (await one.closed())[0]

    one, close = asyncio.run(bring(picture, len(picture)))
    assert one.of_type("welcome")[0]["portrait"] == {"library": None} and close == 1000
    one, close = asyncio.run(bring(picture, len(picture) - 1))
    assert (one.said[-1]["code"], close) == ("upload_mismatch", 4006)
    one, close = asyncio.run(bring(b"no picture" * 40, 400))
    assert (one.said[-1]["code"], close) == ("not_an_image", 4006)


def test_what_get_requests_are_answered(server: Running) -> None:
    def get(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(server.http + path, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    info = json.loads(get("/v1/info")[1])
    assert info["portraits"][0] == "anna" and info["codecs"][0] == "h264" and info["ready"] and info["capacity"] == 6
    assert get("/v1/portraits/anna.jpg")[1].startswith(b"\xff\xd8")
    assert get("/v1/portraits/..%2Fanna.jpg")[0] == 404
    assert get("/healthz") == (200, b"ok\n")
    assert get("/readyz")[0] == 200
    assert b"visavis_sessions_opened_total" in get("/metrics")[1]
    assert get("/v1/avatar")[0] == 426
    assert get("/nothing/there")[0] == 404
    assert get("/..%2f..%2fpyproject.toml")[0] == 404


def test_the_wire_holds_nothing_back(server: Running) -> None:
    async def look() -> tuple[int, list[str]]:
        async with peer(server.url) as one:
            await one.until_type("welcome")

            def no_delay(s: AvatarServer) -> int:
                (connection,) = s._connections
                plain = connection._socket.transport.get_extra_info("socket")
                return int(plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

            return server.ask(no_delay), one.socket.response.headers.get_all("Sec-WebSocket-Extensions")

    no_delay, extensions = asyncio.run(look())
    assert no_delay and not extensions


def test_metrics_come_each_second(server: Running) -> None:
    async def wait() -> dict[str, object]:
        async with peer(server.url) as one:
            return await one.until_type("metrics")

    metrics = asyncio.run(wait())
    assert metrics["frames_sent"] and metrics["first_frame_ms"] and metrics["fps"]
    assert metrics["buffered_ms"] == 0 and metrics["answer_ms"] == {"p50": None, "p95": None}


def test_a_server_that_is_full_says_so_before_the_upgrade_and_drains() -> None:
    config = replace(mock_config(), limits=Limits(sessions=1, drain_s=5.0))

    async def crowd(server: Running) -> tuple[Peer, object, object]:
        async with peer(server.url) as one:
            await one.until_type("welcome")
            full = await _refused(server.url)
            server.start(lambda s: s.drain(0.6))
            await one.until_type("draining")
            draining = await _refused(server.url)
            await one.sound(tone(0.1), last=True)
            await one.until_type("playback.finished")
            assert (await one.closed())[0] == 1001
            return one, full, draining

    with running(config) as server:
        one, full, draining = asyncio.run(crowd(server))
    assert full == (503, "engine_full", "5") and draining == (503, "draining", "5")
    assert one.of_type("draining")[0]["seconds"] == 0.6


async def _refused(url: str) -> tuple[int, str, str | None]:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url):
            pass
    answer = caught.value.response
    return answer.status_code, json.loads(answer.body)["error"]["code"], answer.headers.get("Retry-After")
