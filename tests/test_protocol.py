"""What clients say is read strictly: typed messages, or one of the documented errors."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from apps.server.errors import BadFieldError, BadHeaderError, BadMessageError, ProtocolError, UnsupportedVersionError
from apps.server.protocol import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    Ack,
    ExpressionSet,
    Hello,
    Interrupt,
    Media,
    PoseSet,
    Speak,
    StateSet,
    UtteranceEnd,
    VideoWish,
    When,
    parse_binary,
    parse_text,
)

SERVER_TYPES = {
    "utterance.opened",
    "playback.started",
    "playback.finished",
    "state.changed",
    "portrait.wanted",
    "error",
}


def say(**fields: object) -> object:
    return parse_text(json.dumps(fields))


def test_the_header_is_the_one_of_the_page() -> None:
    """The two headers that docs/protocol.md writes out."""
    assert bytes.fromhex("01000000010000000000000000000000" + "00" * 8) == Media(kind=1, utterance=1).to_bytes()
    first_sound = Media(kind=0x12, flags=8, utterance=1, pts_us=240_000).to_bytes()
    assert first_sound == bytes.fromhex("12080000010000000000000000000000" + "80a9030000000000")


def test_binary_round_trip() -> None:
    sent = Media(0x11, 0x29, 3, 7, 11, 640, 40_000_000_000, b"picture")
    got = parse_binary(sent.to_bytes())
    assert (got.kind, got.flags, got.epoch, got.utterance, got.sequence, got.value, got.pts_us) == (
        0x11, 0x29, 3, 7, 11, 640, 40_000_000_000,
    )  # fmt: skip
    assert bytes(got.payload) == b"picture"


def test_epoch_wraps() -> None:
    assert parse_binary(Media(0x11, epoch=65_537).to_bytes()).epoch == 1


@pytest.mark.parametrize("length", [0, 1, HEADER.size - 1, HEADER.size + MAX_PAYLOAD_BYTES + 1])
def test_binary_of_a_wrong_length(length: int) -> None:
    with pytest.raises(BadHeaderError):
        parse_binary(bytes(length))


def test_a_hello_that_says_only_what_it_must() -> None:
    assert say(type="hello", protocol=1) == Hello()


def test_a_hello_that_says_all() -> None:
    got = say(
        type="hello",
        protocol=1,
        id=4,
        client="bot/2",
        portrait={"upload_bytes": 1000},
        video={"codec": "h264", "size": 512, "quality": 70, "window": 8},
        audio={"codec": "none"},
        input={"sample_rate": 24_000, "live": True},
        listening={"sample_rate": 48_000},
        seed=9,
        later="ignored",
    )
    assert got == Hello(
        4, "bot/2", None, 1000, VideoWish("h264", 512, 70, 8), False, 24_000, 48_000, True, 9, None, 0
    )  # fmt: skip


def test_another_version_is_named() -> None:
    with pytest.raises(UnsupportedVersionError, match="protocol 1, not 2"):
        say(type="hello", protocol=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "interrupt", "id": "a", "utterance": 3}, Interrupt("a", 3)),
        ({"type": "interrupt"}, Interrupt(None)),
        ({"type": "utterance.end", "utterance": None}, UtteranceEnd(None)),
        ({"type": "speak", "text": "Hi", "voice": "x"}, Speak(None, "Hi", 0, "x")),
        ({"type": "state.set", "state": "auto"}, StateSet(None, "auto")),
        ({"type": "expression.set", "name": "happy"}, ExpressionSet(None, {"happy": 1.0}, When(200))),
        ({"type": "expression.set", "name": None}, ExpressionSet(None, None, When(200))),
        ({"type": "expression.set", "vector": {"sad": 1, "angry": 0.5}, "at_ms": 40, "utterance": 2},
         ExpressionSet(None, {"sad": 1.0, "angry": 0.5}, When(200, 0, 40.0, 2))),
        ({"type": "pose.set", "angles": {"yaw": -60}, "fade_ms": 0, "delay_ms": 5},
         PoseSet(None, {"yaw": -60.0}, When(0, 5))),
        ({"type": "pose.set", "angles": None}, PoseSet(None, None, When(300))),
        ({"type": "ack", "sequence": 7, "played_us": 40_000}, Ack(7, 40_000)),
        ({"type": "a.type.of.tomorrow", "x": [1]}, None),
    ],
)  # fmt: skip
def test_controls(fields: dict[str, object], message: object) -> None:
    assert say(**fields) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "hello"},
        {"type": "hello", "protocol": True},
        {"type": "hello", "protocol": 1, "video": []},
        {"type": "hello", "protocol": 1, "video": {"window": 65}},
        {"type": "hello", "protocol": 1, "portrait": {"library": "a", "upload_bytes": 5}},
        {"type": "hello", "protocol": 1, "input": {"sample_rate": 7999}},
        {"type": "hello", "protocol": 1, "input": {"live": 1}},
        {"type": "utterance.start", "utterance": -1},
        {"type": "utterance.start", "utterance": 2**32},
        {"type": "utterance.start", "utterance": 1.0},
        {"type": "speak", "text": "  "},
        {"type": "speak", "text": "a" * 1001},
        {"type": "state.set", "state": "asleep"},
        {"type": "expression.set", "name": "bored"},
        {"type": "expression.set", "name": "happy", "strength": 1.1},
        {"type": "expression.set", "vector": {"happy": None}},
        {"type": "pose.set", "angles": {"yaw": 61}},
        {"type": "pose.set", "angles": {}, "at_ms": 1, "delay_ms": 1},
        {"type": "ack"},
        {"type": "ping", "id": [1]},
    ],
)
def test_a_bad_field_is_named(fields: dict[str, object]) -> None:
    with pytest.raises(BadFieldError):
        say(**fields)


def test_a_bad_field_carries_the_id() -> None:
    with pytest.raises(BadFieldError) as caught:
        say(type="state.set", state="asleep", id="q7")
    assert caught.value.request_id == "q7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        '"type"',
        "{}",
        '{"type": 1}',
        '{"type": "ping", "t": NaN}',
        '{"type": "ping", "t": 1e999}',
        '{"type": "speak", "text": "\\ud800"}',
        '{"type": "x", "deep": ' + "[" * 9 + "]" * 9 + "}",
        "[" * 16_000,
        '{"type": "ping", "t": ' + "9" * 5000 + "}",
        json.dumps({"type": "x", "padding": "a" * MAX_TEXT_BYTES}),
    ],
)
def test_text_that_is_no_message(text: str) -> None:
    with pytest.raises(BadMessageError):
        parse_text(text)


def test_whatever_is_cut_short_gives_a_documented_error() -> None:
    whole = json.dumps({"type": "expression.set", "vector": {"happy": 0.5}, "at_ms": 40})
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            parse_text(whole[:length])
    header = struct.pack("<BBHIIIQ", 1, 2, 3, 4, 5, 6, 7)
    for length in range(len(header)):
        with pytest.raises(ProtocolError):
            parse_binary(header[:length])


def test_the_page_says_only_what_can_be_read() -> None:
    """Every message from a client in docs/protocol.md, and every JSON that it shows."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    examples = [line[2:] for line in page.splitlines() if line.startswith("> {")]
    inline = [found for found in re.findall(r"`(\{.*?\})`", page) if "\u2026" not in found and "X" not in found]
    inline = [found.replace(": N,", ": 1,").replace(": N}", ": 1}") for found in inline if '"type"' in found]
    blocks = [block for block in re.findall(r"```json\n(.*?)```", page, re.S)]
    assert len(examples) >= 6 and len(inline) >= 8 and len(blocks) >= 4
    for text in [*examples, *inline]:
        assert parse_text(text) is not None or json.loads(text)["type"] in SERVER_TYPES
    for block in blocks:
        for text in re.split(r"\n(?=\{)", block.strip()):
            assert isinstance(json.loads(text), dict)
