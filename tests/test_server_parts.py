"""What a server is made of, without a socket: the order of what is sent, utterances, uploads, fragments."""

from __future__ import annotations

import asyncio
import io
import json

import av
import numpy as np
import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

from virtual_time import run_virtual

from apps.server.desk import Upload
from apps.server.errors import SlowReaderError, UploadMismatchError, UtteranceOrderError
from apps.server.health import Figures
from apps.server.messages import KEPT_EVENTS, Journal
from apps.server.outbox import MAX_CONTROLS, MAX_FRAMES, MAX_PICTURES, STALLED_S, Coming, Outbox, Outgoing
from apps.server.protocol import AUDIO, CHUNK_BYTES, VIDEO, Media, parse_binary
from apps.server.stats import Stats
from apps.server.utterances import MAX_LIVE, Utterances
from apps.server.video import ENCODERS, Encoded, Pixels
from engine.errors import AudioBufferFullError


class Wire:
    """A client's end. gate: reading goes on while it is set; encode_s: what a picture takes."""

    def __init__(self, window: int = 0, encode_s: float = 0.002, head: bytes = b"") -> None:
        self.got: list[str | Media] = []
        self.keys: list[bool] = []
        self.encode_s = encode_s
        self.gate = asyncio.Event()
        self.gate.set()
        self.outbox = Outbox(self._send, self._encode, head, window, 0, Stats(0, Figures()))
        works = (self.outbox.encode_all(), self.outbox.send_all())
        self._tasks = [asyncio.create_task(work) for work in works]

    async def _send(self, message: str | bytes) -> None:
        await self.gate.wait()
        self.got.append(message if isinstance(message, str) else parse_binary(message))

    async def _encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        await asyncio.sleep(self.encode_s)
        self.keys.append(key)
        return Encoded(b"key" if key else b"delta", key)

    @property
    def videos(self) -> list[Media]:
        return [m for m in self.got if isinstance(m, Media) and m.kind == VIDEO]

    @property
    def sounds(self) -> list[Media]:
        return [m for m in self.got if isinstance(m, Media) and m.kind == AUDIO]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def frame(number: int, epoch: int = 0, said: str = "") -> Outgoing:
    marks = [lambda: said] if said else []
    return Outgoing(epoch, 40_000 * number, 0, 1, 640 * number, np.zeros((2, 2, 3), np.uint8), b"pcm", 0, marks)


