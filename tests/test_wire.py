"""engine.worker.wire and messages: round trips, any cut of the stream, and nothing but WireError from garbage."""

from __future__ import annotations

import json
import struct
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from workers import make_face, make_step

from engine.errors import BackendFailedError, WorkerLostError
from engine.worker.base import Pictures, WorkerInfo
from engine.worker.messages import (
    Arrived,
    Broken,
    Cancel,
    Lost,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Ready,
    Remove,
    Submit,
    from_frame,
    to_frame,
)
from engine.worker.wire import BODY_BYTES, HEADER_BYTES, MAGIC, Decoder, Frame, WireError, encode

INFO = WorkerInfo("m", "b", (1, 4), 2, 4, 4, 8, 16, 256, {1: 0.5, 4: 1.5}, 2.0, 0.25)
IMAGES = np.random.default_rng(0).integers(0, 255, (2, 6, 6, 3), np.uint8)
MESSAGES: list[Message] = [
    Open(3, make_face(seed=-5)),
    Submit(3, make_step(7, 4, generation=2, deadline_us=-10, picture_every=2, forget=True, denoising_steps=3)),
    Cancel(3, 4),
    Remove(3),
    Ping(9),
    Ready(INFO),
    Opened(3),
    Arrived(3, Pictures(2, 7, IMAGES, True, {"denoise_ms": 1.5})),
    Arrived(3, Pictures(2, 7, IMAGES[:0], False)),
    Lost(3, BackendFailedError("the decoder failed: ü")),
    Broken(WorkerLostError("gone")),
    Pong(9, 3.25, 0.0),
]


def written(message: Message) -> bytes:
    return b"".join(bytes(part) for part in encode(to_frame(message)))


