"""Our server keeps the promises of docs/protocol.md, and the suite would notice if it did not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

pytest.importorskip("websockets")

from served import Served, serving

from apps.cli import main
from apps.conformance.audit import Audit
from apps.conformance.line import AUDIO, KEY_FRAME, VIDEO, Heard
from apps.conformance.match import fits
from apps.conformance.play import Target, play, read_transcript, read_transcripts
from apps.conformance.run import full_url, run_conformance
from apps.conformance.sound import voice
from engine.errors import ArgumentError

PATIENCE = 6.0
"""Times every limit of time, for machines that do other things as well."""

TOKEN = "a-token-of-the-tests"
TOGETHER = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving("--token", TOKEN, sessions=2 * TOGETHER) as served:
        yield served


def test_transcripts(server: Served) -> None:
    """Several at once, since most of the time is spent waiting. What fails then is played again alone, since a busy
    machine may have starved it; a promise that is not kept fails again.
    """

    async def play_all() -> list[str]:
        waiting = [transcript for transcript in read_transcripts() if "slow" not in transcript.needs]
        assert len(waiting) > 50
        places = asyncio.Semaphore(TOGETHER)

        async def one(transcript):
            async with places:
                return transcript, await play(transcript, Target(server.url, TOKEN, PATIENCE))

        played = await asyncio.gather(*map(one, waiting))
        failed = [transcript for transcript, outcome in played if outcome.faults]
        again = [await play(transcript, Target(server.url, TOKEN, PATIENCE)) for transcript in failed]
        return [f"{outcome.name}: {fault}" for outcome in again for fault in outcome.faults]

    assert asyncio.run(play_all()) == []


def test_nothing_of_that_left_a_traceback(server: Served) -> None:
    assert "Traceback" not in server.log()


def test_command(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.url.replace("ws://", "http://")
    assert main(["bench", "conformance", url, "--token", TOKEN, "--only", "hello_bye", "token_wrong", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["passed"], report["failed"], report["skipped"]) == (2, 0, 0)


def test_command_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "conformance", "ws://127.0.0.1:9", "--only", "hello_bye"]) == 1
    assert main(["bench", "conformance"]) == 2
    assert main(["bench", "latency", "ws://127.0.0.1:9"]) == 2
    assert main(["bench", "conformance", "ws://127.0.0.1:9", "--only", "no_such_thing"]) == 2


def test_what_a_server_lacks_is_skipped() -> None:
    outcomes = asyncio.run(run_conformance(Target("ws://127.0.0.1:9/v1/avatar"), ["token_wrong"], False, str))
    assert [bool(outcome.skipped) for outcome in outcomes] == [True]


@pytest.mark.parametrize(
    "typed, url",
    [("localhost:8765", "ws://localhost:8765/v1/avatar"), ("https://a.example/", "wss://a.example/v1/avatar"),
     ("ws://a.example/other?x=1", "ws://a.example/other?x=1")],
)  # fmt: skip
def test_addresses(typed: str, url: str) -> None:
    assert full_url(typed) == url
    with pytest.raises(ArgumentError):
        full_url("ftp://a.example")


def test_words_of_transcripts() -> None:
    assert fits({"a": 1}, {"a": 1, "b": 2}) and not fits({"a": 1}, {"a": 2}) and not fits({"a": 1}, {})
    assert fits({"least": 2, "most": 3}, 2.5) and not fits({"least": 2}, True) and not fits({"least": 2}, None)
    assert (
        fits({"has": 1}, [1]) and fits({"one_of": [1, 2]}, 2) and fits({"not": 1}, 2) and not fits({"any": True}, None)
    )
    assert fits(None, None) and not fits(False, None) and not fits(1, True)


def test_a_step_needs_a_verb() -> None:
    with pytest.raises(ValueError, match="one verb"):
        read_transcript("x", '{"about": "", "steps": [{"sing": 1}]}')


def test_sound_is_as_long_as_it_says() -> None:
    assert len(voice(1234, 48_000)) == 2 * round(1.234 * 48_000) and voice(0, 16_000) == b"" and any(voice(100, 8000))


def event(number: int, kind: str, **fields: object) -> Heard:
    return Heard(0.0, {"type": kind, "event": number, **fields})


def finished(number: int, utterance: int, reason: str = "complete", samples: int = 640) -> Heard:
    return event(
        number, "playback.finished", utterance=utterance, reason=reason, interrupted=reason == "interrupted",
        position_samples=samples, position_s=samples / 16_000,
    )  # fmt: skip


WELCOME = Heard(0.0, {"type": "welcome", "epoch": 0})
OPENED, STARTED = event(1, "utterance.opened", utterance=1), event(2, "playback.started", utterance=1)
SOUND = Heard(0.0, None, AUDIO, 0x0C, 0, 1, 0, 0, 40_000, bytes(1280))
PICTURE = Heard(0.0, None, VIDEO, KEY_FRAME | 0x0C, 0, 1, 0, 0, 40_000, b"x")
GOOD = [WELCOME, OPENED, STARTED, SOUND, PICTURE, finished(3, 1)]

BROKEN = {
    "finished twice": [*GOOD, finished(4, 1)],
    "never finished": GOOD[:-1],
    "an event is left out": [*GOOD[:-1], finished(4, 1)],
    "not started": [WELCOME, OPENED, SOUND],
    "media after the end": [*GOOD, Heard(0.0, None, VIDEO, 0, 0, 1, 1, 640, 80_000, b"x")],
    "another position": [*GOOD[:-1], finished(3, 1, samples=2000)],
    "a gap in the sequence": [*GOOD, Heard(0.0, None, VIDEO, 0, 0, 0, 2, 0, 80_000, b"x")],
    "time goes back": [*GOOD, Heard(0.0, None, VIDEO, 0, 0, 0, 1, 0, 40_000, b"x")],
    "between frames": [*GOOD, Heard(0.0, None, VIDEO, 0, 0, 0, 1, 0, 90_000, b"x")],
    "an old epoch": [*GOOD, event(4, "interrupted", epoch=1, utterance=None, utterances=[])],
    "the picture before its sound": [WELCOME, OPENED, STARTED, PICTURE, SOUND, finished(3, 1)],
    "no key frame first": [WELCOME, Heard(0.0, None, VIDEO, 0, 0, 0, 0, 0, 0, b"x")],
    "a cut that is not called one": [*GOOD[:-1], Heard(0.0, {**finished(3, 1).text, "interrupted": True})],  # type: ignore[dict-item]
}


def faults(conversation: list[Heard]) -> list[str]:
    audit = Audit()
    for heard in conversation:
        audit.hear(heard)
    audit.ended()
    return audit.faults


def test_a_good_conversation_has_no_faults() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promises_are_noticed(name: str) -> None:
    assert faults(BROKEN[name])