def test_a_stuck_client_costs_bounded_memory_and_gets_the_newest() -> None:
    async def script() -> None:
        wire = Wire()
        wire.gate.clear()
        for number in range(500):
            wire.outbox.put(frame(number, said=f"said {number}"))
            await asyncio.sleep(0.04)
            assert wire.outbox.queue <= MAX_FRAMES + 1
            pictures = [one for one in wire.outbox._waiting if one.image is not None]
            assert len(pictures) <= MAX_PICTURES
        wire.gate.set()
        await asyncio.sleep(1)
        await wire.close()
        assert [v.pts_us // 40_000 for v in wire.videos][-2:] == [498, 499]
        assert len(wire.videos) <= 2 + MAX_PICTURES
        assert len(wire.sounds) <= MAX_FRAMES + 2
        # What is said with a frame is said even when the frame is not sent.
        assert [m for m in wire.got if isinstance(m, str)] == [f"said {number}" for number in range(500)]

    run_virtual(script())


def test_a_picture_that_is_known_is_encoded_before_its_moment() -> None:
    """At its moment it only has to be sent; one that takes its place is a key frame."""

    async def script() -> None:
        wire = Wire(encode_s=0.03)
        frames = [frame(number) for number in range(4)]
        wire.outbox.put(frames[0], Coming(frames[1].image, frames[1].pts_us))
        await asyncio.sleep(0.1)
        assert wire.keys == [True, False]
        assert len(wire.videos) == 1
        wire.outbox.put(frames[1], Coming(frames[2].image, frames[2].pts_us))
        await asyncio.sleep(0.001)
        assert [v.pts_us // 40_000 for v in wire.videos] == [0, 1]
        await asyncio.sleep(0.1)
        # The engine planned anew, and another picture is due.
        other = frame(2)
        wire.outbox.put(other, Coming(frames[3].image, frames[3].pts_us))
        await asyncio.sleep(0.1)
        assert [bytes(v.payload) for v in wire.videos] == [b"key", b"delta", b"key"]
        # An interrupt drops nothing of a picture that is still to come.
        wire.outbox.cut(1)
        frames[3].epoch = 1
        wire.outbox.put(frames[3])
        await asyncio.sleep(0.001)
        assert [v.pts_us // 40_000 for v in wire.videos] == [0, 1, 2, 3]
        await wire.close()
        assert wire.keys == [True, False, False, True, False]

    run_virtual(script())


def test_nothing_is_encoded_ahead_for_a_client_without_room() -> None:
    async def script() -> None:
        wire = Wire(window=1, encode_s=0.03)
        frames = [frame(number) for number in range(3)]
        wire.outbox.put(frames[0], Coming(frames[1].image, frames[1].pts_us))
        await asyncio.sleep(0.1)
        assert wire.keys == [True]
        wire.outbox.acknowledge(0)
        await asyncio.sleep(0.1)
        assert wire.keys == [True, False]
        await wire.close()

    run_virtual(script())


def test_a_picture_that_was_made_again_takes_the_place_of_the_first() -> None:
    """x264 takes one moment twice, and fragments stay without a gap or an overlap."""
    pictures = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    encoder = ENCODERS["fmp4"](64, 80)
    parts = [encoder.encode(pictures[0], 0, True), encoder.encode(pictures[1], 80_000, False)]
    again = encoder.encode(pictures[2], 80_000, True)
    after = encoder.encode(pictures[3], 120_000, False)
    assert again.key
    film = io.BytesIO(encoder.head + parts[0].payload + again.payload + after.payload)
    with av.open(film) as container:
        times = [(p.pts, p.duration) for p in container.demux(video=0) if p.size]
    ends = [pts + duration for pts, duration in times]
    assert [pts for pts, _ in times][1:] == ends[:-1]


def test_controls_overtake_media_and_an_interrupt_drops_them() -> None:
    async def script() -> None:
        wire = Wire(encode_s=0.03)
        wire.outbox.put(frame(0))
        await asyncio.sleep(0.1)
        wire.outbox.put(frame(1))
        wire.outbox.put(frame(2))
        await asyncio.sleep(0.01)
        wire.outbox.say("interrupted")
        wire.outbox.cut(1)
        wire.outbox.put(frame(3, epoch=1))
        await asyncio.sleep(0.2)
        await wire.close()
        assert wire.got[2] == "interrupted"
        assert [(m.epoch, m.pts_us) for m in wire.got[3:] if isinstance(m, Media)] == [(1, 120_000)] * 2
        # Frame 1 was encoded and not sent, so nothing may refer to it.
        assert wire.keys == [True, False, True]
        assert [v.sequence for v in wire.videos] == [0, 1]

    run_virtual(script())


def test_an_interrupt_while_a_frame_is_being_sent() -> None:
    async def script() -> None:
        wire = Wire()
        wire.outbox.put(frame(0))
        wire.gate.clear()
        await asyncio.sleep(0.1)
        wire.outbox.say("interrupted")
        wire.outbox.cut(1)
        wire.gate.set()
        await asyncio.sleep(0.1)
        await wire.close()
        assert [m if isinstance(m, str) else m.kind for m in wire.got] == [AUDIO, "interrupted"]

    run_virtual(script())


def test_a_window_bounds_what_is_under_way() -> None:
    async def script() -> None:
        wire = Wire(window=3, head=b"init")
        for number in range(10):
            wire.outbox.put(frame(number))
            await asyncio.sleep(0.04)
        assert [v.payload for v in wire.videos] == [b"init", b"key", b"delta"]
        assert wire.outbox.in_flight == 3
        wire.outbox.acknowledge(1)
        wire.outbox.acknowledge(0)
        await asyncio.sleep(0.1)
        assert len(wire.videos) == 5 and wire.outbox.in_flight == 3
        wire.outbox.acknowledge(2**32 - 1)
        await asyncio.sleep(0.1)
        assert wire.outbox.in_flight == 0
        await wire.close()

    run_virtual(script())


@pytest.mark.parametrize("window", [0, 4])
def test_a_client_that_takes_nothing_is_found(window: int) -> None:
    async def script() -> None:
        wire = Wire(window)
        if not window:
            wire.gate.clear()
        for number in range(round(STALLED_S * 25)):
            wire.outbox.put(frame(number))
            await asyncio.sleep(0.04)
            if number < STALLED_S * 24:
                wire.outbox.check_moving()
        await asyncio.sleep(1)
        with pytest.raises(SlowReaderError):
            wire.outbox.check_moving()
        await wire.close()

    run_virtual(script())


def test_a_client_that_asks_and_never_reads_is_found() -> None:
    async def script() -> None:
        wire = Wire()
        wire.gate.clear()
        for _ in range(MAX_CONTROLS + 2):
            wire.outbox.say("ok")
        with pytest.raises(SlowReaderError):
            wire.outbox.check_moving()
        await wire.close()

    run_virtual(script())


def test_utterances_finish_once_and_in_order() -> None:
    utterances = Utterances()
    first = utterances.begin(0)
    assert utterances.takes(0) is first and utterances.takes(1) is first and utterances.takes(2) is None
    first.complete = first.handed_over = True
    first.turn_id = 7
    empty = utterances.begin(5)
    empty.complete = empty.handed_over = True
    assert utterances.finish_empty() is None, "the one before is still to be heard"
    with pytest.raises(UtteranceOrderError):
        utterances.begin(5)
    assert utterances.of_turn(7) is first
    done = utterances.finish(1, "complete")
    assert done is not None and not done.interrupted and utterances.finish(1, "complete") is None
    assert [f.utterance for f in iter(utterances.finish_empty, None)] == [5]
    assert utterances.begin(0).number == 6
    assert [(f.utterance, f.interrupted) for f in utterances.finish_all("closed")] == [(6, True)]
    assert utterances.finish_all("closed") == []


def test_no_more_utterances_wait_than_may() -> None:
    utterances = Utterances()
    for _ in range(MAX_LIVE):
        utterances.begin(0).complete = True
    with pytest.raises(AudioBufferFullError):
        utterances.begin(0)
    utterances.finish(1, "complete")
    assert utterances.begin(0).number == MAX_LIVE + 1


def test_sound_waits_for_a_text_that_is_still_made() -> None:
    utterances = Utterances()
    text = utterances.begin(0)
    text.complete = text.being_made = True
    voice = utterances.begin(0)
    assert utterances.to_hand_over() == []
    text.being_made = False
    assert utterances.to_hand_over() == [text, voice]


def test_a_journal_forgets_what_is_long_gone() -> None:
    journal = Journal()
    for number in range(KEPT_EVENTS + 10):
        journal.note("playback.started", {"utterance": number})
    kept = [json.loads(text)["event"] for text in journal.after(0)]
    assert kept == list(range(11, KEPT_EVENTS + 11))
    assert [json.loads(text)["event"] for text in journal.after(KEPT_EVENTS + 8)] == [KEPT_EVENTS + 9, KEPT_EVENTS + 10]


def test_an_upload_comes_in_order_and_in_bounds() -> None:
    upload = Upload(CHUNK_BYTES + 3)
    upload.add(Media(3, payload=b"a" * CHUNK_BYTES))
    assert not upload.whole
    upload.add(Media(3, flags=1, value=CHUNK_BYTES, payload=b"end"))
    assert upload.whole and upload.data.endswith(b"aend")
    for wrong in (Media(3, value=1, payload=b"a"), Media(3, payload=b"toolong"), Media(3, flags=1, payload=b"ab")):
        with pytest.raises(UploadMismatchError):
            Upload(3).add(wrong)


def test_fragments_leave_no_gap_where_frames_were_left_out() -> None:
    encoder = ENCODERS["fmp4"](64, 85)
    pictures = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    moments = [0, 40_000, 80_000, 400_000, 440_000, 480_000]
    film = encoder.head + b"".join(
        encoder.encode(picture, pts_us, key=pts_us in (0, 440_000)).payload
        for picture, pts_us in zip(pictures, moments, strict=True)
    )
    with av.open(io.BytesIO(film), format="mp4") as container:
        packets = [p for p in container.demux(video=0) if p.size]
        spans = [(int(p.pts * p.time_base * 1e6), int(p.duration * p.time_base * 1e6)) for p in packets]
        lengths = [40_000, 40_000, 40_000, 320_000, 40_000, 40_000]
        assert spans == list(zip(np.cumsum([0, *lengths[:-1]]).tolist(), lengths, strict=True))
        assert [p.is_keyframe for p in packets] == [True, False, False, False, True, False]


def test_a_film_that_begins_late_begins_at_its_moment() -> None:
    """A client that resumed gets a new init segment, and times that go on."""
    encoder = ENCODERS["fmp4"](64, 85)
    picture = encoder.encode(np.zeros((64, 64, 3), np.uint8), 3_600_000_000, key=True)
    with av.open(io.BytesIO(encoder.head + picture.payload), format="mp4") as container:
        (packet,) = [p for p in container.demux(video=0) if p.size]
        assert packet.pts * packet.time_base == 3600


def test_colours_survive_h264() -> None:
    """A matrix that is not said turns skin green."""
    skin = np.full((64, 64, 3), (224, 172, 140), np.uint8)
    encoder = ENCODERS["h264"](64, 85)
    units = b"".join(encoder.encode(skin, 40_000 * n, key=n == 0).payload for n in range(3))
    with av.open(io.BytesIO(units), format="h264") as film:
        picture = next(film.decode(video=0))
        assert picture.colorspace == 1
        assert np.abs(picture.to_ndarray(format="rgb24").astype(int) - skin).max() <= 3