def plain(value: Any) -> Any:
    """Something that == compares, arrays and errors included."""
    if is_dataclass(value):
        return {"": type(value), **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return (type(value), str(value)) if isinstance(value, Exception) else value


def read(data: bytes, decoder: Decoder | None = None) -> list[Message]:
    return [from_frame(frame) for frame in (decoder or Decoder()).feed(data)]


def framed(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<4sII", MAGIC, len(text), len(body)) + text + body


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    (back,) = read(written(message))
    assert plain(back) == plain(message)


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_the_stream_may_be_cut_anywhere(piece: int) -> None:
    stream, decoder = b"".join(map(written, MESSAGES)), Decoder()
    short = stream if piece > 1 else b"".join(map(written, MESSAGES[2:]))
    got = [m for i in range(0, len(short), piece) for m in read(short[i : i + piece], decoder)]
    assert [plain(m) for m in got] == [plain(m) for m in MESSAGES[-len(got) :]]
    assert len(got) == (len(MESSAGES) if piece > 1 else len(MESSAGES) - 2) and decoder.pending == 0


def test_a_truncated_frame_is_not_given_and_can_be_told() -> None:
    decoder, data = Decoder(), written(MESSAGES[1])
    assert read(data[:-1], decoder) == [] and decoder.pending == len(data) - 1
    assert len(read(data[-1:], decoder)) == 1 and decoder.pending == 0


def test_arrays_that_were_read_can_be_written_to() -> None:
    (arrived,) = read(written(MESSAGES[7]))
    assert isinstance(arrived, Arrived)
    arrived.pictures.images[:] = 0


def test_a_strided_or_wide_array_arrives_as_the_type_on_the_wire() -> None:
    step = make_step(0, 4, windows=np.zeros((8, 32, 80), np.float64)[::2] + 2)
    (submit,) = read(written(Submit(0, step)))
    assert isinstance(submit, Submit) and submit.step.windows.dtype == np.float32
    np.testing.assert_array_equal(submit.step.windows, step.windows)


def test_what_is_too_large_is_refused_on_both_sides() -> None:
    with pytest.raises(WireError):
        encode(Frame("x", {"text": "y" * HEADER_BYTES}))
    huge = np.broadcast_to(np.uint8(0), (BODY_BYTES + 1,))
    with pytest.raises(WireError):
        encode(Frame("x", {}, {"a": huge}))
    for sizes in ((HEADER_BYTES + 1, 0), (2, BODY_BYTES + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(WireError, match="over the limit"):
            read(struct.pack("<4sII", MAGIC, *sizes))


@pytest.mark.parametrize(
    "data",
    [
        b"Traceback (most recent call last)",
        framed(b"{"),
        framed(b"[" * 10_000),
        framed(b"\xff\xfe"),
        framed(["type", "ping"]),
        framed({"type": "ping", "number": 1}),
        framed({"type": 5, "arrays": []}),
        framed({"type": "ping", "arrays": [["a", "|u1", [3]]] * 17, "number": 1}, bytes(51)),
        framed({"type": "ping", "number": 1, "arrays": [["a", "|O8", [1]]]}, bytes(8)),
        framed({"type": "ping", "number": 1, "arrays": [["a", ["<f4"], [1]]]}, bytes(4)),
        framed({"type": "ping", "number": 1, "arrays": [["a", "<f4", [-1]]]}),
        framed({"type": "ping", "number": 1, "arrays": [["a", "<f4", [True]]]}, bytes(4)),
        framed({"type": "ping", "number": 1, "arrays": [["a", "<f4", [2**26, 2**26]]]}),
        framed({"type": "ping", "number": 1, "arrays": [["a", "<f4", [2]]]}, bytes(4)),
        framed({"type": "ping", "number": 1, "arrays": []}, bytes(4)),
        framed({"type": "dance", "arrays": []}),
        framed({"type": "ping", "arrays": []}),
        framed({"type": "ping", "number": True, "arrays": []}),
        framed({"type": "cancel", "slot": -1, "generation": 0, "arrays": []}),
        framed({"type": "pong", "number": 1, "took_ms": "1", "predicted_ms": 0, "arrays": []}),
        framed({"type": "pong", "number": 1, "took_ms": 10**400, "predicted_ms": 0, "arrays": []}),
        framed({"type": "step", "slot": 1, "arrays": []}),
        framed({"type": "open", "slot": 1, "seed": 0, "arrays": [["reference", "<f4", [1]]]}, bytes(4)),
        framed({"type": "lost", "slot": 1, "code": 3, "message": "", "arrays": []}),
        framed({"type": "ready", "block_lengths": [], "denoise_ms": {}, "arrays": []}),
        framed({"type": "ready", "block_lengths": [1], "denoise_ms": {"²": 1}, "arrays": []}),
    ],
    ids=range(26),
)
def test_garbage_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        read(data)


def test_frames_of_a_step_must_agree() -> None:
    for change in ({"state": np.zeros(3, np.int64)}, {"denoising_steps": 0}, {"picture_every": 0}):
        with pytest.raises(WireError):
            read(written(Submit(0, make_step(0, 4, **change))))
    with pytest.raises(WireError):
        read(written(Submit(0, make_step(0, 0))))


def test_an_error_that_this_version_does_not_know_is_a_lost_worker() -> None:
    (lost,) = read(framed({"type": "lost", "slot": 1, "code": "new_fault", "message": "m", "arrays": []}))
    assert isinstance(lost, Lost) and type(lost.error) is WorkerLostError and str(lost.error) == "m"


def test_a_broken_stream_stays_broken() -> None:
    decoder = Decoder()
    with pytest.raises(WireError):
        read(b"x" * 12, decoder)
    with pytest.raises(WireError):
        read(written(Ping(1)), decoder)


def test_random_bytes_raise_nothing_else() -> None:
    """Pure noise, noise behind a good prefix, and messages with some bytes changed."""
    random = np.random.default_rng(2)
    small = [written(m) for m in MESSAGES[2:]] + [written(Submit(1, make_step(0, 1)))]
    survived = 0
    for i in range(4_000):
        data = bytearray(small[i % len(small)])
        if i % 4 == 0:
            data = bytearray(random.bytes(random.integers(1, 200)))
        elif i % 4 == 1:
            data = bytearray(framed(random.bytes(random.integers(0, 60)), random.bytes(random.integers(0, 60))))
        else:
            for at in random.integers(0, min(len(data), 400), random.integers(1, 4)):
                data[at] = random.integers(0, 256)
        try:
            read(bytes(data))
            survived += 1
        except WireError:
            pass
    assert 0 < survived < 3_000
