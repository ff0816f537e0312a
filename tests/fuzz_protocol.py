"""Throws broken messages at what strangers can reach first: apps/server/protocol.py and the headers of a request.

    python tests/fuzz_protocol.py --seconds 600         prints what it did; 1 when something undocumented happened
    python tests/fuzz_protocol.py --seconds 60 --save   and keeps inputs that reach lines nobody reached before

Inputs grow from the corpus and from a grammar of the messages, by changes of the JSON tree, of its text, and of bytes.
What runs lines of the target in an order not seen before joins the population, as in AFL and libFuzzer. The same seed
gives the same inputs. tests/test_fuzz.py runs the corpus and some seconds of this.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from time import monotonic, perf_counter
from types import FrameType
from typing import Any

import apps.server.access
import apps.server.protocol
from apps.server.access import Access, AccessConfig
from apps.server.errors import BadFieldError, BadHeaderError, BadMessageError, UnsupportedVersionError
from apps.server.protocol import HEADER, MAX_TEXT_BYTES, parse_binary, parse_text
from apps.server.refusals import ForbiddenError
from engine.types import EXPRESSIONS, POSE_AXES

CORPUS = Path(__file__).parent / "corpus" / "protocol.jsonl"
LONGEST_S = 0.25
"""For one message; 16 KiB of JSON take a millisecond."""
LONGEST_TEXT = 600
"""Of an error's message, which is sent to the peer and logged."""


@dataclass(frozen=True)
class Input:
    """kind: text, binary or headers. data: of the message; headers are lines."""

    kind: str
    data: bytes

    def line(self) -> str:
        """For the corpus: text where it is text, so that people can read it."""
        try:
            return json.dumps({"kind": self.kind, "text": self.data.decode("ascii")})
        except UnicodeDecodeError:
            return json.dumps({"kind": self.kind, "hex": self.data.hex()})


def read_corpus(path: Path = CORPUS) -> list[Input]:
    found = []
    for line in path.read_text(encoding="ascii").splitlines():
        entry = json.loads(line)
        data = bytes.fromhex(entry["hex"]) if "hex" in entry else entry["text"].encode("ascii")
        found.append(Input(entry["kind"], data))
    return found


class FuzzHeaders:
    """As websockets hands them over: latin-1, several of a name."""

    def __init__(self, data: bytes) -> None:
        lines = data.decode("latin-1").split("\n")
        self.target = lines[0]
        self.pairs = [line.partition(":")[::2] for line in lines[1:]]

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key.lower() == name.lower()]


_ACCESS = (
    Access(AccessConfig()),
    Access(AccessConfig("0.0.0.0", "a-token-of-the-fuzzer", ("a.example",), ("https://b.example",), ("10.0.0.0/8",))),
)


def attempt(item: Input) -> None:
    """Give the target one message; raises AssertionError, or what the target must not raise."""
    if item.kind == "binary":
        _try_binary(item.data)
    elif item.kind == "text":
        _try_text(item.data)
    else:
        _try_headers(item.data)


def _try_binary(data: bytes) -> None:
    try:
        media = parse_binary(data)
    except BadHeaderError as error:
        _check_message(error)
        assert not HEADER.size <= len(data) <= HEADER.size + apps.server.protocol.MAX_PAYLOAD_BYTES
    else:
        assert media.to_bytes() == data, "what was read is not what was sent"


def _try_text(data: bytes) -> None:
    # Text frames that are no UTF-8 never come this far; websockets closes them with 1007.
    text = data.decode("utf-8", "replace")
    try:
        control = parse_text(text)
    except (BadMessageError, BadFieldError, UnsupportedVersionError) as error:
        _check_message(error)
    else:
        assert len(text.encode()) <= MAX_TEXT_BYTES
        assert control is None or is_dataclass(control)
        _check_value(control)


def _try_headers(data: bytes) -> None:
    headers = FuzzHeaders(data)
    for access in _ACCESS:
        try:
            access.check(headers, headers.target, "10.0.0.1")
        except ForbiddenError as error:
            _check_message(error)
        else:
            assert access.on_loopback or b"token" in data.lower() or b"bearer" in data.lower()


def _check_message(error: Exception) -> None:
    text = str(error)
    assert len(text) <= LONGEST_TEXT, f"an error message of {len(text)} characters"
    json.dumps(text).encode("utf-8")
    text.encode("utf-8")


def _check_value(value: Any) -> None:
    """Nothing that would surprise whoever uses the message: finite numbers, valid Unicode."""
    if is_dataclass(value):
        for part in fields(value):
            _check_value(getattr(value, part.name))
    elif isinstance(value, dict):
        for key, part in value.items():
            _check_value(key)
            _check_value(part)
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert abs(value) < 2**63


