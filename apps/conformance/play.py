"""Plays a transcript against a server.

A transcript is a JSON file with `about`, `needs` (a codec; `token`; `two`, for two sessions; `slow`, for what takes
long) and `steps`, each an object with one of these verbs. `"on": "b"` says it of a second connection; the first is `a`.
Connections open by themselves, with the given token, at the first step that names them.

    {"connect": {"path": P, "origin": O, "token": T}} all may be left out; `"token": null` sends none
    {"send": {...}}, with "times": N                  a control message
    {"send_text": "..."}  {"send_hex": "..."}         anything else, with "padding": N blanks or zero bytes
    {"say": {"utterance": N, "ms": T, "end": true}}   sound at once; also piece_ms, rate, header_rate and kind
    {"upload": {"hex": "...", "padding": N}}          a file, in parts
    {"expect": {...}, "within_ms": T}                 the next control message that fits; others are passed
    {"expect_media": {"kind": "video", ...}}          the same for media
    {..., "keep": {"name": "field"}}                  of what was expected; later steps have it as "$name"
    {"expect_close": CODE}  {"expect_http": STATUS, "code": C}
    {"never": {...}, "for_ms": T}                     no control message that fits in that time
    {"never_media": {...}, "for_ms": T}
    {"wait_ms": T}  {"drop": true}  {"acknowledge": true}

Where the session still stands at the end, it is ended with `bye`. All the time, apps.conformance.audit listens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from time import monotonic
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from apps.conformance.audit import Audit
from apps.conformance.line import KINDS, Closed, Heard, Line, RefusedError
from apps.conformance.match import filled, fits, is_media
from apps.conformance.sound import voice

WITHIN_MS = 5000
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Transcript:
    name: str
    about: str
    needs: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A server. patience: every time limit is multiplied by it."""

    url: str
    token: str | None = None
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """faults: empty when the server kept its promises. skipped: why it was not played, empty when it was."""

    name: str
    about: str
    faults: tuple[str, ...] = ()
    skipped: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.faults and not self.skipped


class StepError(Exception):
    """A step did not go as the transcript says."""


def read_transcripts() -> list[Transcript]:
    """All that ship, by name."""
    folder = files("apps.conformance.transcripts")
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)
    return [read_transcript(path.name.removesuffix(".json"), path.read_text(encoding="utf-8")) for path in paths]


def read_transcript(name: str, text: str) -> Transcript:
    """Raises ValueError for one that cannot be played."""
    document = json.loads(text)
    for step in document["steps"]:
        if len(set(step) & set(_VERBS)) != 1:
            raise ValueError(f"{name}: a step needs one verb: {step}")
    return Transcript(name, document["about"], tuple(document.get("needs", ())), tuple(document["steps"]))


async def play(transcript: Transcript, target: Target) -> Outcome:
    """Never raises for what a server does."""
    began = monotonic()
    player = Player(target)
    faults: list[str] = []
    number = 0
    try:
        for step in transcript.steps:
            number += 1
            await player.step(step)
        number += 1
        await player.finish()
    except (StepError, RefusedError, OSError, TimeoutError, ValueError, KeyError) as error:
        faults.append(f"step {number}: {error or type(error).__name__}")
    finally:
        await player.aclose()
    return Outcome(transcript.name, transcript.about, (*faults, *player.faults()), "", monotonic() - began)