# Inputs


_NUMBERS = (0, 1, -1, 2, 7, 24_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308,
            1e-320, 60.0, 60.1, 8_000, 96_001, 64, 65)  # fmt: skip
_STRINGS = ("", "happy", "auto", "a" * 64, "a" * 65, "\0", "\ud800", "\u202e", "𝄞" * 40, "h264", "none", "x" * 3000)
_ODD: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}})

GRAMMAR: dict[str, tuple[str, ...]] = {
    "hello": ("protocol", "client", "portrait", "video", "audio", "input", "listening", "seed", "resume", "after"),
    "utterance.start": ("utterance",),
    "utterance.end": ("utterance",),
    "speak": ("text", "utterance", "voice"),
    "interrupt": ("utterance",),
    "state.set": ("state",),
    "expression.set": ("name", "strength", "vector", "fade_ms", "delay_ms", "at_ms", "utterance"),
    "pose.set": ("angles", "fade_ms", "delay_ms", "at_ms", "utterance"),
    "ack": ("sequence", "played_us"),
    "keyframe": (),
    "ping": ("t",),
    "bye": (),
    "unheard.of": ("utterance",),
}
"""Types and their fields, docs/protocol.md."""

_PARTS: dict[str, tuple[str, ...]] = {
    "portrait": ("library", "upload_bytes"),
    "video": ("codec", "size", "quality", "window"),
    "audio": ("codec",),
    "input": ("sample_rate", "live"),
    "listening": ("sample_rate",),
    "vector": EXPRESSIONS,
    "angles": POSE_AXES,
}

_LINES = (
    "Host: localhost:8765", "Host: a.example", "Host: 10.1.2.3", "Host: [::1]:80", "Origin: http://localhost:8765",
    "Origin: https://b.example", "Origin: null", "Authorization: Bearer a-token-of-the-fuzzer",
    "Authorization: Basic x",
    "Sec-WebSocket-Protocol: visavis.v1, token.YS10b2tlbi1vZi10aGUtZnV6emVy", "Sec-Fetch-Mode: websocket",
    "X-Forwarded-For: 1.2.3.4, 10.0.0.2",
)  # fmt: skip


class Maker:
    """Makes inputs; all chance is of one seed."""

    def __init__(self, seed: int, population: list[Input]) -> None:
        self.random = random.Random(seed)
        self.population = population

    def make(self) -> Input:
        if self.random.random() < 0.5 and self.population:
            return self._changed(self.random.choice(self.population))
        fresh = self.random.choice((self._text, self._text, self._text, self._binary, self._headers))()
        return self._changed(fresh) if self.random.random() < 0.5 else fresh

    def _text(self) -> Input:
        kind = self.random.choice(tuple(GRAMMAR))
        message: dict[str, Any] = {"type": kind}
        for name in GRAMMAR[kind]:
            if self.random.random() < 0.6:
                message[name] = self._value(name)
        if self.random.random() < 0.3:
            message["id"] = self._scalar()
        if kind == "hello" and self.random.random() < 0.7:
            message["protocol"] = 1
        return Input("text", json.dumps(message).encode())

    def _value(self, name: str) -> Any:
        if name in _PARTS and self.random.random() < 0.8:
            count = self.random.randint(0, len(_PARTS[name]))
            return {part: self._scalar() for part in self.random.sample(_PARTS[name], count)}
        return self._scalar()

    def _scalar(self) -> Any:
        return self.random.choice(self.random.choice((_NUMBERS, _NUMBERS, _STRINGS, _ODD)))

    def _binary(self) -> Input:
        limits = (0xFF, 0xFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**64 - 1)
        values = [self.random.choice((0, 1, 2, 3, most, self.random.randint(0, most))) for most in limits]
        length = self.random.choice((0, 1, 2, 640, 1280, 262_144, 262_145))
        return Input("binary", HEADER.pack(*values) + bytes(length))

    def _headers(self) -> Input:
        lines = self.random.sample(_LINES, self.random.randint(0, 6))
        target = self.random.choice(("/v1/avatar", "/v1/avatar?token=a-token-of-the-fuzzer", "/?token=%ff&token", ""))
        return Input("headers", "\n".join((target, *lines)).encode())

    def _changed(self, item: Input) -> Input:
        data = item.data
        if item.kind == "text" and self.random.random() < 0.5:
            data = self._changed_tree(data)
        for _ in range(self.random.randint(0, 3)):
            data = self.random.choice((self._flip, self._cut, self._insert, self._repeat, self._splice))(data)
        return Input(item.kind, data[:300_000])

    def _changed_tree(self, data: bytes) -> bytes:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return data
        spots = list(_spots(message))
        if not spots:
            return data
        holder, key = self.random.choice(spots)
        if self.random.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = self._value(str(key))
        return json.dumps(message).encode()

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        place = self.random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]

    def _cut(self, data: bytes) -> bytes:
        first, last = sorted(self.random.randint(0, len(data)) for _ in range(2))
        return self.random.choice((data[:first], data[last:], data[:first] + data[last:]))

    def _insert(self, data: bytes) -> bytes:
        place = self.random.randint(0, len(data))
        token = self.random.choice(
            (b"{", b"[" * 5000, b'"', b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\xff", b"\xed\xa0\x80",
             b"\0", b"\n", b",", b":", b"@", b"%", b"=" * 3, b'"type":', b'"id":', b" " * 17_000)
        )  # fmt: skip
        return data[:place] + token + data[place:]

    def _repeat(self, data: bytes) -> bytes:
        first, last = sorted(self.random.randint(0, min(len(data), 4096)) for _ in range(2))
        return data[:last] + data[first:last] * self.random.choice((1, 2, 50)) + data[last:]

    def _splice(self, data: bytes) -> bytes:
        if not self.population:
            return data
        other = self.random.choice(self.population).data
        return data[: self.random.randint(0, len(data))] + other[self.random.randint(0, len(other)) :]


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON tree."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        yield from _spots(part)


# The loop


class Coverage:
    """Which pairs of successive lines of the target were run."""

    def __init__(self) -> None:
        self._files = {apps.server.protocol.__file__, apps.server.access.__file__}
        self.seen: set[tuple[int, int, int]] = set()

    def watch(self, item: Input) -> bool:
        """Try it once more; whether it reached anything new."""
        found: set[tuple[int, int, int]] = set()

        def local(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                found.add((id(frame.f_code), last, frame.f_lineno))
                last = frame.f_lineno
            return local

        def enter(frame: FrameType, event: str, _: Any) -> Any:
            return local if frame.f_code.co_filename in self._files else None

        last = 0
        before = sys.gettrace()
        sys.settrace(enter)
        try:
            _attempt(item)
        finally:
            sys.settrace(before)
        fresh = not found <= self.seen
        self.seen |= found
        return fresh


@dataclass
class Report:
    """slowest_s: of one message, without what measuring coverage takes."""

    runs: int = 0
    kept: int = 0
    pairs: int = 0
    slowest_s: float = 0.0


class Found(Exception):
    """An input that the target does not take as documented."""

    def __init__(self, item: Input, why: BaseException) -> None:
        super().__init__(f"{type(why).__name__}: {why}\n{item.line()[:2000]}")
        self.item = item


def fuzz(seconds: float, seed: int, corpus: list[Input], most_kept: int = 3000) -> tuple[Report, list[Input]]:
    """For so long; also returns what was kept beyond the corpus. Raises Found."""
    coverage, report, population = Coverage(), Report(), list(corpus)
    maker, until = Maker(seed, population), monotonic() + seconds
    waiting = list(corpus)
    while waiting or monotonic() < until:
        known = bool(waiting)
        item = waiting.pop() if known else maker.make()
        took_s = _attempt(item)
        if took_s > LONGEST_S:
            # Other programs may have run in between, but not every time.
            took_s = min(_attempt(item) for _ in range(5))
        if took_s > LONGEST_S:
            raise Found(item, TimeoutError(f"one message took {took_s:.2f} s"))
        report.slowest_s = max(report.slowest_s, took_s)
        report.runs += 1
        # Watching takes ten times as long, so most inputs are only tried.
        if (known or report.runs % 4 == 0) and coverage.watch(item) and not known:
            if len(population) < most_kept:
                population.append(item)
    report.kept, report.pairs = len(population) - len(corpus), len(coverage.seen)
    return report, population[len(corpus) :]


def _attempt(item: Input) -> float:
    """How many seconds it took."""
    began = perf_counter()
    try:
        attempt(item)
    except Exception as error:
        raise Found(item, error) from error
    return perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    corpus = read_corpus() if CORPUS.exists() else []
    try:
        report, fresh = fuzz(options.seconds, options.seed, corpus)
    except Found as found:
        print(found, file=sys.stderr)
        return 1
    if options.save:
        small = [item for item in fresh if len(item.data) < 2000]
        CORPUS.write_text("".join(f"{item.line()}\n" for item in (*corpus, *small)), encoding="ascii")
    print(json.dumps({**report.__dict__, "corpus": len(corpus)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