class Player:
    """Takes the steps of one transcript."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lines: dict[str, Line] = {}
        self._closed: dict[str, Closed] = {}
        self._refused: dict[str, RefusedError] = {}
        self._audits: dict[str, Audit] = {}
        self._sessions: dict[str, Audit] = {}
        self._kept: dict[str, Any] = {}

    async def step(self, step: Mapping[str, Any]) -> None:
        """Raises StepError."""
        step = filled(dict(step), self._kept)
        name = str(step.get("on", "a"))
        verb = next(verb for verb in _VERBS if verb in step)
        if verb not in ("connect", "wait_ms") and name not in self._lines and name not in self._refused:
            await self._connect(name, {})
        await _VERBS[verb](self, name, step)

    async def finish(self) -> None:
        """End what still stands, and wait until every utterance is accounted for."""
        for name, line in self._lines.items():
            if name not in self._closed:
                await line.say({"type": "bye"})
                await self._expect_close(name, {"expect_close": 1000})
        for audit in self._audits.values():
            audit.ended()

    async def aclose(self) -> None:
        for name in list(self._lines):
            await self._lines[name].drop()

    def faults(self) -> list[str]:
        """What the audits found."""
        audits = {id(audit): audit for audit in self._audits.values()}
        return [fault for audit in audits.values() for fault in audit.faults]

    async def _connect(self, name: str, options: Mapping[str, Any]) -> None:
        url = urlunsplit(urlsplit(self._target.url)._replace(path=options["path"])) if "path" in options else None
        token = options.get("token", self._target.token)
        self._closed.pop(name, None)
        self._audits[name] = Audit()
        try:
            line = Line.open(url or self._target.url, token=token, origin=options.get("origin"))
            self._lines[name] = await line
        except RefusedError as error:
            self._refused[name] = error

    async def _send(self, name: str, step: Mapping[str, Any]) -> None:
        message = step["send"]
        if message.get("type") == "hello" and "resume" not in message:
            self._line(name).acknowledges = bool(message.get("video", {}).get("window"))
        for _ in range(step.get("times", 1)):
            await self._line(name).say(message)

    async def _send_text(self, name: str, step: Mapping[str, Any]) -> None:
        await self._line(name).say(step["send_text"] + " " * step.get("padding", 0))

    async def _send_hex(self, name: str, step: Mapping[str, Any]) -> None:
        for _ in range(step.get("times", 1)):
            await self._line(name).send(bytes.fromhex(step["send_hex"]) + bytes(step.get("padding", 0)))

    async def _say(self, name: str, step: Mapping[str, Any]) -> None:
        wish = step["say"]
        rate_hz, utterance = wish.get("rate", 16_000), wish.get("utterance", 0)
        sound = voice(wish.get("ms", 0), rate_hz)
        size = max(2, 2 * round(wish.get("piece_ms", 100) * rate_hz / 1000))
        pieces = [sound[start : start + size] for start in range(0, len(sound), size)] or [b""]
        for number, piece in enumerate(pieces, 1):
            flags = int(bool(wish.get("end")) and number == len(pieces))
            kind, value = KINDS[wish.get("kind", "voice")], wish.get("header_rate", rate_hz)
            await self._line(name).media(kind, piece, utterance=utterance, flags=flags, value=value)

    async def _upload(self, name: str, step: Mapping[str, Any]) -> None:
        data = bytes.fromhex(step["upload"]["hex"]) + bytes(step["upload"].get("padding", 0))
        for start in range(0, len(data), _CHUNK_BYTES):
            part = data[start : start + _CHUNK_BYTES]
            last = int(start + len(part) == len(data))
            await self._line(name).media(KINDS["portrait"], part, flags=last, value=start)

    async def _expect(self, name: str, step: Mapping[str, Any]) -> None:
        wanted = step["expect"]
        heard = await self._until(name, step, lambda h: h.text is not None and fits(wanted, h.text), wanted)
        for kept, field in step.get("keep", {}).items():
            self._kept[kept] = (heard.text or {})[field]

    async def _expect_media(self, name: str, step: Mapping[str, Any]) -> None:
        wanted = step["expect_media"]
        heard = await self._until(name, step, lambda h: is_media(wanted, h), wanted)
        for kept, field in step.get("keep", {}).items():
            self._kept[kept] = getattr(heard, field)

    async def _expect_close(self, name: str, step: Mapping[str, Any]) -> None:
        deadline = self._deadline(step)
        while name not in self._closed:
            if await self._hear(name, deadline) is None:
                raise StepError(f"the connection stays open, instead of {step['expect_close']}")
        code = self._closed[name].code
        if not fits(step["expect_close"], code):
            raise StepError(f"closed with {code} {self._closed[name].reason!r} instead of {step['expect_close']}")

    async def _expect_http(self, name: str, step: Mapping[str, Any]) -> None:
        refused = self._refused.get(name)
        if refused is None:
            raise StepError(f"the server upgraded, instead of HTTP {step['expect_http']}")
        if refused.status != step["expect_http"] or refused.code != step.get("code", refused.code):
            raise StepError(f"{refused}, instead of HTTP {step['expect_http']} {step.get('code', '')}")

    async def _never(self, name: str, step: Mapping[str, Any]) -> None:
        wanted = step["never"]
        await self._none(name, step, lambda h: h.text is not None and fits(wanted, h.text), wanted)

    async def _never_media(self, name: str, step: Mapping[str, Any]) -> None:
        wanted = step["never_media"]
        await self._none(name, step, lambda h: is_media(wanted, h), wanted)

    async def _drop(self, name: str, step: Mapping[str, Any]) -> None:
        await self._line(name).drop()
        self._closed[name] = Closed(monotonic(), 1006)
        del self._lines[name]

    async def _wait(self, name: str, step: Mapping[str, Any]) -> None:
        await asyncio.sleep(step["wait_ms"] / 1000)

    async def _acknowledge(self, name: str, step: Mapping[str, Any]) -> None:
        self._line(name).acknowledges = step["acknowledge"]

    async def _until(self, name: str, step: Mapping[str, Any], matches: Callable[[Heard], bool], wanted: Any) -> Heard:
        deadline, passed = self._deadline(step), []
        while name not in self._closed:
            heard = await self._hear(name, deadline)
            if heard is None:
                break
            if matches(heard):
                return heard
            if heard.text is not None and heard.text["type"] != "metrics":
                passed.append(heard.text)
        closed = self._closed.get(name)
        end = f"closed with {closed.code} {closed.reason!r}" if closed else "time is over"
        raise StepError(f"{json.dumps(wanted)} did not come; {end}; last came {json.dumps(passed[-3:])[:600]}")

    async def _none(self, name: str, step: Mapping[str, Any], matches: Callable[[Heard], bool], wanted: Any) -> None:
        # Not multiplied by patience: what must not come must not come late.
        deadline = monotonic() + step["for_ms"] / 1000
        while name not in self._closed:
            heard = await self._hear(name, deadline)
            if heard is None:
                return
            if matches(heard):
                raise StepError(f"{json.dumps(wanted)} came: {heard.text or heard}")

    async def _hear(self, name: str, deadline: float) -> Heard | None:
        """The next message, also to the audit; None when time is over or the connection has ended."""
        line = self._line(name)
        try:
            heard = await line.hear(max(0.001, deadline - monotonic()))
        except TimeoutError:
            return None
        if isinstance(heard, Closed):
            self._closed[name] = heard
            return None if heard.code == -1 else Heard(heard.moment_s, {"type": ""})
        if heard.text is not None and heard.text["type"] == "welcome":
            self._join(name, heard.text)
        self._audits[name].hear(heard)
        return heard

    def _join(self, name: str, welcome: Mapping[str, Any]) -> None:
        """A session is audited across its connections."""
        session = str(welcome.get("session"))
        if welcome.get("resumed") and session in self._sessions:
            self._audits[name] = self._sessions[session]
            self._audits[name].connected()
        self._sessions[session] = self._audits[name]

    def _line(self, name: str) -> Line:
        if name not in self._lines:
            raise StepError(str(self._refused.get(name) or f"there is no connection {name!r}"))
        return self._lines[name]

    def _deadline(self, step: Mapping[str, Any]) -> float:
        return monotonic() + float(step.get("within_ms", WITHIN_MS)) * self._target.patience / 1000


async def _connect(player: Player, name: str, step: Mapping[str, Any]) -> None:
    await player._connect(name, step["connect"])


_VERBS: Mapping[str, Any] = {
    "connect": _connect,
    "send": Player._send,
    "send_text": Player._send_text,
    "send_hex": Player._send_hex,
    "say": Player._say,
    "upload": Player._upload,
    "expect": Player._expect,
    "expect_media": Player._expect_media,
    "expect_close": Player._expect_close,
    "expect_http": Player._expect_http,
    "never": Player._never,
    "never_media": Player._never_media,
    "drop": Player._drop,
    "wait_ms": Player._wait,
    "acknowledge": Player._acknowledge,
}
